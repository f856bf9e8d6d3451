"""Whole regularisation paths of linear heads: all values of C, for all folds of a cross-validation, in one go.

Exact, up to a certified gap: the objective reached is at most ``tol`` above its minimum. What makes it quick:

- With fewer rows than columns an exact twin of the problem is solved, which has as many columns as rows: with
  ``X = Z V'`` and orthonormal ``V``, a model with a squared penalty on ``X`` is ``V`` times the one on ``Z`` (Hastie &
  Tibshirani 2004, "Efficient quadratic regularization for expression arrays").
- Otherwise all folds share one ``Z``. A fold's own standardisation is a rescaling of the penalty, so the folds differ
  only in small things, and one matrix product serves them all.
- The directions of largest variance, sketched once, precondition all values of C and all folds.
- The path goes from strong to weak penalties, and each solution is extrapolated to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import solve_triangular

from featx.heads.solver.minimise import Minimum, Problems, logistic, minimise, squared, squared_hinge
from featx.heads.solver.newton import newton

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featx.heads.solver.minimise import Array, Loss

LOSSES: dict[str, Loss] = {"logistic": logistic, "squared_hinge": squared_hinge, "squared": squared}
TWIN_ROWS = 3000  # beyond, decomposing the Gram matrix of rows costs more than it saves
GRAM_COLUMNS = 4096  # beyond, finite Newton steps and whole decompositions cost too much
SKETCH = 64  # directions of largest variance that the preconditioner knows: 32 took a fifth more steps, 400 as many
SMALL, TINY = 2**20, 2**18  # values of Z up to which float64, and many digits, cost nothing
BLOCK_BYTES = 32 * 2**20  # of X that are converted at a time
MEMORY_BYTES = 2**29  # of standardised X that are kept; more is made anew, block by block, whenever it is needed

Counted = Callable[[int, int], None]  # called with how much is done, and of how much


@dataclass(frozen=True)
class Path:
    """The solutions of one training set, an entry a value of C.

    Scores are ``(X - mean) @ coef[i].T + intercept[i]``.

    Attributes:
        C: ``(n_C,)``, as asked for.
        coef: ``(n_C, outputs, d)``, for features as they come; one output for two classes.
        intercept: ``(n_C, outputs)``.
        mean: ``(d,)``.
        objective: ``(n_C,)``: ``C * sum of weight * loss + |coefficients of standardised features|^2 / 2``.
        gradient_norm: of the objective where the solver stopped, ``(n_C,)``.
        gap: by how much the objective can be above its minimum at most, ``(n_C,)``.
        n_iter: ``(n_C,)``.
    """

    C: Array
    coef: Array
    intercept: Array
    mean: Array
    objective: Array
    gradient_norm: Array
    gap: Array
    n_iter: NDArray[np.int64]

    def decision(self, X: NDArray[Any]) -> Array:
        """Scores ``(n_C, n, outputs)`` of rows ``X``, ``(n, d)``."""
        n_C, n_outputs, d = self.coef.shape
        scores: Array = (X - self.mean.astype(X.dtype)) @ self.coef.reshape(-1, d).T.astype(X.dtype)
        by_C: Array = scores.reshape(len(X), n_C, n_outputs).transpose(1, 0, 2)
        by_C += self.intercept[:, None].astype(X.dtype)
        return by_C


def solve_paths(
    X: Any,
    y: NDArray[np.int64],
    C: Sequence[float],
    loss: str = "logistic",
    *,
    trainings: Sequence[NDArray[np.int64]] | None = None,
    weights: NDArray[Any] | None = None,
    tol: float | None = None,
    max_iter: int = 1000,
    progress: Counted | None = None,
) -> Iterator[Path]:
    """Solve a linear model for all values of ``C`` and all training sets. Features are standardised by each set's rows.

    Args:
        X: ``(n, d)``, float16, float32 or float64; or anything with a ``shape`` that gives such rows when sliced.
        y: class numbers ``(n,)``, from 0; a training set has every class.
        C: inverse strengths of the penalty.
        loss: ``logistic`` (multinomial), ``squared_hinge`` or ``squared`` (one class against the rest).
        trainings: row numbers of each training set, such as those of the folds; all rows by default.
        weights: of each row in the loss and in mean and deviation, ``(n,)``; 1 by default.
        tol: a solution counts as found when its gap is certified to be below this share of its penalty: then the
            coefficients are off by ``sqrt(tol)`` of their length at most, and the objective by ``tol``. By default 1e-9
            for the smallest problems, which take no time, and 1e-4 for others.
        max_iter: evaluations for each value of C.
        progress: called with the solutions found and how many there are.

    Yields:
        a :class:`Path` for each training set, in order.
    """
    if max_iter < 1:
        raise ValueError(f"max_iter must be at least 1. Got {max_iter!r} instead.")
    y = np.asarray(y, np.int64)
    sets = [np.arange(len(y))] if trainings is None else list(trainings)
    rows = max(len(rows) for rows in sets)
    if tol is None:
        tol = 1e-9 if len(y) * X.shape[1] <= TINY else 1e-4
    task = _Task(X, y, np.asarray(C, float), LOSSES[loss], sets, _weights(weights, len(y)), tol, max_iter, progress)
    yield from (_twins if 1 < rows < min(X.shape[1], TWIN_ROWS) else _together)(task)


@dataclass
class _Task:
    X: Any
    y: NDArray[np.int64]
    C: Array
    loss: Loss
    sets: list[NDArray[np.int64]]
    weights: Array
    tol: float
    max_iter: int
    progress: Counted | None
    done: int = 0

    @property
    def n_outputs(self) -> int:
        n_classes = int(self.y.max()) + 1
        return n_classes if n_classes > 2 else 1

    @property
    def solver(self) -> Callable[..., Minimum]:
        wide = min(self.X.shape[1], len(self.y)) > GRAM_COLUMNS
        return newton if self.loss is squared_hinge and not wide else minimise

    def dtype(self, columns: int) -> Any:
        wide = getattr(self.X, "dtype", None) == np.float64 or len(self.y) * columns <= SMALL
        return np.float64 if wide else np.float32

    def shares(self) -> Array:
        """How much each row counts in each training set, ``(sets, n)``; a set's sum is 1."""
        shares = np.zeros((len(self.sets), len(self.y)))
        for mine, rows in zip(shares, self.sets, strict=True):
            mine[rows] = self.weights[rows] / self.weights[rows].sum()
        return shares

    def solve(self, problems: Problems) -> list[Minimum]:
        """A minimum for each C, as asked for: from strong to weak penalties, each extrapolated to the next."""
        found: dict[int, Minimum] = {}
        before: list[tuple[float, Array]] = []
        for at in np.argsort(self.C, kind="stable").tolist():
            start = _extrapolated(before, float(np.log(self.C[at])), problems)
            found[at] = self.solver(problems, float(self.C[at]), start, self.tol, self.max_iter)
            before = [*before[-1:], (float(np.log(self.C[at])), found[at].W)]
            self.done += len(start)
            if self.progress:
                self.progress(self.done, len(self.sets) * len(self.C))
        return [found[at] for at in range(len(self.C))]


