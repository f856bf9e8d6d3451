"""Labels that may be wrong, by confident learning (Northcutt, Jiang & Chuang 2021, "Confident learning: estimating
uncertainty in dataset labels", JAIR 70).

Each picture is judged by heads that have not seen it. A class counts as probable for a picture if its probability is at
least what it is on average for the pictures labelled so; that makes up for classes of which a head is sure more easily.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featx._internal.progress import Progress
from featx.heads import LogisticHead
from featx.rows import fold_numbers, out_of_fold

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDS = 5
# Of 10 labels swapped among 800 flowers, 398 ants and bees and 900 cats and dogs, so many were among the first 30
# suspects, on average over five draws: 7.0, 7.2 and 7.6 with 0.01, the default elsewhere; 8.2, 8.0 and 8.4 with 0.1;
# 8.0, 8.8 and 8.4 with 1, but of half as many more suspects. A weak penalty lets heads be sure.
C = 0.1


def held_out_probabilities(
    X: NDArray[np.float32],
    place: NDArray[np.int64],
    y: NDArray[np.int32],
    groups: NDArray[np.int64],
    random_state: int,
    progress: Progress,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Probabilities of each picture by a logistic regression that was fitted without its fold and its group.

    Args:
        X: ``(contents, d)``, averaged features.
        place: the row of ``X`` that each picture has, ``(n,)``; copies share one.
        y: class numbers ``(n,)``.
        groups: of pictures that must not vouch for each other, ``(n,)``.
        random_state: seed of the folds.
        progress: called with what is going on, how much is done, and of how much.

    Returns:
        probabilities ``(n, classes)``, and a mask ``(n,)`` of the pictures that could be judged: those whose class has
        pictures outside of their fold.
    """
    fold = fold_numbers(groups, y, min(FOLDS, len(np.unique(groups))), random_state)

    def predict(train: NDArray[np.int64], held_out: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[Any]]:
        if len(np.unique(y[train])) < 2:  # of one class no head can be fitted
            return np.empty(0, np.int64), np.empty((len(held_out), 0))
        head = LogisticHead(C).fit(X[place[train]], y[train])
        return head.classes_, head.predict_proba(X[place[held_out]])

    probabilities = out_of_fold(fold, int(y.max()) + 1, predict, progress, "judging the labels").astype(np.float64)
    judged = ~np.isnan(probabilities[np.arange(len(y)), y])
    return np.nan_to_num(probabilities, nan=0.0), judged


def confident(
    probabilities: NDArray[np.float64], y: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Thresholds ``(classes,)`` and the class that each row most probably has, ``(n,)``: its own if none reaches its.

    A class's threshold is the mean of its probability over the rows labelled so; a class without rows is suggested for
    none. Of the classes that reach their thresholds, the most probable one counts.

    Args:
        probabilities: ``(n, classes)``, out of fold.
        y: class numbers ``(n,)``.
    """
    rows = np.arange(len(y))
    counts = np.bincount(y, minlength=probabilities.shape[1])
    sums = np.bincount(y, weights=probabilities[rows, y], minlength=probabilities.shape[1])
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    likely = np.where(reached.max(axis=1) >= 0, np.argmax(reached, axis=1), y)
    return thresholds, likely.astype(np.int64)
