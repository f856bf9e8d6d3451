"""The record of a fitting: on what a classifier was trained, how, and how it did."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

RENAMED = {"features": "features_path"}  # as files and the command line name it, and as Python does
ALWAYS_SAID = ("validation_accuracy", "epochs", "gradient_norm")  # even where they are null


@dataclass(frozen=True)
class Fitting:
    """Record of how a classifier was fitted, and how it did.

    Attributes:
        head: name of the head.
        features_path: absolute path of the feature file it was fitted on; ``dataset`` is the name of its data set.
        train_rows: pictures it was trained on; ``train_views`` counts the variations of them that were trained on too.
        validation_rows: pictures held out to choose by, or, after a cross-validation, held out in turn.
        train_accuracy: accuracy on the training pictures, or on some of them if they are many.
        validation_accuracy: accuracy on the pictures held out; None if there were none.
        seconds: duration of the fitting, without that of the features.
        random_state: seed of draws and of the head.
        refitted: whether it was fitted again on all pictures, the ones held out too, once these had been measured.
        left_out: pictures that were not trained on because they validate or test too.
        temperature: divisor of the log probabilities; 1 unless they were calibrated.
        epochs: epochs trained; None for heads that have none.
        gradient_norm: norm of the gradient where the solver of a linear head stopped; None for other heads.
        history: for each measure its value in each epoch; empty for heads without epochs.
        folds: folds of the cross-validation that chose ``params``; None if there was none.
        network, cut, unfreeze: of a tail: the network's name, the layer at which it was cut, and what was to train.
        live_augment: of a tail: whether pictures were decoded and varied anew in each epoch.
        best_epoch, stopped: of a tail: the epoch kept, and why training ended (``epochs``, ``patience`` or ``nan``).
        start_validation_accuracy: of a tail: validation accuracy before the first epoch.
        seconds_per_epoch, features_seconds: of fine-tuning: median duration of an epoch, and that of the features.

    Example:
        >>> Fitting("logreg", train_rows=40, train_accuracy=1.0, validation_rows=10, validation_accuracy=0.9)
        Fitting(head='logreg', train_rows=40, validation_rows=10, train_accuracy=1.0, validation_accuracy=0.9)
    """

    head: str
    features_path: str = ""
    dataset: str = ""
    train_rows: int = 0
    train_views: int = 0
    validation_rows: int = 0
    train_accuracy: float = 0.0
    validation_accuracy: float | None = None
    seconds: float = 0.0
    random_state: int = 0
    refitted: bool = False
    left_out: int = 0
    temperature: float = 1.0
    epochs: int | None = None
    gradient_norm: float | None = None
    history: dict[str, list[float]] = field(default_factory=dict)
    folds: int | None = None
    params: dict[str, Any] | None = None
    network: str | None = None
    cut: str | None = None
    unfreeze: str | None = None
    live_augment: bool | None = None
    best_epoch: int | None = None
    stopped: str | None = None
    start_validation_accuracy: float | None = None
    seconds_per_epoch: float | None = None
    features_seconds: float | None = None

    def __repr__(self) -> str:
        shown = ("head", "train_rows", "validation_rows", "train_accuracy", "validation_accuracy")
        return f"Fitting({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def to_json(self) -> dict[str, Any]:
        """JSON values by the names that files and the command line have; without what does not apply."""
        names = {name: key for key, name in RENAMED.items()}
        values = asdict(self).items()
        return {names.get(name, name): v for name, v in values if v not in (None, {}) or name in ALWAYS_SAID}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Fitting:
        """The record that :meth:`to_json` gave, perhaps of another version: names that are not known are left out."""
        named = {RENAMED.get(name, name): value for name, value in values.items()}
        return cls(**{f.name: named[f.name] for f in fields(cls) if f.name in named})
