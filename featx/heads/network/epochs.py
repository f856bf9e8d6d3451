"""Training in epochs: batches are put together, mixed, trained on and measured; the best epoch's weights are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from featx._internal.progress import Progress
from featx.heads.network.keras_model import PREDICT_ROWS, Trainer
from featx.heads.network.rows import Buffer, Reader

if TYPE_CHECKING:
    from numpy.typing import NDArray

OnEpoch = Callable[[int, dict[str, float]], bool | None]


@dataclass(frozen=True)
class Course:
    """How to train: epochs at most, patience in epochs, and what becomes of targets and rows."""

    epochs: int
    patience: int
    label_smoothing: float
    mixup: float


@dataclass(frozen=True)
class Trained:
    """What came of it: weights in Keras's order, a list per measure, and the epoch (from 1) of the weights."""

    weights: list[NDArray[np.float32]]
    history: dict[str, list[float]]
    best_epoch: int


class Batches:
    """Batches for a trainer, put together in as many steps as it runs in one call.

    Args:
        trainer: of batches of this size.
        batch_size, width: of a batch.
        labels: classes' numbers of all rows, ``(n,)``.
        classes: how many.
        course: what becomes of rows and targets.
        rng: of mixing.
    """

    def __init__(
        self,
        trainer: Trainer,
        batch_size: int,
        width: int,
        labels: NDArray[np.int64],
        classes: int,
        course: Course,
        rng: np.random.Generator,
    ) -> None:
        self._trainer, self._labels, self._rng, self._mixup = trainer, labels, rng, course.mixup
        self._rows = np.zeros((trainer.steps, batch_size, width), np.float32)
        self._targets = np.zeros((trainer.steps, batch_size, classes), np.float32)
        # Szegedy et al. 2016: the true class keeps what the others, and it too, do not share out
        self._target_of = np.eye(classes, dtype=np.float32) * (1 - course.label_smoothing)
        self._target_of += course.label_smoothing / classes

    def epoch(self, buffers: Iterator[Buffer]) -> tuple[float, float]:
        """Train on buffers up to the epoch's last. Rows that fill no batch are left out, other ones each time.

        Returns:
            mean loss and accuracy.
        """
        batch_size = self._rows.shape[1]
        rows, targets = self._rows.reshape(-1, self._rows.shape[2]), self._targets.reshape(-1, self._targets.shape[2])
        told, filled = [], 0
        for buffer in buffers:
            for some in _pieces(buffer.order, len(rows) - filled, len(rows)):
                to = slice(filled, filled + len(some))
                np.take(buffer.rows, some, axis=0, out=rows[to], mode="clip")
                np.take(self._target_of, self._labels[buffer.numbers[some]], axis=0, out=targets[to], mode="clip")
                filled = to.stop
                if filled == len(rows):
                    told.append(self._run(self._trainer.steps))
                    filled = 0
            if buffer.ends_epoch:
                break
        if filled >= batch_size:
            told.append(self._run(filled // batch_size))
        loss, accuracy, _ = np.average(told, axis=0, weights=[steps for _, _, steps in told])
        return float(loss), float(accuracy)

    def _run(self, steps: int) -> tuple[float, float, int]:
        if self._mixup:
            for rows, targets in zip(self._rows[:steps], self._targets[:steps], strict=True):
                self._mix(rows, targets)
        return *self._trainer.train(self._rows, self._targets, steps), steps

    def _mix(self, rows: NDArray[np.float32], targets: NDArray[np.float32]) -> None:
        """Mixup (Zhang et al. 2018), in place: each row with another of the batch, each by a share of its own."""
        order = self._rng.permutation(len(rows))
        share = self._rng.beta(self._mixup, self._mixup, (len(rows), 1)).astype(np.float32)
        for values in (rows, targets):
            others = values[order]
            others -= values
            others *= 1 - share
            values += others


class Validation:
    """Rows held out, measured after each epoch; read anew each time unless they fit into memory.

    Args:
        reader: standardises by the training rows' statistics.
        labels: classes' numbers, ``(n,)``.
    """

    def __init__(self, reader: Reader, labels: NDArray[np.int64]) -> None:
        self._reader, self._labels = reader, labels
        self._kept = np.concatenate([rows for _, rows in reader.chunks()]) if reader.fits() else None

    def measure(self, trainer: Trainer) -> tuple[float, float]:
        """Mean cross-entropy, of labels that are not smoothed, and accuracy."""
        loss, right = 0.0, 0
        for start, count, block in self._blocks():
            logits = trainer.logits(block[:count]).astype(np.float64)
            labels = self._labels[start : start + count]
            loss += float((logsumexp(logits, axis=1) - logits[np.arange(count), labels]).sum())
            right += int((logits.argmax(axis=1) == labels).sum())
        return loss / len(self._labels), right / len(self._labels)

    def _blocks(self) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        if self._kept is None:
            yield from self._reader.blocks(PREDICT_ROWS)
            return
        for start in range(0, len(self._kept), PREDICT_ROWS):
            some = self._kept[start : start + PREDICT_ROWS]
            yield start, len(some), some


class _Best:
    """The best epoch so far: the one of the highest validation accuracy, among equals the one of the lowest loss."""

    def __init__(self) -> None:
        self.measured = -1.0, 0.0
        self.epoch, self.waited = 0, 0
        self.weights: list[NDArray[np.float32]] = []

    def look(self, epoch: int, loss: float, accuracy: float, trainer: Trainer) -> None:
        if (accuracy, -loss) > self.measured:
            self.measured, self.epoch, self.waited, self.weights = (accuracy, -loss), epoch, 0, trainer.weights()
        else:
            self.waited += 1


def train(
    trainer: Trainer,
    batches: Batches,
    buffers: Iterator[Buffer],
    validation: Validation | None,
    course: Course,
    progress: Progress | None,
    on_epoch: OnEpoch | None,
) -> Trained:
    """Train until the epochs or the patience are used up, the loss is no number, or ``on_epoch`` says so."""
    history: dict[str, list[float]] = {}
    best, stop, epoch = _Best(), False, 0
    _tell(progress, 0, course.epochs)
    while epoch < course.epochs and not stop:
        epoch += 1
        loss, accuracy = batches.epoch(buffers)
        told = {"accuracy": accuracy, "loss": loss}
        if validation is not None:
            loss, accuracy = validation.measure(trainer)
            told |= {"val_accuracy": accuracy, "val_loss": loss}
            best.look(epoch, loss, accuracy, trainer)
        for name, value in told.items():
            history.setdefault(name, []).append(value)
        _tell(progress, epoch, course.epochs)
        stop = not np.isfinite(told["loss"]) or (validation is not None and best.waited >= course.patience)
        stop |= bool(on_epoch is not None and on_epoch(epoch, dict(told)))
    return Trained(best.weights or trainer.weights(), history, best.epoch or epoch)


def _tell(progress: Progress | None, done: int, epochs: int) -> None:
    if progress is not None:
        progress("training", done, epochs)


def _pieces(order: NDArray[Any], first: int, most: int) -> Iterator[NDArray[Any]]:
    """``order`` in pieces: ``first`` long, then ``most``, then what is left."""
    if len(order):
        yield order[:first]
    for start in range(first, len(order), most):
        yield order[start : start + most]
