"""The inspection of a data set: by each picture, by their contents, and by their features."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featx._internal.progress import Progress, silent
from featx.cache import CacheFolder, Features
from featx.errors import SettingError
from featx.inspection.contents import Contents, same_side, sorted_class_names
from featx.inspection.feature_checks import FeatureChecks, check_features
from featx.inspection.sizes import Sizes, sizes_of
from featx.inspection.source import feature_file, listing_of, newest_features
from featx.inspection.survey import Survey, from_png_text, survey
from featx.inspection.troubles import Copies, Outlier, Pair, Suspect, Unreadable
from featx.pictures import Listing, Picture, list_dataset, printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Inspection:
    """What is in a data set, and what is wrong with it. ``listed = readable + gone + quarantined``.

    All is numbers, text, lists and dictionaries, so that ``dataclasses.asdict`` gives JSON values.

    Attributes:
        dataset: name of the data set.
        root: its absolute path.
        listed: number of pictures listed.
        readable: number of pictures that could be decoded.
        gone: number of rows of the feature file whose picture does not exist any more.
        quarantined: files that cannot be read as pictures, or lie where none belongs.
        ignored: number of files that are no pictures and do not claim to be.
        empty_classes: class folders without a picture.
        counts: number of pictures by class and split (``none``: no split), without the quarantined.
        unlabelled: number of pictures without a label, by split.
        imbalance: ratio of the largest class to the smallest; None without classes.
        formats: number of pictures by format, as their content says.
        sizes: extremes and a histogram; None if no picture could be read.
        mean_image: mean image of each class (at most 1000, the largest), a PNG file in base64; :meth:`mean_images`
            gives arrays.
        mean_image_of_all: mean image of all pictures; empty if no picture could be read.
        duplicates: files of the same content.
        features_path: feature file by which all below was checked; None if there is none.
        backbone: network that made the features; None if there are none.
        compared: number of pictures that have features, copies included.
        similarity, n_neighbors: the settings.
        near_duplicates: pairs of pictures whose features have at least that cosine, the most similar first; of several
            copies of a picture, one is compared.
        leaks: pairs of a picture and its exact or near copy in another split; no split counts as train.
        outliers: pictures unlike all others, the farthest first.
        suspects: pictures that may have a wrong label, the most suspect first.
        thresholds: by class, the probability from which on it is suggested.
        notes: checks that could not be made and why, and results to be taken with care.
        seconds: time that it took.
        pictures: all pictures that can be read.

    Example:
        >>> import shutil
        >>> import featx
        >>> folder = shutil.copytree("photos", "more")
        >>> copy = shutil.copy("more/lying/000.png", "more/standing/copy.png")
        >>> copies = featx.inspect(folder).duplicates[0]
        >>> [picture.path for picture in copies.pictures], copies.labels_differ
        (['lying/000.png', 'standing/copy.png'], True)
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
    mean_image: dict[str, str]
    mean_image_of_all: str
    duplicates: list[Copies]
    features_path: str | None
    backbone: str | None
    compared: int
    similarity: float
    n_neighbors: int
    near_duplicates: list[Pair]
    leaks: list[Pair]
    outliers: list[Outlier]
    suspects: list[Suspect]
    thresholds: dict[str, float]
    notes: list[str]
    seconds: float
    pictures: list[Picture]

    def __repr__(self) -> str:
        counts = f"{self.listed} listed, {len(self.quarantined)} quarantined, {len(self.duplicates)} duplicates"
        if self.features_path is None:
            return f"<Inspection {self.dataset}: {counts}, {len(self.leaks)} leaks; no features>"
        by_features = f"{len(self.near_duplicates)} near-duplicates, {len(self.outliers)} outliers"
        suspects = f"{len(self.suspects)} suspects"
        return f"<Inspection {self.dataset}: {counts}, {len(self.leaks)} leaks, {by_features}, {suspects}>"

    def mean_images(self) -> dict[str, NDArray[np.uint8]]:
        """Mean image of each class, ``uint8 (64, 64, 3)``, RGB."""
        return {name: from_png_text(image) for name, image in self.mean_image.items()}


