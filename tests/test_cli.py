"""The command line, as other programs call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import featx
from featx.cli import app

ROOT = Path(featx.__file__).parents[1]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)

    def run(*words: Any, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [*map(str, words), "--json"])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    return run


def test_from_pictures_to_predictions(
    call: Callable[..., Any], make_dataset: Callable[..., Path], tiny_backbone: str, tmp_path: Path
) -> None:
    make_dataset(each=10, split="train")
    root = make_dataset(each=4, split="test", first=50)
    own = ("--backbone", tiny_backbone, "--preprocess", "rescale")
    done = call("extract", root, *own)
    assert (done["listed"], done["rows"], done["quarantined"], done["computed"]) == (28, 28, 0, 28)
    assert done["shape"] == [28, 4, 4, 8] and done["engine"].startswith("keras-")
    model = call("fit", "--head", "logreg", "--input", "flat", "--C", "0.1")
    assert model["head"] == "logreg" and model["train_rows"] == 20 and model["validation_rows"] == 4
    found = call("evaluate", model["model"])
    assert found["rows"] == 8 and found["split"] == "test" and len(found["ci95"]) == 2
    (tmp_path / "bad.jpg").write_text("text")
    predicted = call("predict", model["model"], root / "test", "bad.jpg", "--csv", "out.csv")
    assert len(predicted["predictions"]) == 8
    assert predicted["quarantined"] == [{"path": "bad.jpg", "reason": "not a picture in a format that can be read"}]
    assert len(Path("out.csv").read_text().splitlines()) == 9
    assert call("doctor", model["model"])["ok"] is True
    assert [f["features"] for f in call("cache", "ls")["files"]] == [done["features"]]
    assert call("cache", "show", done["features"])["splits"] == {"train": 20, "test": 8}
    assert call("cache", "verify")["ok"] is True
    assert call("cache", "explain", root, *own)["would_compute"] == 0
    assert call("cache", "prune", "--dry-run")["removed"] == []


def test_a_damaged_file_fails_verify(
    call: Callable[..., Any], make_dataset: Callable[..., Path], tiny_backbone: str
) -> None:
    done = call("extract", make_dataset(), "--backbone", tiny_backbone, "--preprocess", "rescale")
    data = Path(done["features"]).read_bytes()
    Path(done["features"]).write_bytes(data[: len(data) // 2])
    assert call("cache", "verify", code=1)["ok"] is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["extract", "nowhere"], "no such data set: nowhere"),
        (["extract", ".", "--backbone", "vgg17"], "unknown backbone 'vgg17'; did you mean"),
        (["extract", ".", "--size", "28"], "at least 32 x 32 pixels, got --size 28"),
        (["fit"], "no feature file in cache; run `featx extract DATASET` first"),
        (["evaluate", "nowhere"], "nowhere is not a classifier"),
        (["backbones", "resnet51"], "unknown backbone 'resnet51'"),
    ],
)
def test_errors_are_one_line(call: Callable[..., Any], words: list[str], message: str) -> None:
    assert message in call(*words, code=1)["error"]


def test_wrong_usage_is_2() -> None:
    assert CliRunner().invoke(app, ["fit", "--no-such-option"]).exit_code == 2


def test_backbones_are_listed(call: Callable[..., Any]) -> None:
    rows = call("backbones")["backbones"]
    assert len(rows) == 40 and rows[0]["name"] == "vgg16" and rows[0]["smallest_size"] == 32
    layers = call("backbones", "vgg16")["layers"]
    assert layers[-1]["name"] == "block5_pool" and layers[-1]["cut"] and layers[-1]["tail"]


def test_the_terminal_is_free_of_chatter(make_dataset: Callable[..., Path], tiny_backbone: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "featx", "extract", str(make_dataset()), "--backbone", tiny_backbone]
    done = subprocess.run(
        [*command, "--preprocess", "rescale", "--quiet"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stderr == ""
    assert "16 listed = 16 rows + 0 quarantined" in done.stdout


@pytest.mark.parametrize("words", [[], ["extract"], ["fit"], ["predict"], ["cache", "prune"], ["demo"]])
def test_help_has_an_example(words: list[str]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert not words or "Example: featx " + " ".join(words) in result.stdout
