"""The feature file: write it whole or not at all, verify it, read it in blocks. The README describes its format.

A file is written under another name, synced, and renamed. Every row of features carries a CRC-32. All other bytes are
sealed by a BLAKE2b digest in the first 512 bytes, which HDF5 leaves to its users: it is compared before HDF5 sees
anything, since HDF5 crashes or runs for ever on some damaged files.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import h5py
import numpy as np

from featx._internal.hashing import digest
from featx.errors import CacheError, CorruptCacheError, SpecMismatchError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCHEMA = 1
BLOCK_BYTES = 32 * 2**20  # how much is read or written at a time
SEAL_BYTES = 512  # HDF5's smallest user block

Spec: TypeAlias = dict[str, Any]
RowKey: TypeAlias = tuple[str, int, str]  # content id, view, and what the view was made by: see `row_key`
Stat: TypeAlias = tuple[int, int, int]  # size, mtime and ctime in nanoseconds

_TEXT = h5py.string_dtype("utf-8")
_QUARANTINE = np.dtype([("path", _TEXT), ("id", _TEXT), ("reason", _TEXT)])
_STAT = np.dtype([("path", _TEXT), ("id", _TEXT), ("size", "<i8"), ("mtime_ns", "<i8"), ("ctime_ns", "<i8")])
DTYPES: dict[str, Any] = {
    "labels": "<i4",
    "paths": _TEXT,
    "ids": _TEXT,
    "splits": _TEXT,
    "views": "<i2",
    "quarantine": _QUARANTINE,
    "stat": _STAT,
}
_WIDTHS = {"ids": "U32", "splits": "U10"}  # in memory: unlike objects, NumPy finds and compares them at once


@dataclass(frozen=True)
class Place:
    """Where one row's features are, and whose they are."""

    file: Path
    row: int
    key: RowKey | None = field(default=None, compare=False)


# --------------------------------------------------------------------------------------------------------------- specs


def spec_difference(stored: Spec, wanted: Spec) -> list[str]:
    """One line for each field in which two specs differ; empty if features made by them are comparable."""
    fields = sorted(stored.keys() | wanted.keys())
    return [f"{f} is {stored.get(f)}, not {wanted.get(f)}" for f in fields if stored.get(f) != wanted.get(f)]


def made_by(augmentation: dict[str, Any]) -> str:
    """The settings of views in a few characters; empty if there are none."""
    return digest(augmentation) if augmentation else ""


