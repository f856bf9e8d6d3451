"""Networks of the heads: their layers in Keras, their weights, and their output and its gradient in NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from featx._internal.keras import load_keras

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH_NORM_EPSILON = 1e-3


@dataclass(frozen=True)
class Architecture:
    """Shapes and kinds of the layers between standardised rows and one logit per class.

    Attributes:
        width: columns of a row.
        classes: number of classes.
        hidden, layers: width and number of the hidden layers; a linear head has none.
        batch_norm: whether batch norm follows each hidden layer.
        dropout_first: dropout as in fast.ai's lessons, p/2 before each hidden layer and p before the last layer; else
            p after each hidden layer.
    """

    width: int
    classes: int
    hidden: int
    layers: int
    batch_norm: bool
    dropout_first: bool

    def initial_weights(self, rng: np.random.Generator) -> list[NDArray[np.float32]]:
        """Weights to start from, in the order of Keras: Glorot & Bengio's (2010) uniform kernels, zero biases."""
        weights = []
        sizes = [self.width, *[self.hidden] * self.layers, self.classes]
        for number, (n_in, n_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
            kernel = rng.random((n_in, n_out), np.float32)
            kernel -= np.float32(0.5)
            kernel *= np.float32(2 * np.sqrt(6 / (n_in + n_out)))
            weights += [kernel, np.zeros(n_out, np.float32)]
            if self.batch_norm and number < self.layers:
                weights += [value(n_out, np.float32) for value in (np.ones, np.zeros, np.zeros, np.ones)]
        return weights

    def probabilities(self, weights: list[NDArray[np.float32]], x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities ``(n, classes)`` of standardised rows ``(n, width)``, without Keras and its compiling."""
        result: NDArray[np.float32] = softmax(self.logits(weights, x), axis=1)
        return result

    def logits(self, weights: list[NDArray[np.float32]], x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits ``(n, classes)`` of standardised rows ``(n, width)``."""
        x = [x, *self._hidden(weights, x)][-1]
        kernel, bias = weights[-2:]
        logits: NDArray[np.float32] = x @ kernel + bias
        return logits

    def gradient(
        self, weights: list[NDArray[np.float32]], x: NDArray[np.float32], classes: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Gradient of the logit of ``classes[i]`` with respect to ``x[i]``, ``(n, width)``."""
        rectified = [values for n, values in enumerate(self._hidden(weights, x)) if not n % 2]
        gradient = np.ascontiguousarray(weights[-2].T)[classes]
        per_layer = 6 if self.batch_norm else 2
        for number in reversed(range(self.layers)):
            kernel, _, *norm = weights[number * per_layer : (number + 1) * per_layer]
            if norm:
                gamma, _, _, variance = norm
                gradient = gradient * (gamma / np.sqrt(variance + np.float32(BATCH_NORM_EPSILON)))
            gradient = (gradient * (rectified[number] > 0)) @ kernel.T
        return gradient

    def _hidden(self, weights: list[NDArray[np.float32]], x: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """Rectified values of each hidden layer, and these normalised (or as they are)."""
        remaining = iter(weights)
        for _ in range(self.layers):
            x = np.maximum(x @ next(remaining) + next(remaining), 0)
            yield x
            if self.batch_norm:
                gamma, beta = next(remaining), next(remaining)
                mean, variance = next(remaining), next(remaining)
                x = (x - mean) * (gamma / np.sqrt(variance + np.float32(BATCH_NORM_EPSILON))) + beta
            yield x

    def apply(self, x: Any, dropout: Any, p: float, activation: str) -> Any:
        """Output of the layers for the Keras tensor ``x``.

        Args:
            x: standardised rows.
            dropout: makes a layer from its rate.
            p: rate of dropout.
            activation: of the last layer, such as ``softmax``.
        """
        layers = load_keras().layers
        for _ in range(self.layers):
            x = dropout(p / 2)(x) if self.dropout_first else x
            x = layers.Dense(self.hidden, activation="relu")(x)
            if self.batch_norm:  # small sets take few steps: follow them closely
                x = layers.BatchNormalization(momentum=0.9, epsilon=BATCH_NORM_EPSILON)(x)
            x = x if self.dropout_first else dropout(p)(x)
        x = dropout(p)(x) if self.dropout_first else x
        return layers.Dense(self.classes, activation=activation)(x)
