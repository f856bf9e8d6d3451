"""Heads: scikit-learn's estimator checks, and what each head promises beyond them."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from featx.errors import SettingError, TrainingError
from featx.heads import HEADS, BNMLPHead, HeadParams, KNNHead, LogisticHead, RidgeHead, SVMHead, make_head

KERAS_HEADS = ["bn-mlp", "mlp"]
LINEAR_HEADS = ["logreg", "svm", "ridge"]


@parametrize_with_checks([head(hidden=16) if name in KERAS_HEADS else head() for name, head in HEADS.items()])
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def _maps(n: int = 60, seed: int = 0, sides: tuple[int, int] = (4, 4)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    X = rng.normal(0, 1, (n, *sides, 6)) + 3 * np.eye(6)[y][:, None, None]
    return (100 * X).astype(np.float16), y


def _rows(n: int, d: int, n_classes: int = 3, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Correlated columns of different scales, and labels that have nothing to do with them."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 5, np.arange(n) % n_classes


def _small(name: str, **params: Any) -> Any:
    """A head that is quick to fit, whatever its kind."""
    quick = {"hidden": 8, "epochs": 2} if name in KERAS_HEADS else {}
    return make_head(name, **{**quick, **params})


# Linear heads


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("n", "d"), [(40, 90), (90, 40), (40, 40)])
def test_the_twin_problem_has_the_same_solution(n: int, d: int, n_classes: int) -> None:
    X, y = _rows(n, d, n_classes)
    scaled = StandardScaler().fit_transform(X)
    direct = LogisticRegression(C=0.01, max_iter=5000, tol=1e-8).fit(scaled, y)
    np.testing.assert_allclose(
        LogisticHead(0.01).fit(X, y).decision_function(X), direct.decision_function(scaled), atol=2e-3
    )


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("n", "d"), [(40, 90), (90, 40)])
def test_ridge_is_scikit_learns_on_standardised_columns(n: int, d: int, n_classes: int) -> None:
    X, y = _rows(n, d, n_classes)
    scaler = StandardScaler().fit(X)
    direct = RidgeClassifier(alpha=1 / (2 * 0.003)).fit(scaler.transform(X), y)
    new = X[::-1] * 1.1 + 1
    np.testing.assert_allclose(
        RidgeHead(0.003).fit(X, y).decision_function(new),
        direct.decision_function(scaler.transform(new)),
        rtol=0,
        atol=1e-9,
    )


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("n", "d"), [(40, 90), (90, 40)])
def test_svm_is_scikit_learns_on_standardised_columns(n: int, d: int, n_classes: int) -> None:
    X, y = _rows(n, d, n_classes)
    scaler = StandardScaler().fit(X)
    # liblinear penalises the intercept, the less the larger its scale
    direct = LinearSVC(C=0.003, loss="squared_hinge", dual=False, tol=1e-10, intercept_scaling=1e3)
    direct.fit(scaler.transform(X), y)
    new = X[::-1] * 1.1 + 1
    np.testing.assert_allclose(
        SVMHead(0.003).fit(X, y).decision_function(new),
        direct.decision_function(scaler.transform(new)),
        rtol=0,
        atol=1e-4,
    )


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", ["svm", "ridge"])
def test_probabilities_of_margins_are_their_softmax(name: str, n_classes: int) -> None:
    X, y = _rows(40, 20, n_classes)
    head = make_head(name, C=0.1).fit(X, y)
    scores = head.decision_function(X)
    margins = np.column_stack([-scores, scores]) if n_classes == 2 else scores
    shares = np.exp(margins) / np.exp(margins).sum(axis=1, keepdims=True)
    assert np.ptp(shares[:, 0]) > 0.3
    np.testing.assert_allclose(head.predict_proba(X), shares, rtol=1e-10)


@pytest.mark.parametrize("head", [LogisticHead, SVMHead])
def test_a_solver_stopped_early_says_how_far_it_is(head: Any) -> None:
    X, y = _rows(200, 20)
    early, whole = head(1e4, max_iter=2).fit(X, y), head(1e4).fit(X, y)
    assert early.n_iter_ <= 2 < whole.n_iter_
    assert whole.gap_ <= 1e-5 * whole.objective_
    assert whole.gap_ < early.gap_
    assert whole.objective_ <= early.objective_ <= whole.objective_ + early.gap_
    assert whole.gradient_norm_ < early.gradient_norm_


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("C", [0.01, 1, 100])
def test_logistic_regression_ends_where_the_gradient_is_nil(C: float, n_classes: int) -> None:
    # a solver may also end, and not warn, because the loss hardly falls any more (scikit-learn#18074)
    X, y = _rows(200, 20, n_classes)
    X *= np.logspace(-3, 3, 20)
    head = LogisticHead(C).fit(X, y)
    errors = head.predict_proba(X) - np.eye(n_classes)[y]
    if n_classes == 2:
        errors = errors[:, 1:]
    scaler = StandardScaler().fit(X)
    gradient = errors.T @ scaler.transform(X) / len(X) + head.coef_ * scaler.scale_ / (C * len(X))
    np.testing.assert_allclose(gradient, 0, atol=2e-5)
    np.testing.assert_allclose(errors.mean(axis=0), 0, atol=2e-5)


# Neighbours


def test_neighbours_vote_by_the_exponential_of_their_cosine() -> None:
    rng = np.random.default_rng(0)
    X, y, new = rng.normal(size=(30, 5)), np.arange(30) % 3, rng.normal(size=(4, 5))
    cosines = (new @ X.T) / np.linalg.norm(new, axis=1)[:, None] / np.linalg.norm(X, axis=1)
    expected = []
    for row in cosines:
        nearest = np.argsort(-row)[:7]
        votes = np.bincount(y[nearest], np.exp(row[nearest] / 0.07), 3)
        expected.append(votes / votes.sum())
    head = KNNHead(7).fit(X, y)
    np.testing.assert_allclose(head.predict_proba(new), expected, atol=1e-4)
    np.testing.assert_allclose(head.predict_proba(100 * new), expected, atol=1e-4)


def test_more_neighbours_than_rows_are_all_the_rows() -> None:
    X, y = _rows(12, 5)
    np.testing.assert_array_equal(KNNHead(500).fit(X, y).predict_proba(X), KNNHead(12).fit(X, y).predict_proba(X))


# Keras heads


def _layers(head: Any) -> list[str]:
    """The layers but the input, such as ``Dense 8 relu`` and ``Dropout 0.3``."""
    told = ("pool_size", "units", "activation", "rate")
    found = []
    for layer in head.model_.layers[1:]:
        config = layer.get_config()
        found.append(" ".join([type(layer).__name__, *(str(config[name]) for name in told if name in config)]))
    return found


BN_MLP = [
    "Dropout 0.3",
    "Dense 8 relu",
    "BatchNormalization",
    "Dropout 0.3",
    "Dense 8 relu",
    "BatchNormalization",
    "Dropout 0.6",
    "Dense 3 softmax",
]
MLP = ["Dense 8 relu", "Dropout 0.6", "Dense 3 softmax"]


@pytest.mark.parametrize(
    ("name", "input", "layers"),
    [
        ("bn-mlp", "flat", ["MaxPooling2D (2, 2)", "Flatten", *BN_MLP]),
        ("bn-mlp", "avg", BN_MLP),
        ("mlp", "flat", ["Flatten", *MLP]),
        ("mlp", "max", MLP),
    ],
)
def test_the_layers_are_those_of_the_lesson(name: str, input: str, layers: list[str]) -> None:
    X, y = _maps()
    assert _layers(_small(name, input=input, dropout=0.6, epochs=1).fit(X, y)) == layers


@pytest.mark.parametrize(("sides", "width"), [((3, 3), 4 * 6), ((5, 2), 3 * 6), ((1, 1), 6)])
def test_odd_maps_keep_their_last_row(sides: tuple[int, int], width: int) -> None:
    X, y = _maps(sides=sides)
    head = _small("bn-mlp", input="flat", epochs=1).fit(X, y)
    dense = next(layer for layer in head.model_.layers if "Dense" in type(layer).__name__)
    assert dense.kernel.shape == (width, 8)
    again = _small("bn-mlp", input="flat").set_state(head.get_state(), head.classes_)
    np.testing.assert_array_equal(again.predict_proba(X), head.predict_proba(X))
    corner = X.copy()
    corner[:, -1, -1] = 3000
    assert np.abs(head.predict_proba(corner) - head.predict_proba(X)).max() > 1e-3


@pytest.mark.parametrize("name", KERAS_HEADS)
def test_maps_are_standardised_per_channel_of_the_training_rows(name: str) -> None:
    rng = np.random.default_rng(0)
    # near the largest of float16, whose sums and squares overflow; more rows than are summed at once
    X = (rng.uniform(-1, 1, (400, 2, 3, 4)) * [10, 1e3, 2e4, 6e4] + [-50, 0, 4e4, 0]).astype(np.float16)
    y = np.arange(400) % 2
    before = X.copy()
    head = _small(name, input="flat", epochs=1).fit(X[:300], y[:300], (X[300:] / 2, y[300:]))
    seen = X[:300].astype(np.float64)
    np.testing.assert_allclose(head.mean_, seen.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(head.scale_, seen.std(axis=(0, 1, 2)), rtol=1e-5)
    standardised = (X[300:] - head.mean_) / head.scale_
    nothing = {"mean_": np.zeros_like(head.mean_), "scale_": np.ones_like(head.scale_)}
    unscaled = clone(head).set_state({**head.get_state(), **nothing}, head.classes_)
    np.testing.assert_allclose(unscaled.predict_proba(standardised), head.predict_proba(X[300:]), atol=1e-4)
    np.testing.assert_array_equal(X, before)


def _noisy(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two classes that overlap much, so that training overfits soon."""
    y = np.arange(n) % 2
    return np.random.default_rng(seed).normal(size=(n, 10)) + 0.5 * np.eye(10)[y], y


