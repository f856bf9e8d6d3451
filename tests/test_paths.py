"""Regularisation paths: exact, the same as single fits, whatever the shape of the data and wherever it lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from featx.heads import HEADS, make_head, solve_paths
from featx.heads.base import LazyRows, group_weights
from featx.heads.solver import blocks, paths, spectrum, task, together

LOSSES = {"logreg": "logistic", "svm": "squared_hinge", "ridge": "squared"}
C = [1e-4, 1e-2, 1.0]


def _data(n: int = 60, d: int = 20, n_classes: int = 3, seed: int = 0, dtype: Any = np.float64) -> Any:
    """Classes that overlap, columns that are correlated and of different scales."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * np.logspace(-1, 1, d) + 5
    return (X + 3 * np.eye(n_classes, d)[y]).astype(dtype), y


def _folds(n: int, folds: int = 4) -> list[np.ndarray]:
    return [np.flatnonzero(np.arange(n) // 3 % folds != fold) for fold in range(folds)]


def _objective(X: np.ndarray, y: np.ndarray, path: Any, at: int, loss: str, weights: Any = None) -> float:
    """From its definition, on features standardised by the rows given."""
    w = np.ones(len(y)) if weights is None else weights
    mean = np.average(X, axis=0, weights=w)
    scale = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=w))
    scores = path.decision(X)[at]
    n_classes = y.max() + 1
    if loss == "logistic":
        all_scores = scores if n_classes > 2 else np.column_stack([np.zeros(len(y)), scores[:, 0]])
        losses = logsumexp(all_scores, axis=1) - all_scores[np.arange(len(y)), y]
    else:
        sign = np.where(y[:, None] == (np.arange(n_classes) if n_classes > 2 else 1), 1, -1)
        losses = (np.maximum(1 - sign * scores, 0) if loss == "squared_hinge" else sign - scores) ** 2
        losses = losses.sum(axis=1)
    return float(path.C[at] * (w * losses).sum() + ((path.coef[at] * scale) ** 2).sum() / 2)


PEERS: dict[str, Callable[[float], Any]] = {
    "logistic": lambda c: LogisticRegression(C=c, tol=1e-10, max_iter=10000),
    "squared_hinge": lambda c: LinearSVC(C=c, dual=False, tol=1e-9, intercept_scaling=1e3, max_iter=10000),
    "squared": lambda c: RidgeClassifier(alpha=1 / (2 * c)),
}


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize(("n", "d"), [(60, 20), (40, 90), (40, 40)], ids=["tall", "wide", "square"])
@pytest.mark.parametrize("loss", PEERS)
def test_the_optimum_is_scikit_learns_or_better(loss: str, n: int, d: int, n_classes: int) -> None:
    X, y = _data(n, d, n_classes)
    folds = _folds(n)
    for rows, path in zip(folds, solve_paths(X, y, C, loss, trainings=folds, tol=1e-9), strict=True):
        scaler = StandardScaler().fit(X[rows])
        for at, c in enumerate(C):
            peer = PEERS[loss](c).fit(scaler.transform(X[rows]), y[rows])
            theirs = type(path)(
                path.C[[at]], (np.atleast_2d(peer.coef_) / scaler.scale_)[None],
                np.atleast_1d(peer.intercept_)[None], scaler.mean_, *np.zeros((4, 1)),
            )  # fmt: skip
            ours = _objective(X[rows], y[rows], path, at, loss)
            reference = _objective(X[rows], y[rows], theirs, 0, loss)
            assert ours <= reference * (1 + 1e-6)
            assert ours == pytest.approx(path.objective[at], rel=1e-6)
            np.testing.assert_allclose(path.decision(X)[at], theirs.decision(X)[0], atol=5e-3)


@pytest.mark.parametrize("loss", PEERS)
def test_float32_reaches_the_same_objective(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "SMALL", 0)  # as for data too large to be widened
    for shape in ((200, 50), (50, 200)):
        X, y = _data(*shape, dtype=np.float32)
        folds = _folds(len(y))
        single = list(solve_paths(X, y, C, loss, trainings=folds))
        double = list(solve_paths(X.astype(np.float64), y, C, loss, trainings=folds, tol=1e-9))
        assert {path.coef.dtype for path in single} == {np.dtype(np.float32)}
        for a, b in zip(single, double, strict=True):
            np.testing.assert_allclose(a.objective, b.objective, rtol=1e-4)


def test_a_weak_penalty_on_separable_rows_is_solved_to_the_end() -> None:
    """lbfgs stops there up to a fifth above the optimum (scikit-learn#18074)."""
    X, y = _data(100, 300, 5, dtype=np.float32)
    (path,) = solve_paths(X, y, [10.0, 1e4])
    assert (path.gap <= 2e-5 * path.objective).all()
    (exact,) = solve_paths(X.astype(np.float64), y, [10.0, 1e4], tol=1e-10)
    np.testing.assert_allclose(path.objective, exact.objective, rtol=1e-4)
    Z = StandardScaler().fit_transform(X)
    peer = LogisticRegression(C=1e4, max_iter=1000).fit(Z, y)
    scores = Z @ peer.coef_.T + peer.intercept_
    theirs = 1e4 * (logsumexp(scores, axis=1) - scores[np.arange(100), y]).sum() + (peer.coef_**2).sum() / 2
    assert path.objective[1] < 0.99 * theirs


@given(
    n=st.integers(8, 50),
    d=st.integers(1, 60),
    n_classes=st.integers(2, 4),
    seed=st.integers(0, 99),
    loss=st.sampled_from(sorted(PEERS)),
    order=st.permutations([1e-3, 0.1, 1e-2]),
)
@settings(max_examples=25, deadline=None)
def test_a_path_is_its_single_fits(n: int, d: int, n_classes: int, seed: int, loss: str, order: list[float]) -> None:
    X, y = _data(n, d, n_classes, seed)
    folds = [rows for rows in _folds(n) if len(np.unique(y[rows])) == n_classes]
    together = list(solve_paths(X, y, order, loss, trainings=folds, tol=1e-10))
    for rows, path in zip(folds, together, strict=True):
        for at, c in enumerate(order):
            (alone,) = solve_paths(X[rows], y[rows], [c], loss, tol=1e-10)
            assert path.C[at] == c
            assert alone.objective[0] == pytest.approx(path.objective[at], rel=1e-6)
            np.testing.assert_allclose(path.decision(X[rows])[at], alone.decision(X[rows])[0], atol=2e-3)


@pytest.mark.parametrize("loss", PEERS)
def test_the_gap_bounds_how_far_the_objective_is(loss: str) -> None:
    X, y = _data(80, 30)
    (exact,) = solve_paths(X, y, C, loss, tol=1e-12)
    for max_iter in (1, 2, 5):
        (early,) = solve_paths(X, y, C, loss, tol=1e-12, max_iter=max_iter)
        assert (early.n_iter <= max_iter).all()
        assert (early.objective - exact.objective <= early.gap * 1.01 + 1e-9).all()


@pytest.mark.parametrize("loss", PEERS)
@pytest.mark.parametrize("d", [12, 90])
def test_weights_count_rows(loss: str, d: int) -> None:
    X, y = _data(40, d)
    twice = np.concatenate([np.arange(40), np.arange(0, 40, 2)])
    weights = 1.0 + (np.arange(40) % 2 == 0)
    (repeated,) = solve_paths(X[twice], y[twice], C, loss, tol=1e-11)
    (weighted,) = solve_paths(X, y, C, loss, weights=weights, tol=1e-11)
    np.testing.assert_allclose(weighted.objective, repeated.objective, rtol=1e-6)
    np.testing.assert_allclose(weighted.decision(X), repeated.decision(X), atol=2e-3)
    assert _objective(X, y, weighted, 1, loss, weights) == pytest.approx(weighted.objective[1], rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_views_of_a_picture_count_as_one_row(name: str) -> None:
    X, y = _data(30, 8)
    three = np.repeat(np.arange(30), np.arange(30) % 3 + 1)
    np.testing.assert_allclose(group_weights(three), 1 / (three % 3 + 1))
    alone = make_head(name, C=0.01).fit(X, y)
    grouped = make_head(name, C=0.01).fit(X[three], y[three], groups=three)
    np.testing.assert_allclose(grouped.predict_proba(X), alone.predict_proba(X), atol=1e-4)
    counted_often = make_head(name, C=0.01).fit(X[three], y[three])
    assert np.abs(counted_often.predict_proba(X) - alone.predict_proba(X)).max() > 1e-3


class _OnDisk:
    """Rows that are read when asked for; notes the largest piece."""

    def __init__(self, X: np.ndarray) -> None:
        self.X, self.shape, self.dtype, self.ndim, self.largest = X, X.shape, X.dtype, X.ndim, 0

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, rows: Any) -> np.ndarray:
        self.largest = max(self.largest, len(self.X[rows]))
        return self.X[rows]


@pytest.mark.parametrize("input", ["flat", "avg", "max"])
@pytest.mark.parametrize("name", LOSSES)
def test_blocks_are_the_same_as_memory(name: str, input: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    y = np.sort(np.arange(400) % 3)  # by class, as data sets lie on the disk
    X = (rng.normal(size=(400, 2, 3, 5)) + 2 * np.eye(5)[y][:, None, None]).astype(np.float16)
    inside = make_head(name, input=input, C=0.01).fit(X, y)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * 30 * 50)
    for kept in (2**30, 0):  # whether the standardised rows fit into memory
        monkeypatch.setattr(together, "MEMORY_BYTES", kept)
        disk = _OnDisk(X)
        outside = make_head(name, input=input, C=0.01).fit(disk, y)
        assert disk.largest < 400
        np.testing.assert_allclose(outside.predict_proba(X), inside.predict_proba(X), atol=1e-3)
        assert outside.get_state().keys() == inside.get_state().keys()
        assert outside.n_features_in_ == inside.n_features_in_


