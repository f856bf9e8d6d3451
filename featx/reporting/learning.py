"""Learning of a classifier: measures by epoch, and accuracy by the number of training pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featx._internal.progress import Progress, silent
from featx.cache import Features
from featx.classifier import Classifier
from featx.errors import TrainingError
from featx.heads import Head
from featx.selection.few_shot import Shots, few_shot

SHOTS = (1, 2, 5, 10, 20, 50, None)
REPEATS = 3
# Up to these, the curve of pictures per class is quick
LARGEST = 20_000  # rows
COST = 2e8  # rows x columns x classes: about a minute
BYTES = 2**30  # of the feature file, which is read for each point of the curve


@dataclass(frozen=True)
class Learning:
    """Curves of learning.

    Attributes:
        history: list per measure of a value per epoch; empty for heads without epochs.
        shots: accuracy by training pictures per class; empty if that was not measured.
        note: head by which ``shots`` was measured, or the reason why it was not.
    """

    history: dict[str, list[float]]
    shots: list[Shots]
    note: str

    @property
    def epochs(self) -> list[tuple[float, ...]]:
        """Values of all measures, by epoch."""
        return list(zip(*self.history.values(), strict=False))


def learning_of(classifier: Classifier, features: Features, progress: Progress = silent) -> Learning:
    """Curves of a classifier on the features that it was fitted on."""
    shots, note = _shots(classifier, features, progress)
    return Learning(classifier.fitting.history, shots, note)


def _shots(classifier: Classifier, features: Features, progress: Progress) -> tuple[list[Shots], str]:
    obstacle = _obstacle(classifier, features)
    if obstacle:
        return [], f"Accuracy by the number of training pictures was not measured: {obstacle}."
    head: Head | str = classifier.head
    measured_by = "this head"
    if classifier.head.trains_in_epochs:
        head = "logreg"
        measured_by = "logistic regression on the same features, which is quicker than this head"
    most = max(np.bincount(features.y[np.isin(features.ids, classifier.train_ids)]).tolist())
    shots = [number for number in SHOTS if number is None or number < most]
    try:
        curve = few_shot(features, head, shots=shots, repeats=REPEATS, progress=progress)
    except TrainingError as error:
        return [], f"Accuracy by the number of training pictures was not measured: {error}."
    return curve, f"Measured by {measured_by}: mean and 95 % interval of {REPEATS} draws, on validation rows."


def _obstacle(classifier: Classifier, features: Features) -> str:
    """Reason why the curve would not be quick or not make sense; empty if there is none."""
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


def histories_of(history: dict[str, list[float]]) -> dict[str, dict[str, list[float]]]:
    """Parts of a history that are drawn together: ``loss`` with ``val_loss``, ``accuracy`` with ``val_accuracy``."""
    histories: dict[str, dict[str, list[float]]] = {}
    for name, values in history.items():
        histories.setdefault(name.removeprefix("val_"), {})[name] = values
    return histories
