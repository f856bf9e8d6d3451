"""Decoding: one decoder for everything featx does, from a file's bytes to ``uint8 (h, w, 3)`` RGB.

What cannot be decoded raises :class:`PictureError` with the reason. Nothing is ever substituted.
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from featx.errors import FileReadError, PictureError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

DECODER = "pillow-rgb-1"  # part of every spec: to be raised whenever the pixels that `decode` gives could change
DRAFT_DECODER = "pillow-rgb-1-draft-1"  # the same, with `draft_side`
MAX_PIXELS = 100_000_000

# Formats whose Pillow decoders read pixels and nothing else: no EPS (runs Ghostscript), no WMF, no stubs.
FORMATS = "JPEG PNG GIF WEBP BMP DIB TIFF PPM JPEG2000 AVIF ICO ICNS PSD SGI QOI DDS PCX TGA".split()
DRAFTED = {"JPEG", "MPO"}  # decoded at a fraction of their size, where a draft is enough
SIDEWAYS = {5, 6, 7, 8}  # EXIF orientations in which width and height change places
TIFF_SUBFILE = 254  # the tag whose lowest bit marks a preview
UNSIGNED_FORMATS = {"TGA", "PCX"}  # without a signature: believed only if the suffix says so


def read_file(path: str | Path) -> bytes:
    """Bytes of a regular file.

    Raises:
        FileReadError: it cannot be read, or is no regular file (reading a pipe or a device would hang).
    """
    try:
        with open(path, "rb", opener=lambda p, flags: os.open(p, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FileReadError("not a regular file")
            return file.read()
    except IsADirectoryError:
        raise FileReadError("not a regular file") from None
    except MemoryError:
        raise FileReadError("there was not enough memory to read it; run again") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise FileReadError(f"cannot be read: {reason.lower()}") from None


def decode(data: bytes, max_pixels: int = MAX_PIXELS, draft_side: int | None = None) -> NDArray[np.uint8]:
    """Decode a file's bytes to ``uint8 (h, w, 3)`` RGB, 0 to 255.

    The format is that of the content, whatever the file is called. EXIF orientation is applied, gray repeated, alpha
    dropped, palettes resolved, CMYK converted, 16 bits scaled to 8, and of an animation the first frame is taken.

    Args:
        data: the file's bytes.
        max_pixels: pixels that the picture may have.
        draft_side: if given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as each side keeps so many
            pixels: several times faster for a large one.

    Raises:
        PictureError: it is no picture, is damaged, or has more than ``max_pixels`` pixels.
        FileReadError: there was not enough memory this time.
    """
    if not data:
        raise PictureError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise PictureError(f"{width} x {height} pixels are more than max_pixels ({max_pixels})")
            if getattr(image, "tag_v2", {}).get(TIFF_SUBFILE, 0) & 1:  # as in a camera's raw files
                raise PictureError("its first image is a reduced preview of another; convert it to JPEG or PNG first")
            if draft_side and image.format in DRAFTED:
                image.draft(None, (draft_side, draft_side))  # None: the colours as they are
            image.load()
            _turn_upright(image)
            return np.asarray(_to_rgb(image))
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError("not a picture in a format that can be read") from None
    except MemoryError:
        raise FileReadError("there was not enough memory to decode it; run again") from None
    except Image.DecompressionBombError as error:
        count = re.search(r"\d+", str(error))
        raise PictureError(f"{count[0] if count else 'its'} pixels are more than max_pixels ({max_pixels})") from None
    except Exception as error:  # decoders of damaged files raise anything: struct.error, SyntaxError, IndexError, ...
        raise PictureError(f"damaged: {one_line(error)}") from error


def format_and_size(data: bytes, image: NDArray[np.uint8]) -> tuple[str, int, int]:
    """Format by content (``JPEG``, ``PNG``, ...), width and height of a picture, upright; nothing is decoded again.

    Args:
        data: the file's bytes.
        image: the pixels that :func:`decode` gave, perhaps a draft.
    """
    height, width = image.shape[:2]
    with Image.open(io.BytesIO(data), formats=_formats()) as file:
        if file.format in DRAFTED:
            width, height = file.size
            if file.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS:
                width, height = height, width
        return file.format or "", width, height


@contextmanager
def quiet_pillow(max_pixels: int = MAX_PIXELS) -> Iterator[None]:
    """Silence Pillow, whose warnings the quarantine replaces, and give it ``max_pixels`` as its own limit.

    Pillow knows of pictures inside pictures (icons) and of frames, before memory is taken for them.

    To be entered once around a loop, in the thread that starts the workers: warning filters are the process's.
    """
    pillow_logger = logging.getLogger("PIL")
    limit = Image.MAX_IMAGE_PIXELS
    level = pillow_logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pillow_logger.setLevel(logging.CRITICAL)
        Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)  # it refuses from twice its limit on
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
            pillow_logger.setLevel(level)


def recognised(path: Path) -> bool:
    """Whether a file's first bytes are a picture's."""
    try:
        with quiet_pillow(), Image.open(path, formats=_formats(sniffing=True)):
            return True
    except Image.DecompressionBombError:  # recognised; decoding it will say why not
        return True
    except Exception:  # whatever Pillow raises here, the file is not recognised as a picture
        return False


@cache
def _formats(sniffing: bool = False) -> list[str]:
    """Formats to try: those of ``FORMATS`` that this build of Pillow has."""
    Image.init()
    return [f for f in FORMATS if f in Image.OPEN and not (sniffing and f in UNSIGNED_FORMATS)]


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # damaged EXIF says nothing about the pixels, which are decoded already
        logger.debug("orientation not read: %s", error)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits per pixel, or 32 that hold 16
        return Image.fromarray(_scaled_to_8_bits(image)).convert("RGB")
    if image.mode == "F":
        raise PictureError("floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")  # straight to RGB, Pillow may look for a colour key and warn
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> NDArray[np.uint8]:
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(258, (16,))  # TIFF BitsPerSample: 12-bit scans arrive in 16-bit pixels
    top = 2 ** min(bits[0], 16) - 1
    scaled: NDArray[np.uint8] = np.rint(np.arange(top + 1) * (255 / top)).astype(np.uint8)
    pixels: NDArray[np.uint8] = scaled[np.clip(np.asarray(image), 0, top)]
    return pixels
