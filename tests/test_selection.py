"""Cross-validation over whole paths, few-shot curves, calibration: chosen on training rows, never on test rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from featx.cache import Features, load_features, write_features
from featx.classifier import Classifier, fit, fit_temperature
from featx.classifier.evaluation import calibration_error, with_temperature
from featx.cli.selection import parse_C
from featx.errors import SettingError
from featx.heads import BNMLPHead, make_head
from featx.rows import fold_numbers, groups_of, inputs
from featx.selection.cross_validation import C_VALUES, Trial, _chosen, cross_validate
from featx.selection.few_shot import few_shot

C = [1e-4, 1e-2, 1.0]


def _file(
    path: Path, n: int = 60, *, views: int = 1, splits: Any = None, copies: int = 0, seed: int = 0, maps: bool = True
) -> Features:
    """A feature file of three overlapping classes; the first ``copies`` pictures are there twice."""
    rng = np.random.default_rng(seed)
    numbers = np.concatenate([np.arange(n), np.arange(copies)])
    y = numbers % 3
    base = rng.normal(size=(n, 2, 2, 6))[numbers] + 1.2 * np.eye(6)[y][:, None, None]
    X = np.concatenate([base + (0.3 * rng.normal(size=base.shape) if view else 0) for view in range(views)])
    X = (X if maps else X.mean(axis=(1, 2))).astype(np.float16)
    marked = np.array([""] * len(y) if splits is None else splits)
    view = np.repeat(np.arange(views), len(y))
    keep = (view == 0) | np.isin(np.tile(marked, views), ["", "train"])
    names = [f"{'copy-' if at >= n else ''}{number:03}.png" for at, number in enumerate(numbers)]
    tables = {
        "ids": np.tile([f"{number:032x}" for number in numbers], views)[keep].tolist(),
        "views": view[keep].tolist(),
        "labels": np.tile(y, views)[keep].tolist(),
        "paths": np.tile(names, views)[keep].tolist(),
        "splits": np.tile(marked, views)[keep].tolist(),
        "quarantine": [],
        "stat": [],
    }
    recipe = {"backbone": "mobilenetv2", "weights": "random"}
    about = {"class_names": ["a", "b", "c"], "dataset": "made", "recipe": recipe, "augmentation": {}}
    write_features(
        path, [X[keep]], X[keep].shape, spec={"backbone": "x", "dtype": "float16"}, tables=tables, attributes=about
    )
    return load_features(path)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=8, max_size=80),
    st.integers(2, 5),
    st.integers(0, 9),
)
@settings(max_examples=80, deadline=None)
def test_folds_keep_pictures_together_and_classes_apart(
    rows: list[tuple[int, int]], folds: int, random_state: int
) -> None:
    ids, y = np.array([f"{picture:032x}" for picture, _ in rows]), np.array([picture % 4 for picture, _ in rows])
    pictures = len(np.unique(ids))
    if pictures < folds:
        message = f"`folds` must be from 2 to the number of pictures, {pictures}, got {folds}"
        with pytest.raises(SettingError, match=f"^{message}$"):
            fold_numbers(ids, y, folds, random_state)
        return
    fold = fold_numbers(ids, y, folds, random_state)
    assert all(len(np.unique(fold[ids == content])) == 1 for content in np.unique(ids))
    first = np.unique(ids, return_index=True)[1]
    sizes = np.bincount(fold[first], minlength=folds)
    assert np.ptp(sizes) <= 1
    for label in np.unique(y):
        assert np.ptp(np.bincount(fold[first][y[first] == label], minlength=folds)) <= 1
    np.testing.assert_array_equal(fold, fold_numbers(ids, y, folds, random_state))


def test_folds_depend_on_the_seed_and_on_pictures_not_on_their_order() -> None:
    ids, y = np.array([f"{i:032x}" for i in range(40)]), np.arange(40) % 2
    fold = fold_numbers(ids, y, 5)
    assert (fold != fold_numbers(ids, y, 5, random_state=1)).any()
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(fold_numbers(ids[order], y[order], 5), fold[order])


@pytest.mark.parametrize("input", ["avg", "flat"])
@pytest.mark.parametrize("name", ["logreg", "svm", "ridge"])
def test_a_path_over_folds_is_what_single_fits_give(name: str, input: str, tmp_path: Path) -> None:
    features = _file(tmp_path / "f.h5", copies=5)
    found = cross_validate(features, name, C=C, folds=4, input=input)
    rows = np.arange(len(features))
    fold = fold_numbers(features.ids, features.y, 4)
    for trial, c in zip(found.trials, C, strict=True):
        assert trial.params == {"C": c}
        right = []
        for number in range(4):
            head = make_head(name, C=c, input=input)
            head.fit(features.X(rows[fold != number]), features.y[fold != number])
            right.append(head.score(features.X(rows[fold == number]), features.y[fold == number]))
        assert trial.mean_accuracy == pytest.approx(np.mean(right), abs=1e-9)
        assert trial.std_accuracy == pytest.approx(np.std(right, ddof=1), abs=1e-9)
    best = found.best.params["C"]
    assert found.best.mean_accuracy == max(trial.mean_accuracy for trial in found.trials)
    whole = make_head(name, C=best, input=input).fit(features.X(), features.y)
    np.testing.assert_allclose(found.classifier.head.predict_proba(features.X()), whole.predict_proba(features.X()))


@pytest.mark.parametrize("name", ["knn", "mlp"])
def test_other_heads_are_cross_validated_as_they_are(name: str, tmp_path: Path) -> None:
    features = _file(tmp_path / "f.h5", maps=False)
    quick = {"epochs": 5, "hidden": 8} if name == "mlp" else {}
    found = cross_validate(features, name, folds=3, **quick)
    assert [trial.params for trial in found.trials] == [{}]
    assert 0.4 < found.best.mean_accuracy <= 1
    again = cross_validate(features, name, folds=3, **quick)
    assert again.trials == found.trials
    with pytest.raises(SettingError, match=f"^the {name} head has no `C`; leave it out$") as caught:
        cross_validate(features, name, C=[1.0])
    assert caught.value.setting == "C"


def test_views_of_pictures_that_stop_training_do_not_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = _file(tmp_path / "f.h5", views=2, copies=10)
    seen: list[tuple[int, int]] = []
    real = BNMLPHead.fit

    def fit(self: BNMLPHead, X: Any, y: Any, validation_data: Any = None, progress: Any = None, **more: Any) -> Any:
        seen.append((len(X), len(validation_data[0])))
        return real(self, X, y, validation_data, progress, **more)

    monkeypatch.setattr(BNMLPHead, "fit", fit)
    found = cross_validate(features, "bn-mlp", folds=2, epochs=2, hidden=8)
    assert len(seen) == 3  # two folds and all rows
    pictures, held_out = len(features) // 2, seen[-1][1]
    assert 10 <= held_out <= 20 and seen[-1][0] == 2 * (pictures - held_out)
    assert found.classifier.fitting.train_rows == pictures == 70
    assert len(found.classifier.head.history_["val_loss"]) == 2


def test_the_test_split_is_never_looked_at(tmp_path: Path) -> None:
    """Other test rows, and other validation rows of the data set's own, change nothing."""
    splits = np.array(["train", "train", "train", "test", "validation", "train"] * 10)
    first = _file(tmp_path / "a.h5", splits=splits)
    X = first.stored().copy()
    X[splits != "train"] = 6e4
    second = _file(tmp_path / "b.h5", splits=splits)
    tables = {name: getattr(second, {"labels": "y"}.get(name, name)).tolist() for name in
              ("ids", "views", "labels", "paths", "splits")}  # fmt: skip
    write_features(
        tmp_path / "b.h5", [X], X.shape, spec=second.spec, tables={**tables, "quarantine": [], "stat": []},
        attributes={"class_names": ["a", "b", "c"], "dataset": "made", "recipe": second.recipe},
    )  # fmt: skip
    second = load_features(tmp_path / "b.h5")
    a, b = (cross_validate(f, "logreg", C=C, folds=3) for f in (first, second))
    assert a.trials == b.trials
    np.testing.assert_array_equal(a.classifier.head.coef_, b.classifier.head.coef_)
    assert a.classifier.fitting.train_rows == (splits == "train").sum()
    assert set(a.classifier.train_ids) == set(first.ids[splits == "train"])


