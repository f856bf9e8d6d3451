"""Views: what a view of a picture is, which pictures get them, and that none is computed twice or lost."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import picture, until
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import featx
from featx import Views
from featx._internal.hashing import digest
from featx.backbones import KerasTrunk
from featx.cache import CacheFolder, Features, load_features, write_features
from featx.cli import app
from featx.errors import PictureError, SettingError
from featx.extraction import Extraction, OtherSpec, plan
from featx.extraction import computation as computation_module
from featx.extraction import pipeline as pipeline_module
from featx.extraction import run as run_module
from featx.extraction import share as share_module
from featx.pictures import decode, resize

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(featx.__file__).parents[1])}
Run = Callable[..., Extraction]
Make = Callable[..., Path]
EVERYTHING = {"flip": True, "zoom": 0.3, "rotate": 20.0, "shift": 0.1, "brightness": 0.4}
FLIP_AND_ZOOM = {"flip": True, "zoom": 0.2}


@pytest.fixture
def run(tmp_path: Path, tiny_backbone: str) -> Run:
    """``extract`` into ``tmp_path / "cache"`` by the tiny backbone, a picture a call."""

    def extract(dataset: Path, n: int = 1, **options: Any) -> Extraction:
        own = {name: options.pop(name) for name in list(options) if name in (*EVERYTHING, "random_state")}
        views = Views(n, **(own or FLIP_AND_ZOOM)) if n > 1 else None
        usual = {"cache_dir": tmp_path / "cache", "backbone": tiny_backbone, "preprocess": "rescale", "batch_size": 1}
        return run_module.extract(dataset, views=views, **{**usual, **options})

    return extract


@pytest.fixture
def split_data(make_dataset: Make) -> Path:
    """``train`` with 2 x 3 pictures, ``val`` with 2 x 2, and ``test`` with 1; all are labelled."""
    make_dataset(each=3, split="train")
    root = make_dataset(each=2, split="val", first=20)
    (root / "test" / "lying").mkdir(parents=True)
    picture(0, 70).save(root / "test" / "lying" / "070.png")
    return root


def noise(height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def spot(row: int, column: int, side: int = 101) -> np.ndarray:
    """A soft bright spot on black."""
    y, x = np.mgrid[:side, :side]
    bright = 250 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 3.0**2))
    return np.repeat(bright[..., None], 3, axis=2).astype(np.uint8)


def place(image: np.ndarray) -> tuple[float, float]:
    """Where its brightness lies, from the middle: down and right, in pixels."""
    weights = image[..., 0].astype(float)
    y, x = np.mgrid[: weights.shape[0], : weights.shape[1]]
    middle = (weights.shape[0] - 1) / 2, (weights.shape[1] - 1) / 2
    return float((y * weights).sum() / weights.sum() - middle[0]), float(
        (x * weights).sum() / weights.sum() - middle[1]
    )


def views_of(image: np.ndarray, count: int = 60, **varied: Any) -> list[np.ndarray]:
    """Views 1 to ``count``."""
    views = Views(count + 1, **varied)
    return [views.augment(image, "content", view) for view in range(1, count + 1)]


# --------------------------------------------------------------------------------------------------------- the settings


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"n": 0}, r"`views` must be from 1 to 1000, got 0"),
        ({"n": 1001, "flip": True}, r"`views` must be from 1 to 1000, got 1001"),
        ({"n": 2.5, "flip": True}, r"`views` must be a whole number, got 2\.5"),
        (
            {"n": 5},
            r"`views=5` would be 5 times the same picture; add `flip=True`, .* or `brightness=0\.2`",
        ),
        ({"flip": True}, r"`flip` varies views, but only the picture itself is asked for; add `views=5`"),
        ({"n": 1, "shift": 0.1}, r"`shift` varies views, .*; add `views=5`"),
        ({"n": 2, "zoom": 1}, r"`zoom` must be at least 0 and below 1, got 1"),
        ({"n": 2, "zoom": -0.1}, r"`zoom` must be at least 0 and below 1, got -0\.1"),
        ({"n": 2, "zoom": math.nan}, r"`zoom` must be at least 0 and below 1, got nan"),
        ({"n": 2, "zoom": "much"}, r"`zoom` must be at least 0 and below 1, got much"),
        ({"n": 2, "zoom": None}, r"`zoom` must be at least 0 and below 1, got None"),
        ({"n": 2, "rotate": 180.5}, r"`rotate` must be from 0 to 180 degrees, got 180\.5"),
        ({"n": 2, "rotate": math.inf}, r"`rotate` must be from 0 to 180 degrees, got inf"),
        ({"n": 2, "shift": 1.5}, r"`shift` must be at least 0 and below 1, got 1\.5"),
        ({"n": 2, "brightness": 20}, r"`brightness` must be at least 0 and below 1, got 20"),
        ({"n": 2, "flip": 0.5}, r"`flip` is on or off, got 0\.5; say True or False"),
        ({"n": 2, "flip": True, "random_state": None}, r"`random_state` must be a whole number, got None"),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_are_errors(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(SettingError, match=match) as caught:
        Views(**arguments)
    assert "\n" not in str(caught.value)


def test_one_setting_has_one_spelling() -> None:
    """0 and 0.0 and NumPy's numbers would otherwise be different rows."""
    spelled = Views(np.int64(3), np.True_, np.float32(0.5), 10, -0.0, 0, np.int64(2))  # type: ignore[arg-type]
    plain = Views(3, True, 0.5, 10.0, 0.0, 0.0, 2)
    assert json.dumps(spelled.settings) == json.dumps(plain.settings) and spelled == plain
    assert Views(3, rotate=180).settings == Views(9, rotate=180).settings
    assert Views(random_state=7).settings == Views().settings == {}


