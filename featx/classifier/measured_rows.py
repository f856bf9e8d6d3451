"""Rows that a classifier is measured on, and their classes as numbers of its own class names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featx.cache import Features
from featx.errors import TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS = ("test", "validation", "train", "unseen")


def rows_to_measure(
    features: Features, split: str | None, train_ids: NDArray[Any], validation_ids: NDArray[Any]
) -> tuple[str, NDArray[np.int64]]:
    """Labelled rows of a split, and the split.

    Args:
        features: the feature file.
        split: one of ``SPLITS``; by default ``test`` if there are such rows, else ``unseen``, else ``validation``.
        train_ids, validation_ids: content ids of the rows trained on, and of those held out to choose.

    Raises:
        TrainingError: no labelled rows of that split.
    """
    labelled = (features.y >= 0) & features.pictures
    marked = {name: np.flatnonzero(labelled & (features.splits == name)) for name in ("test", "validation")}
    held_out = np.flatnonzero(labelled & np.isin(features.ids, validation_ids))
    trained_on = np.isin(features.ids, train_ids)
    unseen = np.flatnonzero(labelled & ~trained_on)
    if split is None and len(marked["test"]):
        split = "test"
    elif split is None:
        split = "unseen" if np.setdiff1d(unseen, held_out).size else "validation"
    rows_by_split = {
        "test": marked["test"],
        "validation": held_out if len(held_out) else marked["validation"],
        "train": np.flatnonzero(labelled & trained_on),
        "unseen": unseen,
    }
    if not len(rows_by_split[split]):
        raise TrainingError(_why_no_rows(features, split))
    return split, rows_by_split[split]


def _why_no_rows(features: Features, split: str) -> str:
    if not (features.y >= 0).any():
        return f"{features.path} has no labels to compare with; `featx predict` needs none"
    return (
        f"{features.path.name} has no labelled rows of the {split} split. Evaluate on other pictures "
        "(`featx evaluate MODEL DATASET`), or try another `split`"
    )


def known_labels(features: Features, rows: NDArray[np.int64], class_names: list[str]) -> NDArray[np.int64]:
    """Classes of rows as numbers of ``class_names``, ``(n,)``.

    Raises:
        TrainingError: a class that is not among them.
    """
    index = {name: number for number, name in enumerate(class_names)}
    names = [features.class_names[label] for label in features.y[rows]]
    unknown = sorted(set(names) - set(index))
    if unknown:
        raise TrainingError(
            f"{features.path.name} has the class {unknown[0]!r}, which the classifier does not know; it knows "
            f"{', '.join(class_names[:10])}"
        )
    return np.array([index[name] for name in names], np.int64)