def _loss(head: Any, X: np.ndarray, y: np.ndarray) -> float:
    return float(-np.log(head.predict_proba(X)[np.arange(len(y)), y]).mean())


def _best(history: dict[str, list[float]]) -> int:
    """The epoch of the highest validation accuracy; among equals, the one of the lowest loss."""
    return max(
        range(len(history["val_loss"])), key=lambda epoch: (history["val_accuracy"][epoch], -history["val_loss"][epoch])
    )


@pytest.mark.parametrize("name", KERAS_HEADS)
def test_training_stops_early_and_keeps_the_best_epoch(name: str) -> None:
    held_out = _noisy(100, 1)
    # with this seed the epoch of the lowest loss is another one than that of the highest accuracy
    params = {"dropout": 0.1, "batch_size": 8, "learning_rate": 0.01, "random_state": 1}
    head = _small(name, epochs=60, patience=4, **params).fit(*_noisy(40, 0), held_out)
    best = _best(head.history_)
    assert best > 0
    assert len(head.history_["val_loss"]) == best + 1 + 4 < 60
    assert _loss(head, *held_out) == pytest.approx(head.history_["val_loss"][best], abs=1e-5)
    assert head.score(*held_out) == pytest.approx(head.history_["val_accuracy"][best])
    # out of epochs before patience runs out: the best is kept all the same
    cut = _small(name, epochs=best + 3, patience=50, **params).fit(*_noisy(40, 0), held_out)
    assert cut.history_["val_loss"] == pytest.approx(head.history_["val_loss"][: best + 3], rel=1e-4)
    assert _loss(cut, *held_out) == pytest.approx(head.history_["val_loss"][best], abs=1e-5)


