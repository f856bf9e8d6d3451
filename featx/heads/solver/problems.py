"""Penalised linear models that share their rows: objective, gradient, preconditioner, and how far from the minimum.

A problem is ``C * sum of weight * loss(scores) + |W|^2 / 2`` with ``scores = Z W'``. Problems that share ``Z`` are the
folds of a cross-validation, which differ in the weights of their rows: thin matrix-vector work becomes one fat matrix
product.

Arrays are ``W (problems, outputs, columns)``, scores ``(problems, outputs, rows)``; the last column of ``Z`` is 1 and
its coefficient, the intercept, is not penalised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featx.heads.solver.losses import Array, Loss


@dataclass
class Problems:
    """Problems that share ``Z``.

    Attributes:
        blocks: gives ``Z`` as ``(rows, (n, columns))`` pieces; read anew for each evaluation.
        y: class number of each row, ``(rows,)``.
        n_outputs: 1 for two classes, else their number.
        loss: loss of one row.
        weights: ``(problems, rows)``; 0 for rows that a problem must not see.
        penalty: ``(problems, columns)``, 0 for the intercept.
        spectrum: eigenvalues of ``Z' Z``, ``(problems, eigenvalues)``, as the preconditioner knows them.
        basis: eigenvectors, ``(columns - 1, eigenvalues)``; None if ``Z' Z`` is diagonal.
        rest: mean eigenvalue of ``Z' Z`` outside the basis.
        usable: ``(problems, columns)``, 0 for columns that a problem must not use; None if it may use all.
    """

    blocks: Callable[[], Iterator[tuple[slice, Array]]]
    y: NDArray[np.int64]
    n_outputs: int
    loss: Loss
    weights: Array
    penalty: Array
    spectrum: Array
    basis: Array | None = None
    rest: float = 0.0
    usable: Array | None = None

    def penalties(self, which: NDArray[np.int64], W: Array) -> Array:
        """``|W|^2 / 2``, ``(which,)``."""
        half: Array = np.einsum("pkc,pkc->p", W, W * self.penalty[which][:, None], dtype=np.float64) / 2
        return half

    def zeros(self) -> Array:
        """Coefficients of nil, where minimising begins if nothing better is known."""
        return np.zeros((len(self.weights), self.n_outputs, self.penalty.shape[1]), self.weights.dtype)

    def evaluate(self, which: NDArray[np.int64], W: Array, C: float) -> tuple[Array, Array, Array]:
        """Objective ``(which,)``, gradient like ``W``, and mean curvature of the loss ``(which,)``."""
        flat = W.reshape(-1, W.shape[2])
        loss, curvature = np.zeros(len(W)), np.zeros(len(W))
        gradient = np.zeros_like(flat)
        for rows, Z in self.blocks():
            scores = (flat @ Z.T).reshape(len(W), self.n_outputs, len(Z))
            weights = self.weights[which, rows]
            losses, curvatures = self.loss(scores, self.y[rows])
            loss += np.einsum("pn,pn->p", weights, losses, dtype=np.float64)
            curvature += np.einsum("pn,pn->p", weights, curvatures, dtype=np.float64)
            scores *= weights[:, None]
            gradient += scores.reshape(len(flat), -1) @ Z
        pulled = W * self.penalty[which][:, None]
        G = self._of_usable(which, gradient.reshape(W.shape) * W.dtype.type(C) + pulled)
        objective = C * loss + np.einsum("pkc,pkc->p", W, pulled, dtype=np.float64) / 2
        return objective, G, curvature / self.weights[which].sum(axis=1, dtype=np.float64)

    def inverse_curvature(self, which: NDArray[np.int64], C: float, curvature: Array) -> tuple[Array, Array, Array]:
        """Diagonals of the preconditioner: along the eigenvectors, elsewhere, and for the intercept."""
        strength = C * np.maximum(curvature, 1e-12)
        along = 1 / (strength[:, None] * self.spectrum[which] + 1)
        intercept = 1 / (strength * self.weights[which].sum(axis=1, dtype=np.float64))
        return along, 1 / (strength * self.rest + 1), intercept

    def precondition(self, which: NDArray[np.int64], inverse: tuple[Array, Array, Array], G: Array) -> Array:
        """``G`` times about the inverse of the second derivative."""
        along, elsewhere, intercept = (part.astype(G.dtype) for part in inverse)
        out = np.empty_like(G)
        out[..., -1] = G[..., -1] * intercept[:, None]
        if self.basis is None:
            out[..., :-1] = G[..., :-1] * along[:, None]
            return out
        coefficients = np.ascontiguousarray(G[..., :-1]).reshape(-1, G.shape[2] - 1)
        inside = (coefficients @ self.basis).reshape(*G.shape[:2], -1) * (along - elsewhere[:, None])[:, None]
        out[..., :-1] = (inside.reshape(len(coefficients), -1) @ self.basis.T).reshape(*G.shape[:2], -1)
        out[..., :-1] += G[..., :-1] * elsewhere[:, None, None]
        return self._of_usable(which, out)

    def _of_usable(self, which: NDArray[np.int64], values: Array) -> Array:
        return values if self.usable is None else values * self.usable[which][:, None]

    def gap(self, which: NDArray[np.int64], G: Array, inverse: tuple[Array, Array, Array]) -> Array:
        """Bound ``(which,)`` of how far each objective is above its minimum.

        ``|G|^2 / 2`` bounds it, since the penalty alone has curvature 1 (it is the duality gap, too). The intercept has
        no penalty: its share is estimated from the curvature of the loss.
        """
        scaled = G[..., :-1] / self.penalty[which, None, :-1]
        coefficients = np.einsum("pkc,pkc->p", G[..., :-1], scaled, dtype=np.float64)
        intercepts = np.sum(G[..., -1].astype(np.float64) ** 2, axis=1) * inverse[2]
        bound: Array = (coefficients + intercepts) / 2
        return bound


@dataclass
class Minimum:
    """Point where minimising stopped.

    Attributes:
        W: coefficients, ``(problems, outputs, columns)``.
        objective, gradient_norm: ``(problems,)``, at that point.
        gap: ``(problems,)``, how far the objective is above its minimum at most.
        n_iter: ``(problems,)``, steps.
    """

    W: Array
    objective: Array
    gradient_norm: Array
    gap: Array
    n_iter: NDArray[np.int64]