def row_key(content: str, view: int, maker: str) -> RowKey:
    """What a row is known by, next to the spec. A picture itself (view 0) is the same whatever its views are.

    Args:
        content: the picture's content id.
        view: the number of the view.
        maker: of :func:`made_by`.
    """
    return content, view, maker if view else ""


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
        shape: ``(rows, h, w, c)`` or ``(rows, c)``; ``dtype`` is the stored one: float16, float32 or (pixels) uint8.
        y: int32 ``(rows,)``, index into ``class_names``, -1 where unlabelled.
        paths, ids, splits: str ``(rows,)``; relative path, content id, and ``train``, ``validation``, ``test`` or "".
        views: int16 ``(rows,)``; 0 is the picture itself. The rows of all view 0 come first, then those of view 1, ...
        augmentation: the settings by which views 1 and up were made; empty if there are none.
        quarantine: ``(path, reason)`` of pictures that could not be read.
        dataset, root: name and absolute path of the data set when it was extracted.
        recipe: the settings asked for, from which the trunk can be built again.

    Raises:
        CacheError: no such file, or not a feature file.
        CorruptCacheError: truncated or altered.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with opened(self.path) as (file, header):
            tables = {name: _read_table(file, name) for name in DTYPES if name in file}
            checksums = file["checksums"][:]
            self.shape: tuple[int, ...] = file["features"].shape
            self.dtype: np.dtype[Any] = file["features"].dtype
            self._offset: int = file["features"].id.get_offset()
        for table in tables.values():
            table.setflags(write=False)  # one object serves all who open the file
        row_tables = [checksums, *(tables[name] for name in tables if name not in ("quarantine", "stat"))]
        if {len(table) for table in row_tables} != {len(self)}:
            raise CorruptCacheError(f"{self.path}: its tables are not as long as its features; extract again")
        self._checksums: NDArray[np.uint32] = checksums
        self.spec: Spec = header["spec"]
        self.class_names: list[str] = header.get("class_names", [])
        self.dataset: str = header.get("dataset", "")
        self.root: str = header.get("root", "")
        self.recipe: dict[str, Any] = header.get("recipe", {})
        self.decoded_by: str = header.get("decoded_by", "")
        self.augmentation: dict[str, Any] = header.get("augmentation", {})
        self._maker = made_by(self.augmentation)
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
            CorruptCacheError: a row's bytes are not those that were written, or are not finite numbers.
        """
        return self.stored(rows).astype(np.float32)

    def stored(self, rows: Any = None) -> NDArray[Any]:
        """Like :meth:`X`, in the dtype of the file."""
        numbers = np.arange(len(self))[slice(None) if rows is None else rows]
        features = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        step = rows_per_block(self.shape[1:], self.dtype)
        for start in range(0, len(numbers), step):  # mapped anew each time, else all that was touched stays in memory
            features[start : start + step] = self._map()[numbers[start : start + step]]
        bad = numbers[row_checksums(features) != self._checksums[numbers]]
        if len(bad):
            name = self.paths[bad[0]] or self.ids[bad[0]]
            raise CorruptCacheError(
                f"{self.path}: {len(bad)} rows are damaged, the first is {bad[0]} ({name}). Extract again: only the "
                "damaged rows are computed"
            )
        bad = numbers[_not_finite(features)]
        if len(bad):
            raise CorruptCacheError(
                f"{self.path}: row {bad[0]} ({self.paths[bad[0]] or self.ids[bad[0]]}) holds NaN or infinity, as do "
                f"{len(bad) - 1} others. featx never writes them; extract again"
            )
        return features

    def rows(self, numbers: NDArray[np.int64]) -> Rows:
        """Rows that are read from the file when asked for, for heads that train on more than memory holds."""
        return Rows(self, numbers)

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
            bad += some[row_checksums(features[some]) != self._checksums[some]].tolist()
        return bad

    def row_keys(self) -> list[RowKey]:
        """What each row is known by."""
        pairs = zip(self.ids.tolist(), self.views.tolist(), strict=True)
        return [row_key(content, view, self._maker) for content, view in pairs]

    def row_key(self, row: int) -> RowKey:
        """What one row is known by."""
        return row_key(str(self.ids[row]), int(self.views[row]), self._maker)

    def stats(self) -> dict[str, tuple[Stat, str]]:
        """Size and times of every listed file when it was hashed, and its content id, by path."""
        return {r["path"]: ((int(r["size"]), int(r["mtime_ns"]), int(r["ctime_ns"])), r["id"]) for r in self._stat}

    def unread(self) -> list[tuple[str, str]]:
        """``(path, content id)`` of the quarantined; no id where the file could not even be read."""
        return [(row["path"], row["id"]) for row in self._quarantine]

    def _map(self) -> NDArray[Any]:
        try:
            return np.memmap(self.path, self.dtype, "r", self._offset, self.shape)
        except (OSError, ValueError) as error:
            raise CorruptCacheError(f"{self.path} is shorter than its table of contents says: {error}") from error


class Rows:
    """Some rows of a feature file, read when sliced or picked by number, in the dtype of the file."""

    def __init__(self, features: Features, numbers: NDArray[np.int64]) -> None:
        self._features, self._numbers = features, numbers
        self.shape, self.dtype = (len(numbers), *features.shape[1:]), features.dtype
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        return self._features.stored(self._numbers[rows])


def load_features(path: str | Path | Features) -> Features:
    """Open a feature file; see :class:`Features`. One that was open before and has not changed is not read again."""
    if isinstance(path, Features):
        return path
    path = Path(path)
    try:
        now = path.stat()
    except OSError:
        raise CacheError(f"no such feature file: {path}") from None
    features = copy.copy(_open(path, (now.st_size, now.st_mtime_ns, now.st_ino)))
    features.class_names, features.spec = list(features.class_names), dict(features.spec)  # callers may change theirs
    features.augmentation = dict(features.augmentation)
    return features


@functools.lru_cache(maxsize=8)
def _open(path: Path, _state: tuple[int, int, int]) -> Features:
    return Features(path)


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A feature file, once its seal has been found whole, as h5py's file and the attributes.

    Raises:
        CacheError: no such file, or not one of featx's. CorruptCacheError: truncated or altered.
    """
    if path.is_dir():
        raise CacheError(f"{path} is a folder, no feature file; `featx extract {path}` makes one of its pictures")
    if not path.is_file():
        raise CacheError(f"no such feature file: {path}")
    try:
        _check_seal(path)
        with h5py.File(path, "r", locking=False) as file:
            yield file, {name: json.loads(value) for name, value in file.attrs.items()}
    except CacheError:
        raise
    except PermissionError as error:
        raise CacheError(f"{path} cannot be read: permission denied") from error
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, ValueError, UnicodeError ...
        raise CorruptCacheError(f"{path} is not a readable feature file ({one_line(error)}); extract again") from error