def test_at_equal_accuracy_a_lower_loss_is_better() -> None:
    X, y = _maps()
    held_out = _maps(30, seed=1)
    head = _small("mlp", epochs=20, patience=2, batch_size=8, learning_rate=0.01, dropout=0).fit(X, y, held_out)
    assert head.history_["val_accuracy"][-6:] == [1] * 6
    assert len(head.history_["val_loss"]) == 20
    assert _loss(head, *held_out) == pytest.approx(min(head.history_["val_loss"]), abs=1e-5)


def test_history_has_a_value_per_measure_and_epoch() -> None:
    X, y = _maps()
    told: list[tuple[int, int]] = []
    head = _small("mlp", epochs=6, patience=1).fit(X, y, progress=lambda _, done, of: told.append((done, of)))
    assert {name: len(values) for name, values in head.history_.items()} == {"loss": 6, "accuracy": 6}
    assert told == [(done, 6) for done in range(7)]
    head = _small("mlp", epochs=1).fit(X, y, (X[:9], y[:9]))
    assert sorted(head.history_) == ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert all(type(value) is float for values in head.history_.values() for value in values)


@pytest.mark.parametrize("unknown", ["a", "d", "zebra"])  # before, between and after the known
def test_a_validation_row_of_an_unknown_class_is_an_error(unknown: str) -> None:
    X, numbers = _maps()
    y = np.array(["b", "c", "e"])[numbers]
    with pytest.raises(ValueError, match=f"validation rows have a class that no training row has: .*'{unknown}'"):
        _small("mlp").fit(X, y, (X[:2], ["b", unknown]))


