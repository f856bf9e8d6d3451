"""Heads that are layers: trained further together with what is before them, and explained by their gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featx._internal.keras import load_keras
from featx.heads.base import Head
from featx.heads.network.architecture import Architecture
from featx.heads.pooling import downsampled_shape, width
from featx.heads.scores import Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray


class LayeredHead(Head):
    """A head that standardises its rows and runs the layers of an :class:`Architecture` on them."""

    differentiable = True
    dropout = 0.0

    _standardises_columns = True  # of flat maps, or their channels

    def architecture(self, width: int, n_classes: int) -> Architecture:
        """Layers on standardised rows of ``width`` columns."""
        raise NotImplementedError  # pragma: no cover - an abstract class

    def downsamples(self, feature_shape: tuple[int, ...]) -> bool:
        """Whether maps of this shape are max-pooled, 2 x 2, before they become flat."""
        return False

    def keras_layers(self, feature_shape: tuple[int, ...], n_classes: int, random_state: int = 0) -> Any:
        """Keras model of an untrained head of these settings, from features to logits ``(n, n_classes)``.

        Its weights are, in order: mean and variance of the features (which do not train), then those of the layers.
        They are drawn at random for networks (Glorot & Bengio 2010), and zero for linear heads; features are not
        standardised.

        Args:
            feature_shape: ``(h, w, c)`` or ``(c,)``.
            n_classes: number of classes.
            random_state: seed of weights and dropout.
        """
        keras = load_keras()
        features = keras.Input(feature_shape)
        # Batch norm that never trains is what subtracts a stored mean and divides by a stored deviation
        standardise = keras.layers.BatchNormalization(center=False, scale=False, epsilon=0.0, trainable=False)
        x = pooling_layers(features, self.input, self.downsamples(feature_shape))
        if self._standardises_columns:
            x = keras.layers.Flatten()(x)
        x = keras.layers.Flatten()(standardise(x, training=False))
        seeds = iter(np.random.SeedSequence(random_state).generate_state(64).tolist())
        architecture = self.architecture(int(x.shape[-1]), n_classes)
        logits = architecture.apply(
            x, lambda p: keras.layers.Dropout(p, seed=next(seeds)), self.dropout, activation="linear"
        )
        model = keras.Model(features, logits)
        columns = standardise.moving_mean.shape
        initial = self._initial_weights(architecture, np.random.default_rng(random_state))
        model.set_weights([np.zeros(columns, np.float32), np.ones(columns, np.float32), *initial])
        return model

    def scores(self, feature_shape: tuple[int, ...], weights: list[NDArray[np.float32]] | None = None) -> Scores:
        """Scores of the head as a function of maps, with their gradient; see :meth:`Head.scores`."""
        mean, variance, *layers = self.keras_weights() if weights is None else weights
        downsampled = self.downsamples(feature_shape)
        shape = downsampled_shape(feature_shape) if downsampled else feature_shape
        architecture = self.architecture(width(shape, self.input), len(layers[-1]))
        return Scores(self.input, downsampled, mean, np.sqrt(variance), architecture, layers)

    def _initial_weights(self, architecture: Architecture, rng: np.random.Generator) -> list[NDArray[np.float32]]:
        return architecture.initial_weights(rng)


def pooling_layers(features: Any, input: str, downsampled: bool) -> Any:
    """Keras layers that pool or downsample maps, on the tensor ``features``; rows stay as they are."""
    layers = load_keras().layers
    if len(features.shape) != 4:
        return features
    if input == "flat":  # "same": odd maps keep their last row
        return layers.MaxPooling2D(2, padding="same")(features) if downsampled else features
    return (layers.GlobalAveragePooling2D if input == "avg" else layers.GlobalMaxPooling2D)()(features)
