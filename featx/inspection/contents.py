"""Pictures by their content: files of the same bytes are one content, and one of them stands for it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from featx.inspection.result import Copies, Pair
from featx.pictures import Listing, Picture

RANK = {"test": 0, "validation": 1, "train": 2, "": 2}  # whom to keep: what was measured on stays as it is


def rank(picture: Picture) -> tuple[int, str]:
    """Copies are kept in this order: test before validation before train or no split, then by path."""
    return RANK[picture.split], picture.path


def on_one_side(first: Picture, second: Picture) -> bool:
    """Whether both train, both validate or both test."""
    return RANK[first.split] == RANK[second.split]


def in_order(names: Iterable[str]) -> list[str]:
    """Class names as a listing orders them."""
    return Listing(Path(), "", tuple(Picture("", name) for name in names)).class_names


class Contents:
    """Pictures by content.

    Attributes:
        ids: content ids, in the order in which they first occur.
        copies: the pictures of each, the one to keep first.
    """

    def __init__(self, pictures: Iterable[Picture], ids: dict[str, str]) -> None:
        """``ids`` are content ids by path."""
        by_content: dict[str, list[Picture]] = {}
        for picture in pictures:
            by_content.setdefault(ids[picture.path], []).append(picture)
        self.ids = list(by_content)
        self.copies = [sorted(copies, key=rank) for copies in by_content.values()]

    def duplicates(self) -> list[Copies]:
        """Groups of two pictures or more: first those of several labels, then those of several splits."""
        groups = [
            Copies(
                pictures=copies,
                labels_differ=len({p.label for p in copies if p.label is not None}) > 1,
                splits_differ=not on_one_side(copies[0], copies[-1]),
            )
            for copies in self.copies
            if len(copies) > 1
        ]
        return sorted(groups, key=lambda g: (not g.labels_differ, not g.splits_differ, g.pictures[0].path))

    def leaks(self) -> list[Pair]:
        """Each picture with a copy in another split, with the copy to keep."""
        return [
            Pair(copies[0], other, 1.0, exact=True)
            for copies in self.copies
            for other in copies[1:]
            if not on_one_side(copies[0], other)
        ]