@pytest.mark.parametrize("name", KERAS_HEADS)
def test_a_fitted_keras_head_can_be_pickled_and_cloned(name: str) -> None:
    X, y = _maps()
    head = _small(name, input="flat", random_state=3).fit(X, y)
    expected = head.predict_proba(X)
    again = pickle.loads(pickle.dumps(head))
    np.testing.assert_array_equal(again.predict_proba(X), expected)
    np.testing.assert_array_equal(head.predict_proba(X), expected)
    assert again.history_ == head.history_
    fresh = clone(head)
    assert fresh.get_params() == head.get_params()
    with pytest.raises(NotFittedError):
        fresh.predict_proba(X)


# All heads


@pytest.mark.parametrize("input", ["flat", "max", "avg"])
@pytest.mark.parametrize("name", HEADS)
def test_state_as_arrays_makes_the_same_head(name: str, input: str) -> None:
    X, y = _maps()
    head = _small(name, input=input).fit(X, y)
    file = io.BytesIO()
    np.savez(file, **head.get_state())
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        again = _small(name, input=input, random_state=7).set_state(dict(arrays), head.classes_)
    np.testing.assert_array_equal(again.predict_proba(X), head.predict_proba(X))
    np.testing.assert_array_equal(again.predict(X), head.predict(X))
    np.testing.assert_allclose(head.predict_proba(X).sum(axis=1), 1, atol=1e-5)
    assert again.n_features_in_ == head.n_features_in_ == (96 if input == "flat" else 6)
    np.testing.assert_equal(again.get_state(), head.get_state())


@pytest.mark.parametrize("name", [*LINEAR_HEADS, "knn"])
def test_maps_are_rows_of_all_values_or_of_means_or_maxima(name: str) -> None:
    X, y = _maps()
    wide = X.astype(np.float32)
    inputs = {"flat": wide.reshape(60, -1), "avg": wide.mean(axis=(1, 2)), "max": wide.max(axis=(1, 2))}
    for input, rows in inputs.items():
        expected = make_head(name).fit(rows, y).predict_proba(rows)
        assert np.ptp(expected) > 0.01
        np.testing.assert_array_equal(make_head(name, input=input).fit(X, y).predict_proba(X), expected)


