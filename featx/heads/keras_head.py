"""Base of the heads trained by Keras: epochs over shuffled batches, early stopping, rows larger than memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from featx._internal.keras import load_keras
from featx._internal.progress import Progress, silent
from featx.errors import TrainingError
from featx.heads.base import Head, OnEpoch, is_lazy
from featx.heads.layers import LayeredHead, pooling_layers
from featx.heads.network.architecture import Architecture
from featx.heads.network.batches import Batches, NetworkTraining, Validation
from featx.heads.network.rows import Groups, Reader, shuffled
from featx.heads.network.trainer import PREDICT_ROWS, Settings, compiled_trainer
from featx.heads.pooling import downsampled_shape, is_map
from featx.heads.settings import Constraint, Number, Whole
from featx.heads.training_loop import Stopping, TrainingRecord, run_epochs

if TYPE_CHECKING:
    from numpy.typing import NDArray


class KerasHead(LayeredHead):
    """A head trained by Keras: in epochs over shuffled batches; stops early if there are validation rows.

    Features are standardised first, with mean and deviation of the training rows, per column or per channel of a map.
    ``X`` may also be lazy: something with ``shape``, ``dtype``, ``ndim``, ``len`` and ``X[slice or int array]``, of
    float16 or float32, that is larger than memory. Of its rows a few hundred megabytes are held at a time.

    What Keras compiles is kept for the next fit of the same architecture. Heads may be fitted in several threads.

    Attributes:
        best_epoch_: the epoch, counted from 1, whose weights were kept.
        history_: a list per measure (``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``), a value per epoch. In
            training, accuracy is measured under dropout, and under mixup against the class of the larger share.
        mean_, scale_: float32 ``(d,)`` or ``(c,)``, means and deviations of the training rows.
        weights_: float32 arrays, in the order of ``model_.weights``.
    """

    constraints: ClassVar[Mapping[str, Constraint]] = {
        **Head.constraints,
        "hidden": Whole(1),
        "layers": Whole(1),
        "dropout": Number(0, 1, below=True),
        "learning_rate": Number(0, above=True),
        "weight_decay": Number(0),
        "label_smoothing": Number(0, 1, below=True),
        "mixup": Number(0),
        "batch_size": Whole(1),
        "epochs": Whole(1),
        "patience": Whole(1),
        "random_state": Whole(0, or_none=True),
    }
    uses_validation = True
    trains_in_epochs = True
    _learned = ("mean_", "scale_")
    _standardises_columns = False

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
            SettingError: a setting out of its range.
            TrainingError: rows that cannot be trained on, or a loss that became not a number.
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
        """Probabilities by the network, float32 ``(n, classes)``, of an array or of lazy rows."""
        check_is_fitted(self)
        reader = self._reader(X)
        network = self._network()
        probabilities = np.empty((len(reader), len(self.classes_)), np.float32)
        for start, count, block in reader.blocks(PREDICT_ROWS):
            probabilities[start : start + count] = network.probabilities(self.weights_, block)[:count]
        return probabilities

    @property
    def model_(self) -> Any:
        """Keras model from features as they come, ``(n, *feature_shape_)``, to probabilities; made anew each time."""
        check_is_fitted(self, "weights_")
        keras = load_keras()
        features = keras.Input(self.feature_shape_)
        x = (features - self.mean_) * (1 / self.scale_)
        if len(self.feature_shape_) == 3:
            x = keras.layers.Flatten()(pooling_layers(x, "flat", self._downsampled))
        model = keras.Model(
            features, self._network().apply(x, keras.layers.Dropout, self.dropout, activation="softmax")
        )
        model.set_weights(self.weights_)
        return model

    def keras_weights(self) -> list[NDArray[np.float32]]:
        """Weights of :meth:`keras_layers` that make it compute what this fitted head computes."""
        return [self.mean_, self.scale_**2, *self.weights_]

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
        self.check_settings()
        reader, labels = self._training_reader(X, y)
        drawn = Groups(groups, len(reader))
        in_memory = reader.learn_statistics()
        self.mean_ = reader.mean
        self.scale_ = reader.scale
        validation = self._validation(validation_data)
        weights, order, mixing, dropout = np.random.SeedSequence(self.random_state).spawn(4)
        network = self._network()
        settings = Settings(self.learning_rate, self.weight_decay, self.dropout, int(dropout.generate_state(1)[0]))
        record = TrainingRecord()
        with (
            compiled_trainer(network, min(self.batch_size, len(drawn)), settings) as trainer,
            shuffled(reader, in_memory, drawn, np.random.default_rng(order)) as buffers,
        ):
            trainer.start(network.initial_weights(np.random.default_rng(weights)), settings)
            batches = Batches(trainer, labels, self.label_smoothing, self.mixup, np.random.default_rng(mixing))
            training = NetworkTraining(trainer, batches, buffers, validation)
            stopping = Stopping(epochs, self.patience, keep_best=validation is not None)
            stopped = run_epochs(training, record, stopping, _telling(progress or silent, epochs, on_epoch))
        if stopped == "nan":
            raise TrainingError(
                f"the loss became not a number in epoch {record.epoch + 1}; try a lower `learning_rate` than "
                f"{self.learning_rate:g}"
            )
        self.weights_ = record.best_weights
        self.history_ = record.history
        self.best_epoch_ = record.best_epoch
        return self

    def _learned_arrays(self) -> dict[str, NDArray[Any]]:
        return super()._learned_arrays() | {f"weights_{i:02}": value for i, value in enumerate(self.weights_)}

    def _restore(self, state: dict[str, NDArray[Any]]) -> None:
        super()._restore(state)
        names = [name for name in state if name.startswith("weights_")]
        self.weights_ = [state[name] for name in sorted(names, key=lambda name: int(name.removeprefix("weights_")))]

    def _training_reader(self, X: Any, y: Any) -> tuple[Reader, NDArray[np.int64]]:
        """A reader of ``X``, and ``y`` as numbers of classes; sets what fitting sets."""
        lazy = is_lazy(X)
        if not lazy and not (is_map(X) and self.input == "flat"):
            rows, labels = self._training_rows(X, y)
            self.feature_shape_ = rows.shape[1:]
            return Reader(rows, "flat", False), labels
        _, labels = self._training_rows(np.zeros((X.shape[0], 1), np.float32), y)  # the rows are looked at later
        self.feature_shape_ = self._seen_shape(X)
        self.n_features_in_ = int(np.prod(self.feature_shape_))
        return Reader(X, self.input, self._downsampled), labels

    def _reader(self, X: Any) -> Reader:
        """A reader of rows or maps as in training, standardised."""
        if is_lazy(X) or (is_map(X) and self.input == "flat"):
            shape = self._seen_shape(X)
            if shape != self.feature_shape_:
                raise ValueError(f"rows must be {self.feature_shape_} as in training, got {shape}")
            reader = Reader(X, self.input, self._downsampled)
        else:
            rows = self._rows(X)
            reader = Reader(rows.reshape(len(rows), *self.feature_shape_), "flat", self._downsampled)
        reader.mean = self.mean_
        reader.scale = self.scale_
        return reader

    def _seen_shape(self, X: Any) -> tuple[int, ...]:
        """Shape of a row of ``X`` as the network's standardising sees it: pooled, or a whole map."""
        return tuple(X.shape[1:] if self.input == "flat" else X.shape[-1:])

    def _validation(self, validation_data: Any) -> Validation | None:
        if validation_data is None:
            return None
        held_out, labels = validation_data
        check_consistent_length(held_out, labels)
        return Validation(self._reader(held_out), self._numbers(labels))

    @property
    def _downsampled(self) -> bool:
        return self.downsamples(self.feature_shape_)

    def _network(self) -> Architecture:
        shape = downsampled_shape(self.feature_shape_) if self._downsampled else self.feature_shape_
        return self.architecture(int(np.prod(shape)), len(self.classes_))


def _telling(progress: Progress, epochs: int, on_epoch: OnEpoch | None) -> OnEpoch:
    """A function to call after each epoch, which tells how far training is."""
    progress("training", 0, epochs)

    def tell(epoch: int, logs: dict[str, float]) -> bool | None:
        progress("training", epoch, epochs)
        return None if on_epoch is None else on_epoch(epoch, logs)

    return tell
