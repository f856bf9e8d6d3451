"""A head's scores as a function of maps, and their gradient: what explanations are made of. No backbone, no Keras."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from featx.errors import TrainingError
from featx.heads.base import Head
from featx.heads.layers import layer_weights
from featx.heads.linear import LinearHead
from featx.heads.mlp import KerasHead
from featx.heads.network.architecture import Architecture

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """Logits of a linear head or of a head trained by Keras, as a function of maps.

    Attributes:
        input: what becomes of maps first: ``flat``, ``avg`` or ``max``.
        shrinks: whether the flat map is then halved by taking the largest of each 2 x 2.
        mean, scale: float32, by which columns or channels are standardised.
        architecture: of the network behind that; None for a linear head.
        weights: of the network; for a linear head ``(d, classes)`` and ``(classes,)``.
    """

    input: str
    shrinks: bool
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    architecture: Architecture | None
    weights: list[NDArray[np.float32]]

    @classmethod
    def of(cls, head: Head, feature_shape: tuple[int, ...], weights: list[NDArray[np.float32]] | None = None) -> Self:
        """The scores of a fitted head on maps of a shape.

        Args:
            head: fitted; or, with ``weights``, one whose settings alone count.
            feature_shape: ``(h, w, c)``.
            weights: of :func:`head_layers`.

        Raises:
            TrainingError: a head whose scores have no gradient.
        """
        if not isinstance(head, LinearHead | KerasHead):
            raise TrainingError(
                f"{type(head).__name__} has no gradient to explain it by; take logreg, svm, ridge, mlp or bn-mlp"
            )
        mean, variance, *layers = layer_weights(head) if weights is None else weights
        if isinstance(head, LinearHead):
            return cls(head.input, False, mean, np.sqrt(variance), None, layers)
        shrinks, classes = head.shrinks(feature_shape), len(layers[-1])
        width = int(np.prod(_halved(feature_shape) if shrinks else feature_shape))
        architecture = head.architecture(width if head.input == "flat" else feature_shape[-1], classes)
        return cls(head.input, shrinks, mean, np.sqrt(variance), architecture, layers)

    @property
    def linear(self) -> bool:
        """Whether the scores are linear in the maps (but for where the largest values lie, with ``input="max"``)."""
        return self.architecture is None

    def __call__(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits ``(n, classes)`` of maps ``(n, h, w, c)``."""
        rows = self._rows(maps)
        if self.architecture is None:
            scores: NDArray[np.float32] = rows @ self.weights[0] + self.weights[1]
            return scores
        return self.architecture.logits(self.weights, rows)

    def gradient(self, maps: NDArray[np.float32], classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Of the logit of ``classes[i]`` with respect to ``maps[i]``, float32 ``(n, h, w, c)``."""
        by_row = self._gradient_of_rows(maps, classes)
        n, height, width, channels = maps.shape
        if self.input == "avg":
            each = (by_row / self.scale)[:, None, None, :] / np.float32(height * width)
            return np.broadcast_to(each.astype(np.float32), maps.shape)
        if self.input == "max":
            return _at_largest(maps.reshape(n, -1, channels), by_row / self.scale).reshape(maps.shape)
        back = self._as_maps(by_row, maps.shape[1:])
        return _unhalved(maps, back) if self.shrinks else back

    def mean_gradient(self, maps: NDArray[np.float32], classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """The mean of :meth:`gradient` over all places, ``(n, c)``, without computing it at each."""
        by_row = self._gradient_of_rows(maps, classes)
        places = np.float32(maps.shape[1] * maps.shape[2])
        if self.input != "flat":
            return (by_row / self.scale / places).astype(np.float32)
        mean: NDArray[np.float32] = self._as_maps(by_row, maps.shape[1:]).sum(axis=(1, 2)) / places
        return mean

    def _gradient_of_rows(self, maps: NDArray[np.float32], classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """With respect to standardised rows, ``(n, width)``."""
        if self.architecture is None:
            return np.ascontiguousarray(self.weights[0].T)[classes]
        return self.architecture.gradient(self.weights, self._rows(maps), classes)

    def _as_maps(self, by_row: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The gradient with respect to flat maps, or halved ones, as they come."""
        shape = _halved(shape) if self.shrinks else shape
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
            x = _halve(maps) if self.shrinks else maps
        flat = x.reshape(len(x), -1)
        if self.mean.shape == flat.shape[1:]:  # of columns; else of channels
            x = flat
        rows: NDArray[np.float32] = ((x - self.mean) / self.scale).reshape(len(x), -1).astype(np.float32)
        return rows


def _halved(shape: tuple[int, ...]) -> tuple[int, ...]:
    return -(-shape[0] // 2), -(-shape[1] // 2), shape[2]


def _quarters(maps: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The four corners of each 2 x 2 of the maps, ``(n, h/2, w/2, c)`` each; -inf where an odd map has none."""
    n, height, width, channels = maps.shape
    if height % 2 or width % 2:
        whole = np.full((n, height + height % 2, width + width % 2, channels), -np.inf, np.float32)
        whole[:, :height, :width] = maps
        maps = whole
    return [maps[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]


def _halve(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    a, b, c, d = _quarters(maps)
    largest: NDArray[np.float32] = np.maximum(np.maximum(a, b), np.maximum(c, d))
    return largest


def _unhalved(maps: NDArray[np.float32], gradient: NDArray[np.float32]) -> NDArray[np.float32]:
    """The gradient with respect to the maps, of which the largest of each 2 x 2 went on, the first among equals."""
    n, height, width, channels = maps.shape
    h, w = gradient.shape[1:3]
    whole = np.zeros((n, 2 * h, 2 * w, channels), np.float32)
    largest, free = _halve(maps), np.ones(gradient.shape, np.bool_)
    for quarter, back in zip(_quarters(maps), _quarters(whole), strict=True):
        here = free & (quarter == largest)
        back[here] = gradient[here]
        free &= ~here
    return whole[:, :height, :width]


def _at_largest(rows: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """``values`` ``(n, c)`` where each channel of ``rows`` ``(n, positions, c)`` is largest, 0 elsewhere."""
    placed = np.zeros(rows.shape, np.float32)
    np.put_along_axis(placed, rows.argmax(axis=1)[:, None, :], values[:, None, :].astype(np.float32), axis=1)
    return placed
