"""Training of a Keras model that gives logits: shuffled batches, validation, and checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from featx._internal.progress import Progress, silent
from featx.errors import TrainingError
from featx.heads import Groups, OnEpoch, Stopping, run_epochs
from featx.tail.batches import in_batches, of_epoch, read_ahead
from featx.tail.checkpoints import Checkpoints, State

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)


class TailTraining:
    """Training of a compiled Keras model, epoch by epoch.

    The order of an epoch, and the views drawn in it, depend on the seed and the epoch's number only: so a training that
    was interrupted ends with the very weights that it would have had without.

    Args:
        model: compiled for targets that are shares of classes, with a metric ``accuracy``.
        X: training rows, or something that has them anew for each epoch; see :class:`featx.tail.TailHead`.
        labels: numbers of their classes, int ``(n,)``.
        n_classes: number of classes.
        groups: groups of rows, of each of which an epoch draws one.
        batch_size: rows per step. Rows that fill no batch are left out, other ones in each epoch.
        validation: ``(X, labels)``, or None.
        stopping: when to stop, and which epoch to keep.
        random_state: seed of order and draws.

    Attributes:
        state: state of the training.
        steps: steps per epoch.
    """

    def __init__(
        self,
        model: Any,
        X: Any,
        labels: NDArray[np.int64],
        *,
        n_classes: int,
        groups: Groups,
        batch_size: int,
        validation: tuple[Any, NDArray[np.int64]] | None,
        stopping: Stopping,
        random_state: int,
    ) -> None:
        self._model = model
        self._X = X
        self._labels = labels
        self._groups = groups
        self._batch_size = batch_size
        self._validation = validation
        self._stopping = stopping
        self._random_state = random_state
        self._progress: Progress = silent
        self._targets = np.eye(n_classes, dtype=np.float32)
        self.steps = len(groups) // batch_size
        self.state = State()

    def begin(self, state: State | None, measured: bool) -> None:
        """Go on from a state, or start: then the model counts as the best so far if its head was fitted before."""
        self._model.optimizer.build(self._model.trainable_variables)  # else the first step is traced twice
        if state is not None:
            _assign(self._model.variables, state.variables)
            _assign(self._model.optimizer.variables, state.optimizer)
            self.state = state
            logger.info("going on after epoch %d", state.epoch)
        elif measured and self._validation is not None:
            loss, accuracy = self._measure()
            self.state.start = loss, accuracy
            self.state.compare({"val_loss": loss, "val_accuracy": accuracy}, self._stopping, self.weights)

    def run(self, progress: Progress, on_epoch: OnEpoch | None, checkpoints: Checkpoints | None) -> str:
        """Train to the end, and put the weights that are to be kept into the model.

        Returns:
            why it ended; see :func:`featx.heads.run_epochs`.

        Raises:
            TrainingError: the loss is no number before there is an epoch to keep.
        """
        self._progress = progress

        def after(epoch: int, logs: dict[str, float]) -> bool | None:
            stop = None if on_epoch is None else on_epoch(epoch, logs)
            if checkpoints is not None:
                self._save(checkpoints)
            return stop

        stopped = run_epochs(self, self.state, self._stopping, after)
        if stopped == "nan":
            self._require_an_epoch_to_keep()
        self._model.set_weights(self.state.best_weights)
        return stopped

    def train(self, epoch: int) -> dict[str, float]:
        """Loss and accuracy of training for an epoch; ends early at a loss that is not a number."""
        rng = np.random.default_rng([self._random_state, epoch])
        rows = self.steps * self._batch_size
        order = rng.permutation(self._groups.draw(rng))[:rows]
        batches = np.split(order, self.steps)
        done, total = (epoch - 1) * rows, self._stopping.epochs * rows
        self._model.reset_metrics()
        self._progress("training", done, total)
        read = read_ahead(of_epoch(self._X, epoch), batches)
        for step, (X, batch) in enumerate(zip(read, batches, strict=True), 1):
            logs = self._model.train_on_batch(X, self._targets[self._labels[batch]], return_dict=True)
            self._progress("training", done + step * self._batch_size, total)
            if not np.isfinite(logs["loss"]):
                break
        return {"loss": float(logs["loss"]), "accuracy": float(logs["accuracy"])}

    def validate(self) -> dict[str, float]:
        """Loss and accuracy on the validation rows, if there are any; a ``loss`` that is not finite ends the training.

        Without such rows the first batch is looked at: what the last step has spoilt no training loss shows.
        """
        loss, accuracy = self._measure()
        if not np.isfinite(loss):
            return {"loss": loss}
        return {} if self._validation is None else {"val_loss": loss, "val_accuracy": accuracy}

    def weights(self) -> list[NDArray[Any]]:
        """Copies of the model's weights."""
        return [np.array(variable) for variable in self._model.weights]

    def _measure(self) -> tuple[float, float]:
        """Mean cross-entropy and accuracy on the validation rows, or else on the first batch of the training rows."""
        X, labels = self._validation or (self._X, self._labels)
        if self._validation is None:
            X = of_epoch(X, 0)[: self._batch_size]
            labels = labels[: self._batch_size]
        logits = np.concatenate(list(in_batches(self._model, X, self._batch_size))).astype(np.float64)
        with np.errstate(invalid="ignore"):  # what is not finite is seen to by the caller
            loss = float(np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]))
        return loss, float(np.mean(logits.argmax(axis=1) == labels))

    def _save(self, checkpoints: Checkpoints) -> None:
        """Write the history, and the state if so much time has gone by; after the last epoch nobody needs it."""
        checkpoints.log(self.state.history)
        if checkpoints.due() and self.state.epoch < self._stopping.epochs:
            self.state.variables = [np.array(v) for v in self._model.variables]
            self.state.optimizer = [np.array(v) for v in self._model.optimizer.variables]
            checkpoints.save(self.state)

    def _require_an_epoch_to_keep(self) -> None:
        epoch, kept = self.state.epoch + 1, self.state.best_epoch
        what = f"the loss became not a number in epoch {epoch}"
        if not self.state.best_weights or epoch == 1:
            raise TrainingError(f"{what}; try a lower `learning_rate`")
        logger.warning("%s: training stopped, and epoch %d is kept; try a lower `learning_rate`", what, kept)


@contextmanager
def heard_by(callback: Any, model: Any, on_epoch: OnEpoch | None) -> Iterator[OnEpoch | None]:
    """Function to call after each epoch: ``on_epoch``, and a Keras callback if there is one."""
    if callback is None:
        yield on_epoch
        return
    callback.set_model(model)
    callback.on_train_begin()

    def tell(epoch: int, logs: dict[str, float]) -> bool | None:
        callback.on_epoch_end(epoch - 1, dict(logs))
        return None if on_epoch is None else on_epoch(epoch, logs)

    yield tell
    callback.on_train_end()


def _assign(variables: Any, values: list[NDArray[Any]]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
