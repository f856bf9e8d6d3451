"""How commands end: exit codes, errors of one line, interrupts."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest
from conftest import picture
from shared_cli import NOT_A_PICTURE, Made, answer, parsed, run

from featx.backbones import KerasTrunk

pytest_plugins = ["shared_cli"]

pytestmark = pytest.mark.usefixtures("workshop")


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