def _weights(weights: NDArray[Any] | None, n: int) -> Array:
    return np.ones(n) if weights is None else np.asarray(weights, np.float64)


def _extrapolated(before: list[tuple[float, Array]], to: float, problems: Problems) -> Array:
    if len(before) < 2 or before[1][0] == before[0][0]:
        return before[-1][1] if before else problems.zeros()
    (first, W_first), (last, W_last) = before
    return W_last + W_last.dtype.type((to - last) / (last - first)) * (W_last - W_first)


def _path(task: _Task, minima: list[Minimum], of: int, coef: Array, intercept: Array, mean: Array) -> Path:
    measures = (np.array([getattr(m, n)[of] for m in minima]) for n in ("objective", "gradient_norm", "gap", "n_iter"))
    return Path(task.C, coef, intercept, mean, *measures)


# ------------------------------------------------------------------------------------ fewer rows than columns: the twin


def _twins(task: _Task) -> Iterator[Path]:
    """Solve each training set's own twin. ``X`` is gone through by columns, a few of them standardised at a time."""
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
        for columns in _column_blocks(X):
            np.matmul(dual, X[:, columns].astype(dtype, copy=False), out=coef[:, columns])
        coef -= np.outer(dual.sum(axis=1, dtype=np.float64), means[of]).astype(dtype)
        coef /= np.square(scales[of]).astype(dtype)
        yield _path(task, minima, 0, coef.reshape(*W.shape[:2], -1), W[..., -1], means[of])


