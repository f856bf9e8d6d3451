"""Features in the plane: where the pictures lie for the classifier."""

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
    """Pictures as points.

    Attributes:
        name: ``PCA`` or ``UMAP``.
        note: how much of the truth it shows.
        places: places in ``Findings.rows``.
        points: ``x, y`` of each.
    """

    name: str
    note: str
    places: list[int]
    points: list[tuple[float, float]]


def plots_of(features: Features, rows: NDArray[np.int64], random_state: int = 0) -> list[Plot]:
    """PCA of the rows' features, maps averaged, and UMAP where the package is installed; of 5,000 rows at most."""
    places = np.arange(len(rows))
    if len(rows) > POINTS:
        places = np.sort(np.random.default_rng(random_state).choice(len(rows), POINTS, replace=False))
    X = pooled(features, rows[places], "avg")
    sample = f" A random sample of {POINTS:,} of {len(rows):,} pictures." if len(rows) > POINTS else ""
    points, note = _pca(X, random_state)
    plots = [Plot("PCA", note + sample, places.tolist(), _pairs(points))]
    if importlib.util.find_spec("umap") and len(X) >= UMAP_ROWS:
        umap: Any = importlib.import_module("umap")
        found = umap.UMAP(n_neighbors=min(15, len(X) - 1), random_state=random_state, n_jobs=1).fit_transform(X)
        note = "UMAP (McInnes et al. 2018): who is near to whom is meant, distances between groups are not."
        plots.append(Plot("UMAP", note + sample, places.tolist(), _pairs(found)))
    return plots


def _pca(X: NDArray[np.float32], random_state: int) -> tuple[NDArray[Any], str]:
    points = np.zeros((len(X), 2))
    parts = min(2, len(X), X.shape[1])
    if len(X) < 2 or not np.ptp(X, axis=0).any():
        return points, "All pictures have the same features."
    pca = PCA(parts, random_state=random_state)
    points[:, :parts] = pca.fit_transform(X)
    kept = float(pca.explained_variance_ratio_.sum())
    return points, f"The two directions in which the features vary most hold {100 * kept:.0f} % of their variance."


def _pairs(points: NDArray[Any]) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points]
