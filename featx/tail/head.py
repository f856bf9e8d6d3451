"""A head that has layers of the network before it, the tail: trained together, on what the trunk gave or on pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np
from scipy.special import softmax
from sklearn.utils.validation import check_is_fitted

from featx._internal.choices import Kept, Optimizer, Schedule
from featx._internal.keras import load_keras
from featx._internal.progress import Progress, silent
from featx.backbones import SCRATCH, Division, build_tail, has_mean_image, set_mean_image
from featx.errors import ModelError, TrainingError, one_line
from featx.heads import Groups, Head, Scores, as_rows, head_layers, layer_weights, make_head
from featx.tail.batches import in_batches
from featx.tail.checkpoints import Checkpoints
from featx.tail.course import Course, OnEpoch

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)
SCHEDULES: tuple[str, ...] = get_args(Schedule)
KEPT: tuple[str, ...] = get_args(Kept)
WARM_UP = 0.05  # share of the steps in which the learning rate rises to its full height, on the cosine schedule
LARGEST_HALF = 6e4  # of float16, nearly
MEAN_ROWS = 256  # pictures that are read at once for the mean image


class TailHead(Head):
    """The tail of a network and a head on it, trained together by gradient descent.

    ``X`` is what the trunk gave at the cut (or pixels, 0 to 255): an array; rows that are read when asked for; or
    something with ``of_epoch(number)`` that gives such rows anew for each epoch. Batch norm of the network stays in
    inference mode, in training too; frozen layers stay as they were, to the bit.

    Args:
        division: the fields of a :class:`featx.backbones.Division`: which network, cut where, which layers train.
        weights: of the network to start from; see :func:`featx.build_trunk`.
        weights_random_state: seed of them, if they are random: that of the trunk, whatever seed training has.
        head: name of the head on the tail.
        head_params: its settings.
        optimizer: ``adamw`` (Loshchilov & Hutter 2019), ``adam`` or ``sgd``.
        learning_rate: at its height.
        momentum: of ``sgd``.
        weight_decay: decoupled, of kernels only; not for ``adam``.
        schedule: ``cosine`` (down to 0, Loshchilov & Hutter 2017, after a short warm-up) or ``constant``.
        label_smoothing: share of each target that is spread over all classes.
        batch_size: rows a step.
        epochs: at most.
        patience: epochs without better validation figures before stopping.
        keep: ``best``: the best epoch on the validation rows; ``last``: the last of all, so that what is measured on
            these rows was not chosen by them.
        random_state: seed of new weights, dropout, order and draws.

    Attributes:
        history_: a list per measure (``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``), a value per epoch.
        best_epoch_: the epoch, from 1, whose weights were kept; 0 if none was better than what training started from.
        epoch_seconds_: how long training took in each epoch, without validation.
        start_: validation loss and accuracy before the first epoch, if the head was fitted before.
        stopped_: why training ended: ``epochs``, ``patience`` or ``nan``.
    """

    uses_validation = True
    input = "flat"  # rows are taken as they are
    _model: Any

    def __init__(
        self,
        division: dict[str, Any],
        *,
        weights: str = "imagenet",
        weights_random_state: int = 0,
        head: str = "logreg",
        head_params: dict[str, Any] | None = None,
        optimizer: str = "adamw",
        learning_rate: float = 1e-4,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        schedule: str = "cosine",
        label_smoothing: float = 0.0,
        batch_size: int = 32,
        epochs: int = 20,
        patience: int = 10,
        keep: str = "best",
        random_state: int = 0,
    ) -> None:
        self.division = division
        self.weights = weights
        self.weights_random_state = weights_random_state
        self.head = head
        self.head_params = head_params
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.label_smoothing = label_smoothing
        self.batch_size = batch_size
        self.epochs = epochs
        self.patience = patience
        self.keep = keep
        self.random_state = random_state

    # --------------------------------------------------------------------------------------------------------- fitting

    def fit(
        self,
        X: Any,
        y: Any,
        validation_data: Any = None,
        progress: Progress | None = None,
        groups: Any = None,
        *,
        start: Head | None = None,
        first: tuple[Any, Any] | None = None,
        checkpoints: Checkpoints | None = None,
        on_epoch: OnEpoch | None = None,
        callback: Any = None,
    ) -> Self:
        """Train tail and head.

        Args:
            X: training rows, ``(n, ...)``; see the class.
            y: their labels, ``(n,)``.
            validation_data: ``(X, y)``; the epoch of the highest accuracy on them is kept, among equals that of the
                lowest loss. Without, all epochs are trained and the last is kept.
            progress: called with "training", how many rows were trained on and how many there are at most.
            groups: ``(n,)``, the same number for views of one picture; an epoch draws one of each.
            start: a fitted head to start from, on the tail's output.
            first: rows and labels: before the first epoch the head is fitted on what the tail gives of them, unless
                there is ``start``. Without either the head starts at random.
            checkpoints: where to keep the state from time to time, and to go on from if there is one.
            on_epoch: called after each epoch with its number, from 1, and its measures.
            callback: one of Keras's, told of each epoch's end; such as ``keras.callbacks.TensorBoard``.

        Raises:
            TrainingError: settings that do not fit, or a loss that is not a number in the first epoch.
        """
        self._check_settings()
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.feature_shape_ = tuple(X.shape[1:])
        drawn = Groups(groups, len(labels))
        tail = self._built_tail(self.weights)
        if has_mean_image(tail):
            set_mean_image(tail, _mean_image(*(first or (X, y))))
        state = checkpoints.newest() if checkpoints else None
        if start is None and state is None and first is not None:
            start = self._head_first(tail, *first, validation_data)
        self._assemble(tail, start)
        batch_size = min(self.batch_size, len(drawn))
        self._compile(len(drawn) // batch_size)
        validation = None if validation_data is None else (validation_data[0], self._numbers(validation_data[1]))
        course = Course(
            self._model, X, labels, len(self.classes_), drawn, batch_size, validation, checkpoints, self.random_state,
            keep_best=self.keep == "best" and validation is not None,
        )  # fmt: skip
        course.begin(state, measured=start is not None)
        with _listening(callback, self._model, on_epoch) as tell:
            patience = self.patience if self.keep == "best" else self.epochs
            self.stopped_ = course.run(self.epochs, patience, progress or silent, tell)
        course.finish()
        reached = course.state
        self.history_, self.best_epoch_, self.start_ = reached.history, reached.best_epoch, reached.start
        self.epoch_seconds_ = reached.seconds
        return self

    def fit_again(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Not done: what takes minutes is trained once."""
        return self

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Probabilities ``(n, classes)``, float32, of rows or something that gives rows."""
        check_is_fitted(self, "classes_")
        found = [softmax(logits, axis=1) for logits in self.logits(X)]
        return np.concatenate([*found, np.zeros((0, len(self.classes_)), np.float32)])

    def logits(self, X: Any) -> Iterator[NDArray[np.float32]]:
        """Logits ``(batch, classes)`` of rows, batch by batch."""
        return in_batches(self._network(), X, self.batch_size)

    def maps(self, X: Any) -> NDArray[np.float32]:
        """What the head sees: the output of the tail for rows, ``(n, h, w, c)``, or ``(n, c)``."""
        check_is_fitted(self, "classes_")
        network = self._network()
        shape = network.tail.output_shape[1:]
        return np.concatenate([*in_batches(network.tail, X, self.batch_size), np.zeros((0, *shape), np.float32)])

    def scores(self) -> Scores:
        """The scores of the head on the tail, as a function of :meth:`maps`."""
        network = self._network()
        return Scores.of(self._unfitted(), network.tail.output_shape[1:], network.top.get_weights())

    @property
    def model_(self) -> Any:
        """The Keras model: from what the trunk gives, or pixels, to logits."""
        return self._network()

    # ----------------------------------------------------------------------------------------------------------- state

    def _learned_arrays(self) -> dict[str, NDArray[Any]]:
        return {f"weights_{i:04}": np.asarray(v) for i, v in enumerate(self._network().weights)}

    def _restore(self, state: dict[str, NDArray[Any]]) -> None:
        Division(**self.division)  # or what is wrong with it
        self._saved: list[NDArray[Any]] = [state[name] for name in sorted(state) if name.startswith("weights_")]
        self._model = None

    def _network(self) -> Any:
        """The model, built when first needed: what was loaded may only be looked at."""
        if self._model is None:
            self._assemble(self._built_tail(None), None)
            self._compile(1)
            model: Any = self._model
            try:
                model.set_weights(self._saved)
            except ValueError as error:
                raise ModelError(
                    f"the saved weights do not fit {self.division['backbone']}: {one_line(error)}"
                ) from error
        return self._model

    def _built_tail(self, weights: str | None) -> Any:
        division = Division(**self.division)
        seed = self.random_state if division.backbone in SCRATCH else self.weights_random_state
        return build_tail(division, weights=weights, random_state=seed)

    def _assemble(self, tail: Any, head: Head | None) -> None:
        shape = tail.output_shape[1:]
        top = head_layers(head or self._unfitted(), shape, len(self.classes_), self.random_state)
        if head is not None:
            top.set_weights(layer_weights(head))
        self._model = _joined(tail, top)
        self._model(np.zeros((1, *self.feature_shape_), np.float32))  # so that its weights and shapes are known

    def _compile(self, steps: int) -> None:
        keras = load_keras()
        on_cpu = keras.backend.backend() == "tensorflow" and not _has_gpu()
        self._model.compile(
            optimizer=self._optimizer(steps),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=self.label_smoothing),
            metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
            jit_compile=False if on_cpu else "auto",  # there XLA's convolutions are slow
        )

    def _optimizer(self, steps: int) -> Any:
        optimizers = load_keras().optimizers
        rate: Any = self.learning_rate
        total = steps * self.epochs
        warm = int(WARM_UP * total)
        if self.schedule == "cosine":
            rise = {"warmup_target": rate, "warmup_steps": warm} if warm else {}
            rate = optimizers.schedules.CosineDecay(0.0 if warm else rate, max(total - warm, 1), **rise)
        if self.optimizer == "sgd":
            optimizer = optimizers.SGD(rate, momentum=self.momentum, weight_decay=self.weight_decay or None)
        elif self.optimizer == "adam":
            optimizer = optimizers.Adam(rate)
        else:
            optimizer = optimizers.AdamW(rate, weight_decay=self.weight_decay)
        if self.optimizer != "adam" and self.weight_decay:
            optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        return optimizer

    def _check_settings(self) -> None:
        choices = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "keep": KEPT}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise TrainingError(f"unknown {name} {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        for name in ("learning_rate", "batch_size", "epochs", "patience"):
            if not getattr(self, name) > 0:
                raise TrainingError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1 or not 0 <= self.momentum < 1 or not self.weight_decay >= 0:
            raise TrainingError("label_smoothing and momentum are at least 0 and below 1, weight_decay at least 0")

    def _head_first(self, tail: Any, X: Any, y: Any, validation_data: Any) -> Head:
        """The head alone, fitted on what the tail gives as it is."""
        head = self._unfitted()

        def outputs(rows: Any) -> NDArray[Any]:
            blocks = in_batches(tail, rows, self.batch_size)
            if head.input == "flat":  # in full they may be large; as float32 only if they must be
                small = (b.astype(np.float16) if np.abs(b).max(initial=0) < LARGEST_HALF else b for b in blocks)
                return np.concatenate(list(small))
            return np.concatenate([as_rows(block, head.input) for block in blocks])

        held_out = None
        if validation_data is not None and head.uses_validation:
            held_out = outputs(validation_data[0]), validation_data[1]
        return head.fit(outputs(X), y, validation_data=held_out)

    def _unfitted(self) -> Head:
        return make_head(self.head, **{"random_state": self.random_state, **(self.head_params or {})})

    def _numbers(self, y: Any) -> NDArray[np.int64]:
        """Labels as numbers of classes."""
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise TrainingError(f"validation rows have the class {unknown[0]!r}, of which there is no training row")
        numbers: NDArray[np.int64] = np.searchsorted(self.classes_, y)
        return numbers


def _joined(tail: Any, top: Any) -> Any:
    """The Keras model of a tail, whose batch norms stay in inference mode in training too, and what is on top of it."""
    keras = load_keras()

    class Joined(keras.Model):  # type: ignore[misc,name-defined]
        # Not a functional model: those pass training=True on to a network that was called with training=False
        def __init__(self) -> None:
            super().__init__()
            self.tail, self.top = tail, top

        def call(self, features: Any, training: bool = False) -> Any:
            return self.top(self.tail(features, training=False), training=training)

    return Joined()


def _mean_image(X: Any, y: Any) -> NDArray[np.float32]:
    """Mean of pictures, ``(size, size, 3)`` in 0 to 255."""
    X = X.of_epoch(0) if hasattr(X, "of_epoch") else X
    total = np.zeros(X.shape[1:], np.float64)
    for start in range(0, len(y), MEAN_ROWS):
        total += np.asarray(X[start : start + MEAN_ROWS], np.float64).sum(axis=0)
    return (total / len(y)).astype(np.float32)


@contextmanager
def _listening(callback: Any, model: Any, on_epoch: OnEpoch | None) -> Iterator[OnEpoch | None]:
    """What is to be called after each epoch, so that a callback of Keras's hears of it too."""
    if callback is None:
        yield on_epoch
        return
    callback.set_model(model)
    callback.on_train_begin()

    def tell(epoch: int, told: dict[str, float]) -> None:
        callback.on_epoch_end(epoch - 1, dict(told))
        if on_epoch is not None:
            on_epoch(epoch, told)

    yield tell
    callback.on_train_end()


def _has_gpu() -> bool:
    return any("gpu" in device.lower() for device in load_keras().distribution.list_devices())
