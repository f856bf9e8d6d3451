"""Heads of dense layers: the BatchNorm+Dropout network of fast.ai's lessons, and the plain one of many tutorials."""

from __future__ import annotations

from featx.heads.keras_head import KerasHead
from featx.heads.network.architecture import Architecture


class BNMLPHead(KerasHead):
    """The BatchNorm+Dropout head of fast.ai's lessons 3 to 5, on cached conv features.

    MaxPooling and Flatten (maps, ``input="flat"``), Dropout(p/2), Dense, BatchNorm, Dropout(p/2), Dense, BatchNorm,
    Dropout(p), Dense(classes, softmax). Trained by Adam, in epochs over shuffled batches, on features standardised by
    the training rows; stops early if there are validation rows.

    Args:
        input (``flat``, ``avg`` or ``max``, default ``avg``): what becomes of maps; ``flat`` ones are max-pooled 2 x 2
            first.
        hidden (int, default 512): width of the hidden layers.
        layers (int, default 2): number of hidden layers, at least 1.
        batch_norm (bool, default True): whether batch norm follows each hidden layer.
        dropout (float, default 0.5): p, from 0 to below 1.
        learning_rate (float, default 1e-3): learning rate of Adam.
        weight_decay (float, default 0.0): weight decay of AdamW: each step takes ``learning_rate * weight_decay`` of
            every kernel away; biases and batch norm are spared. 0 is Adam.
        label_smoothing (float, default 0.0): share of each target that is spread over all classes, below 1.
        mixup (float, default 0.0): alpha of the Beta distribution that mixup draws a share from, for each row, to mix
            it, standardised, and its target with another of its batch. 0 is off.
        batch_size (int, default 64): rows per step.
        epochs (int, default 100): number of epochs at most.
        patience (int, default 20): epochs without better validation figures before stopping.
        random_state (int or None, default 0): seed of weights, dropout, order, draws and mixing.

    Attributes:
        classes_: the labels, sorted, ``(classes,)``.
        n_features_in_ (int): columns of ``X`` once it is flat or pooled.
        feature_shape_: shape of one row once it is pooled, ``(d,)``, or of a map that becomes flat, ``(h, w, c)``.
        mean_, scale_: float32 ``(d,)`` or ``(c,)``, means and deviations of the training rows.
        weights_: list of float32 arrays, in the order of ``model_.weights``.
        history_: dict of lists, a list per measure with a value per epoch.
        best_epoch_ (int): the epoch, from 1, whose weights were kept.

    See Also:
        MLPHead: the same without batch norm, and narrower.

    References:
        S. Ioffe & C. Szegedy (2015), "Batch normalization: accelerating deep network training by reducing internal
        covariate shift", ICML.
        N. Srivastava et al. (2014), "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15.
        D. Kingma & J. Ba (2015), "Adam: a method for stochastic optimization", ICLR.
        I. Loshchilov & F. Hutter (2019), "Decoupled weight decay regularization", ICLR.
        C. Szegedy et al. (2016), "Rethinking the Inception architecture for computer vision", CVPR.
        H. Zhang et al. (2018), "mixup: beyond empirical risk minimization", ICLR.

    Example:
        >>> import numpy as np
        >>> from featx.heads import BNMLPHead
        >>> y = np.arange(60) % 2
        >>> X = np.random.default_rng(0).normal(size=(60, 8)) + 2 * y[:, None]
        >>> head = BNMLPHead(hidden=16, epochs=5, batch_size=16).fit(X, y, validation_data=(X[:20], y[:20]))
        >>> head.predict_proba(X).shape
        (60, 2)
        >>> sorted(head.history_)
        ['accuracy', 'loss', 'val_accuracy', 'val_loss']
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

    def downsamples(self, feature_shape: tuple[int, ...]) -> bool:
        """Whether maps of this shape are max-pooled, 2 x 2, before they become flat."""
        return self.input == "flat" and len(feature_shape) == 3 and min(feature_shape[:2]) > 1

    def architecture(self, width: int, n_classes: int) -> Architecture:
        """Network on rows of ``width`` columns."""
        return Architecture(width, n_classes, self.hidden, self.layers, bool(self.batch_norm), dropout_first=True)


class MLPHead(KerasHead):
    """The head of many tutorials: Flatten, Dense(hidden, relu), Dropout, Dense(classes, softmax).

    Trained by Adam, in epochs over shuffled batches, on features standardised by the training rows; stops early if
    there are validation rows.

    Args:
        input (``flat``, ``avg`` or ``max``, default ``avg``): what becomes of maps.
        hidden (int, default 64): width of the hidden layers.
        layers (int, default 1): number of hidden layers, at least 1.
        dropout (float, default 0.5): share of hidden units left out in training, from 0 to below 1.
        learning_rate (float, default 1e-3): learning rate of Adam.
        weight_decay (float, default 0.0): weight decay of AdamW: each step takes ``learning_rate * weight_decay`` of
            every kernel away; biases are spared. 0 is Adam.
        label_smoothing (float, default 0.0): share of each target that is spread over all classes, below 1.
        mixup (float, default 0.0): alpha of the Beta distribution that mixup draws a share from, for each row, to mix
            it, standardised, and its target with another of its batch. 0 is off.
        batch_size (int, default 64): rows per step.
        epochs (int, default 50): number of epochs at most.
        patience (int, default 8): epochs without better validation figures before stopping.
        random_state (int or None, default 0): seed of weights, dropout, order, draws and mixing.

    Attributes:
        classes_: the labels, sorted, ``(classes,)``.
        n_features_in_ (int): columns of ``X`` once it is flat or pooled.
        feature_shape_: shape of one row once it is pooled, ``(d,)``, or of a map that becomes flat, ``(h, w, c)``.
        mean_, scale_: float32 ``(d,)`` or ``(c,)``, means and deviations of the training rows.
        weights_: list of float32 arrays, in the order of ``model_.weights``.
        history_: dict of lists, a list per measure with a value per epoch.
        best_epoch_ (int): the epoch, from 1, whose weights were kept.

    See Also:
        BNMLPHead: wider, with batch norm and more dropout.

    References:
        N. Srivastava et al. (2014), "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15.
        D. Kingma & J. Ba (2015), "Adam: a method for stochastic optimization", ICLR.

    Example:
        >>> import numpy as np
        >>> from featx.heads import MLPHead
        >>> y = np.arange(60) % 2
        >>> X = np.random.default_rng(0).normal(size=(60, 8)) + 2 * y[:, None]
        >>> head = MLPHead(hidden=8, epochs=5, batch_size=16).fit(X, y)
        >>> head.predict_proba(X).shape, len(head.history_["loss"])
        ((60, 2), 5)
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
        """Network on rows of ``width`` columns."""
        return Architecture(width, n_classes, self.hidden, self.layers, batch_norm=False, dropout_first=False)
