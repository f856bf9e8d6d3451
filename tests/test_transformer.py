"""The transformer: features in scikit-learn's pipelines, each picture computed once."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

import featx
from featx import FeatureExtractor
from featx.errors import BackboneError, PictureError, SettingError
from featx.extraction import transformer as transformer_module


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    transformer_module._MEMORY.clear()


@pytest.fixture
def extractor(tiny_backbone: str) -> FeatureExtractor:
    return FeatureExtractor(tiny_backbone, preprocess="rescale", batch_size=4)


@pytest.fixture
def paths(make_dataset: Callable[..., Path]) -> list[str]:
    """Three classes of six pictures, 40 x 30."""
    return sorted(str(path) for path in make_dataset(classes=3, each=6).rglob("*.png"))


def _names(paths: list[str]) -> list[str]:
    return [Path(path).parent.name for path in paths]


def _arrays(paths: list[str]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def test_paths_and_arrays_give_equal_features(
    extractor: FeatureExtractor, paths: list[str], counted: list[int]
) -> None:
    from_paths = extractor.fit_transform(paths)
    transformer_module._MEMORY.clear()
    from_arrays = extractor.transform(_arrays(paths))
    assert from_paths.shape == (18, 8)
    assert from_paths.dtype == np.float32
    assert len(counted) == 10  # 5 batches of 4, twice: nothing was remembered between
    np.testing.assert_array_equal(from_paths, from_arrays)
    np.testing.assert_allclose(extractor.transform(list(_arrays(paths))), from_arrays)
    np.testing.assert_allclose(extractor.transform([Path(path) for path in paths]), from_arrays)
    np.testing.assert_allclose(extractor.transform(np.array(paths)), from_arrays)


def test_pictures_of_many_sizes(extractor: FeatureExtractor) -> None:
    pictures = [np.asarray(picture(0, n, (32 + n, 20 + 3 * n))) for n in range(5)]
    features = extractor.transform(pictures)
    alone = np.concatenate([clone(extractor).transform([one]) for one in pictures])
    np.testing.assert_array_equal(features, alone)
    assert len(np.unique(features, axis=0)) == 5


@pytest.mark.parametrize("pooling", ["none", "avg", "max"])
def test_it_agrees_with_an_extraction(
    extractor: FeatureExtractor, paths: list[str], tmp_path: Path, pooling: str
) -> None:
    root = Path(paths[0]).parents[1]
    settings: dict[str, Any] = {"pooling": pooling, "resize": "pad", "dtype": "float16"}
    done = featx.extract(
        root, cache_dir=tmp_path / "cache", backbone=extractor.backbone, preprocess="rescale", batch_size=4, **settings
    )
    features = featx.load_features(done.features_path)
    found = extractor.set_params(**settings).fit_transform([root / path for path in features.paths])
    assert found.shape == features.shape
    assert extractor.feature_shape_ == features.shape[1:]
    np.testing.assert_allclose(found, features.X(), rtol=2e-3, atol=1e-4)
    assert found.std() > 0.01


def test_each_picture_is_computed_once_in_a_grid_search(
    extractor: FeatureExtractor, paths: list[str], counted: list[int]
) -> None:
    pipeline = make_pipeline(extractor.set_params(batch_size=1), featx.LogisticHead())
    search = GridSearchCV(pipeline, {"logistichead__C": [1e-3, 1e-1, 10]}, cv=3).fit(paths, _names(paths))
    assert len(counted) == len(paths) == 18
    assert search.best_estimator_.predict(paths).shape == (18,)
    assert search.best_score_ > 0.5
    assert len(counted) == 18
    cross_val_score(pipeline, paths, _names(paths), cv=2)
    assert len(counted) == 18


def test_a_grid_over_the_extractors_own_settings(
    extractor: FeatureExtractor, paths: list[str], counted: list[int]
) -> None:
    """Other settings are other features: each picture once a setting."""
    pipeline = make_pipeline(extractor.set_params(batch_size=1), featx.RidgeHead())
    grid = {"featureextractor__resize": ["stretch", "pad"], "featureextractor__pooling": ["avg", "max"]}
    GridSearchCV(pipeline, grid, cv=2, refit=False).fit(paths, _names(paths))
    assert len(counted) == 4 * 18
    a, b = (clone(extractor).set_params(resize=how).transform(paths) for how in ("stretch", "pad"))
    assert np.abs(a - b).max() > 1e-3


def test_copies_are_computed_once_and_changes_anew(
    extractor: FeatureExtractor, tmp_path: Path, counted: list[int]
) -> None:
    """A picture is known by its content, not by its name."""
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    picture(0, 1).save(a)
    picture(0, 1).save(b)
    extractor.set_params(batch_size=1)
    first = extractor.transform([a, b, a])
    assert len(counted) == 1
    np.testing.assert_array_equal(first[0], first[1])
    picture(1, 2).save(a)
    again = extractor.transform([a, b])
    assert len(counted) == 2
    assert np.abs(again[0] - first[0]).max() > 1e-3
    np.testing.assert_array_equal(again[1], first[1])


def test_what_is_returned_may_be_changed(extractor: FeatureExtractor, paths: list[str]) -> None:
    first = extractor.transform(paths)
    kept = first.copy()
    first[:] = -1
    np.testing.assert_array_equal(extractor.transform(paths), kept)


def test_pictures_are_not_changed(extractor: FeatureExtractor, paths: list[str]) -> None:
    pictures = _arrays(paths)
    before = pictures.copy()
    extractor.transform(pictures)
    np.testing.assert_array_equal(pictures, before)


def test_clones_and_pickles(extractor: FeatureExtractor, paths: list[str]) -> None:
    wanted = extractor.fit_transform(paths)
    for other in (clone(extractor), pickle.loads(pickle.dumps(extractor))):
        assert other.get_params() == extractor.get_params()
        np.testing.assert_array_equal(other.transform(paths), wanted)
    assert not hasattr(clone(extractor), "feature_shape_")


def test_the_constructor_only_assigns() -> None:
    """Wrong settings are told by fit, as scikit-learn's are."""
    extractor = FeatureExtractor("no-such-network", pooling="sum", size=-3)
    assert (extractor.backbone, extractor.pooling, extractor.size) == ("no-such-network", "sum", -3)
    with pytest.raises(SettingError, match="unknown `pooling` 'sum'; expected one of none, avg, max"):
        extractor.fit()
    with pytest.raises(BackboneError, match="unknown backbone 'no-such-network'"):
        extractor.set_params(pooling="avg").fit()


