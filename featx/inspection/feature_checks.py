"""Checks that features allow: near-duplicates, outliers and labels that may be wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from featx._internal.progress import Progress
from featx.cache import Features
from featx.inspection.contents import Contents, rank
from featx.inspection.likeness import linked_groups, modified_z, nearest, similar_pairs
from featx.inspection.suspects import LabelCheck, check_labels
from featx.inspection.troubles import Outlier, Pair
from featx.pictures import Picture
from featx.rows import pooled

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_OUTLIER_SCORE = 3.5  # Iglewicz & Hoaglin 1993
MANY_NEAR = 1 / 3  # of the pictures with a near-duplicate: more than most data sets have
NO_FEATURES = (
    "no features of this data set were found, so near-duplicates, outliers and wrong labels were not looked for; run "
    "`featx extract` on it first"
)


@dataclass
class FeatureChecks:
    """Results of the checks.

    Attributes:
        similarity, n_neighbors: the settings.
        features: the feature file; None if there is none, so that nothing could be checked.
        compared: number of pictures that have features, copies included.
        near_duplicates: pairs of pictures at least so similar, the most similar first.
        outliers: pictures unlike all others, the farthest first.
        labels: result of judging the labels.
        notes: checks that could not be made and why, and results to be taken with care.
    """

    similarity: float
    n_neighbors: int
    features: Features | None = None
    compared: int = 0
    near_duplicates: list[Pair] = field(default_factory=list)
    outliers: list[Outlier] = field(default_factory=list)
    labels: LabelCheck = field(default_factory=LabelCheck)
    notes: list[str] = field(default_factory=list)


def check_features(
    contents: Contents,
    features: Features | None,
    *,
    similarity: float,
    n_neighbors: int,
    random_state: int,
    progress: Progress,
) -> FeatureChecks:
    """Make all checks that features allow. Copies of a file are compared as one picture, the one to keep."""
    checks = FeatureChecks(similarity, n_neighbors, features)
    if features is None:
        checks.notes.append(NO_FEATURES)
        return checks
    pictures = np.flatnonzero(features.pictures)
    row_of = dict(zip(features.ids[pictures].tolist(), pictures.tolist(), strict=True))
    numbers = [number for number, content in enumerate(contents.ids) if content in row_of]
    copies = [contents.copies[number] for number in numbers]
    checks.compared = sum(map(len, copies))
    missing = sum(map(len, contents.copies)) - checks.compared
    if missing:
        checks.notes.append(f"{missing} pictures have no features in {features.path}; extract again to compare them")
    if len(copies) < 2:
        checks.notes.append("there are no two different pictures with features to compare")
        return checks
    X = pooled(features, np.array([row_of[contents.ids[number]] for number in numbers]), "avg")
    cosines, neighbors = nearest(X, n_neighbors, progress)
    pairs, similarities = similar_pairs(cosines, neighbors, similarity)
    keepers = [pictures[0] for pictures in copies]
    checks.near_duplicates = _near_duplicates(pairs, similarities, keepers)
    checks.notes += _notes_on_pairs(pairs, len(keepers), similarity)
    checks.outliers = _outliers(keepers, cosines, neighbors)
    checks.labels = check_labels(X, copies, linked_groups(len(copies), pairs), random_state, progress)
    checks.notes += checks.labels.notes
    return checks


def _near_duplicates(pairs: NDArray[np.int64], similarities: NDArray[np.float64], keepers: list[Picture]) -> list[Pair]:
    near_duplicates = []
    for numbers, similarity in zip(pairs.tolist(), similarities.tolist(), strict=True):
        first, second = sorted((keepers[number] for number in numbers), key=rank)
        near_duplicates.append(Pair(first, second, similarity, exact=False))
    return near_duplicates


def _notes_on_pairs(pairs: NDArray[np.int64], n_pictures: int, similarity: float) -> list[str]:
    with_one = len(np.unique(pairs))
    if with_one <= MANY_NEAR * n_pictures:
        return []
    return [
        f"{with_one} of {n_pictures} pictures have a near-duplicate: look at some, and if they are not alike, "
        f"give a higher similarity than {similarity:g}; networks differ in it"
    ]


def _outliers(keepers: list[Picture], cosines: NDArray[np.float64], neighbors: NDArray[np.int64]) -> list[Outlier]:
    distances = 1 - cosines.mean(axis=1)
    scores = modified_z(distances)
    far = np.flatnonzero(scores > MIN_OUTLIER_SCORE)
    return [
        Outlier(
            path=keepers[row].path,
            label=keepers[row].label,
            split=keepers[row].split,
            distance=float(distances[row]),
            score=float(scores[row]),
            nearest=keepers[neighbors[row, 0]].path,
        )
        for row in far[np.argsort(-scores[far], kind="stable")].tolist()
    ]
