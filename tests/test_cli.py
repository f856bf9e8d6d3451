"""The command line, as other programs and people call it."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import commands, picture
from typer.testing import CliRunner, Result

import featx
from featx.backbones import KerasTrunk
from featx.cli import app
from featx.errors import WeightsError
from featx.pictures import MAX_PIXELS

ROOT = Path(featx.__file__).parents[1]
NOT_A_PICTURE = "not a picture in a format that can be read"


def run(*words: Any, code: int = 0) -> Result:
    """Run a command in this process."""
    result = CliRunner().invoke(app, [*map(str, words)])
    assert result.exit_code == code, result.output
    return result


def parsed(stdout: str) -> Any:
    """The JSON object of a --json run, which is one line and nothing else."""
    assert stdout.count("\n") == 1 and stdout.endswith("\n")
    return json.loads(stdout)


def answer(*words: Any, code: int = 0) -> Any:
    """What a command says with --json."""
    return parsed(run(*words, "--json", code=code).stdout)


def started(
    *words: Any, program: tuple[str, ...] = ("-m", "featx"), stdout: int = subprocess.PIPE, **environment: str
) -> subprocess.Popen[str]:
    """A command as a program of its own."""
    return subprocess.Popen(
        [sys.executable, *program, *map(str, words)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit code, stdout and stderr."""
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, stderr


