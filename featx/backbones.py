"""Backbones: one table of networks, and a trunk built from one of them at a cut.

A trunk takes ``uint8 (n, size, size, 3)`` RGB and gives ``float32 (n, h, w, c)``, or ``(n, c)`` if pooled. The
preprocessing of its network is part of it, so that it can neither be forgotten nor be applied twice.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import re
import socket
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featx._keras import load_keras
from featx.errors import BackboneError, WeightsError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

POOLINGS = ("none", "avg", "max")
# How pictures of 0 to 255 become a network's input:
# caffe  BGR, minus ImageNet's mean       tf       x / 127.5 - 1       torch  (x / 255 - mean) / standard deviation
# none   as they are                      rescale  x / 255
PREPROCESSINGS = ("caffe", "tf", "torch", "none", "rescale")
DOWNLOAD_TIMEOUT = 10.0  # seconds without a byte


@dataclass(frozen=True)
class Backbone:
    """One row of the table.

    ``layer`` is the default cut: the last convolutional output. "output" stands for the base's own output where Keras
    numbers that layer anew in each process. ``shape`` is the features' ``(h, w, c)`` at ``size``; ``parameters`` counts
    the base without its classifier. ``preprocess`` "none" means that the network rescales by itself.
    """

    constructor: str
    size: int
    min_size: int
    preprocess: str
    layer: str
    shape: tuple[int, int, int]
    parameters: int

    @property
    def name(self) -> str:
        """The name on the command line."""
        return self.constructor.lower()

    @property
    def has_widths(self) -> bool:
        """Whether the network comes in widths (``alpha``)."""
        return self.constructor.startswith("MobileNet")


BACKBONES: dict[str, Backbone] = {
    row.name: row
    for row in (
        Backbone("VGG16", 224, 32, "caffe", "block5_conv3", (14, 14, 512), 14_714_688),
        Backbone("VGG19", 224, 32, "caffe", "block5_conv4", (14, 14, 512), 20_024_384),
        Backbone("ResNet50", 224, 32, "caffe", "conv5_block3_out", (7, 7, 2048), 23_587_712),
        Backbone("ResNet101", 224, 32, "caffe", "conv5_block3_out", (7, 7, 2048), 42_658_176),
        Backbone("ResNet152", 224, 32, "caffe", "conv5_block3_out", (7, 7, 2048), 58_370_944),
        Backbone("ResNet50V2", 224, 32, "tf", "post_relu", (7, 7, 2048), 23_564_800),
        Backbone("ResNet101V2", 224, 32, "tf", "post_relu", (7, 7, 2048), 42_626_560),
        Backbone("ResNet152V2", 224, 32, "tf", "post_relu", (7, 7, 2048), 58_331_648),
        Backbone("MobileNet", 224, 32, "tf", "conv_pw_13_relu", (7, 7, 1024), 3_228_864),
        Backbone("MobileNetV2", 224, 32, "tf", "out_relu", (7, 7, 1280), 2_257_984),
        Backbone("MobileNetV3Small", 224, 32, "none", "output", (7, 7, 576), 939_120),
        Backbone("MobileNetV3Large", 224, 32, "none", "output", (7, 7, 960), 2_996_352),
        Backbone("DenseNet121", 224, 32, "torch", "relu", (7, 7, 1024), 7_037_504),
        Backbone("DenseNet169", 224, 32, "torch", "relu", (7, 7, 1664), 12_642_880),
        Backbone("DenseNet201", 224, 32, "torch", "relu", (7, 7, 1920), 18_321_984),
        Backbone("InceptionV3", 299, 75, "tf", "mixed10", (8, 8, 2048), 21_802_784),
        Backbone("InceptionResNetV2", 299, 75, "tf", "conv_7b_ac", (8, 8, 1536), 54_336_736),
        Backbone("Xception", 299, 71, "tf", "block14_sepconv2_act", (10, 10, 2048), 20_861_480),
        Backbone("NASNetMobile", 224, 32, "tf", "output", (7, 7, 1056), 4_269_716),
        Backbone("NASNetLarge", 331, 32, "tf", "output", (11, 11, 4032), 84_916_818),
        Backbone("EfficientNetB0", 224, 32, "none", "top_activation", (7, 7, 1280), 4_049_571),
        Backbone("EfficientNetB1", 240, 32, "none", "top_activation", (8, 8, 1280), 6_575_239),
        Backbone("EfficientNetB2", 260, 32, "none", "top_activation", (9, 9, 1408), 7_768_569),
        Backbone("EfficientNetB3", 300, 32, "none", "top_activation", (10, 10, 1536), 10_783_535),
        Backbone("EfficientNetB4", 380, 32, "none", "top_activation", (12, 12, 1792), 17_673_823),
        Backbone("EfficientNetB5", 456, 32, "none", "top_activation", (15, 15, 2048), 28_513_527),
        Backbone("EfficientNetB6", 528, 32, "none", "top_activation", (17, 17, 2304), 40_960_143),
        Backbone("EfficientNetB7", 600, 32, "none", "top_activation", (19, 19, 2560), 64_097_687),
        Backbone("EfficientNetV2B0", 224, 32, "none", "top_activation", (7, 7, 1280), 5_919_312),
        Backbone("EfficientNetV2B1", 240, 32, "none", "top_activation", (8, 8, 1280), 6_931_124),
        Backbone("EfficientNetV2B2", 260, 32, "none", "top_activation", (9, 9, 1408), 8_769_374),
        Backbone("EfficientNetV2B3", 300, 32, "none", "top_activation", (10, 10, 1536), 12_930_622),
        Backbone("EfficientNetV2S", 384, 32, "none", "top_activation", (12, 12, 1280), 20_331_360),
        Backbone("EfficientNetV2M", 480, 32, "none", "top_activation", (15, 15, 1280), 53_150_388),
        Backbone("EfficientNetV2L", 480, 32, "none", "top_activation", (15, 15, 1280), 117_746_848),
        Backbone("ConvNeXtTiny", 224, 32, "none", "output", (7, 7, 768), 27_820_128),
        Backbone("ConvNeXtSmall", 224, 32, "none", "output", (7, 7, 768), 49_454_688),
        Backbone("ConvNeXtBase", 224, 32, "none", "output", (7, 7, 1024), 87_566_464),
        Backbone("ConvNeXtLarge", 224, 32, "none", "output", (7, 7, 1536), 196_230_336),
        Backbone("ConvNeXtXLarge", 224, 32, "none", "output", (7, 7, 2048), 348_147_968),
    )
}


class Trunk:
    """A frozen base up to a cut, ready to run.

    Attributes:
        backbone, layer, pooling, size, preprocess: what it is, everything resolved.
        weights: BLAKE2b-128 of the values of all its weights, in hexadecimal; ``random-SEED`` for random ones.
        feature_shape: ``(h, w, c)`` or ``(c,)``.
        engine: what computes it, such as ``keras-tensorflow``.
    """

    def __init__(
        self, base: Any, backbone: str, layer: str, pooling: str, size: int, preprocess: str, weights: str | None
    ) -> None:
        keras = load_keras()
        self.backbone, self.layer, self.pooling, self.preprocess = backbone, layer, pooling, preprocess
        self.size = size
        self.engine = f"keras-{keras.backend.backend()}"
        output = _output_at(base, layer, backbone)
        try:
            frozen = keras.Model(base.inputs, output)
        except ValueError as error:  # a layer inside another model has an output of its own, on another input
            raise BackboneError(f"layer {layer} of {backbone} cannot be a cut: {one_line(error)}") from error
        self.weights = weights or _hash_weights(frozen)
        pictures = keras.Input((size, size, 3), dtype="uint8")
        x = _preprocess(keras.ops.cast(pictures, "float32"), preprocess)
        # training=False: batch norm uses its stored statistics, whatever Keras's global state says
        self._model = keras.Model(pictures, _pool(frozen(x, training=False), pooling))
        self.feature_shape: tuple[int, ...] = tuple(int(n) for n in self._model.output_shape[1:])

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features of ``images``, ``uint8 (n, size, size, 3)`` RGB, as ``float32 (n, *feature_shape)``.

        One compiled call a batch: keep ``n`` the same from call to call, for each new ``n`` is compiled anew.
        """
        features: NDArray[np.float32] = np.asarray(self._model.predict_on_batch(images), dtype=np.float32)
        return features