def _root(gram: Array, dtype: Any, diagonal: bool) -> tuple[Array, Callable[[Array], Array]]:
    """``Z`` with ``Z Z' = gram``, and what turns coefficients for it, ``(n, columns)``, into weights of the rows."""
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
    """The root of ``gram``; None if rows are repeated, or combinations of others.

    Rows about their mean are dependent. A constant column more makes them independent, and changes nothing: the
    intercept, which has no penalty, leaves nothing to it.
    """
    try:
        root: Array = np.linalg.cholesky(gram + gram.trace() / len(gram) ** 2)
    except np.linalg.LinAlgError:
        return None
    return root


def _twin_problem(root: Array, task: _Task, rows: NDArray[np.int64], dtype: Any) -> Problems:
    Z = np.column_stack([root, np.ones(len(rows))]).astype(dtype)
    columns = np.square(root).sum(axis=0)
    basis: Array | None = None
    spectrum, rest = columns, 0.0  # of a parabola's diagonal ``Z' Z``
    if task.loss is not squared:
        spectrum, basis, rest = _spectrum(lambda: iter([(slice(None), Z)]), len(columns), float(columns.sum()), dtype)
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


def _grams(X: NDArray[Any], task: _Task, dtype: Any) -> tuple[list[Array], Array, Array]:
    """``Z Z'`` of each training set's standardised rows, summed in float64 over columns; means and deviations."""
    grams: list[Array] = [np.zeros((len(rows), len(rows))) for rows in task.sets]
    means, scales = np.empty((2, len(task.sets), X.shape[1]))
    share = task.shares()
    for columns in _column_blocks(X):
        first = X[0, columns].astype(dtype)
        block = np.subtract(X[:, columns], first, dtype=dtype)  # exactly 0 where a column is constant
        mean, scale = _mean_and_scale(share.astype(dtype) @ block, share.astype(dtype) @ np.square(block))
        means[:, columns], scales[:, columns] = first + mean, np.where(scale > 0, scale, 1)
        for of, rows in enumerate(task.sets):
            Z = block[rows]
            Z -= mean[of]
            Z *= (1 / scales[of, columns]).astype(dtype)
            grams[of] += Z @ Z.T
    return grams, means, scales


def _mean_and_scale(sums: Array, squares: Array) -> tuple[Array, Array]:
    """Mean and deviation from weighted sums of values and their squares; 0 where that is nothing but rounding."""
    variance = squares - sums**2
    variance[variance <= 10 * np.finfo(squares.dtype).eps * squares] = 0
    return sums, np.sqrt(variance)


