"""Resizing: a picture made the square that a network takes, and the place of that square on the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np
from PIL import Image

from featx._internal.choices import Resize
from featx.errors import require_choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESIZES: tuple[str, ...] = get_args(Resize)


def resize(image: NDArray[np.uint8], size: int, how: str = "stretch") -> NDArray[np.uint8]:
    """Resize a picture to a square, bilinear with antialiasing.

    Args:
        image: ``uint8 (h, w, 3)``.
        size: side of the square in pixels.
        how: ``stretch`` changes the aspect ratio, ``crop`` scales the shorter side and cuts the middle out, ``pad``
            scales the longer side and fills up with black.

    Returns:
        ``uint8 (size, size, 3)``.

    Raises:
        SettingError: another ``how``.
    """
    require_choice("resize", how, RESIZES)
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    pillow = Image.fromarray(image)
    if how == "stretch":
        return np.asarray(pillow.resize((size, size), Image.Resampling.BILINEAR))
    if how == "crop":
        box = square_on(height, width, size, how)
        return np.asarray(pillow.resize((size, size), Image.Resampling.BILINEAR, box=box))
    scale = size / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = Image.new("RGB", (size, size))
    canvas.paste(pillow.resize(inner, Image.Resampling.BILINEAR), ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return np.asarray(canvas)


def square_on(height: int, width: int, size: int, how: str = "stretch") -> tuple[float, float, float, float]:
    """Place on the picture of the square that :func:`resize` gives: left, top, right and bottom in its pixels.

    With ``pad`` it reaches beyond the picture, with ``crop`` it is smaller.
    """
    if how == "stretch":
        return 0.0, 0.0, float(width), float(height)
    if how == "crop":
        side = min(width, height)
        left = (width - side) / 2
        top = (height - side) / 2
        return left, top, left + side, top + side
    scale = size / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    left, top = (-((size - side) // 2) * whole / side for side, whole in zip(inner, (width, height), strict=True))
    return left, top, left + size * width / inner[0], top + size * height / inner[1]
