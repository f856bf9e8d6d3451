"""Blocks: small feature files in which an extraction keeps what it has computed so far."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from featx.cache.layout import rows_per_block
from featx.cache.spec import RowKey, Spec
from featx.cache.writing import write_features
from featx.errors import CacheError

if TYPE_CHECKING:
    from numpy.typing import NDArray

StatRow = tuple[str, str, int, int, int]  # path, content id, size, mtime and ctime in nanoseconds


class BlockWriter:
    """Collects rows and writes a block file whenever enough are together, and the rest on leaving, even by Ctrl-C.

    Args:
        folder: folder for the blocks; those that lie in it stay.
        least: rows in a block at least, but for the last one.
        seconds: time that passes at least between two blocks, unless 16 MiB are together before: one block is written
            while the next one fills up.
        spec: spec of all rows.
        attributes: JSON values to write into each block, as in :func:`write_features`.

    Attributes:
        rows: number of rows given so far.
        seconds_writing: time spent writing.
    """

    def __init__(self, folder: Path, least: int, seconds: float, spec: Spec, attributes: dict[str, Any]) -> None:
        self.folder = folder
        self.least = least
        self.seconds = seconds
        self.spec = spec
        self.attributes = attributes
        self.rows = 0
        self._name = f"block-{secrets.token_hex(8)}"  # several processes may write into one folder
        self._numbers = itertools.count()
        self._written = time.monotonic()
        self._keys: list[RowKey] = []
        self._stats: list[StatRow] = []
        self._features: list[NDArray[Any]] = []
        self._thread = ThreadPoolExecutor(1, "featx-writer")  # the next rows are computed while the disk is busy
        self._block_under_way: Future[None] | None = None
        self.seconds_writing = 0.0

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or not issubclass(kind, CacheError):
                self._write()
                self._finish()
        finally:
            self._thread.shutdown()

    def add(self, keys: Sequence[RowKey], stats: Sequence[StatRow], features: NDArray[Any]) -> None:
        """Take rows of features.

        Args:
            keys: key of each row.
            stats: files that they were made from.
            features: ``(n, ...)`` in the dtype of the spec.
        """
        self._keys += keys
        self._stats += stats
        self._features.append(features)
        due = len(self._keys) >= self.least and time.monotonic() - self._written >= self.seconds
        if due or len(self._keys) >= max(1, rows_per_block(features.shape[1:], features.dtype) // 2):
            self._write()
        self.rows += len(keys)

    def _write(self) -> None:
        if not self._keys:
            return
        self._finish()
        tables = {
            "ids": [content_id for content_id, _, _ in self._keys],
            "views": [view for _, view, _ in self._keys],
            "stat": list(dict.fromkeys(self._stats)),  # so that a resumed run need not read them again
        }
        file = self.folder / f"{self._name}-{next(self._numbers):05}.h5"
        self._block_under_way = self._thread.submit(self._to_disk, file, self._features, tables)
        self._keys = []
        self._stats = []
        self._features = []
        self._written = time.monotonic()

    def _to_disk(self, file: Path, parts: list[NDArray[Any]], tables: dict[str, Any]) -> None:
        started = time.monotonic()
        shape = (len(tables["ids"]), *parts[0].shape[1:])
        write_features(file, parts, shape, spec=self.spec, tables=tables, attributes=self.attributes)
        self.seconds_writing += time.monotonic() - started

    def _finish(self) -> None:
        """Wait for the block that is being written; raise what went wrong."""
        block, self._block_under_way = self._block_under_way, None
        if block is not None:
            block.result()
