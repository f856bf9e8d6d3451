"""Directions of largest variance, by which the problems are preconditioned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from featx.heads.solver.losses import Array

SKETCH = 64  # directions of largest variance that the preconditioner knows: 32 took a fifth more steps, 400 as many


def spectrum_of(
    blocks: Callable[[], Iterator[tuple[slice, Array]]], d: int, trace: float, dtype: Any, whole: bool = False
) -> tuple[Array, Array, float]:
    """Eigenvalues and vectors of ``Z' Z``, all if asked for or if they are few, else the largest; mean of the others.

    By subspace iteration from random directions (Halko, Martinsson & Tropp 2011, "Finding structure with randomness").
    """
    if whole or d <= 2 * SKETCH:
        gram = np.zeros((d, d))
        for _, Z in blocks():
            gram += Z[:, :-1].T @ Z[:, :-1]
        eigenvalues, basis = np.linalg.eigh(gram)
        return np.maximum(eigenvalues, 0), basis.astype(dtype), 0.0
    basis = np.random.default_rng(0).normal(size=(d, SKETCH)).astype(dtype)
    for _ in range(3):
        basis, _ = np.linalg.qr(basis)
        product = np.zeros_like(basis)
        for _, Z in blocks():
            product += Z[:, :-1].T @ (Z[:, :-1] @ basis)
        eigenvalues, turn = np.linalg.eigh((basis.T @ product).astype(np.float64))
        directions, basis = basis @ turn.astype(dtype), product
    return np.maximum(eigenvalues, 0), directions, max(trace - float(eigenvalues.sum()), 0) / (d - SKETCH)
