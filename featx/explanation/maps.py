"""Activation maps: which places of a picture speak for a class, from its cached features and the head alone.

The last map of a network is what the head sees, so nothing before it has to be computed. For a linear head the class
activation map of Zhou et al. (2016) is exact: coefficients times features, summed over channels; its sum over all
places is the class's score, but for a constant. For any head with a gradient there is Grad-CAM (Selvaraju et al. 2017):
channels weighted by the mean of the score's gradient, what speaks against the class left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from featx._internal.choices import Method
from featx.errors import SettingError, require_choice
from featx.heads import Head
from featx.pictures import square_on

if TYPE_CHECKING:
    from numpy.typing import NDArray

METHODS: tuple[str, ...] = get_args(Method)
BLOCK_BYTES = 4 * 2**20  # of gradients that are in memory at once
FOR = (214, 39, 40)  # red
AGAINST = (31, 119, 180)  # blue
STRENGTH = 0.75  # how much of the picture the strongest evidence covers


def activation_maps(
    head: Head, X: NDArray[np.floating[Any]], classes: NDArray[np.int64], method: Method | None = None
) -> NDArray[np.float32]:
    """Activation maps: evidence for a class at each place of a picture.

    Args:
        head: fitted head with a gradient: any but knn.
        X: float16 or float32 ``(n, h, w, c)``, features as extracted.
        classes: int ``(n,)``, number of the class that each map is of.
        method: ``cam``, for linear heads, or ``gradcam``; by default ``cam`` where it can be had.

    Returns:
        Evidence, float32 ``(n, h, w)``, in units of the score (logit): of ``cam`` positive for and negative against the
        class, relative to features of zero; of ``gradcam`` never negative.

    Raises:
        SettingError: an unknown method, or ``cam`` of a head that is not linear.
        TrainingError: features without places, or a head without a gradient.

    Example:
        >>> import numpy as np
        >>> from featx.explanation import activation_maps
        >>> from featx.heads import LogisticHead
        >>> X = np.zeros((6, 3, 3, 2), np.float32)
        >>> X[:3, 0, 0, 0] = X[3:, 2, 2, 1] = 9.0
        >>> head = LogisticHead(C=1.0).fit(X, np.array([0, 0, 0, 1, 1, 1]))
        >>> activation_maps(head, X[:1], np.array([0]))[0].round(1)
        array([[0.9, 0. , 0. ],
               [0. , 0. , 0. ],
               [0. , 0. , 0. ]], dtype=float32)
    """
    if method is not None:
        require_choice("method", method, METHODS)
    maps = head.maps(X)
    scores = head.scores(maps.shape[1:])
    method = method or ("cam" if scores.linear else "gradcam")
    if method == "cam" and not scores.linear:
        raise SettingError('only linear heads have an exact map; `method="gradcam"` explains this one', "method")
    evidence = np.empty(maps.shape[:3], np.float32)
    step = max(1, BLOCK_BYTES // (4 * int(np.prod(maps.shape[1:]))))
    for start in range(0, len(maps), step):
        block = maps[start : start + step].astype(np.float32)
        numbers = classes[start : start + step]
        if method == "gradcam":
            weights = scores.mean_gradient(block, numbers)
            weighted = block.reshape(len(block), -1, block.shape[-1]) @ weights[:, :, None]
            evidence[start : start + step] = np.maximum(weighted, 0).reshape(block.shape[:3])
        else:
            evidence[start : start + step] = np.einsum("nhwc,nhwc->nhw", block, scores.gradient(block, numbers))
    return evidence


def on_picture(
    evidence: NDArray[np.float32], height: int, width: int, size: int, resize: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Evidence at each pixel of a picture, bilinear, resizing and padding undone.

    Args:
        evidence: activation map, ``(h, w)``.
        height, width: size of the picture as decoded, in pixels.
        size, resize: how the picture was made the network's input; see :func:`featx.pictures.resize`.

    Returns:
        evidence, float32 ``(height, width)``, and a mask of the pixels that the network was shown, bool.
    """
    left, top, right, bottom = square_on(height, width, size, resize)
    rows, rows_inside = _weights(evidence.shape[0], height, top, bottom)
    columns, columns_inside = _weights(evidence.shape[1], width, left, right)
    inside: NDArray[np.bool_] = rows_inside[:, None] & columns_inside
    return np.where(inside, rows @ evidence @ columns.T, 0).astype(np.float32), inside


def _weights(cells: int, pixels: int, first: float, last: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Weight of each cell of a map at each pixel, ``(pixels, cells)``, and a mask of the pixels inside of it."""
    at = (np.arange(pixels) + 0.5 - first) / (last - first)
    position = np.clip(at * cells - 0.5, 0, cells - 1)
    lower = np.minimum(position.astype(int), max(cells - 2, 0))
    share = position - lower
    weights = np.zeros((pixels, cells))
    weights[np.arange(pixels), lower] = 1 - share
    if cells > 1:
        weights[np.arange(pixels), lower + 1] += share
    return weights, (at >= 0) & (at <= 1)


def overlay(
    image: NDArray[np.uint8], evidence: NDArray[np.float32], size: int, resize: str, most: float | None = None
) -> NDArray[np.uint8]:
    """Picture under an activation map: red speaks for the class, blue against it, and gray was not shown the network.

    Args:
        image: ``uint8 (h, w, 3)`` RGB, as decoded.
        evidence: activation map, float32 ``(mh, mw)``.
        size, resize: how the picture was made the network's input.
        most: evidence shown at full strength; by default the map's largest, in either direction.

    Returns:
        ``uint8 (h, w, 3)``.
    """
    at_pixels, inside = on_picture(evidence, image.shape[0], image.shape[1], size, resize)
    most = most or float(np.abs(evidence).max()) or 1.0
    strength = np.clip(np.abs(at_pixels) / most, 0, 1)[..., None] * STRENGTH
    colour = np.where((at_pixels > 0)[..., None], np.array(FOR, np.float32), np.array(AGAINST, np.float32))
    gray = image.mean(axis=2, keepdims=True)
    # The picture in pale gray under the evidence, so that its colours are not taken for it
    under = np.where(inside[..., None], 0.5 * image + 0.3 * gray + 51, 0.5 * gray + 100)
    blended: NDArray[np.uint8] = np.rint(np.clip(under * (1 - strength) + colour * strength, 0, 255)).astype(np.uint8)
    return blended


def colour_bar(height: int, signed: bool) -> NDArray[np.uint8]:
    """Colours from the strongest evidence down to none, or to that against, ``uint8 (height, 16, 3)``."""
    value = np.linspace(1, -1 if signed else 0, height, dtype=np.float32)[:, None]
    strength = np.abs(value)[..., None] * STRENGTH
    colour = np.where((value > 0)[..., None], np.array(FOR, np.float32), np.array(AGAINST, np.float32))
    column = 200 * (1 - strength) + colour * strength
    return np.repeat(np.rint(column).astype(np.uint8), 16, axis=1)
