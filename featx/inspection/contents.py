"""Pictures by content: files of the same bytes are one content, and one of them stands for it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from featx.inspection.troubles import Copies, Pair
from featx.pictures import Listing, Picture

RANK = {"test": 0, "validation": 1, "train": 2, "": 2}  # of copies, those that were measured on are kept


def rank(picture: Picture) -> tuple[int, str]:
    """Sort key of copies, the one to keep first: test before validation before train or no split, then by path."""
    return RANK[picture.split], picture.path


def same_side(first: Picture, second: Picture) -> bool:
    """Whether both pictures train, both validate or both test."""
    return RANK[first.split] == RANK[second.split]


def sorted_class_names(names: Iterable[str]) -> list[str]:
    """Class names in the order of a listing."""
    return Listing(Path(), "", tuple(Picture("", name) for name in names)).class_names


class Contents:
    """Pictures by content.

    Attributes:
        ids: content ids, in the order in which they first occur.
        copies: pictures of each content, the one to keep first.
    """

    def __init__(self, pictures: Iterable[Picture], ids: dict[str, str]) -> None:
        """Group pictures by their content ids, given by path."""
        by_content: dict[str, list[Picture]] = {}
        for picture in pictures:
            by_content.setdefault(ids[picture.path], []).append(picture)
        self.ids = list(by_content)
        self.copies = [sorted(copies, key=rank) for copies in by_content.values()]

    def duplicates(self) -> list[Copies]:
        """Contents of two files or more: first those of several labels, then those of several splits."""
        groups = [
            Copies(
                pictures=copies,
                labels_differ=len({p.label for p in copies if p.label is not None}) > 1,
                splits_differ=not same_side(copies[0], copies[-1]),
            )
            for copies in self.copies
            if len(copies) > 1
        ]
        return sorted(groups, key=lambda g: (not g.labels_differ, not g.splits_differ, g.pictures[0].path))

    def leaks(self) -> list[Pair]:
        """Pairs of a picture and its copy in another split, the one to keep first."""
        return [
            Pair(copies[0], copy, 1.0, exact=True)
            for copies in self.copies
            for copy in copies[1:]
            if not same_side(copies[0], copy)
        ]
