"""A classifier on the disk: a folder of JSON and arrays, replaced in one instant, from which no code is ever run.

``classifier.json`` says what the classifier is and, by their digest, which arrays are its own; its renaming is the
instant.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featx._internal.files import write_whole
from featx._internal.hashing import content_id
from featx._internal.history import history_csv
from featx.errors import FeatxError, ModelError, SettingError
from featx.pictures import LITTER

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCHEMA = 1
ABOUT, HISTORY = "classifier.json", "history.csv"
OWN_FILES = re.compile(r"classifier\.json|history\.csv|arrays-[0-9a-f]{32}\.npz")
UNFINISHED = re.compile(rf"\.({OWN_FILES.pattern})\.[0-9a-f]+")  # left by a killed process
# What else may lie in a classifier's folder: notes and pictures. Anything other could carry code.
HARMLESS_SUFFIXES = {".csv", ".json", ".txt", ".md", ".html", ".png", ".jpg", ".jpeg", ".svg", ".pdf"}
HARMLESS_NAMES = LITTER | {".ds_store", "readme", "license", ".gitignore", ".gitattributes"}


def write_folder(
    folder: Path, about: dict[str, Any], arrays: dict[str, NDArray[Any]], history: dict[str, list[float]] | None
) -> Path:
    """Write a classifier; one that is there is replaced, and notes beside it stay.

    Args:
        folder: new, empty, or a classifier's.
        about: JSON values; NumPy's numbers are made plain ones.
        arrays: of any dtype but objects.
        history: a list per measure with a value per epoch, for heads trained in epochs.

    Raises:
        ModelError: the folder is something else, or cannot be written.
    """
    refuse_foreign(folder)
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    content = content_id(file.getvalue())
    plain = json.dumps({**about, "schema": SCHEMA, "arrays": content}, default=lambda number: number.item())
    about = json.loads(plain)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"arrays-{content}.npz", file.getvalue())
        if history:
            write_whole(folder / HISTORY, history_csv(history))
        else:
            (folder / HISTORY).unlink(missing_ok=True)
        text = json.dumps({**about, "digest": about_digest(about)}, indent=1, ensure_ascii=False)
        write_whole(folder / ABOUT, text.encode("utf-8"))
    except OSError as error:
        raise ModelError(f"{folder} cannot be written: {(error.strerror or str(error)).lower()}") from error
    finally:
        _sweep(folder)
    return folder


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, list[float]]]:
    """What :func:`write_folder` wrote: JSON values, arrays, and the history, which no digest covers.

    Raises:
        ModelError: no classifier, an altered one, or a folder with files that could carry code.
    """
    if not (folder / ABOUT).is_file():
        raise ModelError(f"{folder} is not a classifier: it has no {ABOUT}. `featx fit` makes one")
    _refuse_strangers(folder)
    with damage_named(folder):
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["schema"] != SCHEMA:
            raise ModelError(f"{folder} has schema {about['schema']}, this featx reads {SCHEMA}; fit again")
        if about.pop("digest") != about_digest(about):
            raise ModelError(f"{folder / ABOUT} is not the file that was saved; fit again")
        return about, _read_arrays(folder, about["arrays"]), _read_history(folder / HISTORY)


@contextlib.contextmanager
def damage_named(folder: str | Path) -> Iterator[None]:
    """Turn whatever an altered file makes JSON, NumPy or Keras raise into a :class:`ModelError`."""
    try:
        yield
    except SettingError as error:  # in the file: whoever opens it has given none
        raise ModelError(f"{folder} is damaged or was altered ({error}); fit again") from error
    except FeatxError:
        raise
    except PermissionError as error:
        raise ModelError(f"{error.filename or folder} cannot be read: permission denied") from error
    except Exception as error:
        raise ModelError(f"{folder} is damaged or was altered ({type(error).__name__}: {error}); fit again") from error


def about_digest(about: dict[str, Any]) -> str:
    """BLAKE2b-128 of what ``classifier.json`` says, but for the digest itself."""
    return content_id(json.dumps(about, sort_keys=True).encode())


def _read_arrays(folder: Path, content: str) -> dict[str, NDArray[Any]]:
    file = folder / f"arrays-{content}.npz"
    data = file.read_bytes()
    if not OWN_FILES.fullmatch(file.name) or content_id(data) != content:
        raise ModelError(f"{file} is not the file that was saved; fit again")
    with zipfile.ZipFile(io.BytesIO(data)) as members:
        if any(member.compress_type != zipfile.ZIP_STORED for member in members.infolist()):
            raise ValueError("its arrays are compressed, which featx never does")  # a few bytes may hold gigabytes
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _read_history(path: Path) -> dict[str, list[float]]:
    """The history of a training; empty if there is none, or none that can be read."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        names = [name for name in (lines[0] if lines else {}) if name != "epoch"]
        return {name: [float(line[name]) for line in lines] for name in names}
    except (OSError, ValueError, TypeError, KeyError, csv.Error):  # a file that anybody may have changed or removed
        return {}


def _is_own(path: Path) -> bool:
    return bool(OWN_FILES.fullmatch(path.name) or UNFINISHED.fullmatch(path.name))


def refuse_foreign(folder: Path) -> None:
    """Save into a new or empty folder, into a classifier's, or into what a killed process has left of one."""
    if not folder.exists():
        return
    known = folder.is_dir() and all(_is_own(path) for path in folder.iterdir())
    if (folder / ABOUT).is_file():
        known = b'"digest"' in (folder / ABOUT).read_bytes()
        if known:
            _refuse_strangers(folder)  # now, since it could not be loaded afterwards
    if not known:
        raise ModelError(f"{folder} exists and is not a classifier; give another `out`")


def _sweep(folder: Path) -> None:
    """Remove what no longer belongs to the classifier in a folder: arrays of the one before, and unfinished files."""
    try:
        arrays = json.loads((folder / ABOUT).read_text(encoding="utf-8"))["arrays"]
    except (OSError, ValueError, KeyError):
        arrays = None
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        old = path.suffix == ".npz" and OWN_FILES.fullmatch(path.name) and path.stem != f"arrays-{arrays}"
        if old or UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty, as a rule
        folder.rmdir()


def _refuse_strangers(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        harmless = path.suffix.lower() in HARMLESS_SUFFIXES or path.name.lower() in HARMLESS_NAMES
        if not harmless and not _is_own(path) and not path.is_dir():
            raise ModelError(
                f"{folder} was refused: {path.relative_to(folder)} is no part of a classifier and could carry code; "
                "beside JSON and arrays only notes and pictures may lie there. Move it elsewhere"
            )
