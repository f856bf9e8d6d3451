"""Heads trained by Keras: the BatchNorm+Dropout network of fast.ai's lessons, and the plain one of many tutorials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from featx._keras import load_keras
from featx.errors import TrainingError
from featx.heads._base import Head, Progress, is_map

if TYPE_CHECKING:
    from numpy.typing import NDArray

PREDICT_ROWS = 256  # rows a compiled call; the last is filled up, so that nothing is compiled anew


class _KerasHead(Head):
    """Trains in epochs over shuffled batches; stops early if there are validation rows.

    Features are standardised first, with mean and deviation of the training rows, per column or per channel of a map.

    Attributes:
        best_epoch_: the epoch, counted from 1, whose weights were kept.
        history_: a list per measure (``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``), a value per epoch.
        mean_, scale_: float32 ``(d,)`` or ``(c,)``.
    """

    uses_validation = True
    _learned = ("mean_", "scale_")

    def __init__(
        self,
        *,
        input: str,
        hidden: int,
        dropout: float,
        learning_rate: float,
        batch_size: int,
        epochs: int,
        patience: int,
        random_state: int | None,
    ) -> None:
        self.input = input
        self.hidden = hidden
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.epochs = epochs
        self.patience = patience
        self.random_state = random_state

    def fit(self, X: Any, y: Any, validation_data: Any = None, progress: Progress | None = None) -> Self:
        """Train on ``X``, ``(n, d)`` or ``(n, h, w, c)``, and labels ``y``.

        With ``validation_data``, training stops after ``patience`` epochs without a better one, and the best epoch's
        weights are kept: the one of the highest validation accuracy, among equals the one of the lowest loss. (The loss
        alone misleads: with much dropout before batch norm it can rise while accuracy rises, see Li et al. 2019,
        "Understanding the disharmony between dropout and batch normalization".) Without, training lasts ``epochs``.

        Raises:
            TrainingError: the loss became not a number.
        """
        self._check_settings()
        X, numbers = self._training_maps(X, y)
        self.mean_, self.scale_ = _mean_and_scale(X)
        seeds = np.random.SeedSequence(self.random_state)
        model = self._model(seeds)
        keras = load_keras()
        model.compile(
            optimizer=keras.optimizers.Adam(self.learning_rate),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        callbacks, best = [_progress_callback(progress, self.epochs)], None
        validation = None
        if validation_data is not None:
            held_out, labels = validation_data
            check_consistent_length(held_out, labels)
            validation = _batches(self._as_input(held_out), self._numbers(labels), PREDICT_ROWS, None)
            best = _best_epoch_callback(self.patience)
            callbacks.append(best)
        batches = _batches(X, numbers, min(self.batch_size, len(X)), np.random.default_rng(seeds.spawn(1)[0]))
        fitted = model.fit(
            batches, epochs=self.epochs, validation_data=validation, callbacks=callbacks, shuffle=False, verbose=0
        )
        if not np.isfinite(fitted.history["loss"]).all():
            raise TrainingError(
                f"the loss became not a number in epoch {len(fitted.history['loss'])}; try a lower learning rate than "
                f"{self.learning_rate:g}"
            )
        self.history_ = {name: [float(v) for v in values] for name, values in fitted.history.items()}
        self.best_epoch_: int = best.epoch if best else len(self.history_["loss"])
        self.model_ = model
        return self

    def fit_again(self, X: Any, y: Any) -> Self:
        """Train on all rows for as many epochs as were best before. The history stays that of the measured training."""
        check_is_fitted(self)
        epochs, history = self.epochs, self.history_
        self.epochs = self.best_epoch_
        try:
            return self.fit(X, y)
        finally:
            self.epochs, self.history_ = epochs, history

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """The network's probabilities, ``(n, classes)``."""
        check_is_fitted(self)
        X = self._as_input(X)
        probabilities = np.empty((len(X), len(self.classes_)), np.float32)
        block = np.zeros((PREDICT_ROWS, *X.shape[1:]), np.float32)
        for start in range(0, len(X), PREDICT_ROWS):
            rows = X[start : start + PREDICT_ROWS]
            block[: len(rows)] = rows
            probabilities[start : start + len(rows)] = np.asarray(self.model_.predict_on_batch(block))[: len(rows)]
        return probabilities

    def _learned_arrays(self) -> dict[str, NDArray[Any]]:
        weights = {f"weights_{i:02}": value for i, value in enumerate(self.model_.get_weights())}
        return super()._learned_arrays() | weights

    def _restore(self, state: dict[str, NDArray[Any]]) -> None:
        super()._restore(state)
        self.model_ = self._model(np.random.SeedSequence(0))
        self.model_.set_weights([state[name] for name in sorted(state) if name.startswith("weights_")])

    def __getstate__(self) -> dict[str, Any]:
        """For pickling and copying: arrays in place of the Keras model."""
        plain: dict[str, Any] = {**super().__getstate__()}
        if plain.pop("model_", None) is not None:
            plain["_weights"] = self.model_.get_weights()
        return plain

    def __setstate__(self, state: dict[str, Any]) -> None:
        weights = state.pop("_weights", None)
        super().__setstate__(state)
        if weights is not None:
            self.model_ = self._model(np.random.SeedSequence(0))
            self.model_.set_weights(weights)

    def _check_settings(self) -> None:
        self._check_input()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1. Got {self.dropout!r} instead.")
        for name in ("hidden", "batch_size", "epochs", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive. Got {getattr(self, name)!r} instead.")

    def _training_maps(self, X: Any, y: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Maps to be flattened stay maps, made float32 batch by batch; to be averaged, they are averaged once."""
        if not is_map(X) or self.input != "flat":
            rows, numbers = self._training_rows(X, y)
            self.feature_shape_ = rows.shape[1:]
            return rows, numbers
        check_consistent_length(X, y)
        some_pixel = X[:, 0, 0]
        _, numbers = self._training_rows(some_pixel, y)
        self.feature_shape_ = tuple(X.shape[1:])
        self.n_features_in_ = int(np.prod(self.feature_shape_))
        return X, numbers

    def _as_input(self, X: Any) -> NDArray[Any]:
        if not is_map(X) or self.input != "flat":
            rows = self._rows(X)
            return rows.reshape(len(rows), *self.feature_shape_)
        check_is_fitted(self)
        if X.shape[1:] != self.feature_shape_:
            raise ValueError(f"Maps must be {self.feature_shape_} as in training. Got {X.shape[1:]} instead.")
        for start in range(0, len(X), PREDICT_ROWS):
            if not np.isfinite(X[start : start + PREDICT_ROWS]).all():
                raise ValueError("Input X contains NaN or infinity.")
        maps: NDArray[Any] = X
        return maps

    def _numbers(self, labels: Any) -> NDArray[np.int64]:
        numbers: NDArray[np.int64] = np.searchsorted(self.classes_, labels)
        known = self.classes_[np.minimum(numbers, len(self.classes_) - 1)] == labels
        if not np.all(known):
            raise ValueError(
                f"validation rows have a class that no training row has: {np.asarray(labels)[~known][0]!r}"
            )
        return numbers

    def _model(self, seeds: np.random.SeedSequence) -> Any:
        keras = load_keras()
        features = keras.Input(self.feature_shape_)
        x = (features - self.mean_) * (1 / self.scale_)
        if len(self.feature_shape_) == 3:
            x = self._flatten(x)
        return keras.Model(features, self._network(keras.layers, x, len(self.classes_), _Seeds(seeds)))

    def _flatten(self, x: Any) -> Any:
        return load_keras().layers.Flatten()(x)

    def _network(self, layers: Any, x: Any, n_classes: int, seeds: _Seeds) -> Any:
        raise NotImplementedError  # pragma: no cover - an abstract class


class BNMLPHead(_KerasHead):
    """The BatchNorm+Dropout head of fast.ai's lessons 3 to 5, on cached conv features.

    MaxPooling and Flatten (maps, ``input="flat"``), Dropout(p/2), Dense, BatchNorm, Dropout(p/2), Dense, BatchNorm,
    Dropout(p), Dense(classes, softmax).

    Args:
        input: what becomes of maps: ``flat`` (max-pooled 2 x 2, then flat), ``avg`` or ``max``.
        hidden: width of the two hidden layers.
        dropout: p.
        learning_rate: of Adam.
        batch_size: rows a step.
        epochs: at most.
        patience: epochs without better validation figures before stopping.
        random_state: seed of weights, dropout and order.
    """

    def __init__(
        self,
        *,
        input: str = "avg",
        hidden: int = 512,
        dropout: float = 0.5,
        learning_rate: float = 1e-3,
        batch_size: int = 64,
        epochs: int = 100,
        patience: int = 20,
        random_state: int | None = 0,
    ) -> None:
        super().__init__(
            input=input,
            hidden=hidden,
            dropout=dropout,
            learning_rate=learning_rate,
            batch_size=batch_size,
            epochs=epochs,
            patience=patience,
            random_state=random_state,
        )

    def _flatten(self, x: Any) -> Any:
        if min(x.shape[1:3]) > 1:
            x = load_keras().layers.MaxPooling2D(2, padding="same")(x)  # "same": odd maps keep their last row
        return super()._flatten(x)

    def _network(self, layers: Any, x: Any, n_classes: int, seeds: _Seeds) -> Any:
        p = self.dropout
        for _ in range(2):
            x = layers.Dropout(p / 2, seed=seeds.next())(x)
            x = layers.Dense(self.hidden, activation="relu", kernel_initializer=seeds.initializer())(x)
            x = layers.BatchNormalization(momentum=0.9)(x)  # small sets take few steps: follow them closely
        x = layers.Dropout(p, seed=seeds.next())(x)
        return layers.Dense(n_classes, activation="softmax", kernel_initializer=seeds.initializer())(x)


class MLPHead(_KerasHead):
    """The head of many tutorials: Flatten, Dense(hidden, relu), Dropout, Dense(classes, softmax).

    Args:
        input: what becomes of maps: ``flat``, ``avg`` or ``max``.
        hidden: width of the hidden layer.
        dropout: share of hidden units left out in training.
        learning_rate: of Adam.
        batch_size: rows a step.
        epochs: at most.
        patience: epochs without better validation figures before stopping.
        random_state: seed of weights, dropout and order.
    """

    def __init__(
        self,
        *,
        input: str = "avg",
        hidden: int = 64,
        dropout: float = 0.5,
        learning_rate: float = 1e-3,
        batch_size: int = 64,
        epochs: int = 50,
        patience: int = 8,
        random_state: int | None = 0,
    ) -> None:
        super().__init__(
            input=input,
            hidden=hidden,
            dropout=dropout,
            learning_rate=learning_rate,
            batch_size=batch_size,
            epochs=epochs,
            patience=patience,
            random_state=random_state,
        )

    def _network(self, layers: Any, x: Any, n_classes: int, seeds: _Seeds) -> Any:
        x = layers.Dense(self.hidden, activation="relu", kernel_initializer=seeds.initializer())(x)
        x = layers.Dropout(self.dropout, seed=seeds.next())(x)
        return layers.Dense(n_classes, activation="softmax", kernel_initializer=seeds.initializer())(x)


class _Seeds:
    """A fresh seed for each layer, so that no global generator is touched."""

    def __init__(self, seeds: np.random.SeedSequence) -> None:
        self._seeds = iter(seeds.generate_state(64).tolist())

    def next(self) -> int:
        return int(next(self._seeds)) % 2**31

    def initializer(self) -> Any:
        return load_keras().initializers.GlorotUniform(seed=self.next())


def _mean_and_scale(X: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation per column, or per channel of maps, summed in float64 over blocks of rows."""
    width = X.shape[-1]
    count, total, squares = 0, np.zeros(width), np.zeros(width)
    for start in range(0, len(X), 256):
        block = X[start : start + 256].reshape(-1, width).astype(np.float64)
        count += len(block)
        total += block.sum(axis=0)
        squares += np.square(block).sum(axis=0)
    if not np.isfinite(squares).all():
        raise ValueError("Input X contains NaN or infinity.")
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    deviation[deviation < 1e-6 * np.maximum(np.abs(mean), 1e-6)] = 1  # a constant column carries nothing: leave it 0
    return mean.astype(np.float32), deviation.astype(np.float32)


def _batches(X: NDArray[Any], numbers: NDArray[np.int64], batch_size: int, rng: np.random.Generator | None) -> Any:
    """Batches for Keras, in a new order each epoch if there is a generator. Float32 is made of one batch at a time."""

    class Batches(load_keras().utils.PyDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.on_epoch_end()

        def __len__(self) -> int:
            return -(-len(X) // batch_size) if rng is None else max(1, len(X) // batch_size)

        def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            rows = self.order[index * batch_size : (index + 1) * batch_size]
            return X[rows].astype(np.float32), numbers[rows]

        def on_epoch_end(self) -> None:
            self.order = np.arange(len(X)) if rng is None else rng.permutation(len(X))

    return Batches()


def _best_epoch_callback(patience: int) -> Any:
    class BestEpoch(load_keras().callbacks.Callback):  # type: ignore[misc]
        """Stops after ``patience`` epochs without a better one, and ends with the weights of the best."""

        best, epoch, waited = (-1.0, 0.0), 0, 0
        weights: Any = None

        def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
            now = logs["val_accuracy"], -logs["val_loss"]
            if now > self.best:
                self.best, self.epoch, self.waited, self.weights = now, epoch + 1, 0, self.model.get_weights()
            else:
                self.waited += 1
                self.model.stop_training |= self.waited >= patience

        def on_train_end(self, logs: Any = None) -> None:
            if self.weights is not None:
                self.model.set_weights(self.weights)

    return BestEpoch()


def _progress_callback(progress: Progress | None, epochs: int) -> Any:
    class Progress(load_keras().callbacks.Callback):  # type: ignore[misc]
        """Tells how far training is, and ends it when the loss is no longer a number."""

        def on_train_begin(self, logs: Any = None) -> None:
            self.tell(0)

        def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
            self.tell(epoch + 1)
            self.model.stop_training |= not np.isfinite(logs["loss"])

        def tell(self, done: int) -> None:
            if progress is not None:
                progress("training", done, epochs)

    return Progress()
