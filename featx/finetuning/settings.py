"""Settings of fine-tuning by keyword: those of the network and its pictures, and those of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from featx._internal.choices import Kept, Optimizer, Schedule
from featx.errors import unknown_setting
from featx.extraction import NetworkFields


class TrainingFields(TypedDict, total=False):
    """Settings of the training of a tail and its head; :class:`featx.tail.TailHead` says what they mean."""

    optimizer: Optimizer
    learning_rate: float
    momentum: float
    weight_decay: float
    schedule: Schedule
    label_smoothing: float
    batch_size: int
    epochs: int
    patience: int
    keep: Kept


class FinetuneFields(NetworkFields, TrainingFields, total=False):
    """Keyword arguments of :func:`featx.finetune` besides those that its signature names."""


def divided(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the network and its pictures, and those of training.

    Raises:
        SettingError: a name that neither has.
    """
    known = FinetuneFields.__annotations__
    for name in settings:
        if name not in known:
            raise unknown_setting(name, known, "fine-tuning")
    network = {name: value for name, value in settings.items() if name in NetworkFields.__annotations__}
    return network, {name: value for name, value in settings.items() if name not in network}
