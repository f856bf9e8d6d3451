"""What an inspection finds. All of it is numbers, text, lists and dictionaries, so ``asdict`` gives JSON values."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from featx.pictures import Picture

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Unreadable:
    """A listed file that cannot take part, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Size:
    """Width and height of one picture, upright."""

    path: str
    width: int
    height: int


@dataclass(frozen=True)
class Bin:
    """How many pictures have a longer side of ``at_least`` and ``below`` so many pixels."""

    at_least: int
    below: int
    pictures: int


@dataclass(frozen=True)
class Sizes:
    """Extreme pictures: by number of pixels, and by the ratio of width to height; and a histogram."""

    smallest: Size
    median: Size
    largest: Size
    widest: Size
    tallest: Size
    histogram: list[Bin]


@dataclass(frozen=True)
class Copies:
    """Pictures of the same bytes. The first is the one to keep: of test before validation before train."""

    pictures: list[Picture]
    labels_differ: bool
    splits_differ: bool


@dataclass(frozen=True)
class Pair:
    """Two pictures that are alike. ``similarity`` is the cosine of their features; ``exact``: their bytes are equal.

    ``first`` is the one to keep: of test before validation before train.
    """

    first: Picture
    second: Picture
    similarity: float
    exact: bool


@dataclass(frozen=True)
class Outlier:
    """A picture unlike all others.

    ``distance`` is the mean of 1 - cosine to its nearest neighbours, ``score`` that distance's modified z-score, and
    ``nearest`` the path of the picture that is most like it.
    """

    path: str
    label: str | None
    split: str
    distance: float
    score: float
    nearest: str


@dataclass(frozen=True)
class Suspect:
    """A picture that may have a wrong label.

    Out-of-fold probabilities of its ``label`` and of the class ``suggested`` instead; ``margin`` is their difference,
    below 0: the lower, the more suspect.
    """

    path: str
    label: str
    split: str
    suggested: str
    probability: float
    suggested_probability: float
    margin: float


@dataclass(frozen=True)
class Inspection:
    """What is in a data set, and what is wrong with it. ``listed = readable + gone + quarantined``.

    Attributes:
        dataset, root: name and absolute path of the data set.
        readable: how many pictures could be decoded; ``gone``: how many rows of the feature file have no file any more.
        quarantined: files that cannot be read as pictures, or lie where none belongs.
        ignored: files that are no pictures and do not claim to be; ``empty_classes``: folders without a picture.
        counts: pictures by class and split (``none``: no split), without the quarantined; ``unlabelled``: by split.
        imbalance: pictures of the largest class for each of the smallest; None without classes.
        formats: pictures by format, as their content tells.
        mean_image: of each class (at most 1000, the largest), a PNG in base64; ``mean_image_of_all`` is empty if no
            picture can be read. :meth:`mean_images` gives arrays.
        duplicates: files of the same content.
        features_path: the feature file that all below is found by; None if there is none.
        backbone: its network.
        compared: how many pictures have features, copies included.
        similarity, neighbors: the settings.
        near_duplicates: pictures with features of at least that cosine, the most similar first; of copies, one is told.
        leaks: pictures of one split that have an exact or near copy in another; no split counts as train.
        outliers: the farthest first.
        suspects: the most suspect first. ``thresholds``: by class, how probable it has to be to be suggested.
        notes: what could not be looked for and why, and what to take with care.
        pictures: all that can be read.
    """

    dataset: str
    root: str
    listed: int
    readable: int
    gone: int
    quarantined: list[Unreadable]
    ignored: int
    empty_classes: list[str]
    counts: dict[str, dict[str, int]]
    unlabelled: dict[str, int]
    imbalance: float | None
    formats: dict[str, int]
    sizes: Sizes | None
    mean_image: dict[str, str] = field(repr=False)
    mean_image_of_all: str = field(repr=False)
    duplicates: list[Copies]
    features_path: str | None
    backbone: str | None
    compared: int
    similarity: float
    neighbors: int
    near_duplicates: list[Pair]
    leaks: list[Pair]
    outliers: list[Outlier]
    suspects: list[Suspect]
    thresholds: dict[str, float]
    notes: list[str]
    seconds: float
    pictures: list[Picture] = field(repr=False)

    def mean_images(self) -> dict[str, NDArray[np.uint8]]:
        """The mean image of each class, ``uint8 (64, 64, 3)``, RGB."""
        return {name: from_png(image) for name, image in self.mean_image.items()}


def to_png(image: NDArray[np.uint8]) -> str:
    """``uint8 (h, w, 3)`` as a PNG file in base64."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def from_png(text: str) -> NDArray[np.uint8]:
    """The image that :func:`to_png` was given."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]))
