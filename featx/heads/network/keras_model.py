"""The Keras model that a trainer compiles. Importing this module loads Keras: only the trainer does so, late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featx._internal.keras import load_keras
from featx.heads.network.architecture import Architecture

if TYPE_CHECKING:
    from numpy.typing import NDArray

keras = load_keras()
ops = keras.ops


class Dropout(keras.layers.Layer):  # type: ignore[misc,name-defined]
    """Dropout (Srivastava et al. 2014) whose rate is a variable, so that another rate compiles nothing.

    Args:
        share: of the head's dropout that this layer has.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.seeds = keras.random.SeedGenerator(0)
        self.rate = self.add_weight(shape=(), initializer="zeros", trainable=False, name="rate")

    def call(self, x: Any, training: bool = False) -> Any:
        if not training:
            return x
        kept = ops.cast(keras.random.uniform(ops.shape(x), seed=self.seeds) >= self.rate, x.dtype)
        return x * (kept * (1 / (1 - self.rate)))

    def start(self, dropout: float, seed: int) -> None:
        """Set the rate, and forget what was drawn before."""
        self.rate.assign(self.share * dropout)
        self.seeds.state.assign(np.array([seed, 0], np.uint32))


class AdamW(keras.optimizers.Adam):  # type: ignore[misc,name-defined]
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), its rate a variable; biases do not decay."""

    def build(self, variables: Any) -> None:
        if not self.built:
            super().build(variables)
            self.decay = self.add_variable(shape=(), initializer="zeros", name="decay")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if len(variable.shape) > 1:
            self.assign_sub(variable, variable * learning_rate * self.decay)
        super().update_step(gradient, variable, learning_rate)


class StepsModel(keras.Model):  # type: ignore[misc,name-defined]
    """A network that runs several steps of training in one call, on rows ``(steps, batch, width)``.

    Args:
        architecture: layers of the network.
        with_dropout, with_weight_decay: whether it has them; how much of them, :meth:`start` says.
    """

    def __init__(self, architecture: Architecture, with_dropout: bool, with_weight_decay: bool) -> None:
        super().__init__()
        rows = keras.Input((architecture.width,))
        self.dropouts: list[Dropout] = []
        dropout = self._dropout if with_dropout else _no_layer
        self.network = keras.Model(rows, architecture.apply(rows, dropout, 1.0, "linear"))
        rates = {id(layer.rate) for layer in self.dropouts}
        self.learned = [variable for variable in self.network.weights if id(variable) not in rates]
        self.hits = keras.metrics.Mean(name="accuracy")
        self.built = True
        self.compile(optimizer=AdamW() if with_weight_decay else keras.optimizers.Adam(), loss=None)
        self.optimizer.build(self.trainable_variables)

    def _dropout(self, share: float) -> Any:
        self.dropouts.append(Dropout(share))
        return self.dropouts[-1]

    def start(
        self,
        weights: list[NDArray[np.float32]],
        learning_rate: float,
        weight_decay: float,
        dropout: float,
        seed: int,
    ) -> None:
        """Forget what was trained before, to the last moment and seed."""
        for variable, value in zip(self.learned, weights, strict=True):
            variable.assign(value)
        for variable in self.optimizer.variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))
        self.optimizer.learning_rate.assign(learning_rate)
        if hasattr(self.optimizer, "decay"):
            self.optimizer.decay.assign(weight_decay)
        for number, layer in enumerate(self.dropouts):
            layer.start(dropout, (seed + number) % 2**32)

    def call(self, rows: Any, training: bool = False) -> Any:
        return self.network(rows, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        return ops.mean(keras.losses.categorical_crossentropy(y, y_pred, from_logits=True))

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        self.hits.update_state(ops.equal(ops.argmax(y, axis=-1), ops.argmax(y_pred, axis=-1)))
        return self.get_metrics_result()

    def train_step(self, *state_and_data: Any) -> Any:
        """Run the steps. On backends without state of their own (JAX) it comes first, and goes out with the result."""
        *state, data = state_and_data
        (rows, steps), targets, _ = keras.utils.unpack_x_y_sample_weight(data)
        one_step = super().train_step

        def body(step: Any, *state: Any) -> Any:
            result = one_step(*state, (ops.take(rows, step, axis=0), ops.take(targets, step, axis=0)))
            return (step + 1, result[1]) if state else (step + 1,)

        end = ops.while_loop(lambda step, *_: step < steps[0], body, (ops.zeros((), "int32"), *state))
        return (self._logs(*end[1:]), end[1]) if state else self.get_metrics_result()

    def _logs(self, state: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(self.metrics_variables, state[3], strict=True))):
            return self.get_metrics_result()


def _no_layer(share: float) -> Any:
    return lambda x: x
