"""What all heads share: maps become rows, labels become numbers, learned state becomes plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from featx._internal.choices import Input
from featx._internal.progress import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

INPUTS: tuple[str, ...] = get_args(Input)


class Head(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A small classifier on features: a scikit-learn estimator whose state can be saved as arrays.

    ``X`` is ``(n, d)``, or maps ``(n, h, w, c)`` of float16, float32 or float64; ``y`` holds any labels. Rows too many
    for memory may be given as an object that has ``shape``, ``dtype``, ``ndim`` and a length, and reads the rows that
    it is asked for by a slice or by numbers.

    Attributes:
        classes_: the labels, sorted.
        n_features_in_: columns of ``X`` once it is flat or pooled.
        feature_shape_: shape of one row of ``X`` as given, ``(d,)`` or ``(h, w, c)``.
    """

    uses_validation = False  # whether fit looks at validation rows, to stop early

    def fit(
        self,
        X: Any,
        y: Any,
        validation_data: Any = None,
        progress: Progress | None = None,
        groups: Any = None,
    ) -> Self:
        """Fit.

        Args:
            X: training features.
            y: their labels.
            validation_data: ``(X, y)``, looked at by heads that stop early (``uses_validation``).
            progress: called with "training", the epochs done and how many there are at most, by heads that have epochs.
            groups: int ``(n,)``: rows of the same number are views of one picture, and count as one row together.
        """
        raise NotImplementedError  # pragma: no cover - an abstract class

    def fit_again(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Fit once more, on all rows, once validation rows have shown how well (and how long) to train."""
        return self.fit(X, y, **({} if groups is None else {"groups": groups}))  # a head of one's own may know none

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Probabilities ``(n, classes)``, columns in the order of ``classes_``."""
        raise NotImplementedError  # pragma: no cover - an abstract class

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable label of each row."""
        probabilities = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[np.argmax(probabilities, axis=1)]
        return labels

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Everything learned, as arrays from which :meth:`set_state` makes the same head again."""
        check_is_fitted(self)
        about = {"feature_shape": np.array(self.feature_shape_, np.int64), "n_classes": np.array(len(self.classes_))}
        return about | self._learned_arrays()

    def set_state(self, state: dict[str, NDArray[Any]], classes: NDArray[Any]) -> Self:
        """Become the head whose :meth:`get_state` gave ``state``, with ``classes`` as its labels.

        Raises:
            ValueError: another number of classes.
        """
        if len(classes) != state["n_classes"]:
            raise ValueError(
                f"classes must be the {state['n_classes']} that the head knows. Got {len(classes)} instead."
            )
        self.classes_ = classes
        self.feature_shape_ = tuple(int(n) for n in state["feature_shape"])
        self.n_features_in_ = _width(self.feature_shape_, self.input)
        self._restore(state)
        return self

    _learned: tuple[str, ...] = ()  # names of the attributes that hold the learned arrays

    def _learned_arrays(self) -> dict[str, NDArray[Any]]:
        return {name: np.asarray(getattr(self, name)) for name in self._learned}

    def _restore(self, state: dict[str, NDArray[Any]]) -> None:
        for name in self._learned:
            setattr(self, name, state[name])

    input: str
    classes_: NDArray[Any]

    def _check_input(self) -> None:
        if self.input not in INPUTS:
            raise ValueError(f"input must be one of {', '.join(INPUTS)}. Got {self.input!r} instead.")

    def _training_rows(self, X: Any, y: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """``X`` as rows and ``y`` as numbers of classes; sets what fitting sets."""
        self._check_input()
        maps = X.shape[1:] if is_map(X) else None
        X, y = validate_data(self, as_rows(X, self.input), y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.feature_shape_ = tuple(maps or X.shape[1:])
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"A head needs two classes at least. Got one class only, {self.classes_[0]!r}, instead.")
        return X, numbers.astype(np.int64)

    def _rows(self, X: Any) -> NDArray[Any]:
        check_is_fitted(self)
        rows: NDArray[Any] = validate_data(self, as_rows(X, self.input), dtype=[np.float64, np.float32], reset=False)
        return rows


class LazyRows:
    """Rows that are read, flattened or pooled when asked for: float32 ``(n, d)`` of a lazy ``X``."""

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, X: Any, input: str) -> None:
        self._X, self._input = X, input
        self.shape = len(X), _width(tuple(X.shape[1:]), input if len(X.shape) == 4 else "flat")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        numbers = np.arange(len(self))[rows]
        read: NDArray[np.float32] = require_finite(as_rows(self._X[rows], self._input), numbers)
        return read.astype(np.float32, copy=False)


def is_lazy(X: Any) -> bool:
    """Whether ``X`` gives its rows on demand, and is no array."""
    return (
        not isinstance(X, np.ndarray)
        and not issparse(X)
        and isinstance(getattr(X, "dtype", None), np.dtype)
        and getattr(X, "ndim", 0) in (2, 4)
        and hasattr(X, "__getitem__")
    )


def require_finite(X: NDArray[Any], numbers: NDArray[np.int64] | None = None) -> NDArray[Any]:
    """``X`` itself. Raises ValueError that names the first row with a value that is not finite."""
    step = max(1, 2**22 // max(1, X[:1].size))
    for start in range(0, len(X), step):
        finite = np.isfinite(X[start : start + step]).reshape(len(X[start : start + step]), -1).all(axis=1)
        if not finite.all():
            at = start + int(np.argmin(finite))
            raise ValueError(
                f"Input X contains NaN or infinity, first in row {at if numbers is None else numbers[at]}."
            )
    return X


def group_weights(groups: Any) -> NDArray[np.float64]:
    """1 divided by the size of each row's group, ``(n,)``."""
    _, number, counts = np.unique(groups, return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = 1 / counts[number]
    return weights


def as_rows(X: Any, input: str) -> Any:
    """Maps ``(n, h, w, c)`` flattened or pooled to ``(n, d)``, float16 made float32; anything else as it is."""
    if isinstance(X, np.ndarray) and X.dtype == np.float16:
        X = X.astype(np.float32)  # sums of float16 overflow
    if not is_map(X):
        return X
    if input == "flat":
        return X.reshape(len(X), -1)
    return X.mean(axis=(1, 2)) if input == "avg" else X.max(axis=(1, 2))


def is_map(X: Any) -> bool:
    """Whether ``X`` is an array of maps, ``(n, h, w, c)``."""
    return isinstance(X, np.ndarray) and X.ndim == 4


def _width(shape: tuple[int, ...], input: str) -> int:
    return int(np.prod(shape)) if input == "flat" else int(shape[-1])
