"""What commands say with --json: the fields of the contract."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import commands
from shared_cli import FIELDS, NOT_A_PICTURE, Made, answer, require_fields

import featx

pytest_plugins = ["shared_cli"]

pytestmark = pytest.mark.usefixtures("workshop")


ROWS: dict[str, tuple[str, dict[str, type]]] = {
    "explain {model} {data}/test --out {cache}/maps": (
        "maps",
        {"path": str, "label": str, "probability": float, "image": str},
    ),
    "predict {model} {data}/test": (
        "predictions",
        {"path": str, "label": str, "probability": float, "probabilities": dict},
    ),
    "predict {model} {data}/test {bad}": ("quarantined", {"path": str, "reason": str}),
    "cv {features} --head ridge --folds 3 --C 1e-3:1:3": (
        "trials",
        {"params": dict, "mean_accuracy": float, "std_accuracy": float, "mean_log_loss": float},
    ),
    "cv {features} --shots 1,2 --repeats 2": (
        "shots",
        {"shots": int, "rows": float, "mean_accuracy": float, "ci95": list, "accuracies": list},
    ),
    "sweep {features} --head mlp --trials 1 --epochs 1": (
        "trials",
        {
            "number": int,
            "state": str,
            "params": dict,
            "mean_accuracy": float,
            "std_accuracy": float,
            "seconds": float,
            "epochs": int,
        },
    ),
    "inspect {data} --cache-dir {cache}": ("quarantined", {"path": str, "reason": str}),
    "inspect {features} --similarity 0.5": ("near_duplicates", {"first": dict, "second": dict, "similarity": float}),
    "backbones": (
        "backbones",
        {
            "name": str,
            "parameters": int,
            "size": int,
            "smallest_size": int,
            "feature_shape": list,
            "preprocessing": str,
        },
    ),
    "backbones {backbone}": (
        "layers",
        {"index": int, "name": str, "output_shape": list, "parameters": int, "cut": bool},
    ),
    "cache ls --cache-dir {cache}": ("files", {"features": str, "backbone": str, "shape": list, "bytes": int}),
    "cache show {features}": ("quarantined", {"path": str, "reason": str}),
    "cache verify {features}": ("files", {"features": str, "rows": int, "damaged": list}),
}


@pytest.mark.parametrize("words", FIELDS)
def test_json_has_the_fields_of_the_contract(words: str, made: Made) -> None:
    require_fields(answer(*made.words(words)), FIELDS[words])


@pytest.mark.parametrize("words", ROWS)
def test_json_lists_have_the_fields_of_the_contract(words: str, made: Made) -> None:
    name, fields = ROWS[words]
    rows = answer(*made.words(words))[name]
    assert rows
    for row in rows:
        require_fields(row, fields)


def test_every_command_but_two_is_in_the_contract() -> None:
    own_tests = {("demo",), ("serve",)}  # one says several things, the other does not end: see test_serving
    assert {tuple(c.split("{")[0].split("--")[0].split()) for c in FIELDS} == set(commands()) - own_tests


def test_extract_says_what_it_did(made: Made, own: tuple[str, ...]) -> None:
    first = answer("extract", made.data, *own, "--batch-size", 8)
    assert (first["listed"], first["rows"], first["quarantined"]) == (33, 32, 1)
    assert (first["computed"], first["reused"]) == (32, 0)
    assert first["quarantine"] == [{"path": "train/lying/text.jpg", "reason": NOT_A_PICTURE}]
    assert first["shape"] == [32, 4, 4, 8] and first["dtype"] == "float16"
    assert first["engine"].startswith("keras-")
    assert first["images_per_second"] >= 32 / first["seconds"] > 0
    spec = {"backbone": "tiny.keras", "layer": "last", "pooling": "none", "size": 32, "preprocess": "rescale"}
    assert spec.items() <= first["spec"].items()
    assert Path(first["features"]).parent == Path("cache")
    stored = featx.load_features(first["features"])
    assert (list(stored.shape), stored.spec) == (first["shape"], first["spec"])
    again = answer("extract", made.data, *own)
    assert (again["computed"], again["reused"], again["images_per_second"]) == (0, 32, 0.0)
    assert again["features"] == first["features"]


def test_fit_says_what_it_did(made: Made) -> None:
    fitted = answer("fit", made.features, "--head", "knn")
    assert fitted["head"] == "knn"
    assert fitted["model"] == f"models/{Path(made.features).stem}-knn"
    assert (fitted["train_rows"], fitted["validation_rows"]) == (24, 4)  # drawn, and then trained on as well
    assert 0.5 < fitted["train_accuracy"] <= 1 and 0 <= fitted["validation_accuracy"] <= 1
    assert Path(fitted["model"], "classifier.json").is_file()


def test_evaluate_figures_agree_with_its_matrix(made: Made) -> None:
    found = answer("evaluate", made.model)
    matrix = np.array(found["confusion_matrix"])
    assert (found["rows"], found["quarantined"], found["split"]) == (8, 1, "test")
    assert found["class_names"] == ["lying", "standing"] == list(found["per_class"])
    assert matrix.shape == (2, 2) and matrix.sum(axis=1).tolist() == [4, 4]
    assert found["accuracy"] == np.trace(matrix) / 8
    low, high = found["ci95"]
    assert 0 <= low <= found["accuracy"] <= high <= 1 and low < high
    assert found["log_loss"] > 0 and found["seen_in_training"] == 0
    for number, name in enumerate(found["class_names"]):
        own = found["per_class"][name]
        assert set(own) == {"precision", "recall", "f1", "support"}
        assert own["support"] == 4 and own["recall"] == pytest.approx(matrix[number, number] / 4)
        assert own["precision"] == pytest.approx(matrix[number, number] / max(1, matrix[:, number].sum()))


def test_predict_names_the_most_probable_class(made: Made) -> None:
    found = answer("predict", made.model, f"{made.data}/test", made.bad)
    assert [Path(p["path"]).name for p in found["predictions"]] == ["050.png", "051.png", "052.png", "053.png"] * 2
    for prediction in found["predictions"]:
        probabilities = prediction["probabilities"]
        assert list(probabilities) == ["lying", "standing"] and sum(probabilities.values()) == pytest.approx(1)
        assert prediction["label"] == max(probabilities, key=lambda name: probabilities[name])
        assert prediction["probability"] == probabilities[prediction["label"]]
    right = [p["label"] == Path(p["path"]).parent.name for p in found["predictions"]]
    assert np.mean(right) == answer("evaluate", made.model)["accuracy"]
    assert found["quarantined"] == [{"path": made.bad, "reason": NOT_A_PICTURE}]


def test_backbones_are_listed() -> None:
    rows = {row["name"]: row for row in answer("backbones")["backbones"]}
    assert len(rows) == 40 and list(rows)[0] == "vgg16"
    vgg16 = rows["vgg16"]
    assert (vgg16["parameters"], vgg16["size"], vgg16["smallest_size"]) == (14_714_688, 224, 32)
    assert (vgg16["feature_shape"], vgg16["preprocessing"]) == ([14, 14, 512], "caffe")


def test_layers_of_one_backbone_are_listed() -> None:
    layers = answer("backbones", "vgg16", "--size", 64)["layers"]
    assert [row["index"] for row in layers] == list(range(19))
    assert layers[-1]["name"] == "block5_pool" and layers[-1]["output_shape"] == [2, 2, 512]
    assert layers[-1]["cut"] and not layers[0]["cut"]
    assert sum(row["parameters"] for row in layers) == 14_714_688


def test_cache_show_counts(made: Made) -> None:
    shown = answer("cache", "show", made.features)
    assert shown["classes"] == {"lying": 16, "standing": 16}
    assert shown["splits"] == {"train": 24, "test": 8}
    assert shown["quarantined"] == [{"path": "train/lying/text.jpg", "reason": NOT_A_PICTURE}]
    assert (shown["root"], shown["dataset"], shown["shape"]) == (made.data, "data", [32, 4, 4, 8])


def test_cache_ls_lists_the_newest_first(made: Made, own: tuple[str, ...]) -> None:
    old, new = (answer("extract", made.data, *own, *more)["features"] for more in ([], ["--pooling", "avg"]))
    os.utime(old, (1, 1))
    files = answer("cache", "ls")["files"]
    assert [f["features"] for f in files] == [new, old]
    assert files[0]["shape"] == [32, 8] and files[0]["quarantined"] == 1
    assert files[0]["bytes"] == Path(new).stat().st_size
    assert answer("cache", "ls", "--cache-dir", "empty")["files"] == []


def test_cache_explain_says_which_files_and_which_field(
    make_dataset: Callable[..., Path], own: tuple[str, ...]
) -> None:
    root = make_dataset()
    done = answer("extract", root, *own)
    same = answer("cache", "explain", root, *own)
    assert (same["would_compute"], same["would_reuse"], same["new"], same["other_specs"]) == (0, 16, [], [])
    assert same["features"] == done["features"]
    make_dataset(each=1, first=99)
    more = answer("cache", "explain", root, *own)
    assert (more["would_compute"], more["new"]) == (2, ["lying/099.png", "standing/099.png"])
    other = answer("cache", "explain", root, *own, "--resize", "pad")
    assert other["would_compute"] == 18
    (differs,) = other["other_specs"]
    assert differs["features"] == done["features"] and "resize is stretch, not pad" in differs["differences"]


def test_doctor_compares_as_many_rows_as_asked(made: Made, counted: list[int]) -> None:
    found = answer("doctor", made.model, "--rows", 3)
    assert found["ok"] is True and found["rows"] == 3 and 0 <= found["max_abs_difference"] < 1e-3
    assert counted and answer("doctor", made.model)["rows"] == 32
