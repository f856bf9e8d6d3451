"""Few-shot curves: how accuracy grows with the number of training pictures per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np
from sklearn.base import clone

from featx._internal.intervals import student_interval, within_shares
from featx._internal.progress import Progress
from featx.cache import Features, load_features
from featx.errors import SettingError
from featx.heads import Head, HeadParams, make_head
from featx.rows import accuracy, probabilities, training_split

if TYPE_CHECKING:
    from numpy.typing import NDArray
from featx.selection.cross_validation import _trained


@dataclass(frozen=True)
class Shots:
    """Accuracy after training on a number of pictures per class.

    Attributes:
        shots: pictures per class; None for all.
        rows: mean number of pictures trained on.
        mean_accuracy: mean over the draws, 0 to 1; ``ci95`` its 95 % interval (Student's, over the draws).
        accuracies: accuracy of each draw.

    Example:
        >>> import featx
        >>> features = featx.extract("photos", backbone="pixels", size=16).features_path
        >>> (point,) = featx.few_shot(features, "knn", shots=[5], repeats=2)
        >>> point.shots, point.rows, len(point.accuracies)
        (5, 10.0, 2)
    """

    shots: int | None
    rows: float
    mean_accuracy: float
    ci95: tuple[float, float]
    accuracies: list[float]


def few_shot(
    features: Features | str | Path,
    head: str | Head = "logreg",
    *,
    shots: Sequence[int | None] = (1, 2, 5, 10, 20, None),
    repeats: int = 10,
    validation: float = 0.2,
    random_state: int = 0,
    progress: Progress | None = None,
    **params: Unpack[HeadParams],
) -> list[Shots]:
    """Accuracy against the number of training pictures a class: would more pictures help?

    Each repeat draws validation rows anew, unless the data set has its own, and nested sets of training pictures: the
    first of a class, the first two, and so on.

    Args:
        features: a feature file or its path.
        head: a name or an unfitted head; its settings are the same for all numbers.
        shots: pictures per class, None for all.
        repeats: draws, 2 at least; the interval is Student's over them.
        validation: share of each class that is held out if the data set has no validation split.
        random_state: seed of the draws and of the head.
        progress: called with what is going on, how much is done, and of how much.
        **params: of a head given by name.

    Returns:
        one record per number of pictures, in the order of ``shots``.

    Raises:
        SettingError: a setting out of its range, or one that the head does not have.

    Example:
        >>> import featx
        >>> features = featx.extract("photos", backbone="pixels", size=16).features_path
        >>> [(point.shots, point.rows) for point in featx.few_shot(features, "knn", shots=[1, 5], repeats=2)]
        [(1, 2.0), (5, 10.0)]
    """
    model = make_head(head, **{"random_state": random_state, **params}) if isinstance(head, str) else clone(head)
    model.check_settings()
    if repeats < 2:
        raise SettingError(f"`repeats` must be at least 2, got {repeats}", "repeats")
    if any(number is not None and number < 1 for number in shots):
        raise SettingError(f"`shots` must be at least 1 each, got {list(shots)}", "shots")
    features = load_features(features)
    found: dict[int | None, list[tuple[int, float]]] = {number: [] for number in shots}
    for repeat in range(repeats):
        split = training_split(features, validation, random_state + repeat)
        if not len(split.validation):
            raise SettingError("few-shot curves need validation rows; expected `validation` above 0", "validation")
        place = _places_in_class(features, split.train, np.random.default_rng([random_state, repeat]))
        for number in shots:
            rows = split.train if number is None else split.train[place < number]
            fitted = _trained(clone(model), features, rows)
            right = accuracy(probabilities(fitted, features, split.validation), features.y[split.validation])
            found[number].append((int(features.pictures[rows].sum()), right))
            if progress:
                progress("few-shot curve", sum(map(len, found.values())), repeats * len(found))
    return [_interval(number, draws) for number, draws in found.items()]


def _places_in_class(features: Features, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """A random order of each class's pictures, from 0, the same for all views of one."""
    pictures, first, number = np.unique(features.ids[rows], return_index=True, return_inverse=True)
    label = features.y[rows][first]
    place = np.empty(len(pictures), np.int64)
    for name in np.unique(label):
        mine = np.flatnonzero(label == name)
        place[mine] = rng.permutation(len(mine))
    places: NDArray[np.int64] = place[number]
    return places


def _interval(number: int | None, draws: list[tuple[int, float]]) -> Shots:
    accuracies = [accuracy for _, accuracy in draws]
    rows = float(np.mean([rows for rows, _ in draws]))
    return Shots(number, rows, float(np.mean(accuracies)), within_shares(student_interval(accuracies)), accuracies)
