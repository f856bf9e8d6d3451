"""Training pictures that are decoded and augmented anew in every epoch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featx.cache import Features
from featx.extraction import Recipe, load_file
from featx.pictures import Views

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Live:
    """Training pictures as they look in an epoch, ``uint8 (n, size, size, 3)`` RGB, decoded when asked for.

    The augmentation in epoch k is the view k: it depends on the picture, the epoch and the settings alone.

    Args:
        features: the feature file that lists them.
        rows: int64 ``(n,)``, their rows in it.
        recipe: how they are decoded and resized, with its ``size``.
        views: how they vary; pictures stay as they are if there is one view only.
        epoch: number of the epoch; 0 has the pictures as they are.
    """

    def __init__(
        self, features: Features, rows: NDArray[np.int64], recipe: Recipe, views: Views, epoch: int = 0
    ) -> None:
        self._features = features
        self._rows = rows
        self._recipe = recipe
        self._views = views
        self._epoch = epoch
        self.shape = (len(rows), *features.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def of_epoch(self, number: int) -> Live:
        """The same pictures, as they look in another epoch."""
        return Live(self._features, self._rows, self._recipe, self._views, number)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        return np.stack([self._picture(row) for row in self._rows[rows]])

    def _picture(self, row: int) -> NDArray[np.uint8]:
        content = str(self._features.ids[row])
        path = Path(self._features.root) / self._features.paths[row]
        image = load_file(path, self._recipe.size or 0, self._recipe, content)
        return self._views.augment(image, content, self._epoch) if self._views.n > 1 else image
