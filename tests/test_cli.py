"""What people read: text, the next command, progress, help, the demo."""

from __future__ import annotations

import contextlib
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
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import commands, picture
from shared_cli import EXTRACT, FEW, FIELDS, NOT_A_PICTURE, Made, answer, parsed, require_fields, run

import featx
from featx.cli import app
from featx.errors import WeightsError

pytest_plugins = ["shared_cli"]

pytestmark = pytest.mark.usefixtures("workshop")


ROOT = Path(featx.__file__).parents[1]


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


# ------------------------------------------------------------------------------------------------------ what to do next


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


# ----------------------------------------------------------------------------------------------------------------- help


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
        require_fields(head, {"head": str, "test_accuracy": float, "seconds": float, "model": str})
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
