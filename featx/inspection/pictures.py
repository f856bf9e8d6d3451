"""Every picture of a data set decoded once: which can be read, their formats, sizes, content ids and mean images."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featx._internal.hashing import content_id
from featx._internal.parallel import in_threads
from featx._internal.progress import Progress
from featx.errors import PictureError
from featx.inspection.result import Bin, Size, Sizes, to_png
from featx.pictures import Listing, decode, format_and_size, quiet_pillow, read_file, resize

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 64  # of mean images
MEAN_CLASSES = 1000  # which have one: 100 MB of sums


@dataclass(frozen=True)
class _Look:
    content: str
    format: str
    width: int
    height: int
    small: NDArray[np.uint8]


@dataclass
class Seen:
    """What decoding every picture has shown.

    Attributes:
        ids: content id by path, of those that can be read.
        unreadable: why others cannot, by path; ``gone`` are those that lie there no more.
        formats: how many pictures have which.
        measured: width and height of each picture, in the order of ``ids``.
        sums: float64 ``(64, 64, 3)`` and how many pictures these are of, by label (None: of all).
    """

    unreadable: dict[str, str]
    ids: dict[str, str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    measured: list[tuple[int, int]] = field(default_factory=list)
    sums: dict[str | None, tuple[NDArray[np.float64], int]] = field(default_factory=dict)

    def mean_image(self, label: str | None) -> str:
        """A PNG in base64; empty if there was nothing to average."""
        if label not in self.sums:
            return ""
        total, count = self.sums[label]
        return to_png(np.rint(total / count).astype(np.uint8))

    def add(self, path: str, look: _Look, labels: list[str | None]) -> None:
        """Take note of one picture, which counts in the mean images of ``labels``."""
        self.ids[path] = look.content
        self.formats[look.format] += 1
        self.measured.append((look.width, look.height))
        for label in labels:
            total, count = self.sums.get(label, (np.zeros((SIDE, SIDE, 3)), 0))
            total += look.small
            self.sums[label] = total, count + 1


def look_at(listing: Listing, progress: Progress, forgiving: bool) -> Seen:
    """Decode every picture once, in threads, and keep what can be told in little memory.

    Args:
        listing: of the data set.
        progress: called with what is going on, how much is done, and of how much.
        forgiving: whether files may be gone; else they are unreadable.
    """
    seen = Seen(dict(listing.misplaced))
    label_of = {p.path: p.label for p in listing.pictures if p.path not in seen.unreadable}
    there = [path for path in label_of if not forgiving or os.path.lexists(listing.root / path)]
    seen.gone = sorted(label_of.keys() - set(there)) if forgiving else []
    shown = {label for label, _ in Counter(filter(None, label_of.values())).most_common(MEAN_CLASSES)}
    with quiet_pillow():
        looks = in_threads(there, lambda path: _look(listing.root / path))
        for done, (path, look) in enumerate(looks, 1):
            if isinstance(look, PictureError):
                seen.unreadable[path] = str(look)
            else:
                label = label_of[path]
                seen.add(path, look, [None, label] if label in shown else [None])
            progress("looking at the pictures", done, len(there))
    return seen


def _look(path: Path) -> _Look:
    data = read_file(path)
    image = decode(data, draft_side=2 * SIDE)
    return _Look(content_id(data), *format_and_size(data, image), resize(image, SIDE))


def sizes_of(paths: list[str], measured: list[tuple[int, int]]) -> Sizes | None:
    """Extremes and a histogram of widths and heights; None without any."""
    if not paths:
        return None
    width, height = np.array(measured, np.int64).T
    by_pixels, by_ratio = np.argsort(width * height, kind="stable"), np.argsort(width / height, kind="stable")

    def sized(number: int) -> Size:
        return Size(paths[number], int(width[number]), int(height[number]))

    return Sizes(
        smallest=sized(by_pixels[0]),
        median=sized(by_pixels[(len(paths) - 1) // 2]),
        largest=sized(by_pixels[-1]),
        widest=sized(by_ratio[-1]),
        tallest=sized(by_ratio[0]),
        histogram=_histogram(np.maximum(width, height)),
    )


def _histogram(sides: NDArray[np.int64]) -> list[Bin]:
    """By powers of two, from the shortest to the longest."""
    power = np.frexp(sides)[1]  # 2 ** (power - 1) <= side < 2 ** power
    counts = np.bincount(power)
    return [Bin(int(2 ** (n - 1)), int(2**n), int(counts[n])) for n in range(power.min(), power.max() + 1)]
