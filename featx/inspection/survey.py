"""Survey of a data set: every picture decoded once, for its content id, format, size and share in mean images."""

from __future__ import annotations

import base64
import io
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from featx._internal.hashing import content_id
from featx._internal.parallel import in_threads
from featx._internal.progress import Progress
from featx.errors import PictureError
from featx.pictures import Listing, decode, format_and_size, quiet_pillow, read_file, resize

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 64  # pixels, of mean images
MAX_MEAN_IMAGES = 1000  # the largest classes have one: 100 MB of sums


@dataclass(frozen=True)
class _Decoded:
    """One decoded picture: content id, format, width and height upright, and ``uint8 (64, 64, 3)`` pixels."""

    content_id: str
    format: str
    width: int
    height: int
    small: NDArray[np.uint8]


@dataclass
class Survey:
    """What decoding shows of the pictures of a data set.

    Attributes:
        unreadable: reason by path, of files that cannot be read or are misplaced.
        gone: paths of files that do not exist any more.
        ids: content id by path, of pictures that can be read.
        formats: number of pictures by format.
        sizes: width and height of each picture, in the order of ``ids``.
        sums: by label (None: all pictures), float64 ``(64, 64, 3)`` and of how many pictures it is the sum.
    """

    unreadable: dict[str, str]
    gone: list[str] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)
    formats: Counter[str] = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    sums: dict[str | None, tuple[NDArray[np.float64], int]] = field(default_factory=dict)

    def mean_image(self, label: str | None) -> str:
        """Mean image of a class (None: of all pictures), a PNG file in base64; empty without pictures."""
        if label not in self.sums:
            return ""
        total, count = self.sums[label]
        return to_png_text(np.rint(total / count).astype(np.uint8))

    def add(self, path: str, picture: _Decoded, labels: list[str | None]) -> None:
        """Count one picture, which has a share in the mean images of ``labels``."""
        self.ids[path] = picture.content_id
        self.formats[picture.format] += 1
        self.sizes.append((picture.width, picture.height))
        for label in labels:
            total, count = self.sums.get(label, (np.zeros((SIDE, SIDE, 3)), 0))
            total += picture.small
            self.sums[label] = total, count + 1


def survey(listing: Listing, progress: Progress, may_be_gone: bool) -> Survey:
    """Decode every picture of a listing once, in threads, and keep what takes little memory.

    Args:
        listing: the data set.
        progress: called with the stage, how many pictures are done, and of how many.
        may_be_gone: whether files that do not exist are counted as gone; else they are unreadable.
    """
    labels = {p.path: p.label for p in listing.pictures if p.path not in listing.misplaced}
    paths = [path for path in labels if not may_be_gone or os.path.lexists(listing.root / path)]
    result = Survey(dict(listing.misplaced), gone=sorted(labels.keys() - set(paths)))
    sizes_of_classes = Counter(label for label in labels.values() if label)
    with_mean_image = {label for label, _ in sizes_of_classes.most_common(MAX_MEAN_IMAGES)}
    with quiet_pillow():
        pictures = in_threads(paths, lambda path: _decode(listing.root / path))
        for done, (path, picture) in enumerate(pictures, 1):
            if isinstance(picture, PictureError):
                result.unreadable[path] = str(picture)
            else:
                label = labels[path]
                result.add(path, picture, [None, label] if label in with_mean_image else [None])
            progress("looking at the pictures", done, len(paths))
    return result


def _decode(path: Path) -> _Decoded:
    data = read_file(path)
    image = decode(data, draft_side=2 * SIDE)
    return _Decoded(content_id(data), *format_and_size(data, image), resize(image, SIDE))


def to_png_text(image: NDArray[np.uint8]) -> str:
    """PNG file of a picture ``uint8 (h, w, 3)``, in base64."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def from_png_text(text: str) -> NDArray[np.uint8]:
    """Picture ``uint8 (h, w, 3)`` that :func:`to_png_text` was given."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]))