@pytest.mark.parametrize("views", [5, {"n": 5, "flip": True}, True])
def test_only_views_are_views(make_dataset: Make, tmp_path: Path, tiny_backbone: str, views: Any) -> None:
    with pytest.raises(SettingError, match=r"`views` must be a featx\.Views, such as Views\(5, flip=True, zoom=0\.2\)"):
        run_module.extract(make_dataset(each=1), cache_dir=tmp_path / "c", backbone=tiny_backbone, views=views)


# -------------------------------------------------------------------------------------------------------------- a view


SETTINGS = st.fixed_dictionaries(
    {
        "flip": st.just(True),
        "zoom": st.floats(0, 1, exclude_max=True),
        "rotate": st.floats(0, 180),
        "shift": st.floats(0, 1, exclude_max=True),
        "random_state": st.integers(0, 2**32 - 1),
    }
)


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    varied=SETTINGS,
    brightness=st.floats(0, 1, exclude_max=True),
    view=st.integers(1, 999),
)
def test_every_view_of_every_picture(
    shape: tuple[int, int], varied: dict[str, Any], brightness: float, view: int
) -> None:
    """One pixel wide or not, at any settings: same shape, made of the picture's colours, the same each time."""
    image = noise(*shape)
    before = image.copy()
    image.setflags(write=False)
    views = Views(1000, **varied)
    made = views.augment(image, "id", view)
    assert (made.shape, made.dtype) == (image.shape, np.uint8)
    assert (made.min(axis=(0, 1)) >= image.min(axis=(0, 1))).all()
    assert (made.max(axis=(0, 1)) <= image.max(axis=(0, 1))).all()
    brighter = Views(1000, **varied, brightness=brightness)
    assert np.array_equal(brighter.augment(image, "id", view), brighter.augment(before, "id", view))
    assert np.array_equal(image, before) and views.augment(image, "id", 0) is image


def test_a_view_depends_on_content_number_and_seed() -> None:
    image = noise()
    views, other = Views(9, **EVERYTHING), Views(9, **EVERYTHING, random_state=1)
    made = [views.augment(image, content, view) for content in ("a", "b") for view in range(1, 9)]
    made += [other.augment(image, "a", view) for view in range(1, 9)]
    assert len({view.tobytes() for view in made}) == len(made)
    more = Views(200, **EVERYTHING)
    assert np.array_equal(more.augment(image, "a", 3), made[2]), "how many there are has no say"