def _check_seal(path: Path) -> None:
    with path.open("rb") as file:
        block = file.read(SEAL_BYTES)
        if block.startswith(b"\x89HDF"):
            raise CacheError(f"{path} is an HDF5 file, but not one of featx's")
        try:
            seal = dict(json.loads(block.rstrip(b"\0")))
        except (ValueError, TypeError):
            what = "is empty" if not block else "does not begin like one of featx's"
            raise CorruptCacheError(f"{path} is not a readable feature file: it {what}; extract again") from None
        if seal["featx"] != SCHEMA:
            raise CacheError(f"{path} has schema {seal['featx']}, this featx reads {SCHEMA}; extract again")
        start, length = seal["features"]
        if _digest_around(file, start, length) != seal["digest"]:
            raise CorruptCacheError(f"{path} was truncated or altered; extract again")


def seal(path: Path, start: int, length: int) -> None:
    """Write the digest of all but the features, which lie at ``start``, into the file's first bytes."""
    with path.open("r+b") as file:
        content = {"featx": SCHEMA, "features": [start, length], "digest": _digest_around(file, start, length)}
        file.seek(0)
        file.write(json.dumps(content).encode().ljust(SEAL_BYTES, b"\0"))


def _digest_around(file: Any, start: int, length: int) -> str:
    """BLAKE2b-128 of a file's bytes behind the seal but for ``length`` from ``start``, and of where those are."""
    size = os.fstat(file.fileno()).st_size
    state = hashlib.blake2b(repr((start, length, size)).encode(), digest_size=16)
    for first, last in ((SEAL_BYTES, start), (start + length, size)):
        file.seek(first)
        for at in range(first, min(last, size), BLOCK_BYTES):
            state.update(file.read(min(BLOCK_BYTES, last - at)))
    return state.hexdigest()


def read_header(path: Path) -> dict[str, Any]:
    """The attributes of a feature file, without its rows."""
    with opened(path) as (_, header):
        return header


def read_reasons(path: Path) -> dict[str, str]:
    """Why pictures are in a file's quarantine, by content id; files that could not even be read have none."""
    with opened(path) as (file, _):
        table = _read_table(file, "quarantine")
        return {row["id"]: row["reason"] for row in table if row["id"]}


def _read_table(file: Any, name: str) -> NDArray[Any]:
    dtype = DTYPES[name]
    stored = file[name]
    if stored.ndim != 1 or stored.id.get_storage_size() < stored.size * stored.dtype.itemsize:
        raise ValueError(f"/{name} promises more than it holds")  # a few bytes may claim to be gigabytes
    if name in _WIDTHS:
        words: NDArray[Any] = stored.asstr()[:].astype(_WIDTHS[name])
        return words
    if dtype is _TEXT:
        text: NDArray[Any] = stored.asstr()[:]
        return text
    table: NDArray[Any] = stored[:]
    for column in table.dtype.names or ():
        if table.dtype[column].kind == "O":
            table[column] = [value.decode() if isinstance(value, bytes) else value for value in table[column]]
    return table


def row_checksums(features: NDArray[Any]) -> NDArray[np.uint32]:
    """CRC-32 of each row's bytes."""
    width = int(np.prod(features.shape[1:]))
    rows = np.ascontiguousarray(features).reshape(len(features), width).view(np.uint8)
    return np.fromiter((zlib.crc32(row.data) for row in rows), np.uint32, len(rows))


def _not_finite(features: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows hold NaN or infinity: numbers all of whose exponent's bits are 1. (Five times quicker than asking.)"""
    if features.dtype.kind != "f":
        return np.zeros(len(features), np.bool_)  # pixels
    exponent: Any = {2: np.uint16(0x7C00), 4: np.uint32(0x7F800000)}[features.itemsize]
    bits = features.reshape(len(features), int(np.prod(features.shape[1:]))).view(exponent.dtype)
    largest = np.max(bits & exponent, axis=1, initial=0)
    found: NDArray[np.bool_] = largest == exponent
    return found


def rows_per_block(feature_shape: Sequence[int], dtype: Any) -> int:
    """How many rows make about 32 MiB, at least one."""
    return max(1, int(BLOCK_BYTES // (np.dtype(dtype).itemsize * np.prod(feature_shape))))
