"""A data set as it was found: its pictures, their labels and splits. Nothing here looks at the disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class Picture:
    """One listed file: ``path`` relative to the data set's root with forward slashes, its label and its split."""

    path: str
    label: str | None = None
    split: str = ""


@dataclass(frozen=True)
class Listing:
    """The pictures of a data set, sorted by path.

    ``misplaced`` maps listed paths that cannot take part to the reason (they go straight to the quarantine);
    ``ignored`` holds files that are not pictures and do not claim to be, ``empty_classes`` the class folders without a
    picture.
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
        return sorted(names, key=(lambda n: (int(n), n)) if all(n.isdecimal() for n in names) else str)


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
    """The name of a data set: that of its folder, or of its label file without the suffix."""
    return path.resolve().stem if path.is_file() else path.resolve().name or "dataset"
