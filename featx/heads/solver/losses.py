"""Losses of penalised linear models, and their gradients, for many problems at once.

Arrays are scores ``(problems, outputs, rows)``; there is one output for two classes, else one per class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy.special import expit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.floating[Any]]

# scores, which are overwritten by their gradient, and class numbers -> loss of each row, and mean curvature of each row
Loss: TypeAlias = "Callable[[Array, NDArray[np.int64]], tuple[Array, Array]]"


def logistic(scores: Array, y: NDArray[np.int64]) -> tuple[Array, Array]:
    """Cross entropy of the softmax, or of the logistic function if there is one output.

    Losses and gradients are summed from the wrong classes' shares: 1 minus the right one's would lose all digits where
    the fit is good.
    """
    if scores.shape[1] == 1:
        sign = np.where(y == 1, 1, -1).astype(scores.dtype)
        margin = scores[:, 0] * sign
        wrong = expit(-margin)
        scores[:, 0] = -sign * wrong
        return np.logaddexp(0, -margin), wrong * (1 - wrong)
    rows = np.arange(scores.shape[2])
    scores -= scores.max(axis=1, keepdims=True)
    of_true = scores[:, y, rows]
    np.exp(scores, out=scores)
    true = scores[:, y, rows]
    scores[:, y, rows] = 0
    others = scores.sum(axis=1)
    total = others + true
    with np.errstate(divide="ignore", over="ignore"):  # of the branch that is not taken
        loss = np.where(true >= 0.5, np.log1p(others / true), np.log(total) - of_true)
    scores /= total[:, None]
    wrong = others / total
    scores[:, y, rows] = -wrong
    return loss, (2 * wrong - np.einsum("pkn,pkn->pn", scores, scores)) / scores.shape[1]


def squared_hinge(scores: Array, y: NDArray[np.int64]) -> tuple[Array, Array]:
    """``max(0, 1 - margin)^2``, each class against the rest."""
    sign = one_against_the_rest(scores, y)
    scores *= sign
    np.subtract(1, scores, out=scores)
    np.maximum(scores, 0, out=scores)
    loss = np.einsum("pkn,pkn->pn", scores, scores)
    curvature: Array = 2 * (scores > 0).mean(axis=1, dtype=scores.dtype)
    scores *= -2 * sign
    return loss, curvature


def squared(scores: Array, y: NDArray[np.int64]) -> tuple[Array, Array]:
    """``(score - label)^2`` with labels of -1 and 1, each class against the rest."""
    scores -= one_against_the_rest(scores, y)
    loss = np.einsum("pkn,pkn->pn", scores, scores)
    scores *= 2
    return loss, np.full_like(loss, 2)


def one_against_the_rest(scores: Array, y: NDArray[np.int64]) -> Array:
    """Labels ``(outputs, rows)`` in the dtype of ``scores``: 1 in the output of a row's class, -1 in the others."""
    classes = np.arange(scores.shape[1])[:, None] if scores.shape[1] > 1 else np.ones((1, 1), int)
    return np.where(y == classes, 1, -1).astype(scores.dtype)