def _column_blocks(X: NDArray[Any]) -> Iterator[slice]:
    step = max(1, BLOCK_BYTES // 4 // len(X))
    return (slice(start, start + step) for start in range(0, X.shape[1], step))


# ----------------------------------------------------------------------------------- fewer columns than rows: all folds


def _together(task: _Task) -> Iterator[Path]:
    """Solve all training sets on one ``Z``, standardised by all rows; each set's own scale is in its penalty."""
    d = task.X.shape[1]
    dtype = task.dtype(d)
    shares = task.shares()
    weights = np.where(shares > 0, task.weights, 0)
    everything = weights.max(axis=0) / weights.max(axis=0).sum()
    mean, scale = _moments(task.X, np.vstack([everything, shares]), dtype)
    mean, reference, own = mean[0], np.where(scale[0] > 0, scale[0], 1), scale[1:]
    blocks = _blocks_of(task.X, mean, reference, dtype)
    whole = task.loss is squared and d <= GRAM_COLUMNS
    spectrum, basis, rest = _spectrum(blocks, d, float(len(task.y) * d), dtype, whole)
    share = weights.sum(axis=1, keepdims=True) / len(task.y)
    usable = (own > 0) | (scale[0] == 0)
    problems = Problems(
        blocks=blocks,
        y=task.y,
        n_outputs=task.n_outputs,
        loss=task.loss,
        weights=weights.astype(dtype),
        penalty=np.column_stack([np.where(own > 0, own / reference, 1) ** 2, np.zeros(len(own))]).astype(dtype),
        spectrum=share * spectrum,
        basis=basis,
        rest=rest * float(share.mean()),
        usable=None if usable.all() else np.column_stack([usable, np.ones(len(own))]).astype(dtype),
    )
    minima = task.solve(problems)
    for of in range(len(task.sets)):
        W = np.stack([m.W[of] for m in minima])
        yield _path(task, minima, of, W[..., :-1] / reference.astype(dtype), W[..., -1], mean)


def _row_blocks(X: Any) -> Iterator[slice]:
    step = max(1, BLOCK_BYTES // 4 // X.shape[1])
    return (slice(start, min(start + step, X.shape[0])) for start in range(0, X.shape[0], step))


def _moments(X: Any, share: Array, dtype: Any) -> tuple[Array, Array]:
    """Weighted means and deviations ``(sets, d)`` of the columns of ``X`` for each row of shares, in one pass."""
    first = np.asarray(X[:1])[0].astype(np.float64)
    sums, squares = np.zeros((2, len(share), X.shape[1]))
    for rows in _row_blocks(X):
        values = X[rows].astype(dtype) - first.astype(dtype)  # exactly 0 where a column is constant
        sums += share[:, rows].astype(dtype) @ values
        squares += share[:, rows].astype(dtype) @ np.square(values, out=values)
    sums, scale = _mean_and_scale(sums.astype(dtype), squares.astype(dtype))
    return first + sums, scale


def _blocks_of(X: Any, mean: Array, scale: Array, dtype: Any) -> Callable[[], Iterator[tuple[slice, Array]]]:
    """Standardised rows with a last column of ones, in blocks; kept, if they all fit."""
    n, d = X.shape
    shift, factor = mean.astype(dtype), (1 / scale).astype(dtype)

    def made() -> Iterator[tuple[slice, Array]]:
        for rows in _row_blocks(X):
            Z = np.ones((rows.stop - rows.start, d + 1), dtype)
            np.subtract(X[rows], shift, out=Z[:, :-1], casting="unsafe")
            Z[:, :-1] *= factor
            yield rows, Z

    if n * (d + 1) * np.dtype(dtype).itemsize > MEMORY_BYTES:
        return made
    kept = list(made())
    return lambda: iter(kept)


def _spectrum(
    blocks: Callable[[], Iterator[tuple[slice, Array]]], d: int, trace: float, dtype: Any, whole: bool = False
) -> tuple[Array, Array, float]:
    """Eigenvalues and vectors of ``Z' Z``: all if asked for or if they are few, else the largest; the others' mean.

    By subspace iteration from random directions (Halko, Martinsson & Tropp 2011, "Finding structure with randomness").
    """
    if whole or d <= 2 * SKETCH:
        gram = np.zeros((d, d))
        for _, Z in blocks():
            gram += Z[:, :-1].T @ Z[:, :-1]
        eigenvalues, basis = np.linalg.eigh(gram)
        return np.maximum(eigenvalues, 0), basis.astype(dtype), 0.0
    basis = np.random.default_rng(0).normal(size=(d, SKETCH)).astype(dtype)
    for _ in range(3):
        basis, _ = np.linalg.qr(basis)
        product = np.zeros_like(basis)
        for _, Z in blocks():
            product += Z[:, :-1].T @ (Z[:, :-1] @ basis)
        eigenvalues, turn = np.linalg.eigh((basis.T @ product).astype(np.float64))
        directions, basis = basis @ turn.astype(dtype), product
    return np.maximum(eigenvalues, 0), directions, max(trace - float(eigenvalues.sum()), 0) / (d - SKETCH)
