"""The course of a training: epochs of shuffled batches, validation, the best epoch, checkpoints, and when to stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from featx._internal.progress import Progress
from featx.errors import TrainingError
from featx.heads import Groups
from featx.tail.batches import in_batches, read_ahead
from featx.tail.checkpoints import Checkpoints, State

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

OnEpoch = Callable[[int, dict[str, float]], None]


class Course:
    """One training of a compiled Keras model that gives logits.

    The order of an epoch, and the views drawn in it, depend on the seed and the epoch's number only: so a training that
    was interrupted ends with the very weights that it would have had without.

    Args:
        model: compiled for targets that are shares of classes, with a metric ``accuracy``.
        X: training rows, or something that has them anew for each epoch; see :class:`featx.tail.TailHead`.
        labels: their classes, int ``(n,)``, of ``n_classes``.
        groups: draws the rows of an epoch.
        batch_size: rows a step. Rows that fill no batch are left out, other ones in each epoch.
        validation: ``(X, labels)``, or None.
        checkpoints: or None.
        random_state: seed of order and draws.
        keep_best: keep the epoch that is the best on the validation rows, else the last.
    """

    def __init__(
        self,
        model: Any,
        X: Any,
        labels: NDArray[np.int64],
        n_classes: int,
        groups: Groups,
        batch_size: int,
        validation: tuple[Any, NDArray[np.int64]] | None,
        checkpoints: Checkpoints | None,
        random_state: int,
        keep_best: bool,
    ) -> None:
        self._model, self._X, self._labels, self._groups = model, X, labels, groups
        self._batch_size, self._validation, self._checkpoints = batch_size, validation, checkpoints
        self._seed, self._keep_best = random_state, keep_best
        self._targets = np.eye(n_classes, dtype=np.float32)
        self.steps = len(groups) // batch_size
        self.state = State()

    def begin(self, state: State | None, measured: bool) -> None:
        """Go on from a state, or start: then what there is counts as the best so far if the head was fitted before."""
        self._model.optimizer.build(self._model.trainable_variables)  # else the first step is traced twice
        if state is not None:
            _assign(self._model.variables, state.variables)
            _assign(self._model.optimizer.variables, state.optimizer)
            self.state = state
            logger.info("going on after epoch %d", state.epoch)
        elif measured and self._validation is not None:
            self.state.start = self._measure()
            self._look(*self.state.start)

    def run(self, epochs: int, patience: int, progress: Progress, on_epoch: OnEpoch | None) -> str:
        """Train until the epochs or the patience are used up, or the loss is no number; says which."""
        state, rows = self.state, self.steps * self._batch_size
        while state.epoch < epochs:
            if self._keep_best and state.epoch - state.best_epoch >= patience:
                return "patience"
            done = state.epoch * rows
            started = time.perf_counter()
            told = self._epoch(state.epoch + 1, lambda n: progress("training", done + n, epochs * rows))  # noqa: B023
            seconds = time.perf_counter() - started
            loss, accuracy = self._measure()
            if not np.isfinite([told["loss"], loss]).all():
                self._stop_at_nan()
                return "nan"
            state.epoch += 1
            state.seconds.append(seconds)
            if self._validation is not None:
                told |= {"val_loss": loss, "val_accuracy": accuracy}
            for name, value in told.items():
                state.history.setdefault(name, []).append(value)
            self._look(loss, accuracy)
            if on_epoch is not None:
                on_epoch(state.epoch, told)
            self._keep(state.epoch == epochs)
        return "epochs"

    def finish(self) -> None:
        """Put the best epoch's weights into the model."""
        self._model.set_weights(self.state.best_weights)

    def _epoch(self, number: int, tell: Callable[[int], None]) -> dict[str, float]:
        rng = np.random.default_rng([self._seed, number])
        order = rng.permutation(self._groups.draw(rng))[: self.steps * self._batch_size]
        batches = np.split(order, self.steps)
        X = self._X.of_epoch(number) if hasattr(self._X, "of_epoch") else self._X
        self._model.reset_metrics()
        tell(0)
        for step, (rows, batch) in enumerate(zip(read_ahead(X, batches), batches, strict=True), 1):
            told = self._model.train_on_batch(rows, self._targets[self._labels[batch]], return_dict=True)
            tell(step * self._batch_size)
            if not np.isfinite(told["loss"]):
                break
        return {"loss": float(told["loss"]), "accuracy": float(told["accuracy"])}

    def _measure(self) -> tuple[float, float]:
        """Mean cross-entropy and accuracy on the validation rows, or else on the first batch of the training rows."""
        X, labels = self._validation or (self._X, self._labels)
        if self._validation is None:
            X = (X.of_epoch(0) if hasattr(X, "of_epoch") else X)[: self._batch_size]
            labels = labels[: self._batch_size]
        logits = np.concatenate(list(in_batches(self._model, X, self._batch_size))).astype(np.float64)
        with np.errstate(invalid="ignore"):  # what is not finite is seen to by the caller
            loss = float(np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]))
        return loss, float(np.mean(logits.argmax(axis=1) == labels))

    def _look(self, loss: float, accuracy: float) -> None:
        """Keep the weights if this epoch is the best, or if it is the last that is to be kept."""
        state = self.state
        if not self._keep_best or (accuracy, -loss) > state.best:
            state.best, state.best_epoch = (accuracy, -loss), state.epoch
            state.best_weights = [np.array(v) for v in self._model.weights]

    def _keep(self, last: bool) -> None:
        if self._checkpoints is None:
            return
        self._checkpoints.log(self.state.history)
        if self._checkpoints.due() and not last:
            self.state.variables = [np.array(v) for v in self._model.variables]
            self.state.optimizer = [np.array(v) for v in self._model.optimizer.variables]
            self._checkpoints.save(self.state)

    def _stop_at_nan(self) -> None:
        epoch = self.state.epoch + 1
        what = f"the loss became not a number in epoch {epoch}"
        if not self.state.best_weights or epoch == 1:
            raise TrainingError(f"{what}; try a lower --learning-rate")
        logger.warning(
            "%s: training stopped, and epoch %d is kept; try a lower --learning-rate", what, self.state.best_epoch
        )


def _assign(variables: Any, values: list[NDArray[Any]]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
