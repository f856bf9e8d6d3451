"""The training loop: epochs, patience, the best epoch, and when to stop. What an epoch is, its caller says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from featx.heads.base import OnEpoch

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Trainable(Protocol):
    """Network that is trained epoch by epoch."""

    def train(self, epoch: int) -> dict[str, float]:
        """``loss`` and ``accuracy`` of training for an epoch, counted from 1."""

    def validate(self) -> dict[str, float]:
        """``val_loss`` and ``val_accuracy``, none without validation rows; a ``loss`` replaces that of training."""

    def weights(self) -> list[NDArray[Any]]:
        """Copies of the weights."""


@dataclass(frozen=True)
class Stopping:
    """When to stop, and which epoch to keep.

    Attributes:
        epochs: number of epochs at most.
        patience: epochs without a better one before stopping.
        keep_best: keep the epoch of the highest validation accuracy, among equals that of the lowest loss; else the
            last, and patience is none.
    """

    epochs: int
    patience: int
    keep_best: bool


@dataclass
class TrainingRecord:
    """Record of a training so far.

    Attributes:
        epoch: number of epochs done.
        history: a list per measure, a value per epoch.
        seconds: seconds of training in each epoch, without validation.
        best: validation accuracy and negative loss of the best epoch.
        best_epoch: number of the best epoch, from 1; 0 if nothing was better than what training started from.
        best_weights: weights of the best epoch.
    """

    epoch: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    best: tuple[float, float] = (-1.0, 0.0)
    best_epoch: int = 0
    best_weights: list[NDArray[Any]] = field(default_factory=list)

    def add(self, logs: dict[str, float], seconds: float) -> None:
        """Add an epoch's measures."""
        self.epoch += 1
        self.seconds.append(seconds)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def compare(self, logs: dict[str, float], stopping: Stopping, weights: Callable[[], list[NDArray[Any]]]) -> None:
        """Keep this epoch's weights if it is the best, or if it is the last that is to be kept."""
        measured = logs.get("val_accuracy", 0.0), -logs.get("val_loss", 0.0)
        if not stopping.keep_best or measured > self.best:
            self.best, self.best_epoch = measured, self.epoch
            self.best_weights = weights()


def run_epochs(network: Trainable, record: TrainingRecord, stopping: Stopping, on_epoch: OnEpoch | None = None) -> str:
    """Train from where the record is; returns why it ended.

    Args:
        network: network to train.
        record: record to go on from, and to add each epoch to.
        stopping: when to stop, and which epoch to keep.
        on_epoch: called after each epoch; see :meth:`featx.heads.Head.fit`.

    Returns:
        ``epochs`` or ``patience`` that were used up; ``on_epoch``, which said so; or ``nan``: the loss of the epoch
        after the record's last is not finite.
    """
    while record.epoch < stopping.epochs:
        if stopping.keep_best and record.epoch - record.best_epoch >= stopping.patience:
            return "patience"
        started = time.perf_counter()
        logs = network.train(record.epoch + 1)
        seconds = time.perf_counter() - started
        logs |= network.validate()
        if not np.isfinite(logs["loss"]):
            return "nan"
        record.add(logs, seconds)
        record.compare(logs, stopping, network.weights)
        if on_epoch is not None and on_epoch(record.epoch, dict(logs)):
            return "on_epoch"
    return "epochs"
