"""Rows for training, from arrays or from files larger than memory: read, prepared, drawn and shuffled.

A lazy ``X`` has ``shape``, ``dtype``, ``ndim``, ``len`` and ``X[slice or int array]``, which gives an array; nothing
else is asked of it, and never for more than a chunk at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featx.errors import SettingError, TrainingError
from featx.heads.pooling import as_rows, downsample, downsampled_shape, width

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK_BYTES = 2 << 20  # read at once
BUFFER_BYTES = 128 << 20  # of float32 rows: one buffer is trained on while the next is read


class Reader:
    """Rows of ``X`` as a network wants them: pooled or flat, float32, and standardised once there are statistics.

    Args:
        X: an array or lazy, ``(n, d)`` or ``(n, h, w, c)``.
        input: what becomes of maps: ``flat``, ``avg`` or ``max``.
        downsampled: whether maps are max-pooled, 2 x 2, before they become flat.

    Attributes:
        width: columns of a prepared row.
        chunk: rows that are read at once, at most.
        mean, scale: float32 ``(width,)``, or ``(c,)`` if maps become flat; None until there are statistics.
    """

    def __init__(self, X: Any, input: str, downsampled: bool) -> None:
        shape = downsampled_shape(X.shape[1:]) if downsampled else X.shape[1:]
        self._X = X
        self._input = input
        self._downsampled = downsampled
        self.chunk = max(1, CHUNK_BYTES // (int(np.prod(X.shape[1:])) * X.dtype.itemsize))
        self.width = width(shape, input if len(X.shape) == 4 else "flat")
        self.mean: Any = None
        self.scale: Any = None

    def __len__(self) -> int:
        return len(self._X)

    def read(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows ``(n, width)``, ready for the network."""
        prepared = self._prepared(self._X[rows])
        if self.mean is not None:
            standardise(prepared, self.mean, self.scale)
        return prepared

    def chunks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Number of the first row, and rows ready for the network; chunk by chunk.

        Raises:
            TrainingError: a row is not finite.
        """
        for start in range(0, len(self), self.chunk):
            stored = self._X[start : start + self.chunk]
            prepared = self._prepared(stored)
            if not np.isfinite(prepared).all():
                _require_finite(stored, start)
            if self.mean is not None:
                standardise(prepared, self.mean, self.scale)
            yield start, prepared

    def fits(self) -> bool:
        """Whether all prepared rows fit into what buffers would take."""
        return 4 * len(self) * self.width <= 2 * BUFFER_BYTES

    def blocks(self, n: int) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        """Number of the first row, count of rows, and a block ``(n, width)`` that begins with them.

        The array is the same each time. Raises like :meth:`chunks`.
        """
        block = np.zeros((n, self.width), np.float32)
        filled, done = 0, 0
        for _, rows in self.chunks():
            while len(rows):
                piece, rows = rows[: n - filled], rows[n - filled :]
                block[filled : filled + len(piece)] = piece
                filled += len(piece)
                if filled == n or done + filled == len(self):
                    yield done, filled, block
                    done += filled
                    filled = 0

    def learn_statistics(self) -> NDArray[np.float32] | None:
        """Set mean and standard deviation, in one pass and in float64.

        Returns:
            all rows, standardised, if they fit.

        Raises:
            TrainingError: a row is not finite.
        """
        in_memory = np.empty((len(self), self.width), np.float32) if self.fits() else None
        count: int = 0
        total: Any = 0.0
        squares: Any = 0.0
        for start in range(0, len(self), self.chunk):
            stored = self._X[start : start + self.chunk]
            rows = stored if self._input == "flat" and in_memory is None else self._prepared(stored)
            values = stored if self._input == "flat" else rows  # flat maps: per channel, of all pixels
            values = values.reshape(-1, values.shape[-1]).astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                sums = np.ones(len(values)) @ values
                more = np.einsum("ij,ij->j", values, values)
            if not np.isfinite(more).all():
                _require_finite(stored, start)
            count += len(values)
            total += sums
            squares += more
            if in_memory is not None:
                in_memory[start : start + len(stored)] = rows
        self.mean, self.scale = _mean_and_scale(count, total, squares)
        if in_memory is not None:
            standardise(in_memory, self.mean, self.scale)
        return in_memory

    def _prepared(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        if self._input != "flat":
            pooled: NDArray[np.float32] = as_rows(stored, self._input).astype(np.float32, copy=False)
            return pooled if stored.ndim == 4 else stored.astype(np.float32)
        if self._downsampled:
            stored = downsample(stored)  # before standardising: the largest stays the largest
        return stored.reshape(len(stored), self.width).astype(np.float32)


def standardise(rows: NDArray[np.float32], mean: Any, scale: Any) -> None:
    """Standardise rows ``(n, width)`` in place; their columns repeat those of ``mean`` and ``scale``."""
    for start in range(0, len(rows), 256):  # while they are in the processor's cache
        values = rows[start : start + 256].reshape(-1, len(mean))
        values -= mean
        values *= 1 / scale


def _mean_and_scale(count: int, total: Any, squares: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    deviation[deviation < 1e-6 * np.maximum(np.abs(mean), 1e-6)] = 1  # a constant column carries nothing: leave it 0
    return mean.astype(np.float32), deviation.astype(np.float32)


def _require_finite(stored: NDArray[Any], start: int) -> None:
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.square(stored.reshape(len(stored), -1), dtype=np.float64)).all(axis=1)
    if not finite.all():
        raise TrainingError(f"row {start + int(np.argmin(finite))} contains NaN or infinity")


@dataclass(frozen=True)
class Buffer:
    """Rows in memory, and the order to train on them.

    Attributes:
        rows: float32 ``(m, width)``.
        numbers: int64 ``(m,)``, those of the rows in ``X``.
        order: places in ``rows``, shuffled.
        ends_epoch: whether it is the epoch's last.
    """

    rows: NDArray[np.float32]
    numbers: NDArray[np.int64]
    order: NDArray[np.int64]
    ends_epoch: bool


class Groups:
    """Groups of rows, of each of which one row is drawn: one view of each picture.

    Args:
        groups: ``(n,)``, rows of the same number being one group; None if every row is its own.
        n: number of rows.
    """

    def __init__(self, groups: Any, n: int) -> None:
        groups = np.arange(n) if groups is None else np.asarray(groups)
        if groups.shape != (n,):
            raise SettingError(f"`groups` must be ({n},), a number per row, got {groups.shape}", "groups")
        self._rows = np.argsort(groups, kind="stable")
        _, self._starts, self._sizes = np.unique(groups[self._rows], return_index=True, return_counts=True)

    def __len__(self) -> int:
        return len(self._starts)

    def draw(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """One row of each group, ``(groups,)``."""
        return self._rows[self._starts + (rng.random(len(self)) * self._sizes).astype(np.int64)]


@contextmanager
def shuffled(
    reader: Reader, in_memory: NDArray[np.float32] | None, groups: Groups, rng: np.random.Generator
) -> Iterator[Iterator[Buffer]]:
    """Buffers of shuffled rows, epoch after epoch without end; the next is read while one is used.

    A buffer's rows are not valid any more once the next is asked for. Leaving the context ends the reading thread.

    Args:
        reader: reads all rows.
        in_memory: all rows, if they fit: then they are every epoch's one buffer, and there is no thread.
        groups: groups to draw from.
        rng: generator of order and draws.
    """
    if in_memory is not None:
        yield _always_the_same(in_memory, groups, rng)
        return
    stop = threading.Event()
    with ThreadPoolExecutor(1, "featx-reader") as thread:
        try:
            yield _read_ahead(reader, groups, rng, thread, stop)
        finally:
            stop.set()


def _always_the_same(rows: NDArray[np.float32], groups: Groups, rng: np.random.Generator) -> Iterator[Buffer]:
    numbers = np.arange(len(rows))
    while True:
        drawn = groups.draw(rng)
        yield Buffer(rows, numbers, rng.permutation(drawn), True)


def _read_ahead(
    reader: Reader, groups: Groups, rng: np.random.Generator, thread: ThreadPoolExecutor, stop: threading.Event
) -> Iterator[Buffer]:
    most = max(1, BUFFER_BYTES // (4 * reader.width))
    chunk = min(reader.chunk, max(1, most // 16))
    spaces = [np.empty((min(most + 2 * chunk, len(groups)), reader.width), np.float32) for _ in range(2)]
    plans = _plans(groups, chunk, most, rng)

    def read(numbers: NDArray[np.int64], space: NDArray[np.float32]) -> NDArray[np.float32]:
        for start in range(0, len(numbers), reader.chunk):
            if not stop.is_set():
                chunk_of = numbers[start : start + reader.chunk]
                space[start : start + len(chunk_of)] = reader.read(_as_slice(chunk_of))
        return space[: len(numbers)]

    next_numbers, next_ends = next(plans)
    reading = thread.submit(read, next_numbers, spaces[0])
    while True:
        numbers, ends = next_numbers, next_ends
        rows = reading.result()
        spaces.reverse()
        next_numbers, next_ends = next(plans)
        reading = thread.submit(read, next_numbers, spaces[0])
        yield Buffer(rows, numbers, rng.permutation(len(numbers)), ends)


def _plans(groups: Groups, chunk: int, most: int, rng: np.random.Generator) -> Iterator[tuple[NDArray[np.int64], bool]]:
    """Sorted numbers of the rows of each buffer, and whether the buffer is the epoch's last.

    Neighbours, as files are read fast, stay together in chunks. Of each stretch of the file every buffer gets one
    chunk: so it has its share of every class even if the file is sorted by class.
    """
    n_buffers = -(-len(groups) // most)
    while True:
        drawn = np.sort(groups.draw(rng))
        size = min(chunk, max(1, len(drawn) // (16 * n_buffers)))
        starts = np.arange(rng.integers(size) + 1, len(drawn), size)  # so that other neighbours meet in each epoch
        dealt: list[list[NDArray[np.int64]]] = [[] for _ in range(n_buffers)]
        for number, piece in enumerate(np.split(drawn, starts)):
            if number % n_buffers == 0:
                deal = rng.permutation(n_buffers)
            dealt[deal[number % n_buffers]].append(piece)
        shuffled_deal = [np.concatenate(dealt[i]) for i in rng.permutation(n_buffers) if dealt[i]]
        for i, numbers in enumerate(shuffled_deal):
            yield numbers, i == len(shuffled_deal) - 1


def _as_slice(numbers: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Rising numbers as a slice if they have no gaps: that is read fastest."""
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers
