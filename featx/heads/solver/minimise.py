"""A batched L-BFGS that certifies where it stops: many problems at once, each with its own step, pairs and end."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from featx.heads.solver.problems import Minimum, Problems

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featx.heads.solver.losses import Array

PAIRS = 10  # of steps and gradient changes that L-BFGS remembers; 5 to 40 took as many evaluations, within a tenth
ARMIJO = 1e-4
HALVINGS = 25  # of a step, before rounding errors are taken to be all that is left
IDLE = 8  # rounds that gain nothing but rounding errors


def minimise(problems: Problems, C: float, start: Array, tol: float, max_iter: int) -> Minimum:
    """Minimise all problems at one ``C`` by L-BFGS (Liu & Nocedal 1989), preconditioned by the spectrum of ``Z' Z``.

    Each round evaluates one point per problem: the next one, or, where the last did not go down, one nearer. A problem
    ends when its gap is below ``tol`` times its penalty (then coefficients are off by ``sqrt(tol)`` of their length at
    most, and the objective by ``tol``), or when rounding errors leave nothing to gain.
    """
    nothing = np.zeros(len(start))
    minimum = Minimum(start.copy(), nothing.copy(), nothing.copy(), nothing.copy(), np.zeros(len(start), np.int64))
    state, pairs = _State.at(problems, start, C), _Pairs()
    inverse = problems.inverse_curvature(state.which, C, state.curvature)
    for step in range(max_iter + 1):
        gap = problems.gap(state.which, state.G, inverse)
        ended = (gap <= tol * problems.penalties(state.which, state.W)) | state.stuck | (step == max_iter)
        if ended.any():
            state.write(minimum, ended, gap, step)
            if ended.all():
                break
            state.keep(~ended)
            pairs.keep(~ended)
        inverse = problems.inverse_curvature(state.which, C, state.curvature)
        towards = pairs.direction(state.G, functools.partial(problems.precondition, state.which, inverse))
        state.turn(towards)
        pairs.add(*state.step(problems, C))
    return minimum


@dataclass
class _State:
    """Problems that have not ended: the point of each, and its line search.

    Attributes:
        which: numbers of the problems, ``(p,)``.
        W, f, G, curvature: coefficients, and what :meth:`Problems.evaluate` says of them.
        direction: direction of the line search, like ``W``.
        fresh: ``(p,)``, whether the last step went down, so that a new direction is due.
        halvings: ``(p,)``, how often the step along this direction was halved.
        idle: ``(p,)``, rounds that gained nothing but rounding errors.
        stuck: ``(p,)``, whether nothing is left to gain.
    """

    which: NDArray[np.int64]
    W: Array
    f: Array
    G: Array
    curvature: Array
    direction: Array
    fresh: NDArray[np.bool_]
    halvings: NDArray[np.int64]
    idle: NDArray[np.int64]
    stuck: NDArray[np.bool_]

    @classmethod
    def at(cls, problems: Problems, start: Array, C: float) -> _State:
        n = len(start)
        which, W = np.arange(n), start.copy()
        f, G, curvature = problems.evaluate(which, W, C)
        return cls(
            which,
            W,
            f,
            G,
            curvature,
            direction=W,
            fresh=np.ones(n, bool),
            halvings=np.zeros(n, np.int64),
            idle=np.zeros(n, np.int64),
            stuck=np.zeros(n, bool),
        )

    def write(self, minimum: Minimum, ended: NDArray[np.bool_], gap: Array, step: int) -> None:
        """Write the problems that have ended into the result."""
        at = self.which[ended]
        minimum.W[at] = self.W[ended]
        minimum.objective[at] = self.f[ended]
        minimum.gap[at] = gap[ended]
        minimum.n_iter[at] = step
        minimum.gradient_norm[at] = np.sqrt(_dot(self.G[ended], self.G[ended]))

    def keep(self, going_on: NDArray[np.bool_]) -> None:
        """Drop the problems that have ended."""
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name)[going_on])

    def turn(self, towards: Array) -> None:
        """Take the new direction where one is due."""
        self.direction = towards if self.fresh.all() else np.where(self.fresh[:, None, None], towards, self.direction)

    def step(self, problems: Problems, C: float) -> tuple[Array, Array]:
        """Try a step along the direction; returns the steps and changes of gradient, nil where it went up."""
        slope = _dot(self.G, self.direction)
        length = 0.5**self.halvings
        W = self.W + _by_problem(length, self.W) * self.direction
        f, G, curvature = problems.evaluate(self.which, W, C)
        noise = 4 * np.finfo(W.dtype).eps * np.abs(self.f)
        fresh = self.fresh = f <= self.f + ARMIJO * length * slope + noise
        self.idle = np.where(f < self.f - 2 * noise, 0, self.idle + 1)
        self.stuck = (~fresh & (self.halvings >= HALVINGS)) | (self.idle >= IDLE)
        self.halvings = np.where(fresh, 0, self.halvings + 1)
        pair = _masked(W - self.W, fresh), _masked(G - self.G, fresh)
        self.W, self.G = _chosen(fresh, W, self.W), _chosen(fresh, G, self.G)
        self.f, self.curvature = np.where(fresh, f, self.f), np.where(fresh, curvature, self.curvature)
        return pair


class _Pairs:
    """Last steps and changes of gradient of each problem, and the direction that they suggest."""

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
        """Direction by the two loops of L-BFGS, around a preconditioner scaled to the last change of gradient."""
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
