"""Linear heads: logistic regression, support vectors and ridge, on standardised features, solved by ``solver``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from scipy.special import expit, softmax
from sklearn.utils.validation import check_consistent_length

from featx._internal.progress import Progress
from featx.heads.base import Head, LazyRows, OnEpoch, group_weights, is_lazy, require_finite
from featx.heads.layers import LayeredHead
from featx.heads.network.architecture import Architecture
from featx.heads.pooling import is_map
from featx.heads.settings import Constraint, Number, Whole
from featx.heads.solver.paths import solve_paths
from featx.heads.solver.task import SMALL

if TYPE_CHECKING:
    from numpy.typing import NDArray

C_RANGE = Number(1e-10, 1e6)  # beyond, nothing changes any more
TOLERANCE, LARGE_TOLERANCE = 1e-9, 1e-5  # see `solve_paths`: where steps take long, less must do
BLOCK_BYTES = 32 * 2**20  # of float32 rows whose scores are computed at a time


class LinearHead(LayeredHead):
    """A head that standardises, solves, and keeps the solution for features as they come.

    Attributes:
        coef_: ``(classes, d)``, or ``(1, d)`` for two classes, for features minus ``mean_``.
        intercept_: ``(classes,)`` or ``(1,)``.
        mean_: ``(d,)``, means of the training rows.
        objective_, gradient_norm_, gap_: objective of the penalised problem where the solver stopped, norm of its
            gradient, and a bound of how far it is above its minimum.
        n_iter_: steps of the solver.
    """

    constraints: ClassVar[Mapping[str, Constraint]] = {**Head.constraints, "C": C_RANGE, "max_iter": Whole(1)}
    has_path = True
    loss: str  # of solve_paths
    C: float
    max_iter: int = 1000

    _learned = ("coef_", "intercept_", "mean_")
    _logits_per_score = 1.0  # with two classes the logits are minus and plus the score, times this

    def fit(
        self,
        X: Any,
        y: Any,
        validation_data: Any = None,
        progress: Progress | None = None,
        groups: Any = None,
        on_epoch: OnEpoch | None = None,
    ) -> Self:
        """Fit on ``X``, ``(n, d)`` or ``(n, h, w, c)``, and labels ``y``. Validation rows are not looked at.

        Rows of one group, such as the views of a picture, count as one row together.

        Raises:
            SettingError: a setting out of its range.
            TrainingError: rows that cannot be trained on.
        """
        self.check_settings()
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
        self.coef_ = path.coef[0]
        self.intercept_ = path.intercept[0].astype(np.float64)
        self.mean_ = path.mean
        self.objective_ = float(path.objective[0])
        self.gradient_norm_ = float(path.gradient_norm[0])
        self.gap_ = float(path.gap[0])
        self.n_iter_ = max(1, int(path.n_iter[0]))
        return self

    def path_probabilities(
        self,
        X: Any,
        y: Any,
        C: list[float],
        fold: NDArray[np.int64],
        groups: Any = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Out-of-fold probabilities of each row for all values of ``C``, all folds being solved at once.

        Args:
            X: ``(n, d)`` or ``(n, h, w, c)``, an array or lazy.
            y: labels, ``(n,)``.
            C: inverse strengths of the penalty.
            fold: int ``(n,)``, the part in which each row is held out, from 0.
            groups: as for :meth:`fit`.
            progress: called with "paths", the solutions found and how many there are.

        Returns:
            float32 ``(n_C, n, classes)``, by a head that was fitted without the row's part.
        """
        rows, numbers = self._solver_rows(X, y)
        parts = range(int(fold.max()) + 1)
        paths = solve_paths(
            rows,
            numbers,
            C,
            self.loss,
            trainings=[np.flatnonzero(fold != part) for part in parts],
            weights=None if groups is None else group_weights(groups),
            max_iter=self.max_iter,
            progress=None if progress is None else lambda done, of: progress("paths", done, of),
        )
        probabilities = np.zeros((len(C), len(numbers), len(self.classes_)), np.float32)
        for part, path in zip(parts, paths, strict=True):
            held_out = np.flatnonzero(fold == part)
            blocks = [path.decision(np.asarray(rows[block], np.float32)) for block in _blocks(rows, held_out)]
            scores = np.concatenate(blocks, axis=1)
            probabilities[:, held_out] = [self.probabilities(s[:, 0] if s.shape[1] == 1 else s) for s in scores]
        return probabilities

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

    def architecture(self, width: int, n_classes: int) -> Architecture:
        """One dense layer on rows of ``width`` columns."""
        return Architecture(width, n_classes, hidden=0, layers=0, batch_norm=False, dropout_first=False)

    def keras_weights(self) -> list[NDArray[np.float32]]:
        """Weights of :meth:`keras_layers` that make it compute what this fitted head computes."""
        coef, intercept = self.coef_, self.intercept_
        if len(self.classes_) == 2:
            share = self._logits_per_score
            coef = np.concatenate([-share * coef, share * coef])
            intercept = np.concatenate([-share * intercept, share * intercept])
        weights = [self.mean_, np.ones_like(self.mean_), coef.T, intercept]
        return [np.asarray(value, np.float32) for value in weights]

    def _initial_weights(self, architecture: Architecture, rng: np.random.Generator) -> list[NDArray[np.float32]]:
        return [np.zeros_like(value) for value in architecture.initial_weights(rng)]

    def _solver_rows(self, X: Any, y: Any) -> tuple[Any, NDArray[np.int64]]:
        """Rows as the solver takes them, which widens float16 and lazy ones block by block; sets what fitting sets."""
        half = isinstance(X, np.ndarray) and X.dtype == np.float16 and (self.input == "flat" or not is_map(X))
        if not half and not is_lazy(X):
            return self._training_rows(X, y)
        check_consistent_length(X, y)
        _, numbers = self._training_rows(np.zeros((len(X), 1), np.float32), y)
        self.feature_shape_ = tuple(X.shape[1:])
        rows = LazyRows(X, self.input) if is_lazy(X) else require_finite(X.reshape(len(X), -1))
        self.n_features_in_ = rows.shape[1]
        return rows, numbers


