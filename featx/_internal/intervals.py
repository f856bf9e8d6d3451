"""95 % intervals: of a share, of a mean of few draws, of a mean of many values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 0.95
Z = 1.959964  # of the normal distribution


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Interval of a share of ``n`` independent trials (Wilson 1927, "Probable inference").

    Example:
        >>> low, high = wilson_interval(0.9, 100)
        >>> round(low, 3), round(high, 3)
        (0.826, 0.945)
    """
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def student_interval(values: Sequence[float]) -> tuple[float, float]:
    """Interval of the mean of a few independent draws, two at least (Student 1908).

    Example:
        >>> low, high = student_interval([0.8, 0.9, 1.0])
        >>> round(low, 3), round(high, 3)
        (0.652, 1.148)
    """
    from scipy.stats import t  # takes a while to load, and few commands need it

    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    mean = float(np.mean(values))
    return mean - half, mean + half


def normal_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Interval of the mean of many values, ``(n,)``, by the normal approximation; of one value it is 2 Z wide.

    Example:
        >>> low, high = normal_interval(np.array([0.0, 1.0] * 50))
        >>> round(low, 3), round(high, 3)
        (0.402, 0.598)
    """
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 1.0
    mean = float(values.mean())
    return mean - Z * error, mean + Z * error


def within_shares(interval: tuple[float, float]) -> tuple[float, float]:
    """The part of an interval that lies between 0 and 1, for means that are shares."""
    return max(0.0, interval[0]), min(1.0, interval[1])