def test_views_train_together_and_are_never_measured(tmp_path: Path) -> None:
    plain, viewed = _file(tmp_path / "a.h5"), _file(tmp_path / "b.h5", views=3)
    found = cross_validate(viewed, "logreg", C=C, folds=3)
    assert found.classifier.fitting.train_rows == len(plain) == 60
    assert found.classifier.fitting.train_views == 120
    assert found.classifier.held_out.shape == (60, 3)
    rows = np.arange(len(viewed))
    groups = groups_of(viewed, rows)["groups"]
    assert len(np.unique(groups)) == 60
    assert groups_of(plain, np.arange(60)) == {}
    fold = fold_numbers(viewed.ids, viewed.y, 3)
    right = []
    for number in range(3):
        inside, outside = fold != number, (fold == number) & (viewed.views == 0)
        head = make_head("logreg", C=C[1])
        head.fit(inputs(head, viewed, rows[inside]), viewed.y[inside], groups=groups[inside])
        right.append(head.score(viewed.X(rows[outside]), viewed.y[outside]))
    assert found.trials[1].mean_accuracy == pytest.approx(np.mean(right), abs=1e-9)


@pytest.mark.parametrize("name", ["logreg", "ridge", "knn", "bn-mlp"])
def test_fit_and_evaluate_with_views(name: str, tmp_path: Path) -> None:
    splits = ["train", "train", "", "test"] * 15
    features = _file(tmp_path / "f.h5", views=3, splits=splits)
    assert len(features) == 60 + 2 * 45
    quick = {"epochs": 3, "hidden": 8} if name == "bn-mlp" else {}
    classifier = fit(features, name, **quick)
    assert classifier.fitting.train_rows == 45
    assert classifier.fitting.train_views == 90
    assert classifier.fitting.validation_rows == 9
    assert classifier.evaluate(features).rows == 15
    assert classifier.evaluate(features, "validation").rows == 9
    assert classifier.evaluate(features, "train").rows == 45
    saved = Classifier.load(classifier.save(tmp_path / "model"))
    np.testing.assert_allclose(saved.predict_proba(features), classifier.predict_proba(features), atol=1e-6)


