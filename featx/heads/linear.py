"""Linear heads: logistic regression, support vectors and ridge, on standardised features.

Each is solved by scikit-learn. When there are fewer rows than columns, an exact twin of the problem is solved instead:
with ``X = Z V'`` and orthonormal ``V``, a model with a squared penalty on ``X`` is ``V`` times the one on ``Z``, which
has as many columns as rows (Hastie & Tibshirani 2004, "Efficient quadratic regularization for expression arrays").
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy.linalg import eigh
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from featx.errors import TrainingError
from featx.heads._base import Head, Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

C_RANGE = 1e-10, 1e6  # beyond, solvers never end, and nothing changes any more
TWIN_ROWS = 3000  # beyond, decomposing the Gram matrix costs more than it saves


class _LinearHead(Head):
    """Standardise, solve, and keep the solution for features as they come.

    Attributes:
        coef_: ``(classes, d)``, or ``(1, d)`` for two classes, for features minus ``mean_``.
        intercept_: ``(classes,)`` or ``(1,)``.
        mean_: ``(d,)``, of the training rows.
    """

    _learned = ("coef_", "intercept_", "mean_")
    C: float

    def fit(self, X: Any, y: Any, validation_data: Any = None, progress: Progress | None = None) -> Self:
        """Fit on ``X``, ``(n, d)`` or ``(n, h, w, c)``, and labels ``y``. Validation rows are not looked at."""
        if not self.C > 0:
            raise ValueError(f"C must be positive. Got {self.C!r} instead.")
        if not C_RANGE[0] <= self.C <= C_RANGE[1]:
            raise ValueError(f"C must be from {C_RANGE[0]:g} to {C_RANGE[1]:g}. Got {self.C!r} instead.")
        X, numbers = self._training_rows(X, y)
        scaler = StandardScaler().fit(X)
        Z, V = _twin(scaler.transform(X))
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                solution = self._solver().fit(Z, numbers)
            except ConvergenceWarning as error:
                raise TrainingError(
                    f"no convergence at C={self.C:g} in the steps allowed; lower C, or raise max_iter"
                ) from error
        coef = np.atleast_2d(solution.coef_)
        coef = coef if V is None else coef @ V.T
        self.n_iter_ = int(np.max(getattr(solution, "n_iter_", None) or 1))
        self.mean_ = scaler.mean_
        self.coef_ = coef / scaler.scale_
        self.intercept_ = np.atleast_1d(solution.intercept_).astype(np.float64)
        return self

    def decision_function(self, X: Any) -> NDArray[np.floating[Any]]:
        """Scores ``(n, classes)``, or ``(n,)`` for two classes: positive for the second."""
        X = self._rows(X)
        scores: NDArray[np.floating[Any]] = (X - self.mean_.astype(X.dtype)) @ self.coef_.T.astype(X.dtype)
        scores += self.intercept_.astype(X.dtype)
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def _solver(self) -> Any:
        raise NotImplementedError  # pragma: no cover - an abstract class


class LogisticHead(_LinearHead):
    """Multinomial logistic regression with a squared penalty.

    Args:
        C: inverse strength of the penalty on standardised features.
        input: what becomes of maps: ``flat``, ``avg`` or ``max``.
        max_iter: steps of the solver.
        random_state: unused, the solution is unique; heads take it alike.
    """

    def __init__(
        self, C: float = 0.01, *, input: str = "avg", max_iter: int = 2000, random_state: int | None = 0
    ) -> None:
        self.C = C
        self.input = input
        self.max_iter = max_iter
        self.random_state = random_state

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """The model's own probabilities, ``(n, classes)``."""
        return _softmax(self.decision_function(X))

    def _solver(self) -> Any:
        return LogisticRegression(C=self.C, max_iter=self.max_iter, tol=1e-5)


class _MarginHead(_LinearHead):
    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Softmax of the margins, ``(n, classes)``: the order is the machine's, the confidence is not calibrated."""
        scores = self.decision_function(X)
        return _softmax(2 * scores if scores.ndim == 1 else scores)  # the margins of two classes are -f and f


class SVMHead(_MarginHead):
    """Linear support vector machine, squared hinge loss, one class against the rest.

    Args:
        C: inverse strength of the penalty on standardised features.
        input: what becomes of maps: ``flat``, ``avg`` or ``max``.
        max_iter: steps of the solver.
        random_state: seed of the solver's order.
    """

    def __init__(
        self, C: float = 1e-4, *, input: str = "avg", max_iter: int = 20000, random_state: int | None = 0
    ) -> None:
        self.C = C
        self.input = input
        self.max_iter = max_iter
        self.random_state = random_state

    def _solver(self) -> Any:
        return LinearSVC(C=self.C, dual="auto", max_iter=self.max_iter, random_state=self.random_state, tol=1e-5)


class RidgeHead(_MarginHead):
    """Ridge regression on labels of -1 and 1, one class against the rest.

    Args:
        C: inverse strength of the penalty on standardised features; scikit-learn's ``alpha`` is ``1 / (2 C)``.
        input: what becomes of maps: ``flat``, ``avg`` or ``max``.
        random_state: unused, the solution is direct; heads take it alike.
    """

    def __init__(self, C: float = 1e-3, *, input: str = "avg", random_state: int | None = 0) -> None:
        self.C = C
        self.input = input
        self.random_state = random_state

    def _solver(self) -> Any:
        return RidgeClassifier(alpha=1 / (2 * self.C))


def _twin(X: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """``Z`` and ``V`` with ``X = Z V'``, ``V`` orthonormal, where that makes ``Z`` narrower; else ``X`` and None."""
    n_samples, n_features = X.shape
    if not 1 < n_samples < min(n_features, TWIN_ROWS):
        return X, None
    X = X.astype(np.float64, copy=False)
    eigenvalues, U = eigh(X @ X.T)
    keep = eigenvalues > eigenvalues[-1] * n_samples * np.finfo(np.float64).eps
    if eigenvalues[-1] <= 0:  # all columns are constant: there is nothing to rotate
        return X, None
    singular = np.sqrt(eigenvalues[keep])
    U = U[:, keep]
    return U * singular, (X.T @ U) / singular


def _softmax(scores: NDArray[Any]) -> NDArray[Any]:
    if scores.ndim == 1:
        return np.column_stack([expit(-scores), expit(scores)])
    probabilities: NDArray[Any] = softmax(scores, axis=1)
    return probabilities
