"""Nearest neighbours by cosine similarity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from featx._internal.progress import Progress
from featx.heads.base import Head, is_lazy

if TYPE_CHECKING:
    from numpy.typing import NDArray


class KNNHead(Head):
    """Votes of the nearest training rows, weighted by ``exp(cosine / temperature)`` (Wu et al. 2018).

    Args:
        n_neighbors: how many rows vote; at most as many as there are.
        temperature: the smaller, the more the nearest count.
        input: what becomes of maps: ``flat``, ``avg`` or ``max``.
        random_state: unused; heads take it alike.

    Attributes:
        rows_: float32 ``(n, d)``, the training rows, of length 1.
        labels_: int64 ``(n,)``, their classes' numbers.
    """

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
    ) -> Self:
        """Keep the rows of ``X``, ``(n, d)`` or ``(n, h, w, c)``, and their labels ``y``; of each group the first."""
        if self.n_neighbors < 1 or not self.temperature > 0:
            raise ValueError(
                f"n_neighbors must be at least 1 and temperature positive. Got {self.n_neighbors!r} and "
                f"{self.temperature!r} instead."
            )
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
