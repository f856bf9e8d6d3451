"""Layout of a feature file on the disk: its HDF5 objects, and the seal and checksums that tell damage.

Every row of features carries a CRC-32. All other bytes are sealed by a BLAKE2b digest in the first 512 bytes, which
HDF5 leaves to its users: it is compared before HDF5 sees anything, since HDF5 crashes or runs for ever on some damaged
files.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from featx.errors import CacheError, CorruptCacheError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCHEMA = 1
BLOCK_BYTES = 32 * 2**20  # read or written at a time
SEAL_BYTES = 512  # HDF5's smallest user block

_TEXT = h5py.string_dtype("utf-8")
QUARANTINE = np.dtype([("path", _TEXT), ("id", _TEXT), ("reason", _TEXT)])
STAT = np.dtype([("path", _TEXT), ("id", _TEXT), ("size", "<i8"), ("mtime_ns", "<i8"), ("ctime_ns", "<i8")])
DTYPES: dict[str, Any] = {
    "labels": "<i4",
    "paths": _TEXT,
    "ids": _TEXT,
    "splits": _TEXT,
    "views": "<i2",
    "quarantine": QUARANTINE,
    "stat": STAT,
}
_WIDTHS = {"ids": "U32", "splits": "U10"}  # in memory: unlike objects, NumPy finds and compares them at once


@contextmanager
def open_sealed(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A feature file whose seal is whole, as h5py's file and its attributes.

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


def read_header(path: Path) -> dict[str, Any]:
    """Attributes of a feature file, without its rows."""
    with open_sealed(path) as (_, header):
        return header


def read_reasons(path: Path) -> dict[str, str]:
    """Reasons of a file's quarantine by content id; files that could not even be read have none."""
    with open_sealed(path) as (file, _):
        table = read_table(file, "quarantine")
        return {row["id"]: row["reason"] for row in table if row["id"]}


def read_table(file: Any, name: str) -> NDArray[Any]:
    """One of the tables ``DTYPES`` of an open file, text as ``str``."""
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


def seal(path: Path, start: int, length: int) -> None:
    """Write the digest of all but the features, which lie at ``start``, into the file's first bytes."""
    with path.open("r+b") as file:
        content = {"featx": SCHEMA, "features": [start, length], "digest": _digest_around(file, start, length)}
        file.seek(0)
        file.write(json.dumps(content).encode().ljust(SEAL_BYTES, b"\0"))


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


def _digest_around(file: Any, start: int, length: int) -> str:
    """BLAKE2b-128 of a file's bytes behind the seal but for ``length`` from ``start``, and of where those are."""
    size = os.fstat(file.fileno()).st_size
    state = hashlib.blake2b(repr((start, length, size)).encode(), digest_size=16)
    for first, last in ((SEAL_BYTES, start), (start + length, size)):
        file.seek(first)
        for at in range(first, min(last, size), BLOCK_BYTES):
            state.update(file.read(min(BLOCK_BYTES, last - at)))
    return state.hexdigest()


def row_checksums(features: NDArray[Any]) -> NDArray[np.uint32]:
    """CRC-32 of each row's bytes."""
    width = int(np.prod(features.shape[1:]))
    rows = np.ascontiguousarray(features).reshape(len(features), width).view(np.uint8)
    return np.fromiter((zlib.crc32(row.data) for row in rows), np.uint32, len(rows))


def not_finite(features: NDArray[Any]) -> NDArray[np.bool_]:
    """Mask ``(n,)`` of rows with NaN or infinity: numbers all of whose exponent's bits are 1.

    (Five times quicker than NumPy's ``isfinite``.)
    """
    if features.dtype.kind != "f":
        return np.zeros(len(features), np.bool_)  # pixels
    exponent: Any = {2: np.uint16(0x7C00), 4: np.uint32(0x7F800000)}[features.itemsize]
    bits = features.reshape(len(features), int(np.prod(features.shape[1:]))).view(exponent.dtype)
    mask: NDArray[np.bool_] = np.max(bits & exponent, axis=1, initial=0) == exponent
    return mask


def rows_per_block(feature_shape: Sequence[int], dtype: Any) -> int:
    """Number of rows that make about 32 MiB, at least one."""
    return max(1, int(BLOCK_BYTES // (np.dtype(dtype).itemsize * np.prod(feature_shape))))