def build_trunk(
    backbone: str = "vgg16",
    *,
    weights: str = "imagenet",
    layer: str | None = None,
    pooling: str = "none",
    size: int | None = None,
    preprocess: str = "auto",
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
        random_state: seed of ``random`` weights.

    Raises:
        BackboneError: an unknown network or layer, a size below the network's smallest, a rule that does not apply.
        WeightsError: weights that cannot be had, or that do not fit; the message names the layer.
    """
    if pooling not in POOLINGS:
        raise BackboneError(f"unknown pooling {pooling!r}; expected one of {', '.join(POOLINGS)}")
    own = is_model_file(backbone)
    base, cut, rule = _own_base(backbone, preprocess) if own else _table_base(backbone, size, preprocess, weights)
    name = Path(backbone).name if own else canonical_name(backbone)
    side = _side(base, size, name)
    if weights == "random":
        _randomise(base, side, rule, random_state)
    elif weights != "imagenet":
        _load_weights(base, Path(weights), name)
        if not own:
            _refuse_imagenet_file(base, Path(weights), find_backbone(name)[0])
    identity = f"random-{random_state}" if weights == "random" else None
    if own:  # its name does not tell its graph
        graph = hashlib.blake2b(base.to_json().encode(), digest_size=8).hexdigest()
        identity = f"{identity or _hash_weights(base)}-{graph}"
    cut = layer or cut
    if cut is None:
        raise BackboneError(f"{name} has no map to take features from; name a layer with --layer")
    return Trunk(base, name, cut, pooling, side, rule, identity)


def find_backbone(name: str) -> tuple[Backbone, float]:
    """The table's row and the width for a name such as ``vgg16``, ``ResNet-50`` or ``mobilenetv2-0.35``.

    Raises:
        BackboneError: no such network; the message offers the nearest names.
    """
    row, width = _parse(name)
    return row, 1.0 if width is None else width


def canonical_name(name: str, alpha: float | None = None) -> str:
    """One spelling a network: ``MobileNet_V2`` at ``alpha`` 0.35 is ``mobilenetv2-0.35``. A file keeps its path."""
    if is_model_file(name):
        return name
    row, width = _parse(name)
    if alpha is not None and not row.has_widths:
        raise BackboneError(f"{row.name} comes in one width only; --alpha belongs to MobileNets")
    if alpha is not None and width not in (None, alpha):
        raise BackboneError(f"{name} and --alpha {alpha:g} name two widths; give one")
    width = width if alpha is None else alpha
    if width is not None and not 0 < width < 100:
        raise BackboneError(f"a width (alpha) is positive, such as 0.35 or 1.4; got {width:g}")
    return row.name if width in (None, 1) else f"{row.name}-{width:g}"


def _parse(name: str) -> tuple[Backbone, float | None]:
    """The table's row, and the width if the name has one."""
    plain, width = name.strip(), None
    if _plain(plain) not in BACKBONES and (match := re.fullmatch(r"(.+)-(\d*\.?\d+)", plain)):
        plain, width = match[1], float(match[2])
    row = BACKBONES.get(_plain(plain))
    if row is None:
        near = difflib.get_close_matches(name.lower(), BACKBONES, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise BackboneError(
            f"unknown backbone {name!r}; {hint}`featx backbones` lists all, and a .keras file works too"
        )
    if width is not None and not row.has_widths:
        raise BackboneError(f"{row.name} comes in one width only; widths belong to MobileNets")
    return row, width


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


def is_model_file(name: str) -> bool:
    """Whether a backbone is a user's own model file rather than a name of the table."""
    return name.endswith(".keras")


def resolve_size(backbone: str, size: int | None) -> int | None:
    """The input's side in pixels, without building anything; None for a model file whose size only Keras can tell.

    Raises:
        BackboneError: below the network's smallest size.
    """
    if is_model_file(backbone):
        return size
    row, _ = find_backbone(backbone)
    if size is not None and size < row.min_size:
        raise BackboneError(
            f"{row.name} needs pictures of at least {row.min_size} x {row.min_size} pixels, got --size {size}: its "
            f"pooling would leave nothing. Leave --size out to resize to {row.size}, or give {row.min_size} or more"
        )
    return size or row.size


@dataclass(frozen=True)
class LayerRow:
    """One layer: ``cut`` if features can be taken there, ``tail`` if all that follows hangs on it alone."""

    index: int
    name: str
    type: str
    output_shape: tuple[int | None, ...]
    parameters: int
    cut: bool
    tail: bool


def list_layers(backbone: str, size: int | None = None) -> list[LayerRow]:
    """All layers of a backbone in order, at its own size or the one given. Weights are not loaded."""
    base, _, _ = _own_base(backbone, "none") if is_model_file(backbone) else _table_base(backbone, size, "auto", "none")
    tails = _tail_cuts(base.layers)
    shapes = _shapes(base, size)
    rows = []
    for index, (name, layer) in enumerate(_layers(base).items()):
        shape = shapes[name]
        cut = bool(shape) and not _is_input(layer)
        parameters = int(layer.count_params())
        rows.append(LayerRow(index, name, type(layer).__name__, shape, parameters, cut, cut and index in tails))
    return rows


def _shapes(base: Any, size: int | None) -> dict[str, tuple[int | None, ...]]:
    """The output shape of one picture by layer, at ``size`` where the network leaves that open; () for several."""
    single = {
        n: layer.output for n, layer in _layers(base).items() if not isinstance(layer.output, (list, tuple, dict))
    }
    if size is not None and None in base.input_shape[1:]:
        keras = load_keras()
        outputs = keras.Model(base.inputs, list(single.values()))(keras.Input((size, size, 3)))
        single = dict(zip(single, outputs, strict=True))
    return {name: tuple(single[name].shape[1:]) if name in single else () for name in _layers(base)}


# ----------------------------------------------------------------------------------------------------------- the base


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
            base = _with_imagenet(build, options, row) if weights == "imagenet" else build(**options)
        except ValueError as error:  # such as a width that leaves no channels
            raise BackboneError(f"{backbone} cannot be built: {one_line(error)}") from error
    return base, row.layer, row.preprocess if preprocess == "auto" else preprocess


def _own_base(file: str, preprocess: str) -> tuple[Any, str | None, str]:
    if preprocess not in PREPROCESSINGS:
        raise BackboneError(
            f"featx cannot know how {file} wants its pictures; give --preprocess as one of {', '.join(PREPROCESSINGS)}"
        )
    base = _read_model(Path(file))
    shape = getattr(base, "input_shape", None)
    if not (isinstance(shape, tuple) and len(shape) == 4 and shape[-1] == 3):
        raise BackboneError(f"{file} takes input of shape {shape}; expected pictures, (n, height, width, 3)")
    return base, _default_cut(base), preprocess


def _default_cut(base: Any) -> str | None:
    """The last map of a user's network: its output if that is one, else the last layer that gives one."""
    maps = [name for name, layer in _layers(base).items() if not _is_input(layer) and _rank(layer) == 4]
    if len(base.outputs) == 1 and len(base.outputs[0].shape) == 4:
        return next((name for name in maps if _layers(base)[name].output is base.outputs[0]), "output")
    return maps[-1] if maps else None


def _is_input(layer: Any) -> bool:
    return type(layer).__name__ == "InputLayer"


def _rank(layer: Any) -> int:
    return len(getattr(layer.output, "shape", ()))


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


def _layers(model: Any) -> dict[str, Any]:
    """Layers by the names they have in a fresh process.

    Keras numbers unnamed layers through the whole process (``activation_19``, then ``activation_38``); a spec must not
    depend on what was built before.
    """
    numbered: dict[str, list[tuple[int, str]]] = {}
    for layer in model.layers:
        match = re.fullmatch(r"(.+?)(?:_(\d+))?", layer.name)
        stem, number = match.groups() if match else (layer.name, None)
        if stem == _snake(type(layer).__name__):
            numbered.setdefault(stem, []).append((int(number or 0), layer.name))
    fresh = {
        name: stem if rank == 0 else f"{stem}_{rank}"
        for stem, group in numbered.items()
        for rank, (_, name) in enumerate(sorted(group))
    }
    return {fresh.get(layer.name, layer.name): layer for layer in model.layers}


def _snake(name: str) -> str:
    """``Conv2D`` to ``conv2d``, ``BatchNormalization`` to ``batch_normalization``: Keras's rule for unnamed layers."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _output_at(base: Any, layer: str, backbone: str) -> Any:
    if layer == "output" and len(base.outputs) == 1:
        return base.outputs[0]
    found = _layers(base).get(layer)
    if found is None:
        near = difflib.get_close_matches(layer, _layers(base), n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise BackboneError(f"{backbone} has no layer {layer!r}; {hint}`featx backbones {backbone}` lists them")
    if _is_input(found) or isinstance(found.output, (list, tuple, dict)) or len(found.output.shape) < 2:
        raise BackboneError(f"layer {layer} of {backbone} cannot be a cut: it does not have one output per picture")
    return found.output


def _tail_cuts(layers: list[Any]) -> set[int]:
    """Indices of layers through which everything that follows depends on what came before."""
    producer: dict[int, int] = {}
    last_use: dict[int, int] = {}
    for index, layer in enumerate(layers):
        inputs = layer.input if isinstance(layer.input, (list, tuple)) else [layer.input]
        for tensor in inputs:
            if id(tensor) in producer:
                last_use[producer[id(tensor)]] = index
        for tensor in layer.output if isinstance(layer.output, (list, tuple)) else [layer.output]:
            producer.setdefault(id(tensor), index)
    cuts, open_until = set(), 0
    for index in range(len(layers)):
        if open_until <= index:
            cuts.add(index)
        open_until = max(open_until, last_use.get(index, index))
    return cuts


# ------------------------------------------------------------------------------------------------------------ weights


# Files that Keras saves under another name than their address has
_SAVED_AS = {
    "NASNet-mobile-no-top.h5": "nasnet_mobile_no_top.h5",
    "NASNet-large-no-top.h5": "nasnet_large_no_top.h5",
}


def _with_imagenet(build: Any, options: dict[str, Any], row: Backbone) -> Any:
    """Build with Keras's ImageNet weights; what Keras says while downloading goes to stderr."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    said = _Tee()
    try:
        with contextlib.redirect_stdout(said):
            return build(**{**options, "weights": "imagenet"})
    except Exception as error:  # Keras raises a bare Exception when it cannot download, others break half-way
        url = re.search(r"https?://\S+?(?=[:,]?\s|$)", f"{error} {said.text}")
        if url is None:
            raise WeightsError(f"no ImageNet weights for {_width_name(row, options)}: {one_line(error)}") from error
        file = Path(url[0]).name
        place = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models" / _SAVED_AS.get(file, file)
        other = "" if _rescales_for_imagenet(row) else "give --weights FILE, or "
        raise WeightsError(
            f"ImageNet weights for {_width_name(row, options)} could not be downloaded. Keras wants {url[0]}: put that "
            f"file at {place}, or {other}--weights random to try things out"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


class _Tee:
    """Passes on to stderr what Keras prints while downloading, and remembers it: it names the address."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text = (self.text + text)[:2000]
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _width_name(row: Backbone, options: dict[str, Any]) -> str:
    return canonical_name(row.name, options.get("alpha"))


def _rescales_for_imagenet(row: Backbone) -> bool:
    """Keras gives EfficientNet (not V2) one more layer when, and only when, it loads the ImageNet weights itself."""
    return row.constructor.startswith("EfficientNetB")


def _refuse_imagenet_file(base: Any, file: Path, row: Backbone) -> None:
    norms = [layer for layer in base.layers if type(layer).__name__ == "Normalization"]
    if _rescales_for_imagenet(row) and norms and np.allclose(norms[0].get_weights()[0], _IMAGENET_RGB_MEAN, atol=1e-3):
        raise WeightsError(
            f"{file} holds ImageNet weights, for which Keras builds {row.name} with one more layer when it "
            f"loads them itself: put the file at ~/.keras/models/{row.name}_notop.h5 and give --weights imagenet"
        )


def _randomise(base: Any, size: int, rule: str, random_state: int) -> None:
    """Random weights whose features keep a sensible scale at any depth.

    Kernels are He-normal (He et al. 2015), drawn by NumPy, so that every backend and Keras version gets the same; batch
    norms take their statistics from pictures of coarse noise, without which deep networks vanish or overflow.
    """
    ops = load_keras().ops
    for index, layer in enumerate(base.layers):
        for variable in layer.weights:
            if "kernel" in variable.name:
                depthwise = "Depthwise" in type(layer).__name__ or "depthwise" in variable.name
                fan_in = np.prod(variable.shape[:2] if depthwise else variable.shape[:-1])
                values = np.random.default_rng([random_state, index]).standard_normal(variable.shape, dtype=np.float32)
                variable.assign(values * np.float32(np.sqrt(2 / fan_in)))
        if "Dropout" in type(layer).__name__:
            layer.rate = 0.0  # never used: a trunk is frozen; and here it would make the statistics random
    norms = [layer for layer in base.layers if type(layer).__name__ == "BatchNormalization"]
    for norm in norms:
        norm.momentum = 0.0
    if norms:
        count = 4 if size >= 96 else 64  # the last maps of small pictures are one pixel
        noise = np.random.default_rng(random_state).uniform(0, 255, (count, 8, 8, 3)).astype(np.float32)
        coarse = noise.repeat(-(-size // 8), axis=1).repeat(-(-size // 8), axis=2)[:, :size, :size]
        base(_preprocess(ops.convert_to_tensor(coarse), rule), training=True)


def _load_weights(base: Any, file: Path, backbone: str) -> None:
    """Load a weights file; every layer must be found in it."""
    if not file.is_file():
        raise WeightsError(
            f"no weights file {file}; --weights takes imagenet, random, or a .weights.h5, .h5 or .keras file"
        )
    if file.suffix not in (".h5", ".hdf5", ".keras"):
        raise WeightsError(f"{file}: expected a .weights.h5, .h5 or .keras file")
    attempts = [_copy_weights] if file.suffix == ".keras" else [_load_in_order]
    if file.suffix != ".keras" and not file.name.endswith(".weights.h5"):
        attempts.append(_load_by_name)  # an older file of the whole network, its classifier included
    for attempt in attempts:
        try:
            for variable in base.weights:
                variable.assign(np.full(variable.shape, np.nan, np.float32))
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # "Affected layers will retain ...": the check for NaN below is stricter
                attempt(base, file)
            problem = _first_unloaded(base)
        except WeightsError:
            raise
        except Exception as error:  # Keras and h5py raise what comes along when a file does not fit
            problem = _mismatch(error)
        if problem is None:
            return
    raise WeightsError(f"{file} does not fit {backbone}: {problem}. Are network and width (--alpha) the file's?")


def _load_in_order(base: Any, file: Path) -> None:
    base.load_weights(file)


def _load_by_name(base: Any, file: Path) -> None:
    base.load_weights(file, by_name=True)


def _copy_weights(base: Any, file: Path) -> None:
    theirs = _layers(_read_model(file))
    for name, layer in _layers(base).items():
        if layer.weights and name in theirs:
            try:
                layer.set_weights(theirs[name].get_weights())
                if hasattr(layer, "finalize_state"):  # Normalization computes with a copy of its weights
                    layer.finalize_state()
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {one_line(error)}") from None


def _read_model(file: Path) -> Any:
    """A Keras model from a file, which may hold a graph and weights but no code."""
    keras = load_keras()
    if not file.is_file():
        raise WeightsError(f"no such model file: {file}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # zip, JSON, HDF5 and Keras errors alike
        raise WeightsError(f"{file} was refused as a model of layers and weights only: {one_line(error)}") from error


def _first_unloaded(base: Any) -> str | None:
    for name, layer in _layers(base).items():
        if any(np.isnan(np.sum(np.asarray(value))) for value in layer.get_weights()):
            return f"it has no values for layer {name!r}"
    return None


def _mismatch(error: Exception) -> str:
    """What did not fit, with the layer's name, from the many ways in which Keras says so."""
    text = str(error)
    layer = re.search(r"name=([\w./-]+),|[Ll]ayer '([\w./-]+)'|named ([\w./-]+)", text)
    counts = re.search(r"Layer '([^']+)' expected (\d+) variables, but received (\d+)", text)
    if counts:
        return f"layer {counts[1]!r} has {counts[2]} arrays of weights, in the file {counts[3]}"
    shapes = re.search(r"variable\.shape=(\([^)]*\)), Received: value\.shape=(\([^)]*\))", text)
    if layer and shapes:
        return f"layer {next(filter(None, layer.groups()))!r} has shape {shapes[1]}, in the file {shapes[2]}"
    return f"layer {next(filter(None, layer.groups()))!r}: {one_line(error)}" if layer else one_line(error)


def _hash_weights(model: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for variable in model.weights:
        value = np.ascontiguousarray(variable.numpy() if hasattr(variable, "numpy") else variable, dtype="<f4")
        digest.update(repr(value.shape).encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------ around the network

_IMAGENET_BGR_MEAN = np.array([103.939, 116.779, 123.68], np.float32)
_IMAGENET_RGB_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_IMAGENET_RGB_STD = np.array([0.229, 0.224, 0.225], np.float32)


def _preprocess(x: Any, rule: str) -> Any:
    """``x``: float tensor ``(n, h, w, 3)``, RGB, 0 to 255, turned into what the network was trained on."""
    if rule == "caffe":
        return x[..., ::-1] - _IMAGENET_BGR_MEAN
    if rule == "tf":
        return x / 127.5 - 1.0
    if rule == "torch":
        return (x / 255.0 - _IMAGENET_RGB_MEAN) / _IMAGENET_RGB_STD
    return x / 255.0 if rule == "rescale" else x


def _pool(x: Any, pooling: str) -> Any:
    if pooling == "none":
        return x
    if len(x.shape) != 4:
        raise BackboneError(f"--pooling {pooling} needs a map (h, w, c), but this cut gives {tuple(x.shape[1:])}")
    ops = load_keras().ops
    return ops.mean(x, axis=(1, 2)) if pooling == "avg" else ops.max(x, axis=(1, 2))
