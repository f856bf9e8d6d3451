"""What features tell of a data set: near-duplicates, outliers and labels that may be wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from featx._internal.progress import Progress
from featx.cache import Features
from featx.inspection.contents import Contents, in_order, rank
from featx.inspection.likeness import OUTLYING, groups_of, modified_z, nearest, pairs_of
from featx.inspection.result import Outlier, Pair, Suspect
from featx.inspection.suspects import confident, held_out_probabilities
from featx.pictures import Picture
from featx.rows import pooled

if TYPE_CHECKING:
    from numpy.typing import NDArray

MANY_NEAR = 1 / 3  # of the pictures with a near-duplicate: more than most data sets have
NO_FEATURES = (
    "no features of this data set were found, so near-duplicates, outliers and wrong labels were not looked for; run "
    "`featx extract` on it first"
)


@dataclass
class Alike:
    """What comparing features has shown; see :class:`featx.inspection.Inspection`."""

    compared: int = 0
    pairs: list[Pair] = field(default_factory=list)
    outliers: list[Outlier] = field(default_factory=list)
    suspects: list[Suspect] = field(default_factory=list)
    thresholds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def compare(
    contents: Contents,
    features: Features | None,
    similarity: float,
    neighbors: int,
    random_state: int,
    progress: Progress,
) -> Alike:
    """All that features tell. Copies of a file are compared as one picture, the one to keep."""
    if features is None:
        return Alike(notes=[NO_FEATURES])
    itself = np.flatnonzero(features.pictures)
    row_of = dict(zip(features.ids[itself].tolist(), itself.tolist(), strict=True))
    found = [number for number, content in enumerate(contents.ids) if content in row_of]
    copies = [contents.copies[number] for number in found]
    alike = Alike(compared=sum(map(len, copies)))
    missing = sum(map(len, contents.copies)) - alike.compared
    if missing:
        alike.notes.append(f"{missing} pictures have no features in {features.path}; extract again to compare them")
    if len(copies) < 2:
        alike.notes.append("there are no two different pictures with features to compare")
        return alike
    X = pooled(features, np.array([row_of[contents.ids[number]] for number in found]), "avg")
    cosines, numbers = nearest(X, neighbors, progress)
    pairs, cosine = pairs_of(cosines, numbers, similarity)
    _note_pairs(alike, pairs, cosine, [pictures[0] for pictures in copies], similarity)
    alike.outliers = _outliers([pictures[0] for pictures in copies], cosines, numbers)
    _judge(alike, X, copies, groups_of(len(copies), pairs), random_state, progress)
    return alike


def _note_pairs(
    alike: Alike, pairs: NDArray[np.int64], cosine: NDArray[np.float64], keepers: list[Picture], similarity: float
) -> None:
    for numbers, value in zip(pairs.tolist(), cosine.tolist(), strict=True):
        first, second = sorted((keepers[number] for number in numbers), key=rank)
        alike.pairs.append(Pair(first, second, value, exact=False))
    with_one = len(np.unique(pairs))
    if with_one > MANY_NEAR * len(keepers):
        alike.notes.append(
            f"{with_one} of {len(keepers)} pictures have a near-duplicate: look at some, and if they are not alike, "
            f"give a higher similarity than {similarity:g}; networks differ in it"
        )


def _outliers(keepers: list[Picture], cosines: NDArray[np.float64], numbers: NDArray[np.int64]) -> list[Outlier]:
    distances = 1 - cosines.mean(axis=1)
    scores = modified_z(distances)
    far = np.flatnonzero(scores > OUTLYING)
    return [
        Outlier(
            path=keepers[row].path,
            label=keepers[row].label,
            split=keepers[row].split,
            distance=float(distances[row]),
            score=float(scores[row]),
            nearest=keepers[numbers[row, 0]].path,
        )
        for row in far[np.argsort(-scores[far], kind="stable")].tolist()
    ]


def _judge(
    alike: Alike,
    X: NDArray[np.float32],
    copies: list[list[Picture]],
    groups: NDArray[np.int64],
    random_state: int,
    progress: Progress,
) -> None:
    """Find label suspects. Near-duplicates stay in one fold, else copies of the same wrong label would vouch."""
    names = _judgeable(alike, copies, groups)
    if len(names) < 2:
        alike.notes.append("wrong labels were not looked for: that takes two classes of two different pictures each")
        return
    number = {name: n for n, name in enumerate(names)}
    rows = [(place, p) for place, pictures in enumerate(copies) for p in pictures if p.label in number]
    place, y = np.array([place for place, _ in rows]), np.array([number[str(p.label)] for _, p in rows], np.int32)
    found, judged = held_out_probabilities(X, place, y, groups[place], random_state, progress)
    pictures, found, y = [rows[row][1] for row in np.flatnonzero(judged)], found[judged], y[judged]
    thresholds, likely = confident(found, y)
    alike.thresholds = {name: float(thresholds[n]) for name, n in number.items() if np.isfinite(thresholds[n])}
    alike.suspects = [
        Suspect(
            path=pictures[row].path,
            label=names[y[row]],
            split=pictures[row].split,
            suggested=names[likely[row]],
            probability=float(found[row, y[row]]),
            suggested_probability=float(found[row, likely[row]]),
            margin=float(found[row, y[row]] - found[row, likely[row]]),
        )
        for row in np.flatnonzero(likely != y).tolist()
    ]
    alike.suspects.sort(key=lambda suspect: (suspect.margin, suspect.path))


def _judgeable(alike: Alike, copies: list[list[Picture]], groups: NDArray[np.int64]) -> list[str]:
    """Classes with pictures of two groups at least, so that one can be judged by the other; others are noted."""
    groups_with: dict[str, set[int]] = {}
    for pictures, group in zip(copies, groups.tolist(), strict=True):
        for label in {p.label for p in pictures if p.label is not None}:
            groups_with.setdefault(label, set()).add(group)
    small = in_order(label for label, with_it in groups_with.items() if len(with_it) < 2)
    if small:
        some = ", ".join(small[:5]) + (", ..." if len(small) > 5 else "")
        alike.notes.append(f"labels of these classes were not judged, none has two different pictures: {some}")
    return in_order(set(groups_with) - set(small))
