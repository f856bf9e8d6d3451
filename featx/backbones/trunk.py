"""A trunk: a frozen network up to a cut, its preprocessing before it, ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from featx._internal.keras import load_keras
from featx.backbones.devices import CPU_BATCH, PRECISIONS, accelerated, compiled, compute_in, fitting_batch_size
from featx.backbones.layers import output_at
from featx.backbones.network import Network, build_network
from featx.backbones.preprocessing import preprocess_pictures
from featx.backbones.table import PIXELS, POOLINGS, resolve_size
from featx.backbones.weights import hash_weights
from featx.errors import BackboneError, SettingError, one_line, require_choice

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class TrunkInfo:
    """Record of a trunk: its settings, everything resolved, and how to run it.

    Attributes:
        backbone: name of the network; of the file, for a user's own.
        weights: BLAKE2b-128 of the values of all its weights, in hexadecimal; ``random-SEED`` for random ones.
        layer: the cut.
        pooling: ``none``, ``avg`` or ``max`` over the map.
        size: side of the pictures in pixels.
        preprocess: rule by which pictures become the network's input.
        precision: ``float32``, ``bfloat16`` or ``float16``, in which the layers compute.
        engine: name of the engine that computes, such as ``keras-tensorflow``.
        feature_shape: ``(h, w, c)`` or ``(c,)``.
        batch_size: pictures per call that suit the device and its memory.
        lanes: calls that may be under way at once: two where one can be handed over while another is computed.
    """

    backbone: str
    weights: str
    layer: str
    pooling: str
    size: int
    preprocess: str
    precision: str
    engine: str
    feature_shape: tuple[int, ...]
    batch_size: int
    lanes: int = 1


class Trunk(Protocol):
    """Frozen network up to a cut: a function of pictures, with a record."""

    @property
    def info(self) -> TrunkInfo:
        """Record of the trunk."""

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Features of ``images``, ``uint8 (n, size, size, 3)`` RGB, as ``float32 (n, *feature_shape)``.

        One compiled call per batch: keep ``n`` the same from call to call, for each new ``n`` is compiled anew.
        """


class KerasTrunk:
    """Trunk that Keras computes.

    Attributes:
        info: record of the trunk.
        model: Keras model from ``uint8 (n, size, size, 3)`` to features.
    """

    def __init__(self, info: TrunkInfo, model: Any) -> None:
        self.info = info
        self.model = model
        self._run = compiled(model)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """See :class:`Trunk`."""
        features: NDArray[np.float32] = np.require(self._run(images), np.float32, "W")  # JAX's own are read-only
        return features

    def export(self, file: Path) -> None:
        """Write the model as OpenVINO has it: ``file``, an ``.xml``, and a ``.bin`` beside it."""
        self.model.export(str(file), format="openvino", verbose=False)


class PixelTrunk:
    """Trunk of a network that is trained as a whole: it gives the pixels as they are, ``uint8``.

    Attributes:
        info: record of the trunk.
    """

    def __init__(self, size: int) -> None:
        self.info = TrunkInfo(
            backbone=PIXELS,
            weights="none",
            layer=PIXELS,
            pooling="none",
            size=size,
            preprocess="none",
            precision="float32",
            engine="none",
            feature_shape=(size, size, 3),
            batch_size=CPU_BATCH,
        )

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """A copy of ``images``."""
        return images.copy()