def inspect(
    source: str | Path | Features,
    *,
    cache_dir: str | Path = "cache",
    similarity: float = 0.9,
    n_neighbors: int = 10,
    random_state: int = 0,
    progress: Progress | None = None,
) -> Inspection:
    """Look through a data set: counts, sizes, mean images, and what is wrong with it.

    Every picture is decoded once, since that alone shows which are damaged. Near-duplicates, leaks by them, outliers
    and label suspects need features: those of the newest feature file of the data set, matched by the pictures'
    content. Nothing is extracted, and nothing is changed. Features are compared by brute force: 5,000 rows of 1280 took
    4 seconds on two busy cores, and ten times the rows take a hundred times as long; memory for features is twice
    ``4 * pictures * channels`` bytes.

    A ``similarity`` of 0.9 was chosen with MobileNetV2 at 224 pixels on flowers, ants and bees, cats and dogs: 2,097
    pictures, of 180 of which altered copies were made. It finds all copies saved again as JPEG of quality 80, 98 % of
    quality 60, 97 % of those at 0.7 of their size, 99 % of those with 5 % cut off, 93 % with 10 %, and all that were
    mirrored. Of the pictures as they are, five pairs reach it, each of one scene taken twice; pairs of different scenes
    end at 0.885. With width 0.35 the figures for flowers are alike; other networks may differ: look at the pairs
    nearest to the limit, and set yours.

    Args:
        source: a folder or label file as for :func:`featx.extract`, or a feature file, whose pictures may be gone.
        cache_dir: folder of the feature files.
        similarity: cosine from which on two pictures are near-duplicates, above 0 and at most 1.
        n_neighbors: number of nearest pictures that each is compared with, at least 1. Near-duplicates beyond these are
            found by their own neighbours only; an outlier is far from all of these.
        random_state: seed of the folds by which labels are judged.
        progress: called with the stage, how much of it is done, and of how much.

    Returns:
        The inspection, as numbers, text and lists.

    Raises:
        SettingError: a setting out of its range.
        DatasetError: no such data set.
        CacheError: no such feature file, or one whose rows cannot be compared.

    Example:
        >>> import featx
        >>> inspection = featx.inspect("photos")
        >>> inspection
        <Inspection photos: 24 listed, 0 quarantined, 0 duplicates, 0 leaks; no features>
        >>> inspection.counts, inspection.formats, inspection.sizes.largest.width
        ({'lying': {'none': 12}, 'standing': {'none': 12}}, {'PNG': 24}, 40)
        >>> inspection.mean_images()["lying"].shape
        (64, 64, 3)
    """
    if not 0 < similarity <= 1:
        raise SettingError(f"`similarity` must be above 0 and at most 1, got {similarity:g}", "similarity")
    if n_neighbors < 1:
        raise SettingError(f"`n_neighbors` must be at least 1, got {n_neighbors}", "n_neighbors")
    started = time.perf_counter()
    progress = progress or silent
    features = feature_file(source)
    listing = list_dataset(source) if features is None else listing_of(features)  # type: ignore[arg-type]
    surveyed = survey(listing, progress, may_be_gone=features is not None)
    if features is None:
        features = newest_features(listing, CacheFolder(cache_dir))
    pictures = [picture for picture in listing.pictures if picture.path not in surveyed.unreadable]
    contents = Contents(pictures, surveyed.ids | _ids_of(surveyed.gone, features))
    checks = check_features(
        contents,
        features,
        similarity=similarity,
        n_neighbors=n_neighbors,
        random_state=random_state,
        progress=progress,
    )
    return _inspection(listing, surveyed, contents, checks, time.perf_counter() - started)


def _ids_of(paths: list[str], features: Features | None) -> dict[str, str]:
    """Content id by path, of pictures that only the feature file knows."""
    if not paths or features is None:
        return {}
    known = dict(zip(features.paths, features.ids.tolist(), strict=True))
    return {path: known[path] for path in paths}


def _inspection(
    listing: Listing, surveyed: Survey, contents: Contents, checks: FeatureChecks, seconds: float
) -> Inspection:
    pictures = [picture for picture in listing.pictures if picture.path not in surveyed.unreadable]
    counts = _counts(pictures)
    features = checks.features
    return Inspection(
        dataset=listing.name,
        root=str(listing.root.resolve()),
        listed=len(listing.pictures),
        readable=len(surveyed.ids),
        gone=len(surveyed.gone),
        quarantined=[Unreadable(printable(path), reason) for path, reason in sorted(surveyed.unreadable.items())],
        ignored=len(listing.ignored),
        empty_classes=[printable(name) for name in listing.empty_classes],
        counts={name: dict(counts[name]) for name in sorted_class_names(n for n in counts if n is not None)},
        unlabelled=dict(counts.get(None, {})),
        imbalance=_imbalance(counts),
        formats=dict(surveyed.formats.most_common()),
        sizes=sizes_of(list(surveyed.ids), surveyed.sizes),
        mean_image={name: surveyed.mean_image(name) for name in listing.class_names if name in surveyed.sums},
        mean_image_of_all=surveyed.mean_image(None),
        duplicates=contents.duplicates(),
        features_path=None if features is None else str(features.path),
        backbone=None if features is None else str(features.spec.get("backbone")),
        compared=checks.compared,
        similarity=checks.similarity,
        n_neighbors=checks.n_neighbors,
        near_duplicates=checks.near_duplicates,
        leaks=contents.leaks() + [p for p in checks.near_duplicates if not same_side(p.first, p.second)],
        outliers=checks.outliers,
        suspects=checks.labels.suspects,
        thresholds=checks.labels.thresholds,
        notes=checks.notes,
        seconds=seconds,
        pictures=[picture for picture in pictures if picture.path in surveyed.ids],
    )


def _counts(pictures: list[Picture]) -> dict[str | None, Counter[str]]:
    """Number of pictures by label and split."""
    counts: dict[str | None, Counter[str]] = {}
    for picture in pictures:
        counts.setdefault(picture.label, Counter())[picture.split or "none"] += 1
    return counts


def _imbalance(counts: dict[str | None, Counter[str]]) -> float | None:
    totals = [by_split.total() for label, by_split in counts.items() if label is not None]
    return max(totals) / min(totals) if totals else None
