"""The table of networks, and the names by which they are called."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from featx._internal.choices import Pooling, Preprocessing
from featx.errors import BackboneError, SettingError, require_whole

POOLINGS: tuple[str, ...] = get_args(Pooling)
PIXELS = "pixels"  # the backbone that is none: what is cached are the decoded pictures themselves
# How pictures of 0 to 255 become a network's input:
# caffe  BGR, minus ImageNet's mean       tf       x / 127.5 - 1       torch  (x / 255 - mean) / standard deviation
# none   as they are                      rescale  x / 255
PREPROCESSINGS = tuple(name for name in get_args(Preprocessing) if name != "auto")
WEIGHTS = ("imagenet", "random")  # and files:
WEIGHTS_SUFFIXES = (".h5", ".hdf5", ".keras")


@dataclass(frozen=True)
class Backbone:
    """One row of the table ``BACKBONES``, which has one for each network of ``keras.applications``, by name.

    Attributes:
        constructor: name of it in ``keras.applications``.
        size: side of its pictures in pixels by default.
        min_size: smallest side that leaves something of a picture.
        preprocess: rule by which pictures become its input; ``none`` means that the network rescales by itself.
        layer: default cut, the last convolutional output; ``output`` stands for the network's output where Keras
            numbers that layer anew in each process.
        shape: ``(h, w, c)`` of the features at ``size``.
        parameters: number of weights without the classifier.

    Example:
        >>> from featx import BACKBONES
        >>> row = BACKBONES["vgg16"]
        >>> row.size, row.layer, row.shape
        (224, 'block5_conv3', (14, 14, 512))
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
        """Name by which the network is called."""
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


def find_backbone(name: str) -> tuple[Backbone, float]:
    """The table's row and the width for a name such as ``vgg16``, ``ResNet-50`` or ``mobilenetv2-0.35``.

    Raises:
        BackboneError: no such network; the message offers the nearest names.
    """
    row, width = _row_and_width(name)
    return row, 1.0 if width is None else width


def canonical_name(name: str, alpha: float | None = None) -> str:
    """One spelling per network: ``MobileNet_V2`` at ``alpha`` 0.35 is ``mobilenetv2-0.35``. A file keeps its path.

    Raises:
        BackboneError: no such network, or a name with a width that it does not come in.
        SettingError: ``alpha`` is not positive, does not fit the network, or contradicts its name.
    """
    if is_model_file(name) or name == PIXELS:
        return name
    row, width = _row_and_width(name)
    if alpha is not None and not row.has_widths:
        raise SettingError(f"{row.name} comes in one width only; `alpha` belongs to MobileNets", "alpha")
    if alpha is not None and width not in (None, alpha):
        raise SettingError(f"{name} and `alpha={alpha:g}` name two widths; give one", "alpha")
    width = width if alpha is None else alpha
    if width is not None and not 0 < width < 100:
        raise SettingError(f"a width (`alpha`) is positive, such as 0.35 or 1.4; got {width:g}", "alpha")
    return row.name if width in (None, 1) else f"{row.name}-{width:g}"


def _row_and_width(name: str) -> tuple[Backbone, float | None]:
    """The table's row, and the width if the name has one."""
    network = name.strip()
    width = None
    match = re.fullmatch(r"(.+)-(\d*\.?\d+)", network)
    if match and _without_separators(network) not in BACKBONES:
        network = match[1]
        width = float(match[2])
    row = BACKBONES.get(_without_separators(network))
    if row is None:
        raise BackboneError(
            f"unknown backbone {name!r}; {suggestion(name.lower(), BACKBONES)}`featx backbones` lists all, and a "
            ".keras file works too"
        )
    if width is not None and not row.has_widths:
        raise BackboneError(f"{row.name} comes in one width only; widths belong to MobileNets")
    return row, width


def _without_separators(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


def suggestion(name: str, known: Iterable[str]) -> str:
    """The nearest names as the beginning of a hint, such as ``did you mean vgg16? ``; empty if none is near."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f"did you mean {', '.join(near)}? " if near else ""


def is_model_file(name: str) -> bool:
    """Whether a backbone is a user's own model file rather than a name of the table."""
    return name.endswith(".keras")


def require_weights(weights: str) -> None:
    """Raise :class:`SettingError` unless weights are ``imagenet``, ``random`` or named like a file of weights."""
    if weights in WEIGHTS or weights.endswith(WEIGHTS_SUFFIXES):
        return
    near = difflib.get_close_matches(weights.lower(), WEIGHTS, n=1)
    hint = f"did you mean {near[0]}?" if near else "expected imagenet, random, or a .weights.h5, .h5 or .keras file"
    raise SettingError(f"unknown `weights` {weights!r}; {hint}", "weights")


def resolve_size(backbone: str, size: int | None) -> int | None:
    """Side of the input in pixels, without building anything; None for a model file whose size only Keras can tell.

    Raises:
        BackboneError: no such network.
        SettingError: no whole number of pixels, or below the network's smallest size.
    """
    in_table = not is_model_file(backbone) and backbone != PIXELS
    row = find_backbone(backbone)[0] if in_table else None
    if size is None and backbone == PIXELS:
        raise SettingError("pixels have no size of their own; give `size`, such as `size=128`", "size")
    if size is None:
        return row.size if row else None
    size = require_whole("size", size)
    if row and size < row.min_size:
        raise SettingError(
            f"{row.name} needs pictures of at least {row.min_size} x {row.min_size} pixels, got `size={size}`: its "
            f"pooling would leave nothing. Leave `size` out to resize to {row.size}, or give {row.min_size} or more",
            "size",
        )
    return require_whole("size", size, 1)