def test_a_view_is_the_same_in_another_process() -> None:
    code = (
        "import hashlib, sys\nimport numpy as np\nfrom featx import Views\n"
        "image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)\n"
        "views = Views(6, flip=True, zoom=0.3, rotate=20.0, shift=0.1, brightness=0.4)\n"
        "for view in (5, 2):\n    made = views.augment(image, 'a', view)\n"
        "    print(hashlib.sha256(made.tobytes()).hexdigest())"
    )
    environment = {**ENVIRONMENT, "PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    views = Views(6, **EVERYTHING)
    here = [hashlib.sha256(views.augment(noise(), "a", view).tobytes()).hexdigest() for view in (5, 2)]
    assert done.stdout.split() == here


def test_what_is_drawn_is_pinned() -> None:
    """Another outcome would mix views of two kinds in one cache: then AUGMENTER has to be raised."""
    image = noise()
    mirrored = [not np.array_equal(view, image) for view in views_of(image, 24, flip=True)]
    assert "".join(str(int(m)) for m in mirrored) == PINNED


PINNED = "100000011101100000100100"


def test_flips_are_exact_mirrors() -> None:
    for image in (noise(24, 32), noise(7, 9), noise(5, 1)):
        mirror = image[:, ::-1]
        views = views_of(image, 200, flip=True)
        assert all(np.array_equal(view, image) or np.array_equal(view, mirror) for view in views)
        assert image.shape[1] == 1 or 70 < sum(np.array_equal(view, mirror) for view in views) < 130


def test_zoom_magnifies_both_axes_about_the_middle() -> None:
    image = np.zeros((121, 121, 3), np.uint8)
    image[40:81, 30:91] = 255
    factors = []
    for view in views_of(image, zoom=0.3):
        height, width = (view[:, 60, 0] / 255).sum() / 41, (view[60, :, 0] / 255).sum() / 61
        assert abs(height - width) < 0.03
        assert abs(place(view)[0]) < 0.5 and abs(place(view)[1]) < 0.5
        factors.append(width)
    assert 0.69 < min(factors) < 0.8 and 1.2 < max(factors) < 1.31


def test_rotation_turns_about_the_middle_either_way() -> None:
    angles = []
    for view in views_of(spot(50, 80), rotate=30):
        down, right = place(view)
        assert abs(math.hypot(down, right) - 30) < 0.5
        angles.append(math.degrees(math.atan2(-down, right)))
    assert -30.5 < min(angles) < -20 and 20 < max(angles) < 30.5
    upside = views_of(spot(50, 80), 200, rotate=180)
    assert {(place(view)[0] > 0, place(view)[1] > 0) for view in upside} == {(a, b) for a in (0, 1) for b in (0, 1)}


def test_shifts_go_all_ways_by_a_share_of_the_side() -> None:
    moves = np.array([place(view) for view in views_of(spot(50, 50), 100, shift=0.2)])
    assert (np.abs(moves) <= 0.2 * 101 + 0.2).all() and (moves.min(0) < -15).all() and (moves.max(0) > 15).all()
    assert abs(np.corrcoef(moves.T)[0, 1]) < 0.3, "the two axes are drawn apart"
    wide = np.zeros((40, 200, 3), np.uint8)
    wide[19:21, 99:101] = 255
    moves = np.abs([place(view) for view in views_of(wide, 100, shift=0.2)])
    assert moves[:, 0].max() <= 8.2 and 30 < moves[:, 1].max() <= 40.2


def test_brightness_multiplies_and_clips() -> None:
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    factors = []
    for view in views_of(image, brightness=0.4):
        factor = view[6, 4, 0] / 100  # the pixel of value 100
        np.testing.assert_allclose(view, np.minimum(image * factor, 255), atol=2)
        factors.append(factor)
    assert 0.59 < min(factors) < 0.7 and 1.3 < max(factors) < 1.41


def test_what_lies_outside_is_reflected() -> None:
    flat = np.full((20, 30, 3), (200, 100, 50), np.uint8)
    everything = {**EVERYTHING, "brightness": 0.0}
    assert all(np.array_equal(view, flat) for view in views_of(flat, **everything))
    row = np.arange(0, 250, 10, dtype=np.uint8)
    ramp = np.broadcast_to(row[None, :, None], (1, 25, 3)).copy()
    long = np.interp(np.arange(-25, 50), np.arange(-25, 50), np.concatenate([row[::-1], row, row[::-1]]))
    for view in views_of(ramp, shift=0.9):
        windows = [np.interp(np.arange(25) + at, np.arange(75), long) for at in np.arange(0, 50, 0.1)]
        assert min(np.abs(view[0, :, 0] - window).max() for window in windows) < 2


def test_one_setting_does_not_change_what_another_draws() -> None:
    image = noise()
    plain, brighter = views_of(image, flip=True), views_of(image, flip=True, brightness=0.3)
    for one, two in zip(plain, brighter, strict=True):
        assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.9


# -------------------------------------------------------------------------------------------- several images of one job


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(-1, 5), max_size=12),  # -1: cannot be loaded
    batch_size=st.integers(1, 7),
)
def test_batches_hold_every_image_once_in_order(counts: list[int], batch_size: int) -> None:
    def load(job: int) -> np.ndarray:
        if counts[job] < 0:
            raise PictureError("bad")
        images = [np.full((2, 2, 3), 10 * job + number, np.uint8) for number in range(counts[job])]
        return np.stack(images) if images else np.empty((0, 2, 2, 3), np.uint8)

    sizes = []

    class Mean(SimpleNamespace):
        info = SimpleNamespace(size=2, lanes=1)

        def __call__(self, images: np.ndarray) -> np.ndarray:
            sizes.append(len(images))
            return images.mean(axis=(1, 2), dtype=np.float32)

    failures: dict[int, PictureError] = {}
    seen: list[tuple[int, int]] = []
    trunk: Any = Mean()
    limits = {"batch_size": batch_size, "images_per_job": 5}
    for batch in pipeline_module.features_of(range(len(counts)), load, trunk, "float32", failures, **limits):
        keys = list(zip(batch.jobs, batch.numbers, strict=True))
        assert batch.features[:, 0].tolist() == [10 * job + number for job, number in keys]
        seen += keys
    assert seen == [(job, number) for job, count in enumerate(counts) for number in range(count)]
    assert set(failures) == {job for job, count in enumerate(counts) if count < 0}
    assert set(sizes) <= {batch_size}


