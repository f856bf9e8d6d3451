"""Figures: a picture beside itself under an activation map, with a colour bar and text."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from featx.explanation.maps import colour_bar, overlay

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST_SIDE = 800  # pixels, of pictures in figures
SHORTEST_BAR = 40
MARGIN = 8
LINE_HEIGHT = 20
LONGEST_LINE = 120  # characters
FONT_SIZE = 14


@dataclass(frozen=True, eq=False)
class Figure:
    """Everything that a figure shows besides the picture.

    Attributes:
        activation_map: float32 ``(h, w)``.
        signed: whether maps of this method have values below 0, so that the bar ends at the negative extreme.
        lines: text below the pictures.
        size, resize: how the picture was made the network's input.
    """

    activation_map: NDArray[np.float32]
    signed: bool
    lines: tuple[str, ...]
    size: int
    resize: str

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Figure of the picture ``image``, ``uint8 (h, w, 3)``, as an array of the same kind."""
        height, width = image.shape[:2]
        most = float(np.abs(self.activation_map).max())
        bar = colour_bar(max(height, SHORTEST_BAR), self.signed)
        ends = (f"{most:+.2g}", f"{-most:+.2g}" if self.signed else "0")
        font = ImageFont.load_default(FONT_SIZE)
        lines = [caption(line) for line in self.lines]
        bar_left = 3 * MARGIN + 2 * width
        ends_width = max(int(font.getlength(end)) for end in ends)
        lines_width = max(int(font.getlength(line)) for line in lines)
        page_width = max(bar_left + bar.shape[1] + ends_width + MARGIN, lines_width + 2 * MARGIN)
        page_height = bar.shape[0] + 3 * MARGIN + LINE_HEIGHT * len(lines)

        page = Image.new("RGB", (page_width, page_height), "white")
        page.paste(Image.fromarray(image), (MARGIN, MARGIN))
        mapped = overlay(image, self.activation_map, self.size, self.resize, most)
        page.paste(Image.fromarray(mapped), (2 * MARGIN + width, MARGIN))
        page.paste(Image.fromarray(bar), (bar_left, MARGIN))
        pen = ImageDraw.Draw(page)
        pen.text((bar_left + bar.shape[1] + 4, MARGIN), ends[0], "black", font)
        pen.text((bar_left + bar.shape[1] + 4, MARGIN + bar.shape[0] - 16), ends[1], "black", font)
        for number, line in enumerate(lines):
            pen.text((MARGIN, bar.shape[0] + 2 * MARGIN + LINE_HEIGHT * number), line, "black", font)
        return np.asarray(page)


def caption(text: str) -> str:
    """Text on one line, of a length that a figure has room for; names may hold anything."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= LONGEST_LINE else f"{shown[: LONGEST_LINE - 3]}..."


def shrink(image: NDArray[np.uint8], longest_side: int = LONGEST_SIDE) -> NDArray[np.uint8]:
    """Picture ``uint8 (h, w, 3)`` with no side longer than ``longest_side`` and none shorter than a pixel."""
    if max(image.shape[:2]) <= longest_side:
        return image
    shrunk = Image.fromarray(image)
    shrunk.thumbnail((longest_side, longest_side), Image.Resampling.BILINEAR, reducing_gap=None)
    return np.asarray(shrunk)


def to_png(image: NDArray[np.uint8]) -> bytes:
    """PNG file of a picture ``uint8 (h, w, 3)``."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def png_names(paths: list[str]) -> dict[str, str]:
    """Name of a PNG file for each picture, by path: the picture's name, with a number where two would be the same."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for path in paths:
        stem = "".join(c if c.isalnum() or c in "-_. " else "_" for c in Path(path).stem)[:80] or "picture"
        name, number = f"{stem}.png", 1
        while name.lower() in taken:
            number += 1
            name = f"{stem}-{number}.png"
        taken.add(name.lower())
        names[path] = name
    return names
