"""Base of all heads: settings are checked, maps become rows, labels numbers, and learned state arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from featx._internal.progress import Progress
from featx.errors import TrainingError
from featx.heads.pooling import INPUTS, as_rows, is_map, width
from featx.heads.settings import Choice, Constraint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featx.heads.scores import Scores

OnEpoch: TypeAlias = Callable[[int, dict[str, float]], bool | None]
"""Called after each epoch with its number, from 1, and its measures by name; training ends if it returns true."""


class Head(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A small classifier on features: a scikit-learn estimator whose state can be saved as arrays.

    ``X`` is ``(n, d)``, or maps ``(n, h, w, c)`` of float16, float32 or float64; ``y`` holds any labels. Rows too many
    for memory may be given as an object that has ``shape``, ``dtype``, ``ndim`` and a length, and reads the rows that
    it is asked for by a slice or by numbers.

    The attributes below say what a head can do beyond fitting and predicting; methods that it does not have raise
    :class:`featx.errors.TrainingError`.

    Attributes:
        constraints: values that each setting may have, by its name; see :meth:`check_settings`.
        uses_validation: whether ``fit`` looks at validation rows, to stop early.
        trains_in_epochs: whether ``fit`` goes over the rows in epochs, and ``history_`` has a value for each.
        differentiable: whether there are :meth:`keras_layers`, :meth:`keras_weights` and :meth:`scores`.
        has_path: whether there is :meth:`path_probabilities`.
        has_tail: whether layers of the network before the head are trained with it.
        classes_: the labels, sorted, ``(classes,)``.
        n_features_in_: columns of ``X`` once it is flat or pooled.
        feature_shape_: shape of one row of ``X`` as given, ``(d,)`` or ``(h, w, c)``.
    """

    constraints: ClassVar[Mapping[str, Constraint]] = {"input": Choice(INPUTS)}
    uses_validation = False
    trains_in_epochs = False
    differentiable = False
    has_path = False
    has_tail = False

    _learned: tuple[str, ...] = ()  # names of the attributes that hold the learned arrays

    input: str
    classes_: NDArray[Any]
    feature_shape_: tuple[int, ...]

    def check_settings(self) -> None:
        """Check the settings, as ``fit`` does first.

        Raises:
            SettingError: a setting out of its range; a ``ValueError`` that names it.
        """
        for name, constraint in self.constraints.items():
            constraint.check(name, getattr(self, name))

    def fit(
        self,
        X: Any,
        y: Any,
        validation_data: Any = None,
        progress: Progress | None = None,
        groups: Any = None,
        on_epoch: OnEpoch | None = None,
    ) -> Self:
        """Fit.

        Args:
            X: training features.
            y: their labels, ``(n,)``.
            validation_data: ``(X, y)``, looked at by heads that stop early (``uses_validation``).
            progress: called with "training", how much is done and how much there is at most, by heads that have epochs.
            groups: int ``(n,)``: rows of the same number are views of one picture, and count as one row together.
            on_epoch: called after each epoch with its number, from 1, and its measures by name as in ``history_``, by
                heads that have epochs. Training ends if it returns true; what it raises comes out of ``fit``.

        Raises:
            SettingError: a setting out of its range.
            TrainingError: rows that cannot be trained on, such as those of one class.
        """
        raise NotImplementedError  # pragma: no cover - an abstract class

    def fit_again(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Fit once more, on all rows, once validation rows have shown how well (and how long) to train."""
        return self.fit(X, y, **({} if groups is None else {"groups": groups}))  # a head of one's own may know none

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Probabilities ``(n, classes)``, columns in the order of ``classes_``."""
        raise NotImplementedError  # pragma: no cover - an abstract class

    def predict(self, X: Any) -> NDArray[Any]:
        """Most probable label of each row, ``(n,)``."""
        probabilities = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[np.argmax(probabilities, axis=1)]
        return labels

    def keras_layers(self, feature_shape: tuple[int, ...], n_classes: int, random_state: int = 0) -> Any:
        """Keras model of an untrained head of these settings, from features to logits ``(n, n_classes)``.

        Its weights are, in order: mean and variance of the features (which do not train), then those of the layers.
        """
        raise self._cannot("has no weights that could be trained further; take another head")

    def keras_weights(self) -> list[NDArray[np.float32]]:
        """Weights of :meth:`keras_layers` that make it compute what this fitted head computes."""
        raise self._cannot("has no weights that could be trained further; take another head")

    def scores(self, feature_shape: tuple[int, ...], weights: list[NDArray[np.float32]] | None = None) -> Scores:
        """Scores of the head as a function of maps, with their gradient.

        Args:
            feature_shape: ``(h, w, c)`` of the maps.
            weights: as of :meth:`keras_weights`; by default those of this fitted head.
        """
        raise self._cannot("has no gradient to explain it by; take logreg, svm, ridge, mlp or bn-mlp")

    def path_probabilities(
        self,
        X: Any,
        y: Any,
        C: list[float],
        fold: NDArray[np.int64],
        groups: Any = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Out-of-fold probabilities of each row for all values of ``C`` at once, ``(n_C, n, classes)``."""
        raise self._cannot("has no C")

    def maps(self, X: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Maps ``(n, h, w, c)`` that the head sees: ``X`` itself.

        Raises:
            TrainingError: features without places.
        """
        if X.ndim != 4:
            raise TrainingError(
                'features that were pooled when extracted have no places; extract with `pooling="none"`'
            )
        return X

    def move_weights(self, path: str) -> None:
        """Take the network's file from another place, where it is now; heads without a tail have none."""

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
            raise ValueError(f"`classes` must be the {state['n_classes']} that the head knows, got {len(classes)}")
        self.classes_ = classes
        self.feature_shape_ = tuple(int(n) for n in state["feature_shape"])
        self.n_features_in_ = width(self.feature_shape_, self.input)
        self._restore(state)
        return self

    def _learned_arrays(self) -> dict[str, NDArray[Any]]:
        return {name: np.asarray(getattr(self, name)) for name in self._learned}

    def _restore(self, state: dict[str, NDArray[Any]]) -> None:
        for name in self._learned:
            setattr(self, name, state[name])

    def _cannot(self, why: str) -> TrainingError:
        return TrainingError(f"{type(self).__name__} {why}")

    def _training_rows(self, X: Any, y: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """``X`` as rows and ``y`` as numbers of classes; sets what fitting sets."""
        maps = X.shape[1:] if is_map(X) else None
        X, y = validate_data(self, as_rows(X, self.input), y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.feature_shape_ = tuple(maps or X.shape[1:])
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise TrainingError(f"a head needs two classes at least, got one class only, {self.classes_.tolist()[0]!r}")
        return X, numbers.astype(np.int64)

    def _rows(self, X: Any) -> NDArray[Any]:
        check_is_fitted(self)
        rows: NDArray[Any] = validate_data(self, as_rows(X, self.input), dtype=[np.float64, np.float32], reset=False)
        return rows

    def _numbers(self, y: Any) -> NDArray[np.int64]:
        """Labels of validation rows as numbers of classes.

        Raises:
            TrainingError: a class that no training row has.
        """
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise TrainingError(f"validation rows have a class that no training row has: {unknown.tolist()[0]!r}")
        numbers: NDArray[np.int64] = np.searchsorted(self.classes_, y)
        return numbers


class LazyRows:
    """Rows of a lazy ``X``, float32 ``(n, d)``, that are read, flattened or pooled when asked for."""

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, X: Any, input: str) -> None:
        self._X = X
        self._input = input
        self.shape = len(X), width(tuple(X.shape[1:]), input if len(X.shape) == 4 else "flat")

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
    """``X`` itself.

    Raises:
        TrainingError: a value is not finite; names the first such row, by its place in ``numbers`` if given.
    """
    step = max(1, 2**22 // max(1, X[:1].size))
    for start in range(0, len(X), step):
        finite = np.isfinite(X[start : start + step]).reshape(len(X[start : start + step]), -1).all(axis=1)
        if not finite.all():
            at = start + int(np.argmin(finite))
            row = at if numbers is None else numbers[at]
            raise TrainingError(f"Input X contains NaN or infinity, first in row {row}.")  # as scikit-learn says it
    return X


def group_weights(groups: Any) -> NDArray[np.float64]:
    """1 divided by the size of each row's group, ``(n,)``."""
    _, number, counts = np.unique(groups, return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = 1 / counts[number]
    return weights
