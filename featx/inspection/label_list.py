"""A label file of the pictures that nothing is wrong with, which `featx extract` reads."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

from featx._internal.files import write_whole
from featx.errors import DatasetError, SettingError
from featx.inspection.inspection import Inspection
from featx.pictures import Picture


@dataclass(frozen=True)
class ListCounts:
    """Numbers of pictures in a list and, each counted once, left out of it; without the quarantined.

    Attributes:
        written: pictures in the list.
        copies: all copies of a picture but one.
        leaks: training (or validation) side of near-duplicates in two splits, so that test pictures stay.
        suspects: pictures that may have a wrong label.
        unlabelled: pictures without a label, which a label file cannot hold.
        unwritable: pictures whose name or label a label file would not give back as it is.
    """

    written: int
    copies: int
    leaks: int
    suspects: int
    unlabelled: int
    unwritable: int


def require_list_path(file: str | Path, root: str | Path) -> None:
    """Refuse, before every picture is read, a file to which a list of the data set in ``root`` cannot be written.

    Raises:
        SettingError: no CSV, or a file that exists.
        DatasetError: a file in a folder that is neither the data set's nor above it.
    """
    file = Path(file)
    if file.suffix.lower() != ".csv":
        raise SettingError(f"{file}: the list is a CSV file; name one that ends in .csv", "file")
    if os.path.lexists(file):
        raise SettingError(f"{file} exists and is not overwritten; remove it, or name another", "file")
    _way_down(file, root)


def write_list(inspection: Inspection, file: str | Path, without_suspects: bool = False) -> ListCounts:
    """Write ``path,label,split`` of the pictures to go on with; paths are relative to the file's folder.

    The quarantined and gone are left out, and what :class:`ListCounts` counts. Near-duplicates within a split stay.

    Args:
        inspection: the inspection of the data set.
        file: a new ``.csv`` in the data set's folder or above it.
        without_suspects: also leave out label suspects, but for those of test: leaving these out would flatter.

    Raises:
        SettingError, DatasetError: it cannot be written there, or there would be nothing in it.
    """
    file = Path(file)
    require_list_path(file, inspection.root)
    above = _way_down(file, inspection.root)
    left_out = _left_out(inspection, above, without_suspects)
    rows: list[tuple[str, str | None, str]] = []
    counts = dict.fromkeys(left_out, 0)
    for picture in inspection.pictures:
        reason = next((reason for reason, paths in left_out.items() if picture.path in paths), None)
        if reason:
            counts[reason] += 1
        else:
            rows.append((_below(above, picture), picture.label, picture.split))
    if not rows:
        raise DatasetError(f"{file} would list nothing: no readable picture has a label; it was not written")
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([("path", "label", "split"), *rows])
    write_whole(file, text.getvalue().encode())
    return ListCounts(written=len(rows), **counts)


def _left_out(inspection: Inspection, above: str, without_suspects: bool) -> dict[str, set[str]]:
    """Paths of the pictures to leave out, by reason; the first reason counts."""
    suspects = inspection.suspects if without_suspects else []
    return {
        "copies": {p.path for group in inspection.duplicates for p in _later_copies(group.pictures, inspection)},
        "leaks": {pair.second.path for pair in inspection.leaks if not pair.exact},
        "suspects": {suspect.path for suspect in suspects if suspect.split != "test"},
        "unlabelled": {p.path for p in inspection.pictures if p.label is None},
        "unwritable": {p.path for p in inspection.pictures if not _comes_back(_below(above, p), p.label or "")},
    }


def _later_copies(copies: list[Picture], inspection: Inspection) -> list[Picture]:
    """All but the first copy that can be read."""
    readable = {picture.path for picture in inspection.pictures}
    return [picture for picture in copies if picture.path in readable][1:]


def _way_down(file: Path, root: str | Path) -> str:
    """Path of the data set relative to the file's folder; empty if that is the same."""
    for resolve in (os.path.abspath, os.path.realpath):
        folder = resolve(file.parent)
        data = resolve(root)
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
