"""The pictures of a report: small, and part of the page. One that is gone or has changed is named, not shown."""

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
from featx._internal.progress import Progress
from featx.cache import Features
from featx.classifier import Classifier
from featx.errors import FileReadError, PictureError, TrainingError
from featx.explanation import activation_maps, overlay
from featx.pictures import decode, quiet_pillow, read_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALL, LARGE = 48, 96  # longest side
QUALITY = 70
DRAFT_SIDES = 2  # a JPEG may be decoded at a fraction of its size that still has twice the side


@dataclass(frozen=True)
class Thumb:
    """A picture as data URIs, ``""`` where it was not asked for; or the ``problem`` that left none of it."""

    small: str = ""
    large: str = ""
    map: str = ""
    problem: str = ""


def thumbs_of(
    classifier: Classifier,
    features: Features,
    small: set[int],
    large: set[int],
    explained: dict[int, int],
    progress: Progress | None = None,
) -> dict[int, Thumb]:
    """Thumbnails by row of the feature file; each picture is read and decoded once, by threads.

    Args:
        classifier: whose maps are shown.
        features: that hold the rows.
        small: rows wanted at 48 pixels.
        large: rows wanted at 96 pixels.
        explained: rows whose activation map is wanted too, and of which class.
        progress: called with "pictures", how many are done, and of how many.
    """
    found: dict[int, Thumb] = {}
    jobs = sorted(small | large | set(explained))

    def load(row: int) -> NDArray[np.uint8]:
        return _smaller(_picture(features, row, classifier.recipe.max_pixels), DRAFT_SIDES * LARGE)

    with quiet_pillow(classifier.recipe.max_pixels):
        for row, image in in_threads(jobs, load):
            if isinstance(image, PictureError):
                found[row] = Thumb(problem=str(image))
            else:
                mapped = _map_of(classifier, features, row, explained[row], image) if row in explained else None
                found[row] = Thumb(
                    uri(image, SMALL) if row in small else "",
                    uri(image, LARGE) if row in large else "",
                    "" if mapped is None else uri(mapped, LARGE),
                )
            if progress:
                progress("pictures", len(found), len(jobs))
    return found


def _map_of(
    classifier: Classifier, features: Features, row: int, class_number: int, image: NDArray[np.uint8]
) -> NDArray[np.uint8] | None:
    """The picture, uint8 ``(h, w, 3)``, under what spoke for a class in it; None where there is no such map."""
    try:
        (map,) = activation_maps(classifier.head, features.stored([row]), np.array([class_number]))
    except TrainingError:  # of neighbours, or of features without places
        return None
    return overlay(image, map, classifier.spec["size"], classifier.recipe.resize)


def _picture(features: Features, row: int, max_pixels: int) -> NDArray[np.uint8]:
    """The picture that a row was made of; an error where it is no longer what it was."""
    data = read_file(Path(features.root) / str(features.paths[row]))
    if content_id(data) != features.ids[row]:
        raise FileReadError("was changed since its features were extracted")
    return decode(data, max_pixels, DRAFT_SIDES * LARGE)


def _smaller(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """At most ``side`` pixels long, its proportions kept."""
    if max(image.shape[:2]) <= side:
        return image
    pillow = Image.fromarray(image)
    pillow.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=None)
    return np.asarray(pillow)


def uri(image: NDArray[np.uint8], side: int) -> str:
    """A picture, made at most ``side`` pixels long, as it can stand in a page."""
    file = io.BytesIO()
    Image.fromarray(_smaller(image, side)).save(file, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
