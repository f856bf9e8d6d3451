"""Heads: scikit-learn's estimator checks, and what each head promises beyond them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from featx.errors import TrainingError
from featx.heads import HEADS, BNMLPHead, KNNHead, LogisticHead, MLPHead, RidgeHead, SVMHead, make_head


@parametrize_with_checks(
    [LogisticHead(), SVMHead(), RidgeHead(), KNNHead(), BNMLPHead(epochs=20), MLPHead(epochs=40, learning_rate=3e-3)]
)
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def _maps(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    X = rng.normal(0, 1, (n, 4, 4, 6)) + 3 * np.eye(6)[y][:, None, None]
    return (100 * X).astype(np.float16), y


@pytest.mark.parametrize(("n", "d"), [(40, 90), (90, 40), (40, 40)])
def test_the_twin_problem_has_the_same_solution(n: int, d: int) -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 5
    y = np.arange(n) % 3
    scaled = StandardScaler().fit_transform(X)
    direct = LogisticRegression(C=0.01, max_iter=5000, tol=1e-8).fit(scaled, y)
    np.testing.assert_allclose(
        LogisticHead(0.01).fit(X, y).decision_function(X), direct.decision_function(scaled), atol=2e-3
    )


@pytest.mark.parametrize("name", HEADS)
def test_state_as_arrays_makes_the_same_head(name: str) -> None:
    X, y = _maps()
    params = {"epochs": 2} if "mlp" in name else {}
    head = make_head(name, **params).fit(X, y)
    again = make_head(name, **params).set_state(head.get_state(), head.classes_)
    np.testing.assert_array_equal(again.predict_proba(X), head.predict_proba(X))
    np.testing.assert_allclose(head.predict_proba(X).sum(axis=1), 1, atol=1e-5)


def test_keras_heads_repeat_themselves_and_leave_the_global_state_alone() -> None:
    X, y = _maps()
    before = np.random.get_state()[1].copy()
    # several batches: their order is drawn too
    a, b, c = (BNMLPHead(epochs=2, batch_size=16, random_state=seed).fit(X, y).predict_proba(X) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_class_sorted_rows_train_as_well() -> None:
    X, y = _maps(120)
    order = np.argsort(y, kind="stable")
    assert BNMLPHead(epochs=20, batch_size=16).fit(X[order], y[order]).score(X, y) > 0.95


def test_a_loss_that_is_not_a_number_stops_with_advice() -> None:
    X, y = _maps()
    with pytest.raises(TrainingError, match="lower learning rate than 1e\\+30"):
        BNMLPHead(epochs=5, learning_rate=1e30).fit(X, y)


def test_an_unknown_parameter_names_those_there_are() -> None:
    with pytest.raises(TrainingError, match="the knn head has no 'C'; it takes input, n_neighbors"):
        make_head("knn", C=1)
