"""Nearest neighbours by cosine similarity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from featx._internal.progress import Progress
from featx.heads.base import Head, OnEpoch, is_lazy
from featx.heads.settings import Constraint, Number, Whole

if TYPE_CHECKING:
    from numpy.typing import NDArray


class KNNHead(Head):
    """Votes of the nearest training rows by cosine similarity, weighted by ``exp(cosine / temperature)``.

    Args:
        n_neighbors (int, default 20): number of rows that vote; at most as many as there are.
        temperature (float, default 0.07): the smaller, the more the nearest count.
        input (``flat``, ``avg`` or ``max``, default ``avg``): what becomes of maps.
        random_state (int or None, default 0): unused; heads take it alike.

    Attributes:
        classes_: the labels, sorted, ``(classes,)``.
        rows_: float32 ``(n, d)``, the training rows, of length 1.
        labels_: int64 ``(n,)``, numbers of their classes.
        n_features_in_ (int): ``d``, columns of ``X`` once it is flat or pooled.
        feature_shape_: shape of one row of ``X`` as given, ``(d,)`` or ``(h, w, c)``.

    References:
        Z. Wu, Y. Xiong, S. Yu & D. Lin (2018), "Unsupervised feature learning via non-parametric instance
        discrimination", CVPR.

    Example:
        >>> import numpy as np
        >>> from featx.heads import KNNHead
        >>> X = np.array([[-1.0, -1.0], [-2.0, -1.0], [-3.0, -2.0], [1.0, 1.0], [2.0, 1.0], [3.0, 2.0]])
        >>> y = np.array([1, 1, 1, 2, 2, 2])
        >>> head = KNNHead(n_neighbors=3).fit(X, y)
        >>> head.predict([[-0.8, -1.0]])
        array([1])
    """

    constraints: ClassVar[Mapping[str, Constraint]] = {
        **Head.constraints,
        "n_neighbors": Whole(1),
        "temperature": Number(0, above=True),
    }
    _learned = ("rows_", "labels_")

    def __init__(
        self,
        n_neighbors: int = 20,
        *,
        temperature: float = 0.07,
        input: str = "avg",
        random_state: int | None = 0,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.temperature = temperature
        self.input = input
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: Any,
        validation_data: Any = None,
        progress: Progress | None = None,
        groups: Any = None,
        on_epoch: OnEpoch | None = None,
    ) -> Self:
        """Keep the rows of ``X``, ``(n, d)`` or ``(n, h, w, c)``, and their labels ``y``; of each group the first.

        Raises:
            SettingError: a setting out of its range.
            TrainingError: rows that cannot be trained on.
        """
        self.check_settings()
        if groups is not None:  # else the views of one picture would outvote all others
            first = np.sort(np.unique(groups, return_index=True)[1])
            X, y = X[first], np.asarray(y)[first]
        if is_lazy(X):  # this head is its rows: they have to be in memory
            X = X[:]
        X, self.labels_ = self._training_rows(X, y)
        self.rows_ = normalize(X).astype(np.float32)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Shares of the weighted votes, ``(n, classes)``."""
        X = normalize(self._rows(X)).astype(np.float32)
        neighbors = KNeighborsClassifier(
            min(self.n_neighbors, len(self.rows_)), weights=self._weights, algorithm="brute", metric="cosine"
        )
        shares: NDArray[np.floating[Any]] = neighbors.fit(self.rows_, self.labels_).predict_proba(X)
        return shares

    def _weights(self, distances: NDArray[Any]) -> NDArray[Any]:
        nearer = distances - distances.min(axis=1, keepdims=True)  # the same shares, and no overflow
        weights: NDArray[Any] = np.exp(-nearer / self.temperature)
        return weights
