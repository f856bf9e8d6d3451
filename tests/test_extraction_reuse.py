"""What an extraction computes, and what it finds again: pictures, settings and weights that change."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from shared_extraction import ENVIRONMENT, Make, Run, add_bad_pictures, by_hand, on_call, values

import featx
from featx.cache import CacheFolder, load_features
from featx.errors import FileReadError
from featx.extraction import census as census_module
from featx.extraction import pipeline as pipeline_module
from featx.extraction import plan

pytest_plugins = ["shared_extraction"]


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


# ------------------------------------------------------------------------------------------------------------- the spec


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
        featx.clear_memory()
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


# ------------------------------------------------------------------------------------------------- pictures that change


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
