"""Optimizers of a tail's training, and how their learning rate goes up and down."""

from __future__ import annotations

from typing import Any, get_args

from featx._internal.choices import Optimizer, Schedule
from featx._internal.keras import load_keras

OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)
SCHEDULES: tuple[str, ...] = get_args(Schedule)
WARM_UP = 0.05  # share of the steps in which the learning rate rises to its full height, on the cosine schedule


def learning_rate_of(schedule: str, learning_rate: float, steps: int) -> Any:
    """Learning rate as Keras takes it, over all the steps of a training.

    Args:
        schedule: one of ``SCHEDULES``.
        learning_rate: the rate at its height.
        steps: number of steps.
    """
    if schedule == "constant":
        return learning_rate
    decay = load_keras().optimizers.schedules.CosineDecay
    warm = int(WARM_UP * steps)
    if not warm:
        return decay(learning_rate, max(steps, 1))
    return decay(0.0, max(steps - warm, 1), warmup_target=learning_rate, warmup_steps=warm)


def optimizer_of(name: str, learning_rate: Any, momentum: float, weight_decay: float) -> Any:
    """A Keras optimizer, whose weight decay spares biases and batch norm.

    Args:
        name: one of ``OPTIMIZERS``.
        learning_rate: as of :func:`learning_rate_of`.
        momentum: of ``sgd``.
        weight_decay: decoupled; not for ``adam``.
    """
    optimizers = load_keras().optimizers
    if name == "adam":
        return optimizers.Adam(learning_rate)
    if name == "sgd":
        optimizer = optimizers.SGD(learning_rate, momentum=momentum, weight_decay=weight_decay or None)
    else:
        optimizer = optimizers.AdamW(learning_rate, weight_decay=weight_decay)
    if weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer
