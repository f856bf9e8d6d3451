"""Fewer rows than columns: the exact twin of each training set, which has as many columns as rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import solve_triangular

from featx.heads.solver import blocks
from featx.heads.solver.blocks import mean_and_scale
from featx.heads.solver.losses import squared
from featx.heads.solver.problems import Problems
from featx.heads.solver.spectrum import spectrum_of
from featx.heads.solver.task import SolutionPath, Task, path_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featx.heads.solver.losses import Array


def twins(task: Task) -> Iterator[SolutionPath]:
    """Path of each training set, from its twin. ``X`` is gone through by columns, a few standardised at a time."""
    X = task.X if isinstance(task.X, np.ndarray) else task.X[:]
    dtype = task.dtype(max(len(rows) for rows in task.sets))
    grams, means, scales = _grams(X, task, dtype)
    for of, rows in enumerate(task.sets):
        Z, to_rows = _root(grams[of], dtype, diagonal=task.loss is squared)
        minima = task.solve(_twin_problem(Z, task, rows, dtype))
        W = np.stack([m.W[0] for m in minima])
        dual = np.zeros((W.shape[0] * W.shape[1], len(X)), dtype)
        dual[:, rows] = to_rows(W[..., :-1].reshape(len(dual), -1).astype(np.float64))
        coef = np.empty((len(dual), X.shape[1]), dtype)
        for columns in blocks.of_columns(X):
            np.matmul(dual, X[:, columns].astype(dtype, copy=False), out=coef[:, columns])
        coef -= np.outer(dual.sum(axis=1, dtype=np.float64), means[of]).astype(dtype)
        coef /= np.square(scales[of]).astype(dtype)
        yield path_of(task, minima, 0, coef.reshape(*W.shape[:2], -1), W[..., -1], means[of])


def _root(gram: Array, dtype: Any, diagonal: bool) -> tuple[Array, Callable[[Array], Array]]:
    """``Z`` with ``Z Z' = gram``, and a function of coefficients for it, ``(n, columns)``, to weights of the rows."""
    # With ``Z' Z`` diagonal a parabola is at its minimum in one step; other losses do not repay the decomposition
    smallest = max(10 * np.finfo(dtype).eps, len(gram) * np.finfo(float).eps)
    Z = None if diagonal else _cholesky(gram)
    if Z is not None and np.diag(Z).min() ** 2 > smallest * np.diag(gram).max():
        return Z, lambda W: solve_triangular(Z, W.T, lower=True, trans="T", check_finite=False).T
    eigenvalues, U = np.linalg.eigh(gram)
    keep = eigenvalues > max(eigenvalues[-1], 0) * smallest
    singular = np.sqrt(eigenvalues[keep])
    return U[:, keep] * singular, lambda W: (W / singular) @ U[:, keep].T


def _cholesky(gram: Array) -> Array | None:
    """Root of ``gram``; None if rows are repeated, or combinations of others.

    Rows about their mean are dependent. A constant column more makes them independent, and changes nothing: the
    intercept, which has no penalty, leaves nothing to it.
    """
    try:
        root: Array = np.linalg.cholesky(gram + gram.trace() / len(gram) ** 2)
    except np.linalg.LinAlgError:
        return None
    return root


def _twin_problem(root: Array, task: Task, rows: NDArray[np.int64], dtype: Any) -> Problems:
    Z = np.column_stack([root, np.ones(len(rows))]).astype(dtype)
    columns = np.square(root).sum(axis=0)
    basis: Array | None = None
    spectrum, rest = columns, 0.0  # of a parabola's diagonal ``Z' Z``
    if task.loss is not squared:
        spectrum, basis, rest = spectrum_of(lambda: iter([(slice(None), Z)]), len(columns), float(columns.sum()), dtype)
    return Problems(
        blocks=lambda: iter([(slice(None), Z)]),
        y=task.y[rows],
        n_outputs=task.n_outputs,
        loss=task.loss,
        weights=task.weights[None, rows].astype(Z.dtype),
        penalty=np.r_[np.ones(root.shape[1]), 0][None].astype(dtype),
        spectrum=spectrum[None],
        basis=basis,
        rest=rest,
    )


def _grams(X: NDArray[Any], task: Task, dtype: Any) -> tuple[list[Array], Array, Array]:
    """``Z Z'`` of each training set's standardised rows, summed in float64 over columns; means and deviations."""
    grams: list[Array] = [np.zeros((len(rows), len(rows))) for rows in task.sets]
    means, scales = np.empty((2, len(task.sets), X.shape[1]))
    share = task.shares()
    for columns in blocks.of_columns(X):
        first = X[0, columns].astype(dtype)
        block = np.subtract(X[:, columns], first, dtype=dtype)  # exactly 0 where a column is constant
        mean, scale = mean_and_scale(share.astype(dtype) @ block, share.astype(dtype) @ np.square(block))
        means[:, columns], scales[:, columns] = first + mean, np.where(scale > 0, scale, 1)
        for of, rows in enumerate(task.sets):
            Z = block[rows]
            Z -= mean[of]
            Z *= (1 / scales[of, columns]).astype(dtype)
            grams[of] += Z @ Z.T
    return grams, means, scales
