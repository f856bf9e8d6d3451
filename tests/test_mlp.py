"""Heads trained by Keras: settings, views, rows larger than memory, and compiled training that is used again."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import numpy as np
import pytest
from joblib import Parallel, delayed
from sklearn.base import clone

from featx._internal.keras import load_keras
from featx.errors import TrainingError
from featx.heads import BNMLPHead, MLPHead, make_head
from featx.heads.network import rows as rows_module
from featx.heads.network import trainer as trainer_module
from featx.heads.network.architecture import Architecture
from featx.heads.network.batches import Batches
from featx.heads.network.rows import Groups, Reader, shuffled

KERAS_HEADS = ["bn-mlp", "mlp"]


class Lazy:
    """Rows on demand and nothing else; remembers how many were asked for at once."""

    def __init__(self, X: np.ndarray, fail_after: int | None = None) -> None:
        self._X = X
        self.shape, self.dtype, self.ndim = X.shape, X.dtype, X.ndim
        self.asked: list[int] = []
        self.threads: set[str] = set()
        self._left = fail_after

    def __len__(self) -> int:
        return len(self._X)

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, np.ndarray):
            assert rows.dtype == np.int64 and np.all(np.diff(rows) > 0)
        else:
            assert isinstance(rows, slice)
        found = np.array(self._X[rows])
        self.asked.append(len(found))
        self.threads.add(threading.current_thread().name)
        if self._left is not None and len(self.asked) > self._left:
            raise OSError("the disk is gone")
        return found


def _data(n: int = 120, d: int = 12, sides: tuple[int, ...] = (), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(n) % 3
    X = np.random.default_rng(seed).normal(size=(n, *sides, d)) + 3 * np.eye(d)[y].reshape(n, *(1 for _ in sides), d)
    return (10 * X + 5).astype(np.float16), y


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers of 32 rows of 12 float32, chunks of 4 rows of 12 float16."""
    monkeypatch.setattr(rows_module, "BUFFER_BYTES", 32 * 12 * 4)
    monkeypatch.setattr(rows_module, "CHUNK_BYTES", 4 * 12 * 2)


def _reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("featx-reader")]


# Settings


def _kinds(head: Any) -> list[str]:
    return [type(layer).__name__ for layer in head.model_.layers[1:]]


def test_layers_and_batch_norm_make_the_network() -> None:
    X, y = _data()
    small: dict[str, Any] = {"hidden": 4, "epochs": 1}
    unit = ["Dropout", "Dense", "BatchNormalization"]
    assert _kinds(BNMLPHead(layers=3, **small).fit(X, y)) == [*unit * 3, "Dropout", "Dense"]
    assert _kinds(BNMLPHead(batch_norm=False, **small).fit(X, y)) == ["Dropout", "Dense"] * 3
    assert _kinds(MLPHead(layers=2, **small).fit(X, y)) == ["Dense", "Dropout"] * 2 + ["Dense"]


@pytest.mark.parametrize("name", KERAS_HEADS)
@pytest.mark.parametrize("sides", [(), (3, 4), (1, 5)])
def test_the_keras_model_predicts_the_same(name: str, sides: tuple[int, ...]) -> None:
    X, y = _data(sides=sides)
    head = make_head(name, input="flat", hidden=8, epochs=3, batch_size=16).fit(X, y)
    expected = head.model_.predict_on_batch(X.astype(np.float32))
    np.testing.assert_allclose(head.predict_proba(X), expected, atol=1e-5)
    assert [w.shape for w in head.weights_] == [w.shape for w in head.model_.weights]


@pytest.mark.parametrize("name", KERAS_HEADS)
def test_plain_settings_train_as_keras_does(name: str) -> None:
    """One batch an epoch and no dropout: the same steps as ``fit`` of Keras from the same weights."""
    X, y = _data()
    head = make_head(name, hidden=8, epochs=1, batch_size=200, dropout=0, learning_rate=1e-12).fit(X, y)
    keras, model = load_keras(), head.model_
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            layer.moving_mean.assign(np.zeros(8))
            layer.moving_variance.assign(np.ones(8))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    fitted = model.fit(X.astype(np.float32), y, batch_size=200, epochs=5, verbose=0)
    head = clone(head).set_params(learning_rate=0.01, epochs=5).fit(X, y)
    for measure in ("loss", "accuracy"):
        np.testing.assert_allclose(head.history_[measure], fitted.history[measure], rtol=1e-4)
    for mine, other in zip(head.weights_, model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)


