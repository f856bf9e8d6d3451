"""Sizes of a data set's pictures: the extremes, and a histogram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Size:
    """Width and height of one picture in pixels, upright."""

    path: str
    width: int
    height: int


@dataclass(frozen=True)
class SizeBin:
    """Number of pictures whose longer side has ``at_least`` and ``below`` so many pixels."""

    at_least: int
    below: int
    pictures: int


@dataclass(frozen=True)
class Sizes:
    """Sizes of the pictures of a data set.

    Attributes:
        smallest, median, largest: by number of pixels.
        widest, tallest: by the ratio of width to height.
        histogram: of the longer side, by powers of two.
    """

    smallest: Size
    median: Size
    largest: Size
    widest: Size
    tallest: Size
    histogram: list[SizeBin]


def sizes_of(paths: list[str], sizes: list[tuple[int, int]]) -> Sizes | None:
    """Extremes and histogram of ``(width, height)`` of pictures; None without pictures."""
    if not paths:
        return None
    width, height = np.array(sizes, np.int64).T
    by_pixels = np.argsort(width * height, kind="stable")
    by_ratio = np.argsort(width / height, kind="stable")

    def size(number: int) -> Size:
        """Size of one picture."""
        return Size(paths[number], int(width[number]), int(height[number]))

    return Sizes(
        smallest=size(by_pixels[0]),
        median=size(by_pixels[(len(paths) - 1) // 2]),
        largest=size(by_pixels[-1]),
        widest=size(by_ratio[-1]),
        tallest=size(by_ratio[0]),
        histogram=_histogram(np.maximum(width, height)),
    )


def _histogram(sides: NDArray[np.int64]) -> list[SizeBin]:
    """Histogram by powers of two, from the shortest to the longest side."""
    power = np.frexp(sides)[1]  # 2 ** (power - 1) <= side < 2 ** power
    counts = np.bincount(power)
    return [SizeBin(int(2 ** (n - 1)), int(2**n), int(counts[n])) for n in range(power.min(), power.max() + 1)]