@pytest.fixture(autouse=True)
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the cache folder that no environment variable has moved."""
    monkeypatch.delenv("FEATX_CACHE", raising=False)
    folder = tmp_path / "workshop"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def own(tiny_backbone: str) -> tuple[str, ...]:
    """The options of the tiny backbone."""
    return "--backbone", tiny_backbone, "--preprocess", "rescale"


@dataclass(frozen=True)
class Made:
    """What a whole run has made: to be read, not changed."""

    backbone: str
    data: str
    bad: str
    cache: str
    features: str
    model: str

    def words(self, text: str) -> list[str]:
        """Words of a command line in which ``{data}`` and the like stand for what was made."""
        return [word.format(**asdict(self)) for word in text.split()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: str) -> Made:
    """24 training pictures, 8 test pictures, a file that is no picture; their features, and a classifier."""
    folder = tmp_path_factory.mktemp("made")
    for split, numbers in {"train": range(12), "test": range(50, 54)}.items():
        for kind, name in enumerate(["lying", "standing"]):
            (folder / "data" / split / name).mkdir(parents=True)
            for number in numbers:
                picture(kind, number).save(folder / "data" / split / name / f"{number:03}.png")
    bad = folder / "data/train/lying/text.jpg"
    bad.write_text("text")
    own = ("--backbone", tiny_backbone, "--preprocess", "rescale", "--cache-dir", folder / "cache")
    done = answer("extract", folder / "data", *own)
    model = answer("fit", done["features"], "--head", "logreg", "--input", "flat", "--out", folder / "model")
    return Made(tiny_backbone, str(folder / "data"), str(bad), str(folder / "cache"), done["features"], model["model"])


# ---------------------------------------------------------------------------------------------------- the JSON contract

EXTRACT = "{data} --backbone {backbone} --preprocess rescale --cache-dir {cache}"
FIELDS: dict[str, dict[str, type]] = {
    f"extract {EXTRACT}": {
        "features": str,
        "listed": int,
        "rows": int,
        "quarantined": int,
        "computed": int,
        "reused": int,
        "shape": list,
        "dtype": str,
        "seconds": float,
        "images_per_second": float,
        "engine": str,
        "spec": dict,
        "views": int,
        "view_rows": int,
        "profile": dict,
    },
    f"extract {EXTRACT} --profile --draft --engine keras --precision bfloat16 --workers 1": {"engine": str},
    "fit {features} --head ridge": {
        "model": str,
        "head": str,
        "train_rows": int,
        "validation_rows": int,
        "train_accuracy": float,
        "validation_accuracy": float,
        "seconds": float,
    },
    "fit {features} --head mlp --epochs 1 --mixup 0.2 --weight-decay 0.01 --label-smoothing 0.1 --calibrate": {
        "model": str,
        "temperature": float,
    },
    "cv {features} --head ridge --folds 3 --C 1e-3:1:3": {
        "best": dict,
        "trials": list,
        "seconds": float,
        "model": str,
        "folds": int,
        "train_rows": int,
    },
    "cv {features} --shots 1,all --repeats 2": {"head": str, "repeats": int, "shots": list},
    "sweep {features} --head mlp --trials 1 --epochs 1": {
        "best": dict,
        "trials": list,
        "seconds": float,
        "model": str,
        "storage": str,
    },
    "finetune {data} --backbone {backbone} --preprocess rescale --unfreeze last --epochs 2 --cache-dir {cache}": {
        "model": str,
        "head": str,
        "train_rows": int,
        "validation_rows": int,
        "train_accuracy": float,
        "validation_accuracy": float,
        "seconds": float,
        "seconds_per_epoch": float,
        "history": dict,
    },
    "compare {data} --backbone {backbone} --preprocess rescale --heads ridge,knn --epochs 1 --cache-dir {cache}": {
        "methods": list,
        "best_head": str,
        "best_tuned": str,
        "difference": float,
        "difference_ci95": list,
        "validation_rows": int,
        "repeats": int,
        "end_to_end_seconds": float,
        "recommendation": str,
    },
    "inspect {data} --cache-dir {cache} --similarity 0.9999 --neighbors 5": {
        "listed": int,
        "readable": int,
        "quarantined": list,
        "empty_classes": list,
        "counts": dict,
        "unlabelled": dict,
        "imbalance": float,
        "formats": dict,
        "sizes": dict,
        "mean_image": dict,
        "mean_image_of_all": str,
        "duplicates": list,
        "features": str,
        "near_duplicates": list,
        "leaks": list,
        "outliers": list,
        "suspects": list,
        "thresholds": dict,
        "notes": list,
    },
    "evaluate {model}": {
        "accuracy": float,
        "ci95": list,
        "log_loss": float,
        "rows": int,
        "quarantined": int,
        "class_names": list,
        "confusion_matrix": list,
        "per_class": dict,
    },
    "predict {model} {data}/test": {"predictions": list, "quarantined": list},
    "backbones": {"backbones": list},
    "backbones {backbone}": {"name": str, "layers": list},
    "cache ls --cache-dir {cache}": {"files": list},
    "cache show {features}": {
        "features": str,
        "dataset": str,
        "root": str,
        "shape": list,
        "dtype": str,
        "spec": dict,
        "classes": dict,
        "splits": dict,
        "views": int,
        "augmentation": dict,
        "quarantined": list,
        "featx_version": str,
    },
    "cache verify {features}": {"files": list, "ok": bool},
    f"cache explain {EXTRACT}": {
        "features": str,
        "views": int,
        "would_compute": int,
        "would_reuse": int,
        "new": list,
        "other_specs": list,
    },
    "cache prune --dry-run --cache-dir {cache}": {"removed": list, "bytes": int, "dry_run": bool},
    "report {model} --out page.html": {
        "report": str,
        "bytes": int,
        "accuracy": float,
        "ci95": list,
        "majority_accuracy": float,
        "rows": int,
        "split": str,
        "quarantined": int,
        "calibration_error": float,
        "mistakes": int,
    },
    "doctor {model}": {"max_abs_difference": float, "ok": bool, "rows": int},
    "explain {model} {data}/test --out {cache}/maps": {"maps": list, "quarantined": list},
}
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


def _has(result: dict[str, Any], fields: dict[str, type]) -> None:
    assert set(fields) <= set(result)
    assert {name: type(result[name]) for name in fields} == fields


@pytest.mark.parametrize("words", FIELDS)
def test_json_has_the_fields_of_the_contract(words: str, made: Made) -> None:
    _has(answer(*made.words(words)), FIELDS[words])


@pytest.mark.parametrize("words", ROWS)
def test_json_lists_have_the_fields_of_the_contract(words: str, made: Made) -> None:
    name, fields = ROWS[words]
    rows = answer(*made.words(words))[name]
    assert rows
    for row in rows:
        _has(row, fields)


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


# ----------------------------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("extract nowhere", "no such data set: nowhere"),
        ("extract . --backbone vgg17", "unknown backbone 'vgg17'; did you mean"),
        ("extract . --backbone vgg16 --alpha 0.5", "--alpha belongs to MobileNets"),
        ("extract . --size 28", "at least 32 x 32 pixels, got --size 28"),
        ("fit", "no feature file in cache; run `featx extract DATASET` first"),
        ("fit {features} --head nope", "unknown --head 'nope'; expected one of bn-mlp"),
        ("fit {features} --head svm --epochs 3", "--epochs does not go with --head svm"),
        ("fit {features} --validation 1", "must be at least 0 and below 1, got 1"),
        ("evaluate nowhere", "nowhere is not a classifier"),
        ("evaluate {model} nowhere.h5", "no such feature file: nowhere.h5"),
        ("predict {model} nowhere", "no such file: nowhere"),
        ("doctor nowhere", "nowhere is not a classifier"),
        ("inspect nowhere", "no such data set: nowhere"),
        ("inspect nowhere.h5", "no such feature file: nowhere.h5"),
        ("inspect {data} --similarity 2", "must be above 0 and at most 1, got 2"),
        ("inspect {data} --write-list clean.txt", "clean.txt: the list is a CSV file"),
        ("serve nowhere", "nowhere is not a classifier"),
        ("backbones resnet51", "unknown backbone 'resnet51'"),
        ("cache show nowhere.h5", "no such feature file: nowhere.h5"),
        ("cache explain nowhere", "no such data set: nowhere"),
    ],
)
def test_errors_are_one_line(words: str, message: str, made: Made) -> None:
    result = run(*made.words(words), "--quiet", "--json", code=1)
    assert message in parsed(result.stdout)["error"]
    assert re.fullmatch(r"error: .+\n", result.stderr) and message in result.stderr
    assert run(*made.words(words), "--quiet", code=1).stdout == ""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("two\nlines"), "unexpected error: RuntimeError: two lines; --debug shows where\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/full"), "error: /full: no space left on device\n"),
        (KeyboardInterrupt(), "interrupted: nothing was left half-written\n"),
    ],
)
def test_what_nobody_foresaw_is_one_line_too(
    error: BaseException, said: str, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_args: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr("featx.classifier.fit", fails)
    code = 130 if isinstance(error, KeyboardInterrupt) else 1
    result = run("fit", made.features, "--json", code=code)
    assert result.stderr == said
    assert set(parsed(result.stdout)) == {"error"}


def test_debug_shows_the_traceback(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" not in run("cache", "show", "nowhere.h5", code=1).output
    result = run("cache", "show", "nowhere.h5", "--debug", code=1)
    assert result.stderr.startswith("Traceback (most recent call last)") and "in show" in result.stderr
    assert result.stderr.splitlines()[-1] == "error: no such feature file: nowhere.h5"
    monkeypatch.setattr("featx.classifier.fit", lambda *_args, **_options: 1 / 0)
    last = run("fit", made.features, "--debug", code=1).stderr.splitlines()[-1]
    assert last == "unexpected error: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    "words",
    [
        "fit --no-such-option",
        "no-such-command",
        "cache no-such-command",
        "extract",
        "extract . --pooling sum",
        "extract . --batch-size 0",
        "extract . --max-pixels 0",
        "extract . --seed -1",
        "fit --epochs few",
        "predict model picture.png --top 0",
        "doctor model --rows 0",
        "inspect",
        "inspect . --neighbors 0",
        "evaluate model --split all",
        "serve model --port 65536",
    ],
)
def test_wrong_usage_is_2(words: str) -> None:
    result = run(*words.split(), code=2)
    assert result.stdout == "" and "Usage: " in result.stderr


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Somebody presses Ctrl-C while the second batch is computed."""
    real, calls = KerasTrunk.__call__, [0]

    def call(self: KerasTrunk, images: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return real(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(KerasTrunk, "__call__", call)
        yield


@pytest.mark.parametrize("as_json", [True, False])
def test_an_interrupted_extraction_goes_on(
    as_json: bool, make_dataset: Callable[..., Path], own: tuple[str, ...], interrupted: None
) -> None:
    words = ("extract", make_dataset(), *own, "--batch-size", 5)
    result = run(*words, *(["--json"] if as_json else []), code=130)
    said = result.stderr.splitlines()[-1]
    assert re.fullmatch(
        r"interrupted: 5 of 16 pictures are kept in cache/\S+\.partial; run the same command again to go on", said
    )
    if as_json:
        assert parsed(result.stdout)["error"].endswith(said.removeprefix("interrupted: "))
    else:
        assert result.stdout == ""
    assert "Traceback" not in result.output
    done = answer(*words)
    assert (done["computed"], done["reused"], done["rows"]) == (11, 5, 16)


def test_doctor_disagrees_with_exit_code_1(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    real = KerasTrunk.__call__
    monkeypatch.setattr(KerasTrunk, "__call__", lambda self, images: 1 + real(self, 255 - images))
    found = answer("doctor", made.model, code=1)
    assert found["ok"] is False and found["max_abs_difference"] > 1e-3
    assert "DISAGREE: do not trust this classifier" in run("doctor", made.model, code=1).stdout


def test_doctor_skips_pictures_that_have_changed(make_dataset: Callable[..., Path], own: tuple[str, ...]) -> None:
    root = make_dataset()
    model = answer("fit", answer("extract", root, *own)["features"], "--head", "logreg")["model"]
    picture(0, 999).save(root / "lying/000.png")
    found = answer("doctor", model)
    assert (found["ok"], found["rows"]) == (True, 15)
    assert found["skipped"] == [["lying/000.png", "was changed since featx last looked; extract again"]]
    assert "15 pictures; 1 pictures were not as they were" in run("doctor", model).stdout
    shutil.rmtree(root)
    assert "no picture is as it was in" in answer("doctor", model, code=1)["error"]


def _flip(features: str | Path, row: int) -> None:
    """Flip a bit in one row of a feature file."""
    with h5py.File(features) as file:
        place = file["features"].id.get_offset() + row * file["features"][0].nbytes
    with open(features, "r+b") as raw:
        raw.seek(place)
        byte = raw.read(1)[0]
        raw.seek(place)
        raw.write(bytes([byte ^ 1]))


def test_verify_names_the_damaged_row(made: Made) -> None:
    sound, flipped, half = Path("a.h5"), Path("b.h5"), Path("c.h5")
    for path in (sound, flipped):
        shutil.copyfile(made.features, path)
    half.write_bytes(sound.read_bytes()[: sound.stat().st_size // 2])
    _flip(flipped, 7)
    found = answer("cache", "verify", sound, flipped, half, code=1)
    assert found["ok"] is False and [f["damaged"] for f in found["files"]] == [[], [7], []]
    assert [f["problem"] is None for f in found["files"]] == [True, True, False]
    lines = run("cache", "verify", sound, flipped, half, code=1).stdout.splitlines()
    assert lines[:2] == ["a.h5: 32 rows sound", "b.h5: damaged rows: [7]"] and lines[2].startswith("c.h5: ")
    assert answer("cache", "verify", sound)["ok"] is True
    assert answer("cache", "verify", "--cache-dir", ".", code=1)["ok"] is False


def test_a_damaged_row_is_computed_again(made: Made, own: tuple[str, ...]) -> None:
    done = answer("extract", made.data, *own)
    _flip(done["features"], 7)
    assert answer("extract", made.data, *own)["computed"] == 1
    assert answer("cache", "verify")["ok"] is True


def test_predicting_nothing_but_unreadable_files_is_1(made: Made) -> None:
    Path("empty.png").touch()
    found = answer("predict", made.model, made.bad, "empty.png", "--csv", "out.csv", code=1)
    assert found["predictions"] == []
    assert found["quarantined"] == [
        {"path": made.bad, "reason": NOT_A_PICTURE},
        {"path": "empty.png", "reason": "the file is empty"},
    ]
    result = run("predict", made.model, "empty.png", code=1)
    assert result.stdout == "" and "quarantined: 'empty.png': the file is empty" in result.stderr


# -------------------------------------------------------------------------------------------------- what options change


def test_the_cache_folder_is_where_one_says(
    make_dataset: Callable[..., Path], own: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset()
    assert Path(answer("extract", root, *own)["features"]).parent == Path("cache")
    monkeypatch.setenv("FEATX_CACHE", "elsewhere")
    done = answer("extract", root, *own)
    assert Path(done["features"]).parent == Path("elsewhere") and done["computed"] == 16
    assert [f["features"] for f in answer("cache", "ls")["files"]] == [done["features"]]
    assert answer("fit", "--head", "ridge")["features"] == str(Path(done["features"]).resolve())
    third = answer("extract", root, *own, "--cache-dir", "third")
    assert Path(third["features"]).parent == Path("third") and third["computed"] == 16


def test_extract_options_change_the_spec(made: Made, own: tuple[str, ...]) -> None:
    def extract(*options: Any) -> tuple[dict[str, Any], Any]:
        done = answer("extract", made.data, *own, *options)
        return done, featx.load_features(done["features"]).X()

    plain, X = extract()
    done, _ = extract("--layer", "edges")
    assert (done["shape"], done["spec"]["layer"]) == ([32, 8, 8, 8], "edges")
    for pooling, pool in {"avg": np.mean, "max": np.max}.items():
        done, pooled = extract("--pooling", pooling)
        assert (done["shape"], done["spec"]["pooling"]) == ([32, 8], pooling)
        np.testing.assert_allclose(pooled, pool(X, axis=(1, 2)), rtol=2e-3, atol=2e-3)
    done, single = extract("--dtype", "float32")
    assert (done["dtype"], done["spec"]["dtype"]) == ("float32", "float32")
    np.testing.assert_allclose(single, X, rtol=2e-3, atol=1e-3)
    assert not np.array_equal(single, X)
    for resize in ("pad", "crop"):
        done, resized = extract("--resize", resize)
        assert done["spec"]["resize"] == resize and done["computed"] == 32
        assert np.abs(resized - X).max() > 0.05
    done, other = extract("--preprocess", "tf")
    assert done["spec"]["preprocess"] == "tf" and np.abs(other - X).max() > 0.05
    assert len(answer("cache", "ls")["files"]) == 8 and plain["computed"] == 32


def test_the_seed_draws_random_weights(made: Made, own: tuple[str, ...]) -> None:
    def extract(*options: Any) -> tuple[dict[str, Any], Any]:
        done = answer("extract", made.data, *own, *options)
        return done, featx.load_features(done["features"]).X()

    (zero, X), (again, _), (one, other) = (extract("--weights", "random", "--seed", seed) for seed in (0, 0, 1))
    assert (zero["computed"], again["computed"], one["computed"]) == (32, 0, 32)
    assert zero["spec"]["weights"] != one["spec"]["weights"] and zero["features"] == again["features"]
    assert np.abs(X - other).max() > 0.05
    assert (extract("--seed", 0)[0]["features"]) == extract("--seed", 1)[0]["features"]  # nothing random in it


def test_a_width_is_part_of_the_name_or_an_option(make_dataset: Callable[..., Path]) -> None:
    words = ("extract", make_dataset(each=1), "--size", 32, "--weights", "random", "--batch-size", 2)
    narrow = answer(*words, "--backbone", "mobilenetv2", "--alpha", 0.35)
    assert narrow["spec"]["backbone"] == "mobilenetv2-0.35"
    same = answer(*words, "--backbone", "mobilenetv2-0.35")
    assert (same["features"], same["computed"]) == (narrow["features"], 0)


def test_pictures_larger_than_allowed_are_quarantined(make_dataset: Callable[..., Path], own: tuple[str, ...]) -> None:
    root = make_dataset(each=3)
    picture(0, 99, (60, 50)).save(root / "lying/large.png")
    assert MAX_PIXELS > 3000 and answer("extract", root, *own)["quarantined"] == 0
    done = answer("extract", root, *own, "--max-pixels", 1200, "--cache-dir", "other")
    assert (done["rows"], done["quarantined"]) == (6, 1)
    (bad,) = done["quarantine"]
    assert bad["path"] == "lying/large.png" and bad["reason"].endswith("pixels are more than max_pixels (1200)")


def test_strict_fails_instead_of_quarantining(made: Made, own: tuple[str, ...]) -> None:
    said = answer("extract", made.data, *own, "--strict", code=1)["error"]
    assert said.startswith("--strict: train/lying/text.jpg cannot be read: not a picture")
    assert answer("cache", "ls")["files"] == []
    assert "ignored" in answer("extract", f"{made.data}/test", *own, "--strict")


def test_batch_size_is_what_the_trunk_gets(made: Made, own: tuple[str, ...], counted: list[int]) -> None:
    answer("extract", made.data, *own, "--batch-size", 16)
    answer("predict", made.model, f"{made.data}/test", "--batch-size", 4)
    assert counted == [16, 16, 4, 4]


def about(model: str) -> dict[str, Any]:
    """What a classifier's folder says of it."""
    found: dict[str, Any] = json.loads(Path(model, "classifier.json").read_text(encoding="utf-8"))
    return found


FEW = ("--epochs", "1", "--batch-size", "16")


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    ("head", "common", "options"),
    [
        ("logreg", (), {"C": ("--C", 5.0), "input": ("--input", "max")}),
        ("svm", (), {"C": ("--C", 5.0)}),
        ("ridge", (), {"C": ("--C", 5.0)}),
        ("knn", (), {"n_neighbors": ("--neighbors", 3)}),
        (
            "mlp",
            FEW,
            {
                "hidden": ("--hidden", 5),
                "dropout": ("--dropout", 0.9),
                "learning_rate": ("--learning-rate", 0.1),
                "batch_size": ("--batch-size", 8),
                "epochs": ("--epochs", 2),
            },
        ),
        ("bn-mlp", FEW, {"hidden": ("--hidden", 8), "input": ("--input", "flat")}),
    ],
)
def test_fit_options_change_what_is_learned(
    head: str, common: tuple[str, ...], options: dict[str, tuple[str, Any]], made: Made
) -> None:
    def fit(*more: Any) -> dict[str, Any]:
        return about(answer("fit", made.features, "--head", head, *common, *more, "--out", "model")["model"])

    plain = fit()
    assert plain["head"]["name"] == head and fit()["arrays"] == plain["arrays"]
    for name, (option, value) in options.items():
        other = fit(option, value)
        assert other["head"]["params"][name] == value != plain["head"]["params"][name]
        assert other["arrays"] != plain["arrays"], option


@pytest.mark.usefixtures("eagerly")
def test_epochs_and_patience_bound_the_training(made: Made) -> None:
    fitted = answer("fit", made.features, "--head", "mlp", "--epochs", 2, "--out", "model")
    assert fitted["epochs"] == 2
    assert len(Path("model/history.csv").read_text().splitlines()) == 3
    nothing_learned = ("--head", "mlp", "--learning-rate", 1e-30, "--epochs", 9)
    assert answer("fit", made.features, *nothing_learned, "--patience", 1)["epochs"] == 2
    assert answer("fit", made.features, *nothing_learned, "--patience", 2)["epochs"] == 3


def test_fit_holds_out_what_one_says(made: Made) -> None:
    def fit(*options: Any) -> tuple[dict[str, Any], set[str]]:
        fitted = answer("fit", made.features, "--head", "ridge", *options)
        return fitted, set(featx.Classifier.load(fitted["model"]).validation_ids)

    (half, _), (nothing, _) = fit("--validation", 0.5), fit("--validation", 0)
    assert half["validation_rows"] == 12 and nothing["validation_rows"] == 0
    assert nothing["validation_accuracy"] is None
    drawn = [fit("--seed", seed)[1] for seed in (0, 0, 1)]
    assert [len(ids) for ids in drawn] == [4, 4, 4] and drawn[0] == drawn[1] != drawn[2]


def test_fit_writes_where_one_says(made: Made) -> None:
    fitted = answer("fit", made.features, "--head", "ridge", "--out", "deep/down/mine")
    assert fitted["model"] == "deep/down/mine" and not Path("models").exists()
    assert answer("evaluate", "deep/down/mine")["rows"] == 8
    Path("full").mkdir()
    Path("full/letter.txt").touch()
    said = answer("fit", made.features, "--head", "ridge", "--out", "full", code=1)["error"]
    assert said == "full exists and is not a classifier; give another --out"


def test_fit_says_which_file_it_uses(made: Made, own: tuple[str, ...]) -> None:
    old, new = (answer("extract", made.data, *own, *more)["features"] for more in ([], ["--pooling", "avg"]))
    os.utime(old, (1, 1))
    result = run("fit", "--head", "ridge", "--json")
    assert result.stderr == f"using {new}, the newest feature file\n"
    assert parsed(result.stdout)["features"] == str(Path(new).resolve())
    assert "using" not in run("fit", old, "--head", "ridge").stderr


def test_evaluate_measures_the_split_one_says(made: Made) -> None:
    train, validation = (answer("evaluate", made.model, "--split", split) for split in ("train", "validation"))
    assert (train["split"], train["rows"], train["seen_in_training"]) == ("train", 24, 24)
    assert (validation["split"], validation["rows"], validation["seen_in_training"]) == ("validation", 4, 0)
    report = about(made.model)["report"]
    assert validation["accuracy"] == report["validation_accuracy"] and train["accuracy"] == report["train_accuracy"]
    assert answer("evaluate", made.model, made.features, "--split", "test") == answer("evaluate", made.model)


def test_evaluate_extracts_a_new_data_set(
    made: Made, make_dataset: Callable[..., Path], counted: list[int], own: tuple[str, ...]
) -> None:
    root = make_dataset(each=5, first=200)
    found = answer("evaluate", made.model, root, "--cache-dir", "other")
    assert (found["rows"], found["split"], found["seen_in_training"]) == (10, "unseen", 0)
    assert counted and len(list(Path("other").glob("stripes-*.h5"))) == 1
    assert answer("extract", root, *own, "--cache-dir", "other")["computed"] == 0
    wrong = answer("extract", root, *own, "--pooling", "avg")["features"]
    assert "pooling is avg, not none" in answer("evaluate", made.model, wrong, code=1)["error"]


@pytest.mark.parametrize("command", ["predict", "doctor"])
def test_weights_may_have_moved(
    command: str, make_dataset: Callable[..., Path], tiny_backbone: str, tmp_path: Path
) -> None:
    root = make_dataset()
    shutil.copyfile(tiny_backbone, "mine.keras")
    answer("extract", root, "--backbone", "mine.keras", "--preprocess", "rescale")
    model = answer("fit", "--head", "logreg")["model"]
    words = (command, model, root / "lying/000.png") if command == "predict" else (command, model)
    before = answer(*words)
    Path("moved").mkdir()
    os.rename("mine.keras", "moved/mine.keras")
    assert "mine.keras" in answer(*words, code=1)["error"]
    assert answer(*words, "--weights", "moved/mine.keras") == before
    keras = pytest.importorskip("keras")
    other = keras.saving.load_model("moved/mine.keras")
    other.set_weights([2 * value for value in other.get_weights()])
    other.save("moved/other.keras")
    assert "weights is" in answer(*words, "--weights", "moved/other.keras", code=1)["error"]


def test_predict_prints_the_best_classes_between_tabs(made: Made) -> None:
    (prediction,) = answer("predict", made.model, f"{made.data}/test/standing/050.png")["predictions"]
    best, other = sorted(prediction["probabilities"].items(), key=lambda item: -item[1])
    words = ("predict", made.model, f"{made.data}/test/standing/050.png")
    one = f"{prediction['path']}\t{best[0]}\t{best[1]:.4f}"
    assert run(*words).stdout == one + "\n"
    two = f"{one}\t{other[0]}\t{other[1]:.4f}\n"
    assert run(*words, "--top", 2).stdout == two == run(*words, "--top", 99).stdout


def test_predict_writes_all_probabilities_as_csv(made: Made) -> None:
    shutil.copyfile(f"{made.data}/test/lying/050.png", 'a, "é".png')
    shown = answer("predict", made.model, f"{made.data}/test", 'a, "é".png', made.bad, "--csv", "out.csv")
    header, *rows = csv.reader(Path("out.csv").read_text(encoding="utf-8").splitlines())
    assert header == ["path", "label", "probability", "lying", "standing"]
    assert len(rows) == 9 and rows[-1][0] == 'a, "é".png'
    for row, prediction in zip(rows, shown["predictions"], strict=True):
        assert row[:2] == [prediction["path"], prediction["label"]]
        numbers = [prediction["probability"], *prediction["probabilities"].values()]
        assert list(map(float, row[2:])) == pytest.approx(numbers, abs=1e-6)


def test_prune_removes_what_a_newer_file_holds(make_dataset: Callable[..., Path], own: tuple[str, ...]) -> None:
    root = make_dataset()
    old = answer("extract", root, *own)["features"]
    os.utime(old, (1, 1))
    make_dataset(each=1, first=99)
    new = answer("extract", root, *own)["features"]
    size = Path(old).stat().st_size
    dry = answer("cache", "prune", "--dry-run")
    assert dry == {"removed": [old], "bytes": size, "dry_run": True}
    assert f"would remove {old}" in run("cache", "prune", "--dry-run").stdout
    assert Path(old).exists()
    assert answer("cache", "prune") == {"removed": [old], "bytes": size, "dry_run": False}
    assert not Path(old).exists() and Path(new).exists()
    assert answer("cache", "prune")["removed"] == [] and answer("extract", root, *own)["computed"] == 0


# ----------------------------------------------------------------------------------------------------- what people read

SAID: dict[str, list[str]] = {
    f"extract {EXTRACT}": ["33 listed = 32 rows + 1 quarantined", "0 computed, 32 reused", "32 x 4 x 4 x 8 float16"],
    f"extract {EXTRACT} --profile --draft --engine keras --precision bfloat16 --workers 1": [
        "33 listed = 32 rows + 1 quarantined",
        "stage ",
        "finding the files",
    ],
    "fit {features} --head ridge": ["ridge: ", "on 4 validation rows", "on 24 training rows", "models/"],
    "fit {features} --head mlp --epochs 1 --mixup 0.2 --weight-decay 0.01 --label-smoothing 0.1 --calibrate": [
        "mlp: ",
        "temperature",
    ],
    "cv {features} --head ridge --folds 3 --C 1e-3:1:3": ["accuracy  deviation", "chosen", "ridge: ", "-ridge-cv"],
    "cv {features} --shots 1,all --repeats 2": ["pictures per class", "all ", "logreg, 2 draws"],
    "sweep {features} --head mlp --trials 1 --epochs 1": [
        "trial  accuracy",
        "1 trials (1 complete) in sweeps/",
        "they flatter it",
        "-mlp-sweep",
    ],
    "finetune {data} --backbone {backbone} --preprocess rescale --unfreeze last --epochs 2 --cache-dir {cache}": [
        "tiny.keras behind pool, logreg: ",
        "(the head alone: ",
        "2 epochs of ",
        "models/data-tiny-tail",
    ],
    "compare {data} --backbone {backbone} --preprocess rescale --heads ridge,knn --epochs 1 --cache-dir {cache}": [
        "method  accuracy  95 % interval",
        "features, s",
        "would take about",
    ],
    "inspect {data} --cache-dir {cache} --similarity 0.9999 --neighbors 5": [
        "'data': 33 listed = 32 readable + 1 quarantined",
        "'train/lying/text.jpg'",
        "lying        4     12",
        "formats: PNG 32",
        "smallest     40      30",
    ],
    "evaluate {model}": ["accuracy ", "(95 % interval ", "8 test rows, log loss ", "precision  recall", "support"],
    "predict {model} {data}/test": ["050.png\tlying\t", "050.png\tstanding\t"],
    "explain {model} {data}/test --out {cache}/maps": ["predicted", "explained", "052.png"],
    "backbones": ["smallest", "vgg16", "14714688", "14 x 14 x 512", "caffe", "block5_conv3"],
    "backbones {backbone}": ["index", "edges", "8 x 8 x 8", "608", "yes"],
    "cache ls --cache-dir {cache}": ["{features}", "tiny.keras", "32 x 4 x 4 x 8", "float16", "MB"],
    "cache show {features}": [
        "{data}",
        "'lying': 16",
        "'train': 24",
        "spec.size        32",
        "'train/lying/text.jpg': ",
    ],
    "cache verify {features}": ["{features}: 32 rows sound"],
    f"cache explain {EXTRACT}": ["would compute 0 pictures and reuse 32"],
    "cache prune --dry-run --cache-dir {cache}": ["remove"],
    "report {model} --out page.html": [
        "accuracy ",
        " on 8 test rows; always saying lying would get 50.0 %",
        "page.html",
    ],
    "doctor {model}": ["cached and live probabilities agree: they differ by at most ", "on 32 pictures"],
}


@pytest.mark.parametrize("words", SAID)
def test_text_says_what_a_person_needs(words: str, made: Made) -> None:
    text = run(*made.words(words)).stdout
    for phrase in SAID[words]:
        assert phrase.format(**asdict(made)) in text


def test_every_command_is_held_in_json_and_in_text() -> None:
    assert FIELDS.keys() == SAID.keys()


def test_the_matrix_has_class_names_on_both_sides(made: Made) -> None:
    header, *rows = run("evaluate", made.model).stdout.splitlines()[-3:]
    (a, b), (c, d) = answer("evaluate", made.model)["confusion_matrix"]
    assert header.split() == ["true", "\\", "predicted", "lying", "standing"]
    assert [row.split() for row in rows] == [["lying", str(a), str(b)], ["standing", str(c), str(d)]]


def test_the_tenth_quarantined_picture_is_the_last_named(make_dataset: Callable[..., Path], own: Any) -> None:
    root = make_dataset()
    for number in range(12):
        (root / f"lying/bad{number:02}.png").write_text("text")
    notes = run("extract", root, *own).stderr
    assert notes.count(NOT_A_PICTURE) == 10 and "'lying/bad09.png'" in notes
    assert "quarantined: 2 more; `featx cache show cache/" in notes


STRANGE = ["\x1b[31mred", "two\nlines", "bell\x07", "\udcff", "café 😀"]
SHOWN = ["\\x1b[31mred", "two\\nlines", "bell\\x07", "\\udcff", "café 😀"]


def test_names_cannot_command_the_terminal(own: tuple[str, ...]) -> None:
    for kind, name in enumerate(STRANGE):
        if name != "\udcff":  # as the name of a class it goes to the quarantine
            Path("photos", name).mkdir(parents=True)
            for number in range(6):
                picture(kind, number).save(Path("photos", name, f"{number}.png"))
    Path("photos", STRANGE[0], "bad\x1b[2J\n.png").write_text("text")
    done = answer("extract", "photos", *own)
    answer("fit", "--head", "logreg", "--out", "model")
    Path("new").mkdir()
    for name in STRANGE:
        picture(0, 77).save(Path("new", f"{name}.png"))
    Path("new/bad\x1b[2J\n.png").write_text("text")
    results = {
        words: run(*words.split())
        for words in (
            f"extract photos {' '.join(own)} --cache-dir other",
            f"cache explain photos {' '.join(own)} --cache-dir empty",
            f"cache show {done['features']}",
            "evaluate model",
            "predict model new",
            "doctor model",
        )
    }
    for result in results.values():
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", result.stdout + result.stderr)
    lines = results["predict model new"].stdout.splitlines()
    assert sorted(line.split("\t")[0] for line in lines) == sorted(f"new/{name}.png" for name in SHOWN)
    for note in (results["predict model new"].stderr, results[list(results)[0]].stderr):
        assert len([line for line in note.splitlines() if r"bad\x1b[2J\n.png" in line]) == 1
    for name in {*SHOWN} - {"\\udcff"}:
        assert sum(line.startswith(name) for line in results["evaluate model"].stdout.splitlines()) == 2
    paths = [p["path"] for p in answer("predict", "model", "new")["predictions"]]
    assert sorted(paths) == sorted(f"new/{name}.png" for name in STRANGE)


def test_text_that_stdout_cannot_show_is_escaped() -> None:
    shown = finished(started("cache", "ls", "--cache-dir", "é😀", PYTHONIOENCODING="ascii"))
    assert shown == (0, "no feature files in \\xe9\\U0001f600\n", "")


@pytest.mark.parametrize("words", [["backbones"], ["backbones", "--json"], ["cache", "show", "nowhere.h5", "--json"]])
def test_a_reader_that_has_seen_enough_is_no_error(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `| head -1` does, sooner or later
    code, _, stderr = finished(started(*words, stdout=writing))
    os.close(writing)
    known = (1, "error: no such feature file: nowhere.h5\n")
    assert (code, stderr) == (known if "nowhere.h5" in words else (0, ""))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_results_that_cannot_be_written_are_an_error() -> None:
    with open("/dev/full", "w") as full:
        code, _, stderr = finished(started("backbones", stdout=full.fileno()))
    assert code == 1 and re.fullmatch(r"error: .*no space left on device\n", stderr)


# ------------------------------------------------------------------------------------------------- what to do next


def hinted(*words: Any) -> list[str]:
    """The words of the command that is hinted at after another; none if there is no hint."""
    last = run(*words).stderr.splitlines()[-1:]
    return shlex.split(last[0].removeprefix("next: featx ")) if last and last[0].startswith("next: featx ") else []


@pytest.mark.usefixtures("eagerly")
def test_hints_lead_from_pictures_to_a_checked_classifier(make_dataset: Callable[..., Path], own: Any) -> None:
    make_dataset(each=8).rename("my photos")
    words, way = ["extract", "my photos", *own], []
    while words:
        way.append(words[0])
        words = hinted(*words)
    assert way == ["extract", "fit", "evaluate", "report", "doctor"]
    assert list(Path("models").glob("my?photos-*/report.html"))


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_hints_can_be_silenced(option: str, made: Made) -> None:
    assert "next: " in run("evaluate", made.model).stderr
    assert "next: " not in run("evaluate", made.model, option).output


def test_every_training_hints_at_evaluating(made: Made) -> None:
    for words in FIELDS:
        if words.split()[0] in ("fit", "cv", "sweep", "finetune") and "--shots" not in words:
            command, model, *others = hinted(*made.words(words))
            assert command == "evaluate" and not others and Path(model, "classifier.json").is_file(), words
    assert hinted("cv", made.features, "--shots", "1,2", "--repeats", 2) == []


def test_a_hint_goes_where_the_command_went(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    where = (made.data, "--cache-dir", made.cache)
    assert hinted("evaluate", made.model, made.features) == ["report", made.model, made.features]
    assert hinted("evaluate", made.model, *where) == ["report", made.model, *where]
    moved = ("--weights", made.backbone)
    assert hinted("evaluate", made.model, *moved) == ["report", made.model, *moved]
    assert hinted("report", made.model, "--out", "a.html", *moved) == ["doctor", made.model, *moved]
    monkeypatch.setenv("FEATX_CACHE", made.cache)
    assert hinted("evaluate", made.model, made.data) == ["report", made.model, made.data]


def test_nothing_is_hinted_at_that_would_fail(make_dataset: Callable[..., Path], own: tuple[str, ...]) -> None:
    for name, root in {
        "flat": make_dataset(classes=1, name="flat") / "lying",
        "one": make_dataset(classes=1, name="one"),
        "test": make_dataset(name="tested", split="test"),
    }.items():
        command, features = hinted("extract", root, *own)
        assert command == "inspect" and Path(features).is_file(), name
    command, features = hinted("extract", make_dataset(), *own)
    assert command == "fit"
    for words in (("--head", "ridge"), ("--head", "ridge", "--validation", 0)):
        command, model = hinted("fit", features, *words, "--out", "model")
        assert command == ("doctor" if "--validation" in words else "evaluate")
        run(command, model)
    assert hinted("evaluate", "model", "--split", "train") == ["doctor", "model"]
    assert hinted("doctor", "model") == hinted("predict", "model", make_dataset()) == hinted("cache", "ls") == []


def test_an_inspection_hints_at_extracting_what_has_no_features(
    make_dataset: Callable[..., Path], own: tuple[str, ...]
) -> None:
    root = make_dataset()
    assert hinted("inspect", root) == ["extract", str(root)]
    assert hinted("inspect", root, "--cache-dir", "other") == ["extract", str(root), "--cache-dir", "other"]
    run("extract", root, *own)
    assert hinted("inspect", root) == []
    assert hinted("inspect", root, "--write-list", root / "clean.csv") == ["extract", str(root / "clean.csv")]


@pytest.mark.parametrize(
    ("worth_it", "best", "words"),
    [
        (True, "tail", ["finetune", "photos", "--size", "96", "--backbone", "resnet50"]),
        (True, "end to end", ["finetune", "photos", "--size", "96", "--backbone", "resnet50", "--unfreeze", "all"]),
        (False, "tail", []),
        (None, "tail", []),
    ],
)
def test_a_comparison_hints_at_fine_tuning_that_is_worth_it(
    worth_it: bool | None, best: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from featx.finetuning.comparison import Comparison

    found = Comparison([], "svm", best, 0.1, (0.0, 0.2), worth_it, 9, 3, 1.0, "so it is")
    monkeypatch.setattr("featx.finetuning.comparison.compare", lambda *_args, **_options: found)
    assert hinted("compare", "photos", "--backbone", "ResNet-50", "--size", 96) == words


def test_a_name_that_cannot_be_copied_is_not_hinted_at(make_dataset: Callable[..., Path]) -> None:
    make_dataset().rename("two lines")
    assert hinted("inspect", "two lines") == ["extract", "two lines"]
    os.rename("two lines", "two\nlines")
    assert "next: " not in run("inspect", "two\nlines").output
    os.rename("two\nlines", "--quiet")
    assert hinted("inspect", "--", "--quiet") == ["extract", "./--quiet"]


# ------------------------------------------------------------------------------------------------------------- progress


class Screen(io.StringIO):
    """A terminal, as far as Python can tell."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def at_a_terminal(monkeypatch: pytest.MonkeyPatch, *words: Any) -> str:
    """What somebody at a terminal of 200 columns sees of stderr."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with contextlib.redirect_stderr(Screen()) as screen:
        assert app([*map(str, words)], standalone_mode=False) == 0
    return screen.getvalue()


def test_a_terminal_gets_a_bar(
    make_dataset: Callable[..., Path], own: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = at_a_terminal(monkeypatch, "extract", make_dataset(), *own, "--batch-size", 1)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert re.search(r"extracting ━+ 16/16 \d+\.\d/s \d+:\d\d:\d\d", plain)
    assert "building the trunk" in plain and "looking through the pictures" in plain
    assert shown.count("\x1b[?25h") == shown.count("\x1b[?25l") > 0  # the cursor is back
    assert "s left" not in plain


def test_quiet_keeps_a_terminal_empty(
    make_dataset: Callable[..., Path], own: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert at_a_terminal(monkeypatch, "extract", make_dataset(), *own, "--quiet") == ""


def test_without_a_terminal_progress_is_lines(make_dataset: Callable[..., Path], own: tuple[str, ...]) -> None:
    words = ("extract", make_dataset(), *own, "--batch-size", 1)
    lines = run(*words).stderr.splitlines()
    assert re.fullmatch(r"looking through the pictures: 16/16, \d+\.\d/s, 0 s left", lines[0])
    assert re.fullmatch(r"extracting: 16/16, \d+\.\d/s, 0 s left", lines[1])
    assert lines[2].startswith("next: featx fit cache/") and len(lines) == 3


def test_progress_lines_come_now_and_then(
    make_dataset: Callable[..., Path], own: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featx.cli.terminal.SECONDS_BETWEEN_LINES", -1.0)
    lines = run("extract", make_dataset(), *own, "--batch-size", 1).stderr.splitlines()
    extracting = [line.removeprefix("extracting: ") for line in lines if line.startswith("extracting: ")]
    assert [line.split(",")[0] for line in extracting] == [f"{done}/16" for done in range(17)]
    assert re.fullmatch(r"4/16, \d+\.\d/s, \d+ s left", extracting[4])


@pytest.mark.usefixtures("eagerly")
def test_quiet_says_nothing_but_errors(made: Made, own: tuple[str, ...]) -> None:
    for words in (("extract", made.data, *own), ("fit", "--head", "mlp", *FEW), ("predict", made.model, made.data)):
        assert run(*words).stderr != ""
        shutil.rmtree("cache") if words[0] == "extract" else None
        assert run(*words, "--quiet").stderr == ""
    assert run("cache", "show", "nowhere.h5", "--quiet", code=1).stderr == "error: no such feature file: nowhere.h5\n"


COMMANDS = """
import json, sys
from featx.cli import app
for words in json.loads(sys.argv[1]):
    app(words, standalone_mode=False)
"""


def test_programs_are_free_of_chatter(made: Made) -> None:
    """Of TensorFlow's, that is. And JSON is JSON, whatever stdout cannot show."""
    name = "é😀.png"
    shutil.copyfile(f"{made.data}/test/lying/050.png", name)
    fit = ["fit", made.features, "--head", "bn-mlp", "--epochs", "1"]
    predict = ["predict", made.model, name, "--quiet", "--json"]
    program = ("-c", COMMANDS, json.dumps([fit, predict]))
    code, stdout, stderr = finished(started(program=program, PYTHONIOENCODING="ascii"))
    assert code == 0 and re.fullmatch(r"training: 1/1.*\nnext: featx evaluate models/.*\n", stderr)
    head, model, predicted = stdout.splitlines(keepends=True)
    assert head.startswith("bn-mlp: ") and model.startswith("models/")
    assert [p["path"] for p in parsed(predicted)["predictions"]] == [name]


class Nobody(io.StringIO):
    """A stderr whose reader has gone."""

    def write(self, _text: str) -> int:
        """As to a closed pipe."""
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_work_goes_on_when_nobody_reads_stderr(made: Made, own: tuple[str, ...]) -> None:
    with contextlib.redirect_stderr(Nobody()):
        assert app(["extract", made.data, *own], standalone_mode=False) == 0
    assert answer("cache", "ls")["files"][0]["shape"] == [32, 4, 4, 8]


# ---------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_help_has_an_example(words: tuple[str, ...]) -> None:
    text = run(*words, "--help").stdout
    assert "Example: featx " + " ".join(words) in text
    for option in ("--json", "--quiet", "--debug"):
        assert option in text


def test_help_lists_thecommands() -> None:
    text, within = run("--help").stdout, run("cache", "--help").stdout
    for words in commands():
        assert re.search(rf"^\W+{words[-1]}\s", text if len(words) == 1 else within, re.MULTILINE)
    assert run("--version").stdout == f"featx {featx.__version__}\n"


# ------------------------------------------------------------------------------------------------------------- the demo


@pytest.fixture
def sixty_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first 60 digits only, and short training."""
    import sklearn.datasets

    import featx.demo

    digits = sklearn.datasets.load_digits()
    digits.images, digits.target = digits.images[:60], digits.target[:60]
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: digits)
    monkeypatch.setitem(featx.demo.HEADS, "bn-mlp", {**featx.demo.HEADS["bn-mlp"], "epochs": 2})


@pytest.mark.usefixtures("eagerly")
def test_the_demo_shows_every_step(sixty_digits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featx.demo.SIZE", 32)

    def demo() -> list[dict[str, Any]]:
        stdout = run("demo", "--out", "show", "--weights", "random", "--json").stdout
        return [json.loads(line) for line in stdout.splitlines()]

    steps = demo()
    assert [step["step"] for step in steps] == ["pictures", "extract", "fit", "fit", "fit", "done"]
    assert steps[0]["count"] == 60 and steps[1]["computed"] == 60
    last = steps[-1]
    assert last["weights"] == "random" and last["seconds"] > 0
    assert [head["head"] for head in last["heads"]] == ["bn-mlp", "logreg", "svm"]
    for head in last["heads"]:
        _has(head, {"head": str, "test_accuracy": float, "seconds": float, "model": str})
        assert answer("evaluate", head["model"])["accuracy"] == head["test_accuracy"]
    assert max(head["test_accuracy"] for head in last["heads"]) > 0.1  # of guesses, one in ten is right
    assert set(last["written"]) == {"pictures", "features", "models"}
    assert all(Path(path).exists() and Path(path).is_relative_to("show") for path in last["written"].values())
    assert len(list(Path("show/digits").glob("test/*/*.png"))) == 12
    assert demo()[1]["computed"] == 0


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("network", [True, False])
def test_the_demo_says_which_weights_it_had(
    network: bool, sixty_digits: None, tiny_backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stand_in(dataset: Path, **options: Any) -> Any:
        if options["weights"] == "imagenet" and not network:
            raise WeightsError("no network")
        return featx.extract(dataset, **{**options, "backbone": tiny_backbone, "preprocess": "rescale", "size": 32})

    monkeypatch.setattr("featx.demo.extract", stand_in)
    result = run("demo")
    used = "imagenet" if network else "random"
    assert f"VGG16 ({used} weights) at 48 x 48 pixels: 60 listed = 60 rows + 0 quarantined" in result.stderr
    assert f"VGG16 had {used} weights" in result.stderr
    assert "test accuracy" in result.stdout and "featx-demo/models" in result.stdout
    assert result.stderr.splitlines()[-1].startswith("next: featx report featx-demo/models/")
    if not network:
        assert answer("demo", "--weights", "imagenet", code=1)["error"] == "no network"


def test_the_demo_leaves_other_folders_alone() -> None:
    Path("mine/digits").mkdir(parents=True)
    said = answer("demo", "--out", "mine", code=1)["error"]
    assert said == "mine/digits exists and is not the demo's; give another --out"
    assert math.isclose(len(list(Path("mine").rglob("*"))), 1)