def test_one_standard_error_prefers_the_strongest_penalty() -> None:
    accuracies = [0.70, 0.86, 0.90, 0.90, 0.88]
    trials = [Trial({"C": 10.0**i}, accuracy, 0.1, 1.0) for i, accuracy in enumerate(accuracies)]
    assert _chosen(trials, "best", 5) == 2
    assert _chosen([*trials, Trial({"C": 1e9}, 0.90, 0.1, 0.9)], "best", 5) == 5
    assert _chosen(trials, "one-se", 5) == 1  # 0.9 - 0.1 / sqrt(5) = 0.855
    assert _chosen(trials[::-1], "best", 5) == 2
    assert _chosen(trials[::-1], "one-se", 5) == 3


@pytest.mark.parametrize(
    ("text", "values"),
    [("0.1", [0.1]), ("1e-2:1:3", [0.01, 0.1, 1.0]), ("5:5:1", [5.0])],
)
def test_C_is_a_number_or_a_range(text: str, values: list[float]) -> None:
    assert parse_C(text) == pytest.approx(values)


@pytest.mark.parametrize("text", ["", "x", "1:2", "1:0.1:3", "0:1:3", "1:2:0", "1:2:3:4", "1:inf:2", "1:2:1.5"])
def test_a_bad_C_says_what_it_takes(text: str) -> None:
    with pytest.raises(SettingError, match="`C` takes a number, or lo:hi:n such as 1e-5:10:9, got"):
        parse_C(text)