# ---------------------------------------------------------------------------------------------------- whose they are


def test_training_pictures_alone_have_views(split_data: Path, run: Run) -> None:
    plain = load_features(run(split_data).features_path)
    done = run(split_data, 3)
    features = load_features(done.features_path)
    assert (done.listed, done.rows, done.quarantined, done.views, done.view_rows) == (11, 11, 0, 3, 12)
    assert done.shape == features.shape == (23, 4, 4, 8)
    assert features.views.tolist() == [0] * 11 + [1] * 6 + [2] * 6 and features.views.dtype == np.int16
    train = [row for row, split in enumerate(plain.splits) if split == "train"]
    order = [*range(11), *train, *train]
    assert features.paths.tolist() == plain.paths[order].tolist() and features.ids.tolist() == plain.ids[order].tolist()
    assert features.y.tolist() == plain.y[order].tolist()
    assert features.splits.tolist() == plain.splits[order].tolist() and set(features.splits[11:]) == {"train"}
    assert features.spec == plain.spec and features.class_names == plain.class_names
    assert np.array_equal(features.stored(range(11)), plain.stored()), "the first rows are those without views"
    assert plain.augmentation == {} and features.augmentation == {
        "augmenter": "affine-1", "flip": True, "zoom": 0.2, "rotate": 0.0, "shift": 0.0, "brightness": 0.0,
        "random_state": 0,
    }  # fmt: skip


def test_labelled_pictures_of_no_split_have_views(make_dataset: Make, run: Run) -> None:
    done = run(make_dataset(each=2), 4)
    assert (done.rows, done.view_rows, done.computed, done.reused) == (4, 12, 16, 0)


def test_unlabelled_pictures_have_none_and_that_is_said(
    tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "flat").mkdir()
    picture(0, 1).save(tmp_path / "flat" / "1.png")
    with caplog.at_level(logging.WARNING):
        done = run(tmp_path / "flat", 4)
    assert (done.rows, done.view_rows, done.views, done.shape[0]) == (1, 0, 4, 1)
    assert "flat has no labelled training pictures; no views are made" in caplog.text


def test_features_of_views_are_the_trunks(make_dataset: Make, run: Run, tiny_backbone: str) -> None:
    root = make_dataset(each=2)
    features = load_features(run(root, 3, **EVERYTHING).features_path)
    views, trunk = Views(3, **EVERYTHING), featx.build_trunk(tiny_backbone, preprocess="rescale")
    for path, content, view, row in zip(features.paths, features.ids, features.views, features.X(), strict=True):
        image = views.augment(resize(decode((root / path).read_bytes()), 32), content, int(view))
        np.testing.assert_allclose(row, trunk(image[None])[0], rtol=2e-3, atol=1e-3)
    X = features.X().reshape(3, 4, -1)
    assert all(np.abs(X[a] - X[b]).max() > 0.05 for a, b in ((0, 1), (0, 2), (1, 2)))


def test_a_flat_test_folder_beside_training_pictures_has_none(make_dataset: Make, run: Run) -> None:
    root = make_dataset(each=1, split="train")
    (root / "test").mkdir()
    picture(0, 70).save(root / "test" / "070.png")
    features = load_features(run(root, 3).features_path)
    assert features.views.tolist() == [0] * 3 + [1] * 2 + [2] * 2 and set(features.splits[3:]) == {"train"}


@pytest.mark.parametrize("batch_size", [2, 3, 32])
def test_the_batch_size_does_not_change_views(make_dataset: Make, run: Run, tmp_path: Path, batch_size: int) -> None:
    root = make_dataset(each=3)
    (root / "lying" / "0005.png").write_bytes(b"a gap in a batch")
    usual = load_features(run(root, 4, dtype="float32").features_path)
    done = run(root, 4, dtype="float32", batch_size=batch_size, cache_dir=tmp_path / "other")
    other = load_features(done.features_path)
    assert usual.paths.tolist() == other.paths.tolist() and usual.views.tolist() == other.views.tolist()
    np.testing.assert_allclose(other.X(), usual.X(), atol=1e-3)


