"""Label files: the label, and perhaps the split, of each picture."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

from featx.errors import DatasetError
from featx.pictures.dataset import SPLITS, Listing, Picture, dataset_name


def list_label_file(path: Path) -> Listing:
    """Listing of a label file.

    Args:
        path: file of ``path<TAB>label`` or ``path label`` lines, or a CSV with ``path,label[,split]``; paths are
            relative to it.

    Raises:
        DatasetError: a file or line that cannot be understood.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetError(f"{path} is not a label file: expected UTF-8 text of lines `path<TAB>label`") from None
    if not text.strip() and path.suffix.lower() != ".csv":
        raise DatasetError(f"{path} is empty; expected lines `path<TAB>label`")
    rows = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _line_rows(path, text)
    root = path.parent
    line_of: dict[str, int] = {}
    pictures = []
    misplaced = {}
    for number, name, label, split in rows:
        name = _inside(root, name, f"{path}:{number}")
        if name in line_of:
            raise DatasetError(
                f"{path}:{number}: {name} was already named in line {line_of[name]}. Name each picture once"
            )
        line_of[name] = number
        pictures.append(Picture(name, label, split))
        if not os.path.exists(root / name):
            misplaced[name] = "no such file"
    pictures.sort(key=lambda p: p.path)
    return Listing(root, dataset_name(path), tuple(pictures), misplaced)


def _line_rows(path: Path, text: str) -> Iterator[tuple[int, str, str, str]]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would also break names at U+2028
        if not line.strip() or (line.lstrip().startswith("#") and "\t" not in line):
            continue
        name, _, label = line.rpartition("\t") if "\t" in line else _split_at_space(path.parent, line.strip())
        if not name.strip() or not label.strip() or "\0" in line:
            raise DatasetError(f"{path}:{number}: expected `path<TAB>label`, got {line.strip()!r}")
        if "\t" in name.strip() and not os.path.exists(path.parent / name.strip()):
            raise DatasetError(f"{path}:{number}: more than one TAB; expected `path<TAB>label`. Splits need a CSV")
        yield number, name.strip(), label.strip(), ""


def _split_at_space(root: Path, line: str) -> tuple[str, str, str]:
    """``path label`` divided at the last space, or at an earlier one if only that leaves the path of a file."""
    spaces = [match.start() for match in re.finditer(" ", line)][::-1]
    before_files = (space for space in spaces if os.path.isfile(root / line[:space].replace("\\", "/")))
    space = next(before_files, spaces[0] if spaces else len(line))
    return line[:space], " ", line[space + 1 :]


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, str, str, str]]:
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    missing = {"path", "label"} - set(reader.fieldnames or [])
    if missing:
        raise DatasetError(
            f"{path}: a CSV needs a header line path,label[,split]; {', '.join(sorted(missing))} is missing"
        )
    for row in _rows_of(reader, path):
        if None in row:
            raise DatasetError(f"{path}:{reader.line_num}: more cells than the header has; quote a label with a comma")
        name, label, split = ((row.get(key) or "").strip() for key in ("path", "label", "split"))
        if not name or not label:
            raise DatasetError(f"{path}:{reader.line_num}: every line needs a path and a label")
        if split and split.lower() not in SPLITS:
            raise DatasetError(
                f"{path}:{reader.line_num}: unknown split {split!r}; expected one of {', '.join(SPLITS)}"
            )
        yield reader.line_num, name, label, SPLITS.get(split.lower(), "")


def _rows_of(reader: csv.DictReader[str], path: Path) -> Iterator[dict[str, str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise DatasetError(
            f"{path}:{reader.line_num}: not a readable CSV: {error}. Is a quotation mark left open?"
        ) from None


def _inside(root: Path, name: str, where: str) -> str:
    """Path relative to ``root``, Windows separators turned; :class:`DatasetError` if it leads out of it."""
    if not os.path.exists(root / name):
        name = name.replace("\\", "/")
    top = os.path.abspath(root)
    full = os.path.normpath(os.path.join(top, name))
    if not Path(full).is_relative_to(top) or full == top:
        raise DatasetError(f"{where}: {name} leads out of {root}; paths in a label file stay below the file's folder")
    return Path(full).relative_to(top).as_posix()
