"""Looking at data sets: what is planted is found, and what is odd does no harm."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from PIL import Image
from typer.testing import CliRunner

import featx
from featx.cache import write_features
from featx.cli import app
from featx.errors import CacheError, DatasetError, SettingError
from featx.inspection.contents import Contents
from featx.inspection.label_list import ListCounts, write_list
from featx.inspection.likeness import linked_groups, modified_z, nearest, similar_pairs
from featx.inspection.sizes import SizeBin, sizes_of
from featx.inspection.survey import from_png_text
from featx.inspection.suspects import out_of_fold_probabilities, suggest_classes
from featx.pictures import Picture
from featx.reporting import write_inspection

ROOT = Path(featx.__file__).parents[1]


def run(*words: Any, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["inspect", *map(str, words)])
    assert result.exit_code == code, result.output
    return result


def answer(*words: Any, code: int = 0) -> Any:
    return json.loads(run(*words, "--json", code=code).stdout)


def silent(_stage: str, _done: int, _total: int) -> None:
    pass


def feature_file(path: Path, X: np.ndarray, pictures: list[Picture], root: str, **more: Any) -> Path:
    """Rows as an extraction would have written them; the content id of a row is its number, unless given."""
    names = sorted({p.label for p in pictures if p.label is not None})
    tables: dict[str, Any] = {
        "ids": [f"{number:032x}" for number in range(len(X))],
        "views": [0] * len(X),
        "labels": [-1 if p.label is None else names.index(p.label) for p in pictures],
        "paths": [p.path for p in pictures],
        "splits": [p.split for p in pictures],
        "quarantine": [],
        "stat": [],
        **more,
    }
    attributes = {"class_names": names, "dataset": "made", "root": root}
    spec = {"backbone": "none", "dtype": str(X.dtype)}
    write_features(path, [X], X.shape, spec=spec, tables=tables, attributes=attributes)
    return path


@pytest.fixture
def own(tiny_backbone: str, tmp_path: Path) -> dict[str, Any]:
    return {"backbone": tiny_backbone, "preprocess": "rescale", "cache_dir": tmp_path / "cache"}


# ------------------------------------------------------------------------------------------------ planted in real data


@pytest.fixture(scope="module")
def flowers(shared: Path, real_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The flowers with 5 pictures of train copied to test, 3 files that are no pictures and 2 near-duplicates."""
    folder = tmp_path_factory.mktemp("planted")
    root = folder / "flowers"
    shutil.copytree(shared / "data" / "flowers", root)
    train = sorted((root / "train").rglob("*.jpg"))
    for path in train[::140][:5]:
        shutil.copyfile(path, root / "test" / path.parent.name / f"copy-{path.name}")
    (root / "train/roses/empty.jpg").write_bytes(b"")
    (root / "train/tulips/page.jpg").write_text("<html>not found</html>")
    (root / "train/daisy/half.jpg").write_bytes(train[0].read_bytes()[:3000])
    for path, quality in ((train[50], 60), (train[300], 80)):
        Image.open(path).save(root / "test" / path.parent.name / f"again-{path.name}", quality=quality)
    weights = str(real_weights)
    featx.extract(root, backbone="mobilenetv2", weights=weights, pooling="avg", cache_dir=folder / "cache")
    return root