def test_a_picture_that_cannot_be_read_is_named(extractor: FeatureExtractor, paths: list[str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("not a picture")
    with pytest.raises(PictureError, match=r"/bad\.png: not a picture in a format that can be read"):
        extractor.transform([*paths, bad])
    with pytest.raises(PictureError, match=r"/gone\.png: cannot be read: no such file"):
        extractor.transform([*paths, tmp_path / "gone.png"])
    with pytest.raises(PictureError, match=r"/bad\.png: not a picture"):
        extractor.transform([bad])  # remembered are features only


def test_a_picture_above_the_limit_is_named(extractor: FeatureExtractor, paths: list[str]) -> None:
    with pytest.raises(PictureError, match=r"lying/000\.png: 1200 pixels are more than max_pixels \(100\)$"):
        extractor.set_params(max_pixels=100).transform(paths)


@pytest.mark.parametrize("shape", [(32, 32, 3), (4, 32, 32), (4, 32, 32, 1), (4, 32, 32, 4), (4, 3, 32, 32)])
def test_arrays_of_another_shape_are_refused(extractor: FeatureExtractor, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Pictures must be uint8 \(n, h, w, 3\). Got uint8 \(" + str(shape)[1:-1]):
        extractor.transform(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_arrays_of_another_dtype_are_refused(extractor: FeatureExtractor, dtype: Any) -> None:
    """Nobody can tell whether they hold 0 to 1 or 0 to 255."""
    with pytest.raises(ValueError, match="uint8"):
        extractor.transform(np.zeros((2, 32, 32, 3), dtype))


def test_no_pictures_no_rows(extractor: FeatureExtractor) -> None:
    assert extractor.transform([]).shape == (0, 8)
    assert extractor.transform(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 8)
    assert extractor.set_params(pooling="none").transform([]).shape == (0, 4, 4, 8)


def test_what_is_remembered_stays_within_a_number_of_bytes(
    extractor: FeatureExtractor, paths: list[str], counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    row_bytes = 8 * 4
    monkeypatch.setattr(transformer_module, "_MEMORY", transformer_module._FeatureMemory(10 * row_bytes))
    extractor.set_params(batch_size=1)
    whole = extractor.transform(paths)  # more than can be remembered
    assert whole.shape == (18, 8) and len(counted) == 18
    np.testing.assert_array_equal(extractor.transform(paths[-10:]), whole[-10:])
    assert len(counted) == 18  # the last used are
    extractor.transform(paths[:1])
    assert len(counted) == 19


def test_settings_are_told_by_fit(extractor: FeatureExtractor) -> None:
    for settings in ({"batch_size": 0}, {"precision": "int8"}, {"engine": "onnx"}, {"dtype": "int8"}):
        with pytest.raises(SettingError) as caught:
            clone(extractor).set_params(**settings).fit()
        assert [caught.value.setting] == list(settings)


def test_less_precision_and_drafts_give_other_features(extractor: FeatureExtractor, tmp_path: Path) -> None:
    """As an extraction with the same settings does."""
    picture(0, 1, (400, 300)).save(tmp_path / "large.jpg", quality=95)
    full = extractor.fit_transform([tmp_path / "large.jpg"])
    for settings in ({"precision": "bfloat16", "engine": "keras"}, {"draft": True}):
        other = clone(extractor).set_params(**settings).fit_transform([tmp_path / "large.jpg"])
        done = featx.extract(
            tmp_path, cache_dir=tmp_path / "cache", backbone=extractor.backbone, preprocess="rescale", pooling="avg",
            dtype="float32", batch_size=4, **settings,
        )  # fmt: skip
        assert 1e-6 < np.abs(other - full).max() < 0.1
        np.testing.assert_allclose(other, featx.load_features(done.features_path).X(), rtol=1e-5)
