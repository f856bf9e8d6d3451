"""Compiled training of a head's network, used again by the next fit of the same architecture.

Tracing a network takes a second, training it on a few hundred rows hardly more than that. So what has been compiled is
kept, by architecture: another fit puts its own weights, rates and seeds into it. Several steps run in one compiled
call, because on small networks a call costs as much as a step.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from featx._internal.keras import load_keras
from featx._internal.memory import released_by_clear_memory
from featx.heads.network.architecture import Architecture

if TYPE_CHECKING:
    from numpy.typing import NDArray

PREDICT_ROWS = 128  # rows a block; the last is filled up, so that a row gets the same figures in any company
CALL_BYTES = 4 << 20  # of float32 rows a compiled call, which then runs as many steps as they make
MOST_STEPS = 32  # a compiled call
KEPT = 8  # compiled trainings that wait to be used again, at most
KEPT_BYTES = 512 << 20  # of their weights and Adam's moments


@dataclass(frozen=True)
class Settings:
    """What may differ between two fits that share a compiled training."""

    learning_rate: float
    weight_decay: float
    dropout: float
    seed: int


class Trainer:
    """Compiled training of one architecture in batches of one size. Not for two threads at once.

    Attributes:
        steps: how many a call runs at most.
    """

    def __init__(self, architecture: Architecture, batch_size: int, drops: bool, decays: bool) -> None:
        self.steps = min(max(CALL_BYTES // (4 * batch_size * architecture.width), 1), MOST_STEPS)
        self._model = _keras_classes()["Training"](architecture, drops, decays)
        self._block = np.zeros((PREDICT_ROWS, architecture.width), np.float32)
        self.bytes = sum(4 * int(np.prod(v.shape)) for v in [*self._model.weights, *self._model.optimizer.variables])

    def start(self, weights: list[NDArray[np.float32]], settings: Settings) -> None:
        """Forget what was trained before, to the last moment and seed."""
        self._model.start(weights, settings)

    def train(self, rows: NDArray[np.float32], targets: NDArray[np.float32], steps: int) -> tuple[float, float]:
        """Train on the first ``steps`` of ``rows`` ``(steps, batch, width)`` and ``targets`` ``(.., classes)``.

        Returns:
            mean loss and accuracy; right is the class of the largest target.
        """
        count = np.array([steps], np.int32)
        told = self._model.train_on_batch((rows, count), targets, return_dict=True)
        return float(told["loss"]), float(told["accuracy"])

    def logits(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits ``(n, classes)`` of standardised rows ``(n, width)``, ``PREDICT_ROWS`` at most."""
        self._block[: len(rows)] = rows
        found: NDArray[np.float32] = np.asarray(self._model.predict_on_batch(self._block))[: len(rows)]
        return found

    def weights(self) -> list[NDArray[np.float32]]:
        """Copies of the weights, in the order of :meth:`Architecture.initial_weights`."""
        return [np.array(variable) for variable in self._model.learned]


_idle: list[tuple[tuple[Any, ...], Trainer]] = []  # the longest unused first
released_by_clear_memory(_idle.clear)
_lock = threading.Lock()


@contextmanager
def borrowed_trainer(architecture: Architecture, batch_size: int, settings: Settings) -> Iterator[Trainer]:
    """A trainer for this fit alone, one used before if there is one: threads that fit at once get one each."""
    key = (architecture, batch_size, settings.dropout > 0, settings.weight_decay > 0)
    with _lock:
        place = next((i for i, (kept, _) in enumerate(_idle) if kept == key), None)
        trainer = _idle.pop(place)[1] if place is not None else Trainer(*key)
    try:
        yield trainer
    except Exception:
        _give_back(key, trainer)
        raise
    _give_back(key, trainer)  # not after Ctrl-C, which may leave it half compiled


def _give_back(key: tuple[Any, ...], trainer: Trainer) -> None:
    with _lock:
        _idle.append((key, trainer))
        while len(_idle) > KEPT or sum(kept.bytes for _, kept in _idle) > KEPT_BYTES:
            del _idle[0]