def test_weight_decay_shrinks_kernels_at_the_learning_rate() -> None:
    X, y = np.full((40, 6), 3.0), np.arange(40) % 2  # nothing to learn: the first kernel has no gradient
    params: dict[str, Any] = {"hidden": 4, "epochs": 5, "batch_size": 10, "learning_rate": 0.01, "dropout": 0}
    plain = MLPHead(**params).fit(X, y).weights_[0]
    decayed = MLPHead(weight_decay=2.0, **params).fit(X, y).weights_[0]
    np.testing.assert_allclose(decayed, plain * (1 - 0.01 * 2.0) ** 20, rtol=1e-4)


def test_label_smoothing_bounds_the_confidence() -> None:
    X, y = _data(d=6)
    params: dict[str, Any] = {"epochs": 80, "learning_rate": 0.01, "dropout": 0, "batch_size": 40}
    sure = MLPHead(**params).fit(X, y).predict_proba(X).max(axis=1)
    modest = MLPHead(label_smoothing=0.3, **params).fit(X, y).predict_proba(X).max(axis=1)
    assert np.median(sure) > 0.97
    assert abs(np.median(modest) - 0.8) < 0.06  # 1 - 0.3 + 0.3 / 3


class _Recorder:
    """A trainer that remembers what it is given."""

    steps = 3
    architecture = Architecture(4, 4, hidden=0, layers=0, batch_norm=False, dropout_first=False)

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.given: list[tuple[np.ndarray, np.ndarray]] = []

    def train(self, rows: np.ndarray, targets: np.ndarray, steps: int) -> tuple[float, float]:
        self.given += [(r.copy(), t.copy()) for r, t in zip(rows[:steps], targets[:steps], strict=True)]
        return 1.0, 0.5


def _recorded(smoothing: float, mixup: float, groups: Any = None, epochs: int = 1, n: int = 50) -> _Recorder:
    """Rows that are the one-hot of their label, so that a row and its target should be mixed alike."""
    y = np.arange(n) % 4
    reader, trainer = Reader(np.eye(4, dtype=np.float32)[y], "flat", False), _Recorder(8)
    kept, drawn = np.eye(4, dtype=np.float32)[y], Groups(groups, n)
    batches = Batches(trainer, y, smoothing, mixup, np.random.default_rng(0))  # type: ignore[arg-type]
    with shuffled(reader, kept, drawn, np.random.default_rng(1)) as buffers:
        for _ in range(epochs):
            batches.epoch(buffers)
    return trainer


@pytest.mark.parametrize("smoothing", [0, 0.2])
def test_mixup_mixes_rows_and_targets_alike(smoothing: float) -> None:
    given = _recorded(smoothing, 0.4).given
    rows, targets = (np.concatenate(some) for some in zip(*given, strict=True))
    assert rows.shape == (48, 4)
    np.testing.assert_allclose(targets, rows * (1 - smoothing) + smoothing / 4, atol=1e-6)
    assert 0.2 < np.mean(rows.max(axis=1) < 0.999) < 1
    assert len(np.unique(rows.max(axis=1).round(4))) > 10  # each row has a share of its own


def test_without_mixup_rows_are_as_they_are() -> None:
    for rows, targets in _recorded(0, 0).given:
        np.testing.assert_array_equal(rows, targets)
        assert set(np.unique(rows)) == {0, 1}


@pytest.mark.parametrize("name", KERAS_HEADS)
def test_mixup_and_smoothing_learn_and_leave_validation_alone(name: str) -> None:
    X, y = _data(300)
    head = make_head(name, mixup=0.3, label_smoothing=0.1, weight_decay=0.01, epochs=30, learning_rate=0.01)
    head.fit(X[:200], y[:200], (X[200:], y[200:]))
    best = head.best_epoch_ - 1
    assert head.history_["val_accuracy"][best] == head.score(X[200:], y[200:]) > 0.9
    loss = -np.log(head.predict_proba(X[200:])[np.arange(100), y[200:]]).mean()
    assert head.history_["val_loss"][best] == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"layers": 0}, "`layers` must be at least 1, got 0"),
        ({"layers": 1.5}, "`layers` must be a whole number, got 1.5"),
        ({"weight_decay": -1}, "`weight_decay` must be at least 0, got -1"),
        ({"weight_decay": float("nan")}, "`weight_decay` must be at least 0, got nan"),
        ({"mixup": -0.1}, "`mixup` must be at least 0, got -0.1"),
        ({"label_smoothing": 1}, "`label_smoothing` must be at least 0 and below 1, got 1"),
    ],
)
def test_a_bad_setting_says_what_it_must_be(setting: dict[str, Any], message: str) -> None:
    for name in KERAS_HEADS:
        with pytest.raises(ValueError, match=message):
            make_head(name, **setting).fit(*_data())