def build_trunk(
    backbone: str = "vgg16",
    *,
    weights: str = "imagenet",
    layer: str | None = None,
    pooling: str = "none",
    size: int | None = None,
    preprocess: str = "auto",
    precision: str = "float32",
    random_state: int = 0,
) -> Trunk:
    """Build a frozen network up to a cut, with its preprocessing, ready to run on pictures.

    Args:
        backbone: a name of ``BACKBONES``, with a width (``mobilenetv2-0.35``) if wanted, or the path of a ``.keras``
            file.
        weights: ``imagenet`` (Keras's own download; for a ``.keras`` file: its own), ``random``, or a ``.weights.h5``,
            legacy ``.h5`` or ``.keras`` file.
        layer: the cut, any layer with one output; by default the last convolutional output.
        pooling: ``none``, ``avg`` or ``max`` over the map's height and width.
        size: side of the input in pixels; by default the network's own.
        preprocess: ``auto`` (the network's own rule), or one of ``caffe``, ``tf``, ``torch``, ``none``, ``rescale``.
        precision: ``float32``, or ``bfloat16`` or ``float16`` for layers that compute in it, with float32 weights;
            features are float32 again. How much that changes them has to be looked at.
        random_state: seed of ``random`` weights.

    Returns:
        A function of ``uint8 (n, size, size, 3)`` RGB that gives ``float32 (n, h, w, c)``, or ``(n, c)`` if pooled. Its
        ``info`` says what it computes.

    Raises:
        BackboneError: an unknown network or layer.
        SettingError: a size below the network's smallest, an unknown pooling, precision, rule or kind of weights, or a
            rule that does not apply.
        WeightsError: weights that cannot be had, or that do not fit; the message names the layer.

    Example:
        >>> import numpy as np
        >>> import featx
        >>> trunk = featx.build_trunk("mobilenet-0.25", weights="random", size=32, pooling="avg")
        >>> trunk(np.zeros((2, 32, 32, 3), np.uint8)).shape
        (2, 256)
        >>> trunk.info.layer, trunk.info.preprocess
        ('conv_pw_13_relu', 'tf')
    """
    require_choice("pooling", pooling, POOLINGS)
    require_choice("precision", precision, PRECISIONS)
    if backbone == PIXELS:
        return PixelTrunk(resolve_size(backbone, size) or 0)
    network = build_network(backbone, weights, size, preprocess, random_state)
    identity = f"random-{random_state}" if weights == "random" else None
    if network.graph:  # its name tells neither its graph nor, since only kernels are drawn, all of its random weights
        identity = f"{hash_weights(network.base)}-{network.graph}"
    cut = layer or network.layer
    if cut is None:
        raise BackboneError(f"{network.name} has no map to take features from; name a layer with `layer`")
    return _keras_trunk(network, cut, pooling, precision, identity)


def _keras_trunk(network: Network, layer: str, pooling: str, precision: str, weights: str | None) -> KerasTrunk:
    """The trunk of a network cut at ``layer``; ``weights`` tells its weights from others, by default their hash."""
    frozen = _cut_at(network, layer)
    weights = weights or hash_weights(frozen)
    batch_size = fitting_batch_size(frozen)
    if precision != "float32":
        compute_in(frozen, precision)
    model = _from_pictures(frozen, network, pooling)
    info = TrunkInfo(
        backbone=network.name,
        weights=weights,
        layer=layer,
        pooling=pooling,
        size=network.size,
        preprocess=network.preprocess,
        precision=precision,
        engine=f"keras-{load_keras().backend.backend()}",
        feature_shape=tuple(int(n) for n in model.output_shape[1:]),
        batch_size=batch_size,
        lanes=2 if accelerated() else 1,
    )
    return KerasTrunk(info, model)


def _cut_at(network: Network, layer: str) -> Any:
    """The Keras model from a network's input to a layer."""
    output = output_at(network.base, layer, network.name)
    try:
        return load_keras().Model(network.base.inputs, output)
    except ValueError as error:  # a layer inside another model has an output of its own, on another input
        raise BackboneError(f"layer {layer} of {network.name} cannot be a cut: {one_line(error)}") from error


def _from_pictures(frozen: Any, network: Network, pooling: str) -> Any:
    """The Keras model with preprocessing before it and pooling behind: ``uint8 (n, size, size, 3)`` to float32."""
    keras = load_keras()
    size = network.size
    pictures = keras.Input((size, size, 3), dtype="uint8")
    x = preprocess_pictures(keras.ops.cast(pictures, "float32"), network.preprocess)
    try:
        # training=False: batch norm uses its stored statistics, whatever Keras's global state says
        features = frozen(keras.ops.cast(x, frozen.inputs[0].dtype), training=False)
    except ValueError as error:  # a user's network that leaves its size open, and leaves nothing of a small picture
        raise BackboneError(f"{network.name} cannot take pictures of {size} x {size}: {one_line(error)}") from error
    return keras.Model(pictures, _pool(keras.ops.cast(features, "float32"), pooling))


def _pool(x: Any, pooling: str) -> Any:
    if pooling == "none":
        return x
    if len(x.shape) != 4:
        raise SettingError(
            f'`pooling="{pooling}"` needs a map (h, w, c), but this cut gives {tuple(x.shape[1:])}', "pooling"
        )
    ops = load_keras().ops
    return ops.mean(x, axis=(1, 2)) if pooling == "avg" else ops.max(x, axis=(1, 2))
