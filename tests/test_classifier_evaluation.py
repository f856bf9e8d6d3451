"""The classifier's evaluation, doctor and predictions."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from shared_classifier import CLASSES, PARAMS, Stripes, copied, marked, with_columns
from sklearn.metrics import log_loss, precision_recall_fscore_support

import featx
from featx._internal.intervals import wilson_interval
from featx.backbones import KerasTrunk
from featx.classifier import Classifier
from featx.errors import CacheError, DatasetError, SettingError, SpecMismatchError, TrainingError
from featx.heads import LogisticHead

pytest_plugins = ["shared_classifier"]


def _only(features: featx.Features, split: str) -> featx.Features:
    """Only rows of one split keep their labels, and no row a split."""
    y = np.where(features.splits == split, features.y, -1)
    return with_columns(features, y=y, splits=np.full(len(features), "", object))


# ----------------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("head", PARAMS)
def test_evaluation_counts_right(stripes: Stripes, fitted: dict[str, Classifier], head: str) -> None:
    features, model = stripes.features, fitted[head]
    rows = np.flatnonzero(features.splits == "test")
    y, probabilities = features.y[rows], model.predict_proba(features, rows).astype(np.float64)
    predicted = probabilities.argmax(axis=1)
    found = model.evaluate(features)
    assert (found.split, found.rows, found.quarantined, found.seen_in_training) == ("test", 18, 0, 0)
    assert found.class_names == CLASSES
    assert found.accuracy == np.mean(predicted == y)
    matrix = np.zeros((3, 3), int)
    np.add.at(matrix, (y, predicted), 1)
    assert found.confusion_matrix == matrix.tolist()
    assert [sum(row) for row in found.confusion_matrix] == [found.per_class[c]["support"] for c in CLASSES] == [6] * 3
    wanted = precision_recall_fscore_support(y, predicted, zero_division=0.0)
    for measure, column in zip(("precision", "recall", "f1", "support"), wanted, strict=True):
        assert [found.per_class[c][measure] for c in CLASSES] == pytest.approx(column.tolist())
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert found.log_loss == pytest.approx(log_loss(y, probabilities), abs=1e-6)
    assert found.ci95[0] <= found.accuracy <= found.ci95[1]
    json.dumps(found.__dict__)


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (3, 7), (150, 153), (1, 1), (481, 1000)])
def test_the_interval_is_wilsons(right: int, n: int) -> None:
    scipys = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right / n, n) == pytest.approx((scipys.low, scipys.high), abs=1e-6)


def test_a_wilson_interval_by_hand() -> None:
    """8 of 10: (0.8 + 3.8415/20 -+ 1.96 sqrt(0.016 + 3.8415/400)) / (1 + 0.38415)."""
    assert wilson_interval(0.8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)


def test_an_unknown_class_is_named(stripes: Stripes, ridge: Classifier) -> None:
    features = with_columns(stripes.features, class_names=["lying", "leaning", "standing"])
    with pytest.raises(TrainingError, match="has the class 'leaning', which the classifier does not know; it knows ly"):
        ridge.evaluate(features)


def test_an_unknown_class_without_rows_does_not_matter(stripes: Stripes, ridge: Classifier) -> None:
    features = with_columns(stripes.features, class_names=[*CLASSES, "upright"])
    assert ridge.evaluate(features) == ridge.evaluate(stripes.features)


def test_classes_of_another_data_set_are_told_by_name(stripes: Stripes, fitted: dict[str, Classifier]) -> None:
    features = stripes.features
    turned = with_columns(features, class_names=["extra", *CLASSES[::-1]], y=(3 - features.y).astype(np.int32))
    assert fitted["logreg"].evaluate(turned) == fitted["logreg"].evaluate(features)


def test_a_missing_class_keeps_its_place_in_the_matrix(stripes: Stripes, ridge: Classifier) -> None:
    features = stripes.features
    found = ridge.evaluate(with_columns(features, y=np.where(features.y == 1, -1, features.y)))
    assert found.rows == 12
    assert [sum(row) for row in found.confusion_matrix] == [6, 0, 6]
    assert found.per_class["slanted"]["support"] == 0
    assert np.isfinite(found.log_loss)


def test_training_pictures_among_the_rows_are_counted(
    stripes: Stripes, ridge: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    splits = stripes.features.splits.copy()
    splits[np.flatnonzero(splits == "train")[:5]] = "test"
    found = ridge.evaluate(with_columns(stripes.features, splits=splits))
    assert (found.rows, found.seen_in_training) == (23, 5)
    assert "5 of these 23 pictures were trained on: the figures flatter" in caplog.text


def test_the_train_split_flatters_without_a_warning(
    stripes: Stripes, fitted: dict[str, Classifier], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = fitted["bn-mlp"].evaluate(stripes.features, "train")
    assert (found.split, found.rows, found.seen_in_training) == ("train", 36, 36)
    assert caplog.text == ""
    assert found.accuracy == pytest.approx(fitted["bn-mlp"].fitting.train_accuracy)


def test_the_validation_split_is_what_fit_held_out(stripes: Stripes, fitted: dict[str, Classifier]) -> None:
    found = fitted["bn-mlp"].evaluate(stripes.features, "validation")
    assert (found.rows, found.seen_in_training) == (6, 0)
    assert found.accuracy == pytest.approx(fitted["bn-mlp"].fitting.validation_accuracy)


@pytest.mark.parametrize("head", ["logreg", "knn"])
def test_rows_held_out_are_measured_as_before_the_second_fit(stripes: Stripes, tmp_path: Path, head: str) -> None:
    """The head has seen them since; its nearest neighbours are the very rows."""
    y = stripes.features.y.copy()
    train = np.flatnonzero(stripes.features.splits == "train")
    y[train] = np.random.default_rng(0).permutation(y[train])  # nothing to learn, all to remember
    features = _only(with_columns(stripes.features, y=y), "train")
    model = featx.fit(features, head, **({"n_neighbors": 1} if head == "knn" else {}))
    assert model.fitting.refitted and (head != "knn" or model.fitting.train_accuracy == 1)
    for again in (model, Classifier.load(model.save(tmp_path / "model"))):
        found = again.evaluate(features)
        assert (found.split, found.rows, found.seen_in_training) == ("validation", 6, 0)
        assert found.accuracy == pytest.approx(model.fitting.validation_accuracy) and found.accuracy < 1


def test_the_validation_split_of_another_data_set_is_what_is_marked_so(stripes: Stripes, ridge: Classifier) -> None:
    splits = marked(stripes.features, "validation")
    found = ridge.evaluate(
        with_columns(stripes.features, splits=np.where(splits == "validation", splits, "test")), "test"
    )
    assert found.rows == 36
    features = with_columns(
        stripes.features, splits=splits, ids=np.array([f"{n:032}" for n in range(len(stripes.features))], object)
    )
    assert ridge.evaluate(features, "validation").rows == 18


def test_without_a_test_split_rows_held_out_are_measured(stripes: Stripes, fitted: dict[str, Classifier]) -> None:
    train_only = _only(stripes.features, "train")
    found = fitted["bn-mlp"].evaluate(train_only)
    assert (found.split, found.rows, found.seen_in_training) == ("validation", 6, 0)


def test_without_a_test_split_unseen_rows_are_measured(stripes: Stripes, fitted: dict[str, Classifier]) -> None:
    unmarked = with_columns(stripes.features, splits=np.full(len(stripes.features), "", object))
    for head in ("logreg", "bn-mlp"):
        found = fitted[head].evaluate(unmarked)
        assert (found.split, found.rows, found.seen_in_training) == ("unseen", 18, 0)


def test_when_every_row_was_trained_on_the_error_says_what_to_do(stripes: Stripes) -> None:
    model = featx.fit(stripes.features, "ridge", validation=0)
    with pytest.raises(TrainingError, match="no labelled rows of the validation split. Evaluate on other pictures"):
        model.evaluate(_only(stripes.features, "train"))


def test_what_is_left_out_of_an_evaluation_is_counted(
    stripes: Stripes, ridge: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    unmarked = with_columns(stripes.features, splits=np.full(len(stripes.features), "", object))
    found = ridge.evaluate(unmarked)
    assert (found.split, found.rows, found.left_out) == ("unseen", 18, 36)
    assert "36 pictures are left out: the classifier was trained on them" in caplog.text
    assert ridge.evaluate(stripes.features).left_out == 0


def test_a_picture_in_two_classes_is_warned_of(stripes: Stripes, caplog: pytest.LogCaptureFixture) -> None:
    ids = stripes.features.ids.copy()
    train = np.flatnonzero(stripes.features.splits == "train")
    first, other = train[0], train[-1]
    ids[other] = ids[first]
    featx.fit(with_columns(stripes.features, ids=ids), "ridge")
    assert "1 pictures lie in more than one class" in caplog.text


def test_no_rows_of_a_split(stripes: Stripes, ridge: Classifier) -> None:
    features = with_columns(stripes.features, splits=marked(stripes.features, ""))
    with pytest.raises(TrainingError, match="has no labelled rows of the test split. .*, or try another `split`"):
        ridge.evaluate(features, "test")


def test_no_labels(stripes: Stripes, ridge: Classifier) -> None:
    features = with_columns(stripes.features, y=np.full(len(stripes.features), -1, np.int32))
    with pytest.raises(TrainingError, match="has no labels to compare with; `featx predict` needs none"):
        ridge.evaluate(features)


def test_no_such_split(stripes: Stripes, ridge: Classifier) -> None:
    with pytest.raises(
        SettingError, match="^unknown `split` 'val'; expected one of test, validation, train, unseen$"
    ) as caught:
        ridge.evaluate(stripes.features, "val")
    assert caught.value.setting == "split"


def test_features_of_another_spec_are_refused_field_by_field(stripes: Stripes, ridge: Classifier) -> None:
    other = stripes.extract(resize="pad", dtype="float32")
    for use in (ridge.evaluate, ridge.predict_proba, ridge.doctor, lambda f: ridge.features_of(f.path)):
        with pytest.raises(SpecMismatchError, match="dtype is float32, not float16; resize is pad, not stretch"):
            use(other)


def test_probabilities_of_some_rows(stripes: Stripes, ridge: Classifier) -> None:
    whole = ridge.predict_proba(stripes.features)
    assert whole.shape == (54, 3)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(ridge.predict_proba(stripes.features, [5, 3, 5]), whole[[5, 3, 5]], atol=1e-6)
    np.testing.assert_allclose(ridge.predict_proba(stripes.features, stripes.features.y == 2)[0], whole[12], atol=1e-6)
    assert ridge.predict_proba(stripes.features, []).shape == (0, 3)


def test_features_are_found_again(stripes: Stripes, ridge: Classifier, tmp_path: Path) -> None:
    assert ridge.features_of().path == stripes.features.path.resolve()
    assert len(ridge.features_of(copied(stripes, tmp_path), cache_dir=stripes.settings["cache_dir"])) == 54
    with pytest.raises(CacheError, match="no such feature file"):
        ridge.features_of(tmp_path / "gone.h5")


# --------------------------------------------------------------------------------------------------- doctor and predict


def test_the_doctor_skips_pictures_that_changed_or_vanished(
    stripes: Stripes, ridge: Classifier, tmp_path: Path
) -> None:
    root = copied(stripes, tmp_path)
    features = stripes.extract(root)
    (root / "test/lying/200.png").unlink()
    shutil.copy(root / "test/lying/202.png", root / "test/lying/201.png")
    found = ridge.doctor(features, n_rows=54, batch_size=8)
    assert (found.rows, found.ok) == (52, True)
    skipped = dict(found.skipped)
    assert skipped.keys() == {"test/lying/200.png", "test/lying/201.png"}
    assert "no such file" in skipped["test/lying/200.png"]
    assert skipped["test/lying/201.png"] == "was changed since featx last looked; extract again"


def test_the_doctor_needs_one_picture_in_its_place(stripes: Stripes, ridge: Classifier, tmp_path: Path) -> None:
    root = copied(stripes, tmp_path)
    features = stripes.extract(root)
    shutil.rmtree(root)
    with pytest.raises(CacheError, match="no picture is as it was in .*/copy; the first, test/lying/200.png"):
        ridge.doctor(features)


def test_the_doctor_follows_a_data_set_that_moved_once_it_is_extracted_again(
    stripes: Stripes, ridge: Classifier, tmp_path: Path
) -> None:
    """That is the doctor's advice. Nothing is computed, but the pictures are elsewhere now."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    root = copied(stripes, tmp_path / "a")
    stripes.extract(root)
    features = stripes.extract(root.rename(tmp_path / "b/copy"))
    assert features.root == str(tmp_path / "b/copy")
    assert ridge.doctor(features, batch_size=8).rows == 32


