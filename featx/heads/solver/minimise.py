"""Many penalised linear models minimised at once: their losses, and a batched L-BFGS that certifies where it stops.

A problem is ``C * sum of weight * loss(scores) + |W|^2 / 2`` with ``scores = Z W'``. Problems that share ``Z`` (the
folds of a cross-validation, told apart by the weights of their rows) are minimised together: thin matrix-vector work
becomes one fat matrix product, and each problem has its own step, curvature pairs and end.

Arrays are ``W (problems, outputs, columns)``, scores ``(problems, outputs, rows)``; the last column of ``Z`` is 1 and
its coefficient, the intercept, is not penalised.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy.special import expit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.floating[Any]]

PAIRS = 10  # of steps and gradient changes that L-BFGS remembers; 5 to 40 took as many evaluations, within a tenth
ARMIJO = 1e-4
HALVINGS = 25  # of a step, before rounding errors are taken to be all that is left
IDLE = 8  # rounds that gain nothing but rounding errors

# scores, which are overwritten by their gradient, and class numbers -> loss of each row, and mean curvature of each row
Loss: TypeAlias = "Callable[[Array, NDArray[np.int64]], tuple[Array, Array]]"


# -------------------------------------------------------------------------------------------------------------- losses


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
    sign = _one_against_the_rest(scores, y)
    scores *= sign
    np.subtract(1, scores, out=scores)
    np.maximum(scores, 0, out=scores)
    loss = np.einsum("pkn,pkn->pn", scores, scores)
    curvature: Array = 2 * (scores > 0).mean(axis=1, dtype=scores.dtype)
    scores *= -2 * sign
    return loss, curvature


def squared(scores: Array, y: NDArray[np.int64]) -> tuple[Array, Array]:
    """``(score - label)^2`` with labels of -1 and 1, each class against the rest."""
    scores -= _one_against_the_rest(scores, y)
    loss = np.einsum("pkn,pkn->pn", scores, scores)
    scores *= 2
    return loss, np.full_like(loss, 2)


def _one_against_the_rest(scores: Array, y: NDArray[np.int64]) -> Array:
    classes = np.arange(scores.shape[1])[:, None] if scores.shape[1] > 1 else np.ones((1, 1), int)
    return np.where(y == classes, 1, -1).astype(scores.dtype)


# ------------------------------------------------------------------------------------------------------------ problems


@dataclass
class Problems:
    """Problems that share ``Z``.

    Attributes:
        blocks: gives ``Z`` as ``(rows, (n, columns))`` pieces; read anew for each evaluation.
        y: class number of each row, ``(rows,)``.
        n_outputs: 1 for two classes, else their number.
        loss: of one row.
        weights: ``(problems, rows)``; 0 for rows that a problem must not see.
        penalty: ``(problems, columns)``, 0 for the intercept.
        spectrum: eigenvalues of ``Z' Z``, ``(problems, eigenvalues)``, as the preconditioner knows them.
        basis: their vectors, ``(columns - 1, eigenvalues)``; None if ``Z' Z`` is diagonal.
        rest: what ``Z' Z`` is like outside the basis.
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
        """Where minimising begins, if nothing better is known."""
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
        """The preconditioner: along the eigenvectors, elsewhere, and for the intercept."""
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
        """How far at most each objective is above its minimum.

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
    """Where minimising stopped, an entry a problem: coefficients, objective, gradient norm, bound of the gap, steps."""

    W: Array
    objective: Array
    gradient_norm: Array
    gap: Array
    n_iter: NDArray[np.int64]


def minimise(problems: Problems, C: float, start: Array, tol: float, max_iter: int) -> Minimum:
    """Minimise all problems at one ``C`` by L-BFGS (Liu & Nocedal 1989), preconditioned by the spectrum of ``Z' Z``.

    Each round evaluates one point a problem: the next one, or, where the last did not go down, one nearer. A problem
    ends when its gap is below ``tol`` times its penalty (then coefficients are off by ``sqrt(tol)`` of their length at
    most, and the objective by ``tol``), or when rounding errors leave nothing to gain.
    """
    which = np.arange(len(start))
    nothing = np.zeros(len(start))
    found = Minimum(start.copy(), nothing.copy(), nothing.copy(), nothing.copy(), np.zeros(len(start), np.int64))
    W = start.copy()
    f, G, curvature = problems.evaluate(which, W, C)
    memory = _Memory()
    inverse = problems.inverse_curvature(which, C, curvature)
    halvings, idle, stuck = np.zeros(len(W), int), np.zeros(len(W), int), np.zeros(len(W), bool)
    direction = W
    fresh = np.ones(len(W), bool)
    for step in range(max_iter + 1):
        gap = problems.gap(which, G, inverse)
        ended = (gap <= tol * problems.penalties(which, W)) | stuck | (step == max_iter)
        if ended.any():
            at = which[ended]
            found.W[at], found.objective[at], found.gap[at], found.n_iter[at] = W[ended], f[ended], gap[ended], step
            found.gradient_norm[at] = np.sqrt(_dot(G[ended], G[ended]))
            go_on = ~ended
            if not go_on.any():
                break
            which, fresh, halvings, idle = which[go_on], fresh[go_on], halvings[go_on], idle[go_on]
            W, f, G, curvature, direction = (a[go_on] for a in (W, f, G, curvature, direction))
            memory.keep(go_on)
        inverse = problems.inverse_curvature(which, C, curvature)
        towards = memory.direction(G, functools.partial(problems.precondition, which, inverse))
        direction = towards if fresh.all() else np.where(fresh[:, None, None], towards, direction)
        slope = _dot(G, direction)
        length = 0.5**halvings
        there = W + _by_problem(length, W) * direction
        f_there, G_there, curvature_there = problems.evaluate(which, there, C)
        noise = 4 * np.finfo(W.dtype).eps * np.abs(f)
        fresh = f_there <= f + ARMIJO * length * slope + noise
        idle = np.where(f_there < f - 2 * noise, 0, idle + 1)
        stuck = (~fresh & (halvings >= HALVINGS)) | (idle >= IDLE)
        halvings = np.where(fresh, 0, halvings + 1)
        memory.add(_masked(there - W, fresh), _masked(G_there - G, fresh))
        W, G = _chosen(fresh, there, W), _chosen(fresh, G_there, G)
        f, curvature = np.where(fresh, f_there, f), np.where(fresh, curvature_there, curvature)
    return found


class _Memory:
    """The last steps and changes of gradient of each problem, and the direction that they suggest."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Array, Array, Array]] = []

    def add(self, s: Array, y: Array) -> None:
        product = _dot(s, y)
        useful = product > 0
        self.pairs.append((s, y, np.divide(1, product, out=np.zeros_like(product), where=useful)))
        del self.pairs[:-PAIRS]

    def keep(self, which: NDArray[np.bool_]) -> None:
        self.pairs = [(s[which], y[which], rho[which]) for s, y, rho in self.pairs]

    def direction(self, G: Array, precondition: Callable[[Array], Array]) -> Array:
        """The two loops of L-BFGS around a preconditioner scaled to the last change of gradient."""
        q = G.copy()
        shares = []
        for s, y, rho in reversed(self.pairs):
            share = rho * _dot(s, q)
            q -= _by_problem(share, q) * y
            shares.append(share)
        if not self.pairs:
            q = precondition(q)
        else:
            _, y, rho = self.pairs[-1]
            q, y_conditioned = np.split(precondition(np.concatenate([q, y], axis=1)), 2, axis=1)  # one product for both
            change = rho * _dot(y, y_conditioned)
            q = q * _by_problem(np.divide(1, change, out=np.ones_like(change), where=change > 0), q)
        for (s, y, rho), share in zip(self.pairs, reversed(shares), strict=True):
            q += _by_problem(share - rho * _dot(y, q), q) * s
        return -q


def _dot(a: Array, b: Array) -> Array:
    product: Array = np.einsum("pc,pc->p", a.reshape(len(a), -1), b.reshape(len(b), -1)).astype(np.float64)
    return product


def _by_problem(values: Array, like: Array) -> Array:
    return values[:, None, None].astype(like.dtype)


def _masked(values: Array, which: NDArray[np.bool_]) -> Array:
    return values if which.all() else values * _by_problem(which.astype(values.dtype), values)


def _chosen(which: NDArray[np.bool_], new: Array, old: Array) -> Array:
    return new if which.all() else np.where(which[:, None, None], new, old)