@pytest.mark.usefixtures("eagerly")
def test_parameters_saved_before_there_were_new_ones_still_load() -> None:
    X, y = _data()
    head = BNMLPHead(hidden=4, epochs=1).fit(X, y)
    new = {"layers", "batch_norm", "weight_decay", "label_smoothing", "mixup"}
    old = {name: value for name, value in head.get_params().items() if name not in new}
    again = make_head("bn-mlp", **old).set_state(head.get_state(), head.classes_)
    np.testing.assert_array_equal(again.predict_proba(X), head.predict_proba(X))
    wide = BNMLPHead(hidden=4, layers=26, batch_norm=True, epochs=1).fit(X, y)  # more than a hundred arrays
    again = clone(wide).set_state(wide.get_state(), wide.classes_)
    np.testing.assert_array_equal(again.predict_proba(X), wide.predict_proba(X))


# Views


def test_an_epoch_draws_one_row_of_each_group() -> None:
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(100, 125), [4] * 20 + [1] * 5))
    drawn = Groups(groups, len(groups))
    rng, seen = np.random.default_rng(0), set()
    for _ in range(40):
        rows = drawn.draw(rng)
        assert sorted(groups[rows]) == list(range(100, 125))
        seen |= set(rows.tolist())
    assert seen == set(range(85))
    given = _recorded(0, 0, groups=np.arange(50) // 2, epochs=3).given
    assert len(given) == 3 * (25 // 8)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("small", [False, True])
def test_views_train_and_repeat_themselves(lazy: bool, small: bool, request: pytest.FixtureRequest) -> None:
    if small:
        request.getfixturevalue("small_buffers")
    X, y = _data(300)
    groups = np.tile(np.arange(150), 2)
    y[150:] = y[:150]
    X[150:] = X[:150] + np.random.default_rng(1).normal(size=(150, 12))
    wrap = Lazy if lazy else np.asarray
    head = BNMLPHead(epochs=12, hidden=16, batch_size=16, learning_rate=0.01)
    first = clone(head).fit(wrap(X), y, groups=groups)
    assert first.score(X, y) > 0.9
    np.testing.assert_allclose(first.mean_, X.astype(float).mean(axis=0), rtol=1e-5)
    second = clone(head).fit(wrap(X), y, groups=groups).predict_proba(X)
    np.testing.assert_array_equal(first.predict_proba(X), second)
    assert np.abs(clone(head).fit(wrap(X), y).predict_proba(X) - second).max() > 1e-3


def test_groups_need_a_number_a_row() -> None:
    X, y = _data()
    with pytest.raises(ValueError, match=r"`groups` must be \(120,\), a number per row, got \(5,\)"):
        BNMLPHead().fit(X, y, groups=np.arange(5))


def test_fitting_again_takes_groups_and_keeps_the_history() -> None:
    X, y = _data()
    groups = np.arange(120) // 2 * 2
    head = MLPHead(epochs=8, patience=3, hidden=8, batch_size=16).fit(
        X[:90], y[:90], (X[90:], y[90:]), groups=groups[:90]
    )
    history, best = head.history_, head.best_epoch_
    head.fit_again(X, y, groups=groups)
    assert (head.history_, head.best_epoch_, head.epochs) == (history, best, 8)
    fresh = clone(head).set_params(epochs=best).fit(X, y, groups=groups)
    np.testing.assert_array_equal(fresh.predict_proba(X), head.predict_proba(X))


# Larger than memory


@pytest.mark.parametrize("name", KERAS_HEADS)
@pytest.mark.parametrize(("sides", "input"), [((), "avg"), ((3, 2), "avg"), ((3, 2), "max"), ((3, 2), "flat")])
def test_lazy_rows_in_one_buffer_train_as_arrays(name: str, sides: tuple[int, ...], input: str) -> None:
    X, y = _data(sides=sides)
    head = make_head(name, input=input, hidden=8, epochs=3, batch_size=16)
    expected = clone(head).fit(X[:90], y[:90], (X[90:], y[90:]))
    found = clone(head).fit(Lazy(X[:90]), y[:90], (Lazy(X[90:]), y[90:]))
    np.testing.assert_allclose(found.mean_, expected.mean_, rtol=1e-5)
    np.testing.assert_allclose(found.history_["val_loss"], expected.history_["val_loss"], rtol=1e-3)
    np.testing.assert_allclose(found.predict_proba(Lazy(X)), expected.predict_proba(X), atol=1e-3)
    np.testing.assert_allclose(found.predict_proba(Lazy(X)), found.predict_proba(X), atol=1e-6)
    assert found.n_features_in_ == expected.n_features_in_
    np.testing.assert_equal(found.get_state()["feature_shape"], expected.get_state()["feature_shape"])


@pytest.mark.parametrize(("sides", "input"), [((), "avg"), ((2, 2), "avg"), ((3, 3), "flat")])
def test_files_sorted_by_class_train_as_well(sides: tuple[int, ...], input: str, small_buffers: None) -> None:
    X, y = _data(300, sides=sides)
    order = np.argsort(y, kind="stable")
    X, y = X[order], y[order]
    lazy, held_out = Lazy(X), Lazy(X[::3])
    head = BNMLPHead(input=input, hidden=16, epochs=15, batch_size=16, learning_rate=0.01)
    head.fit(lazy, y, (held_out, y[::3]))
    assert head.score(lazy, y) > 0.95
    assert head.score(X, y) == head.score(lazy, y)
    assert max(lazy.asked + held_out.asked) <= 4  # a chunk
    assert any(name.startswith("featx-reader") for name in lazy.threads)
    assert _reading_threads() == []


def test_buffers_are_bounded_balanced_and_cover_an_epoch(small_buffers: None) -> None:
    y = np.repeat(np.arange(4), 64)
    reader = Reader(Lazy(np.arange(256, dtype=np.float32)[:, None].repeat(12, axis=1)), "flat", False)
    orders = []
    with shuffled(reader, None, Groups(None, 256), np.random.default_rng(0)) as buffers:
        for _ in range(3):
            seen: list[int] = []
            for buffer in buffers:
                assert len(buffer.rows) <= 32 + 2 * 4
                np.testing.assert_array_equal(buffer.rows[:, 0], buffer.numbers)
                assert np.bincount(y[buffer.numbers], minlength=4).max() <= 32 // 4 + 4  # a class has its share
                seen += buffer.numbers[buffer.order].tolist()
                if buffer.ends_epoch:
                    break
            assert sorted(seen) == list(range(256))
            orders.append(seen)
    assert orders[0] != orders[1] != orders[2]
    assert _reading_threads() == []


def test_streamed_training_repeats_itself(small_buffers: None) -> None:
    X, y = _data(200)
    a, b = (BNMLPHead(hidden=8, epochs=3, batch_size=16).fit(Lazy(X), y).predict_proba(X) for _ in range(2))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("input", ["avg", "flat"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_lazy_row_that_is_no_number_is_named(value: float, input: str, small_buffers: None) -> None:
    X, y = _data(60, sides=(2, 2))
    bad = X.copy()
    bad[17, 1, 1, 3] = value
    head = MLPHead(input=input, hidden=4, epochs=1)
    with pytest.raises(ValueError, match="row 17 contains NaN or infinity"):
        head.fit(Lazy(bad), y)
    with pytest.raises(ValueError, match="row 17 contains NaN or infinity"):
        head.fit(X, y, (Lazy(bad), y))
    with pytest.raises(ValueError, match="row 17 contains NaN or infinity"):
        head.fit(X, y).predict_proba(Lazy(bad))


def test_lazy_rows_of_another_shape_or_number_are_errors() -> None:
    X, y = _data()
    head = MLPHead(hidden=4, epochs=1).fit(X, y)
    with pytest.raises(ValueError, match=r"rows must be \(12,\) as in training, got \(5,\)"):
        head.predict_proba(Lazy(X[:, :5]))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        head.fit(Lazy(X), y[:5])


def test_what_fails_in_the_reading_thread_comes_out_of_fit(small_buffers: None) -> None:
    X, y = _data(200)
    with pytest.raises(OSError, match="the disk is gone"):
        MLPHead(hidden=4, epochs=50).fit(Lazy(X, fail_after=120), y)
    assert _reading_threads() == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_on_epoch_raises_ends_training_cleanly(error: type[BaseException], small_buffers: None) -> None:
    def prune(epoch: int, measures: dict[str, float]) -> None:
        raise error("enough")

    X, y = _data(200)
    with pytest.raises(error, match="enough"):
        MLPHead(hidden=4, epochs=50).fit(Lazy(X), y, on_epoch=prune)
    assert _reading_threads() == []
    assert MLPHead(hidden=4, epochs=50, learning_rate=0.01).fit(Lazy(X), y).score(X, y) > 0.9


# Epochs as they pass


def test_on_epoch_sees_the_measures_and_may_stop() -> None:
    X, y = _data()
    seen: list[tuple[int, dict[str, float]]] = []

    def look(epoch: int, measures: dict[str, float]) -> bool:
        seen.append((epoch, measures))
        return epoch == 3

    head = MLPHead(hidden=4, epochs=10).fit(X[:90], y[:90], (X[90:], y[90:]), on_epoch=look)
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert [measures["val_accuracy"] for _, measures in seen] == head.history_["val_accuracy"]
    assert sorted(seen[0][1]) == ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert head.best_epoch_ <= 3
    assert head.score(X[90:], y[90:]) == max(head.history_["val_accuracy"])


# Compiled training used again


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Architecture]:
    """Grows by one with each training that is compiled; none is there to begin with."""
    made: list[Architecture] = []
    real = trainer_module.Trainer

    def make(*key: Any) -> Any:
        made.append(key[0])
        return real(*key)

    monkeypatch.setattr(trainer_module, "Trainer", make)
    monkeypatch.setattr(trainer_module, "_idle", [])
    return made


def test_other_rates_and_rows_compile_nothing(compiled: list[Architecture]) -> None:
    X, y = _data()
    params: dict[str, Any] = {"hidden": 8, "epochs": 2, "batch_size": 16}
    head = BNMLPHead(**params).fit(X[:90], y[:90], (X[90:], y[90:]))
    head.fit_again(X, y)
    for other in ({"dropout": 0.2}, {"learning_rate": 0.1}, {"mixup": 1.0}, {"label_smoothing": 0.1}, {"epochs": 3}):
        BNMLPHead(**{**params, **other}).fit(X, y)
    assert len(compiled) == 1
    for decay in (0.1, 0.2):
        BNMLPHead(weight_decay=decay, **params).fit(X, y)
    assert len(compiled) == 2


def test_a_fit_does_not_depend_on_what_was_fitted_before(compiled: list[Architecture]) -> None:
    X, y = _data()
    head = BNMLPHead(hidden=8, epochs=3, batch_size=16, weight_decay=0.1, mixup=0.2)
    fresh = clone(head).fit(X, y).predict_proba(X)
    clone(head).set_params(dropout=0.9, learning_rate=0.1, weight_decay=1.0, random_state=5).fit(X, y)
    with pytest.raises(TrainingError):
        clone(head).set_params(learning_rate=1e30, epochs=5).fit(X, y)
    np.testing.assert_array_equal(clone(head).fit(X, y).predict_proba(X), fresh)
    assert len(compiled) == 1


def test_what_is_kept_is_bounded(compiled: list[Architecture], monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = _data(30)
    monkeypatch.setattr(trainer_module, "KEPT", 2)
    for hidden in (2, 3, 4):
        MLPHead(hidden=hidden, epochs=1).fit(X, y)
    assert [key[0].hidden for key, _ in trainer_module._idle] == [3, 4]
    monkeypatch.setattr(trainer_module, "KEPT_BYTES", 10)
    MLPHead(hidden=5, epochs=1).fit(X, y)
    assert trainer_module._idle == []


def test_threads_fit_at_once() -> None:
    X, y = _data()
    heads = [BNMLPHead(hidden=8, epochs=3, batch_size=16, dropout=rate) for rate in (0.1, 0.2, 0.3, 0.4)]
    alone = [clone(head).fit(X, y).predict_proba(X) for head in heads]
    at_once = Parallel(2, prefer="threads")(delayed(clone(head).fit)(X, y) for head in heads)
    for head, expected in zip(at_once, alone, strict=True):
        np.testing.assert_array_equal(head.predict_proba(X), expected)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(head)).predict_proba(X), expected)
