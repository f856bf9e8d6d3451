"""Parameters of heads given by name, for the signatures of the functions that pass them on."""

from __future__ import annotations

from typing import TypedDict

from featx._internal.choices import Input


class ParamsBesideC(TypedDict, total=False):
    """Parameters of the heads in ``HEADS``, but for the one of which a whole path can be had at once.

    Attributes:
        input: all heads: what becomes of maps.
        max_iter: logreg, svm: steps of the solver, at most.
        n_neighbors, temperature: knn: how many vote, and the divisor of their cosines.
        hidden, layers, batch_norm, dropout: mlp, bn-mlp: the network.
        learning_rate, weight_decay, label_smoothing, mixup, batch_size, epochs, patience: mlp, bn-mlp: its training.
    """

    input: Input
    max_iter: int
    n_neighbors: int
    temperature: float
    hidden: int
    layers: int
    batch_norm: bool
    dropout: float
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    mixup: float
    batch_size: int
    epochs: int
    patience: int


class HeadParams(ParamsBesideC, total=False):
    """Parameters of the heads in ``HEADS``; which head has which, its own docstring says.

    Attributes:
        C: logreg, svm, ridge: inverse strength of the penalty, above 0.
    """

    C: float
