"""Training sets of a path: what they have in common, and their solutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featx.heads.solver.losses import logistic, squared, squared_hinge
from featx.heads.solver.minimise import minimise
from featx.heads.solver.newton import newton
from featx.heads.solver.problems import Minimum, Problems

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featx.heads.solver.losses import Array, Loss

LOSSES: dict[str, Loss] = {"logistic": logistic, "squared_hinge": squared_hinge, "squared": squared}
GRAM_COLUMNS = 4096  # beyond, finite Newton steps and whole decompositions cost too much
SMALL = 2**20  # values of Z up to which float64 costs nothing

Counted = Callable[[int, int], None]  # called with how much is done, and of how much


@dataclass(frozen=True)
class SolutionPath:
    """Solutions of one training set, an entry per value of C.

    Scores are ``(X - mean) @ coef[i].T + intercept[i]``.

    Attributes:
        C: inverse strengths of the penalty, ``(n_C,)``.
        coef: ``(n_C, outputs, d)``, coefficients of features as they come; one output for two classes.
        intercept: ``(n_C, outputs)``.
        mean: ``(d,)``, means of the features.
        objective: ``(n_C,)``: ``C * sum of weight * loss + |coefficients of standardised features|^2 / 2``.
        gradient_norm: norm of its gradient where the solver stopped, ``(n_C,)``.
        gap: how far the objective is above its minimum at most, ``(n_C,)``.
        n_iter: steps of the solver, ``(n_C,)``.
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


@dataclass
class Task:
    """Training sets of the same rows, and how they are to be solved; see :func:`solve_paths`.

    Attributes:
        X: ``(n, d)``, an array or rows on demand.
        y: class numbers ``(n,)``.
        C: inverse strengths of the penalty, ``(n_C,)``.
        loss: loss of one row.
        sets: row numbers of each training set.
        weights: weight of each row, ``(n,)``.
        tol, max_iter: when to stop.
        progress: called with the solutions found and how many there are.
        done: solutions found so far.
    """

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
        """1 for two classes, else their number."""
        n_classes = int(self.y.max()) + 1
        return n_classes if n_classes > 2 else 1

    @property
    def solver(self) -> Callable[..., Minimum]:
        """Function that minimises problems of this loss and size."""
        wide = min(self.X.shape[1], len(self.y)) > GRAM_COLUMNS
        return newton if self.loss is squared_hinge and not wide else minimise

    def dtype(self, columns: int) -> Any:
        """float64 for small problems and where ``X`` has it, else float32."""
        wide = getattr(self.X, "dtype", None) == np.float64 or len(self.y) * columns <= SMALL
        return np.float64 if wide else np.float32

    def shares(self) -> Array:
        """Share of each row in each training set, ``(sets, n)``; a set's sum is 1."""
        shares = np.zeros((len(self.sets), len(self.y)))
        for share, rows in zip(shares, self.sets, strict=True):
            share[rows] = self.weights[rows] / self.weights[rows].sum()
        return shares

    def solve(self, problems: Problems) -> list[Minimum]:
        """Minimum for each C, in the order of ``C``: solved from strong penalties on, each extrapolated to the next."""
        minima: dict[int, Minimum] = {}
        before: list[tuple[float, Array]] = []
        for at in np.argsort(self.C, kind="stable").tolist():
            start = _extrapolated(before, float(np.log(self.C[at])), problems)
            minima[at] = self.solver(problems, float(self.C[at]), start, self.tol, self.max_iter)
            before = [*before[-1:], (float(np.log(self.C[at])), minima[at].W)]
            self.done += len(start)
            if self.progress:
                self.progress(self.done, len(self.sets) * len(self.C))
        return [minima[at] for at in range(len(self.C))]


def _extrapolated(before: list[tuple[float, Array]], to: float, problems: Problems) -> Array:
    if len(before) < 2 or before[1][0] == before[0][0]:
        return before[-1][1] if before else problems.zeros()
    (first, W_first), (last, W_last) = before
    return W_last + W_last.dtype.type((to - last) / (last - first)) * (W_last - W_first)


def path_of(task: Task, minima: list[Minimum], of: int, coef: Array, intercept: Array, mean: Array) -> SolutionPath:
    """Path of one training set, from the minima of all at each C."""
    names = ("objective", "gradient_norm", "gap", "n_iter")
    measures = (np.array([getattr(minimum, name)[of] for minimum in minima]) for name in names)
    return SolutionPath(task.C, coef, intercept, mean, *measures)
