"""Pieces in which ``X`` is gone through, so that what is converted at a time is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featx.heads.solver.losses import Array

BLOCK_BYTES = 32 * 2**20  # of X that are converted at a time


def of_columns(X: NDArray[Any]) -> Iterator[slice]:
    """Slices of the columns of ``X``."""
    step = max(1, BLOCK_BYTES // 4 // len(X))
    return (slice(start, start + step) for start in range(0, X.shape[1], step))


def of_rows(X: Any) -> Iterator[slice]:
    """Slices of the rows of ``X``."""
    step = max(1, BLOCK_BYTES // 4 // X.shape[1])
    return (slice(start, min(start + step, X.shape[0])) for start in range(0, X.shape[0], step))


def mean_and_scale(sums: Array, squares: Array) -> tuple[Array, Array]:
    """Mean and deviation from weighted sums of values and their squares; 0 where that is nothing but rounding."""
    variance = squares - sums**2
    variance[variance <= 10 * np.finfo(squares.dtype).eps * squares] = 0
    return sums, np.sqrt(variance)
