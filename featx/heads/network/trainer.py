"""Compiled training of a head's network, used again by the next fit of the same architecture.

Tracing a network takes a second, training it on a few hundred rows hardly more than that. So what has been compiled is
kept, by architecture: another fit puts its own weights, rates and seeds into it. Several steps run in one compiled
call, because on small networks a call costs as much as a step.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featx._internal.memory import released_by_clear_memory
from featx.heads.network.architecture import Architecture

if TYPE_CHECKING:
    from numpy.typing import NDArray

PREDICT_ROWS = 128  # rows per block; the last is filled up, so that a row gets the same figures in any company
CALL_BYTES = 4 << 20  # of float32 rows per compiled call, which then runs as many steps as they make
MOST_STEPS = 32  # per compiled call
KEPT = 8  # compiled trainings that wait to be used again, at most
KEPT_BYTES = 512 << 20  # of their weights and Adam's moments


@dataclass(frozen=True)
class Settings:
    """Settings in which two fits that share a compiled training may differ."""

    learning_rate: float
    weight_decay: float
    dropout: float
    seed: int


class Trainer:
    """Compiled training of one architecture in batches of one size. Not for two threads at once.

    Args:
        architecture: layers of the network.
        batch_size: rows per step.
        with_dropout, with_weight_decay: whether it has them; how much of them, ``settings`` say when it starts.

    Attributes:
        architecture, batch_size: as given.
        steps: how many a call runs at most.
        bytes: size of weights and moments.
    """

    def __init__(
        self, architecture: Architecture, batch_size: int, with_dropout: bool, with_weight_decay: bool
    ) -> None:
        from featx.heads.network.keras_model import StepsModel  # now, since it loads Keras

        self.architecture = architecture
        self.batch_size = batch_size
        self.steps = min(max(CALL_BYTES // (4 * batch_size * architecture.width), 1), MOST_STEPS)
        self._model = StepsModel(architecture, with_dropout, with_weight_decay)
        self._block = np.zeros((PREDICT_ROWS, architecture.width), np.float32)
        self.bytes = sum(4 * int(np.prod(v.shape)) for v in [*self._model.weights, *self._model.optimizer.variables])

    def start(self, weights: list[NDArray[np.float32]], settings: Settings) -> None:
        """Forget what was trained before, to the last moment and seed."""
        self._model.start(weights, **asdict(settings))

    def train(self, rows: NDArray[np.float32], targets: NDArray[np.float32], steps: int) -> tuple[float, float]:
        """Train on the first ``steps`` of ``rows`` ``(steps, batch, width)`` and ``targets`` ``(.., classes)``.

        Returns:
            mean loss and accuracy; right is the class of the largest target.
        """
        logs = self._model.train_on_batch((rows, np.array([steps], np.int32)), targets, return_dict=True)
        return float(logs["loss"]), float(logs["accuracy"])

    def logits(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits ``(n, classes)`` of standardised rows ``(n, width)``, ``PREDICT_ROWS`` at most."""
        self._block[: len(rows)] = rows
        logits: NDArray[np.float32] = np.asarray(self._model.predict_on_batch(self._block))[: len(rows)]
        return logits

    def weights(self) -> list[NDArray[np.float32]]:
        """Copies of the weights, in the order of :meth:`Architecture.initial_weights`."""
        return [np.array(variable) for variable in self._model.learned]


_idle: list[tuple[tuple[Any, ...], Trainer]] = []  # the longest unused first
released_by_clear_memory(_idle.clear)
_lock = threading.Lock()


@contextmanager
def compiled_trainer(architecture: Architecture, batch_size: int, settings: Settings) -> Iterator[Trainer]:
    """A trainer for this fit alone, one used before if there is one: threads that fit at once get one each."""
    key = (architecture, batch_size, settings.dropout > 0, settings.weight_decay > 0)
    with _lock:
        place = next((i for i, (known, _) in enumerate(_idle) if known == key), None)
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
        while len(_idle) > KEPT or sum(idle.bytes for _, idle in _idle) > KEPT_BYTES:
            del _idle[0]
