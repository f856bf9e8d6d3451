"""What options of commands change."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from shared_cli import FEW, Made, answer, parsed, run

import featx
from featx.pictures import MAX_PIXELS

pytest_plugins = ["shared_cli"]

pytestmark = pytest.mark.usefixtures("workshop")


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