class LogisticHead(LinearHead):
    """Multinomial logistic regression with a squared penalty, on features standardised by the training rows.

    Solved to a certified gap: for small problems the objective is off by a billionth of its penalty at most.

    Args:
        C (float, default 0.01): inverse strength of the penalty on standardised features; the intercept has none.
        input (``flat``, ``avg`` or ``max``, default ``avg``): what becomes of maps.
        max_iter (int, default 1000): steps of the solver, at most.
        random_state (int or None, default 0): unused, the solution is unique; heads take it alike.

    Attributes:
        classes_: the labels, sorted, ``(classes,)``.
        coef_: ``(classes, d)``, or ``(1, d)`` for two classes, for features minus ``mean_``.
        intercept_: float64 ``(classes,)`` or ``(1,)``.
        mean_: ``(d,)``, means of the training rows.
        objective_, gradient_norm_, gap_ (float): objective of the penalised problem where the solver stopped, norm of
            its gradient, and a bound of how far it is above its minimum.
        n_iter_ (int): steps of the solver.
        n_features_in_ (int): ``d``, columns of ``X`` once it is flat or pooled.
        feature_shape_: shape of one row of ``X`` as given, ``(d,)`` or ``(h, w, c)``.

    See Also:
        SVMHead, RidgeHead: other losses.
        featx.cross_validate: chooses ``C``, and measures all its values at once.

    References:
        T. Hastie & R. Tibshirani (2004), "Efficient quadratic regularization for expression arrays", Biostatistics 5.
        D. Liu & J. Nocedal (1989), "On the limited memory BFGS method for large scale optimization", Mathematical
        Programming 45.

    Example:
        >>> import numpy as np
        >>> from featx.heads import LogisticHead
        >>> X = np.array([[-1.0, -1.0], [-2.0, -1.0], [-3.0, -2.0], [1.0, 1.0], [2.0, 1.0], [3.0, 2.0]])
        >>> y = np.array([1, 1, 1, 2, 2, 2])
        >>> head = LogisticHead(C=1.0).fit(X, y)
        >>> head.predict([[-0.8, -1.0]])
        array([1])
        >>> head.predict_proba([[-0.8, -1.0]]).round(2)
        array([[0.72, 0.28]])
    """

    loss = "logistic"
    _logits_per_score = 0.5

    def __init__(
        self, C: float = 0.01, *, input: str = "avg", max_iter: int = 1000, random_state: int | None = 0
    ) -> None:
        self.C = C
        self.input = input
        self.max_iter = max_iter
        self.random_state = random_state

    @classmethod
    def probabilities(cls, scores: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Probabilities of the model for its scores, ``(n, classes)``."""
        return _softmax(scores)


class SVMHead(LinearHead):
    """Linear support vector machine, squared hinge loss, one class against the rest, on standardised features.

    Args:
        C (float, default 1e-3): inverse strength of the penalty on standardised features; the intercept has none.
        input (``flat``, ``avg`` or ``max``, default ``avg``): what becomes of maps.
        max_iter (int, default 1000): steps of the solver, at most.
        random_state (int or None, default 0): unused, the solution is unique; heads take it alike.

    Attributes:
        classes_: the labels, sorted, ``(classes,)``.
        coef_: ``(classes, d)``, or ``(1, d)`` for two classes, for features minus ``mean_``.
        intercept_: float64 ``(classes,)`` or ``(1,)``.
        mean_: ``(d,)``, means of the training rows.
        objective_, gradient_norm_, gap_ (float): objective of the penalised problem where the solver stopped, norm of
            its gradient, and a bound of how far it is above its minimum.
        n_iter_ (int): steps of the solver.
        n_features_in_ (int): ``d``, columns of ``X`` once it is flat or pooled.
        feature_shape_: shape of one row of ``X`` as given, ``(d,)`` or ``(h, w, c)``.

    See Also:
        LogisticHead, RidgeHead: other losses.

    References:
        C. Cortes & V. Vapnik (1995), "Support-vector networks", Machine Learning 20.
        S. Keerthi & D. DeCoste (2005), "A modified finite Newton method for fast solution of large scale linear SVMs",
        JMLR 6.

    Example:
        >>> import numpy as np
        >>> from featx.heads import SVMHead
        >>> X = np.array([[-1.0, -1.0], [-2.0, -1.0], [-3.0, -2.0], [1.0, 1.0], [2.0, 1.0], [3.0, 2.0]])
        >>> y = np.array(["left", "left", "left", "right", "right", "right"])
        >>> head = SVMHead(C=1.0).fit(X, y)
        >>> head.predict([[-0.8, -1.0]]).tolist()
        ['left']
        >>> head.decision_function([[-0.8, -1.0]]).round(2)
        array([-0.71])
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
    """Ridge regression on labels of -1 and 1, one class against the rest, on standardised features.

    Args:
        C (float, default 1e-3): inverse strength of the penalty on standardised features; scikit-learn's ``alpha`` is
            ``1 / (2 C)``. The intercept has none.
        input (``flat``, ``avg`` or ``max``, default ``avg``): what becomes of maps.
        random_state (int or None, default 0): unused, the solution is unique; heads take it alike.

    Attributes:
        classes_: the labels, sorted, ``(classes,)``.
        coef_: ``(classes, d)``, or ``(1, d)`` for two classes, for features minus ``mean_``.
        intercept_: float64 ``(classes,)`` or ``(1,)``.
        mean_: ``(d,)``, means of the training rows.
        objective_, gradient_norm_, gap_ (float): objective of the penalised problem where the solver stopped, norm of
            its gradient, and a bound of how far it is above its minimum.
        n_iter_ (int): steps of the solver.
        n_features_in_ (int): ``d``, columns of ``X`` once it is flat or pooled.
        feature_shape_: shape of one row of ``X`` as given, ``(d,)`` or ``(h, w, c)``.

    See Also:
        LogisticHead, SVMHead: other losses.

    References:
        A. Hoerl & R. Kennard (1970), "Ridge regression: biased estimation for nonorthogonal problems", Technometrics
        12.

    Example:
        >>> import numpy as np
        >>> from featx.heads import RidgeHead
        >>> X = np.array([[-1.0, -1.0], [-2.0, -1.0], [-3.0, -2.0], [1.0, 1.0], [2.0, 1.0], [3.0, 2.0]])
        >>> y = np.array([1, 1, 1, 2, 2, 2])
        >>> head = RidgeHead(C=1.0).fit(X, y)
        >>> head.predict([[-0.8, -1.0]])
        array([1])
        >>> head.coef_.shape
        (1, 2)
    """

    loss = "squared"

    def __init__(self, C: float = 1e-3, *, input: str = "avg", random_state: int | None = 0) -> None:
        self.C = C
        self.input = input
        self.random_state = random_state


def check_C(C: float) -> None:
    """Raise :class:`featx.errors.SettingError` unless ``C`` is in the range that makes sense."""
    C_RANGE.check("C", C)


def _blocks(rows: Any, numbers: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Row numbers in pieces whose rows are in memory at a time."""
    step = max(1, BLOCK_BYTES // (4 * rows.shape[1]))
    return (numbers[start : start + step] for start in range(0, len(numbers), step))


def _softmax(scores: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    if scores.ndim == 1:
        return np.column_stack([expit(-scores), expit(scores)])
    probabilities: NDArray[Any] = softmax(scores, axis=1)
    return probabilities
