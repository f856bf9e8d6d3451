"""What the tests of the classifier share."""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture

import featx
from featx.classifier import Classifier

CLASSES = ["lying", "slanted", "standing"]  # as class_names are sorted
PARAMS: dict[str, dict[str, Any]] = {"logreg": {}, "bn-mlp": {"epochs": 3, "hidden": 16}}


@dataclass
class Stripes:
    """A data set with train (3 x 12) and test (3 x 6) folders, and its features."""

    root: Path
    settings: dict[str, Any]
    features: featx.Features

    def extract(self, root: Path | None = None, **changes: Any) -> featx.Features:
        done = featx.extract(root or self.root, **{**self.settings, **changes})
        return featx.load_features(done.features_path)


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: str) -> Stripes:
    root = tmp_path_factory.mktemp("data") / "stripes"
    for split, first, each in (("train", 0, 12), ("test", 200, 6)):
        for kind, name in enumerate(["lying", "standing", "slanted"]):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(first, first + each):
                picture(kind, number).save(folder / f"{number:03}.png")
    settings = {
        "backbone": tiny_backbone,
        "preprocess": "rescale",
        "batch_size": 8,
        "cache_dir": tmp_path_factory.mktemp("cache"),
    }
    features = featx.load_features(featx.extract(root, **settings).features_path)
    return Stripes(root, settings, features)


@pytest.fixture(scope="module")
def fitted(stripes: Stripes) -> dict[str, Classifier]:
    """A classifier for each head of ``PARAMS``. Not to be changed by a test."""
    return {name: featx.fit(stripes.features, name, **params) for name, params in PARAMS.items()}


@pytest.fixture(scope="module")
def ridge(stripes: Stripes) -> Classifier:
    return featx.fit(stripes.features, "ridge")


def with_columns(features: featx.Features, **columns: Any) -> featx.Features:
    """The same features with other columns."""
    other = copy.copy(features)
    for name, value in columns.items():
        setattr(other, name, value)
    return other


def marked(features: featx.Features, test: str, validation: int = 0) -> Any:
    """Splits with another name for the test rows, and some train rows of each class as validation rows."""
    splits = features.splits.copy()
    splits[splits == "test"] = test
    for label in range(3):
        train = np.flatnonzero((features.y == label) & (features.splits == "train"))
        splits[train[:validation]] = "validation"
    return splits


def copied(stripes: Stripes, tmp_path: Path) -> Path:
    """The data set again, for tests that change it."""
    return Path(shutil.copytree(stripes.root, tmp_path / "copy"))
