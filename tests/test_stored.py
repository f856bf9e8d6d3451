"""Feature files and classifiers that an earlier version wrote are read as that version read them.

``stored/0.1.0`` was written by featx 0.1.0: 16 striped pictures and a broken one, two views, through ``tiny.keras``; a
classifier of each kind; and in ``expected.json`` what that version read and predicted.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featx

STORED = Path(__file__).parent / "stored" / "0.1.0"
EXPECTED: dict[str, Any] = json.loads((STORED / "expected.json").read_text())
CLASSIFIERS = EXPECTED["classifiers"]


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what was stored, as the working directory."""
    copy = tmp_path / "stored"
    shutil.copytree(STORED, copy)
    monkeypatch.chdir(copy)
    return copy


def test_a_feature_file_is_read(stored: Path) -> None:
    features = featx.load_features(stored / "cache" / EXPECTED["features"])
    assert features.featx_version == "0.1.0"
    for name in ("spec", "class_names", "augmentation"):
        assert getattr(features, name) == EXPECTED[name]
    for name in ("views", "y", "paths", "ids", "splits"):
        assert getattr(features, name).tolist() == EXPECTED[name]
    assert [list(row) for row in features.quarantine] == EXPECTED["quarantine"]
    assert features.X().astype(np.float64).sum() == pytest.approx(EXPECTED["sum"], abs=1e-9)
    assert features.damaged_rows() == []


def test_its_rows_are_not_computed_again(stored: Path, counted: list[int]) -> None:
    views = featx.Views(2, flip=True)
    done = featx.extract("stripes", cache_dir="cache", backbone="tiny.keras", preprocess="rescale", views=views)
    assert (done.rows, done.quarantined, done.computed, counted) == (16, 1, 0, [])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_is_read(stored: Path, name: str) -> None:
    expected = CLASSIFIERS[name]
    classifier = featx.Classifier.load(stored / "models" / name)
    features = featx.load_features(stored / "cache" / expected["features"])
    rows = np.flatnonzero(features.splits == "test")
    np.testing.assert_allclose(classifier.predict_proba(features, rows), expected["probabilities"], atol=1e-5)
    evaluation = classifier.evaluate(features)
    assert evaluation.accuracy == expected["accuracy"]
    assert evaluation.log_loss == pytest.approx(expected["log_loss"], abs=1e-5)
    assert classifier.temperature == expected["temperature"]
    record = classifier.fitting.to_json()
    assert {name: record.get(name) for name in expected["report"]} == expected["report"]
    assert bool(classifier.fitting.history) == (name in ("bn-mlp", "tail"))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_predicts_pictures(stored: Path, name: str) -> None:
    expected = CLASSIFIERS[name]["predicted"]
    classifier = featx.Classifier.load(stored / "models" / name, str(stored / "tiny.keras"))
    predictions, quarantined = classifier.predict(["stripes/test"])
    assert quarantined == []
    assert [p.path for p in predictions] == list(expected)
    assert [p.probability for p in predictions] == pytest.approx(list(expected.values()), abs=1e-4)
