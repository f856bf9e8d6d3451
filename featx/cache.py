"""The feature file: write it whole or not at all, verify it, find rows in it, read it in blocks.

A cache folder holds finished feature files (``*.h5``) and, while an extraction runs, its blocks (``*.partial/*.h5``).
A block is a small feature file without labels, so rows are looked up in both alike, by spec and content id. Every file
is written under another name, synced, and renamed; every row carries a CRC-32, the rest of the file a BLAKE2b digest.
The README describes the format. This module knows nothing of pictures and networks.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import filelock
import h5py
import numpy as np

from featx.errors import CacheError, CorruptCacheError, SpecMismatchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

SCHEMA = 1
BLOCK_BYTES = 32 * 2**20  # how much is read or written at a time
VERIFY_BYTES = 2**30  # how much of a finished file a run with nothing to do looks through

Spec: TypeAlias = dict[str, Any]
RowKey: TypeAlias = tuple[str, int]  # content id and view
Stat: TypeAlias = tuple[int, int, int]  # size, mtime and ctime in nanoseconds

_TEXT = h5py.string_dtype("utf-8")
_QUARANTINE = np.dtype([("path", _TEXT), ("id", _TEXT), ("reason", _TEXT)])
_STAT = np.dtype([("path", _TEXT), ("id", _TEXT), ("size", "<i8"), ("mtime_ns", "<i8"), ("ctime_ns", "<i8")])
_DTYPES: dict[str, Any] = {
    "labels": "<i4",
    "paths": _TEXT,
    "ids": _TEXT,
    "splits": _TEXT,
    "views": "<i2",
    "quarantine": _QUARANTINE,
    "stat": _STAT,
}


@dataclass(frozen=True)
class Place:
    """Where one row's features are, and whose they are."""

    file: Path
    row: int
    key: RowKey | None = field(default=None, compare=False)


class MissingRowsError(CacheError):
    """Rows that were to be copied are damaged or gone since they were found; they have to be computed instead."""

    def __init__(self, places: set[Place]) -> None:
        super().__init__(f"{len(places)} rows cannot be copied from {sorted({str(p.file) for p in places})}")
        self.places = places


# --------------------------------------------------------------------------------------------------------------- specs


