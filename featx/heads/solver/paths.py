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

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featx.errors import require_choice
from featx.heads.settings import Whole
from featx.heads.solver.task import LOSSES, Counted, SolutionPath, Task
from featx.heads.solver.together import together
from featx.heads.solver.twins import twins

if TYPE_CHECKING:
    from numpy.typing import NDArray

TWIN_ROWS = 3000  # beyond, decomposing the Gram matrix of rows costs more than it saves
TINY = 2**18  # values of Z up to which many digits cost nothing


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
) -> Iterator[SolutionPath]:
    """Solve a linear model for all values of ``C`` and all training sets, features standardised by each set's rows.

    Args:
        X: ``(n, d)``, float16, float32 or float64; or anything with a ``shape`` that gives such rows when sliced.
        y: class numbers ``(n,)``, from 0; a training set has every class.
        C: inverse strengths of the penalty.
        loss: ``logistic`` (multinomial), ``squared_hinge`` or ``squared`` (one class against the rest).
        trainings: row numbers of each training set, such as those of the folds; all rows by default.
        weights: weight of each row in the loss and in mean and deviation, ``(n,)``; 1 by default.
        tol: share of its penalty below which a solution's gap is certified to be. Its coefficients are then off by
            ``sqrt(tol)`` of their length at most, and the objective by ``tol``. By default 1e-9 for the smallest
            problems, which take no time, and 1e-4 for others.
        max_iter: evaluations for each value of C.
        progress: called with the solutions found and how many there are.

    Yields:
        solutions: a :class:`SolutionPath` for each training set, in order.

    Raises:
        SettingError: an unknown loss, or no step at all.
    """
    require_choice("loss", loss, LOSSES)
    Whole(1).check("max_iter", max_iter)
    y = np.asarray(y, np.int64)
    sets = [np.arange(len(y))] if trainings is None else list(trainings)
    weights = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    if tol is None:
        tol = 1e-9 if len(y) * X.shape[1] <= TINY else 1e-4
    task = Task(X, y, np.asarray(C, float), LOSSES[loss], sets, weights, tol, max_iter, progress)
    n_rows = max(len(rows) for rows in sets)
    yield from (twins if 1 < n_rows < min(X.shape[1], TWIN_ROWS) else together)(task)