@pytest.mark.parametrize("input", ["flat", "max", "avg"])
@pytest.mark.parametrize("name", [*LINEAR_HEADS, "knn"])
def test_the_largest_of_float16_do_not_overflow(name: str, input: str) -> None:
    X = np.random.default_rng(0).uniform(3e4, 6e4, (60, 3, 3, 4)).astype(np.float16)
    y = np.arange(60) % 2
    wide = X.astype(np.float64)
    np.testing.assert_allclose(
        make_head(name, input=input).fit(X, y).predict_proba(X),
        make_head(name, input=input).fit(wide, y).predict_proba(wide),
        atol=1e-3,
    )


@pytest.mark.parametrize("name", HEADS)
def test_a_constant_column_and_a_class_of_one_row_do_no_harm(name: str) -> None:
    X, y = _rows(31, 5)
    X[:, 2] = 7.1
    y[:] = np.arange(31) % 2
    y[30] = 2
    head = _small(name).fit(X, y)
    probabilities = head.predict_proba(X)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    if name in KERAS_HEADS:
        assert head.scale_[2] == 1
    if name in LINEAR_HEADS:
        others = np.delete(X, 2, axis=1)
        np.testing.assert_allclose(probabilities, _small(name).fit(others, y).predict_proba(others), atol=1e-4)


@pytest.mark.parametrize("name", HEADS)
def test_labels_may_be_strings_and_classes_are_sorted(name: str) -> None:
    X, numbers = _maps()
    y = np.array(["zebra", "ant", "mole"])[numbers]
    steps = {"epochs": 20, "batch_size": 16, "learning_rate": 0.01, "dropout": 0} if name in KERAS_HEADS else {}
    head = _small(name, **steps).fit(X, y)
    assert head.classes_.tolist() == ["ant", "mole", "zebra"]
    assert head.predict(X).dtype == y.dtype
    assert np.mean(head.predict(X) == y) > 0.95
    np.testing.assert_array_equal(head.classes_[head.predict_proba(X).argmax(axis=1)], head.predict(X))


