"""Networks that are trained from nothing: the four-layer one of many tutorials, and AlexNet. Pixels to a map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from featx._internal.keras import load_keras
from featx.errors import SettingError

DEVIATION = np.float32(64)  # of pixels
ALEXNET_STEP = 32  # pixels between two sizes at which every layer of AlexNet has a whole number of outputs


@dataclass(frozen=True)
class ScratchNetwork:
    """A network to train from nothing.

    Attributes:
        size: side of its input in pixels, by default.
        head: name and settings of the head that belongs on it.
        build: function of a size that makes the Keras model from pixels, ``float32 (n, size, size, 3)`` 0 to 255, to a
            map.
    """

    size: int
    head: tuple[str, dict[str, Any]]
    build: Callable[[int], Any]


def build_scratch(name: str, size: int, random_state: int) -> Any:
    """A network of ``SCRATCH`` with He-normal kernels (He et al. 2015), drawn by NumPy: alike on every backend.

    Raises:
        SettingError: a size that does not go through its layers.
    """
    model = SCRATCH[name].build(size)
    for index, layer in enumerate(model.layers):
        for variable in layer.trainable_weights:
            if len(variable.shape) > 1:
                values = np.random.default_rng([random_state, index]).standard_normal(variable.shape, np.float32)
                variable.assign(values * np.float32(np.sqrt(2 / np.prod(variable.shape[:-1]))))
    return model


def set_mean_image(model: Any, mean_image: Any) -> None:
    """Set the image, ``(size, size, 3)`` in 0 to 255, that a network subtracts from its pixels first.

    What is left is divided by 64, about its deviation, so that kernels can start as for inputs of unit variance.
    """
    layer = model.get_layer("mean_image")
    layer.set_weights([np.full(3, 1 / DEVIATION, np.float32), -np.asarray(mean_image, np.float32) / DEVIATION])


def has_mean_image(model: Any) -> bool:
    """Whether a network subtracts a mean image from its pixels first."""
    return any(layer.name == "mean_image" for layer in model.layers)


def _cnn4(size: int) -> Any:
    keras = load_keras()
    if size < 46:
        raise SettingError(
            f"cnn4 needs pictures of at least 46 x 46 pixels, got `size={size}`: nothing would be left", "size"
        )
    pixels = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 255, name="rescale")(pixels)
    for number, channels in enumerate((32, 64, 128, 128), 1):
        x = keras.layers.Conv2D(channels, 3, activation="relu", name=f"conv{number}")(x)
        x = keras.layers.MaxPooling2D(2, name=f"pool{number}")(x)
    return keras.Model(pixels, x, name="cnn4")


def _alexnet(size: int) -> Any:
    """AlexNet (Krizhevsky et al. 2012) on one GPU, up to its last pooling: 227 pixels become 6 x 6 x 256."""
    keras = load_keras()
    if size < 67 or (size - 35) % ALEXNET_STEP:
        near = max(67, 35 + ALEXNET_STEP * round((size - 35) / ALEXNET_STEP))
        raise SettingError(
            f"alexnet cannot take pictures of {size} x {size} pixels: its first layer would give "
            f"({size} + 2 x 0 - 11) / 4 + 1 = {(size - 11) / 4 + 1:g} columns, or a later one no whole number; give "
            f"`size=227` or {near}",
            "size",
        )
    layers = keras.layers
    pixels = keras.Input((size, size, 3))
    # One number subtracted per pixel and channel: a layer of Keras's own, so that the network can be saved and loaded
    x = layers.EinsumDense(
        "bhwc,c->bhwc", output_shape=(size, size, 3), bias_axes="hwc", trainable=False, name="mean_image"
    )(pixels)
    x = layers.Conv2D(96, 11, strides=4, activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(3, 2, name="pool1")(_normalised(x, "norm1"))
    x = layers.Conv2D(256, 5, padding="same", activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(3, 2, name="pool2")(_normalised(x, "norm2"))
    for number, channels in ((3, 384), (4, 384), (5, 256)):
        x = layers.Conv2D(channels, 3, padding="same", activation="relu", name=f"conv{number}")(x)
    return keras.Model(pixels, layers.MaxPooling2D(3, 2, name="pool5")(x), name="alexnet")


def _normalised(x: Any, name: str) -> Any:
    """Local response normalisation over five neighbouring channels, with the paper's k = 2, 1e-4 and 0.75."""
    keras = load_keras()
    channels = int(x.shape[-1])
    neighbours = np.abs(np.subtract.outer(np.arange(channels), np.arange(channels))) <= 2
    window = keras.layers.Conv2D(channels, 1, use_bias=False, trainable=False, name=name)
    sums = window(keras.ops.square(x))
    window.set_weights([neighbours[None, None].astype(np.float32)])
    return x / keras.ops.power(2 + 1e-4 * sums, 0.75)


SCRATCH = {
    "cnn4": ScratchNetwork(128, ("mlp", {"input": "flat", "hidden": 512, "dropout": 0.0}), _cnn4),
    "alexnet": ScratchNetwork(227, ("mlp", {"input": "flat", "hidden": 4096, "layers": 2, "dropout": 0.5}), _alexnet),
}
