"""A head that has layers of the network before it, the tail: trained together, on what the trunk gave or on pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

import numpy as np
from scipy.special import softmax
from sklearn.utils.validation import check_is_fitted

from featx._internal.choices import Kept
from featx._internal.keras import load_keras
from featx._internal.progress import Progress, silent
from featx.backbones import SCRATCH, Division, build_tail, has_mean_image, is_model_file, set_mean_image
from featx.errors import ModelError, SettingError, TrainingError, one_line
from featx.heads import Choice, Constraint, Groups, Head, Number, OnEpoch, Scores, Stopping, Whole, as_rows, make_head
from featx.tail.batches import in_batches, of_epoch
from featx.tail.checkpoints import Checkpoints
from featx.tail.optimizers import OPTIMIZERS, SCHEDULES, learning_rate_of, optimizer_of
from featx.tail.training import TailTraining, heard_by

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEPT: tuple[str, ...] = get_args(Kept)
EPOCHS = 20  # at most, by default
LARGEST_HALF = 6e4  # of float16, nearly
MEAN_ROWS = 256  # pictures that are read at once for the mean image


@dataclass(frozen=True)
class Start:
    """Starting point of a tail's training.

    Attributes:
        head: a fitted head on the tail's output.
        rows: training rows and labels ``(X, y)`` on which, without ``head``, a head is fitted first, on what the tail
            gives of them before it is trained. Without either the head starts at random.
        checkpoints: folder to write the state into from time to time; training goes on from a state in it.
        callback: Keras callback that hears of each epoch's end, such as ``keras.callbacks.TensorBoard``.
    """

    head: Head | None = None
    rows: tuple[Any, Any] | None = None
    checkpoints: Checkpoints | None = None
    callback: Any = None


class TailHead(Head):
    """The tail of a network and a head on it, trained together by gradient descent.

    ``X`` is what the trunk gave at the cut (or pixels, 0 to 255): an array; rows that are read when asked for; or
    something with ``of_epoch(number)`` that gives such rows anew for each epoch. Batch norm of the network stays in
    inference mode, in training too; frozen layers stay as they were, to the bit.

    Args:
        division (dict): fields of a :class:`featx.backbones.Division`: which network, cut where, which layers train.
        weights (str, default ``imagenet``): weights of the network to start from; see :func:`featx.build_trunk`.
        weights_random_state (int, default 0): seed of the weights, if they are random: that of the trunk, whatever
            seed training has.
        head (str, default ``logreg``): name of the head on the tail.
        head_params (dict or None, default None): its settings.
        optimizer (``adamw``, ``adam`` or ``sgd``, default ``adamw``): how the weights are stepped.
        learning_rate (float, default 1e-4): the rate at its height.
        momentum (float, default 0.9): momentum of ``sgd``, from 0 to below 1.
        weight_decay (float, default 1e-4): decoupled weight decay of kernels; not for ``adam``.
        schedule (``cosine`` or ``constant``, default ``cosine``): schedule of the learning rate; ``cosine`` goes down
            to 0, after a short warm-up.
        label_smoothing (float, default 0.0): share of each target that is spread over all classes, below 1.
        batch_size (int, default 32): rows per step.
        epochs (int, default 20): number of epochs at most.
        patience (int, default 10): epochs without better validation figures before stopping.
        keep (``best`` or ``last``, default ``best``): the best epoch on the validation rows; or the last of all, so
            that what is measured on these rows was not chosen by them.
        random_state (int, default 0): seed of new weights, dropout, order and draws.

    Attributes:
        classes_: the labels, sorted, ``(classes,)``.
        feature_shape_: shape of one row of ``X``.
        history_: a list per measure (``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``), a value per epoch.
        best_epoch_ (int): the epoch, from 1, whose weights were kept; 0 if none was better than what training started
            from.
        epoch_seconds_: list of the seconds that training took in each epoch, without validation.
        start_: validation loss and accuracy before the first epoch, if the head was fitted before.
        stopped_: why training ended: ``epochs``, ``patience``, ``nan``, or ``on_epoch`` said so.

    References:
        J. Yosinski et al. (2014), "How transferable are features in deep neural networks?", NeurIPS.
        A. Kumar et al. (2022), "Fine-tuning can distort pretrained features and underperform out-of-distribution",
        ICLR.
        I. Loshchilov & F. Hutter (2017), "SGDR: stochastic gradient descent with warm restarts", ICLR.
        I. Loshchilov & F. Hutter (2019), "Decoupled weight decay regularization", ICLR.

    Example:
        >>> import numpy as np
        >>> from featx.tail import TailHead
        >>> division = {"backbone": "cnn4", "size": 46, "preprocess": "none", "cut": "pixels", "end": "", "trains": ()}
        >>> X = np.random.default_rng(0).integers(0, 256, (8, 46, 46, 3))
        >>> head = TailHead(division, weights="none", batch_size=4, epochs=2).fit(X, np.arange(8) % 2)
        >>> head.predict_proba(X).shape, len(head.history_["loss"]), head.stopped_
        ((8, 2), 2, 'epochs')
    """

    constraints: ClassVar[Mapping[str, Constraint]] = {
        **Head.constraints,
        "weights_random_state": Whole(0),
        "optimizer": Choice(OPTIMIZERS),
        "learning_rate": Number(0, above=True),
        "momentum": Number(0, 1, below=True),
        "weight_decay": Number(0),
        "schedule": Choice(SCHEDULES),
        "label_smoothing": Number(0, 1, below=True),
        "batch_size": Whole(1),
        "epochs": Whole(1),
        "patience": Whole(1),
        "keep": Choice(KEPT),
        "random_state": Whole(0),
    }
    uses_validation = True
    trains_in_epochs = True
    differentiable = True
    has_tail = True
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
        epochs: int = EPOCHS,
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

    def check_settings(self) -> None:
        """Check the settings, those of the head on the tail too.

        Raises:
            SettingError: a setting out of its range, or a head that cannot be trained with a tail.
        """
        super().check_settings()
        head = self._plain_head()
        if not head.differentiable:
            raise SettingError(
                f"the {self.head} head has no weights that could be trained further; take another `head`", "head"
            )
        head.check_settings()

    def fit(
        self,
        X: Any,
        y: Any,
        validation_data: Any = None,
        progress: Progress | None = None,
        groups: Any = None,
        on_epoch: OnEpoch | None = None,
    ) -> Self:
        """Train tail and head, from the network's weights and a random head; see :meth:`fit_from`."""
        return self.fit_from(Start(), X, y, validation_data, progress, groups, on_epoch)

    def fit_from(
        self,
        start: Start,
        X: Any,
        y: Any,
        validation_data: Any = None,
        progress: Progress | None = None,
        groups: Any = None,
        on_epoch: OnEpoch | None = None,
    ) -> Self:
        """Train tail and head.

        Args:
            start: head and state to start from.
            X: training rows, ``(n, ...)``; see the class.
            y: their labels, ``(n,)``.
            validation_data: ``(X, y)``; the epoch of the highest accuracy on them is kept, among equals that of the
                lowest loss. Without, all epochs are trained and the last is kept.
            progress: called with "training", how many rows were trained on and how many there are at most.
            groups: ``(n,)``, the same number for views of one picture; an epoch draws one of each.
            on_epoch: called after each epoch with its number, from 1, and its measures; training ends if it returns
                true.

        Raises:
            SettingError: a setting out of its range.
            TrainingError: rows that cannot be trained on, or a loss that is not a number in the first epoch.
        """
        self.check_settings()
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.feature_shape_ = tuple(X.shape[1:])
        groups = Groups(groups, len(labels))
        tail = self._built_tail(self.weights)
        if has_mean_image(tail):
            set_mean_image(tail, _mean_image(*(start.rows or (X, y))))
        state = start.checkpoints.newest() if start.checkpoints else None
        head = start.head
        if head is None and state is None and start.rows is not None:
            head = self._head_first(tail, *start.rows, validation_data)
        self._assemble(tail, head)
        training = self._training(X, labels, groups, validation_data)
        self._compile(training.steps)
        training.begin(state, measured=head is not None)
        with heard_by(start.callback, self._model, on_epoch) as tell:
            self.stopped_ = training.run(progress or silent, tell, start.checkpoints)
        self.history_ = training.state.history
        self.best_epoch_ = training.state.best_epoch
        self.start_ = training.state.start
        self.epoch_seconds_ = training.state.seconds
        return self

    def fit_again(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Nothing: what takes minutes is trained once."""
        return self

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Probabilities ``(n, classes)``, float32, of rows or something that gives rows."""
        check_is_fitted(self, "classes_")
        blocks = [softmax(logits, axis=1) for logits in self.logits(X)]
        return np.concatenate([*blocks, np.zeros((0, len(self.classes_)), np.float32)])

    def logits(self, X: Any) -> Iterator[NDArray[np.float32]]:
        """Logits ``(batch, classes)`` of rows, batch by batch."""
        return in_batches(self.model_, X, self.batch_size)

    def maps(self, X: Any) -> NDArray[np.floating[Any]]:
        """Maps ``(n, h, w, c)`` that the head sees: the output of the tail for rows.

        Raises:
            TrainingError: the tail's output has no places.
        """
        check_is_fitted(self, "classes_")
        tail = self.model_.tail
        shape = tail.output_shape[1:]
        if len(shape) != 3:
            raise TrainingError("the layer that the head sees gives no map; `layer` or `unfreeze` chooses another")
        return np.concatenate([*in_batches(tail, X, self.batch_size), np.zeros((0, *shape), np.float32)])

    def scores(self, feature_shape: tuple[int, ...], weights: list[NDArray[np.float32]] | None = None) -> Scores:
        """Scores of the head on the tail, as a function of :meth:`maps`."""
        check_is_fitted(self, "classes_")
        return self._plain_head().scores(feature_shape, weights or self.model_.top.get_weights())

    def move_weights(self, path: str) -> None:
        """Take the network from another place, if it is a user's own model file."""
        if is_model_file(self.division["backbone"]):
            self.division = {**self.division, "backbone": path}

    @property
    def model_(self) -> Any:
        """Keras model from what the trunk gives, or pixels, to logits; built when first needed."""
        if self._model is None:  # a head that was loaded, and may only be looked at
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

    def _learned_arrays(self) -> dict[str, NDArray[Any]]:
        return {f"weights_{i:04}": np.asarray(v) for i, v in enumerate(self.model_.weights)}

    def _restore(self, state: dict[str, NDArray[Any]]) -> None:
        Division(**self.division)  # or what is wrong with it
        self._saved: list[NDArray[Any]] = [state[name] for name in sorted(state) if name.startswith("weights_")]
        self._model = None

    def _plain_head(self) -> Head:
        """Unfitted head of the kind that is on the tail."""
        return make_head(self.head, **{"random_state": self.random_state, **(self.head_params or {})})

    def _built_tail(self, weights: str | None) -> Any:
        division = Division(**self.division)
        seed = self.random_state if division.backbone in SCRATCH else self.weights_random_state
        return build_tail(division, weights=weights, random_state=seed)

    def _head_first(self, tail: Any, X: Any, y: Any, validation_data: Any) -> Head:
        """Head fitted alone, on what the tail gives as it is."""
        head = self._plain_head()

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

    def _assemble(self, tail: Any, head: Head | None) -> None:
        """Make the model of a tail and a fitted head, or a head that starts at random."""
        from featx.tail.joined import Joined  # now, since it loads Keras

        shape = tail.output_shape[1:]
        top = (head or self._plain_head()).keras_layers(shape, len(self.classes_), self.random_state)
        if head is not None:
            top.set_weights(head.keras_weights())
        self._model = Joined(tail, top)
        self._model(np.zeros((1, *self.feature_shape_), np.float32))  # so that its weights and shapes are known

    def _training(self, X: Any, labels: NDArray[np.int64], groups: Groups, validation_data: Any) -> TailTraining:
        validation = None if validation_data is None else (validation_data[0], self._numbers(validation_data[1]))
        keep_best = self.keep == "best" and validation is not None
        return TailTraining(
            self._model,
            X,
            labels,
            n_classes=len(self.classes_),
            groups=groups,
            batch_size=min(self.batch_size, len(groups)),
            validation=validation,
            stopping=Stopping(self.epochs, self.patience, keep_best),
            random_state=self.random_state,
        )

    def _compile(self, steps: int) -> None:
        """Compile the model for epochs of so many steps."""
        keras = load_keras()
        rate = learning_rate_of(self.schedule, self.learning_rate, steps * self.epochs)
        on_cpu = keras.backend.backend() == "tensorflow" and not _has_gpu()
        self._model.compile(
            optimizer=optimizer_of(self.optimizer, rate, self.momentum, self.weight_decay),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=self.label_smoothing),
            metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
            jit_compile=False if on_cpu else "auto",  # there XLA's convolutions are slow
        )


def _mean_image(X: Any, y: Any) -> NDArray[np.float32]:
    """Mean of pictures, ``(size, size, 3)`` in 0 to 255."""
    X = of_epoch(X, 0)
    total = np.zeros(X.shape[1:], np.float64)
    for start in range(0, len(y), MEAN_ROWS):
        total += np.asarray(X[start : start + MEAN_ROWS], np.float64).sum(axis=0)
    return (total / len(y)).astype(np.float32)


def _has_gpu() -> bool:
    return any("gpu" in device.lower() for device in load_keras().distribution.list_devices())
