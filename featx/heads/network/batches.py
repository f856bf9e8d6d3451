"""Batches of a network's training: put together, mixed, trained on; and the rows that it is validated on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from featx.heads.network.rows import Buffer, Reader
from featx.heads.network.trainer import PREDICT_ROWS, Trainer

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Batches:
    """Batches for a trainer, put together in as many steps as it runs in one call.

    Args:
        trainer: knows the architecture and the size of a batch.
        labels: numbers of the rows' classes, ``(n,)``.
        label_smoothing: share of each target that is spread over all classes.
        mixup: alpha of the Beta distribution of mixup's shares; 0 is off.
        rng: generator that mixing draws from.
    """

    def __init__(
        self,
        trainer: Trainer,
        labels: NDArray[np.int64],
        label_smoothing: float,
        mixup: float,
        rng: np.random.Generator,
    ) -> None:
        self._trainer = trainer
        self._labels = labels
        self._mixup = mixup
        self._rng = rng
        width, classes = trainer.architecture.width, trainer.architecture.classes
        self._rows = np.zeros((trainer.steps, trainer.batch_size, width), np.float32)
        self._targets = np.zeros((trainer.steps, trainer.batch_size, classes), np.float32)
        # Szegedy et al. 2016: the true class keeps what the others, and it too, do not share out
        self._target_of = np.eye(classes, dtype=np.float32) * (1 - label_smoothing)
        self._target_of += label_smoothing / classes

    def epoch(self, buffers: Iterator[Buffer]) -> tuple[float, float]:
        """Train on buffers up to the epoch's last. Rows that fill no batch are left out, other ones each time.

        Returns:
            mean loss and accuracy.
        """
        batch_size = self._rows.shape[1]
        rows, targets = self._rows.reshape(-1, self._rows.shape[2]), self._targets.reshape(-1, self._targets.shape[2])
        calls: list[tuple[float, float, int]] = []  # loss, accuracy, steps
        filled = 0
        for buffer in buffers:
            for piece in _pieces(buffer.order, len(rows) - filled, len(rows)):
                to = slice(filled, filled + len(piece))
                np.take(buffer.rows, piece, axis=0, out=rows[to], mode="clip")
                np.take(self._target_of, self._labels[buffer.numbers[piece]], axis=0, out=targets[to], mode="clip")
                filled = to.stop
                if filled == len(rows):
                    calls.append(self._run(self._trainer.steps))
                    filled = 0
            if buffer.ends_epoch:
                break
        if filled >= batch_size:
            calls.append(self._run(filled // batch_size))
        loss, accuracy, _ = np.average(calls, axis=0, weights=[steps for _, _, steps in calls])
        return float(loss), float(accuracy)

    def _run(self, steps: int) -> tuple[float, float, int]:
        if self._mixup:
            for rows, targets in zip(self._rows[:steps], self._targets[:steps], strict=True):
                self._mix(rows, targets)
        return *self._trainer.train(self._rows, self._targets, steps), steps

    def _mix(self, rows: NDArray[np.float32], targets: NDArray[np.float32]) -> None:
        """Mixup (Zhang et al. 2018), in place: each row with another of the batch, each by a share drawn for it."""
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
        labels: numbers of the rows' classes, ``(n,)``.
    """

    def __init__(self, reader: Reader, labels: NDArray[np.int64]) -> None:
        self._reader = reader
        self._labels = labels
        self._in_memory = np.concatenate([rows for _, rows in reader.chunks()]) if reader.fits() else None

    def measure(self, trainer: Trainer) -> tuple[float, float]:
        """Mean cross-entropy, of labels that are not smoothed, and accuracy."""
        loss, right = 0.0, 0
        for start, count, block in self._blocks():
            logits = trainer.logits(block[:count]).astype(np.float64)
            labels = self._labels[start : start + count]
            with np.errstate(invalid="ignore"):  # a loss that is no number ends the training, which says so
                loss += float((logsumexp(logits, axis=1) - logits[np.arange(count), labels]).sum())
            right += int((logits.argmax(axis=1) == labels).sum())
        return loss / len(self._labels), right / len(self._labels)

    def _blocks(self) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        if self._in_memory is None:
            yield from self._reader.blocks(PREDICT_ROWS)
            return
        for start in range(0, len(self._in_memory), PREDICT_ROWS):
            block = self._in_memory[start : start + PREDICT_ROWS]
            yield start, len(block), block


class NetworkTraining:
    """Training of a head's network, epoch by epoch: see :class:`featx.heads.training_loop.Trainable`.

    Args:
        trainer: started with initial weights.
        batches: for the trainer.
        buffers: shuffled rows, epoch after epoch.
        validation: rows held out, or None.
    """

    def __init__(
        self, trainer: Trainer, batches: Batches, buffers: Iterator[Buffer], validation: Validation | None
    ) -> None:
        self._trainer = trainer
        self._batches = batches
        self._buffers = buffers
        self._validation = validation

    def train(self, epoch: int) -> dict[str, float]:
        """Loss and accuracy in training, under dropout and mixup."""
        loss, accuracy = self._batches.epoch(self._buffers)
        return {"loss": loss, "accuracy": accuracy}

    def validate(self) -> dict[str, float]:
        """Loss and accuracy on the validation rows, if there are any."""
        if self._validation is None:
            return {}
        loss, accuracy = self._validation.measure(self._trainer)
        return {"val_loss": loss, "val_accuracy": accuracy}

    def weights(self) -> list[NDArray[Any]]:
        """Copies of the weights, in Keras's order."""
        return self._trainer.weights()


def _pieces(order: NDArray[Any], first: int, most: int) -> Iterator[NDArray[Any]]:
    """``order`` in pieces: ``first`` long, then ``most``, then what is left."""
    if len(order):
        yield order[:first]
    for start in range(first, len(order), most):
        yield order[start : start + most]
