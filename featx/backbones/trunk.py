"""A trunk: a frozen network up to a cut, its preprocessing before it, ready to run."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featx._internal.keras import held_back, load_keras
from featx.backbones.devices import CPU_BATCH, PRECISIONS, accelerated, compiled, compute_in, fitting_batch_size
from featx.backbones.layers import is_input, layers_by_name, output_at, output_of
from featx.backbones.preprocessing import preprocess_pictures
from featx.backbones.table import (
    PIXELS,
    POOLINGS,
    PREPROCESSINGS,
    canonical_name,
    find_backbone,
    is_model_file,
    resolve_size,
)
from featx.backbones.weights import (
    hash_weights,
    load_weights_file,
    randomise,
    read_model,
    refuse_imagenet_file,
    with_imagenet,
)
from featx.errors import BackboneError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Trunk:
    """A frozen base up to a cut, ready to run.

    Attributes:
        backbone, layer, pooling, size, preprocess: what it is, everything resolved.
        weights: BLAKE2b-128 of the values of all its weights, in hexadecimal; ``random-SEED`` for random ones.
        feature_shape: ``(h, w, c)`` or ``(c,)``.
        precision: ``float32``, ``bfloat16`` or ``float16``: in which its layers compute.
        engine: what computes it, such as ``keras-tensorflow``.
        batch_size: how many pictures a call suit the device and its memory.
        lanes: how many calls may be under way at once: two where one can be handed over while another is computed.
    """

    def __init__(
        self,
        base: Any,
        backbone: str,
        layer: str,
        pooling: str,
        size: int,
        preprocess: str,
        weights: str | None,
        precision: str = "float32",
    ) -> None:
        keras = load_keras()
        self.backbone, self.layer, self.pooling, self.preprocess = backbone, layer, pooling, preprocess
        self.size, self.precision = size, precision
        self.engine = f"keras-{keras.backend.backend()}"
        self.lanes = 2 if accelerated() else 1
        output = output_at(base, layer, backbone)
        try:
            frozen = keras.Model(base.inputs, output)
        except ValueError as error:  # a layer inside another model has an output of its own, on another input
            raise BackboneError(f"layer {layer} of {backbone} cannot be a cut: {one_line(error)}") from error
        self.weights = weights or hash_weights(frozen)
        self.batch_size = fitting_batch_size(frozen)
        if precision != "float32":
            compute_in(frozen, precision)
        pictures = keras.Input((size, size, 3), dtype="uint8")
        x = preprocess_pictures(keras.ops.cast(pictures, "float32"), preprocess)
        try:
            # training=False: batch norm uses its stored statistics, whatever Keras's global state says
            features = frozen(keras.ops.cast(x, frozen.inputs[0].dtype), training=False)
        except ValueError as error:  # a user's network that leaves its size open, and leaves nothing of a small picture
            raise BackboneError(f"{backbone} cannot take pictures of {size} x {size}: {one_line(error)}") from error
        self._model = keras.Model(pictures, _pool(keras.ops.cast(features, "float32"), pooling))
        self._run = compiled(self._model)
        self.feature_shape: tuple[int, ...] = tuple(int(n) for n in self._model.output_shape[1:])

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Features of ``images``, ``uint8 (n, size, size, 3)`` RGB, as ``float32 (n, *feature_shape)``.

        One compiled call a batch: keep ``n`` the same from call to call, for each new ``n`` is compiled anew.
        """
        features: NDArray[np.float32] = np.require(self._run(images), np.float32, "W")  # JAX's own are read-only
        return features


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
    """Build a trunk.

    Args:
        backbone: a name of the table, with a width (``mobilenetv2-0.35``) if wanted, or the path of a ``.keras`` file.
        weights: ``imagenet`` (Keras's own download; for a ``.keras`` file: its own), ``random``, or a ``.weights.h5``,
            legacy ``.h5`` or ``.keras`` file.
        layer: the cut, any layer with one output; by default the last convolutional output.
        pooling: ``none``, ``avg`` or ``max`` over the map's height and width.
        size: side of the input in pixels; by default the network's own.
        preprocess: ``auto`` (the network's own rule), or one of ``PREPROCESSINGS``.
        precision: ``float32``, or ``bfloat16`` or ``float16`` for layers that compute in it, with float32 weights;
            features are float32 again. How much that changes them has to be looked at.
        random_state: seed of ``random`` weights.

    Raises:
        BackboneError: an unknown network or layer, a size below the network's smallest, a rule that does not apply.
        WeightsError: weights that cannot be had, or that do not fit; the message names the layer.
    """
    if pooling not in POOLINGS:
        raise BackboneError(f"unknown pooling {pooling!r}; expected one of {', '.join(POOLINGS)}")
    if precision not in PRECISIONS:
        raise BackboneError(f"unknown precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if backbone == PIXELS:
        return Pixels(resolve_size(backbone, size) or 0)
    built = build_network(backbone, weights, size, preprocess, random_state)
    identity = f"random-{random_state}" if weights == "random" else None
    if built.graph:  # its name tells neither its graph nor, since only kernels are drawn, all of its random weights
        identity = f"{hash_weights(built.base)}-{built.graph}"
    cut = layer or built.layer
    if cut is None:
        raise BackboneError(f"{built.name} has no map to take features from; name a layer with --layer")
    return Trunk(built.base, built.name, cut, pooling, built.size, built.preprocess, identity, precision)


class Pixels(Trunk):
    """The trunk of a network that is trained as a whole: it gives the pixels as they are, ``uint8``."""

    def __init__(self, size: int) -> None:
        self.backbone, self.layer, self.pooling, self.preprocess = PIXELS, PIXELS, "none", "none"
        self.size, self.weights, self.engine, self.precision = size, "none", "none", "float32"
        self.batch_size, self.lanes = CPU_BATCH, 1
        self.feature_shape = (size, size, 3)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        return images.copy()


@dataclass(frozen=True)
class Network:
    """A network without its classifier, as Keras has it.

    Attributes:
        base: the Keras model.
        name: what it is called in a spec.
        layer: where it is cut by default; None if it has no map.
        size: side of its input.
        preprocess: its rule, resolved.
        graph: what tells one graph of a user's own file from another; empty for networks of the table.
    """

    base: Any
    name: str
    layer: str | None
    size: int
    preprocess: str
    graph: str


def build_network(
    backbone: str, weights: str, size: int | None, preprocess: str = "auto", random_state: int = 0
) -> Network:
    """A network with its weights; see :func:`build_trunk`. With ``weights="none"`` they are left as they come."""
    own = is_model_file(backbone)
    base, cut, rule = _own_base(backbone, preprocess) if own else _table_base(backbone, size, preprocess, weights)
    name = Path(backbone).name if own else canonical_name(backbone)
    side = _side(base, size, name)
    if weights == "random":
        randomise(base, side, rule, random_state)
    elif weights not in ("imagenet", "none"):
        load_weights_file(base, Path(weights), name)
        if not own:
            refuse_imagenet_file(base, Path(weights), find_backbone(name)[0])
    return Network(base, name, cut, side, rule, _graph(base) if own else "")


def _graph(base: Any) -> str:
    with held_back():  # Keras imports TensorFlow here, if it is installed, on other backends too
        return hashlib.blake2b(base.to_json().encode(), digest_size=8).hexdigest()


def build_base(backbone: str, size: int | None, preprocess: str) -> Any:
    """The Keras model of a network, without weights; that of a user's file may leave its size open."""
    own = is_model_file(backbone)
    return (_own_base(backbone, preprocess) if own else _table_base(backbone, size, preprocess, "none"))[0]


def _table_base(backbone: str, size: int | None, preprocess: str, weights: str) -> tuple[Any, str | None, str]:
    keras = load_keras()
    row, width = find_backbone(backbone)
    side = resolve_size(backbone, size)
    if preprocess not in ("auto", *PREPROCESSINGS):
        raise BackboneError(f"unknown preprocessing {preprocess!r}; expected auto, {', '.join(PREPROCESSINGS)}")
    if row.preprocess == "none" and preprocess not in ("auto", "none"):
        raise BackboneError(f"{row.name} rescales its input by itself; --preprocess {preprocess} would do it twice")
    options: dict[str, Any] = {"include_top": False, "input_shape": (side, side, 3), "weights": None}
    if row.has_widths:
        options["alpha"] = width
    build = getattr(keras.applications, row.constructor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as "weights for input shape (224, 224) will be loaded": as intended
        try:
            base = with_imagenet(build, options, row) if weights == "imagenet" else build(**options)
        except ValueError as error:  # such as a width that leaves no channels
            raise BackboneError(f"{backbone} cannot be built: {one_line(error)}") from error
    return base, row.layer, row.preprocess if preprocess == "auto" else preprocess


def _own_base(file: str, preprocess: str) -> tuple[Any, str | None, str]:
    if preprocess not in PREPROCESSINGS:
        raise BackboneError(
            f"featx cannot know how {file} wants its pictures; give --preprocess as one of {', '.join(PREPROCESSINGS)}"
        )
    base = read_model(Path(file))
    shape = getattr(base, "input_shape", None)
    if not (isinstance(shape, tuple) and len(shape) == 4 and shape[-1] == 3):
        raise BackboneError(f"{file} takes input of shape {shape}; expected pictures, (n, height, width, 3)")
    if "float" not in base.inputs[0].dtype and preprocess != "none":
        raise BackboneError(
            f"{file} takes {base.inputs[0].dtype}, which --preprocess {preprocess} would round to nothing; give "
            "--preprocess none"
        )
    return base, _default_cut(base), preprocess


def _default_cut(base: Any) -> str | None:
    """The last map of a user's network: its output if that is one, else the last layer that gives one."""
    outputs = {n: output_of(base, layer) for n, layer in layers_by_name(base).items() if not is_input(layer)}
    maps = {name: output for name, output in outputs.items() if output is not None and len(output.shape) == 4}
    if len(base.outputs) == 1 and len(base.outputs[0].shape) == 4:
        return next((name for name in maps if maps[name] is base.outputs[0]), "output")
    return list(maps)[-1] if maps else None


def _side(base: Any, size: int | None, backbone: str) -> int:
    """The side of the square input: the network's if it is fixed, else the one asked for."""
    _, height, width, _ = base.input_shape
    side = height or width or size
    if height != width:
        raise BackboneError(f"{backbone} takes pictures of {height} x {width} pixels; featx makes squares only")
    if side is None:
        raise BackboneError(f"{backbone} leaves the size of its input open; give --size")
    if {height or side, width or side, size or side} != {side}:
        raise BackboneError(f"{backbone} takes pictures of {height} x {width} pixels, asked for {size} x {size}")
    return int(side)


def _pool(x: Any, pooling: str) -> Any:
    if pooling == "none":
        return x
    if len(x.shape) != 4:
        raise BackboneError(f"--pooling {pooling} needs a map (h, w, c), but this cut gives {tuple(x.shape[1:])}")
    ops = load_keras().ops
    return ops.mean(x, axis=(1, 2)) if pooling == "avg" else ops.max(x, axis=(1, 2))
