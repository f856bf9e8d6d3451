"""Extraction: every picture is accounted for, and its row holds what the trunk gives."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from PIL import Image
from shared_extraction import Make, Run, add_bad_pictures, by_hand, values

from featx.backbones import KerasTrunk
from featx.cache import CacheFolder, load_features
from featx.errors import BackboneError, DatasetError, ExtractionError, SettingError, WeightsError
from featx.extraction import Recipe
from featx.extraction import pipeline as pipeline_module
from featx.extraction import run as run_module

pytest_plugins = ["shared_extraction"]


# ----------------------------------------------------------------------------------------------------------- the ledger


def test_rows_and_quarantined_are_listed(make_dataset: Make, run: Run) -> None:
    """thingsvision#3: 26,111 pictures, 26,109 names, 26,107 rows."""
    root = make_dataset(each=5)
    reasons = add_bad_pictures(root)
    done = run(root)
    assert (done.listed, done.rows, done.quarantined, done.computed, done.reused) == (14, 10, 4, 10, 0)
    assert [path for path, _ in done.quarantine] == sorted(reasons)
    assert all(word in dict(done.quarantine)[path] for path, word in reasons.items())
    features = load_features(done.features_path)
    assert features.quarantine == done.quarantine
    assert features.paths.tolist() == [f"{kind}/{n:03}.png" for kind in ("lying", "standing") for n in range(5)]
    assert features.y.tolist() == [0] * 5 + [1] * 5 and features.class_names == ["lying", "standing"]
    assert len(features) == done.rows == len(features.X()) and features.shape == done.shape == (10, 4, 4, 8)


def test_the_result_tells_what_the_file_tells(make_dataset: Make, run: Run, tiny_backbone: str) -> None:
    root = make_dataset(each=3)
    (root / "notes.txt").write_text("hello")
    done = run(root)
    features = load_features(done.features_path)
    assert done.spec == features.spec and done.dtype == "float16" == str(features.dtype) and done.ignored == 1
    assert features.dataset == "stripes" and features.root == str(root.resolve())
    assert Recipe(**features.recipe) == Recipe(backbone=tiny_backbone, preprocess="rescale")
    assert done.seconds > 0 and done.images_per_second > 0 and done.engine.startswith("keras")


def test_splits_and_labels_are_stored(make_dataset: Make, run: Run) -> None:
    make_dataset(each=2, split="train")
    root = make_dataset(each=1, split="val", first=5)
    features = load_features(run(root).features_path)
    assert list(zip(features.paths, features.splits, features.y, strict=True)) == [
        ("train/lying/000.png", "train", 0),
        ("train/lying/001.png", "train", 0),
        ("train/standing/000.png", "train", 1),
        ("train/standing/001.png", "train", 1),
        ("val/lying/005.png", "validation", 0),
        ("val/standing/005.png", "validation", 1),
    ]


def test_a_flat_folder_has_no_labels(tmp_path: Path, run: Run) -> None:
    (tmp_path / "flat").mkdir()
    for number in range(3):
        picture(0, number).save(tmp_path / "flat" / f"{number}.png")
    features = load_features(run(tmp_path / "flat").features_path)
    assert features.y.tolist() == [-1, -1, -1] and features.class_names == []


def test_strict_names_the_picture(make_dataset: Make, run: Run, tmp_path: Path) -> None:
    root = make_dataset(each=3)
    (root / "standing" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"`strict`: standing/bad\.png cannot be read: not a picture"):
        run(root, strict=True)
    assert CacheFolder(tmp_path / "cache").files() == []
    assert run(root).quarantined == 1
    with pytest.raises(DatasetError, match=r"standing/bad\.png"):
        run(root, strict=True)
    (root / "standing" / "bad.png").unlink()
    assert run(root, strict=True).rows == 6


def test_nothing_but_unreadable_pictures_is_an_error(tmp_path: Path, run: Run) -> None:
    (tmp_path / "bad" / "a").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "bad" / "a" / f"{number}.jpg").write_bytes(b"x" * number)
    for _ in range(2):
        with pytest.raises(
            ExtractionError, match=r"none of the 3 pictures could be read; the first, a/0\.jpg: .*empty"
        ):
            run(tmp_path / "bad")
    assert CacheFolder(tmp_path / "cache").files() == []


def test_a_good_picture_in_a_bad_ones_place_gets_in(make_dataset: Make, run: Run) -> None:
    root = make_dataset(each=2)
    (root / "lying" / "new.png").write_bytes(b"not yet")
    assert run(root).quarantined == 1
    picture(0, 50).save(root / "lying" / "new.png")
    done = run(root)
    assert (done.rows, done.quarantined, done.computed) == (5, 0, 1)


# ----------------------------------------------------------------------------------------------------------- the values


