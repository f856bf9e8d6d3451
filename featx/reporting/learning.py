"""How a classifier learned: the curves of its training, and what more pictures would bring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from featx._internal.progress import Progress
from featx.cache import Features
from featx.classifier import Classifier
from featx.errors import TrainingError
from featx.selection.few_shot import Shots, few_shot

SHOTS = (1, 2, 5, 10, 20, 50, None)
REPEATS = 3
LARGEST = 20_000  # rows for which the curve of pictures a class is still quick
COST = 2e8  # rows x columns x classes: about a minute
BYTES = 2**30  # of the feature file, which is read for each of its points


@dataclass(frozen=True)
class Learning:
    """Curves.

    Attributes:
        history: a list a measure with a value an epoch; empty for heads without epochs.
        shots: accuracy by training pictures a class; empty if that was not measured.
        note: by which head ``shots`` was measured, or why it was not.
    """

    history: dict[str, list[float]]
    shots: list[Shots]
    note: str

    @property
    def epochs(self) -> list[tuple[float, ...]]:
        """The measures of each epoch."""
        return list(zip(*self.history.values(), strict=False))


def learning_of(classifier: Classifier, features: Features, progress: Progress | None = None) -> Learning:
    """The curves of a classifier on the features that it was fitted on."""
    shots, note = _shots(classifier, features, progress)
    return Learning(classifier.fitting.history, shots, note)


def _shots(classifier: Classifier, features: Features, progress: Progress | None) -> tuple[list[Shots], str]:
    why = _why_not(classifier, features)
    if why:
        return [], f"Accuracy by the number of training pictures was not measured: {why}."
    head, of_epochs = classifier.head, classifier.head.trains_in_epochs
    most = max(np.bincount(features.y[np.isin(features.ids, classifier.train_ids)]).tolist())
    shots = [number for number in SHOTS if number is None or number < most]
    try:
        curve = few_shot(features, "logreg" if of_epochs else head, shots=shots, repeats=REPEATS, progress=progress)
    except TrainingError as error:
        return [], f"Accuracy by the number of training pictures was not measured: {error}."
    whose = "logistic regression on the same features, which is quicker than this head" if of_epochs else "this head"
    return curve, f"Measured by {whose}: mean and 95 % interval of {REPEATS} draws, on validation rows."


def _why_not(classifier: Classifier, features: Features) -> str:
    """Why the curve would not be quick or not make sense; empty if it would."""
    if not np.isin(features.ids, classifier.train_ids).any():
        return "these features do not hold the pictures that it was trained on"
    if classifier.head.has_tail:
        return "layers of the network were trained, which takes long"
    shape: tuple[int, ...] = features.shape[1:]
    flat = len(shape) == 3 and classifier.head.input == "flat"
    cost = len(features) * (int(np.prod(shape)) if flat else shape[-1]) * len(classifier.class_names)
    size = len(features) * int(np.prod(shape)) * features.dtype.itemsize
    if len(features) > LARGEST or cost > COST or size > BYTES:
        return "with so many features it would take long; “featx cv --shots 1,2,5,10,20,all” does it"
    return ""


def measures_of(history: dict[str, list[float]]) -> dict[str, dict[str, list[Any]]]:
    """Histories by what is drawn together: ``loss`` with ``val_loss``, ``accuracy`` with ``val_accuracy``."""
    drawn: dict[str, dict[str, list[Any]]] = {}
    for name, values in history.items():
        drawn.setdefault(name.removeprefix("val_"), {})[name] = values
    return drawn
