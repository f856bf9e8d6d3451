"""Constraints of settings: declared once by the class that takes them, checked before any work."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

from featx.errors import SettingError, require_choice, require_whole


class Constraint(Protocol):
    """Values that a setting may have."""

    def check(self, setting: str, value: Any) -> None:
        """Raise :class:`featx.errors.SettingError`, which names the setting, unless ``value`` is one of them."""


@dataclass(frozen=True)
class Choice:
    """One of a few names."""

    names: Iterable[str]

    def check(self, setting: str, value: Any) -> None:
        """See :class:`Constraint`."""
        require_choice(setting, value, self.names)


@dataclass(frozen=True)
class Whole:
    """A whole number, at least ``low``; or None, if that means something."""

    low: int
    or_none: bool = False

    def check(self, setting: str, value: Any) -> None:
        """See :class:`Constraint`."""
        if value is not None or not self.or_none:
            require_whole(setting, value, self.low)


@dataclass(frozen=True)
class Number:
    """A finite number, above or at least ``low``, below or at most ``high``."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def check(self, setting: str, value: Any) -> None:
        """See :class:`Constraint`."""
        if not isinstance(value, Real) or not self._holds(float(value)):
            raise SettingError(f"`{setting}` must be {self}, got {value!r}", setting)

    def _holds(self, value: float) -> bool:
        large_enough = value > self.low if self.above else value >= self.low
        small_enough = value < self.high if self.below else value <= self.high
        return large_enough and small_enough and math.isfinite(value)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        if self.high == math.inf:
            return low
        if self.above or self.below:
            return f"{low} and {'below' if self.below else 'at most'} {self.high:g}"
        return f"from {self.low:g} to {self.high:g}"