@pytest.mark.stress
def test_what_is_planted_among_flowers_is_found(flowers: Path) -> None:
    cache = flowers.parent / "cache"
    found = featx.inspect(flowers, cache_dir=cache)
    assert (found.listed, found.readable, found.compared, found.notes) == (810, 807, 807, [])
    reasons = {bad.path: bad.reason for bad in found.quarantined}
    assert set(reasons) == {"train/daisy/half.jpg", "train/roses/empty.jpg", "train/tulips/page.jpg"}
    assert "empty" in reasons["train/roses/empty.jpg"] and "not a picture" in reasons["train/tulips/page.jpg"]
    assert reasons["train/daisy/half.jpg"].startswith("damaged")
    assert len(found.duplicates) == 5 and all(group.splits_differ for group in found.duplicates)
    assert all(Path(g.pictures[0].path).name.startswith("copy-") for g in found.duplicates)
    exact = [pair for pair in found.leaks if pair.exact]
    near = {pair.first.path for pair in found.leaks if not pair.exact}
    planted = {p.relative_to(flowers).as_posix() for p in flowers.rglob("again-*")}
    assert len(exact) == 5 and len(planted) == 2 and planted <= near and len(near) <= 6
    assert len(found.near_duplicates) < 12  # five scenes were taken twice by the photographers themselves
    listed = write_list(found, flowers / "clean.csv")
    assert (listed.copies, listed.leaks, listed.suspects) == (5, len(near), 0)
    weights = featx.load_features(found.features_path).recipe["weights"]
    done = featx.extract(flowers / "clean.csv", backbone="mobilenetv2", weights=weights, pooling="avg", cache_dir=cache)
    assert (done.rows, done.quarantined, done.computed) == (listed.written, 0, 0)
    clean = featx.inspect(flowers / "clean.csv", cache_dir=cache)
    assert (clean.quarantined, clean.duplicates, clean.leaks) == ([], [], [])
    assert (clean.counts["daisy"]["test"], clean.features_path) == (found.counts["daisy"]["test"], done.features_path)


@pytest.mark.stress
def test_swapped_labels_among_flowers_are_suspects(flowers: Path) -> None:
    """At least 7 of 10 on average; of 16 other draws 13 had 7 or more, three 4 or 5."""
    lines = [(p.relative_to(flowers).as_posix(), p.parent.name) for p in sorted(flowers.rglob("[0-9]*.jpg"))]
    names = sorted({label for _, label in lines})
    hits, right = [], 0
    for seed in range(3):
        rng = random.Random(seed)
        swapped = dict(rng.sample([line for line in lines if line[0].startswith("train")], 10))
        wrong = {path: rng.choice([n for n in names if n != label]) for path, label in swapped.items()}
        text = "".join(f"{path},{wrong.get(path, label)},{path.split('/')[0]}\n" for path, label in lines)
        (flowers / f"swapped-{seed}.csv").write_text("path,label,split\n" + text)
        found = featx.inspect(flowers / f"swapped-{seed}.csv", cache_dir=flowers.parent / "cache")
        first = [s for s in found.suspects[:30] if s.path in wrong]
        hits.append(len(first))
        right += sum(s.suggested == swapped[s.path] for s in first)
    assert sum(hits) >= 21 and min(hits) >= 6, hits
    assert right >= 0.8 * sum(hits)


# -------------------------------------------------------------------------------------------------- one picture by one


def test_everything_by_itself(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    root = make_dataset(each=4, split="train")
    make_dataset(each=2, split="test", first=50)
    picture(0, 7, (300, 20)).save(root / "train/lying/wide.jpg")
    picture(1, 8, (10, 200)).save(root / "train/standing/tall.dat", "GIF")
    (root / "train/lying/bad.png").write_bytes(b"\x89PNG\r\n")
    picture(0, 9).save(root / "train/beside.png")
    (root / "train/empty").mkdir()
    (root / "notes.txt").write_text("notes")
    calls: list[tuple[str, int, int]] = []
    found = featx.inspect(root, cache_dir=tmp_path / "none", progress=lambda *step: calls.append(step))
    assert (found.listed, found.readable, found.gone, found.ignored) == (16, 14, 0, 1)
    assert found.counts == {"lying": {"test": 2, "train": 5}, "standing": {"test": 2, "train": 5}}
    assert (found.imbalance, found.formats) == (1.0, {"PNG": 12, "JPEG": 1, "GIF": 1})
    assert found.empty_classes == ["train/empty"]
    assert {q.path: q.reason for q in found.quarantined}["train/beside.png"].startswith("lies beside")
    assert found.sizes is not None
    assert (found.sizes.widest.path, found.sizes.widest.width) == ("train/lying/wide.jpg", 300)
    assert (found.sizes.tallest.path, found.sizes.tallest.height) == ("train/standing/tall.dat", 200)
    assert (found.sizes.median.width, found.sizes.median.height) == (40, 30)
    assert found.features_path is None and found.suspects == [] and "featx extract" in found.notes[0]
    assert calls[-1] == ("looking at the pictures", 15, 15)
    assert not (tmp_path / "none").exists()


def test_mean_images_are_means(tmp_path: Path) -> None:
    for name, value in (("a/1", 10), ("a/2", 21), ("b/1", 200)):
        path = tmp_path / "data" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 30), (value, 0, 255)).save(path)
    found = featx.inspect(tmp_path / "data", cache_dir=tmp_path / "cache")
    means = found.mean_images()
    assert list(means) == ["a", "b"] and means["a"].shape == (64, 64, 3) and means["a"].dtype == np.uint8
    assert np.unique(means["a"][..., 0]).tolist() == [16]  # 15.5, to the even one
    assert np.unique(from_png_text(found.mean_image_of_all).reshape(-1, 3), axis=0).tolist() == [[77, 0, 255]]
    assert json.loads(json.dumps(asdict(found)))["mean_image"]["b"] == found.mean_image["b"]


