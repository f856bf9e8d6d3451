"""A data set as it was listed: its pictures, their labels and splits. Nothing here looks at the disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class Picture:
    """One listed file.

    Attributes:
        path: relative to the data set's root, with forward slashes.
        label: name of its class; None if it has none.
        split: ``train``, ``validation``, ``test``, or empty.
    """

    path: str
    label: str | None = None
    split: str = ""


@dataclass(frozen=True)
class Listing:
    """The pictures of a data set, sorted by path.

    Attributes:
        root: folder that the paths are relative to.
        name: name of the data set.
        pictures: one for each listed file.
        misplaced: reason by path why listed files cannot take part; they go straight to the quarantine.
        ignored: files that are not pictures and do not claim to be.
        empty_classes: class folders without a picture.
    """

    root: Path
    name: str
    pictures: tuple[Picture, ...]
    misplaced: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    empty_classes: tuple[str, ...] = ()

    @property
    def class_names(self) -> list[str]:
        """Labels that occur, sorted; numerically if all are whole numbers."""
        names = {p.label for p in self.pictures if p.label is not None and p.path not in self.misplaced}
        if all(name.isdecimal() for name in names):
            return sorted(names, key=lambda name: (int(name), name))
        return sorted(names)

    def __repr__(self) -> str:
        classes = len(self.class_names)
        return f"<Listing {self.name}: {len(self.pictures)} pictures, {classes} classes, in {self.root}>"


def is_utf8(name: str) -> bool:
    """Whether a file's name can be stored as text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(path: str) -> str:
    """A path as it can be stored and shown: bytes of it that are not UTF-8 become escapes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def dataset_name(path: Path) -> str:
    """Name of a data set: that of its folder, or of its label file without the suffix."""
    return path.resolve().stem if path.is_file() else path.resolve().name or "dataset"
