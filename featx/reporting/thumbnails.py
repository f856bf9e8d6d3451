"""Thumbnails of a page, as data URIs. A picture that is gone or has changed is named, not shown."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from featx._internal.hashing import content_id
from featx._internal.parallel import in_threads
from featx._internal.progress import Progress, silent
from featx.cache import Features
from featx.classifier import Classifier
from featx.errors import FileReadError, PictureError, TrainingError
from featx.explanation import activation_maps, overlay, shrink
from featx.pictures import decode, quiet_pillow, read_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALL = 48  # pixels of the longest side
LARGE = 96
DRAFT_SIDE = 2 * LARGE  # a JPEG may be decoded at a fraction of its size that still has so many pixels
QUALITY = 70


@dataclass(frozen=True)
class Thumbnail:
    """Thumbnail of a picture.

    Attributes:
        small, large: data URIs at 48 and 96 pixels; empty if not wanted.
        overlay: data URI of the picture under its activation map; empty if not wanted, or without a map.
        problem: reason why the picture cannot be shown; empty if it can.
    """

    small: str = ""
    large: str = ""
    overlay: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Shown:
    """Rows of a feature file whose pictures a page shows.

    Attributes:
        small: rows shown at 48 pixels.
        large: rows shown at 96 pixels.
        explained: by row shown with its activation map, the number of the class that the map is of.
    """

    small: set[int]
    large: set[int]
    explained: dict[int, int]


def thumbnails_of(
    classifier: Classifier, features: Features, shown: Shown, progress: Progress = silent
) -> dict[int, Thumbnail]:
    """Thumbnails by row of the feature file; each picture is read and decoded once, by threads.

    Args:
        classifier: classifier whose maps are shown.
        features: the feature file.
        shown: rows of the file.
        progress: called with "pictures", how many are done, and of how many.
    """
    thumbnails: dict[int, Thumbnail] = {}
    rows = sorted(shown.small | shown.large | set(shown.explained))
    max_pixels = classifier.recipe.max_pixels
    with quiet_pillow(max_pixels):
        for row, image in in_threads(rows, lambda row: shrink(_picture(features, row, max_pixels), DRAFT_SIDE)):
            if isinstance(image, PictureError):
                thumbnails[row] = Thumbnail(problem=str(image))
            else:
                thumbnails[row] = _thumbnail(classifier, features, shown, row, image)
            progress("pictures", len(thumbnails), len(rows))
    return thumbnails


def _picture(features: Features, row: int, max_pixels: int) -> NDArray[np.uint8]:
    """Picture that a row was made of; an error where the file is no longer what it was."""
    data = read_file(Path(features.root) / str(features.paths[row]))
    if content_id(data) != features.ids[row]:
        raise FileReadError("was changed since its features were extracted")
    return decode(data, max_pixels, DRAFT_SIDE)


def _thumbnail(
    classifier: Classifier, features: Features, shown: Shown, row: int, image: NDArray[np.uint8]
) -> Thumbnail:
    explained = _explained(classifier, features, row, shown.explained[row], image) if row in shown.explained else None
    return Thumbnail(
        small=data_uri(image, SMALL) if row in shown.small else "",
        large=data_uri(image, LARGE) if row in shown.large else "",
        overlay="" if explained is None else data_uri(explained, LARGE),
    )


def _explained(
    classifier: Classifier, features: Features, row: int, class_number: int, image: NDArray[np.uint8]
) -> NDArray[np.uint8] | None:
    """Picture ``uint8 (h, w, 3)`` under the activation map of a class; None if there is no such map."""
    try:
        maps = activation_maps(classifier.head, features.stored([row]), np.array([class_number]))
    except TrainingError:  # of neighbours, or of features without places
        return None
    return overlay(image, maps[0], classifier.spec["size"], classifier.recipe.resize)


def data_uri(image: NDArray[np.uint8], longest_side: int) -> str:
    """Picture, made at most so many pixels long, as a URI that can stand in a page."""
    file = io.BytesIO()
    Image.fromarray(shrink(image, longest_side)).save(file, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
