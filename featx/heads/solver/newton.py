"""Finite Newton steps, which minimise the squared hinge.

While the rows inside the margin stay the same, the objective is a parabola, and its minimum one linear system (Keerthi
& DeCoste 2005, "A modified finite Newton method for fast solution of large scale linear SVMs"). L-BFGS takes hundreds
of steps here, since the curvature jumps with those rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from scipy.linalg import cho_factor, cho_solve
from threadpoolctl import threadpool_limits

from featx.heads.solver.losses import one_against_the_rest
from featx.heads.solver.problems import Minimum, Problems

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featx.heads.solver.losses import Array

BISECTIONS = 30  # of a step, to find its best length


def newton(problems: Problems, C: float, start: Array, tol: float, max_iter: int) -> Minimum:
    """Minimise all problems and outputs, each a problem of its own, at one ``C``; like :func:`minimise`."""
    W, everyone = start.copy(), np.arange(len(start))
    sign = one_against_the_rest(np.zeros((1, problems.n_outputs, len(problems.y)), W.dtype), problems.y)
    scores = _scores(problems, W)
    waiting = np.ones(W.shape[:2], bool)
    last, step = np.full(len(W), np.inf), 0
    for _ in range(max_iter):
        step += 1
        inside = (sign * scores < 1) & (problems.weights > 0)[:, None]
        target = _targets(problems, W, waiting, inside, sign, C)
        scores_at_target = _scores(problems, target)
        length = _best_length(problems, (W, target), (scores, scores_at_target), sign, C)[..., None]
        W = (W + length * (target - W)).astype(W.dtype)
        scores = (scores + length * (scores_at_target - scores)).astype(W.dtype)
        inside_now = (sign * scores < 1) & (problems.weights > 0)[:, None]
        waiting &= (length[..., 0] < 1) | (inside_now != inside).any(axis=2)
        objective, G, curvature = problems.evaluate(everyone, W, C)
        gap = problems.gap(everyone, G, problems.inverse_curvature(everyone, C, curvature))
        nothing_gained = objective >= last * (1 - 4 * np.finfo(W.dtype).eps)  # but rounding errors
        if not waiting.any() or np.all((gap <= tol * problems.penalties(everyone, W)) | nothing_gained):
            break
        last = objective
    norm = np.sqrt(np.einsum("pkc,pkc->p", G, G, dtype=np.float64))
    return Minimum(W, objective, norm, gap, np.full(len(W), step))


def _targets(
    problems: Problems,
    W: Array,
    waiting: NDArray[np.bool_],
    inside: NDArray[np.bool_],
    sign: Array,
    C: float,
) -> Array:
    """``W`` with the minima of the waiting problems' parabolas in it, each solved in a thread."""
    target = W.copy()
    places = [(int(p), int(k)) for p, k in np.argwhere(waiting)]
    jobs = [joblib.delayed(_minimum_for)(problems, p, inside[p, k], sign[k], C) for p, k in places]
    with threadpool_limits(1, "blas"):  # many small systems: threads inside each would only wait for each other
        for place, minimum in zip(places, joblib.Parallel(-1, prefer="threads")(jobs), strict=True):
            target[place] = minimum
    return target


def _scores(problems: Problems, W: Array) -> Array:
    flat = W.reshape(-1, W.shape[2])
    scores: Array = np.hstack([flat @ Z.T for _, Z in problems.blocks()])
    return scores.reshape(*W.shape[:2], -1)


def _best_length(
    problems: Problems, W: tuple[Array, Array], scores: tuple[Array, Array], sign: Array, C: float
) -> Array:
    """Place between the first point (0) and the second (1) where each objective is least, ``(problems, outputs)``."""
    change, pulled = W[1] - W[0], problems.penalty[:, None]
    slack, faster = 1 - sign * scores[0], -sign * (scores[1] - scores[0])
    first = np.einsum("pkc,pkc->pk", W[0] * pulled, change, dtype=np.float64)
    second = np.einsum("pkc,pkc->pk", change * pulled, change, dtype=np.float64)

    def slope(t: Array) -> Array:
        inside = np.maximum(slack + t[..., None].astype(slack.dtype) * faster, 0)
        loss = np.einsum("pkn,pkn->pk", inside * problems.weights[:, None], faster, dtype=np.float64)
        rise: Array = 2 * C * loss + first + t * second
        return rise

    low, high = np.zeros(first.shape), np.ones(first.shape)
    whole = slope(high) <= 1e-6 * np.abs(slope(low))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        rising = slope(middle) > 0
        low, high = np.where(rising, low, middle), np.where(rising, middle, high)
    length: Array = np.where(whole, 1.0, (low + high) / 2)
    return length


def _minimum_for(problems: Problems, of: int, inside: NDArray[np.bool_], sign: Array, C: float) -> Array:
    """Coefficients ``(columns,)`` at which the objective would be least if just the rows ``inside`` counted."""
    penalty = problems.penalty[of, :-1].astype(np.float64)
    usable = np.ones(len(penalty)) if problems.usable is None else problems.usable[of, :-1]
    weights, target = problems.weights[of].astype(np.float64), sign.astype(np.float64)
    if not inside.any():
        return np.zeros(len(penalty) + 1)
    if inside.sum() <= len(penalty):
        factor = usable / np.sqrt(penalty)
        scaled = np.vstack([Z[inside[rows], :-1] for rows, Z in problems.blocks()]) * factor
        return _by_rows(scaled, target[inside], 1 / (2 * C * weights[inside]), factor)
    normal: Array = np.diag(np.append(penalty / (2 * C), 0.0))
    right: Array = np.zeros(len(penalty) + 1)
    for rows, Z in problems.blocks():
        root = np.sqrt(weights[rows][inside[rows]])
        part = Z[inside[rows]] * (np.append(usable, 1) * root[:, None]).astype(Z.dtype)
        normal = normal + part.T @ part
        right = right + part.T @ (root * target[rows][inside[rows]])
    solved: NDArray[Any] = cho_solve(cho_factor(normal, check_finite=False), right, check_finite=False)
    return solved


def _by_rows(Z: Array, target: Array, ridge: Array, factor: Array) -> Array:
    """Coefficients as :func:`_minimum_for` gives them, from the Gram matrix of the rows: for fewer than columns."""
    gram: Array = (Z @ Z.T).astype(np.float64)
    gram[np.diag_indices(len(gram))] += ridge
    with_target, with_one = cho_solve(
        cho_factor(gram, check_finite=False), np.column_stack([target, np.ones(len(target))]), check_finite=False
    ).T
    intercept = with_target.sum() / with_one.sum()
    solved: Array = np.append(factor * (Z.T @ (with_target - intercept * with_one)), intercept)
    return solved