def test_features_are_the_trunks(make_dataset: Make, run: Run, tiny_backbone: str) -> None:
    root = make_dataset(classes=3, each=5)
    features = load_features(run(root).features_path)
    expected = by_hand(tiny_backbone, root, features.paths)
    assert features.X().shape == expected.shape == (15, 4, 4, 8) and expected.std() > 0.1
    np.testing.assert_allclose(features.X(), expected, rtol=2e-3, atol=1e-3)


def test_pooled_features_are_the_maps_pooled(make_dataset: Make, run: Run) -> None:
    root = make_dataset(each=3)
    maps = load_features(run(root, dtype="float32").features_path).X()
    average, top = (load_features(run(root, dtype="float32", pooling=how).features_path).X() for how in ("avg", "max"))
    assert average.shape == (6, 8)
    np.testing.assert_allclose(average, maps.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(top, maps.max(axis=(1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 32])
def test_the_batch_size_does_not_change_features(make_dataset: Make, run: Run, tmp_path: Path, batch_size: int) -> None:
    """tensorflow#33104; and no batch is mixed up with the next, though the last one is not full."""
    root = make_dataset(each=5)
    (root / "lying" / "0005.png").write_bytes(b"a gap in a batch")
    usual = load_features(run(root, dtype="float32").features_path)
    other = load_features(run(root, dtype="float32", batch_size=batch_size, cache_dir=tmp_path / "other").features_path)
    assert usual.paths.tolist() == other.paths.tolist()
    np.testing.assert_allclose(other.X(), usual.X(), atol=1e-3)


def test_float16_overflow_names_the_way_out_and_the_picture(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset(each=4)
    with monkeypatch.context() as patch:
        real, calls = KerasTrunk.__call__, iter(range(100))
        patch.setattr(KerasTrunk, "__call__", lambda self, x: real(self, x) + np.float32(1e6 * (next(calls) == 5)))
        with pytest.raises(
            ExtractionError, match=r"standing/001\.png: a feature of 1e\+06 .*`dtype=.float32.`"
        ) as caught:
            run(root, batch_size=1)
        assert "\n" not in str(caught.value)
    assert run(root, batch_size=1).computed == 3, "the five rows before it are kept"


def test_values_beyond_float16_are_stored_as_float32(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset(each=2)
    monkeypatch.setattr(
        KerasTrunk, "__call__", lambda self, x: np.full((len(x), *self.info.feature_shape), 1e6, np.float32)
    )
    done = run(root, dtype="float32")
    assert done.dtype == "float32" and (values(done) == 1e6).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_values_that_are_no_numbers_are_an_error(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, value: float, dtype: str, tmp_path: Path
) -> None:
    root = make_dataset(each=2)
    monkeypatch.setattr(
        KerasTrunk, "__call__", lambda self, x: np.full((len(x), *self.info.feature_shape), value, np.float32)
    )
    with pytest.raises(ExtractionError, match=r"lying/000\.png: the trunk gave values that are not numbers"):
        run(root, dtype=dtype)
    assert CacheFolder(tmp_path / "cache").files() == []


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"pooling": "mean"}, SettingError, "unknown `pooling` 'mean'; expected one of none, avg, max"),
        ({"resize": "squash"}, SettingError, "unknown `resize` 'squash'; expected one of stretch, crop, pad"),
        ({"dtype": "float64"}, SettingError, "unknown `dtype` 'float64' .did you mean 'float16'"),
        ({"max_pixels": 0}, SettingError, "`max_pixels` must be at least 1, got 0"),
        ({"batch_size": 0}, SettingError, "`batch_size` must be at least 1, got 0"),
        ({"backbone": "vgg61"}, BackboneError, "unknown backbone 'vgg61'; did you mean vgg"),
        ({"backbone": "vgg16", "size": 16}, SettingError, "at least 32 x 32 pixels"),
        ({"layer": "lost"}, BackboneError, "no layer 'lost'; did you mean last"),
        ({"preprocess": "auto"}, SettingError, "give `preprocess` as one of"),
        ({"preprocess": "imagenet"}, SettingError, "unknown `preprocess` 'imagenet'"),
        ({"size": 64}, SettingError, "takes pictures of 32 x 32"),
        ({"weights": "nowhere.weights.h5"}, WeightsError, "nowhere.weights.h5 cannot be read: no such file"),
        ({"backbone": "nowhere.keras"}, (WeightsError, BackboneError), "nowhere"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_are_errors(
    make_dataset: Make, run: Run, tmp_path: Path, options: dict[str, Any], error: Any, match: str
) -> None:
    with pytest.raises(error, match=match) as caught:
        run(make_dataset(each=1), **options)
    assert "\n" not in str(caught.value)
    assert CacheFolder(tmp_path / "cache").files() == []


# --------------------------------------------------------------------------------------------- bad pictures, large ones


def test_known_bad_pictures_are_not_decoded_again(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset(each=3)
    reasons = add_bad_pictures(root)
    run(root)
    decoded: list[int] = []
    real = pipeline_module.decode

    def count(data: bytes, *limits: int) -> Any:
        decoded.append(len(data))
        return real(data, *limits)

    monkeypatch.setattr(pipeline_module, "decode", count)
    assert run(root).quarantined == 4 and decoded == []
    picture(0, 60).save(root / "lying" / "new.png")
    done = run(root)
    assert len(decoded) == 1 == done.computed
    assert [path for path, _ in done.quarantine] == sorted(reasons)


def test_a_large_picture_gets_in_when_more_pixels_are_allowed(make_dataset: Make, run: Run) -> None:
    root = make_dataset(each=2)
    picture(0, 5, (200, 100)).save(root / "lying" / "large.png")
    small = run(root, max_pixels=5000)
    assert (small.rows, small.quarantined) == (4, 1)
    assert small.quarantine == [("lying/large.png", "20000 pixels are more than max_pixels (5000)")]
    large = run(root, max_pixels=20_000)
    assert (large.rows, large.quarantined, large.computed) == (5, 0, 1)
    assert run(root, max_pixels=5000).quarantined == 0  # its features are there now


def test_fewer_pixels_allowed_later_leave_cached_pictures_in(make_dataset: Make, run: Run) -> None:
    root = make_dataset(each=2)
    picture(0, 5, (200, 100)).save(root / "lying" / "large.png")
    assert run(root).rows == 5
    done = run(root, max_pixels=5000)
    assert (done.rows, done.quarantined, done.computed) == (5, 0, 0)


# ------------------------------------------------------------------------------------------------------------- progress


def test_progress_counts_up_to_the_end(make_dataset: Make, run: Run) -> None:
    root = make_dataset()
    (root / "lying" / "0035.png").write_bytes(b"bad")
    seen: list[tuple[str, int, int]] = []
    run(root, progress=lambda stage, done, total: seen.append((stage, done, total)))
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages == ["building the trunk", "looking through the pictures", "extracting", "writing the feature file"]
    for stage in ("looking through the pictures", "extracting"):
        counts = [done for name, done, _ in seen if name == stage]
        assert counts == sorted(counts) and {total for name, _, total in seen if name == stage} == {17}
        assert counts[0] == 0 and counts[-1] == 17
    seen.clear()
    run(root, progress=lambda stage, done, total: seen.append((stage, done, total)))
    assert "extracting" not in {stage for stage, _, _ in seen}


# -------------------------------------------------------------------------------------------------------- real pictures


def test_awkward_pictures(
    shared: Path, run: Run, counted: list[int], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Bombs, animations, sixteen bits, CMYK, broken files: all accounted for, in silence."""
    with caplog.at_level(logging.WARNING):
        done = run(shared / "data" / "awkward")
    assert done.listed == done.rows + done.quarantined == 175 and done.quarantined > 10
    assert all(reason and "\n" not in reason for _, reason in done.quarantine)
    assert capfd.readouterr() == ("", "") and caplog.records == []
    features = load_features(done.features_path)
    assert len(features) == done.rows == len(set(features.paths))
    calls = len(counted)
    again = run(shared / "data" / "awkward")
    assert again.computed == 0 and len(counted) == calls and again.quarantine == done.quarantine


@pytest.mark.parametrize("scene", ["Landscape", "Portrait"])
def test_orientations_of_one_scene_are_one_scene(shared: Path, run: Run, tmp_path: Path, scene: str) -> None:
    """tensorflow#8430: EXIF ignored."""
    (tmp_path / "exif").mkdir()
    for number in range(9):
        shutil.copy(shared / "data" / "awkward" / "exif" / f"{scene}_{number}.jpg", tmp_path / "exif")
    X = load_features(run(tmp_path / "exif").features_path).X().reshape(9, -1)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    assert (unit @ unit.T).min() > 0.99


def test_real_features_agree_with_an_independent_computation(shared: Path, real_weights: Path, tmp_path: Path) -> None:
    """MobileNetV2 by Keras alone: Pillow's bilinear stretch, ``load_weights`` and Keras's own preprocessing."""
    from featx._internal.keras import load_keras

    keras = load_keras()
    for kind in ("daisy", "roses"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for path in sorted((shared / "data" / "flowers" / "train" / kind).glob("*.jpg"))[:2]:
            shutil.copy(path, tmp_path / "data" / kind)
    done = run_module.extract(
        tmp_path / "data", cache_dir=tmp_path / "cache", backbone="mobilenetv2", weights=str(real_weights), size=96
    )
    features = load_features(done.features_path)
    network = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(96, 96, 3))
    network.load_weights(real_weights)
    pictures = [Image.open(tmp_path / "data" / p).convert("RGB") for p in features.paths]
    images = np.stack([np.asarray(p.resize((96, 96), Image.Resampling.BILINEAR), np.float32) for p in pictures])
    prepared = keras.applications.mobilenet_v2.preprocess_input(images)
    expected = np.asarray(network.predict_on_batch(prepared))
    assert features.shape == expected.shape == (4, 3, 3, 1280) and expected.max() > 1
    np.testing.assert_allclose(features.X(), expected, rtol=1e-2, atol=1e-3)