@pytest.mark.parametrize(
    ("names", "setting", "message"),
    [
        (KERAS_HEADS, {"dropout": 1}, "`dropout` must be at least 0 and below 1, got 1"),
        (KERAS_HEADS, {"dropout": -0.1}, "`dropout` must be at least 0 and below 1, got -0.1"),
        (KERAS_HEADS, {"hidden": 0}, "`hidden` must be at least 1, got 0"),
        (KERAS_HEADS, {"epochs": 0}, "`epochs` must be at least 1, got 0"),
        (KERAS_HEADS, {"epochs": 2.0}, "`epochs` must be a whole number, got 2.0"),
        (KERAS_HEADS, {"patience": 0}, "`patience` must be at least 1, got 0"),
        (KERAS_HEADS, {"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        (KERAS_HEADS, {"learning_rate": 0}, "`learning_rate` must be above 0, got 0"),
        (KERAS_HEADS, {"learning_rate": float("inf")}, "`learning_rate` must be above 0, got inf"),
        (KERAS_HEADS, {"random_state": -1}, "`random_state` must be at least 0, got -1"),
        (LINEAR_HEADS, {"C": 0}, "`C` must be from 1e-10 to 1e\\+06, got 0"),
        (LINEAR_HEADS, {"C": -1}, "`C` must be .*, got -1"),
        (LINEAR_HEADS, {"C": "much"}, "`C` must be .*, got 'much'"),
        (LINEAR_HEADS, {"C": float("nan")}, "`C` must be .*, got nan"),
        (LINEAR_HEADS, {"C": 1e300}, "`C` must be .*, got 1e\\+300"),
        (["knn"], {"n_neighbors": 0}, "`n_neighbors` must be at least 1, got 0"),
        (["knn"], {"temperature": 0}, "`temperature` must be above 0, got 0"),
        (list(HEADS), {"input": "sideways"}, "unknown `input` 'sideways'; expected one of flat, avg, max"),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_a_bad_setting_says_what_it_must_be(names: list[str], setting: dict[str, Any], message: str) -> None:
    X, y = _maps()
    for name in names:
        head = make_head(name, **setting)
        with pytest.raises(SettingError, match=f"^{message}$") as caught:
            head.check_settings()
        assert caught.value.setting == next(iter(setting))
        with pytest.raises(ValueError, match=message):
            head.fit(X, y)
        assert not [name for name in vars(head) if name.endswith("_")]


@pytest.mark.parametrize("name", HEADS)
def test_rows_of_one_class_are_an_error_of_ours_and_of_scikit_learns(name: str) -> None:
    X, _ = _maps()
    for error in (TrainingError, ValueError):
        with pytest.raises(error, match="a head needs two classes at least, got one class only, 'ant'"):
            _small(name).fit(X, ["ant"] * len(X))


@pytest.mark.parametrize("name", HEADS)
def test_a_head_says_what_it_can_do(name: str) -> None:
    X, y = _maps()
    head = _small(name).fit(X, y)
    assert head.trains_in_epochs == hasattr(head, "history_") == (name in KERAS_HEADS)
    assert (head.differentiable, head.has_path, head.has_tail) == (name != "knn", name in LINEAR_HEADS, False)
    for can, what in (
        (head.differentiable, lambda: head.keras_layers((4, 4, 6), 3)),
        (head.differentiable, head.keras_weights),
        (head.differentiable, lambda: head.scores((4, 4, 6))),
        (head.has_path, lambda: head.path_probabilities(X, y, [0.1], np.arange(len(y)) % 2)),
    ):
        if can:
            assert what() is not None
        else:
            with pytest.raises(TrainingError, match=f"^{type(head).__name__} has no "):
                what()


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
    with pytest.raises(TrainingError, match="lower `learning_rate` than 1e\\+30"):
        BNMLPHead(epochs=5, learning_rate=1e30).fit(X, y)


def test_an_unknown_parameter_names_those_there_are() -> None:
    with pytest.raises(SettingError, match="the knn head has no setting 'C'; it takes input, n_neighbors"):
        make_head("knn", C=1)
    with pytest.raises(
        SettingError, match="the mlp head has no setting 'drop_out'; did you mean `dropout`\\?"
    ) as caught:
        make_head("mlp", drop_out=0.1)
    assert caught.value.setting == "drop_out"
    with pytest.raises(SettingError, match=r"unknown `head` 'bnmlp' \(did you mean 'bn-mlp'\?\)"):
        make_head("bnmlp")


@pytest.mark.parametrize("name", LINEAR_HEADS)
def test_nothing_to_learn_from_is_no_error(name: str) -> None:
    head = make_head(name).fit(np.full((10, 20), 3.0), np.arange(10) % 2)
    np.testing.assert_allclose(head.predict_proba(np.full((2, 20), 3.0)), 0.5, atol=1e-6)


@pytest.mark.parametrize("name", KERAS_HEADS)
def test_what_is_not_a_number_gets_no_prediction(name: str) -> None:
    X, y = _maps()
    head = make_head(name, input="flat", hidden=8, epochs=1).fit(X, y)
    bad = X.copy()
    bad[0, 2, 2, 1] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        head.predict_proba(bad)
    with pytest.raises(ValueError, match="contains NaN"):
        make_head(name, input="flat", hidden=8, epochs=1).fit(X, y, (bad, y))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        make_head(name, input="flat", hidden=8, epochs=1).fit(X, y, (X[:5], y))


def test_the_parameters_of_signatures_are_those_of_the_heads() -> None:
    known = {name for head in HEADS.values() for name in head._get_param_names()}
    assert HeadParams.__annotations__.keys() == known - {"random_state"}
    with pytest.raises(SettingError, match="the logreg head has no setting 'c_'; did you mean `C`|it takes") as error:
        make_head("logreg", c_=1)
    assert error.value.setting == "c_"
    with pytest.raises(SettingError, match="unknown `head` 'lgreg' .did you mean 'logreg'.*; expected one of bn-mlp"):
        make_head("lgreg")
