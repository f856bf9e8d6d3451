"""Fewer columns than rows: all training sets on one ``Z``, which they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from featx.heads.solver import blocks
from featx.heads.solver.blocks import mean_and_scale
from featx.heads.solver.losses import squared
from featx.heads.solver.problems import Problems
from featx.heads.solver.spectrum import spectrum_of
from featx.heads.solver.task import GRAM_COLUMNS, SolutionPath, Task, path_of

if TYPE_CHECKING:
    from featx.heads.solver.losses import Array

MEMORY_BYTES = 2**29  # of standardised X that are kept; more is made anew, block by block, whenever it is needed


def together(task: Task) -> Iterator[SolutionPath]:
    """Path of each training set, on one ``Z`` standardised by all rows; each set's scale is in its penalty."""
    d = task.X.shape[1]
    dtype = task.dtype(d)
    shares = task.shares()
    weights = np.where(shares > 0, task.weights, 0)
    everything = weights.max(axis=0) / weights.max(axis=0).sum()
    mean, scale = _moments(task.X, np.vstack([everything, shares]), dtype)
    mean, of_sets = mean[0], scale[1:]
    reference = np.where(scale[0] > 0, scale[0], 1)
    rows = _rows_of(task.X, mean, reference, dtype)
    whole = task.loss is squared and d <= GRAM_COLUMNS
    spectrum, basis, rest = spectrum_of(rows, d, float(len(task.y) * d), dtype, whole)
    share = weights.sum(axis=1, keepdims=True) / len(task.y)
    relative = np.where(of_sets > 0, of_sets / reference, 1)
    usable = (of_sets > 0) | (scale[0] == 0)
    problems = Problems(
        blocks=rows,
        y=task.y,
        n_outputs=task.n_outputs,
        loss=task.loss,
        weights=weights.astype(dtype),
        penalty=np.column_stack([relative**2, np.zeros(len(relative))]).astype(dtype),
        spectrum=share * spectrum,
        basis=basis,
        rest=rest * float(share.mean()),
        usable=None if usable.all() else np.column_stack([usable, np.ones(len(usable))]).astype(dtype),
    )
    minima = task.solve(problems)
    for of in range(len(task.sets)):
        W = np.stack([m.W[of] for m in minima])
        yield path_of(task, minima, of, W[..., :-1] / reference.astype(dtype), W[..., -1], mean)


def _moments(X: Any, share: Array, dtype: Any) -> tuple[Array, Array]:
    """Weighted means and deviations ``(sets, d)`` of the columns of ``X`` for each row of shares, in one pass."""
    first = np.asarray(X[:1])[0].astype(np.float64)
    sums, squares = np.zeros((2, len(share), X.shape[1]))
    for rows in blocks.of_rows(X):
        values = X[rows].astype(dtype) - first.astype(dtype)  # exactly 0 where a column is constant
        sums += share[:, rows].astype(dtype) @ values
        squares += share[:, rows].astype(dtype) @ np.square(values, out=values)
    sums, scale = mean_and_scale(sums.astype(dtype), squares.astype(dtype))
    return first + sums, scale


def _rows_of(X: Any, mean: Array, scale: Array, dtype: Any) -> Callable[[], Iterator[tuple[slice, Array]]]:
    """Standardised rows with a last column of ones, in blocks; kept, if they all fit."""
    n, d = X.shape
    shift, factor = mean.astype(dtype), (1 / scale).astype(dtype)

    def made() -> Iterator[tuple[slice, Array]]:
        for rows in blocks.of_rows(X):
            Z = np.ones((rows.stop - rows.start, d + 1), dtype)
            np.subtract(X[rows], shift, out=Z[:, :-1], casting="unsafe")
            Z[:, :-1] *= factor
            yield rows, Z

    if n * (d + 1) * np.dtype(dtype).itemsize > MEMORY_BYTES:
        return made
    kept = list(made())
    return lambda: iter(kept)
