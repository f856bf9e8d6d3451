"""What the tests of backbones share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from conftest import picture

from featx._internal.keras import load_keras
from featx.backbones import Backbone, Trunk, build_trunk, find_backbone
from featx.backbones.weights import randomise

SMALL = {  # networks built in the fast run, and the size at which
    "mobilenet": 64,
    "mobilenetv2": 64,
    "mobilenetv3small": 64,
    "efficientnetb0": 96,
    "vgg16": 32,
    "resnet50": 64,
}
SLOW = {"densenet121": 64, "nasnetmobile": 64, "inceptionv3": 96, "efficientnetv2b0": 96, "convnexttiny": 64}
# Random weights over maps of 1 x 1 make rounding errors large; a wrong rule or a wrong weight is off by 0.1 and more
CLOSE = 2e-3


@cache
def random_trunk(name: str, **options: Any) -> Trunk:
    return build_trunk(name, weights="random", **{"size": (SMALL | SLOW).get(name, 32), **options})


def pictures(size: int, n: int = 4) -> np.ndarray:
    """Stripes, but the last two: noise and black."""
    images = [np.asarray(picture(k, k, (size, size))) for k in range(n - 2)]
    noise = np.random.default_rng(3).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return np.stack([*images, noise, np.zeros_like(noise)])


def build_base(name: str, size: int = 32, random_state: int = 0, **options: Any) -> Any:
    """The network as Keras builds it, with random weights of a sensible scale."""
    row, alpha = find_backbone(name)
    if row.has_widths:
        options["alpha"] = alpha
    build = getattr(load_keras().applications, row.constructor)
    base = build(**{"include_top": False, "weights": None, "input_shape": (size, size, 3), **options})
    randomise(base, size, row.preprocess, random_state)
    return base


def keras_preprocess(row: Backbone) -> Callable[[np.ndarray], Any]:
    """What Keras itself does to pictures of this network: the `preprocess_input` beside its constructor."""
    constructor = getattr(load_keras().applications, row.constructor)
    preprocess: Callable[[np.ndarray], Any] = sys.modules[constructor.__module__].preprocess_input
    return preprocess


def by_hand(base: Any, row: Backbone, images: np.ndarray, layer: str = "") -> np.ndarray:
    """Features without featx: Keras's preprocessing on a copy, Keras's own layer, Keras's predict."""
    layer = layer or row.layer
    output = base.output if layer == "output" else base.get_layer(layer).output
    x = keras_preprocess(row)(images.astype(np.float32))
    return load_keras().Model(base.inputs, output).predict_on_batch(x)


def off(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference, as a part of the largest value."""
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())
