"""Writing feature files: whole or not at all, from new rows or from rows gathered out of other files."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from featx._internal.files import replacing
from featx._internal.version import featx_version
from featx.cache.feature_file import load_features
from featx.cache.layout import DTYPES, SCHEMA, SEAL_BYTES, row_checksums, rows_per_block, seal
from featx.cache.spec import Place, Spec
from featx.errors import CacheError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray


class MissingRowsError(CacheError):
    """Rows that were to be copied are damaged or gone since they were looked up; they have to be computed instead.

    Attributes:
        places: places where they were.
    """

    def __init__(self, places: set[Place]) -> None:
        super().__init__(f"{len(places)} rows cannot be copied from {sorted({str(p.file) for p in places})}")
        self.places = places


def write_features(
    path: Path,
    features: Iterable[NDArray[Any]],
    shape: tuple[int, ...],
    *,
    spec: Spec,
    tables: dict[str, Any],
    attributes: dict[str, Any] | None = None,
) -> None:
    """Write a feature file whole: under another name, synced, then renamed to ``path``.

    Args:
        path: the file; one that exists is replaced in the last instant.
        features: blocks of rows in order, ``spec["dtype"]``, together ``shape``.
        shape: ``(rows, h, w, c)`` or ``(rows, c)``.
        spec: everything that decided the features' values.
        tables: at least ``ids`` and ``views``; also ``labels``, ``paths``, ``splits``, ``quarantine``, ``stat``.
        attributes: JSON values, such as ``class_names``.

    Raises:
        CacheError: the folder cannot be written, or has no room.
        MissingRowsError: raised by ``features``, passed on.
    """
    features_bytes = int(np.prod(shape)) * np.dtype(spec["dtype"]).itemsize
    nbytes = features_bytes + _table_bytes(tables)
    require_room(path.parent, nbytes)
    header = {"schema": SCHEMA, "spec": spec, "featx_version": featx_version(), **(attributes or {})}
    with writing(path.parent), replacing(path) as unfinished:
        with h5py.File(unfinished, "w", userblock_size=SEAL_BYTES, locking=False) as file:
            file.flush()
            _reserve(unfinished, nbytes)
            file["checksums"] = _write_rows(file, features, shape, spec["dtype"])
            for name, table in tables.items():
                file.create_dataset(name, data=np.array(table, dtype=DTYPES[name]), dtype=DTYPES[name])
            for name, value in header.items():
                file.attrs[name] = json.dumps(value)
            file.flush()
            start, size = file["features"].id.get_offset(), file.id.get_filesize()
        os.truncate(unfinished, size)  # give back what was reserved and not needed
        seal(unfinished, start, features_bytes)


def require_room(folder: Path, nbytes: int) -> None:
    """Raise :class:`CacheError` if the disk has less than ``nbytes`` free: better now than after hours.

    And better than leaving it to HDF5: a library that cannot flush its file crashes the process later.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < nbytes:
        raise CacheError(
            f"no room on the disk of {folder}: about {nbytes / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free. "
            'What is finished is kept. Free some space, give another `cache_dir`, or store less: `pooling="avg"`, or '
            "a smaller `size`"
        )


def _reserve(file: Path, nbytes: int) -> None:
    """Take the room for a file at once: HDF5 crashes the process when a disk fills up under it."""
    if hasattr(os, "posix_fallocate"):
        descriptor = os.open(file, os.O_WRONLY)
        try:
            os.posix_fallocate(descriptor, 0, nbytes)
        finally:
            os.close(descriptor)


def _table_bytes(tables: dict[str, Any]) -> int:
    """Bytes that a file's tables and attributes take at most."""
    texts = len(json.dumps([list(map(str, rows)) for rows in tables.values()]))
    return 3 * texts + 128 * sum(len(rows) for rows in tables.values()) + 2**15


def _write_rows(file: Any, features: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: str) -> NDArray[np.uint32]:
    # Contiguous, not chunked: rows can be mapped into memory and read in any order at the disk's speed
    dataset = file.create_dataset("features", shape, np.dtype(dtype).newbyteorder("<"))
    checksums = np.empty(shape[0], np.uint32)
    done = 0
    for block in features:
        dataset[done : done + len(block)] = block
        checksums[done : done + len(block)] = row_checksums(block)
        done += len(block)
    if done != shape[0]:
        raise CacheError(f"{done} rows were given for a file of {shape[0]}")
    return checksums


def gather(places: Sequence[Place], shape: Sequence[int], dtype: str) -> Iterator[NDArray[Any]]:
    """Rows copied out of files, checked on the way, in blocks.

    Args:
        places: places of the rows, in order.
        shape: shape of one row's features.
        dtype: dtype of the files.

    Raises:
        MissingRowsError: after going through all, naming each row that is damaged or gone.
    """
    missing: set[Place] = set()
    step = rows_per_block(shape, dtype)
    for start in range(0, len(places), step):
        chunk = places[start : start + step]
        block = np.zeros((len(chunk), *shape), dtype)
        positions: dict[Path, list[int]] = {}
        for position, place in enumerate(chunk):
            positions.setdefault(place.file, []).append(position)
        for file, in_chunk in positions.items():
            of_file = [chunk[position] for position in in_chunk]
            good, copied = _copied(file, of_file)
            block[np.array(in_chunk)[good]] = copied
            missing |= {place for place, sound in zip(of_file, good, strict=True) if not sound}
        yield block
    if missing:
        raise MissingRowsError(missing)


def _copied(file: Path, places: list[Place]) -> tuple[NDArray[np.bool_], Any]:
    """Mask of the places in ``file`` that hold what they should, and the rows of those."""
    good = np.zeros(len(places), bool)
    try:
        source = load_features(file)  # each time anew: it may have been replaced since
        for number, place in enumerate(places):
            good[number] = place.row < len(source) and place.key in (None, source.row_key(place.row))
        numbers = np.array([place.row for place in places])[good]
        copied = source.memory_map()[numbers]
        sound = source.sound(numbers, copied)
        good[good] = sound
        return good, copied if sound.all() else copied[sound]
    except CacheError:  # gone or truncated since it was looked up
        return np.zeros(len(places), bool), 0


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what goes wrong when writing into one line that says what to do."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, RuntimeError) as error:
        code = getattr(error, "errno", None)
        if code == errno.ENOSPC or "No space left" in str(error) or "errno = 28" in str(error):
            raise CacheError(
                f"no room left on the disk of {folder}; finished blocks are kept. Free some space, or give another "
                "`cache_dir`, and run the same command again"
            ) from error
        if code in (errno.EACCES, errno.EROFS, errno.EPERM) or "Permission denied" in str(error):
            raise CacheError(f"{folder} cannot be written; give another `cache_dir`") from error
        raise CacheError(f"{folder} cannot be written: {one_line(error)}") from error
