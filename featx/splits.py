"""Which rows train, which validate, which test. Row numbers only: a listing is never shuffled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featx.errors import TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Split:
    """Row numbers, int64, sorted.

    ``drawn`` says that the validation rows were drawn from the training rows, not given by the data set. ``left_out``
    are rows whose very picture is among the validation or test rows too, and is used only there.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    left_out: NDArray[np.int64]
    drawn: bool


def split_rows(
    ids: NDArray[Any],
    labels: NDArray[np.int32],
    splits: NDArray[Any],
    *,
    views: NDArray[np.int16] | None = None,
    validation: float = 0.2,
    random_state: int = 0,
) -> Split:
    """Split labelled rows by the data set's own splits, else by a stratified draw.

    Rows of one picture (equal ``ids``: copies of a file, and its views) always stay on one side.

    Args:
        ids: str ``(n,)``, content ids.
        labels: int ``(n,)``, -1 where unlabelled; such rows are on no side.
        splits: str ``(n,)``: ``train``, ``validation``, ``test`` or "" (which trains).
        views: int ``(n,)``, 0 for the picture itself. Other views only ever train.
        validation: share of each class's pictures that is drawn if no row is marked ``validation``.
        random_state: seed of the draw.

    Raises:
        TrainingError: ``validation`` is not a share, or nothing is left to train on.
    """
    if not 0 <= validation < 1:
        raise TrainingError(f"the validation share must be at least 0 and below 1, got {validation:g}")
    labelled = labels >= 0
    itself = np.ones(len(labels), bool) if views is None else views == 0
    test = np.flatnonzero(labelled & itself & (splits == "test"))
    given = np.flatnonzero(labelled & itself & (splits == "validation"))
    tested_too = np.isin(ids[given], ids[test])
    copies, given = given[tested_too], given[~tested_too]
    candidates = np.flatnonzero(labelled & np.isin(splits, ["train", ""]))
    elsewhere = np.isin(ids[candidates], np.concatenate([ids[test], ids[given]]))
    train, left_out = candidates[~elsewhere], np.sort(np.concatenate([candidates[elsewhere], copies]))
    if not len(train):
        raise TrainingError("no labelled row to train on; expected rows of the train split, or of no split")
    drawn = not len(given)
    if drawn:
        held_out = _draw(ids[train], labels[train], validation, np.random.default_rng(random_state))
        train, given = train[~held_out], train[held_out & itself[train]]
    return Split(train, given, test, left_out[itself[left_out]], drawn)


def fold_numbers(ids: NDArray[Any], labels: NDArray[Any], folds: int, random_state: int = 0) -> NDArray[np.int64]:
    """In which of ``folds`` parts each row is held out, int64 ``(n,)`` from 0: each class's pictures dealt out in turn.

    Rows of one picture (equal ``ids``: copies of a file, and its views) are always in the same part, and the parts of a
    class, and of all, differ by one picture at most.

    Raises:
        TrainingError: fewer than two folds, or fewer pictures than folds.
    """
    pictures, first, place = np.unique(ids, return_index=True, return_inverse=True)
    if not 2 <= folds <= len(pictures):
        raise TrainingError(f"the folds must be from 2 to the number of pictures, {len(pictures)}. Got {folds} instead")
    rng = np.random.default_rng(random_state)
    order = rng.permutation(len(pictures))
    order = order[np.argsort(labels[first][order], kind="stable")]
    fold = np.empty(len(pictures), np.int64)
    fold[order] = np.arange(len(pictures)) % folds  # going on from class to class, so that small ones do not pile up
    return fold[place]


def _draw(ids: NDArray[Any], labels: NDArray[np.int32], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A mask of about ``share`` of each class's pictures: at least one of two or more, never the last one."""
    pictures, first = np.unique(ids, return_index=True)
    label_of = labels[first]
    chosen: list[Any] = []
    for label in np.unique(label_of):
        of_class = rng.permutation(pictures[label_of == label])
        count = min(max(1, round(share * len(of_class))), len(of_class) - 1) if share else 0
        chosen += of_class[:count].tolist()
    return np.isin(ids, chosen)
