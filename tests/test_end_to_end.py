"""From a folder of pictures to a classifier and its predictions, as a user goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featx

Make = Callable[..., Path]


@pytest.fixture
def stripes(make_dataset: Make, tiny_backbone: str, tmp_path: Path) -> tuple[Path, featx.Features]:
    make_dataset(classes=3, each=12, split="train")
    root = make_dataset(classes=3, each=6, split="test", first=200)
    done = featx.extract(root, backbone=tiny_backbone, preprocess="rescale", cache_dir=tmp_path / "cache", batch_size=8)
    return root, featx.load_features(done.features_path)


@pytest.mark.parametrize(("head", "params"), [("logreg", {}), ("knn", {}), ("bn-mlp", {"epochs": 3})])
def test_predict_agrees_with_evaluate(
    stripes: tuple[Path, featx.Features], tmp_path: Path, head: str, params: dict[str, Any]
) -> None:
    root, features = stripes
    fitted = featx.fit(features, head, **params)
    fitted.save(tmp_path / "model")
    classifier = featx.Classifier.load(tmp_path / "model")
    np.testing.assert_array_equal(classifier.predict_proba(features), fitted.predict_proba(features))
    rows = np.flatnonzero(features.splits == "test")
    predictions, bad = classifier.predict([root / p for p in features.paths[rows]], batch_size=8)
    live = np.array([list(p.probabilities.values()) for p in predictions])
    np.testing.assert_allclose(live, classifier.predict_proba(features, rows), atol=1e-3)
    right = np.mean([p.label == Path(p.path).parent.name for p in predictions])
    found = classifier.evaluate(features)
    assert (found.accuracy, found.split, found.rows, bad) == (right, "test", 18, [])
    assert np.sum(found.confusion_matrix) == 18
    assert classifier.doctor(features).ok
    assert (fitted.fitting.train_rows, fitted.fitting.validation_rows) == (36, 6)


FLOORS = {"hymenoptera": 0.93, "flowers": 0.84, "cats-dogs": 0.97, "penguin-species": 0.78}


@pytest.mark.parametrize(
    "name", [name if name == "penguin-species" else pytest.param(name, marks=pytest.mark.stress) for name in FLOORS]
)
def test_real_pictures_and_weights(shared: Path, real_weights: Path, tmp_path: Path, name: str) -> None:
    """An independent script reached 0.948, 0.855, 0.980 and 0.830 with the same weights."""
    done = featx.extract(shared / "data" / name, cache_dir=tmp_path, backbone="mobilenetv2", weights=str(real_weights))
    features = featx.load_features(done.features_path)
    logreg = featx.fit(features, "logreg", input="avg").evaluate(features)
    assert logreg.split == "test" and logreg.accuracy >= FLOORS[name]
    if name != "penguin-species":  # too few to tell two points
        seeds = [featx.fit(features, "bn-mlp", random_state=seed).evaluate(features).accuracy for seed in range(3)]
        assert np.mean(seeds) >= logreg.accuracy - 0.02
