"""Embedding of features in the plane, by PCA and UMAP."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.decomposition import PCA

from featx.cache import Features
from featx.rows import pooled

if TYPE_CHECKING:
    from numpy.typing import NDArray

POINTS = 5000  # more would be a blot, and slow
UMAP_ROWS = 10  # fewer have no neighbourhoods


@dataclass(frozen=True)
class Plot:
    """Pictures as points in the plane.

    Attributes:
        name: ``PCA`` or ``UMAP``.
        note: how far the plot can be trusted.
        positions: positions in ``Findings.pictures``.
        points: ``x, y`` of each picture.
    """

    name: str
    note: str
    positions: list[int]
    points: list[tuple[float, float]]


def plots_of(features: Features, rows: NDArray[np.int64], random_state: int = 0) -> list[Plot]:
    """Plots of the rows' features, maps averaged, by PCA and, if it is installed, UMAP; of 5,000 rows at most."""
    positions = np.arange(len(rows))
    if len(rows) > POINTS:
        positions = np.sort(np.random.default_rng(random_state).choice(len(rows), POINTS, replace=False))
    X = pooled(features, rows[positions], "avg")
    sample = f" A random sample of {POINTS:,} of {len(rows):,} pictures." if len(rows) > POINTS else ""
    points, note = _pca(X, random_state)
    plots = [Plot("PCA", note + sample, positions.tolist(), _pairs(points))]
    if importlib.util.find_spec("umap") and len(X) >= UMAP_ROWS:
        umap: Any = importlib.import_module("umap")
        embedding = umap.UMAP(n_neighbors=min(15, len(X) - 1), random_state=random_state, n_jobs=1).fit_transform(X)
        note = "UMAP (McInnes et al. 2018): who is near to whom is meant, distances between groups are not."
        plots.append(Plot("UMAP", note + sample, positions.tolist(), _pairs(embedding)))
    return plots


def _pca(X: NDArray[np.float32], random_state: int) -> tuple[NDArray[Any], str]:
    points = np.zeros((len(X), 2))
    n_components = min(2, len(X), X.shape[1])
    if len(X) < 2 or not np.ptp(X, axis=0).any():
        return points, "All pictures have the same features."
    pca = PCA(n_components, random_state=random_state)
    points[:, :n_components] = pca.fit_transform(X)
    share = float(pca.explained_variance_ratio_.sum())
    return points, f"The two directions in which the features vary most hold {100 * share:.0f} % of their variance."


def _pairs(points: NDArray[Any]) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points]
