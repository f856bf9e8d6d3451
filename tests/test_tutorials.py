"""The tutorials: they run, keep what they measured, and skip with a reason what is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import featx
from benchmarks.tutorials.__main__ import NAMES, main
from benchmarks.tutorials.labels_to_network import label_file
from benchmarks.tutorials.lesson import Lesson
from benchmarks.tutorials.transfer_or_finetune import trained

Make = Callable[..., Path]


@pytest.fixture
def split_set(make_dataset: Make) -> Path:
    make_dataset(classes=2, each=12, split="train")
    return make_dataset(classes=2, each=4, split="test", first=50)


def test_without_pictures_they_are_skipped_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--shared", str(tmp_path / "nowhere"), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    for name in NAMES:
        assert f"{name}: skipped: no pictures at " in said.err
    assert said.out.startswith("| tutorial | variant |")


@pytest.mark.parametrize("words", [["penguin"], ["--data", "x"], ["penguins", "labels_to_network", "--data", "x"]])
def test_wrong_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2


def test_a_label_file_leads_to_the_same_classes_and_sets_bad_pictures_aside(
    split_set: Path, tiny_backbone: str, tmp_path: Path
) -> None:
    labels = label_file(split_set, tmp_path / "labels")
    done = featx.extract(labels, backbone=tiny_backbone, preprocess="rescale", cache_dir=tmp_path / "cache")
    assert (done.listed, done.rows, done.quarantined) == (36, 34, 2)
    assert {path for path, _ in done.quarantine} == {"half.jpg", "page.jpg"}
    features = featx.load_features(done.features_path)
    folders = featx.extract(split_set, backbone=tiny_backbone, preprocess="rescale", cache_dir=tmp_path / "cache")
    assert folders.computed == 0  # the same pictures, by their content
    assert features.class_names == featx.load_features(folders.features_path).class_names
    kinds = {path: str(features.splits[n]) for n, path in enumerate(features.paths)}
    assert (kinds["gray.png"], kinds["alpha.png"]) == ("train", "train")
    assert sum(split == "test" for split in kinds.values()) == 8


def test_what_is_measured_is_kept(split_set: Path, tiny_backbone: str, tmp_path: Path) -> None:
    trainings: list[int] = []

    def train(seed: int) -> featx.Classifier:
        trainings.append(seed)
        done = featx.extract(split_set, backbone=tiny_backbone, preprocess="rescale", cache_dir=tmp_path / "cache")
        return featx.fit(done.features_path, "ridge", random_state=seed)

    rows = []
    for _ in range(2):
        lesson = Lesson("lesson", split_set, tmp_path, tmp_path, seeds=(0, 1))
        rows.append(lesson.measure("ridge", "none", train, note=lambda classifier, features: str(len(features))))
    assert trainings == [0, 1]
    assert rows[0] == rows[1]
    Lesson("lesson", split_set, tmp_path, tmp_path, seeds=(2, 3)).measure("ridge", "none", train)
    assert trainings == [0, 1, 2, 3]  # other seeds are another row
    assert (rows[0].notes, len(rows[0].accuracies)) == ("32", 2)


def test_which_layers_of_resnet50_train() -> None:
    names = trained("resnet50", "168").removeprefix("train: ").split(", ")
    assert names[0] == "conv5_block3_2_conv"
    assert len(names) == 4


def test_from_labels_to_alexnet_and_support_vectors(
    split_set: Path, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["labels_to_network", "--quick", "--data", str(split_set), "--shared", str(shared), "--out", str(tmp_path)]
    assert main(words) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in table[2:]] == [
        "alexnet from nothing, 99 pixels",
        "svm on alexnet's features",
        "svm on mobilenetv2's features",
    ]
    assert "set aside: half.jpg" in table[2]
    with Image.open(tmp_path / "quick" / "mean-image.png") as mean:
        assert mean.size == (99, 99)
        assert 50 < np.asarray(mean, np.float64).mean() < 200
    model: Any = featx.Classifier.load(tmp_path / "quick" / "models" / "alexnet-stripes-0")
    assert model.fitting.network == "alexnet"