def test_a_sketch_of_the_spectrum_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = _data(300, 150)
    whole = list(solve_paths(X, y, C, tol=1e-8, trainings=_folds(300)))
    monkeypatch.setattr(spectrum, "SKETCH", 20)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * 150 * 70)
    sketched = list(solve_paths(X, y, C, tol=1e-8, trainings=_folds(300)))
    for a, b in zip(whole, sketched, strict=True):
        np.testing.assert_allclose(a.objective, b.objective, rtol=1e-6)
    assert all((path.gap <= 1e-8 * path.objective).all() for path in sketched)
    monkeypatch.setattr(paths, "TWIN_ROWS", 10)  # wide, and too many rows for a twin as well
    for a, b in zip(solve_paths(X[:90], y[:90], C, tol=1e-8), solve_paths(X[:90], y[:90], C, tol=1e-8), strict=True):
        np.testing.assert_allclose(a.objective, b.objective)


@pytest.mark.parametrize("d", [12, 90])
@pytest.mark.parametrize("loss", PEERS)
def test_a_column_that_is_constant_in_one_fold_only(loss: str, d: int) -> None:
    X, y = _data(40, d)
    folds = _folds(40)
    X[:, 3] = 7.0
    X[np.setdiff1d(np.arange(40), folds[0]), 3] = 9.0
    X[:, 5] = 0.1
    for rows, path in zip(folds, solve_paths(X, y, C, loss, trainings=folds, tol=1e-9), strict=True):
        assert np.isfinite(path.coef).all()
        assert np.abs(path.coef[..., 5]).max() < 1e-12
        assert (np.abs(path.coef[..., 3]).max() < 1e-12) == (rows is folds[0])
        (alone,) = solve_paths(X[rows], y[rows], C, loss, tol=1e-9)
        np.testing.assert_allclose(alone.objective, path.objective, rtol=1e-6)


@pytest.mark.parametrize("d", [12, 90])
@pytest.mark.parametrize("loss", PEERS)
def test_duplicates_and_a_class_that_a_fold_does_not_have(loss: str, d: int) -> None:
    X, y = _data(40, d)
    X[20:] = X[:20]
    y[20:] = y[:20]
    y[0] = 3  # one picture of its own
    folds = [np.arange(1, 40), np.arange(39)]
    for rows, path in zip(folds, solve_paths(X, y, C, loss, trainings=folds), strict=True):
        assert path.coef.shape == (3, 4, d)
        assert np.isfinite(path.decision(X)).all()
        assert (path.gap <= 1e-4 * path.objective).all()
        if 0 not in rows:
            assert (path.decision(X)[1].argmax(axis=1) != 3).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("where", ["float16", "float32", "disk", "disk-maps"])
def test_what_is_not_a_number_is_named_by_its_row(name: str, where: str) -> None:
    X, y = _data(40, 12, dtype=np.float16 if where == "float16" else np.float32)
    X[17, 3] = np.inf if where == "disk" else np.nan
    given: Any = _OnDisk(X.reshape(40, 2, 2, 3) if where == "disk-maps" else X) if "disk" in where else X
    expected = "contains NaN" if where == "float32" else "contains NaN or infinity, first in row 17"
    with pytest.raises(ValueError, match=expected):
        make_head(name).fit(given, y)


def test_lazy_rows_are_flat_or_pooled() -> None:
    X = np.random.default_rng(0).normal(size=(6, 2, 3, 4)).astype(np.float16)
    wide = X.astype(np.float32)
    for input, expected in {
        "flat": wide.reshape(6, -1), "avg": wide.mean(axis=(1, 2)), "max": wide.max(axis=(1, 2))
    }.items():  # fmt: skip
        rows = LazyRows(_OnDisk(X), input)
        assert rows.shape == expected.shape
        np.testing.assert_array_equal(rows[1:4], expected[1:4])
        np.testing.assert_array_equal(rows[[4, 2]], expected[[4, 2]])
    assert LazyRows(_OnDisk(X.reshape(6, -1)), "avg").shape == (6, 24)


@pytest.mark.parametrize("name", ["logreg", "svm"])
def test_a_solver_needs_a_step(name: str) -> None:
    with pytest.raises(ValueError, match="`max_iter` must be at least 1, got 0"):
        list(solve_paths(*_data(), [1.0], make_head(name).loss, max_iter=0))
    with pytest.raises(ValueError, match="`max_iter` must be at least 1, got 0"):
        make_head(name, max_iter=0).fit(*_data())


def test_progress_counts_solutions() -> None:
    X, y = _data()
    told: list[tuple[int, int]] = []
    for columns in (X, np.tile(X, 5)):
        list(solve_paths(columns, y, C, trainings=_folds(60), progress=lambda *p: told.append(p)))
        assert told[-1] == (12, 12)
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        told.clear()


def test_every_linear_head_has_a_loss() -> None:
    assert {name: head.loss for name, head in HEADS.items() if hasattr(head, "loss")} == LOSSES
