"""The training loop that heads and tails share: when it stops, and which epoch it keeps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from featx.heads import Stopping, TrainingRecord, run_epochs


class Scripted:
    """A network whose measures are written down before; its weights are the number of the epoch."""

    def __init__(self, accuracies: list[float], losses: dict[int, float] | None = None) -> None:
        self.accuracies, self.losses, self.epoch = accuracies, losses or {}, 0

    def train(self, epoch: int) -> dict[str, float]:
        self.epoch = epoch
        return {"loss": self.losses.get(epoch, 1.0), "accuracy": 0.5}

    def validate(self) -> dict[str, float]:
        return {"val_loss": 1 / self.epoch, "val_accuracy": self.accuracies[self.epoch - 1]}

    def weights(self) -> list[np.ndarray]:
        return [np.array(self.epoch)]


@pytest.mark.parametrize(
    ("accuracies", "stopping", "why", "epochs", "best"),
    [
        ([0.1, 0.3, 0.2, 0.2, 0.9], Stopping(9, 2, True), "patience", 4, 2),
        ([0.1, 0.3, 0.3, 0.2, 0.2], Stopping(9, 2, True), "patience", 5, 3),  # among equals the lowest loss
        ([0.3, 0.2, 0.1], Stopping(3, 9, True), "epochs", 3, 1),
        ([0.3, 0.2, 0.1], Stopping(3, 1, False), "epochs", 3, 3),
    ],
)
def test_when_it_stops_and_what_it_keeps(
    accuracies: list[float], stopping: Stopping, why: str, epochs: int, best: int
) -> None:
    record = TrainingRecord()
    assert run_epochs(Scripted(accuracies), record, stopping) == why
    assert (record.epoch, record.best_epoch, record.best_weights) == (epochs, best, [best])
    assert list(record.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert record.history["val_accuracy"] == accuracies[:epochs]
    assert len(record.seconds) == epochs


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_an_epoch_whose_loss_is_no_number_is_not_counted(loss: float) -> None:
    record, seen = TrainingRecord(), list[int]()
    network = Scripted([0.1, 0.2, 0.9], {3: loss})
    assert run_epochs(network, record, Stopping(9, 9, True), lambda epoch, logs: seen.append(epoch)) == "nan"
    assert (record.epoch, record.best_epoch, seen, len(record.history["loss"])) == (2, 2, [1, 2], 2)


def test_it_ends_when_it_is_told_to_and_goes_on_from_there() -> None:
    record = TrainingRecord()
    network = Scripted([0.1, 0.4, 0.3, 0.2, 0.2])
    stopping = Stopping(9, 3, True)
    assert run_epochs(network, record, stopping, lambda epoch, logs: epoch == 3) == "on_epoch"
    assert (record.epoch, record.best_epoch) == (3, 2)
    assert run_epochs(network, record, stopping) == "patience"
    assert run_epochs(network, record, stopping) == "patience"  # at once
    assert (record.epoch, record.best_weights) == (5, [2])
