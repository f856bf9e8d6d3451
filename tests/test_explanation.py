"""Explanations: pictures in, a PNG each out; features from the cache where it has them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from PIL import Image
from typer.testing import CliRunner

import featx
from featx import Classifier
from featx.cli import app
from featx.errors import SettingError, SpecMismatchError, TrainingError
from featx.explanation import Explanation, activation_maps, explain

Make = Callable[..., Path]


@pytest.fixture
def data(make_dataset: Make) -> Path:
    return make_dataset(each=8)


@pytest.fixture
def features(data: Path, tmp_path: Path, tiny_backbone: str) -> str:
    recipe = {"backbone": tiny_backbone, "preprocess": "rescale"}
    return featx.extract(data, cache_dir=tmp_path / "cache", batch_size=4, **recipe).features_path


@pytest.fixture
def classifier(features: str) -> Classifier:
    return featx.fit(features, "logreg")


def seen(e: Explanation) -> np.ndarray:
    return np.asarray(Image.open(e.image_path))


def test_cached_pictures_need_no_network(
    classifier: Classifier, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_trunk(_: Any) -> Any:
        raise AssertionError("the network was built")

    monkeypatch.setattr(Classifier, "trunk", no_trunk)
    maps, bad = explain(classifier, [data], out=tmp_path / "maps")
    assert len(maps) == 16 and bad == [] and all(e.cached for e in maps)
    assert [e.path for e in maps] == sorted(str(p) for p in data.rglob("*.png"))
    assert [e.true_label for e in maps] == ["lying"] * 8 + ["standing"] * 8
    assert all(e.label == e.class_name and e.probability == e.class_probability > 0.5 for e in maps)
    assert len({e.image_path for e in maps}) == 16 and all(seen(e).ndim == 3 for e in maps)


def test_new_pictures_give_the_same_as_cached_ones(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    cached, _ = explain(classifier, [data], out=tmp_path / "cached")
    Path(classifier.fitting.features_path).unlink()
    live, _ = explain(classifier, [data], out=tmp_path / "live")
    assert not any(e.cached for e in live) and all(e.true_label is None for e in live)
    for a, b in zip(cached, live, strict=True):
        assert (a.path, a.label) == (b.path, b.label) and a.probability == pytest.approx(b.probability, abs=1e-3)


def test_a_feature_file_stands_for_its_pictures(
    classifier: Classifier, features: str, data: Path, tmp_path: Path
) -> None:
    (data / "lying" / "000.png").unlink()
    maps, bad = explain(classifier, [features], out=tmp_path / "maps")
    assert len(maps) == 15 and [path for path, _ in bad] == [str(data.resolve() / "lying" / "000.png")]
    with pytest.raises(
        SettingError, match="^`paths` takes one feature file, or pictures and folders; not both$"
    ) as both:
        explain(classifier, [features, data])
    assert both.value.setting == "paths"


def test_features_of_another_spec_are_refused(
    classifier: Classifier, data: Path, tmp_path: Path, tiny_backbone: str
) -> None:
    other = featx.extract(data, cache_dir=tmp_path / "o", backbone=tiny_backbone, preprocess="tf", batch_size=4)
    with pytest.raises(SpecMismatchError, match="preprocess is tf, not rescale"):
        explain(classifier, [other.features_path])


def test_any_class_can_be_explained(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    maps, _ = explain(classifier, [data / "lying"], class_name="standing", out=tmp_path / "maps")
    assert {e.class_name for e in maps} == {"standing"} and "lying" in {e.label for e in maps}
    assert all(e.class_probability < 0.5 < e.probability for e in maps if e.label == "lying")
    message = r"^unknown `class_name` 'sitting' \(did you mean 'standing'\?\); expected one of lying, standing$"
    with pytest.raises(SettingError, match=message) as caught:
        explain(classifier, [data], class_name="sitting")
    assert caught.value.setting == "class_name"


def test_a_method_that_nothing_has_is_said_first(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="^unknown `method` 'lime'; expected one of cam, gradcam$") as caught:
        explain(classifier, [data], method="lime", out=tmp_path / "maps")
    assert caught.value.setting == "method" and not (tmp_path / "maps").exists()


def test_bad_pictures_are_named_and_the_others_explained(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    (data / "lying" / "bad.png").write_bytes(b"bad")
    (data / "lying" / "empty.png").write_bytes(b"")
    maps, bad = explain(classifier, [data], out=tmp_path / "maps")
    assert len(maps) == 16 and [Path(path).name for path, _ in bad] == ["bad.png", "empty.png"]
    assert all(reason for _, reason in bad)


@pytest.mark.parametrize("name", ["<script>.jpg.png", "a'b\"c.png", "new\nline.png", "ünï.png", "x" * 200 + ".png"])
def test_odd_names_make_files_of_plain_names(classifier: Classifier, tmp_path: Path, name: str) -> None:
    (tmp_path / "odd").mkdir()
    picture(0, 1).save(tmp_path / "odd" / name)
    (found,), _ = explain(classifier, [tmp_path / "odd" / name], out=tmp_path / "maps")
    assert Path(found.image_path).parent == tmp_path / "maps" and not set(Path(found.image_path).name) & set("<>\n'\"")
    assert seen(found).size


def test_pictures_of_one_name_make_several_files(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    maps, _ = explain(classifier, [data / "lying" / "001.png", data / "standing" / "001.png"], out=tmp_path / "maps")
    assert [Path(e.image_path).name for e in maps] == ["001.png", "001-2.png"]


def test_a_large_picture_is_shown_small_and_a_tiny_one_too(classifier: Classifier, tmp_path: Path) -> None:
    picture(0, 1, (2400, 1200)).save(tmp_path / "large.png")
    picture(1, 1, (1, 1)).save(tmp_path / "tiny.png")
    large, tiny = explain(classifier, [tmp_path / "large.png", tmp_path / "tiny.png"], out=tmp_path / "maps")[0]
    assert 1600 < seen(large).shape[1] < 1800 and seen(large).shape[0] < 500 and seen(tiny).size


@pytest.mark.parametrize("head", ["mlp", "bn-mlp", "svm", "ridge"])
def test_heads_with_a_gradient_can_be_explained(features: str, data: Path, tmp_path: Path, head: str) -> None:
    more = {"epochs": 3, "hidden": 8} if "mlp" in head else {}
    maps, _ = explain(featx.fit(features, head, **more), [data], out=tmp_path / "maps")
    assert len(maps) == 16


def test_neighbours_and_pooled_features_cannot(features: str, data: Path, tmp_path: Path, tiny_backbone: str) -> None:
    with pytest.raises(TrainingError, match="KNNHead has no gradient"):
        explain(featx.fit(features, "knn"), [data], out=tmp_path / "maps")
    pooled = featx.extract(
        data, cache_dir=tmp_path / "c", backbone=tiny_backbone, preprocess="rescale", pooling="avg", batch_size=4
    )
    with pytest.raises(TrainingError, match="have no places"):
        explain(featx.fit(pooled.features_path, "logreg"), [data], out=tmp_path / "maps")


def test_a_classifier_with_a_tail_is_explained_behind_it(data: Path, tmp_path: Path, tiny_backbone: str) -> None:
    tuned = featx.finetune(
        data, unfreeze="last", epochs=2, cache_dir=tmp_path / "cache", backbone=tiny_backbone, preprocess="rescale"
    )
    maps, _ = explain(tuned, [data], out=tmp_path / "maps")
    assert len(maps) == 16 and all(e.cached for e in maps)


def test_stripes_are_where_the_evidence_is(tmp_path: Path, tiny_backbone: str) -> None:
    """Classes differ in one corner only; there the map is strongest."""
    for number in range(40):
        pixels = np.full((32, 32, 3), 100, np.uint8)
        pixels[:12, :12] = np.asarray(picture(number % 2, number, (12, 12)))
        folder = tmp_path / "corner" / ("lying", "standing")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    recipe = {"backbone": tiny_backbone, "preprocess": "rescale", "batch_size": 4}
    features = featx.load_features(
        featx.extract(tmp_path / "corner", cache_dir=tmp_path / "cache", **recipe).features_path
    )
    classifier = featx.fit(features, "logreg", input="flat", C=1.0)
    maps = activation_maps(classifier.head, features.X(), features.y.astype(np.int64))
    spread = np.ptp(maps, axis=0)
    assert spread[:2, :2].min() > 0.1 and spread[2:, 2:].max() < 1e-3, "what all pictures share tells nothing"


def test_the_command_prints_what_it_wrote(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    classifier.save(tmp_path / "model")
    shutil.copy(data / "lying" / "000.png", tmp_path / "again.png")
    words = ["explain", str(tmp_path / "model"), str(tmp_path / "again.png"), "--out", str(tmp_path / "maps"), "--json"]
    done = CliRunner().invoke(app, words)
    (found,) = json.loads(done.stdout)["maps"]
    assert done.exit_code == 0 and found["cached"] and found["true_label"] == "lying"
    assert {"path", "label", "probability", "image"} <= set(found) and Path(found["image"]).exists()
    assert "1 listed = 1 explained + 0 quarantined; 1 from the cache" in done.stderr
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"bad")
    assert CliRunner().invoke(app, [*words[:2], str(bad), "--out", str(tmp_path / "maps")]).exit_code == 1