def test_other_names_and_another_order_give_the_same_views(make_dataset: Make, run: Run, tmp_path: Path) -> None:
    root = make_dataset(each=3)
    first = load_features(run(root, 3).features_path)
    turned = tmp_path / "turned"
    for number, path in enumerate(sorted(root.rglob("*.png"), reverse=True)):
        (turned / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, turned / path.parent.name / f"other{number}.png")
    second = load_features(run(turned, 3, cache_dir=tmp_path / "other").features_path)
    rows = {key: row for row, key in enumerate(first.row_keys())}
    assert second.ids.tolist() != first.ids.tolist()
    assert np.array_equal(second.stored(), first.stored([rows[key] for key in second.row_keys()]))


def test_a_picture_is_decoded_once_for_all_its_views(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    real = pipeline_module.decode
    monkeypatch.setattr(
        pipeline_module, "decode", lambda data, *limits: (decoded.append(len(data)), real(data, *limits))[1]
    )
    assert run(make_dataset(each=3), 5).computed == 30 and len(decoded) == 6


def test_pictures_without_features_have_no_views(make_dataset: Make, run: Run) -> None:
    root = make_dataset(each=3)
    (root / "lying" / "bad.png").write_bytes(b"bad")
    (root / "standing" / "bad.png").write_bytes(b"")
    for _ in range(2):
        done = run(root, 3)
        assert (done.listed, done.rows, done.quarantined, done.view_rows) == (8, 6, 2, 12)
        assert not {path for path, _ in done.quarantine} & set(load_features(done.features_path).paths)
        assert done.computed + done.reused == done.shape[0] == 18


def test_the_last_picture_may_be_unreadable_after_it_was_hashed(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, real = make_dataset(each=2), pipeline_module.decode
    last = (root / "standing" / "001.png").read_bytes()

    def moody(data: bytes, *limits: int) -> Any:
        if data == last:
            raise PictureError("damaged")
        return real(data, *limits)

    monkeypatch.setattr(pipeline_module, "decode", moody)
    seen: list[tuple[str, int, int]] = []
    done = run(root, 3, progress=lambda *what: seen.append(what))
    assert (done.rows, done.quarantined, done.view_rows, done.computed) == (3, 1, 6, 9)
    counts = [(at, of) for stage, at, of in seen if stage == "extracting"]
    assert counts[0] == (0, 12) and counts[-1] == (12, 12) and counts == sorted(counts)


# ----------------------------------------------------------------------------------------------- what is computed again


def test_only_new_views_are_computed(split_data: Path, run: Run, counted: list[int]) -> None:
    plain = run(split_data)
    assert len(counted) == 11 == plain.computed
    four = run(split_data, 4)
    assert (four.computed, four.reused) == (18, 11) and len(counted) == 11 + 18
    eight = run(split_data, 8)
    assert (eight.computed, eight.reused) == (24, 29) and len(counted) == 29 + 24
    assert len({plain.features_path, four.features_path, eight.features_path}) == 3
    first, more = load_features(four.features_path), load_features(eight.features_path)
    assert np.array_equal(more.stored(range(29)), first.stored()) and more.augmentation == first.augmentation
    assert [run(split_data, n).computed for n in (4, 8, 1, 3)] == [0, 0, 0, 0] and len(counted) == 53
    assert run(split_data).features_path == plain.features_path


def test_views_made_at_once_serve_a_file_without(make_dataset: Make, run: Run, counted: list[int]) -> None:
    root = make_dataset(each=3)
    assert run(root, 3).computed == 18
    assert run(root).computed == 0 and len(counted) == 18


@pytest.mark.parametrize(
    "other", [{"zoom": 0.25}, {**FLIP_AND_ZOOM, "random_state": 1}, {**FLIP_AND_ZOOM, "shift": 0.1}]
)
def test_other_settings_compute_views_anew_but_not_the_pictures(
    make_dataset: Make, run: Run, counted: list[int], other: dict[str, Any]
) -> None:
    root = make_dataset(each=3)
    first = run(root, 3)
    done = run(root, 3, **other)
    assert (done.computed, done.reused) == (12, 6) and len(counted) == 18 + 12
    assert done.features_path != first.features_path and done.spec == first.spec
    one, two = load_features(first.features_path), load_features(done.features_path)
    assert np.array_equal(one.stored(range(6)), two.stored(range(6)))
    assert np.abs(one.X(range(6, 18)) - two.X(range(6, 18))).max() > 0.05
    assert run(root, 3).computed == 0 == run(root, 3, **other).computed


def test_files_without_views_keep_their_names(make_dataset: Make, run: Run) -> None:
    """Caches that are there already must go on hitting."""
    root = make_dataset(each=2)
    done = run(root)
    features = load_features(done.features_path)
    names = features.class_names
    rows = zip(features.paths, features.ids, features.y, features.splits, strict=True)
    listed = [[path, content, names[label], split] for path, content, label, split in rows]
    assert Path(done.features_path).name == f"stripes-tiny-{digest([done.spec, listed])}.h5"
    assert Path(run(root, 2).features_path).name != Path(done.features_path).name


def test_a_file_from_before_there_were_views_is_found(make_dataset: Make, run: Run) -> None:
    root = make_dataset(each=2)
    done = run(root)
    old = Features(done.features_path)
    tables = {"ids": old.ids, "views": old.views, "paths": old.paths, "labels": old.y, "splits": old.splits}
    attributes = {"class_names": old.class_names, "dataset": old.dataset, "root": old.root, "recipe": old.recipe}
    write_features(old.path, [old.stored()], old.shape, spec=old.spec, tables=tables, attributes=attributes)
    assert load_features(done.features_path).augmentation == {}
    assert run(root).computed == 0
    assert run(root, 2).computed == 4


def test_copies_of_a_picture_are_computed_once_a_view(make_dataset: Make, run: Run, counted: list[int]) -> None:
    make_dataset(each=2, split="train")
    root = make_dataset(each=1, split="val", first=20)
    shutil.copy(root / "train/lying/000.png", root / "train/standing/copy.png")
    shutil.copy(root / "train/lying/000.png", root / "val/standing/copy.png")
    shutil.copy(root / "val/lying/020.png", root / "train/lying/copy.png")
    done = run(root, 3)
    assert (done.rows, done.view_rows) == (9, 12)
    assert done.computed == len(counted) == 6 + 2 * 5 and done.reused == 5
    features = load_features(done.features_path)
    rows = {key: row for row, key in enumerate(features.row_keys())}
    assert np.array_equal(features.stored(), features.stored([rows[key] for key in features.row_keys()]))


def test_a_damaged_view_alone_is_computed_again(make_dataset: Make, run: Run, counted: list[int]) -> None:
    root = make_dataset(each=3)
    first = run(root, 3)
    whole = Features(first.features_path).stored()
    with h5py.File(first.features_path) as file:
        at = file["features"].id.get_offset() + 8 * file["features"][0].nbytes + 5
    data = bytearray(Path(first.features_path).read_bytes())
    data[at] ^= 4
    Path(first.features_path).write_bytes(data)
    done = run(root, 3)
    assert (done.computed, done.features_path) == (1, first.features_path) and len(counted) == 19
    assert np.array_equal(Features(done.features_path).stored(), whole)


def test_room_is_asked_for_all_rows(make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(computation_module, "require_room", lambda folder, nbytes: asked.append(nbytes))
    root, row = make_dataset(each=2), 2 * 4 * 4 * 8
    run(root, 5)
    run(root, 6)
    assert asked == [row * (20 + 20), row * (4 + 24)]


def test_the_plan_counts_views(split_data: Path, run: Run, tmp_path: Path, tiny_backbone: str) -> None:
    usual = {"cache_dir": tmp_path / "cache", "backbone": tiny_backbone, "preprocess": "rescale"}
    run(split_data)
    views = Views(4, **FLIP_AND_ZOOM)
    planned = plan(split_data, views=views, **usual)
    assert (planned.would_compute, planned.would_reuse, planned.views, planned.other_specs) == (18, 11, 4, [])
    assert len(planned.new) == 6 and planned.new == sorted(planned.new)
    done = run(split_data, 4)
    assert (done.features_path, done.computed) == (planned.features_path, planned.would_compute)
    planned = plan(split_data, views=views, **usual)
    assert (planned.would_compute, planned.would_reuse, planned.new, planned.other_specs) == (0, 29, [], [])
    planned = plan(split_data, views=Views(4, flip=True, zoom=0.3), **usual)
    assert (planned.would_compute, planned.would_reuse) == (18, 11)
    assert planned.other_specs == [OtherSpec(done.features_path, ["zoom is 0.2, not 0.3"])]
    assert plan(split_data, **usual).other_specs == []


def test_prune_keeps_views_that_no_other_file_has(make_dataset: Make, run: Run, tmp_path: Path) -> None:
    root = make_dataset(each=2)
    made = [run(root, 3), run(root, 3, rotate=10.0), run(root), run(root, 2, rotate=10.0)]
    for number, done in enumerate(made):
        os.utime(done.features_path, (10**9 + number, 10**9 + number))
    folder = CacheFolder(tmp_path / "cache")
    assert folder.superseded() == [Path(made[2].features_path)], "the newest has the pictures themselves"
    before = {key for features in folder.iter_features() for key in features.row_keys()}
    assert [path for path, _ in folder.prune()] == [Path(made[2].features_path)]
    assert {key for features in folder.iter_features() for key in features.row_keys()} == before
    assert [run(root, 3).computed, run(root, 3, rotate=10.0).computed, run(root).computed] == [0, 0, 0]
    os.utime(made[1].features_path)
    assert Path(made[3].features_path) in folder.superseded(), "a newer one has its views, too"


ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), min_size=1, max_size=5, unique=True)


@settings(max_examples=25, deadline=None)
@given(files=st.lists(st.tuples(ROWS, st.sampled_from([0.1, 0.2]), st.booleans()), min_size=1, max_size=5))
def test_pruning_never_loses_a_view(files: list[tuple[list[tuple[str, int]], float, bool]]) -> None:
    """Whatever lies in a folder, finished or in blocks: the rows that could be found before are found after."""
    with tempfile.TemporaryDirectory() as name:
        folder = CacheFolder(name)
        for number, (rows, zoom, finished) in enumerate(files):
            path = folder.folder / (f"{number}.h5" if finished else f"{number}.partial/block-00000.h5")
            tables = {"ids": [content for content, _ in rows], "views": [view for _, view in rows]}
            features, spec = np.zeros((len(rows), 2), np.float16), {"dtype": "float16"}
            attributes = {"augmentation": Views(3, zoom=zoom).settings}
            write_features(path, [features], features.shape, spec=spec, tables=tables, attributes=attributes)
            os.utime(path, (10**9 + number, 10**9 + number))
        before = set(folder.find_rows(spec))
        assert len(before) == len({(*row, zoom if row[1] else 0) for rows, zoom, _ in files for row in rows})
        assert [size > 0 for _, size in folder.prune()].count(False) == 0
        assert set(folder.find_rows(spec)) == before and folder.superseded() == []


# ---------------------------------------------------------------------------------------------------- interrupts, kills


def test_ctrl_c_in_the_middle_of_a_picture_keeps_its_views(
    make_dataset: Make, run: Run, counted: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = make_dataset(each=3)
    undisturbed = Features(run(root, 4, cache_dir=tmp_path / "other").features_path).stored()
    counted.clear()
    real = KerasTrunk.__call__

    def call(self: KerasTrunk, images: Any) -> Any:
        if len(counted) == 10:
            raise KeyboardInterrupt
        return real(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(share_module, "BLOCK_ROWS", 3)
        patch.setattr(share_module, "BLOCK_SECONDS", 0)
        patch.setattr(KerasTrunk, "__call__", call)
        with pytest.raises(KeyboardInterrupt, match=r"10 of 24 views of pictures are kept in .*; run the same command"):
            run(root, 4)
    (partial,) = (tmp_path / "cache").glob("*.partial")
    blocks = [Features(path) for path in sorted(partial.glob("block-*.h5"))]
    assert [len(block) for block in blocks] == [3, 3, 3, 1] and all(
        block.augmentation["zoom"] == 0.2 for block in blocks
    )
    assert blocks[0].views.tolist() == [0, 1, 2] and blocks[1].views.tolist() == [3, 0, 1]
    done = run(root, 4)
    assert (done.computed, done.reused) == (14, 10) and len(counted) == 24
    assert np.array_equal(Features(done.features_path).stored(), undisturbed) and not partial.exists()


def test_blocks_of_other_settings_are_not_mixed_in(
    make_dataset: Make, run: Run, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, real = make_dataset(each=2), KerasTrunk.__call__

    def call(self: KerasTrunk, images: Any) -> Any:
        if len(counted) == 5:
            raise KeyboardInterrupt
        return real(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(KerasTrunk, "__call__", call)
        with pytest.raises(KeyboardInterrupt):
            run(root, 4)
    done = run(root, 4, rotate=15.0)
    assert (done.computed, done.reused) == (14, 2), "of 5 rows, two are pictures themselves"


def test_killed_in_the_middle_and_run_again(
    make_dataset: Make, run: Run, tiny_backbone: str, tmp_path: Path, counted: list[int]
) -> None:
    root = make_dataset(each=6)
    undisturbed = Features(run(root, 4, cache_dir=tmp_path / "other").features_path).stored()
    script = (
        "import sys, time\nimport featx\nimport featx.extraction.share\nfrom featx.backbones import KerasTrunk\n"
        "featx.extraction.share.BLOCK_ROWS, featx.extraction.share.BLOCK_SECONDS = 3, 0\n"
        "real, calls = KerasTrunk.__call__, []\n"
        "def held(self, images):\n    calls.append(1)\n    len(calls) > 12 and time.sleep(600)\n"
        "    return real(self, images)\nKerasTrunk.__call__ = held\n"
        "featx.extract(sys.argv[1], cache_dir=sys.argv[2], backbone=sys.argv[3], preprocess='rescale', "
        "batch_size=1, views=featx.Views(4, flip=True, zoom=0.2))"
    )
    command = [sys.executable, "-c", script, root, tmp_path / "cache", tiny_backbone]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: len(list((tmp_path / "cache").glob("*.partial/block-*"))) >= 3 or process.poll() is not None)
        finally:
            process.kill()
    kept = len(list((tmp_path / "cache").glob("*.partial/block-*")))
    counted.clear()
    done = run(root, 4)
    assert done.computed == len(counted) == 48 - 3 * kept and 3 <= kept <= 4
    assert np.array_equal(Features(done.features_path).stored(), undisturbed)


# ----------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def words(tiny_backbone: str, tmp_path: Path) -> tuple[str, ...]:
    return "--backbone", tiny_backbone, "--preprocess", "rescale", "--cache-dir", str(tmp_path / "cache")


def said(*arguments: Any, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout


def answer(*arguments: Any, code: int = 0) -> Any:
    return json.loads(said(*arguments, "--json", code=code))


def test_the_command_line_makes_views(split_data: Path, words: tuple[str, ...]) -> None:
    more = "--views 3 --flip --zoom 0.2 --rotate 5 --shift 0.1 --brightness 0.2".split()
    told = answer("cache", "explain", split_data, *words, *more)
    assert (told["would_compute"], told["views"]) == (23, 3)
    assert "would compute 23 views of pictures and reuse 0" in said("cache", "explain", split_data, *words, *more)
    done = answer("extract", split_data, *words, *more)
    assert (done["listed"], done["rows"], done["views"], done["view_rows"]) == (11, 11, 3, 12)
    assert (done["computed"], done["reused"], done["shape"]) == (23, 0, [23, 4, 4, 8])
    text = said("extract", split_data, *words, *more)
    assert "11 listed = 11 rows + 0 quarantined; 12 rows of views 1 to 2\n" in text
    assert "train 6" in text and "23 x 4 x 4 x 8 float16" in text and "0 computed, 23 reused" in text
    shown = answer("cache", "show", done["features"])
    assert shown["views"] == 3 and shown["augmentation"]["rotate"] == 5 and shown["augmentation"]["flip"] is True
    assert shown["splits"] == {"test": 1, "train": 6, "validation": 4} and shown["shape"][0] == 23
    assert "augmentation     {" in said("cache", "show", done["features"])
    assert answer("cache", "verify", done["features"])["files"][0]["rows"] == 23
    plain = answer("extract", split_data, *words)
    assert (plain["views"], plain["view_rows"], plain["computed"]) == (1, 0, 0)
    assert answer("cache", "show", plain["features"])["augmentation"] == {}


def test_the_seed_draws_views(make_dataset: Make, words: tuple[str, ...]) -> None:
    root, more = make_dataset(each=1), ("--views", 2, "--zoom", 0.5)
    done = [answer("extract", root, *words, *more, "--seed", seed) for seed in (0, 1, 0)]
    assert [d["computed"] for d in done] == [4, 2, 0] and done[0]["features"] == done[2]["features"]
    X = [load_features(d["features"]).X() for d in done[:2]]
    assert np.array_equal(X[0][:2], X[1][:2]) and np.abs(X[0][2:] - X[1][2:]).max() > 0.05


@pytest.mark.parametrize("command", ["extract", "cache explain"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--views 5", "--views 5 would be 5 times the same picture; add --flip, --zoom 0.2"),
        ("--flip", "--flip varies views, but only the picture itself is asked for; add --views 5"),
        ("--views 3 --zoom 1.5", "--zoom must be at least 0 and below 1, got 1.5"),
    ],
    ids=["only-views", "only-flip", "zoom"],
)
def test_the_command_line_says_what_is_wrong(
    make_dataset: Make, words: tuple[str, ...], tmp_path: Path, command: str, options: str, message: str
) -> None:
    told = answer(*command.split(), make_dataset(each=1), *words, *options.split(), code=1)
    assert message in told["error"] and not (tmp_path / "cache").exists()


def test_no_views_at_all_are_wrong_usage(make_dataset: Make, words: tuple[str, ...]) -> None:
    said("extract", make_dataset(each=1), *words, "--views", 0, code=2)
