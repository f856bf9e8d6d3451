"""Rows of a feature file as heads want them: which train, what they hold, which are views of one picture."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from featx.cache import Features
from featx.errors import TrainingError
from featx.heads import Head, as_rows
from featx.splits import Split, split_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

MEMORY_BYTES = 2**29  # of features that are loaded to be trained on; more are read block by block, again and again


def training_split(features: Features, validation: float = 0.2, random_state: int = 0) -> Split:
    """The rows of a feature file that train, validate and test; with warnings of what will disturb.

    Raises:
        TrainingError: one class only, or a class without a picture to train on.
    """
    split = split_of(features, validation, random_state)
    if len(features.class_names) < 2:
        only = features.class_names[0] if features.class_names else "none"
        raise TrainingError(f"{features.path.name} has one class only ({only}); a classifier needs two or more")
    absent = set(range(len(features.class_names))) - set(features.y[split.train].tolist())
    if absent:
        name = features.class_names[min(absent)]
        raise TrainingError(
            f"class {name!r} has no picture to train on in {features.path.name}: they are missing, unreadable, or only "
            "in the validation or test split. Add some, or take the class out"
        )
    pairs = np.unique(np.char.add(features.ids, features.y.astype(str))[features.y >= 0])
    disputed = len(pairs) - len(np.unique(features.ids[features.y >= 0]))
    if disputed:
        logger.warning("%d pictures lie in more than one class; no head can get those right", disputed)
    if len(split.left_out):
        logger.warning(
            "%d pictures are also among the validation or test pictures, and are used only there", len(split.left_out)
        )
    return split


def split_of(features: Features, validation: float, random_state: int = 0) -> Split:
    """:func:`featx.splits.split_rows` of a feature file."""
    f = features
    return split_rows(f.ids, f.y, f.splits, views=f.views, validation=validation, random_state=random_state)


def inputs(head: Head, features: Features, rows: NDArray[np.int64]) -> Any:
    """What the head is fitted on: an array, or, if that would not fit into memory, rows that are read when asked for.

    Maps that the head would pool anyway are pooled block by block.
    """
    pooled = len(features.shape) == 4 and head.input != "flat"
    row_bytes = 4 * features.shape[-1] if pooled else features.dtype.itemsize * int(np.prod(features.shape[1:]))
    if len(rows) * row_bytes > MEMORY_BYTES:
        return features.rows(rows)
    if pooled and len(rows):
        return np.concatenate([as_rows(X, head.input) for _, X in features.blocks(rows)])
    return features.stored(rows)


def groups_of(features: Features, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Which of the rows are views of one picture, as the argument ``groups`` of a head's fit; nothing without views."""
    if not features.views[rows].any():
        return {}
    names = np.array([f"{label} {path}" for label, path in zip(features.y[rows], features.paths[rows], strict=True)])
    return {"groups": np.unique(names, return_inverse=True)[1]}


def probabilities(head: Head, features: Features, rows: Any = None) -> NDArray[np.float32]:
    """Probabilities ``(n, classes)`` of rows of a feature file, block by block."""
    numbers = np.arange(len(features))[slice(None) if rows is None else rows]
    found = np.empty((len(numbers), len(head.classes_)), np.float32)
    done = 0
    for block, X in features.blocks(numbers):
        found[done : done + len(block)] = head.predict_proba(X)
        done += len(block)
    return found


def accuracy(probabilities: NDArray[np.floating[Any]], y: NDArray[np.int32]) -> float:
    """Share of rows whose most probable class is ``y``."""
    return float(np.mean(np.argmax(probabilities, axis=1) == y))