def test_sizes_are_those_of_upright_pictures(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("jpg", "png"):  # a draft of one, the pixels themselves of the other
        (tmp_path / suffix).mkdir()
        Image.new("RGB", (1001, 300)).save(tmp_path / suffix / f"lying.{suffix}", exif=exif)
    sizes = featx.inspect(tmp_path, cache_dir=tmp_path / "cache").sizes
    assert sizes is not None
    assert {(s.width, s.height) for s in (sizes.smallest, sizes.largest)} == {(300, 1001)}


def test_histogram_is_by_powers_of_two() -> None:
    sizes = sizes_of(list("abcd"), [(64, 1), (2, 127), (128, 128), (600, 1)])
    assert sizes is not None
    assert sizes.histogram == [SizeBin(64, 128, 2), SizeBin(128, 256, 1), SizeBin(256, 512, 0), SizeBin(512, 1024, 1)]
    assert sizes_of([], []) is None


# ------------------------------------------------------------------------------------------------------------- copies


def test_copies_are_grouped_and_test_is_kept() -> None:
    pictures = [
        Picture("a", "x", "train"), Picture("b", "y", "train"), Picture("c", "x", "test"), Picture("d", "x", ""),
        Picture("e", "x", "train"), Picture("f", None, ""), Picture("g", "x", "validation"),
    ]  # fmt: skip
    ids = {"a": "1", "b": "1", "c": "1", "d": "2", "e": "2", "f": "2", "g": "3"}
    contents = Contents(pictures, ids)
    first, second = contents.duplicates()
    assert [p.path for p in first.pictures] == ["c", "a", "b"] and first.labels_differ and first.splits_differ
    assert [p.path for p in second.pictures] == ["d", "e", "f"]  # no split trains, no label disputes nothing
    assert not second.labels_differ and not second.splits_differ
    assert [(pair.first.path, pair.second.path) for pair in contents.leaks()] == [("c", "a"), ("c", "b")]


# ------------------------------------------------------------------------------------------------- features, by numbers


def test_neighbours_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featx.inspection.likeness.QUERIES", 7)
    X = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    X[30:] = X[3]  # more equal rows than neighbours
    cosines, numbers = nearest(X, 4, silent)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    whole = unit @ unit.T
    np.fill_diagonal(whole, -2)
    assert not (numbers == np.arange(40)[:, None]).any()
    np.testing.assert_allclose(cosines, -np.sort(-whole, axis=1)[:, :4], atol=1e-6)
    np.testing.assert_allclose(cosines, np.take_along_axis(whole, numbers, axis=1), atol=1e-6)
    assert nearest(X[:2], 10, silent)[0].shape == (2, 1)


def test_pairs_and_groups() -> None:
    cosines = np.array([[0.95, 0.5], [0.95, 0.92], [0.92, 0.5], [0.3, 0.2]])
    numbers = np.array([[1, 3], [0, 2], [1, 0], [0, 1]])
    pairs, found = similar_pairs(cosines, numbers, 0.92)
    assert pairs.tolist() == [[0, 1], [1, 2]] and found.tolist() == [0.95, 0.92]
    assert linked_groups(4, pairs).tolist() == [0, 0, 0, 1]
    assert len(set(linked_groups(3, np.empty((0, 2), np.int64)))) == 3


def test_modified_z_by_hand() -> None:
    assert modified_z(np.array([1.0, 2, 3, 4, 100])).tolist() == pytest.approx([-1.349, -0.6745, 0, 0.6745, 65.4265])
    assert modified_z(np.ones(5)).tolist() == [0] * 5


def test_thresholds_by_hand() -> None:
    p = np.array([[0.9, 0.1, 0], [0.5, 0.4, 0.1], [0.2, 0.8, 0], [0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.71, 0.65, 0.0]])
    y = np.array([0, 0, 1, 1, 1, 1], np.int32)
    thresholds, likely = suggest_classes(p, y)
    assert thresholds.tolist() == pytest.approx([0.7, 0.5625, np.inf])  # (0.9 + 0.5) / 2, (0.8 + 0.2 + 0.6 + 0.65) / 4
    assert likely.tolist() == [0, 0, 1, 0, 1, 0]  # row 1 reaches nothing, row 3 equals; in row 5 the larger counts


def test_a_copy_does_not_vouch_for_its_copy() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(0, 0.1, (60, 4)).astype(np.float32)
    y = np.repeat([0, 1], 30).astype(np.int32)
    X[:30, 0] += 1
    X[29] = X[28] = X[59]  # looks like class 1, labelled 0 twice
    place, groups = np.arange(60), np.arange(60)
    groups[29] = 28
    p, judged = out_of_fold_probabilities(X, place, y, groups, 0, silent)
    assert judged.all() and p[28, 1] > p[28, 0] and p[29, 1] > p[29, 0]
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)


