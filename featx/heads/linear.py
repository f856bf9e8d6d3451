"""Linear heads: logistic regression, support vectors and ridge, on standardised features, solved by ``paths``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy.special import expit, softmax
from sklearn.utils.validation import check_consistent_length

from featx._internal.progress import Progress
from featx.heads.base import Head, LazyRows, group_weights, is_lazy, is_map, require_finite
from featx.heads.solver.paths import SMALL, solve_paths

if TYPE_CHECKING:
    from numpy.typing import NDArray

C_RANGE = 1e-10, 1e6  # beyond, nothing changes any more
TOLERANCE, LARGE_TOLERANCE = 1e-9, 1e-5  # see `solve_paths`: where steps take long, less must do


class LinearHead(Head):
    """Standardise, solve, and keep the solution for features as they come.

    Attributes:
        coef_: ``(classes, d)``, or ``(1, d)`` for two classes, for features minus ``mean_``.
        intercept_: ``(classes,)`` or ``(1,)``.
        mean_: ``(d,)``, of the training rows.
        objective_, gradient_norm_, gap_: of the penalised problem where the solver stopped; ``gap_`` bounds how far
            the objective is above its minimum.
        n_iter_: steps of the solver.
    """

    _learned = ("coef_", "intercept_", "mean_")
    loss: str  # of solve_paths
    C: float
    max_iter: int = 1000

    def fit(
        self,
        X: Any,
        y: Any,
        validation_data: Any = None,
        progress: Progress | None = None,
        groups: Any = None,
    ) -> Self:
        """Fit on ``X``, ``(n, d)`` or ``(n, h, w, c)``, and labels ``y``. Validation rows are not looked at.

        Rows of one group, such as the views of a picture, count as one row together.
        """
        check_C(self.C)
        rows, numbers = self._solver_rows(X, y)
        (path,) = solve_paths(
            rows,
            numbers,
            [self.C],
            self.loss,
            weights=None if groups is None else group_weights(groups),
            tol=TOLERANCE if not is_lazy(rows) and rows.size <= SMALL else LARGE_TOLERANCE,
            max_iter=self.max_iter,
        )
        self.coef_, self.intercept_, self.mean_ = path.coef[0], path.intercept[0].astype(np.float64), path.mean
        self.objective_, self.gradient_norm_ = float(path.objective[0]), float(path.gradient_norm[0])
        self.gap_, self.n_iter_ = float(path.gap[0]), max(1, int(path.n_iter[0]))
        return self

    def decision_function(self, X: Any) -> NDArray[np.floating[Any]]:
        """Scores ``(n, classes)``, or ``(n,)`` for two classes: positive for the second."""
        X = self._rows(X)
        scores: NDArray[np.floating[Any]] = (X - self.mean_.astype(X.dtype)) @ self.coef_.T.astype(X.dtype)
        scores += self.intercept_.astype(X.dtype)
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Probabilities ``(n, classes)``, columns in the order of ``classes_``."""
        return self.probabilities(self.decision_function(X))

    @classmethod
    def probabilities(cls, scores: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Softmax of the margins, ``(n, classes)``: the order is the machine's, the confidence is not calibrated."""
        return _softmax(2 * scores if scores.ndim == 1 else scores)  # the margins of two classes are -f and f

    def _solver_rows(self, X: Any, y: Any) -> tuple[Any, NDArray[np.int64]]:
        """``X`` as the solver takes it: float16, and what lies in a file, is widened there block by block."""
        half = isinstance(X, np.ndarray) and X.dtype == np.float16 and (self.input == "flat" or not is_map(X))
        if not half and not is_lazy(X):
            return self._training_rows(X, y)
        check_consistent_length(X, y)
        _, numbers = self._training_rows(np.zeros((len(X), 1), np.float32), y)
        self.feature_shape_ = tuple(X.shape[1:])
        rows = LazyRows(X, self.input) if is_lazy(X) else require_finite(X.reshape(len(X), -1))
        self.n_features_in_ = rows.shape[1]
        return rows, numbers


def check_C(C: float) -> None:
    """Raise ValueError unless ``C`` is in the range that makes sense."""
    if not C > 0:
        raise ValueError(f"C must be positive. Got {C!r} instead.")
    if not C_RANGE[0] <= C <= C_RANGE[1]:
        raise ValueError(f"C must be from {C_RANGE[0]:g} to {C_RANGE[1]:g}. Got {C!r} instead.")


class LogisticHead(LinearHead):
    """Multinomial logistic regression with a squared penalty.

    Args:
        C: inverse strength of the penalty on standardised features.
        input: what becomes of maps: ``flat``, ``avg`` or ``max``.
        max_iter: steps of the solver, at most.
        random_state: unused, the solution is unique; heads take it alike.
    """

    loss = "logistic"

    def __init__(
        self, C: float = 0.01, *, input: str = "avg", max_iter: int = 1000, random_state: int | None = 0
    ) -> None:
        self.C = C
        self.input = input
        self.max_iter = max_iter
        self.random_state = random_state

    @classmethod
    def probabilities(cls, scores: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """The model's own, ``(n, classes)``."""
        return _softmax(scores)


class SVMHead(LinearHead):
    """Linear support vector machine, squared hinge loss, one class against the rest.

    Args:
        C: inverse strength of the penalty on standardised features; the intercept has none.
        input: what becomes of maps: ``flat``, ``avg`` or ``max``.
        max_iter: steps of the solver, at most.
        random_state: unused, the solution is unique; heads take it alike.
    """

    loss = "squared_hinge"

    def __init__(
        self, C: float = 1e-3, *, input: str = "avg", max_iter: int = 1000, random_state: int | None = 0
    ) -> None:
        self.C = C
        self.input = input
        self.max_iter = max_iter
        self.random_state = random_state


class RidgeHead(LinearHead):
    """Ridge regression on labels of -1 and 1, one class against the rest.

    Args:
        C: inverse strength of the penalty on standardised features; scikit-learn's ``alpha`` is ``1 / (2 C)``.
        input: what becomes of maps: ``flat``, ``avg`` or ``max``.
        random_state: unused, the solution is unique; heads take it alike.
    """

    loss = "squared"

    def __init__(self, C: float = 1e-3, *, input: str = "avg", random_state: int | None = 0) -> None:
        self.C = C
        self.input = input
        self.random_state = random_state


def _softmax(scores: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    if scores.ndim == 1:
        return np.column_stack([expit(-scores), expit(scores)])
    probabilities: NDArray[Any] = softmax(scores, axis=1)
    return probabilities
