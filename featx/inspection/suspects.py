"""Labels that may be wrong, by confident learning (Northcutt, Jiang & Chuang 2021, "Confident learning: estimating
uncertainty in dataset labels", JAIR 70).

Each picture is judged by heads that were fitted without it. A class counts as probable for a picture if its probability
is at least what it is on average for the pictures labelled so; that makes up for classes of which a head is sure more
easily.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from featx._internal.progress import Progress
from featx.heads import LogisticHead
from featx.inspection.contents import sorted_class_names
from featx.inspection.troubles import Suspect
from featx.pictures import Picture
from featx.rows import fold_numbers, out_of_fold

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDS = 5
CLASSES_NAMED = 5
# Of 10 labels swapped among 800 flowers, 398 ants and bees and 900 cats and dogs, so many were among the first 30
# suspects, on average over five draws: 7.0, 7.2 and 7.6 with 0.01, the default elsewhere; 8.2, 8.0 and 8.4 with 0.1;
# 8.0, 8.8 and 8.4 with 1, but of half as many more suspects. A weak penalty lets heads be sure.
C = 0.1


@dataclass
class LabelCheck:
    """Result of judging labels.

    Attributes:
        suspects: pictures that may have a wrong label, the most suspect first.
        thresholds: by class, the probability from which on it is suggested.
        notes: classes that could not be judged, and why.
    """

    suspects: list[Suspect] = field(default_factory=list)
    thresholds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def check_labels(
    X: NDArray[np.float32],
    copies: list[list[Picture]],
    groups: NDArray[np.int64],
    random_state: int,
    progress: Progress,
) -> LabelCheck:
    """Judge the label of each picture by the others.

    Args:
        X: ``(contents, d)``, averaged features.
        copies: pictures of each content.
        groups: number of each content's group, ``(contents,)``: near-duplicates stay in one fold, else copies of one
            wrong label would vouch for each other.
        random_state: seed of the folds.
        progress: called with the stage, how many folds are done, and of how many.
    """
    check = LabelCheck()
    names = _judgeable_classes(copies, groups, check.notes)
    if len(names) < 2:
        check.notes.append("wrong labels were not looked for: that takes two classes of two different pictures each")
        return check
    number = {name: n for n, name in enumerate(names)}
    labelled = [(content, p, p.label) for content, pictures in enumerate(copies) for p in pictures if p.label in number]
    content = np.array([content for content, _, _ in labelled])
    y = np.array([number[label] for _, _, label in labelled if label is not None], np.int32)
    probabilities, judged = out_of_fold_probabilities(X, content, y, groups[content], random_state, progress)
    pictures = [labelled[row][1] for row in np.flatnonzero(judged)]
    thresholds, suggested = suggest_classes(probabilities[judged], y[judged])
    check.thresholds = {name: float(thresholds[n]) for name, n in number.items() if np.isfinite(thresholds[n])}
    check.suspects = _suspects(pictures, names, y[judged], suggested, probabilities[judged])
    return check


def _judgeable_classes(copies: list[list[Picture]], groups: NDArray[np.int64], notes: list[str]) -> list[str]:
    """Classes with pictures of two groups at least, so that one can be judged by the other; others are noted."""
    groups_by_label: dict[str, set[int]] = {}
    for pictures, group in zip(copies, groups.tolist(), strict=True):
        for label in {p.label for p in pictures if p.label is not None}:
            groups_by_label.setdefault(label, set()).add(group)
    small = sorted_class_names(label for label, its_groups in groups_by_label.items() if len(its_groups) < 2)
    if small:
        shown = ", ".join(small[:CLASSES_NAMED]) + (", ..." if len(small) > CLASSES_NAMED else "")
        notes.append(f"labels of these classes were not judged, none has two different pictures: {shown}")
    return sorted_class_names(set(groups_by_label) - set(small))


def _suspects(
    pictures: list[Picture],
    names: list[str],
    y: NDArray[np.int32],
    suggested: NDArray[np.int64],
    probabilities: NDArray[np.float64],
) -> list[Suspect]:
    suspects = []
    for row in np.flatnonzero(suggested != y).tolist():
        probability = float(probabilities[row, y[row]])
        suggested_probability = float(probabilities[row, suggested[row]])
        suspects.append(
            Suspect(
                path=pictures[row].path,
                label=names[y[row]],
                split=pictures[row].split,
                suggested=names[suggested[row]],
                probability=probability,
                suggested_probability=suggested_probability,
                margin=probability - suggested_probability,
            )
        )
    return sorted(suspects, key=lambda suspect: (suspect.margin, suspect.path))


def out_of_fold_probabilities(
    X: NDArray[np.float32],
    content: NDArray[np.int64],
    y: NDArray[np.int32],
    groups: NDArray[np.int64],
    random_state: int,
    progress: Progress,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Probabilities of each picture by a logistic regression that was fitted without its fold and its group.

    Args:
        X: ``(contents, d)``, averaged features.
        content: row of ``X`` of each picture, ``(n,)``; copies share one.
        y: class numbers ``(n,)``.
        groups: number of each picture's group, ``(n,)``; a group is not divided between folds.
        random_state: seed of the folds.
        progress: called with the stage, how many folds are done, and of how many.

    Returns:
        probabilities ``(n, classes)``, and a mask ``(n,)`` of the pictures that could be judged: those whose class has
        pictures outside of their fold.
    """
    fold = fold_numbers(groups, y, min(FOLDS, len(np.unique(groups))), random_state)

    def predict(train: NDArray[np.int64], held_out: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Classes that a head fitted on ``train`` knows, and its probabilities of them for ``held_out``."""
        if len(np.unique(y[train])) < 2:  # of one class no head can be fitted
            return np.empty(0, np.int64), np.empty((len(held_out), 0))
        head = LogisticHead(C).fit(X[content[train]], y[train])
        return head.classes_, head.predict_proba(X[content[held_out]])

    probabilities = out_of_fold(fold, int(y.max()) + 1, predict, progress, "judging the labels").astype(np.float64)
    judged = ~np.isnan(probabilities[np.arange(len(y)), y])
    return np.nan_to_num(probabilities, nan=0.0), judged


def suggest_classes(
    probabilities: NDArray[np.float64], y: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Class that each row most probably has, by confident learning.

    A class's threshold is the mean of its probability over the rows labelled so; a class without rows is suggested for
    none. Of the classes that reach their thresholds, the most probable one is suggested.

    Args:
        probabilities: ``(n, classes)``, out of fold.
        y: class numbers ``(n,)``.

    Returns:
        thresholds ``(classes,)`` and suggested class numbers ``(n,)``: that of ``y`` where no class reaches its
        threshold.
    """
    rows = np.arange(len(y))
    counts = np.bincount(y, minlength=probabilities.shape[1])
    sums = np.bincount(y, weights=probabilities[rows, y], minlength=probabilities.shape[1])
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    suggested = np.where(reached.max(axis=1) >= 0, np.argmax(reached, axis=1), y)
    return thresholds, suggested.astype(np.int64)