@pytest.mark.parametrize(
    ("run", "settings", "setting", "message"),
    [
        (cross_validate, {"rule": "lucky"}, "rule", "unknown `rule` 'lucky'; expected one of best, one-se"),
        (cross_validate, {"folds": 1}, "folds", "`folds` must be from 2 to the number of pictures, 60, got 1"),
        (cross_validate, {"C": []}, "C", "`C` needs one value at least"),
        (few_shot, {"shots": [5, 0]}, "shots", "`shots` must be at least 1 each, got [5, 0]"),
        (few_shot, {"repeats": 1}, "repeats", "`repeats` must be at least 2, got 1"),
        (few_shot, {"validation": 0.0}, "validation", "few-shot curves need validation rows; expected `validation` ab"),
        (fit, {"validation": 0.0, "calibrate": True}, "calibrate", "`calibrate` needs validation rows; expected a `va"),
    ],
)
def test_bad_settings_are_errors_in_a_line(
    run: Callable[..., Any], settings: dict[str, Any], setting: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingError) as caught:
        run(_file(tmp_path / "f.h5"), "logreg", **settings)
    assert caught.value.setting == setting
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_bad_C_is_an_error_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="`C` must be from 1e-10 to 1e.06, got -1.0"):
        cross_validate(_file(tmp_path / "f.h5"), "logreg", C=[-1.0])


def test_every_linear_head_has_its_default_path(tmp_path: Path) -> None:
    features = _file(tmp_path / "f.h5")
    for name, (low, high, count) in C_VALUES.items():
        found = cross_validate(features, name, folds=3)
        values = [trial.params["C"] for trial in found.trials]
        assert values == pytest.approx(np.geomspace(low, high, count).tolist())
        assert low < make_head(name).C < high


def test_few_shot_draws_so_many_pictures_a_class(tmp_path: Path) -> None:
    features = _file(tmp_path / "f.h5", n=90, views=2)
    told: list[tuple[str, int, int]] = []
    curve = few_shot(features, "logreg", shots=[1, 5, None], repeats=4, progress=lambda *p: told.append(p))
    assert [point.shots for point in curve] == [1, 5, None]
    assert [point.rows for point in curve] == [3, 15, 72]
    assert curve[0].mean_accuracy < curve[2].mean_accuracy
    for point in curve:
        low, high = point.ci95
        assert 0 <= low <= point.mean_accuracy <= high <= 1
        assert point.mean_accuracy == pytest.approx(np.mean(point.accuracies))
        assert len(point.accuracies) == 4
    assert told[-1] == ("few-shot curve", 12, 12)
    assert few_shot(features, "logreg", shots=[5], repeats=4)[0].accuracies == curve[1].accuracies


# Calibration


def test_a_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)) * 2
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = np.array([rng.choice(3, p=p) for p in shares])
    sharp = with_temperature(shares.astype(np.float32), 1 / 3)
    assert fit_temperature(sharp, y) == pytest.approx(3, rel=0.1)
    assert fit_temperature(shares, y) == pytest.approx(1, rel=0.1)
    mended = with_temperature(sharp, fit_temperature(sharp, y))
    assert calibration_error(y, mended) < 0.02 < 0.1 < calibration_error(y, sharp)
    np.testing.assert_array_equal(mended.argmax(axis=1), sharp.argmax(axis=1))
    np.testing.assert_allclose(mended.sum(axis=1), 1, atol=1e-6)
    assert with_temperature(sharp, 1) is sharp


