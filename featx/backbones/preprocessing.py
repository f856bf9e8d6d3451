"""Preprocessing: pictures of 0 to 255 made what networks were trained on. See ``table.PREPROCESSINGS``."""

from __future__ import annotations

from typing import Any

import numpy as np

IMAGENET_BGR_MEAN = np.array([103.939, 116.779, 123.68], np.float32)
IMAGENET_RGB_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_RGB_STD = np.array([0.229, 0.224, 0.225], np.float32)


def preprocess_pictures(x: Any, rule: str) -> Any:
    """Input of a network, ``(n, h, w, 3)``.

    Args:
        x: float tensor ``(n, h, w, 3)``, RGB, 0 to 255.
        rule: one of ``PREPROCESSINGS``.
    """
    if rule == "caffe":
        return x[..., ::-1] - IMAGENET_BGR_MEAN
    if rule == "tf":
        return x / 127.5 - 1.0
    if rule == "torch":
        return (x / 255.0 - IMAGENET_RGB_MEAN) / IMAGENET_RGB_STD
    return x / 255.0 if rule == "rescale" else x
