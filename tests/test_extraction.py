"""Extraction: what is computed, what is found again, and what survives damage, kills and changing files."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import disk_of, picture, until
from PIL import Image

import featx
from featx.backbones import KerasTrunk
from featx.cache import CacheFolder, Features, load_features, write_features
from featx.errors import (
    BackboneError,
    CacheError,
    DatasetError,
    ExtractionError,
    FileReadError,
    SettingError,
    WeightsError,
)
from featx.extraction import Extraction, Recipe, plan
from featx.extraction import assembly as assembly_module
from featx.extraction import census as census_module
from featx.extraction import pipeline as pipeline_module
from featx.extraction import run as run_module
from featx.extraction import share as share_module
from featx.pictures import decode, resize

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(featx.__file__).parents[1])}
Run = Callable[..., Extraction]
Make = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path, tiny_backbone: str) -> Run:
    """``extract`` into ``tmp_path / "cache"`` by the tiny backbone."""

    def extract(dataset: Path, **options: Any) -> Extraction:
        usual = {"cache_dir": tmp_path / "cache", "backbone": tiny_backbone, "preprocess": "rescale", "batch_size": 4}
        return run_module.extract(dataset, **{**usual, **options})

    return extract


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this instant count as settled, so that a second run need not read them."""
    monkeypatch.setattr(census_module, "RACY_NS", 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    with disk_of("1m", tmp_path / "disk") as folder:
        yield folder


def on_call(monkeypatch: pytest.MonkeyPatch, number: int, what: Callable[[], Any]) -> None:
    """Do something just before the trunk's ``number``-th call."""
    real, calls = KerasTrunk.__call__, iter(range(1, 10**6))

    def call(self: KerasTrunk, images: Any) -> Any:
        if next(calls) == number:
            what()
        return real(self, images)

    monkeypatch.setattr(KerasTrunk, "__call__", call)


def interrupt(run: Run, root: Path, after: int, monkeypatch: pytest.MonkeyPatch, block_rows: int = 2) -> Path:
    """Ctrl-C after some pictures; returns the folder of blocks."""

    def ctrl_c() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(share_module, "BLOCK_ROWS", block_rows)
        patch.setattr(share_module, "BLOCK_SECONDS", 0)
        on_call(patch, after + 1, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            run(root, batch_size=1)
    (partial,) = (root.parent / "cache").glob("*.partial")
    return partial


def damage(path: Path | str, row: int) -> None:
    """Flip one bit in a row's features."""
    with h5py.File(path) as file:
        at = file["features"].id.get_offset() + row * file["features"][0].nbytes + 5
    data = bytearray(Path(path).read_bytes())
    data[at] ^= 4
    Path(path).write_bytes(data)


def by_hand(backbone: str, root: Path, paths: Any) -> np.ndarray:
    """Features computed without listing, cache, threads and batches."""
    trunk = featx.build_trunk(backbone, preprocess="rescale")
    pictures = [
        np.asarray(Image.open(root / p).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)) for p in paths
    ]
    return np.concatenate([trunk(image[None]) for image in pictures])


def values(done: Extraction) -> np.ndarray:
    return Features(done.features_path).stored()


# ----------------------------------------------------------------------------------------------------------- the ledger


def add_bad_pictures(root: Path) -> dict[str, str]:
    """Pictures that cannot be read, and a word of the reason for each."""
    half = (root / "lying" / "whole.jpg").with_suffix(".tmp")
    picture(0, 99, (200, 150)).save(half, "JPEG")
    (root / "lying" / "half.png").write_bytes(half.read_bytes()[:2000])
    half.unlink()
    (root / "lying" / "empty.jpg").write_bytes(b"")
    (root / "standing" / "page.jpg").write_text("<html>404 not found</html>")
    (root / "standing" / "pipe.png").mkdir() if os.name == "nt" else os.mkfifo(root / "standing" / "pipe.png")
    return {
        "lying/empty.jpg": "empty",
        "lying/half.png": "damaged",
        "standing/page.jpg": "not a picture",
        "standing/pipe.png": "not a regular file",
    }


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


# ----------------------------------------------------------------------------------------------- what is computed again


def test_a_second_run_computes_and_reads_nothing(
    make_dataset: Make, run: Run, counted: list[int], settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset()
    add_bad_pictures(root)
    os.unlink(root / "standing" / "pipe.png")  # has no content to be known by
    first = run(root, batch_size=1)
    assert len(counted) == 16 == first.computed

    def refuse(path: Any) -> bytes:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(census_module, "read_file", refuse)
    second = run(root, batch_size=1)
    assert (second.computed, second.reused, second.rows, second.quarantined) == (0, 16, 16, 3)
    assert len(counted) == 16 and second.features_path == first.features_path
    assert second.engine == first.engine and second.images_per_second == 0


def test_a_second_run_loads_no_network_library(
    make_dataset: Make, run: Run, tiny_backbone: str, tmp_path: Path, settled: None
) -> None:
    root = make_dataset()
    run(root)
    script = (
        "import sys\nfrom featx.extraction import extract\n"
        "done = extract(sys.argv[1], cache_dir=sys.argv[2], backbone=sys.argv[3], preprocess='rescale')\n"
        "print(done.computed, done.rows, sorted({'tensorflow', 'keras', 'jax', 'torch'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, root, tmp_path / "cache", tiny_backbone]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout == "0 16 []\n" and done.stderr == ""


def test_only_added_pictures_are_computed(make_dataset: Make, run: Run, counted: list[int]) -> None:
    root = make_dataset()
    first = run(root, batch_size=1)
    make_dataset(each=5, first=100)
    done = run(root, batch_size=1)
    assert (done.rows, done.computed, done.reused) == (26, 10, 16) and len(counted) == 26
    assert done.features_path != first.features_path
    old, new = load_features(first.features_path), load_features(done.features_path)
    where = [new.paths.tolist().index(path) for path in old.paths]
    assert np.array_equal(new.stored(where), old.stored())


def test_a_moved_and_relabelled_folder_costs_nothing(make_dataset: Make, run: Run, counted: list[int]) -> None:
    """datasets#2496: a cache that misses when the folder moves."""
    root = make_dataset()
    before = run(root, batch_size=1)
    moved = root.rename(root.parent / "elsewhere")
    (moved / "lying").rename(moved / "zebra")
    (moved / "standing" / "000.png").rename(moved / "zebra" / "moved.png")
    done = run(moved, batch_size=1)
    assert (done.computed, done.rows) == (0, 16) and len(counted) == 16
    features, old = load_features(done.features_path), load_features(before.features_path)
    assert features.class_names == ["standing", "zebra"] and features.y.tolist() == [0] * 7 + [1] * 9
    rows = {content: row for row, content in enumerate(old.ids)}
    assert np.array_equal(features.stored(), old.stored([rows[content] for content in features.ids]))


def test_a_moved_cache_folder_still_hits(make_dataset: Make, run: Run, counted: list[int], tmp_path: Path) -> None:
    root = make_dataset()
    run(root, batch_size=1)
    (tmp_path / "cache").rename(tmp_path / "other")
    assert run(root, batch_size=1, cache_dir=tmp_path / "other").computed == 0 and len(counted) == 16


def test_a_replaced_picture_is_computed_even_if_size_and_time_are_the_same(
    make_dataset: Make, run: Run, settled: None
) -> None:
    root = make_dataset()
    for name in ("lying/003.bmp", "standing/003.bmp"):
        picture(2, len(name)).save(root / name)
    first = run(root)
    path, before = root / "lying" / "003.bmp", (root / "lying" / "003.bmp").stat()
    data = bytearray(path.read_bytes())
    data[-1000:] = bytes(1000)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    done = run(root)
    assert (done.computed, done.rows) == (1, 18) and done.features_path != first.features_path
    row = load_features(done.features_path).paths.tolist().index("lying/003.bmp")
    assert not np.array_equal(values(done)[row], values(first)[row])
    assert np.array_equal(np.delete(values(done), row, 0), np.delete(values(first), row, 0))


def test_a_change_within_the_clocks_tick_is_not_overlooked(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk whose times are coarse, a picture changed again right after it was read, and hours of extraction."""
    root = make_dataset(each=3)
    path = root / "lying" / "001.bmp"
    picture(2, 1).save(path)
    stamp = path.stat().st_mtime_ns

    def coarse(file: str) -> tuple[int, int, int]:
        return os.stat(file).st_size, os.stat(file).st_mtime_ns, os.stat(file).st_mtime_ns

    class Clock:
        """Ten seconds pass while the trunk runs."""

        ahead = 0
        perf_counter = staticmethod(time.perf_counter)

        @classmethod
        def time_ns(cls) -> int:
            return time.time_ns() + cls.ahead

    def hours_pass() -> None:
        Clock.ahead = 10 * 10**9

    monkeypatch.setattr(census_module, "_stat", coarse)
    monkeypatch.setattr(census_module, "time", Clock)
    on_call(monkeypatch, 1, hours_pass)
    run(root)
    picture(2, 2).save(path)
    os.utime(path, ns=(stamp, stamp))
    assert run(root).computed == 1


def test_a_removed_picture_costs_nothing(make_dataset: Make, run: Run) -> None:
    root = make_dataset()
    run(root)
    (root / "lying" / "003.png").unlink()
    done = run(root)
    assert (done.computed, done.rows, done.listed) == (0, 15, 15)
    assert "lying/003.png" not in load_features(done.features_path).paths.tolist()


def test_duplicates_are_computed_once(make_dataset: Make, run: Run, counted: list[int]) -> None:
    root = make_dataset(each=4)
    for number in range(3):
        shutil.copy(root / "lying" / "000.png", root / "standing" / f"copy{number}.png")
    done = run(root, batch_size=1)
    assert (done.rows, done.computed, done.reused) == (11, 8, 3) and len(counted) == 8
    features = load_features(done.features_path)
    copies = [row for row, path in enumerate(features.paths) if "copy" in path]
    assert all(np.array_equal(features[row], features[0]) for row in copies) and len(copies) == 3
    assert features.y[copies].tolist() == [1, 1, 1]


def test_a_label_file_and_the_folder_share_rows(
    make_dataset: Make, run: Run, counted: list[int], tmp_path: Path
) -> None:
    root = make_dataset()
    run(root, batch_size=1)
    lines = [f"stripes/lying/{n:03}.png\tx" for n in range(5)] + [f"stripes/standing/{n:03}.png\ty" for n in range(3)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    done = run(tmp_path / "list.txt", batch_size=1)
    assert (done.rows, done.computed) == (8, 0) and len(counted) == 16
    features = load_features(done.features_path)
    assert features.class_names == ["x", "y"] and features.y.tolist() == [0] * 5 + [1] * 3
    (tmp_path / "more.csv").write_text("path,label,split\nstripes/lying/000.png,x,test\nextra.png,y,train\n")
    picture(2, 5).save(tmp_path / "extra.png")
    done = run(tmp_path / "more.csv", batch_size=1)
    assert (done.rows, done.computed) == (2, 1)
    assert load_features(done.features_path).splits.tolist() == ["train", "test"]


# ------------------------------------------------------------------------------------------------------------ the spec


def own_backbone(path: Path, activation: str = "relu", side: int | None = 32, factor: float = 1.0) -> str:
    """The layers of ``tiny_backbone``, its weights times ``factor``; the side None leaves the size open."""
    from featx._internal.keras import load_keras

    keras = load_keras()
    pictures = keras.Input((side, side, 3))
    x = keras.layers.Conv2D(8, 5, strides=4, padding="same", activation=activation, name="edges")(pictures)
    x = keras.layers.MaxPooling2D(2, name="pool")(x)
    x = keras.layers.Conv2D(8, 1, activation=activation, name="last")(x)
    model = keras.Model(pictures, x)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(factor * rng.normal(0, 0.5, variable.shape))
    path.parent.mkdir(exist_ok=True)
    model.save(path)
    return str(path)


OTHER: dict[str, dict[str, Any]] = {
    "layer": {"layer": "pool"},
    "pooling": {"pooling": "avg"},
    "resize": {"resize": "crop"},
    "preprocess": {"preprocess": "tf"},
    "weights": {"weights": "random"},
    "dtype": {"dtype": "float32"},
}


@pytest.mark.parametrize("field", OTHER)
def test_another_setting_computes_all_and_is_named(
    make_dataset: Make, run: Run, counted: list[int], tiny_backbone: str, tmp_path: Path, field: str
) -> None:
    root = make_dataset(each=3)
    first = run(root, batch_size=1)
    usual = {"cache_dir": tmp_path / "cache", "backbone": tiny_backbone, "preprocess": "rescale"}
    planned = plan(root, **{**usual, **OTHER[field]})
    assert planned.would_compute == 6 and planned.would_reuse == 0
    (other,) = planned.other_specs
    assert other.features_path == first.features_path
    done = run(root, **{"batch_size": 1, **OTHER[field]})
    assert (done.computed, done.reused) == (6, 0) and len(counted) == 12
    assert f"{field} is {first.spec[field]}, not {done.spec[field]}" in other.differences
    assert done.features_path != first.features_path and done.spec[field] != first.spec[field]
    assert run(root, batch_size=1).computed == 0, "the first settings are still there"
    assert run(root, **{"batch_size": 1, **OTHER[field]}).computed == 0


def test_another_size_seed_or_weights_file_computes_all(make_dataset: Make, run: Run, tmp_path: Path) -> None:
    root = make_dataset(each=2)
    backbone = own_backbone(tmp_path / "own" / "open.keras", side=None)
    weights = own_backbone(tmp_path / "theirs" / "open.keras", side=None, factor=1.1)
    shapes = {size: run(root, backbone=backbone, size=size) for size in (32, 64)}
    assert [done.computed for done in shapes.values()] == [4, 4]
    assert shapes[32].shape == (4, 4, 4, 8) and shapes[64].shape == (4, 8, 8, 8)
    assert run(root, backbone=backbone, size=32, weights=weights).computed == 4
    assert [run(root, backbone=backbone, size=32, weights="random", random_state=s).computed for s in (0, 1, 0)] == [
        4,
        4,
        0,
    ]


def test_new_weights_under_the_same_file_name_compute_all(make_dataset: Make, run: Run, tmp_path: Path) -> None:
    root = make_dataset(each=2)
    backbone = own_backbone(tmp_path / "own" / "net.keras")
    first = run(root, backbone=backbone)
    own_backbone(tmp_path / "own" / "net.keras", factor=1.5)
    done = run(root, backbone=backbone)
    assert done.computed == 4 and not np.array_equal(values(done), values(first))


def test_another_architecture_with_the_same_weights_computes_all(make_dataset: Make, run: Run, tmp_path: Path) -> None:
    """The network edited (here its activations) and saved under the same name: other features, so another spec."""
    root = make_dataset(each=2)
    backbone = own_backbone(tmp_path / "own" / "net.keras")
    first = run(root, backbone=backbone)
    own_backbone(tmp_path / "own" / "net.keras", activation="tanh")
    done = run(root, backbone=backbone)
    assert done.computed == 4
    assert np.allclose(
        values(done), by_hand(backbone, root, load_features(done.features_path).paths), rtol=2e-3, atol=1e-3
    )
    assert not np.allclose(values(done), values(first), atol=0.1)


def test_a_moved_backbone_file_still_hits(make_dataset: Make, run: Run, tmp_path: Path) -> None:
    """It is known by its file's name, its weights and its cut, not by its folder."""
    root = make_dataset(each=2)
    backbone = own_backbone(tmp_path / "own" / "net.keras")
    run(root, backbone=backbone)
    (tmp_path / "own").rename(tmp_path / "moved")
    assert run(root, backbone=str(tmp_path / "moved" / "net.keras")).computed == 0


def test_a_spec_depends_on_no_earlier_model(make_dataset: Make, run: Run, tmp_path: Path) -> None:
    """Keras numbers models and layers through the whole process."""
    root = make_dataset(each=2)
    first = run(root)
    for number in range(2):
        own_backbone(tmp_path / "own" / f"{number}.keras")
        featx.extraction.recipe._build.cache_clear()
    shutil.rmtree(tmp_path / "cache")
    again = run(root)
    assert again.spec == first.spec and again.features_path == first.features_path


def test_explain_names_new_files_and_writes_no_features(
    make_dataset: Make, run: Run, tiny_backbone: str, tmp_path: Path
) -> None:
    usual = {"cache_dir": tmp_path / "cache", "backbone": tiny_backbone, "preprocess": "rescale"}
    root = make_dataset(each=2)
    planned = plan(root, **usual)
    assert planned.would_compute == 4 and planned.would_reuse == 0 and planned.other_specs == []
    assert CacheFolder(tmp_path / "cache").files() == [] and not list((tmp_path / "cache").glob("*.partial"))
    done = run(root)
    assert planned.features_path == done.features_path
    planned = plan(root, **usual)
    assert (planned.would_compute, planned.would_reuse, planned.new) == (0, 4, [])
    make_dataset(each=1, first=70)
    planned = plan(root, **usual)
    assert planned.new == ["lying/070.png", "standing/070.png"] and planned.would_reuse == 4
    assert run(root).computed == planned.would_compute == 2


# ---------------------------------------------------------------------------------------------------------- the values


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
        ({"dtype": "float64"}, SettingError, "unknown `dtype` 'float64'; did you mean 'float16'"),
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


# ------------------------------------------------------------------------------------------- bad pictures, large ones


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
    assert small.quarantine == [("lying/large.png", "20000 pixels are more than `max_pixels=5000`")]
    large = run(root, max_pixels=20_000)
    assert (large.rows, large.quarantined, large.computed) == (5, 0, 1)
    assert run(root, max_pixels=5000).quarantined == 0  # its features are there now


def test_fewer_pixels_allowed_later_leave_cached_pictures_in(make_dataset: Make, run: Run) -> None:
    root = make_dataset(each=2)
    picture(0, 5, (200, 100)).save(root / "lying" / "large.png")
    assert run(root).rows == 5
    done = run(root, max_pixels=5000)
    assert (done.rows, done.quarantined, done.computed) == (5, 0, 0)


# ------------------------------------------------------------------------------------------------ pictures that change


def test_a_picture_that_changes_meanwhile_is_quarantined(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset()
    last = root / "standing" / "007.png"
    with monkeypatch.context() as patch:
        on_call(patch, 1, lambda: picture(1, 77).save(last))
        done = run(root, batch_size=1)
    assert (done.listed, done.rows, done.quarantined) == (16, 15, 1)
    assert done.quarantine[0][0] == "standing/007.png" and "changed" in done.quarantine[0][1]
    again = run(root, batch_size=1)
    assert (again.rows, again.quarantined, again.computed) == (16, 0, 1)


def test_a_picture_that_vanishes_meanwhile_is_quarantined(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset()
    with monkeypatch.context() as patch:
        on_call(patch, 1, (root / "standing" / "007.png").unlink)
        done = run(root, batch_size=1)
    assert (done.listed, done.rows, done.quarantined) == (16, 15, 1)
    assert "no such file" in dict(done.quarantine)["standing/007.png"]
    again = run(root, batch_size=1)
    assert (again.listed, again.rows, again.quarantined, again.computed) == (15, 15, 0, 0)


@pytest.mark.parametrize("how", ["gone", "changed"])
def test_a_picture_that_comes_back_gets_in(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A network disk away for a moment says nothing about a picture's content; "run again" was the advice."""
    root = make_dataset()
    last = root / "standing" / "007.png"
    whole = last.read_bytes()
    with monkeypatch.context() as patch:
        on_call(patch, 1, last.unlink if how == "gone" else lambda: picture(1, 77).save(last))
        assert run(root, batch_size=1).quarantined == 1
    last.write_bytes(whole)
    again = run(root, batch_size=1)
    assert (again.rows, again.quarantined, again.computed) == (16, 0, 1)


def test_a_vanished_pictures_duplicate_gets_in(make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each content is computed once, from its first file; the others are as good."""
    root = make_dataset()
    shutil.copy(root / "standing" / "006.png", root / "standing" / "copy.png")
    on_call(monkeypatch, 1, (root / "standing" / "006.png").unlink)
    done = run(root, batch_size=1)
    assert [path for path, _ in done.quarantine] == ["standing/006.png"] and done.rows == 16
    assert "standing/copy.png" in load_features(done.features_path).paths.tolist()


def test_a_read_error_is_tried_again_by_the_next_run(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in the listing has changed between the two runs, only the disk's mood."""
    root = make_dataset(each=3)
    bad = root / "lying" / "001.png"
    real = pipeline_module.read_file

    def moody(path: Path) -> bytes:
        if path == bad:
            raise FileReadError("cannot be read: input/output error")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_module, "read_file", moody)  # hashed at first, then not readable
        first = run(root)
    assert first.quarantine == [("lying/001.png", "cannot be read: input/output error")]
    done = run(root)
    assert (done.rows, done.quarantined, done.computed) == (6, 0, 1)


# -------------------------------------------------------------------------------------------------------------- damage


def test_a_damaged_row_alone_is_computed_again(
    make_dataset: Make, run: Run, counted: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """openmc_data#33: a resume that tests existence, not integrity."""
    root = make_dataset()
    first = run(root, batch_size=1)
    whole = values(first)
    damage(first.features_path, 3)
    assert Features(first.features_path).damaged_rows() == [3]
    done = run(root, batch_size=1)
    assert (done.computed, done.rows) == (1, 16) and len(counted) == 17
    assert done.features_path == first.features_path and np.array_equal(values(done), whole)
    assert "1 rows are damaged and will be replaced" in caplog.text
    assert not list(Path(done.features_path).parent.glob("*.partial"))
    assert run(root, batch_size=1).computed == 0


def test_a_damaged_row_with_a_whole_duplicate_is_copied(make_dataset: Make, run: Run) -> None:
    root = make_dataset(each=3)
    shutil.copy(root / "lying" / "000.png", root / "standing" / "copy.png")
    first = run(root)
    whole = values(first)
    damage(first.features_path, 0)
    done = run(root)
    assert done.computed == 0 and np.array_equal(values(done), whole)


def test_a_damaged_row_is_not_copied_into_another_file(make_dataset: Make, run: Run) -> None:
    root = make_dataset(each=3)
    first = run(root)
    whole = values(first)
    damage(first.features_path, 2)
    (root / "standing" / "002.png").unlink()
    done = run(root)
    assert (done.rows, done.computed) == (5, 1) and np.array_equal(values(done), whole[:5])


def test_a_truncated_file_is_made_anew(
    make_dataset: Make, run: Run, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    root = make_dataset()
    first = run(root)
    whole, size = values(first), Path(first.features_path).stat().st_size
    for length in (0, 100, size // 2, size - 1):
        caplog.clear()
        os.truncate(first.features_path, length)
        done = run(root)
        assert (done.computed, done.rows) == (16, 16) and np.array_equal(values(done), whole)
        assert "extract again" in caplog.text and Path(first.features_path).name in caplog.text


def test_a_truncated_file_is_made_from_others(make_dataset: Make, run: Run, tmp_path: Path) -> None:
    root = make_dataset()
    first = run(root)
    whole = values(first)
    make_dataset(each=1, first=90)
    run(root)
    for name in ("lying/090.png", "standing/090.png"):
        (root / name).unlink()
    os.truncate(first.features_path, 1000)
    done = run(root)
    assert done.features_path == first.features_path and done.computed == 0 and np.array_equal(values(done), whole)


def test_a_damaged_block_is_not_reused(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = make_dataset()
    undisturbed = values(run(root, batch_size=1, cache_dir=tmp_path / "other"))
    partial = interrupt(run, root, 8, monkeypatch)
    blocks = sorted(partial.glob("block-*.h5"))
    assert len(blocks) == 4
    damage(blocks[1], 1)
    done = run(root, batch_size=1)
    assert done.computed == 8 + 1 and np.array_equal(values(done), undisturbed)


def test_a_truncated_block_is_warned_of_and_computed_again(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    root = make_dataset()
    undisturbed = values(run(root, batch_size=1, cache_dir=tmp_path / "other"))
    partial = interrupt(run, root, 8, monkeypatch)
    (block,) = partial.glob("block-*-00002.h5")
    os.truncate(block, 700)
    done = run(root, batch_size=1)
    assert done.computed == 8 + 2 and np.array_equal(values(done), undisturbed)
    assert block.name in caplog.text and not partial.exists()


def test_rows_moved_in_a_file_meanwhile_are_not_mixed_up(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tiny_backbone: str
) -> None:
    """Another process writes the source anew, in other order, between finding a row and copying it."""
    root = make_dataset(each=3)
    first = run(root)
    picture(0, 40).save(root / "lying" / "040.png")
    real = assembly_module.gather

    def late(*arguments: Any) -> Any:
        old = Features(first.features_path)
        if old.paths[0] == "lying/000.png":
            turned = {"ids": old.ids[::-1], "views": old.views, "paths": old.paths[::-1]}
            write_features(old.path, [old.stored()[::-1]], old.shape, spec=old.spec, tables=turned)
        return real(*arguments)

    monkeypatch.setattr(assembly_module, "gather", late)
    done = load_features(run(root).features_path)
    np.testing.assert_allclose(done.X(), by_hand(tiny_backbone, root, done.paths), rtol=2e-3, atol=1e-3)


def test_blocks_that_vanish_meanwhile_are_found_where_they_went(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Their extraction, in another process, has ended and tidied up."""
    root = make_dataset(each=4)
    interrupt(run, root, 5, monkeypatch)
    more = shutil.copytree(root, tmp_path / "more")
    picture(0, 40).save(more / "lying" / "040.png")
    real, seen = assembly_module.gather, []

    def late(*arguments: Any) -> Any:
        seen.append(1)
        if len(seen) == 1:
            run(root)
        return real(*arguments)

    monkeypatch.setattr(assembly_module, "gather", late)
    done = run(more)
    assert done.rows == 9 and len(seen) >= 3 and not list((tmp_path / "cache").glob("*.partial"))
    assert done.computed == 4, "the rest and the new one, once"
    assert Features(done.features_path).damaged_rows() == []


# ------------------------------------------------------------------------------------------------- interrupts and kills


def test_ctrl_c_keeps_finished_rows_and_says_so(
    make_dataset: Make, run: Run, counted: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = make_dataset()
    undisturbed = values(run(root, batch_size=1, cache_dir=tmp_path / "other"))

    def ctrl_c() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        on_call(patch, 7, ctrl_c)
        with pytest.raises(KeyboardInterrupt, match="6 of 16 pictures are kept in .*; run the same command again"):
            run(root, batch_size=1)
    assert CacheFolder(tmp_path / "cache").files() == []
    before = len(counted)
    assert before in (16 + 6, 16 + 7)  # the next one may have been under way
    done = run(root, batch_size=1)
    assert (done.computed, done.reused) == (10, 6) and len(counted) == before + 10
    assert np.array_equal(values(done), undisturbed)
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_blocks_of_an_interrupted_run_serve_another_listing(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset()
    interrupt(run, root, 6, monkeypatch)
    picture(0, 40).save(root / "lying" / "040.png")
    assert run(root, batch_size=1).computed == 16 - 6 + 1


FAKE = """
import dataclasses, json, os, signal, sys, time
import numpy as np
import featx.extraction.recipe, featx.extraction.run, featx.extraction.share
from featx.cache import Features

class Fake:
    '''A trunk without a network library: the picture's mean colours.'''
    info = featx.backbones.TrunkInfo(
        backbone="fake", weights="fake", layer="last", pooling="none", size=32, preprocess="none", precision="float32",
        engine="fake", feature_shape=(2, 2, 3), batch_size=32,
    )
    seconds = 0.0

    def __call__(self, images):
        time.sleep(self.seconds)
        return images.reshape(-1, 2, 16, 2, 16, 3).mean(axis=(2, 4), dtype=np.float32)

featx.extraction.recipe.Recipe.trunk = lambda self: Fake()
root, cache = sys.argv[1], sys.argv[2]

def extract(cache, **options):
    return featx.extract(root, cache_dir=cache, backbone="vgg16", **{"batch_size": 1, **options})
"""

# Every place where a process can die with another state on the disk: before and after each call of the trunk, each sync
# and each rename, and while the blocks are deleted. Each in a forked process; then an undisturbed one.
EVERY_INSTANT = """
featx.extraction.share.BLOCK_ROWS, featx.extraction.share.BLOCK_SECONDS = 4, 0

def forked(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]

def dying_at(moment):
    count = [0]
    def deadly(function):
        def call(*arguments, **options):
            for done in (False, True):
                count[0] += 1
                if count[0] == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                if not done:
                    result = function(*arguments, **options)
            return result
        return call
    Fake.__call__ = deadly(Fake.__call__)
    os.fsync, os.replace, os.unlink = deadly(os.fsync), deadly(os.replace), deadly(os.unlink)
    featx.cache.folder.remove = deadly(featx.cache.folder.remove)
    extract(f"{cache}/{moment}", batch_size=2)

def undisturbed(name, file):
    done = extract(f"{cache}/{name}", batch_size=2)
    features = Features(done.features_path)
    found = {"computed": done.computed, "listed": done.listed, "rows": done.rows,
             "paths": features.paths.tolist(), "X": features.X().tolist()}
    with open(file, "w") as out:
        json.dump(found, out)

def kept(name):
    '''Rows that lie in whole files.'''
    from featx.cache import CacheFolder
    return len({key for features in CacheFolder(f"{cache}/{name}").iter_features() for key in features.row_keys()})

def count_kept(name, file):
    with open(file, "w") as out:
        json.dump(kept(name), out)

os.makedirs(cache)
assert forked(lambda: undisturbed("reference", f"{cache}/reference.json")) == 0
for moment in range(1, 500):
    status = forked(lambda: dying_at(moment))
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    assert forked(lambda: count_kept(moment, f"{cache}/{moment}.kept")) == 0
    assert forked(lambda: undisturbed(moment, f"{cache}/{moment}.json")) == 0, moment
print(moment - 1)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder with, for each instant of being killed, the cache and what the next run said; and the instants."""
    folder = tmp_path_factory.mktemp("killed")
    for number in range(12):
        (folder / "data" / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        picture(number % 3, number).save(folder / "data" / f"class{number % 2}" / f"{number:02}.png")
    command = [sys.executable, "-c", FAKE + EVERY_INSTANT, folder / "data", folder / "caches"]
    environment = {**ENVIRONMENT, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "caches", int(done.stdout)


def test_killed_at_any_instant_and_run_again(killed: tuple[Path, int]) -> None:
    """The same features, and no row that lay in a whole block is computed again."""
    caches, instants = killed
    reference = json.loads((caches / "reference.json").read_text())
    assert instants >= 40 and reference["computed"] == 12
    computed = []
    for moment in range(1, instants + 1):
        done = json.loads((caches / f"{moment}.json").read_text())
        assert (done["listed"], done["rows"]) == (12, 12), moment
        assert (done["paths"], done["X"]) == (reference["paths"], reference["X"]), moment
        assert done["computed"] == 12 - json.loads((caches / f"{moment}.kept").read_text()), moment
        computed.append(done["computed"])
    assert set(computed) == {12, 8, 4, 0}
    # A block is written while the next is computed, so two runs may be one block apart at an instant, but no more
    later = [max(computed[moment:]) for moment in range(len(computed))]
    assert all(most - now <= 4 for now, most in zip(computed, later, strict=True))


def test_a_killed_run_leaves_no_litter(killed: tuple[Path, int]) -> None:
    """An unfinished feature file may be as large as the finished one; the next run must not leave it lying."""
    caches, instants = killed
    litter = {
        moment: left
        for moment in range(1, instants + 1)
        if (
            left := [p.name for p in (caches / str(moment)).rglob("*") if p.name.startswith(".") and p.name != ".locks"]
        )
    }
    assert litter == {}


def test_killed_in_the_middle_with_the_real_trunk(
    make_dataset: Make, run: Run, tiny_backbone: str, tmp_path: Path
) -> None:
    root = make_dataset(each=20)
    undisturbed = values(run(root, batch_size=1, cache_dir=tmp_path / "other"))

    def blocks() -> int:
        return len(list((tmp_path / "cache").glob("*.partial/block-*")))

    script = (
        "import sys, time\nimport featx\nimport featx.extraction.share\nfrom featx.backbones import KerasTrunk\n"
        "featx.extraction.share.BLOCK_ROWS, featx.extraction.share.BLOCK_SECONDS = 3, 0\n"
        "real, calls = KerasTrunk.__call__, []\n"
        "def held(self, images):\n    calls.append(1)\n    len(calls) > 8 and time.sleep(600)\n"
        "    return real(self, images)\nKerasTrunk.__call__ = held\n"
        "featx.extract(sys.argv[1], cache_dir=sys.argv[2], backbone=sys.argv[3], preprocess='rescale', "
        "batch_size=1)"
    )
    for kept in (2, 4):
        command = [sys.executable, "-c", script, root, tmp_path / "cache", tiny_backbone]
        with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
            try:
                until(lambda kept=kept: blocks() >= kept or process.poll() is not None)
            finally:
                process.kill()
        assert blocks() == kept
    done = run(root, batch_size=1)
    assert done.computed == 40 - 3 * kept and np.array_equal(values(done), undisturbed)


def test_an_interrupt_signal_ends_it_soon_and_keeps_rows(make_dataset: Make, tmp_path: Path) -> None:
    """The pictures from the sixth on would take half a minute; they are left for the next run."""
    root = make_dataset(each=20)
    body = (
        "real, calls = Fake.__call__, []\n"
        "def call(self, images):\n    calls.append(1)\n    print(len(calls), flush=True)\n"
        "    len(calls) > 5 and sys.argv[3] and time.sleep(1)\n    return real(self, images)\n"
        "Fake.__call__ = call\nprint('computed', extract(cache).computed)"
    )
    command = [sys.executable, "-c", FAKE + body, root, tmp_path / "cache"]
    with subprocess.Popen(
        [*command, "slow"], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and "6\n" in iter(process.stdout.readline, "")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode in (-signal.SIGINT, 130) and "run the same command again" in said
    again = subprocess.run([*command, ""], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert 0 < int(again.stdout.split()[-1]) <= 40 - 4


def test_two_extractions_at_once(make_dataset: Make, tmp_path: Path) -> None:
    """lhotse#112: the second waits for the first and finds its work done."""
    root = make_dataset(each=10)
    body = (
        "Fake.seconds = 0.03\n"
        "featx.extraction.share.BLOCK_ROWS, featx.extraction.share.BLOCK_SECONDS = 3, 0\ndone = extract(cache)\n"
        "print(json.dumps([done.features_path, done.computed, done.rows, done.quarantined]))"
    )
    command = [sys.executable, "-c", FAKE + body, root, tmp_path / "cache"]
    both = [subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert ends[0][0] == ends[1][0] and sorted(end[1] for end in ends) == [0, 20]
    assert all(end[2:] == [20, 0] for end in ends)
    features = Features(ends[0][0])
    assert len(features) == 20 and features.damaged_rows() == []
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_two_data_sets_at_once_in_one_folder(make_dataset: Make, tmp_path: Path) -> None:
    """Half of their pictures are the same; blocks of one may go while the other copies from them."""
    roots = [make_dataset(each=10), make_dataset(each=10, name="others", first=5)]
    body = (
        "Fake.seconds = 0.01\n"
        "featx.extraction.share.BLOCK_ROWS, featx.extraction.share.BLOCK_SECONDS = 1, 0\ndone = extract(cache)\n"
        "features = Features(done.features_path)\nprint(json.dumps([features.paths.tolist(), features.X().tolist()]))"
    )

    def start(root: Path, cache: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", FAKE + body, root, tmp_path / cache]
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)

    both = [start(root, "cache") for root in roots]
    together = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    alone = [json.loads(start(root, root.name).communicate(timeout=60)[0]) for root in roots]
    assert [len(paths) for paths, _ in together] == [20, 20] and together == alone
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_few_open_files_are_enough(make_dataset: Make, tmp_path: Path) -> None:
    """pytorch/vision#539: too many open files."""
    root = make_dataset(each=60)
    body = (
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))\n"
        "featx.extraction.share.BLOCK_ROWS, featx.extraction.share.BLOCK_SECONDS = 1, 0\nprint(extract(cache).computed)"
    )
    command = [sys.executable, "-c", FAKE + body, root, tmp_path / "cache"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout == "120\n", done.stderr[-600:]


# ------------------------------------------------------------------------------------------------------------- the disk


def test_a_disk_without_room_is_said_before_anything_is_computed(
    make_dataset: Make, run: Run, counted: list[int], small_disk: Path
) -> None:
    root = make_dataset()
    (small_disk / "other").write_bytes(bytes(2**20 - 8192))
    with pytest.raises(CacheError, match="no room .*`cache_dir`"):
        run(root, cache_dir=small_disk / "cache")
    assert counted == []


def test_a_disk_that_fills_up_keeps_finished_blocks(
    make_dataset: Make, run: Run, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, other = make_dataset(), small_disk / "other"
    monkeypatch.setattr(share_module, "BLOCK_ROWS", 2)
    monkeypatch.setattr(share_module, "BLOCK_SECONDS", 0)
    with monkeypatch.context() as patch:
        on_call(patch, 9, lambda: other.write_bytes(bytes(shutil.disk_usage(small_disk).free)))
        with pytest.raises(CacheError, match="no room .*kept"):
            run(root, cache_dir=small_disk / "cache", batch_size=1)
    other.unlink()
    done = run(root, cache_dir=small_disk / "cache", batch_size=1)
    assert done.rows == 16 and done.computed in (8, 10, 12), "two blocks may have been under way when it filled up"


def test_a_finished_extraction_can_be_used_from_a_read_only_disk(
    make_dataset: Make, run: Run, small_disk: Path
) -> None:
    root = make_dataset(each=2)
    first = run(root, cache_dir=small_disk / "cache")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True, capture_output=True)
    second = run(root, cache_dir=small_disk / "cache")
    assert second.computed == 0 and second.features_path == first.features_path
    picture(0, 30).save(root / "lying" / "new.png")
    with pytest.raises(CacheError, match="cannot be written"):
        run(root, cache_dir=small_disk / "cache")


# -------------------------------------------------------------------------------------------------- memory and threads


MEMORY = """
import resource
from featx._internal.hashing import content_id
root, cache, each = sys.argv[1], sys.argv[2], int(sys.argv[3])
Fake.info = dataclasses.replace(Fake.info, size=64, feature_shape=(32, 32, 64))  # 256 KiB a picture as float32
Fake.__call__ = lambda self, images: np.repeat(images[:, ::2, ::2, :1].astype(np.float32), 64, axis=3)
os.makedirs(root + "/a")
for number in range(each):
    Image.fromarray(np.full((8, 8, 3), [number % 256, number // 256, 0], np.uint8)).save(f"{root}/a/{number:05}.png")
done = extract(cache, batch_size=16, dtype="float32")
assert done.computed == each
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def _peak(tmp_path: Path, pictures: int) -> int:
    code = FAKE.replace("import numpy as np", "import numpy as np\nfrom PIL import Image") + MEMORY
    folder = tmp_path / str(pictures)
    done = subprocess.run(
        [sys.executable, "-c", code, folder / "pictures", folder / "cache", str(pictures)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    """keras#21642, thingsvision#74: features are never collected. 1,500 pictures make 375 MiB of them."""
    few, many = _peak(tmp_path, 300), _peak(tmp_path, 1500)
    assert many - few < 60 * 2**20  # mapped pages of the file included


def test_pictures_are_decoded_while_the_trunk_runs(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch ends only when a picture of the second has been decoded meanwhile."""
    later, decoded = threading.Event(), []
    real_load, real_call = share_module.load_file, KerasTrunk.__call__

    def load(path: Path, *arguments: Any) -> Any:
        image = real_load(path, *arguments)
        decoded.append(path)
        if len(decoded) > 4:
            later.set()
        return image

    def call(self: KerasTrunk, images: Any) -> Any:
        assert later.wait(20), "nothing was decoded while the trunk was at work"
        return real_call(self, images)

    monkeypatch.setattr(share_module, "load_file", load)
    monkeypatch.setattr(KerasTrunk, "__call__", call)
    assert run(make_dataset(each=4), batch_size=4).computed == 8


def test_no_more_pictures_are_decoded_ahead_than_fit_a_few_batches(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_load, real_call = share_module.load_file, KerasTrunk.__call__
    decoded, most = [0], [0]

    def load(*arguments: Any) -> Any:
        decoded[0] += 1
        return real_load(*arguments)

    def call(self: KerasTrunk, images: Any) -> Any:
        time.sleep(0.05)  # time to run ahead
        most[0] = max(most[0], decoded[0])
        decoded[0] -= len(images)
        return real_call(self, images)

    monkeypatch.setattr(share_module, "load_file", load)
    monkeypatch.setattr(KerasTrunk, "__call__", call)
    run(make_dataset(each=20), batch_size=2)
    assert most[0] <= 3 * 2 + 2 * len(os.sched_getaffinity(0))


def test_pictures_are_left_as_they_are(make_dataset: Make, run: Run) -> None:
    """keras#19026: bad pictures are skipped, not deleted."""
    root = make_dataset(each=3)
    (root / "lying" / "bad.png").write_bytes(b"bad")

    def state() -> dict[Path, Any]:
        return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*") if p.is_file()}

    before = state()
    run(root)
    assert state() == before


def test_mnist_just_works(tmp_path: Path) -> None:
    """Gray digits of 28 pixels, below what VGG16 takes: they are enlarged; only when told 28 is that an error."""
    for label in range(2):
        (tmp_path / "digits" / str(label)).mkdir(parents=True)
        for number in range(2):
            picture(label, number, (28, 28)).convert("L").save(tmp_path / "digits" / str(label) / f"{number}.png")
    settings = {"cache_dir": tmp_path / "cache", "backbone": "vgg16", "weights": "random", "pooling": "avg"}
    done = run_module.extract(tmp_path / "digits", batch_size=4, **settings)
    assert (done.rows, done.shape, done.spec["size"]) == (4, (4, 512), 224)
    with pytest.raises(SettingError, match="at least 32 x 32 pixels, got `size=28`"):
        run_module.extract(tmp_path / "digits", size=28, **settings)


def test_weights_that_change_meanwhile_never_get_into_the_cache(
    make_dataset: Make, run: Run, tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training job writes its file anew while the pictures are hashed."""
    root, file = make_dataset(each=2), tmp_path / "mine.keras"
    shutil.copy(tiny_backbone, file)
    from featx._internal.keras import load_keras

    other = load_keras().saving.load_model(tiny_backbone)
    other.set_weights([value + 1 for value in other.get_weights()])
    other.save(tmp_path / "other.keras")
    real = census_module.read_file

    def meanwhile(path: Path) -> bytes:
        shutil.copy(tmp_path / "other.keras", file)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(census_module, "read_file", meanwhile)
        with pytest.raises(ExtractionError, match="weights were changed while featx was running; run the same command"):
            run(root, backbone=str(file))
    done = run(root, backbone=str(file))
    images = np.stack([resize(decode((root / p).read_bytes()), 32) for p in load_features(done.features_path).paths])
    trunk = Recipe(backbone=str(tmp_path / "other.keras"), preprocess="rescale").trunk()
    np.testing.assert_allclose(load_features(done.features_path).X(), trunk(images), rtol=2e-3, atol=1e-3)


def test_an_interrupted_run_goes_on_without_reading_what_is_done(
    make_dataset: Make, run: Run, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset(each=8)
    interrupt(run, root, 8, monkeypatch)
    read: list[Path] = []
    real = census_module.read_file
    monkeypatch.setattr(census_module, "read_file", lambda path: (read.append(path), real(path))[1])
    assert run(root, batch_size=4).computed == 8
    assert len(read) == 8


def test_what_a_kill_in_the_last_instant_leaves_is_removed(make_dataset: Make, run: Run, tmp_path: Path) -> None:
    root = make_dataset(each=2)
    done = run(root)
    partial = Path(done.features_path).with_suffix(".partial")
    partial.mkdir()
    shutil.copy(done.features_path, partial / "block-00000.h5")
    assert run(root).computed == 0 and not partial.exists()


@pytest.mark.parametrize("edit", [{}, {"spec": 3}, {"spec": {}, "shape": 5, "engine": ""}, None, []])
def test_an_edited_memo_is_not_believed(make_dataset: Make, run: Run, tmp_path: Path, edit: Any) -> None:
    root = make_dataset(each=2)
    run(root)
    memo = tmp_path / "cache" / "trunks.json"
    memo.write_text(json.dumps(dict.fromkeys(json.loads(memo.read_text()), edit)))
    done = run(root)
    assert (done.rows, done.shape, done.spec["size"]) == (4, (4, 4, 4, 8), 32)


def test_a_memo_with_another_networks_spec_ends_in_an_error_not_in_the_cache(
    make_dataset: Make, run: Run, tmp_path: Path
) -> None:
    root = make_dataset(each=2)
    run(root)
    memo = tmp_path / "cache" / "trunks.json"
    memo.write_text(memo.read_text().replace('"weights": "', '"weights": "dead'))
    with pytest.raises(ExtractionError, match="run the same command again"):
        run(root)
    assert run(root).computed == 0


def test_explaining_writes_nothing(make_dataset: Make, tmp_path: Path, tiny_backbone: str, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True, capture_output=True)
    found = plan(make_dataset(each=2), cache_dir=small_disk, backbone=tiny_backbone, preprocess="rescale")
    assert found.would_compute == 4


def test_explaining_knows_of_damage(make_dataset: Make, run: Run, tmp_path: Path, tiny_backbone: str) -> None:
    done = run(make_dataset(each=2))
    damage(Path(done.features_path), 1)
    found = plan(tmp_path / "stripes", cache_dir=tmp_path / "cache", backbone=tiny_backbone, preprocess="rescale")
    assert (found.would_compute, found.would_reuse) == (1, 3)


def test_memory_that_runs_out_is_no_property_of_a_picture(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run has more of it; the picture is not remembered as damaged."""
    root = make_dataset(each=2)
    real, calls = pipeline_module.decode, itertools.count()

    def short(*arguments: Any) -> Any:
        if next(calls) == 1:
            raise FileReadError("there was not enough memory to decode it; run again")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_module, "decode", short)
        assert run(root).quarantined == 1
    assert (run(root).rows, run(root).quarantined) == (4, 0)


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


# ------------------------------------------------------------------------------------------------------ real pictures


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


# ---------------------------------------------------------------------------------------- where time and memory go


@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time that passes only when told."""
    now, lock = [0.0], threading.Lock()

    def tick(seconds: float) -> None:
        with lock:
            now[0] += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return tick


def test_the_profile_says_where_the_time_went(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tick: Callable[[float], None]
) -> None:
    on_call(monkeypatch, 1, lambda: tick(3.0))
    root = make_dataset(each=10)
    found = run(root, batch_size=20).profile
    others = ("list", "read", "decode", "resize", "waiting", "assemble")
    assert found.pop("write") >= 0, "blocks are timed by another clock"
    assert found == {"trunk": 3.0, **dict.fromkeys(others, 0.0)}
    again = run(root).profile
    assert set(again) == {"list"}, "nothing else was done"


def test_waiting_is_what_the_trunk_does_when_pictures_are_slow(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tick: Callable[[float], None]
) -> None:
    real = pipeline_module.decode
    monkeypatch.setattr(pipeline_module, "decode", lambda *arguments: (tick(0.125), real(*arguments))[1])
    found = run(make_dataset(each=10), batch_size=20).profile
    assert found["decode"] >= 20 * 0.125, "by all threads together"
    assert (found["waiting"], found["trunk"]) == (20 * 0.125, 0.0)


@pytest.mark.parametrize("said", ["RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes", "OOM"])
@pytest.mark.parametrize("fits", [1, 3, 4])
def test_a_full_device_gets_smaller_batches(
    make_dataset: Make,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fits: int,
    said: str,
) -> None:
    class ResourceExhaustedError(Exception):
        pass

    root = make_dataset(each=7)
    expected = values(run(root, batch_size=10, cache_dir=root.parent / "other"))
    real, sizes = KerasTrunk.__call__, []

    def call(self: KerasTrunk, images: Any) -> Any:
        sizes.append(len(images))
        if len(images) > fits:
            raise ResourceExhaustedError(said)
        return real(self, images)

    monkeypatch.setattr(KerasTrunk, "__call__", call)
    done = run(root, batch_size=10)
    np.testing.assert_allclose(values(done), expected, rtol=1e-3)
    halves = [10, 5, 3, 2, 1]
    assert set(sizes) == set(halves[: next(n for n, size in enumerate(halves) if size <= fits) + 1])
    assert sizes.count(10) == 1 and "the device has not memory enough for the batch" in caplog.text


def test_any_other_error_of_the_trunk_comes_out(make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: KerasTrunk, images: Any) -> Any:
        raise RuntimeError("bug")

    monkeypatch.setattr(KerasTrunk, "__call__", fails)
    with pytest.raises(RuntimeError, match="bug"):
        run(make_dataset(each=3))


def test_the_batch_size_is_the_trunks_if_none_is_given(make_dataset: Make, run: Run, counted: list[int]) -> None:
    run(make_dataset(each=20), batch_size=None)
    assert counted == [32, 32]


def test_files_too_fresh_at_first_are_noted_by_the_next_run(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that had just been written is read again by the next run, but not by every one after that."""
    root = make_dataset(each=3)
    run(root)
    read: list[Path] = []
    real = census_module.read_file
    monkeypatch.setattr(census_module, "read_file", lambda path: (read.append(path), real(path))[1])
    monkeypatch.setattr(census_module, "RACY_NS", 0)
    assert run(root).computed == 0 and len(read) == 6
    assert run(root).computed == 0 and len(read) == 6
    (root / "lying" / "000.png").write_bytes((root / "standing" / "000.png").read_bytes())
    assert run(root).reused == 6 and len(read) == 7, "what has changed is read"
    assert load_features(run(root).features_path).ids[0] == load_features(run(root).features_path).ids[3]


@pytest.mark.parametrize("edit", ['{"digest": "0"}', "[" * 100_000, '{"stat": 5}', "other"])
def test_an_edited_note_of_files_is_not_believed(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, edit: str
) -> None:
    root = make_dataset(each=3)
    run(root)
    monkeypatch.setattr(census_module, "RACY_NS", 0)
    run(root)
    (memo,) = (tmp_path / "cache").glob("stat-*.json")
    first, second = load_features(run(root).features_path).ids[:2]
    memo.write_text(memo.read_text().replace(str(first), str(second)) if edit == "other" else edit)
    assert load_features(run(root).features_path).ids.tolist()[:2] == [first, second]


def test_a_draft_is_another_spec(make_dataset: Make, run: Run) -> None:
    root = make_dataset(each=3)
    assert run(root).computed == 6 == run(root, draft=True).computed
    assert run(root, draft=True).computed == 0 == run(root).computed
    assert run(root, draft=True).spec["decoder"] == "pillow-rgb-1-draft-1"


def test_large_jpegs_are_drafted_for_extraction_and_for_prediction(tmp_path: Path, run: Run) -> None:
    for number in range(8):
        (tmp_path / "photos" / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        picture(number % 2, number, (400, 300)).save(
            tmp_path / "photos" / f"{number % 2}" / f"{number}.jpg", quality=95
        )
    full, draft = (run(tmp_path / "photos", draft=d, dtype="float32") for d in (False, True))
    assert not np.array_equal(values(full), values(draft))
    features = load_features(draft.features_path)
    classifier = featx.fit(features, "logreg", input="flat", validation=0)
    assert classifier.recipe.draft and classifier.doctor(features).ok
