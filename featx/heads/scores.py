"""A head's scores as a function of maps, and their gradient: what explanations are made of. No backbone, no Keras."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featx.heads.network.architecture import Architecture
from featx.heads.pooling import downsample, downsample_gradient, downsampled_shape, max_gradient

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """Logits of a linear head or of a head trained by Keras, as a function of maps.

    Attributes:
        input: what becomes of maps first: ``flat``, ``avg`` or ``max``.
        downsampled: whether maps are max-pooled, 2 x 2, before they become flat.
        mean, scale: float32, by which columns or channels are standardised.
        architecture: layers behind that; no hidden ones for a linear head.
        weights: weights of these layers, in their order.
    """

    input: str
    downsampled: bool
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    architecture: Architecture
    weights: list[NDArray[np.float32]]

    @property
    def linear(self) -> bool:
        """Whether the scores are linear in the maps (but for where the largest values lie, with ``input="max"``)."""
        return not self.architecture.layers

    def __call__(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits ``(n, classes)`` of maps ``(n, h, w, c)``."""
        return self.architecture.logits(self.weights, self._rows(maps))

    def gradient(self, maps: NDArray[np.float32], classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Gradient of the logit of ``classes[i]`` with respect to ``maps[i]``, float32 ``(n, h, w, c)``."""
        by_row = self._gradient_of_rows(maps, classes)
        n, height, width, channels = maps.shape
        if self.input == "avg":
            each = (by_row / self.scale)[:, None, None, :] / np.float32(height * width)
            return np.broadcast_to(each.astype(np.float32), maps.shape)
        if self.input == "max":
            return max_gradient(maps.reshape(n, -1, channels), by_row / self.scale).reshape(maps.shape)
        by_map = self._as_maps(by_row, maps.shape[1:])
        return downsample_gradient(maps, by_map) if self.downsampled else by_map

    def mean_gradient(self, maps: NDArray[np.float32], classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Mean of :meth:`gradient` over all places, ``(n, c)``, without computing it at each."""
        by_row = self._gradient_of_rows(maps, classes)
        places = np.float32(maps.shape[1] * maps.shape[2])
        if self.input != "flat":
            return (by_row / self.scale / places).astype(np.float32)
        mean: NDArray[np.float32] = self._as_maps(by_row, maps.shape[1:]).sum(axis=(1, 2)) / places
        return mean

    def _gradient_of_rows(self, maps: NDArray[np.float32], classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Gradient with respect to standardised rows, ``(n, width)``."""
        return self.architecture.gradient(self.weights, self._rows(maps), classes)

    def _as_maps(self, by_row: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Gradient with respect to flat maps, downsampled or not, before they are standardised."""
        shape = downsampled_shape(shape) if self.downsampled else shape
        # Standardised by channel, or by column
        scale = self.scale if self.scale.shape == shape[-1:] else self.scale.reshape(shape)
        maps: NDArray[np.float32] = (by_row.reshape(len(by_row), *shape) / scale).astype(np.float32)
        return maps

    def _rows(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.input == "avg":
            x: Any = maps.mean(axis=(1, 2))
        elif self.input == "max":
            x = maps.max(axis=(1, 2))
        else:
            x = downsample(maps) if self.downsampled else maps
        flat = x.reshape(len(x), -1)
        if self.mean.shape == flat.shape[1:]:  # of columns; else of channels
            x = flat
        rows: NDArray[np.float32] = ((x - self.mean) / self.scale).reshape(len(x), -1).astype(np.float32)
        return rows
