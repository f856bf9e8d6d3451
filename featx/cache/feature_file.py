"""The feature file, opened for reading: verified, and read in blocks. docs/feature-file.md describes the format."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from featx._internal.memory import released_by_clear_memory
from featx.cache.layout import (
    DTYPES,
    QUARANTINE,
    STAT,
    not_finite,
    open_sealed,
    read_table,
    row_checksums,
    rows_per_block,
)
from featx.cache.spec import RowKey, Spec, row_key, settings_key
from featx.errors import CacheError, CorruptCacheError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Stat: TypeAlias = tuple[int, int, int]  # size, mtime and ctime in nanoseconds


class Features:
    """A feature file, open for reading; features are read when asked for.

    Rows are taken by a slice, by their numbers or by a mask (all by default), in one of four ways:

    * :meth:`X`, for which ``features[10:20]`` is short: a float32 array, what heads and formulas want;
    * :meth:`stored`: an array in the dtype of the file, half as large for float16;
    * :meth:`blocks`: float32 in blocks, for one pass over more than memory holds;
    * :meth:`rows`: nothing yet, but an object that reads what is sliced out of it, for many passes over such rows.

    Attributes:
        path: the file.
        spec: everything that decided the features' values.
        shape: ``(rows, h, w, c)`` or ``(rows, c)``.
        dtype: stored dtype: float16, float32 or (pixels) uint8.
        y: int32 ``(rows,)``, index into ``class_names``, -1 where unlabelled.
        class_names: names of the classes.
        paths: str ``(rows,)``, paths relative to the data set.
        ids: str ``(rows,)``, content ids.
        splits: str ``(rows,)``: ``train``, ``validation``, ``test`` or "".
        views: int16 ``(rows,)``; 0 is the picture itself. The rows of all view 0 come first, then those of view 1, ...
        augmentation: settings by which views 1 and up were made; empty if there are none.
        dataset: name of the data set when it was extracted.
        root: its absolute path then.
        recipe: settings from which the trunk can be built again.
        decoded_by: everything that decided whether a picture could be read.
        featx_version: version that wrote the file.

    Raises:
        CacheError: no such file, or not a feature file.
        CorruptCacheError: truncated or altered.

    Example:
        >>> import featx
        >>> features = featx.load_features(featx.extract("photos", backbone="pixels", size=16).features_path)
        >>> len(features), features.class_names, features[:2].shape
        (24, ['lying', 'standing'], (2, 16, 16, 3))
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with open_sealed(self.path) as (file, header):
            tables = {name: read_table(file, name) for name in DTYPES if name in file}
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
        self._settings_key = settings_key(self.augmentation)
        self.featx_version: str = header["featx_version"]
        self.ids: NDArray[Any] = tables["ids"]
        self.views: NDArray[np.int16] = tables["views"]
        self.y: NDArray[np.int32] = tables.get("labels", np.full(len(self), -1, np.int32))
        self.paths: NDArray[Any] = tables.get("paths", np.full(len(self), "", object))
        self.splits: NDArray[Any] = tables.get("splits", np.full(len(self), "", object))
        self._quarantine = tables.get("quarantine", np.empty(0, QUARANTINE))
        self._stat = tables.get("stat", np.empty(0, STAT))

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
    def pictures(self) -> NDArray[np.bool_]:
        """Mask ``(rows,)`` of the pictures themselves (view 0), as against their other views."""
        mask: NDArray[np.bool_] = self.views == 0
        return mask

    @property
    def quarantine(self) -> list[tuple[str, str]]:
        """``(path, reason)`` of every listed picture that has no row."""
        return [(row["path"], row["reason"]) for row in self._quarantine]

    def row_numbers(self, rows: Any = None) -> NDArray[np.int64]:
        """Numbers of the rows that a slice, numbers or a mask stand for; of all rows by default."""
        numbers: NDArray[np.int64] = np.arange(len(self))[slice(None) if rows is None else rows]
        return numbers

    def X(self, rows: Any = None) -> NDArray[np.float32]:
        """Features of the given rows (all by default; a slice, numbers or a mask) as a new float32 array ``(n, ...)``.

        Raises:
            CorruptCacheError: a row's bytes are not those that were written, or are not finite numbers.
        """
        return self.stored(rows).astype(np.float32)

    def stored(self, rows: Any = None) -> NDArray[Any]:
        """Features like those of :meth:`X`, in the dtype of the file."""
        numbers = self.row_numbers(rows)
        features = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        step = rows_per_block(self.shape[1:], self.dtype)
        for start in range(0, len(numbers), step):  # mapped anew each time, else all that was touched stays in memory
            features[start : start + step] = self.memory_map()[numbers[start : start + step]]
        self._refuse_damaged(numbers, features)
        return features

    def blocks(self, rows: Any = None) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """``(row numbers, float32 features)`` in blocks of about 32 MiB, so that memory does not grow with the file."""
        numbers = self.row_numbers(rows)
        step = rows_per_block(self.shape[1:], np.float32)
        for start in range(0, len(numbers), step):
            yield numbers[start : start + step], self.X(numbers[start : start + step])

    def rows(self, numbers: NDArray[np.int64]) -> StoredRows:
        """Rows that are read from the file when sliced, for heads that train on more than memory holds."""
        return StoredRows(self, numbers)

    def damaged_rows(self, budget: int | None = None) -> list[int]:
        """Numbers of rows whose checksum does not fit. With a ``budget`` in bytes, evenly spaced rows are looked at."""
        row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        stride = 1 if budget is None else max(1, -(-len(self) * row_bytes // budget))
        numbers = np.arange(0, len(self), stride)
        step = rows_per_block(self.shape[1:], self.dtype)
        features = self.memory_map()
        damaged: list[int] = []
        for start in range(0, len(numbers), step):
            block = numbers[start : start + step]
            damaged += block[~self.sound(block, features[block])].tolist()
        return damaged

    def sound(self, numbers: NDArray[np.int64], features: NDArray[Any]) -> NDArray[np.bool_]:
        """Mask of rows whose bytes, given in the dtype of the file, are those that were written."""
        mask: NDArray[np.bool_] = row_checksums(features) == self._checksums[numbers]
        return mask

    def row_keys(self) -> list[RowKey]:
        """Key by which each row is known."""
        pairs = zip(self.ids.tolist(), self.views.tolist(), strict=True)
        return [row_key(content_id, view, self._settings_key) for content_id, view in pairs]

    def row_key(self, row: int) -> RowKey:
        """Key by which one row is known."""
        return row_key(str(self.ids[row]), int(self.views[row]), self._settings_key)

    def stats(self) -> dict[str, tuple[Stat, str]]:
        """Size and times of every listed file when it was hashed, and its content id, by path."""
        return {r["path"]: ((int(r["size"]), int(r["mtime_ns"]), int(r["ctime_ns"])), r["id"]) for r in self._stat}

    def unread(self) -> list[tuple[str, str]]:
        """``(path, content id)`` of the quarantined; no id where the file could not even be read."""
        return [(row["path"], row["id"]) for row in self._quarantine]

    def memory_map(self) -> NDArray[Any]:
        """Features mapped into memory, in the dtype of the file, not verified."""
        try:
            return np.memmap(self.path, self.dtype, "r", self._offset, self.shape)
        except (OSError, ValueError) as error:
            raise CorruptCacheError(f"{self.path} is shorter than its table of contents says: {error}") from error

    def _refuse_damaged(self, numbers: NDArray[np.int64], features: NDArray[Any]) -> None:
        damaged = numbers[~self.sound(numbers, features)]
        if len(damaged):
            raise CorruptCacheError(
                f"{self.path}: {len(damaged)} rows are damaged, the first is {self._name_of(damaged[0])}. Extract "
                "again: only the damaged rows are computed"
            )
        bad = numbers[not_finite(features)]
        if len(bad):
            raise CorruptCacheError(
                f"{self.path}: row {self._name_of(bad[0])} holds NaN or infinity, as do {len(bad) - 1} others. featx "
                "never writes them; extract again"
            )

    def _name_of(self, row: int) -> str:
        return f"{row} ({self.paths[row] or self.ids[row]})"


class StoredRows:
    """Rows of a feature file, read when sliced or picked by number, in the dtype of the file.

    Attributes:
        shape: ``(n, h, w, c)`` or ``(n, c)``.
        dtype: dtype of the file.
        ndim: number of dimensions.
    """

    def __init__(self, features: Features, numbers: NDArray[np.int64]) -> None:
        self._features = features
        self._numbers = numbers
        self.shape = (len(numbers), *features.shape[1:])
        self.dtype = features.dtype
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        return self._features.stored(self._numbers[rows])


def load_features(path: str | Path | Features) -> Features:
    """Open a feature file. One that was open before and has not changed is not read again.

    Args:
        path: the file, ``Extraction.features_path`` of the extraction that wrote it; one that is open is given back.

    Returns:
        The file, open for reading; its features are read when asked for.

    Raises:
        CacheError: no such file, or not a feature file.
        CorruptCacheError: truncated or altered.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> import featx
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "photos" / "cat").mkdir(parents=True)
        >>> Image.new("RGB", (40, 30), "gray").save(folder / "photos" / "cat" / "1.png")
        >>> done = featx.extract(folder / "photos", cache_dir=folder / "cache", backbone="pixels", size=8)
        >>> features = featx.load_features(done.features_path)
        >>> features.shape, features.class_names, features.paths.tolist()
        ((1, 8, 8, 3), ['cat'], ['cat/1.png'])
        >>> features.X([0]).dtype
        dtype('float32')
    """
    if isinstance(path, Features):
        return path
    path = Path(path)
    try:
        status = path.stat()
    except OSError:
        raise CacheError(f"no such feature file: {path}") from None
    features = copy.copy(_open(path, (status.st_size, status.st_mtime_ns, status.st_ino)))
    features.class_names = list(features.class_names)  # callers may change theirs
    features.spec = dict(features.spec)
    features.augmentation = dict(features.augmentation)
    return features


@functools.lru_cache(maxsize=8)
def _open(path: Path, _status: tuple[int, int, int]) -> Features:
    return Features(path)


released_by_clear_memory(_open.cache_clear)