# --------------------------------------------------------------------------------------------------- features, of files


def blobs(n: int = 40, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, list[Picture]]:
    """Maps 2 x 2 x 8 of well separated classes, and where they would come from."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    X = rng.normal(0, 1, (n, 2, 2, 8))
    X[np.arange(n), :, :, labels] += 4
    return X.astype(np.float16), [Picture(f"{k}/{i:03}.png", f"class {k}", "train") for i, k in enumerate(labels)]


def test_a_feature_file_whose_pictures_are_gone(tmp_path: Path) -> None:
    X, pictures = blobs()
    X[4] = X[2] * np.float16(1.01)
    pictures[4] = Picture("test/4.png", "class 0", "test")
    pictures[7] = Picture(pictures[7].path, "class 0", "train")
    X[7, :, :, 1] += 4  # sure to be of class 1, more than most
    file = feature_file(
        tmp_path / "f.h5", X, pictures, str(tmp_path / "nowhere"),
        quarantine=[("0/bad.png", "f" * 32, "the file is empty")], stat=[("0/bad.png", "f" * 32, 0, 1, 2)],
    )  # fmt: skip
    found = featx.inspect(file, similarity=0.99)
    assert (found.listed, found.readable, found.gone, len(found.quarantined)) == (41, 0, 40, 1)
    assert found.compared == 40 and found.sizes is None and found.mean_image_of_all == ""
    assert found.suspects[0].path == pictures[7].path and found.suspects[0].suggested == "class 1"
    (leak,) = found.leaks
    assert (leak.first.path, leak.second.path, leak.exact) == ("test/4.png", pictures[2].path, False)
    again = featx.inspect(featx.load_features(file), similarity=0.99)
    assert replace(again, seconds=0) == replace(found, seconds=0)
    text = run(file, "--similarity", 0.99).stdout
    assert text.startswith("'made': 41 listed = 0 readable + 1 quarantined + 40 gone\n\nleaks: pictures of one split")
    with pytest.raises(DatasetError, match="would list nothing"):
        (tmp_path / "nowhere").mkdir()
        write_list(found, tmp_path / "nowhere" / "list.csv")


def test_only_pictures_themselves_are_compared(tmp_path: Path) -> None:
    X, pictures = blobs(20)
    ids = [f"{number:032x}" for number in range(20)] * 2
    file = feature_file(
        tmp_path / "f.h5", np.concatenate([X, X]), [*pictures, *pictures], str(tmp_path), ids=ids,
        views=[0] * 20 + [1] * 20,
    )  # fmt: skip
    found = featx.inspect(file, similarity=0.999)
    assert (found.listed, found.compared, found.near_duplicates, found.duplicates) == (20, 20, [], [])


def test_outliers_are_far_from_all(tmp_path: Path) -> None:
    X, pictures = blobs(60)
    X[11] = -X[11]
    found = featx.inspect(feature_file(tmp_path / "f.h5", X, pictures, str(tmp_path)))
    assert found.outliers[0].path == pictures[11].path and found.outliers[0].score > 3.5


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([None] * 12, "takes two classes"),
        (["a"] * 12, "takes two classes"),
        (["a"] * 6 + ["b"] * 5 + ["c"], "not judged, none has two different pictures: c"),
        (["a"] * 6 + ["b"] * 4 + ["c"] * 2, ""),
        (["a", "b"], "not judged"),
        (["a"], "no two different pictures"),
    ],
)
def test_few_labels_are_said_or_work(labels: list[str | None], said: str, tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(len(labels), 6)).astype(np.float32)
    for row, label in enumerate(labels):
        X[row, "abc".index(label) if label else 0] += 9
    pictures = [Picture(f"{n}.png", label) for n, label in enumerate(labels)]
    found = featx.inspect(feature_file(tmp_path / "f.h5", X, pictures, str(tmp_path)), similarity=0.9999)
    assert said in " ".join(found.notes) and (said or not found.notes)
    if not said:
        assert set(found.thresholds) == {"a", "b", "c"} and found.suspects == []
    run(tmp_path / "f.h5")


def test_a_limit_too_low_for_the_network_is_said(tmp_path: Path) -> None:
    X, pictures = blobs()
    found = featx.inspect(feature_file(tmp_path / "f.h5", X + np.float16(30), pictures, str(tmp_path)))
    assert "40 of 40 pictures have a near-duplicate" in found.notes[0] and "higher similarity" in found.notes[0]


def test_pixels_and_blocks_are_refused(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    pixels = featx.extract(make_dataset(), backbone="pixels", size=32, cache_dir=cache).features_path
    with pytest.raises(CacheError, match="holds pixels, not features"):
        featx.inspect(pixels)
    assert featx.inspect(make_dataset(), cache_dir=cache).features_path is None
    block = tmp_path / "block.h5"
    spec = {"backbone": "none", "dtype": "float32"}
    X = np.ones((2, 3), np.float32)
    write_features(block, [X], X.shape, spec=spec, tables={"ids": ["a", "b"], "views": [0, 0]})
    with pytest.raises(CacheError, match="unfinished extraction"):
        featx.inspect(block)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("similarity", 0, "must be above 0 and at most 1, got 0"),
        ("similarity", 1.5, "must be above 0 and at most 1, got 1.5"),
        ("n_neighbors", 0, "must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range(setting: str, value: float, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError) as caught:
        featx.inspect(tmp_path, **{setting: value})
    assert (str(caught.value), caught.value.setting) == (f"`{setting}` {said}", setting)


MEMORY = """
import resource, sys
import numpy as np
import featx.inspection.likeness as likeness
from sklearn.neighbors import NearestNeighbors
X = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)
likeness.nearest(X[:100], 10, lambda *step: None)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
cosines, numbers = likeness.nearest(X, 10, lambda *step: None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_no_matrix_of_all_pairs() -> None:
    """20,000 rows: one would take 1.6 GB in float32."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, env=environment, check=True)
    assert int(done.stdout) * resource.getpagesize() / 4096 < 200_000  # kilobytes


# --------------------------------------------------------------------------------------- from extraction to the command


def test_the_newest_feature_file_is_used_and_labels_are_those_of_now(
    make_dataset: Callable[..., Path], own: dict[str, Any]
) -> None:
    root = make_dataset(each=12)
    featx.extract(root, **own)
    newest = featx.extract(root, pooling="max", **own)
    shutil.move(root / "lying/003.png", root / "standing/moved.png")
    make_dataset(each=1, first=90)
    found = featx.inspect(root, cache_dir=own["cache_dir"], similarity=0.99999)
    assert (found.features_path, found.compared) == (newest.features_path, 24)
    assert "2 pictures have no features" in found.notes[0]
    assert found.counts == {"lying": {"none": 12}, "standing": {"none": 14}}
    assert "standing/moved.png" in {s.path for s in found.suspects}


HOSTILE = [
    "<script>.png",
    "quo'te\".png",
    "two\nlines.png",
    "esc\x1b[31m.png",
    "a,b.png",
    " edge .png",
]


def test_hostile_names(own: dict[str, Any], tmp_path: Path) -> None:
    root = tmp_path / "data"
    for kind, folder in enumerate(["<b>bold", "two\nlines"]):
        (root / folder).mkdir(parents=True)
        for number, name in enumerate(HOSTILE):
            picture(kind, number).save(root / folder / name)
            (root / folder / f"bad {name}").write_bytes(b"nothing")
            picture(2, number).save(root / folder / f"twice {name}")
    featx.extract(root, **own)
    words = (root, "--cache-dir", own["cache_dir"], "--quiet")
    found = answer(*words)
    assert len(found["quarantined"]) == 12 and len(found["duplicates"]) == 6
    assert {Path(q["path"]).name for q in found["quarantined"]} == {f"bad {name}" for name in HOSTILE}
    text = run(*words).stdout
    assert "\x1b" not in text and "two\\nlines" in text and "<script>" in text
    assert all(line.isprintable() for line in text.split("\n"))
    listed = answer(*words, "--write-list", root / "list.csv")["list"]
    assert listed["unwritable"] == 0 and listed["copies"] == 6 and listed["written"] == 18
    done = featx.extract(root / "list.csv", **own)
    assert (done.rows, done.quarantined, done.computed) == (18, 0, 0)


def test_the_list(make_dataset: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = make_dataset(each=3, split="train")
    make_dataset(each=2, split="test", first=50)
    shutil.copyfile(root / "test/lying/050.png", root / "train/lying/copy.png")
    shutil.copyfile(root / "train/standing/000.png", root / "train/standing/again.png")
    (root / "train/lying/bad.png").write_bytes(b"")
    picture(0, 70).save(root / "train/lying/edge.png ", "PNG")
    result = run("stripes", "--write-list", "above.csv")
    assert result.stdout.endswith(
        "above.csv: 10 pictures; of those that can be read, left out: 2 copies, 1 unwritable\n"
    )
    rows = list(csv.reader(io.StringIO(Path("above.csv").read_text())))
    assert rows[0] == ["path", "label", "split"] and ["stripes/test/lying/050.png", "lying", "test"] in rows
    names = {row[0] for row in rows}
    assert not {"stripes/train/lying/copy.png", "stripes/train/standing/again.png"} & names
    listing = featx.list_dataset("above.csv")
    assert len(listing.pictures) == 10 and not listing.misplaced
    for place, said in (
        ("above.csv", "above.csv exists and is not overwritten"),
        ("list.txt", "list.txt: the list is a CSV file"),
        ("stripes/train/list.csv", "lies in its data set's folder or above it"),
        ("nowhere/list.csv", "lies in its data set's folder or above it"),
    ):
        assert said in answer("stripes", "--write-list", place, code=1)["error"]
    assert not Path("nowhere").exists()


def test_suspects_leave_the_list_only_when_asked_and_never_test(tmp_path: Path) -> None:
    X, pictures = blobs(40)
    pictures[1] = Picture("1/001.png", "class 0", "train")
    pictures[2] = Picture("0/002.png", "class 1", "test")
    root = tmp_path / "data"
    for number, p in enumerate(pictures):
        (root / p.path).parent.mkdir(parents=True, exist_ok=True)
        picture(0, number).save(root / p.path)
    file = feature_file(
        tmp_path / "f.h5", X, pictures, str(root),
        ids=[featx._internal.hashing.content_id((root / p.path).read_bytes()) for p in pictures],
    )  # fmt: skip
    found = featx.inspect(file, similarity=0.9999)
    assert {s.path for s in found.suspects} == {"1/001.png", "0/002.png"}
    assert write_list(found, root / "with.csv").written == 40
    assert write_list(found, root / "less.csv", without_suspects=True) == ListCounts(
        written=39, copies=0, leaks=0, suspects=1, unlabelled=0, unwritable=0
    )
    assert "1/001.png" not in (root / "less.csv").read_text()


def test_long_sections_are_cut(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    root = make_dataset(each=1)
    for number in range(27):
        (root / f"lying/bad{number:02}.png").write_bytes(b"")
    text = run(root, "--cache-dir", tmp_path / "cache").stdout
    assert "quarantined: files that cannot take part (27)" in text and "... and 7 more" in text
    assert text.count("the file is empty") == 20


def test_nothing_wrong_is_said_too(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    result = run(make_dataset(), "--cache-dir", tmp_path)
    assert result.stdout.startswith("'stripes': 16 listed = 16 readable + 0 quarantined\nnothing wrong was found\n")
    assert "no features of this data set were found" in result.stderr


# ---------------------------------------------------------------------------------------------------------------- page


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "a'\"b", "new\nline", "{{ 7 * 7 }}"])
def test_the_page_shows_troubles_and_names_are_text(tmp_path: Path, hostile: str) -> None:
    for number in range(6):
        (tmp_path / "data" / "train" / hostile.replace("/", "_")).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "test" / "plain").mkdir(parents=True, exist_ok=True)
        picture(0, number).save(tmp_path / "data" / "train" / hostile.replace("/", "_") / f"{number}.png")
        picture(1, number).save(tmp_path / "data" / "test" / "plain" / f"{number}.png")
    shutil.copy(tmp_path / "data" / "test" / "plain" / "0.png", tmp_path / "data" / "train" / hostile.replace("/", "_"))
    (tmp_path / "data" / "test" / "plain" / "bad.png").write_bytes(b"bad")
    found = featx.inspect(tmp_path / "data", cache_dir=tmp_path / "cache")
    page = write_inspection(found, tmp_path / "page.html").read_text()
    assert 'id="leaks"' in page and 'id="copies"' in page and "bad.png" in page and 'id="suspects"' not in page
    assert page.count("data:image/webp;base64,") >= 2 and page.count("data:image/png;base64,") == 3
    assert "<script>alert" not in page and "49" not in re.findall(r"<h3>.*?</h3>", page)
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?\s*https?:""", page) and "default-src 'none'" in page


def test_a_page_of_a_sound_data_set_and_of_gone_pictures(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    root = make_dataset(each=3)
    found = featx.inspect(root, cache_dir=tmp_path / "cache")
    assert "Nothing wrong was found" in write_inspection(found, tmp_path / "page.html").read_text()
    shutil.copy(root / "lying" / "000.png", root / "standing" / "copy.png")
    found = featx.inspect(root, cache_dir=tmp_path / "cache")
    (root / "lying" / "000.png").unlink()
    assert "no picture: cannot be read" in write_inspection(found, tmp_path / "page.html").read_text()
    with pytest.raises(SettingError, match="an inspection is a page; give an `out` that ends in .html") as caught:
        write_inspection(found, tmp_path / "page.txt")
    assert caught.value.setting == "out" and not (tmp_path / "page.txt").exists()
