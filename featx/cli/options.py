"""Options that several commands have, each declared once, and groups that become arguments of the library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from featx._internal.choices import HEADS, Dtype, Engine, Input, Pooling, Precision, Preprocessing, Resize
from featx.cli import completion
from featx.cli.program import HEAD, NETWORK, PICTURES, RUN, TRAINING, VIEWS, option

CACHE = Path("cache")
VALIDATION = 0.2

Dataset = Annotated[
    Path, typer.Argument(metavar="DATASET", help="Folder of CLASS/*, of train/CLASS/* ..., or a label file.")
]
Features = Annotated[
    Path | None,
    typer.Argument(
        metavar="FEATURES",
        help="A feature file. Default: the newest in the cache folder.",
        autocompletion=completion.features,
    ),
]
Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A classifier: the folder that `featx fit` or another training wrote.",
        autocompletion=completion.models,
    ),
]
Source = Annotated[
    Path | None,
    typer.Argument(
        metavar="FEATURES|DATASET",
        help="A feature file or a data set to measure on. Default: what it was fitted on.",
        autocompletion=completion.features,
    ),
]
CacheDir = Annotated[Path, option(RUN, "Where feature files are kept.", envvar="FEATX_CACHE")]
RandomState = Annotated[int, option(RUN, "Seed of everything random.", min=0, max=2**32 - 1)]
BatchSize = Annotated[
    int | None, option(RUN, "Pictures per call of the network. Default: what suits device and memory.", min=1)
]
Weights = Annotated[str | None, option(RUN, "Where the network's weights are now, if they have moved.")]

Size = Annotated[int | None, option(PICTURES, "Side in pixels. Default: the network's own.", min=1)]
ResizeRule = Annotated[Resize, option(PICTURES, "How pictures get that size.")]
Draft = Annotated[bool, option(PICTURES, "Decode large JPEGs at a fraction of their size.")]
MaxPixels = Annotated[int, option(PICTURES, "Larger pictures are quarantined.", min=1)]

Backbone = Annotated[
    str,
    option(NETWORK, "A name of `featx backbones`, or a .keras file.", autocompletion=completion.backbones),
]
Alpha = Annotated[float | None, option(NETWORK, "Width of a MobileNet, such as 0.35.")]
Layer = Annotated[str | None, option(NETWORK, "Last layer that is used. Default: the last convolutional output.")]
PoolingRule = Annotated[Pooling, option(NETWORK, "Pool the maps before storing them.")]
Preprocess = Annotated[Preprocessing, option(NETWORK, "auto: the network's own rule; rescale: x/255.")]
BackboneWeights = Annotated[
    str,
    option(
        NETWORK,
        "imagenet, random, or a .weights.h5, .h5 or .keras file.",
        autocompletion=completion.one_of("imagenet", "random"),
    ),
]
StoredDtype = Annotated[Dtype, option(NETWORK, "Type in which features are stored.")]
ComputedPrecision = Annotated[Precision, option(NETWORK, "Precision in which the network computes.")]
ComputingEngine = Annotated[
    Engine, option(NETWORK, "What computes. auto: FEATX_ENGINE if set, else the fastest that is installed.")
]
Unfreeze = Annotated[
    str,
    option(
        NETWORK,
        "First layer to train, or its index; all; none; auto: half of the weights.",
        autocompletion=completion.one_of("auto", "all", "none"),
    ),
]

Views = Annotated[int, option(VIEWS, "Views of each training picture; 1: itself only.", min=1)]
Flip = Annotated[bool, option(VIEWS, "Mirror about half of the views left to right.")]
Zoom = Annotated[float, option(VIEWS, "Magnify or shrink by up to this share.")]
Rotate = Annotated[float, option(VIEWS, "Turn by up to so many degrees either way.")]
Shift = Annotated[float, option(VIEWS, "Move by up to this share of the side.")]
Brightness = Annotated[float, option(VIEWS, "Brighten or darken by up to this share.")]

HeadName = Annotated[str, option(HEAD, f"{', '.join(HEADS[:-1])} or {HEADS[-1]}.", autocompletion=completion.heads)]
InputRule = Annotated[Input | None, option(HEAD, "What becomes of maps: all places, their mean, or their maximum.")]
Penalty = Annotated[float | None, option(HEAD, "logreg, svm, ridge: inverse penalty.")]
Neighbors = Annotated[int | None, option(HEAD, "knn: how many vote.", min=1)]
Hidden = Annotated[int | None, option(HEAD, "bn-mlp, mlp: width of hidden layers.", min=1)]
Layers = Annotated[int | None, option(HEAD, "bn-mlp, mlp: number of hidden layers.", min=1)]
Dropout = Annotated[float | None, option(HEAD, "bn-mlp, mlp: share of units left out while training.")]

Validation = Annotated[float, option(TRAINING, "Share to hold out if the data set has no validation split.")]
Calibrate = Annotated[bool, option(TRAINING, "Choose a temperature by the pictures held out.")]


def not_none(**options: Any) -> dict[str, Any]:
    """Options by name, without those that are None: these are left to the library's defaults."""
    return {name: value for name, value in options.items() if value is not None}


def network_options(
    size: Size = None,
    resize: ResizeRule = "stretch",
    backbone: Backbone = "vgg16",
    alpha: Alpha = None,
    layer: Layer = None,
    preprocess: Preprocess = "auto",
    weights: BackboneWeights = "imagenet",
    dtype: StoredDtype = "float16",
    random_state: RandomState = 0,
) -> dict[str, Any]:
    """Fields of a recipe that features and fine-tuning have in common."""
    from featx.backbones import canonical_name

    return {
        "size": size,
        "resize": resize,
        "backbone": canonical_name(backbone, alpha),
        "layer": layer,
        "preprocess": preprocess,
        "weights": weights,
        "dtype": dtype,
        "random_state": random_state,
    }


def extraction_options(
    draft: Draft = False,
    max_pixels: MaxPixels = 100_000_000,
    precision: ComputedPrecision = "float32",
    engine: ComputingEngine = "auto",
) -> dict[str, Any]:
    """Fields of a recipe that only features have."""
    return {"draft": draft, "max_pixels": max_pixels, "precision": precision, "engine": engine}


def view_options(
    views: Views = 1,
    flip: Flip = False,
    zoom: Zoom = 0.0,
    rotate: Rotate = 0.0,
    shift: Shift = 0.0,
    brightness: Brightness = 0.0,
    random_state: RandomState = 0,
) -> dict[str, Any]:
    """Fields of :class:`featx.Views`."""
    variation = {"flip": flip, "zoom": zoom, "rotate": rotate, "shift": shift, "brightness": brightness}
    return {"n": views, "random_state": random_state, **variation}


def head_options(
    input: InputRule = None,
    C: Penalty = None,
    hidden: Hidden = None,
    layers: Layers = None,
    dropout: Dropout = None,
) -> dict[str, Any]:
    """Parameters of heads that may have layers of a network before them; those left out have no entry."""
    return not_none(input=input, C=C, hidden=hidden, layers=layers, dropout=dropout)