def test_calibration_error_is_the_mean_surplus_of_confidence() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    y = np.array([0] * 8 + [1] * 2 + [1] * 5 + [0] * 5)
    assert calibration_error(y, probabilities) == pytest.approx((0.1 + 0.1) / 2)


@pytest.mark.parametrize("name", ["logreg", "svm", "knn"])
def test_a_calibrated_classifier_says_what_it_knows(name: str, tmp_path: Path) -> None:
    features = _file(tmp_path / "f.h5", n=300, splits=["", "test"] * 150)
    plain, calibrated = fit(features, name), fit(features, name, calibrate=True)
    assert calibrated.temperature == calibrated.fitting.temperature != 1
    assert plain.temperature == 1
    a, b = (c.evaluate(features, "validation") for c in (plain, calibrated))
    assert b.log_loss < a.log_loss
    assert b.accuracy == a.accuracy
    again = Classifier.load(calibrated.save(tmp_path / "model"))
    assert again.temperature == calibrated.temperature
    np.testing.assert_array_equal(again.predict_proba(features), calibrated.predict_proba(features))
    crossed = cross_validate(features, name, folds=3, calibrate=True).classifier
    assert crossed.temperature == crossed.fitting.temperature != 1
    assert crossed.evaluate(features, "validation").rows == 150


def test_a_head_of_ones_own_is_cross_validated(tmp_path: Path) -> None:
    features = _file(tmp_path / "f.h5")
    head = make_head("logreg", C=0.5)
    found = cross_validate(features, head, C=[0.01], folds=3)
    assert head.C == 0.5 and not hasattr(head, "coef_")
    assert found.classifier.head.C == 0.01
    assert clone(found.classifier.head).get_params()["C"] == 0.01


def test_rows_that_are_not_numbers_are_named(tmp_path: Path) -> None:
    features = _file(tmp_path / "f.h5")
    X = features.stored().copy()
    X[17, 0, 1, 2] = np.nan
    tables = {name: getattr(features, {"labels": "y"}.get(name, name)).tolist() for name in
              ("ids", "views", "labels", "paths", "splits")}  # fmt: skip
    write_features(
        tmp_path / "bad.h5", [X], X.shape, spec=features.spec, tables={**tables, "quarantine": [], "stat": []},
        attributes={"class_names": ["a", "b", "c"], "dataset": "made", "recipe": features.recipe},
    )  # fmt: skip
    for work in (fit, cross_validate, few_shot):
        with pytest.raises(Exception, match=r"bad.h5: row 17 \(017.png\) holds NaN or infinity"):
            work(tmp_path / "bad.h5", "logreg")


@pytest.mark.parametrize("input", ["avg", "flat"])
@pytest.mark.parametrize("name", ["logreg", "svm", "ridge", "knn", "bn-mlp"])
def test_what_does_not_fit_into_memory_is_read_from_the_file(
    name: str, input: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = _file(tmp_path / "f.h5", n=90, views=2)
    quick = {"epochs": 8, "hidden": 16, "batch_size": 16} if name == "bn-mlp" else {}
    inside = fit(features, name, input=input, **quick)
    monkeypatch.setattr("featx.rows.MEMORY_BYTES", 0)
    monkeypatch.setattr("featx.heads.linear.BLOCK_BYTES", 1000)
    outside = fit(features, name, input=input, **quick)
    difference = np.abs(outside.predict_proba(features) - inside.predict_proba(features)).max()
    assert difference < (0.2 if name == "bn-mlp" else 1e-3)
    assert outside.fitting.validation_rows == inside.fitting.validation_rows
    if name != "bn-mlp":
        crossed = cross_validate(features, name, folds=3, input=input)
        monkeypatch.undo()
        expected = cross_validate(features, name, folds=3, input=input)
        assert [t.mean_accuracy for t in crossed.trials] == pytest.approx(
            [t.mean_accuracy for t in expected.trials], abs=0.03
        )
