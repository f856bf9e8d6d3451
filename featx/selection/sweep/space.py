"""What is searched: one table, of which each head takes the parameters that it has.

A scale says how Optuna sees a parameter: on an axis on which neighbours behave alike. Its ``encode`` turns a head's
value into a place on that axis, ``decode`` turns a place into a value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_args

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from featx._internal.choices import SweptHead
from featx.heads import HEADS

SWEPT_HEADS: tuple[str, ...] = get_args(SweptHead)


class Scale(Protocol):
    """How one parameter is searched."""

    @property
    def distribution(self) -> BaseDistribution:
        """The axis, as Optuna sees it."""

    def encode(self, value: Any) -> Any:
        """The place of a value."""

    def decode(self, place: Any) -> Any:
        """The value of a place."""


@dataclass(frozen=True)
class Choice:
    """One of a few values without an order."""

    values: tuple[Any, ...]

    @property
    def distribution(self) -> BaseDistribution:
        """Categories."""
        return CategoricalDistribution(self.values)

    def encode(self, value: Any) -> Any:
        """Itself."""
        return value

    def decode(self, place: Any) -> Any:
        """Itself."""
        return place


@dataclass(frozen=True)
class Steps:
    """``low``, ``low + step``, ... ``high``; whole numbers if the step is one."""

    low: float
    high: float
    step: float

    @property
    def distribution(self) -> BaseDistribution:
        """Even steps."""
        if isinstance(self.step, int):
            return IntDistribution(int(self.low), int(self.high), step=self.step)
        return FloatDistribution(self.low, self.high, step=self.step)

    def encode(self, value: Any) -> Any:
        """Itself."""
        return value

    def decode(self, place: Any) -> Any:
        """Itself, without the dust of adding steps up."""
        return place if isinstance(self.step, int) else round(place, 10)


@dataclass(frozen=True)
class PowersOfTwo:
    """``low`` to ``high``, both powers of two; the axis is the exponent."""

    low: int
    high: int

    @property
    def distribution(self) -> BaseDistribution:
        """Exponents."""
        return IntDistribution(self.encode(self.low), self.encode(self.high))

    def encode(self, value: Any) -> int:
        """Its exponent, rounded."""
        return round(math.log2(value))

    def decode(self, place: Any) -> int:
        """Two to that power."""
        return 1 << int(place)


@dataclass(frozen=True)
class Logarithmic:
    """``low`` to ``high``, each decade as probable as any other, to three digits.

    With ``or_zero`` the decade below ``low`` stands for 0: next to the smallest values, where it belongs.
    """

    low: float
    high: float
    or_zero: bool = False

    @property
    def distribution(self) -> BaseDistribution:
        """Logarithms."""
        return FloatDistribution(self.low / 10 if self.or_zero else self.low, self.high, log=True)

    def encode(self, value: Any) -> float:
        """Itself, and 0 the lowest place."""
        return float(value) if value or not self.or_zero else self.low / 10

    def decode(self, place: Any) -> float:
        """Its value to three digits."""
        return 0.0 if place < self.low else float(f"{place:.3g}")


SPACE: dict[str, Scale] = {
    "input": Choice(("avg", "max", "flat")),
    "layers": Steps(1, 3, 1),
    "hidden": PowersOfTwo(64, 1024),
    "dropout": Steps(0.0, 0.8, 0.05),
    "batch_norm": Choice((True, False)),
    "learning_rate": Logarithmic(1e-4, 1e-2),
    "weight_decay": Logarithmic(1e-6, 1e-1, or_zero=True),
    "batch_size": PowersOfTwo(16, 256),
    "label_smoothing": Steps(0.0, 0.2, 0.05),
    "mixup": Steps(0.0, 0.4, 0.1),
}


def search_space(head: str, inputs: Sequence[str], fixed: Sequence[str] = ()) -> dict[str, Scale]:
    """The scales of the parameters that a head has.

    Args:
        head: ``bn-mlp`` or ``mlp``.
        inputs: what may become of maps; fewer than two leave no choice.
        fixed: parameters that are not searched.
    """
    known = set(HEADS[head]._get_param_names()) - set(fixed)
    space = {name: scale for name, scale in SPACE.items() if name in known and name != "input"}
    return {"input": Choice(tuple(inputs)), **space} if "input" in known and len(inputs) > 1 else space


def defaults(head: str, space: dict[str, Scale]) -> dict[str, Any]:
    """The places of a head's own defaults."""
    params = HEADS[head]().get_params()
    return {name: scale.encode(params[name]) for name, scale in space.items()}