def test_the_doctor_tells_features_that_are_not_the_pictures(stripes: Stripes, ridge: Classifier) -> None:
    features = copy.copy(stripes.features)
    features.stored = lambda rows=None: stripes.features.stored(rows)[..., ::-1]  # type: ignore[method-assign]
    found = ridge.doctor(features, batch_size=8)
    assert found.ok is False
    assert found.max_abs_difference > 0.01


def test_the_doctor_wants_rows(stripes: Stripes, ridge: Classifier) -> None:
    assert ridge.doctor(stripes.features, n_rows=5).rows == 5
    with pytest.raises(SettingError, match="^`n_rows` must be at least 1, got 0$") as caught:
        ridge.doctor(stripes.features, n_rows=0)
    assert caught.value.setting == "n_rows"


def test_predictions_come_in_the_order_asked_for(stripes: Stripes, ridge: Classifier) -> None:
    test = stripes.root / "test"
    one = test / "standing/203.png"
    predictions, bad = ridge.predict([one, test / "slanted", test / "lying", one], batch_size=5)
    slanted, lying = (sorted(str(p) for p in (test / kind).iterdir()) for kind in ("slanted", "lying"))
    assert [p.path for p in predictions] == [str(one), *slanted, *lying, str(one)]
    assert predictions[0] == predictions[-1]
    assert bad == []
    for p in predictions:
        assert list(p.probabilities) == CLASSES
        assert sum(p.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert p.probability == max(p.probabilities.values()) == p.probabilities[p.label]


def test_an_unreadable_file_is_listed_with_its_reason_and_never_predicted(
    stripes: Stripes, ridge: Classifier, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(stripes.root / "test/lying", tmp_path / "some"))
    (folder / "100.png").write_text("not a picture")
    data = (folder / "202.png").read_bytes()
    (folder / "202.png").write_bytes(data[: len(data) // 2])
    before = {p.path: p for p in ridge.predict([stripes.root / "test/lying"])[0]}
    steps: list[tuple[str, int, int]] = []
    predictions, bad = ridge.predict([folder], batch_size=4, progress=lambda *step: steps.append(step))
    assert [Path(p.path).name for p in predictions] == ["200.png", "201.png", "203.png", "204.png", "205.png"]
    assert [Path(path).name for path, _ in bad] == ["100.png", "202.png"]
    assert dict(bad)[str(folder / "100.png")] == "not a picture in a format that can be read"
    assert dict(bad)[str(folder / "202.png")]
    assert steps[-1] == ("predicting", 7, 7)
    for p in predictions:
        was = before[str(stripes.root / "test/lying" / Path(p.path).name)]
        assert p.probabilities == pytest.approx(was.probabilities, abs=1e-4)


def test_only_unreadable_files(ridge: Classifier, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no")
    assert ridge.predict([tmp_path / "a.png"]) == (
        [],
        [(str(tmp_path / "a.png"), "not a picture in a format that can be read")],
    )


@pytest.mark.parametrize("settings", [{"resize": "pad"}, {"resize": "crop", "dtype": "float32"}, {"pooling": "max"}])
def test_files_are_predicted_as_the_cache_was(stripes: Stripes, tmp_path: Path, settings: dict[str, str]) -> None:
    """Whatever the spec says; here, pictures that are not square show it (tensorflow#46255, keras#8114)."""
    features = stripes.extract(**settings)
    model = Classifier.load(featx.fit(features, "logreg", C=10.0).save(tmp_path / "model"))
    predictions, _ = model.predict([stripes.root / "test"])
    rows = np.flatnonzero(features.splits == "test")
    live = np.array([p.all_probabilities for p in predictions])
    np.testing.assert_allclose(live, model.predict_proba(features, rows), atol=1e-3)
    assert model.doctor(features).ok
    plain = featx.fit(stripes.features, "logreg", C=10.0)
    assert (
        np.abs(np.array([p.all_probabilities for p in plain.predict([stripes.root / "test"])[0]]) - live).max() > 1e-2
    )


def test_one_picture_out_of_range_does_not_end_a_prediction(
    ridge: Classifier, stripes: Stripes, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = KerasTrunk.__call__

    def glaring(self: KerasTrunk, images: Any) -> Any:
        features = real(self, images)
        features[1] = 1e6
        return features

    monkeypatch.setattr(KerasTrunk, "__call__", glaring)
    predictions, quarantined = ridge.predict([stripes.root / "test"], batch_size=18)
    assert (len(predictions), len(quarantined)) == (17, 1)
    assert 'a feature of 1e+06 is out of float16\'s range; extract with `dtype="float32"`' in quarantined[0][1]


def test_the_doctor_does_not_trust_what_is_not_a_number(stripes: Stripes, ridge: Classifier) -> None:
    broken = dataclasses.replace(ridge, head=copy.deepcopy(ridge.head))
    broken.head.coef_ = np.full_like(ridge.head.coef_, np.nan)
    found = broken.doctor(stripes.features)
    assert not found.ok and np.isnan(found.max_abs_difference)


def test_parameters_belong_to_a_head_given_by_name(stripes: Stripes) -> None:
    with pytest.raises(SettingError, match="give C to the head itself") as caught:
        featx.fit(stripes.features, LogisticHead(), C=123)
    assert caught.value.setting == "C"


def test_other_weights_are_noticed_before_a_data_set_is_extracted(
    stripes: Stripes, ridge: Classifier, counted: list[int], tmp_path: Path
) -> None:
    moved = dataclasses.replace(ridge, spec={**ridge.spec, "weights": "0" * 32})
    with pytest.raises(SpecMismatchError, match="weights is"):
        moved.features_of(stripes.root, cache_dir=tmp_path / "cache")
    assert counted == []


def test_paths_that_lead_nowhere(ridge: Classifier, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file: .*/nowhere.png"):
        ridge.predict([tmp_path / "nowhere.png"])
    with pytest.raises(DatasetError, match="holds no pictures"):
        ridge.predict([tmp_path])
