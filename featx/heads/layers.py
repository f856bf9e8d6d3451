"""Heads as Keras layers, so that they can be trained further together with what is before them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featx._internal.keras import load_keras
from featx.errors import TrainingError
from featx.heads.base import Head
from featx.heads.linear import LinearHead
from featx.heads.mlp import KerasHead
from featx.heads.network.architecture import Architecture

if TYPE_CHECKING:
    from numpy.typing import NDArray


def head_layers(head: Head, feature_shape: tuple[int, ...], n_classes: int, random_state: int = 0) -> Any:
    """A Keras model from features, ``float32 (n, *feature_shape)``, to logits ``(n, n_classes)``.

    Its weights are, in order: mean and variance of the features (which do not train), then those of the layers. They
    are drawn at random for networks (Glorot & Bengio 2010), and zero for linear heads; features are not standardised.

    Args:
        head: fitted or not; only its settings count.
        feature_shape: ``(h, w, c)`` or ``(c,)``.
        n_classes: how many.
        random_state: seed of weights and dropout.

    Raises:
        TrainingError: a head that has no layers.
    """
    keras = load_keras()
    features = keras.Input(feature_shape)
    # Batch norm that never trains is what subtracts a stored mean and divides by a stored deviation
    standardise = keras.layers.BatchNormalization(center=False, scale=False, epsilon=0.0, trainable=False)
    seeds = iter(np.random.SeedSequence(random_state).generate_state(64).tolist())
    if isinstance(head, KerasHead):
        x = _pooled(features, head.input, shrink=head.shrinks(feature_shape))
        x = keras.layers.Flatten()(standardise(x, training=False))
        architecture = head.architecture(int(x.shape[-1]), n_classes)
        logits = architecture.apply(
            x, lambda p: keras.layers.Dropout(p, seed=next(seeds)), head.dropout, activation="linear"
        )
        layers = _initial(architecture, random_state)
    elif isinstance(head, LinearHead):
        x = standardise(keras.layers.Flatten()(_pooled(features, head.input, shrink=False)), training=False)
        logits = keras.layers.Dense(n_classes)(x)
        layers = [np.zeros((int(x.shape[-1]), n_classes), np.float32), np.zeros(n_classes, np.float32)]
    else:
        raise TrainingError(f"{type(head).__name__} has no weights that could be trained further; take another head")
    model = keras.Model(features, logits)
    width = standardise.moving_mean.shape
    model.set_weights([np.zeros(width, np.float32), np.ones(width, np.float32), *layers])
    return model


def layer_weights(head: Head) -> list[NDArray[np.float32]]:
    """The weights of :func:`head_layers` that make it compute what a fitted head computes."""
    if isinstance(head, KerasHead):
        return [head.mean_, head.scale_**2, *head.weights_]
    if not isinstance(head, LinearHead):
        raise TrainingError(f"{type(head).__name__} has no weights that could be trained further; take another head")
    coef, intercept = head.coef_, head.intercept_
    if len(head.classes_) == 2:  # one score f: the logits are -f/2 and f/2, or those of its softmax of margins
        half = 0.5 if head.loss == "logistic" else 1.0
        coef, intercept = (
            np.concatenate([-half * coef, half * coef]),
            np.concatenate([-half * intercept, half * intercept]),
        )
    weights = [head.mean_, np.ones_like(head.mean_), coef.T, intercept]
    return [np.asarray(value, np.float32) for value in weights]


def _pooled(features: Any, input: str, shrink: bool) -> Any:
    layers = load_keras().layers
    if len(features.shape) != 4:
        return features
    if input != "flat":
        return (layers.GlobalAveragePooling2D if input == "avg" else layers.GlobalMaxPooling2D)()(features)
    return layers.MaxPooling2D(2, padding="same")(features) if shrink else features


def _initial(architecture: Architecture, random_state: int) -> list[NDArray[np.float32]]:
    return architecture.initial_weights(np.random.default_rng(random_state))
