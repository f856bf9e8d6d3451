"""Heads trained by Keras: the BatchNorm+Dropout network of fast.ai's lessons, and the plain one of many tutorials."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from featx._internal.keras import load_keras
from featx._internal.progress import Progress
from featx.errors import TrainingError
from featx.heads.base import Head, is_lazy, is_map
from featx.heads.network.architecture import Architecture
from featx.heads.network.epochs import Batches, Course, OnEpoch, Validation, train
from featx.heads.network.keras_model import PREDICT_ROWS, Settings, borrowed_trainer
from featx.heads.network.rows import Groups, Reader, pooled_shape, shuffled

if TYPE_CHECKING:
    from numpy.typing import NDArray


class KerasHead(Head):
    """A head trained by Keras: in epochs over shuffled batches; stops early if there are validation rows.

    Features are standardised first, with mean and deviation of the training rows, per column or per channel of a map.
    ``X`` may also be lazy: something with ``shape``, ``dtype``, ``ndim``, ``len`` and ``X[slice or int array]``, of
    float16 or float32, that is larger than memory. Of its rows a few hundred megabytes are held at a time.

    What Keras compiles is kept for the next fit of the same architecture. Heads may be fitted in several threads.

    Attributes:
        best_epoch_: the epoch, counted from 1, whose weights were kept.
        history_: a list per measure (``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``), a value per epoch. In
            training, accuracy is measured under dropout, and under mixup against the class of the larger share.
        mean_, scale_: float32 ``(d,)`` or ``(c,)``.
        weights_: float32 arrays, in the order of ``model_.weights``.
    """

    uses_validation = True
    _learned = ("mean_", "scale_")

    hidden: int
    layers: int
    dropout: float
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    mixup: float
    batch_size: int
    epochs: int
    patience: int
    random_state: int | None

    best_epoch_: int
    history_: dict[str, list[float]]
    mean_: NDArray[np.float32]
    scale_: NDArray[np.float32]
    weights_: list[NDArray[np.float32]]

    def fit(
        self,
        X: Any,
        y: Any,
        validation_data: Any = None,
        progress: Progress | None = None,
        groups: Any = None,
        on_epoch: OnEpoch | None = None,
    ) -> Self:
        """Train on ``X``, ``(n, d)`` or ``(n, h, w, c)``, and labels ``y``.

        With ``validation_data``, training stops after ``patience`` epochs without a better one, and the best epoch's
        weights are kept: the one of the highest validation accuracy, among equals the one of the lowest loss. (The loss
        alone misleads: with much dropout before batch norm it can rise while accuracy rises, see Li et al. 2019,
        "Understanding the disharmony between dropout and batch normalization".) Without, training lasts ``epochs``.

        Args:
            X: training features: an array, or lazy.
            y: their labels, ``(n,)``.
            validation_data: ``(X, y)``.
            progress: called with "training", the epochs done and how many there are at most.
            groups: ``(n,)``, the same number for rows that are views of one picture. Each epoch draws one row of each
                group, so it is as long as there are groups.
            on_epoch: called after each epoch with its number, from 1, and its measures by name as in ``history_``.
                Training ends if it returns true; what it raises comes out of ``fit``.

        Raises:
            TrainingError: the loss became not a number.
            ValueError: settings or rows that cannot be trained on.
        """
        return self._fit(X, y, validation_data, progress, groups, on_epoch, self.epochs)

    def fit_again(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Train on all rows for as many epochs as were best before. The history stays that of the measured training."""
        check_is_fitted(self)
        history = self.history_
        self._fit(X, y, None, None, groups, None, self.best_epoch_)
        self.history_ = history
        return self

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """The network's probabilities, float32 ``(n, classes)``, of an array or of lazy rows."""
        check_is_fitted(self)
        reader = self._reader(X)
        network, probabilities = self._architecture(), np.empty((len(reader), len(self.classes_)), np.float32)
        for start, count, block in reader.blocks(PREDICT_ROWS):
            probabilities[start : start + count] = network.probabilities(self.weights_, block)[:count]
        return probabilities

    @property
    def model_(self) -> Any:
        """A Keras model from features as they come, ``(n, *feature_shape_)``, to probabilities; made anew each time."""
        check_is_fitted(self, "weights_")
        keras = load_keras()
        features = keras.Input(self.feature_shape_)
        x = (features - self.mean_) * (1 / self.scale_)
        if len(self.feature_shape_) == 3:
            if self._shrinks:  # "same": odd maps keep their last row
                x = keras.layers.MaxPooling2D(2, padding="same")(x)
            x = keras.layers.Flatten()(x)
        model = keras.Model(
            features, self._architecture().apply(x, keras.layers.Dropout, self.dropout, activation="softmax")
        )
        model.set_weights(self.weights_)
        return model

    def _fit(
        self,
        X: Any,
        y: Any,
        validation_data: Any,
        progress: Progress | None,
        groups: Any,
        on_epoch: OnEpoch | None,
        epochs: int,
    ) -> Self:
        self._check_settings()
        reader, labels = self._training_reader(X, y)
        drawn = Groups(groups, len(reader))
        kept = reader.learn_statistics()
        self.mean_, self.scale_ = reader.mean, reader.scale
        validation = self._validation(validation_data)
        weights, order, mixing, dropout = np.random.SeedSequence(self.random_state).spawn(4)
        network, batch_size = self._architecture(), min(self.batch_size, len(drawn))
        settings = Settings(self.learning_rate, self.weight_decay, self.dropout, int(dropout.generate_state(1)[0]))
        course = Course(epochs, self.patience, self.label_smoothing, self.mixup)
        with (
            borrowed_trainer(network, batch_size, settings) as trainer,
            shuffled(reader, kept, drawn, np.random.default_rng(order)) as buffers,
        ):
            trainer.start(network.initial_weights(np.random.default_rng(weights)), settings)
            batches = Batches(
                trainer, batch_size, reader.width, labels, len(self.classes_), course, np.random.default_rng(mixing)
            )
            trained = train(trainer, batches, buffers, validation, course, progress, on_epoch)
        self._require_numbers(trained.history["loss"])
        self.weights_, self.history_, self.best_epoch_ = trained.weights, trained.history, trained.best_epoch
        return self

    def _require_numbers(self, losses: list[float]) -> None:
        if not np.isfinite(losses).all():
            raise TrainingError(
                f"the loss became not a number in epoch {len(losses)}; try a lower learning rate than "
                f"{self.learning_rate:g}"
            )

    def _learned_arrays(self) -> dict[str, NDArray[Any]]:
        return super()._learned_arrays() | {f"weights_{i:02}": value for i, value in enumerate(self.weights_)}

    def _restore(self, state: dict[str, NDArray[Any]]) -> None:
        super()._restore(state)
        names = [name for name in state if name.startswith("weights_")]
        self.weights_ = [state[name] for name in sorted(names, key=lambda name: int(name.removeprefix("weights_")))]

    def _check_settings(self) -> None:
        self._check_input()
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1. Got {getattr(self, name)!r} instead.")
        for name in ("hidden", "batch_size", "epochs", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive. Got {getattr(self, name)!r} instead.")
        for name in ("weight_decay", "mixup"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be at least 0. Got {getattr(self, name)!r} instead.")
        if not isinstance(self.layers, Integral) or self.layers < 1:
            raise ValueError(f"layers must be a whole number, at least 1. Got {self.layers!r} instead.")

    def _training_reader(self, X: Any, y: Any) -> tuple[Reader, NDArray[np.int64]]:
        """A reader of ``X``, and ``y`` as numbers of classes; sets what fitting sets."""
        lazy = is_lazy(X)
        if not lazy and not (is_map(X) and self.input == "flat"):
            rows, labels = self._training_rows(X, y)
            self.feature_shape_ = rows.shape[1:]
            return Reader(rows, "flat", False), labels
        _, labels = self._training_rows(np.zeros((X.shape[0], 1), np.float32), y)  # the rows are looked at later
        self.feature_shape_ = tuple(X.shape[1:] if self.input == "flat" else X.shape[-1:])
        self.n_features_in_ = int(np.prod(self.feature_shape_))
        return Reader(X, self.input, self._shrinks), labels

    def _reader(self, X: Any) -> Reader:
        """A reader of rows or maps as in training, standardised."""
        if is_lazy(X) or (is_map(X) and self.input == "flat"):
            shape = tuple(X.shape[1:] if self.input == "flat" else X.shape[-1:])
            if shape != self.feature_shape_:
                raise ValueError(f"Rows must be {self.feature_shape_} as in training. Got {shape} instead.")
            reader = Reader(X, self.input, self._shrinks)
        else:
            rows = self._rows(X)
            reader = Reader(rows.reshape(len(rows), *self.feature_shape_), "flat", self._shrinks)
        reader.mean, reader.scale = self.mean_, self.scale_
        return reader

    def _validation(self, validation_data: Any) -> Validation | None:
        if validation_data is None:
            return None
        held_out, labels = validation_data
        check_consistent_length(held_out, labels)
        return Validation(self._reader(held_out), self._numbers(labels))

    def _numbers(self, labels: Any) -> NDArray[np.int64]:
        numbers: NDArray[np.int64] = np.searchsorted(self.classes_, labels)
        known = self.classes_[np.minimum(numbers, len(self.classes_) - 1)] == labels
        if not np.all(known):
            raise ValueError(
                f"validation rows have a class that no training row has: {np.asarray(labels)[~known][0]!r}"
            )
        return numbers

    @property
    def _shrinks(self) -> bool:
        return self.shrinks(self.feature_shape_)

    def _architecture(self) -> Architecture:
        shape = pooled_shape(self.feature_shape_) if self._shrinks else self.feature_shape_
        return self.architecture(int(np.prod(shape)), len(self.classes_))

    def shrinks(self, feature_shape: tuple[int, ...]) -> bool:
        """Whether maps of this shape are max-pooled, 2 x 2, before they become flat."""
        return False

    def architecture(self, width: int, n_classes: int) -> Architecture:
        """The network on rows of ``width`` columns."""
        raise NotImplementedError  # pragma: no cover - an abstract class


class BNMLPHead(KerasHead):
    """The BatchNorm+Dropout head of fast.ai's lessons 3 to 5, on cached conv features.

    MaxPooling and Flatten (maps, ``input="flat"``), Dropout(p/2), Dense, BatchNorm, Dropout(p/2), Dense, BatchNorm,
    Dropout(p), Dense(classes, softmax).

    Args:
        input: what becomes of maps: ``flat`` (max-pooled 2 x 2, then flat), ``avg`` or ``max``.
        hidden: width of the hidden layers.
        layers: how many hidden layers there are, at least 1.
        batch_norm: whether batch norm follows each hidden layer.
        dropout: p.
        learning_rate: of Adam.
        weight_decay: of AdamW (Loshchilov & Hutter 2019): each step takes ``learning_rate * weight_decay`` of every
            kernel away; biases and batch norm are spared. 0 is Adam.
        label_smoothing: share of each target that is spread over all classes (Szegedy et al. 2016), below 1.
        mixup: alpha of the Beta distribution that mixup (Zhang et al. 2018) draws a share from, for each row, to mix
            it, standardised, and its target with another of its batch. 0 is off.
        batch_size: rows a step.
        epochs: at most.
        patience: epochs without better validation figures before stopping.
        random_state: seed of weights, dropout, order, draws and mixing.
    """

    def __init__(
        self,
        *,
        input: str = "avg",
        hidden: int = 512,
        layers: int = 2,
        batch_norm: bool = True,
        dropout: float = 0.5,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        batch_size: int = 64,
        epochs: int = 100,
        patience: int = 20,
        random_state: int | None = 0,
    ) -> None:
        self.input = input
        self.hidden = hidden
        self.layers = layers
        self.batch_norm = batch_norm
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.mixup = mixup
        self.batch_size = batch_size
        self.epochs = epochs
        self.patience = patience
        self.random_state = random_state

    def shrinks(self, feature_shape: tuple[int, ...]) -> bool:
        """Whether maps of this shape are max-pooled, 2 x 2, before they become flat."""
        return self.input == "flat" and len(feature_shape) == 3 and min(feature_shape[:2]) > 1

    def architecture(self, width: int, n_classes: int) -> Architecture:
        """The network on rows of ``width`` columns."""
        return Architecture(width, n_classes, self.hidden, self.layers, bool(self.batch_norm), lesson=True)


class MLPHead(KerasHead):
    """The head of many tutorials: Flatten, Dense(hidden, relu), Dropout, Dense(classes, softmax).

    Args:
        input: what becomes of maps: ``flat``, ``avg`` or ``max``.
        hidden: width of the hidden layers.
        layers: how many hidden layers there are, at least 1.
        dropout: share of hidden units left out in training.
        learning_rate: of Adam.
        weight_decay: of AdamW (Loshchilov & Hutter 2019): each step takes ``learning_rate * weight_decay`` of every
            kernel away; biases and batch norm are spared. 0 is Adam.
        label_smoothing: share of each target that is spread over all classes (Szegedy et al. 2016), below 1.
        mixup: alpha of the Beta distribution that mixup (Zhang et al. 2018) draws a share from, for each row, to mix
            it, standardised, and its target with another of its batch. 0 is off.
        batch_size: rows a step.
        epochs: at most.
        patience: epochs without better validation figures before stopping.
        random_state: seed of weights, dropout, order, draws and mixing.
    """

    def __init__(
        self,
        *,
        input: str = "avg",
        hidden: int = 64,
        layers: int = 1,
        dropout: float = 0.5,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        batch_size: int = 64,
        epochs: int = 50,
        patience: int = 8,
        random_state: int | None = 0,
    ) -> None:
        self.input = input
        self.hidden = hidden
        self.layers = layers
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.mixup = mixup
        self.batch_size = batch_size
        self.epochs = epochs
        self.patience = patience
        self.random_state = random_state

    def architecture(self, width: int, n_classes: int) -> Architecture:
        """The network on rows of ``width`` columns."""
        return Architecture(width, n_classes, self.hidden, self.layers, batch_norm=False, lesson=False)
