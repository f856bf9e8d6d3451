"""A label file of the pictures that nothing is wrong with, which `featx extract` reads."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from featx._internal.files import write_whole
from featx.errors import DatasetError, SettingError
from featx.inspection.result import Inspection
from featx.pictures import Picture


def require_place(file: str | Path, root: str | Path) -> None:
    """Find out, before every picture is looked at, whether a list of the data set in ``root`` can be written there.

    Raises:
        SettingError: it cannot: no CSV, a file that exists, or a folder that is neither the data set's nor above it.
    """
    file = Path(file)
    if file.suffix.lower() != ".csv":
        raise SettingError(f"{file}: the list is a CSV file; name one that ends in .csv", "file")
    if os.path.lexists(file):
        raise SettingError(f"{file} exists and is not overwritten; remove it, or name another", "file")
    _from_folder(file, root)


def write_list(found: Inspection, file: str | Path, without_suspects: bool = False) -> dict[str, int]:
    """Write ``path,label,split`` of the pictures to go on with; paths are relative to the file's folder.

    Left out are: what is quarantined or gone, all copies of a picture but one, the training (or validation) side of
    near-duplicate leaks, so that test pictures stay, pictures without a label, since a label file cannot hold them, and
    those whose name or label it would not give back as it is. Near-duplicates within a split stay.

    Args:
        found: by :func:`featx.inspect`.
        file: a new ``.csv`` in the data set's folder or above it.
        without_suspects: also leave out label suspects, but for those of test: leaving these out would flatter.

    Returns:
        how many pictures are ``written``, and how many were left out as ``copies``, ``leaks``, ``suspects``,
        ``unlabelled`` or ``unwritable``, each counted once, for the first of these reasons.

    Raises:
        SettingError: it cannot be written there; see :func:`require_place`.
        DatasetError: there would be nothing in it.
    """
    file = Path(file)
    require_place(file, found.root)
    above = _from_folder(file, found.root)
    dropped = {
        "copies": {p.path for group in found.duplicates for p in _later(group.pictures, found)},
        "leaks": {pair.second.path for pair in found.leaks if not pair.exact},
        "suspects": {s.path for s in found.suspects if without_suspects and s.split != "test"},
        "unlabelled": {p.path for p in found.pictures if p.label is None},
        "unwritable": {p.path for p in found.pictures if not _comes_back(_below(above, p), p.label or "")},
    }
    kept, left_out = [], dict.fromkeys(dropped, 0)
    for picture in found.pictures:
        why = next((reason for reason, paths in dropped.items() if picture.path in paths), None)
        if why:
            left_out[why] += 1
        else:
            kept.append([_below(above, picture), picture.label, picture.split])
    if not kept:
        raise DatasetError(f"{file} would list nothing: no readable picture has a label; it was not written")
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([["path", "label", "split"], *kept])
    write_whole(file, text.getvalue().encode())
    return {"written": len(kept), **left_out}


def _later(copies: list[Picture], found: Inspection) -> list[Picture]:
    """All but the first copy that is there."""
    there = {p.path for p in found.pictures}
    return [p for p in copies if p.path in there][1:]


def _from_folder(file: Path, root: str | Path) -> str:
    """The way from the file's folder down to the data set; empty if that is the same."""
    for path in (os.path.abspath, os.path.realpath):
        folder, data = path(file.parent), path(root)
        if os.path.isdir(folder) and Path(data).is_relative_to(folder):
            return os.path.relpath(data, folder) if data != folder else ""
    where = Path(root).absolute()
    raise SettingError(
        f"{file}: a label file lies in its data set's folder or above it; name a file in {where} or in {where.parent}",
        "file",
    )


def _below(above: str, picture: Picture) -> str:
    return os.path.join(above, picture.path).replace(os.sep, "/")


def _comes_back(*words: str) -> bool:
    """Whether a label file is read as it was written: its reader strips spaces, and knows one kind of line end."""
    sound = all(word == word.strip() and "\r" not in word for word in words)
    return sound and not any("\ud800" <= c <= "\udfff" for word in words for c in word)  # bytes that are not UTF-8