@cache
def _keras_classes() -> dict[str, Any]:
    """Classes that derive from Keras's, made when Keras is first needed."""
    keras = load_keras()
    ops = keras.ops

    class Dropout(load_keras().layers.Layer):  # type: ignore[misc]
        """Dropout (Srivastava et al. 2014) whose rate is a variable, so that another rate compiles nothing."""

        def __init__(self, share: float) -> None:
            super().__init__()
            self.share = share  # of the head's dropout
            self.seeds = keras.random.SeedGenerator(0)
            self.rate = self.add_weight(shape=(), initializer="zeros", trainable=False, name="rate")

        def call(self, x: Any, training: bool = False) -> Any:
            if not training:
                return x
            kept = ops.cast(keras.random.uniform(ops.shape(x), seed=self.seeds) >= self.rate, x.dtype)
            return x * (kept * (1 / (1 - self.rate)))

        def start(self, dropout: float, seed: int) -> None:
            self.rate.assign(self.share * dropout)
            self.seeds.state.assign(np.array([seed, 0], np.uint32))

    class AdamW(load_keras().optimizers.Adam):  # type: ignore[misc]
        """Adam with decoupled weight decay (Loshchilov & Hutter 2019), its rate a variable; biases do not decay."""

        def build(self, variables: Any) -> None:
            if not self.built:
                super().build(variables)
                self.decay = self.add_variable(shape=(), initializer="zeros", name="decay")

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            if len(variable.shape) > 1:
                self.assign_sub(variable, variable * learning_rate * self.decay)
            super().update_step(gradient, variable, learning_rate)

    class Training(load_keras().Model):  # type: ignore[misc]
        """Runs steps of training on rows ``(steps, batch, width)``, as many as are asked for."""

        def __init__(self, architecture: Architecture, drops: bool, decays: bool) -> None:
            super().__init__()
            rows = keras.Input((architecture.width,))
            self.dropouts: list[Any] = []
            self.network = keras.Model(
                rows, architecture.apply(rows, self._dropout if drops else _no_layer, 1.0, "linear")
            )
            rates = {id(layer.rate) for layer in self.dropouts}
            self.learned = [variable for variable in self.network.weights if id(variable) not in rates]
            self.hits = keras.metrics.Mean(name="accuracy")
            self.built = True
            self.compile(optimizer=AdamW() if decays else keras.optimizers.Adam(), loss=None)
            self.optimizer.build(self.trainable_variables)

        def _dropout(self, share: float) -> Any:
            self.dropouts.append(Dropout(share))
            return self.dropouts[-1]

        def start(self, weights: list[NDArray[np.float32]], settings: Settings) -> None:
            for variable, value in zip(self.learned, weights, strict=True):
                variable.assign(value)
            for variable in self.optimizer.variables:
                variable.assign(np.zeros(variable.shape, variable.dtype))
            self.optimizer.learning_rate.assign(settings.learning_rate)
            if hasattr(self.optimizer, "decay"):
                self.optimizer.decay.assign(settings.weight_decay)
            for number, layer in enumerate(self.dropouts):
                layer.start(settings.dropout, (settings.seed + number) % 2**32)

        def call(self, rows: Any, training: bool = False) -> Any:
            return self.network(rows, training=training)

        def compute_loss(
            self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
        ) -> Any:
            return ops.mean(keras.losses.categorical_crossentropy(y, y_pred, from_logits=True))

        def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            self.hits.update_state(ops.equal(ops.argmax(y, axis=-1), ops.argmax(y_pred, axis=-1)))
            return self.get_metrics_result()

        def train_step(self, *given: Any) -> Any:
            """On backends without state of their own (JAX) it comes before the data, and goes out with the result."""
            *state, data = given
            (rows, steps), targets, _ = keras.utils.unpack_x_y_sample_weight(data)
            one_step = super().train_step

            def body(step: Any, *state: Any) -> Any:
                told = one_step(*state, (ops.take(rows, step, axis=0), ops.take(targets, step, axis=0)))
                return (step + 1, told[1]) if state else (step + 1,)

            end = ops.while_loop(lambda step, *_: step < steps[0], body, (ops.zeros((), "int32"), *state))
            return (self._told(*end[1:]), end[1]) if state else self.get_metrics_result()

        def _told(self, state: Any) -> Any:
            with keras.StatelessScope(state_mapping=list(zip(self.metrics_variables, state[3], strict=True))):
                return self.get_metrics_result()

    return {"Training": Training}


def _no_layer(share: float) -> Any:
    return lambda x: x
