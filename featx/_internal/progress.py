"""Progress of long work: one callable, whatever shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int], None]
"""Function called with the stage, how much of it is done, and of how much in all; 0 where that is not known."""


def silent(stage: str, done: int, total: int) -> None:
    """No progress shown."""