def digest(value: Any) -> str:
    """BLAKE2b-64 of a JSON value, 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def spec_difference(stored: Spec, wanted: Spec) -> list[str]:
    """One line for each field in which two specs differ; empty if features made by them are comparable."""
    fields = sorted(stored.keys() | wanted.keys())
    return [f"{f} is {stored.get(f)}, not {wanted.get(f)}" for f in fields if stored.get(f) != wanted.get(f)]


def require_same_spec(stored: Spec, wanted: Spec, where: str | Path) -> None:
    """Raise :class:`SpecMismatchError`, naming each field with both values, unless the two specs are equal."""
    different = spec_difference(stored, wanted)
    if different:
        raise SpecMismatchError(
            f"{where} was made by another spec: {'; '.join(different)}. Extract again with the settings wanted"
        )


# ------------------------------------------------------------------------------------------------------------- reading


class Features:
    """A feature file, open for reading; features are read when asked for.

    Attributes:
        path: the file.
        spec: everything that decided the features' values.
        shape: ``(rows, h, w, c)`` or ``(rows, c)``; ``dtype`` is the stored one, float16 or float32.
        y: int32 ``(rows,)``, index into ``class_names``, -1 where unlabelled.
        paths, ids, splits: str ``(rows,)``; relative path, content id, and ``train``, ``validation``, ``test`` or "".
        views: int16 ``(rows,)``; 0 is the picture itself.
        quarantine: ``(path, reason)`` of pictures that could not be read.
        dataset, root: name and absolute path of the data set when it was extracted.
        recipe: the settings asked for, from which the trunk can be built again.

    Raises:
        CacheError: no such file, or not a feature file.
        CorruptCacheError: truncated or altered.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with _opened(self.path) as file:
            header = _header(file, self.path)
            tables = {name: _read_table(file, name) for name in _DTYPES if name in file}
            checksums = file["checksums"][:] if "checksums" in file else None
            dataset = file.get("features")
            if dataset is None or checksums is None or dataset.id.get_offset() is None:
                raise CorruptCacheError(f"{self.path} holds no features; extract again")
            self.shape: tuple[int, ...] = dataset.shape
            self.dtype: np.dtype[Any] = dataset.dtype
            self._offset: int = dataset.id.get_offset()
            sound = header.pop("checksum", None) == _metadata_checksum(header, tables, checksums)
        for table in tables.values():
            table.setflags(write=False)  # one object serves all who open the file
        if not sound or header["stored"] != [list(self.shape), self.dtype.str]:
            raise CorruptCacheError(f"{self.path}: its labels, paths or attributes were altered; extract again")
        self._checksums: NDArray[np.uint32] = checksums
        self.spec: Spec = header["spec"]
        self.class_names: list[str] = header.get("class_names", [])
        self.dataset: str = header.get("dataset", "")
        self.root: str = header.get("root", "")
        self.recipe: dict[str, Any] = header.get("recipe", {})
        self.decoded_by: str = header.get("decoded_by", "")
        self.featx_version: str = header["featx_version"]
        self.ids: NDArray[Any] = tables["ids"]
        self.views: NDArray[np.int16] = tables["views"]
        self.y: NDArray[np.int32] = tables.get("labels", np.full(len(self), -1, np.int32))
        self.paths: NDArray[Any] = tables.get("paths", np.full(len(self), "", object))
        self.splits: NDArray[Any] = tables.get("splits", np.full(len(self), "", object))
        self._quarantine = tables.get("quarantine", np.empty(0, _QUARANTINE))
        self._stat = tables.get("stat", np.empty(0, _STAT))

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        """``features[10:20]``: the same as ``features.X(slice(10, 20))``; one row number gives one row."""
        one = isinstance(rows, (int, np.integer))
        features = self.X([rows] if one else rows)
        return features.reshape(self.shape[1:]) if one else features

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        return f"<Features {self.path.name}: {shape} {self.dtype}, {len(self.class_names)} classes>"

    @property
    def quarantine(self) -> list[tuple[str, str]]:
        """``(path, reason)`` of every listed picture that has no row."""
        return [(row["path"], row["reason"]) for row in self._quarantine]

    def X(self, rows: Any = None) -> NDArray[np.float32]:
        """Features of the given rows (all by default; a slice, numbers or a mask) as a new float32 array.

        Raises:
            CorruptCacheError: a row's bytes are not those that were written.
        """
        return self.stored(rows).astype(np.float32)

    def stored(self, rows: Any = None) -> NDArray[Any]:
        """Like :meth:`X`, in the dtype of the file."""
        numbers = np.arange(len(self))[slice(None) if rows is None else rows]
        features = self._map()[numbers]
        bad = numbers[_row_checksums(features) != self._checksums[numbers]]
        if len(bad):
            name = self.paths[bad[0]] or self.ids[bad[0]]
            raise CorruptCacheError(
                f"{self.path}: {len(bad)} rows are damaged, the first is {bad[0]} ({name}). Extract again: only the "
                "damaged rows are computed"
            )
        return features

    def blocks(self, rows: Any = None) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """``(row numbers, float32 features)`` in blocks of about 32 MiB, so that memory does not grow with the file."""
        numbers = np.arange(len(self))[slice(None) if rows is None else rows]
        step = rows_per_block(self.shape[1:], np.float32)
        for start in range(0, len(numbers), step):
            yield numbers[start : start + step], self.X(numbers[start : start + step])

    def damaged_rows(self, budget: int | None = None) -> list[int]:
        """Rows whose checksum does not fit. With a ``budget`` in bytes, evenly spaced rows instead of all."""
        row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        stride = 1 if budget is None else max(1, -(-len(self) * row_bytes // budget))
        numbers = np.arange(0, len(self), stride)
        step = rows_per_block(self.shape[1:], self.dtype)
        features = self._map()
        bad: list[int] = []
        for start in range(0, len(numbers), step):
            some = numbers[start : start + step]
            bad += some[_row_checksums(features[some]) != self._checksums[some]].tolist()
        return bad

    def row_keys(self) -> list[RowKey]:
        """What each row is known by."""
        return list(zip(self.ids.tolist(), self.views.tolist(), strict=True))

    def stats(self) -> dict[str, tuple[Stat, str]]:
        """Size and times of every listed file when it was hashed, and its content id, by path."""
        return {r["path"]: ((int(r["size"]), int(r["mtime_ns"]), int(r["ctime_ns"])), r["id"]) for r in self._stat}

    def reasons(self) -> dict[str, str]:
        """Why pictures are in quarantine, by content id; files that could not even be read have none."""
        return {row["id"]: row["reason"] for row in self._quarantine if row["id"]}

    def unread(self) -> list[tuple[str, str]]:
        """``(path, content id)`` of the quarantined; no id where the file could not even be read."""
        return [(row["path"], row["id"]) for row in self._quarantine]

    def _map(self) -> NDArray[Any]:
        try:
            return np.memmap(self.path, self.dtype, "r", self._offset, self.shape)
        except (OSError, ValueError) as error:
            raise CorruptCacheError(f"{self.path} is shorter than its table of contents says: {error}") from error


def load_features(path: str | Path) -> Features:
    """Open a feature file; see :class:`Features`. One that was open before and has not changed is not read again."""
    path = Path(path)
    try:
        now = path.stat()
    except OSError:
        raise CacheError(f"no such feature file: {path}") from None
    features = copy.copy(_open(path, (now.st_size, now.st_mtime_ns, now.st_ino)))
    features.class_names, features.spec = list(features.class_names), dict(features.spec)  # callers may change theirs
    return features


@functools.lru_cache(maxsize=8)
def _open(path: Path, _state: tuple[int, int, int]) -> Features:
    return Features(path)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise CacheError(f"no such feature file: {path}")
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except CacheError:
        raise
    except Exception as error:  # damaged HDF5 raises OSError, RuntimeError, KeyError, ValueError, UnicodeError ...
        raise CorruptCacheError(f"{path} is not a readable feature file ({_one_line(error)}); extract again") from error


def _header(file: Any, path: Path) -> dict[str, Any]:
    if "schema" not in file.attrs:
        raise CacheError(f"{path} is an HDF5 file, but not one of featx's")
    header = {name: json.loads(value) for name, value in file.attrs.items()}
    if header["schema"] != SCHEMA:
        raise CacheError(f"{path} has schema {header['schema']}, this featx reads {SCHEMA}; extract again")
    return header


def _read_table(file: Any, name: str) -> NDArray[Any]:
    dtype = _DTYPES[name]
    if dtype is _TEXT:
        text: NDArray[Any] = file[name].asstr()[:]
        return text
    table: NDArray[Any] = file[name][:]
    for column in table.dtype.names or ():
        if table.dtype[column].kind == "O":
            table[column] = [value.decode() if isinstance(value, bytes) else value for value in table[column]]
    return table


def _row_checksums(features: NDArray[Any]) -> NDArray[np.uint32]:
    width = int(np.prod(features.shape[1:]))
    rows = np.ascontiguousarray(features).reshape(len(features), width).view(np.uint8)
    return np.fromiter((zlib.crc32(row.data) for row in rows), np.uint32, len(rows))


def _metadata_checksum(header: dict[str, Any], tables: dict[str, NDArray[Any]], checksums: NDArray[np.uint32]) -> str:
    state = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=16)
    for name in sorted(tables):
        state.update(json.dumps([name, tables[name].tolist()]).encode())
    state.update(checksums.astype("<u4").tobytes())
    return state.hexdigest()


# ------------------------------------------------------------------------------------------------------------- writing


def rows_per_block(feature_shape: Sequence[int], dtype: Any) -> int:
    """How many rows make about 32 MiB, at least one."""
    return max(1, int(BLOCK_BYTES // (np.dtype(dtype).itemsize * np.prod(feature_shape))))


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
        spec: see :class:`Features`.
        tables: at least ``ids`` and ``views``; also ``labels``, ``paths``, ``splits``, ``quarantine``, ``stat``.
        attributes: JSON values, such as ``class_names``.

    Raises:
        CacheError: the folder cannot be written, or has no room.
        MissingRowsError: raised by ``features``, passed on.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    # Before HDF5 notices: a library that cannot flush its file crashes the process later
    CacheFolder(path.parent).require_room(int(np.prod(shape)) * np.dtype(spec["dtype"]).itemsize + _table_bytes(tables))
    try:
        with _writing(path.parent), h5py.File(unfinished, "w", locking=False) as file:
            file.flush()
            _reserve(unfinished, int(np.prod(shape)) * np.dtype(spec["dtype"]).itemsize + _table_bytes(tables))
            checksums = _write_rows(file, features, shape, spec["dtype"])
            file["checksums"] = checksums
            stored = {name: np.array(rows, dtype=_DTYPES[name]) for name, rows in tables.items()}
            for name, table in stored.items():
                file.create_dataset(name, data=table, dtype=_DTYPES[name])
            layout = [list(shape), np.dtype(spec["dtype"]).newbyteorder("<").str]
            header = {
                "schema": SCHEMA,
                "stored": layout,
                "spec": spec,
                "featx_version": _version(),
                **(attributes or {}),
            }
            header = json.loads(json.dumps(header))
            for name, value in header.items():
                file.attrs[name] = json.dumps(value)
            file.attrs["checksum"] = json.dumps(_metadata_checksum(header, stored, checksums))
            file.flush()
            size = file.id.get_filesize()
        with _writing(path.parent):
            os.truncate(unfinished, size)  # give back what was reserved and not needed
            _sync(unfinished)
            os.replace(unfinished, path)
            _sync(path.parent)
    finally:
        with contextlib.suppress(OSError):  # what went wrong before is what matters
            unfinished.unlink(missing_ok=True)


def _reserve(file: Path, nbytes: int) -> None:
    """Take the room for a file at once: HDF5 crashes the process when a disk fills up under it."""
    if hasattr(os, "posix_fallocate"):
        descriptor = os.open(file, os.O_WRONLY)
        try:
            os.posix_fallocate(descriptor, 0, nbytes)
        finally:
            os.close(descriptor)


def _table_bytes(tables: dict[str, Any]) -> int:
    """At most how much a file's tables and attributes take."""
    texts = len(json.dumps([list(map(str, rows)) for rows in tables.values()]))
    return 3 * texts + 128 * sum(len(rows) for rows in tables.values()) + 2**15


def _write_rows(file: Any, features: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: str) -> NDArray[np.uint32]:
    # Contiguous, not chunked: rows can be mapped into memory and read in any order at the disk's speed
    dataset = file.create_dataset("features", shape, np.dtype(dtype).newbyteorder("<"))
    checksums = np.empty(shape[0], np.uint32)
    done = 0
    for block in features:
        dataset[done : done + len(block)] = block
        checksums[done : done + len(block)] = _row_checksums(block)
        done += len(block)
    if done != shape[0]:
        raise CacheError(f"{done} rows were given for a file of {shape[0]}")
    return checksums


def gather(places: Sequence[Place], shape: Sequence[int], dtype: str) -> Iterator[NDArray[Any]]:
    """Rows copied from wherever they are, checked on the way, in blocks.

    Raises:
        MissingRowsError: after going through all, naming each row that is damaged or gone.
    """
    missing: set[Place] = set()
    step = rows_per_block(shape, dtype)
    for start in range(0, len(places), step):
        some = places[start : start + step]
        block = np.zeros((len(some), *shape), dtype)
        positions: dict[Path, list[int]] = {}
        for position, place in enumerate(some):
            positions.setdefault(place.file, []).append(position)
        for file, where in positions.items():
            wanted = [some[position] for position in where]
            try:
                source = load_features(file)
                keys = dict(enumerate(source.row_keys()))
                there = np.array([place.row in keys and place.key in (None, keys[place.row]) for place in wanted])
                rows = np.array([place.row for place in wanted])[there]
                block[np.array(where)[there]] = copied = source._map()[rows]
                there[there] = _row_checksums(copied) == source._checksums[rows]
            except CacheError:  # gone or truncated since it was found
                there = np.zeros(len(wanted), bool)
            missing |= {place for place, good in zip(wanted, there, strict=True) if not good}
        yield block
    if missing:
        raise MissingRowsError(missing)


def _sync(path: Path) -> None:
    """Make a file or folder survive a power cut. Windows cannot sync a folder and does not need to."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn what goes wrong when writing into one line that says what to do."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, RuntimeError) as error:
        code = getattr(error, "errno", None)
        if code == errno.ENOSPC or "No space left" in str(error) or "errno = 28" in str(error):
            raise CacheError(
                f"no room left on the disk of {folder}; finished blocks are kept. Free some space, or give another "
                "--cache-dir, and run the same command again"
            ) from error
        if code in (errno.EACCES, errno.EROFS, errno.EPERM) or "Permission denied" in str(error):
            raise CacheError(f"{folder} cannot be written; give another --cache-dir") from error
        raise CacheError(f"{folder} cannot be written: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _version() -> str:
    from featx import __version__

    return __version__


# ----------------------------------------------------------------------------------------------------- a cache folder


class CacheFolder:
    """Finished feature files and the blocks of unfinished ones, in one folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def files(self) -> list[Path]:
        """Finished feature files, the newest first."""
        return sorted(self.folder.glob("[!.]*.h5"), key=lambda p: (-p.stat().st_mtime_ns, p.name))

    def newest(self) -> Path:
        """The feature file written last.

        Raises:
            CacheError: there is none.
        """
        files = self.files()
        if not files:
            raise CacheError(f"no feature file in {self.folder}; run `featx extract DATASET` first, or name a file")
        return files[0]

    def file_for(self, dataset: str, spec: Spec, listing: Any) -> Path:
        """Where the features of a listing under a spec go: ``<dataset>-<backbone>-<key>.h5``."""
        names = (dataset, str(spec["backbone"]).removesuffix(".keras"))
        parts = (re.sub(r"[^\w.-]+", "_", name).lstrip(".")[:40] or "data" for name in names)
        return self.folder / f"{'-'.join(parts)}-{digest([spec, listing])}.h5"

    def sweep(self, file: Path) -> None:
        """Remove what a killed process left when it was writing ``file``; its lock must be held."""
        for litter in [*self.folder.glob(f".{file.name}.*"), *self.folder.glob(".trunks.json.*")]:
            with contextlib.suppress(OSError):
                litter.unlink()

    def partial(self, file: Path) -> Path:
        """Where the blocks of an unfinished feature file are."""
        return file.with_suffix(".partial")

    @contextmanager
    def lock(self, file: Path) -> Iterator[None]:
        """Hold the right to write one feature file; a second process waits. A killed holder's lock is free."""
        place = self.folder / ".locks" / f"{file.stem}.lock"
        with _writing(place.parent):
            lock = filelock.FileLock(place)
        try:
            lock.acquire(timeout=0)
        except OSError as error:
            if not isinstance(error, filelock.Timeout):
                raise CacheError(f"{place.parent} cannot be written; give another --cache-dir") from error
            logger.warning("another process is extracting the same features; waiting for it to end")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def features(self, **header: Any) -> Iterator[Features]:
        """All readable feature files, then blocks, the newest file first, whose header has the values given.

        Unreadable ones are warned of.
        """
        for path in [*self.files(), *sorted(self.folder.glob("*.partial/[!.]*.h5"))]:
            try:
                with _opened(path) as file:
                    found = _header(file, path)
                if all(found.get(name) == value for name, value in header.items()):
                    yield load_features(path)
            except CacheError as error:
                if path.exists():  # else its extraction has just been finished and tidied up
                    logger.warning("%s", error)

    def find_rows(self, spec: Spec, without: set[Place]) -> dict[RowKey, Place]:
        """Every row in the folder that was made by ``spec``, but for the places ``without``."""
        found: dict[RowKey, Place] = {}
        for features in self.features(spec=spec):
            for row, key in enumerate(features.row_keys()):
                place = Place(features.path, row, key)
                if place not in without:
                    found.setdefault(key, place)
        return found

    def read_memo(self, name: str) -> dict[str, Any]:
        """A JSON object kept beside the features, empty if it is missing or unreadable: it only saves work."""
        try:
            memo = json.loads((self.folder / name).read_text())
        except (OSError, ValueError):
            return {}
        return memo if isinstance(memo, dict) else {}

    def write_memo(self, name: str, memo: dict[str, Any]) -> None:
        """Replace a JSON object kept beside the features."""
        unfinished = self.folder / f".{name}.{secrets.token_hex(8)}"  # threads may write at once
        with _writing(self.folder):
            unfinished.write_text(json.dumps(memo, indent=1))
            os.replace(unfinished, self.folder / name)

    def require_room(self, nbytes: int) -> None:
        """Raise :class:`CacheError` if the disk has less than ``nbytes`` free: better now than after hours."""
        folder = self.folder if self.folder.exists() else self.folder.absolute().parent
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if free < nbytes:
            raise CacheError(
                f"no room on the disk of {self.folder}: about {nbytes / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB "
                "are free. What is finished is kept. Free some space, give another --cache-dir, or store less: "
                "--pooling avg, or a smaller --size"
            )

    def _is_finished(self, partial: Path) -> bool:
        """Whether finished files hold every row of an interrupted extraction's blocks."""
        for block in self.features():
            if block.path.parent == partial:
                kept = [f for f in self.features(spec=block.spec) if f.path.parent == self.folder]
                if not set(block.row_keys()) <= {key for f in kept for key in f.row_keys()}:
                    return False
        return True

    def superseded(self) -> list[Path]:
        """What can go without losing a row: blocks and files all of whose rows a (newer) finished file has."""
        newest: dict[tuple[str, str], set[RowKey]] = {}
        out: list[Path] = []
        for features in self.features():
            if features.path.parent != self.folder:
                continue
            group, keys = (features.root, digest(features.spec)), set(features.row_keys())
            if group in newest and keys <= newest[group]:
                out.append(features.path)
            newest.setdefault(group, keys)
        for partial in sorted(self.folder.glob("*.partial")):
            lock = filelock.FileLock(self.folder / ".locks" / f"{partial.stem}.lock")
            try:
                with lock.acquire(timeout=0):
                    if self._is_finished(partial):
                        out.append(partial)
            except (filelock.Timeout, OSError):
                logger.warning("%s belongs to a running extraction and stays", partial)
        return out


def remove(path: Path) -> int:
    """Delete a feature file or a folder of blocks; returns the bytes freed."""
    size = size_on_disk(path)
    with _writing(path.parent):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return size


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size
