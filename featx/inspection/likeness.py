"""Likeness of pictures by their features: nearest neighbours, pairs, groups, and scores of outliers.

Features are averaged over the map and scaled to length 1. ``n`` rows of ``d`` columns take ``4 n d`` bytes, and as much
again while they are compared; distances are computed for a block of rows at a time, never for all pairs at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from featx._internal.progress import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUERIES = 4096  # rows whose neighbours are computed at a time


def nearest(
    X: NDArray[np.float32], n_neighbors: int, progress: Progress
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Nearest other rows of each row, the nearest first.

    Args:
        X: float32 ``(n, d)``.
        n_neighbors: number of columns of the result; fewer if there are fewer rows.
        progress: called with the stage, how many rows are done, and of how many.

    Returns:
        cosines with the nearest rows, float64 ``(n, n_neighbors)``, and the numbers of these rows, int64.
    """
    from sklearn.neighbors import NearestNeighbors

    n = len(X)
    k = min(n_neighbors, n - 1)
    unit = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)
    search = NearestNeighbors(n_neighbors=k + 1, algorithm="brute", metric="euclidean").fit(unit)
    cosines, numbers = np.empty((n, k)), np.empty((n, k), np.int64)
    for start in range(0, n, QUERIES):
        progress("comparing the pictures", start, n)
        rows = np.arange(start, min(start + QUERIES, n))
        distance, number = search.kneighbors(unit[rows])
        itself = number == rows[:, None]
        itself[~itself.any(axis=1), -1] = True  # where more rows are equal to it, it may not be among them
        cosines[rows] = 1 - distance[~itself].reshape(len(rows), k).astype(np.float64) ** 2 / 2
        numbers[rows] = number[~itself].reshape(len(rows), k)
    progress("comparing the pictures", n, n)
    return cosines, numbers


def similar_pairs(
    cosines: NDArray[np.float64], numbers: NDArray[np.int64], similarity: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of rows at least so similar, int64 ``(m, 2)``, and their cosines, the most similar first."""
    first, column = np.nonzero(cosines >= similarity)
    both = np.sort(np.column_stack([first, numbers[first, column]]), axis=1)
    pairs, index = np.unique(both, axis=0, return_index=True)
    similarities = cosines[first, column][index]
    order = np.argsort(-similarities, kind="stable")
    return pairs[order], similarities[order]


def linked_groups(n: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of each row's group, int64 ``(n,)``: rows of a pair, and of pairs that share a row, are in one."""
    links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    groups: NDArray[np.int64] = connected_components(links, directed=False)[1].astype(np.int64)
    return groups


def modified_z(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Modified z-scores: distance from the median in robust standard deviations (Iglewicz & Hoaglin 1993).

    That is ``0.6745 (d - median) / MAD``, where MAD is the median of the absolute deviations from the median. Where
    that is 0, all are 0.
    """
    deviation = distances - np.median(distances)
    mad = np.median(np.abs(deviation))
    score: NDArray[np.float64] = 0.6745 * deviation / mad if mad > 0 else np.zeros_like(deviation)
    return score
