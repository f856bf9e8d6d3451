"""The benchmark suite: killed and gone on with, reported on, and what it computes from what it measured."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import picture, until
from PIL import Image
from scipy import stats

import featx
from benchmarks import extract as extraction_bench
from benchmarks.__main__ import main
from benchmarks.suite import cell as cells
from benchmarks.suite import runner
from benchmarks.suite.grid import METHODS, PIXELS, Cell, Pictures
from benchmarks.suite.plots import COLOURS, spread
from benchmarks.suite.report import Comparison, Row, rows_of, sentences, student_interval

ROOT = runner.ROOT


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten training pictures and four test pictures of each of two classes, and two more of the second for training."""
    folder = tmp_path_factory.mktemp("benchmarks") / "stripes"
    for split, numbers in {"train": range(10), "test": range(50, 54)}.items():
        for kind, name in enumerate(["lying", "standing"]):
            (folder / split / name).mkdir(parents=True)
            for number in [*numbers, *([10, 11] if (split, kind) == ("train", 1) else [])]:
                picture(kind, number).save(folder / split / name / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module")
def words(data: Path, tiny_backbone: str) -> list[str]:
    """The options of a small grid: features, majority twice, and logreg four times."""
    network = ["--backbones", tiny_backbone, "--preprocess", "rescale", "--size", "32"]
    methods = ["--methods", "majority", "logreg", "--shots", "2", "all", "--seeds", "0", "1"]
    return ["--data", str(data), *network, *methods, "--out", str(data.parent / "results")]


@pytest.fixture(scope="module")
def killed(words: list[str]) -> dict[str, bytes]:
    """What a run had finished when it was killed in the midst of it; its process, and that of the cell, are gone."""
    cells_folder = Path(words[-1]) / "cells"
    command = [sys.executable, "-m", "benchmarks", *words]
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(command, cwd=ROOT, stdout=nowhere, stderr=nowhere)
    until(lambda: len(list(cells_folder.glob("[!.]*.json"))) >= 3 or process.poll() is not None, 300)
    assert process.poll() is None
    of_cell = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for_the_end_of(of_cell)
    return {file.name: file.read_bytes() for file in cells_folder.glob("[!.]*.json")}


@pytest.fixture(scope="module")
def finished(killed: dict[str, bytes], words: list[str]) -> Iterator[tuple[int, int]]:
    """After the same command once more: its exit code, and how many processes it needed."""
    with pytest.MonkeyPatch.context() as patch:
        started = counted_processes(patch)
        yield main(words), len(started)


def children(pid: int) -> list[int]:
    """Processes that a process has started, where the system tells."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in file.read_text().split()] if file.exists() else []


def wait_for_the_end_of(processes: list[int]) -> None:
    """Return when they are gone; fail if they live on for a minute."""
    places = [Path(f"/proc/{pid}/cmdline") for pid in processes]
    until(lambda: not any(place.exists() and place.read_bytes() for place in places))


def counted_processes(patch: pytest.MonkeyPatch) -> list[cells.Job]:
    """Grows by one a cell that is run in a process."""
    started: list[cells.Job] = []
    real = runner._in_a_process

    def counted(job: cells.Job) -> dict[str, Any]:
        started.append(job)
        return real(job)

    patch.setattr(runner, "_in_a_process", counted)
    return started


def test_after_a_kill_only_the_rest_is_run(
    killed: dict[str, bytes], finished: tuple[int, int], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, processes = finished
    assert (code, processes) == (0, 7 - len(killed))
    folder = Path(words[-1]) / "cells"
    assert len(list(folder.glob("[!.]*.json"))) == 7
    assert all((folder / name).read_bytes() == content for name, content in killed.items())
    again = counted_processes(monkeypatch)
    assert main(words) == 0
    assert again == []


def test_what_is_measured(finished: tuple[int, int], words: list[str]) -> None:
    records = json.loads((Path(words[-1]) / "results.json").read_text())
    rows = {(row.cell.method, row.cell.shots): row for row in rows_of(records)["stripes"]}
    assert set(rows) == {("majority", 2), ("majority", None), ("logreg", 2), ("logreg", None)}
    floor, logreg = rows["majority", None], rows["logreg", None]
    assert (floor.right, floor.accuracy) == ((4, 8), 0.5)
    assert math.isclose(floor.mean("log_loss"), -np.log(10 / 22 * 12 / 22) / 2)
    assert sorted(logreg.runs) == [0, 1]
    assert logreg.accuracy == logreg.right[0] / logreg.right[1] > 0
    assert logreg.per_class == 11
    assert rows["logreg", 2].per_class == 2
    assert logreg.features["pictures"] == 30
    assert logreg.features["shape"] == [4, 4, 8]
    assert logreg.features["disk_bytes"] > 30 * 4 * 4 * 8 * 2
    assert 2**25 < floor.peak_bytes < logreg.features["peak_bytes"] <= logreg.peak_bytes  # the last two had TensorFlow
    for run in logreg.runs.values():
        assert run["seconds_to_95"] == run["seconds_to_99"] == run["train_seconds"] > 0
        assert run["wilson95"][0] < run["accuracy"] <= run["wilson95"][1]
    assert all(record["environment"]["keras"] for record in records)
    assert str(Path(words[-1]).parent) not in json.dumps(records)  # results can be shown to others


def test_report_is_made_again_without_computing(
    finished: tuple[int, int], words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(words[-1])
    made = [folder / f"accuracy-{what}.{suffix}" for what in ("time", "shots") for suffix in ("png", "svg")]
    for file in [*made, folder / "results.md", folder / "results.json"]:
        file.unlink()
    started = counted_processes(monkeypatch)
    runner.Results(folder).ask([])  # as if the last grid had been another
    assert main(["report", "--out", str(folder)]) == 0
    assert "logreg" not in capsys.readouterr().out
    assert main(["report", "--all", "--out", str(folder)]) == 0
    assert started == []
    text = (folder / "results.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in table] == ["| method", "| ---", *["| majority", "| logreg"] * 2]
    assert len({line.count("|") for line in table}) == 1
    assert "Student's t" in text
    for file in made:
        if file.suffix == ".svg":
            assert ElementTree.parse(file).getroot().tag.endswith("svg")
        else:
            with Image.open(file) as image:
                assert min(image.size) > 300


def test_a_failed_cell_is_named_and_the_rest_goes_on(
    finished: tuple[int, int], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--shots", "all", "--seeds", "0", "--validation", "1.5"]
    assert main([*words, *more]) == 1
    shown = capsys.readouterr()
    why = "`validation` must be at least 0 and below 1, got 1.5"
    assert f"logreg all seed 0 ... FAILED, {why}" in shown.err
    assert "failed cells: 1; " in shown.err
    assert f"## Failed\n\n- stripes tiny logreg all seed 0: {why}" in shown.out
    assert "| majority | all (11) | 0.500 (one seed) |" in shown.out


def test_without_features_nothing_is_trained(
    data: Path, tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "_in_a_process", lambda job: {"error": "no more room"})
    assert main([*words[:-1], str(tmp_path / "results"), "--methods", "logreg"]) == 1
    assert capsys.readouterr().err.count("FAILED, no features to train on: no more room") == 4


def test_interrupted(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(job: cells.Job) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_in_a_process", interrupt)
    assert main([*words[:-1], str(tmp_path)]) == 130
    assert "interrupted: 0 of 7 cells are done; run the same command again to go on" in capsys.readouterr().err


def test_a_process_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    job = cells.Job(Cell("d", "", "majority"), "", "", {})
    monkeypatch.setattr(sys, "executable", "false")
    assert runner._in_a_process(job) == {"error": "its process ended with 1"}
    ended = subprocess.CompletedProcess([], -9, "", "")
    assert runner._why(ended) == "its process was ended by signal 9; is there enough memory?"


def test_one_run_at_a_time(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with runner.Results(tmp_path).lock():
        assert main([*words[:-1], str(tmp_path)]) == 1
    assert "error: another run is under way" in capsys.readouterr().err


def test_help_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    modules = [file.stem for file in (ROOT / "benchmarks").glob("[a-z]*.py")]
    assert {"heads", "defaults", "memory"} <= set(modules)
    for name in [*(f"python -m benchmarks.{module}" for module in modules), *METHODS, "--quick", "report"]:
        assert name in shown, name


@pytest.mark.parametrize(
    "words, said",
    [
        (["--data", "nowhere"], "no such data set: nowhere"),
        (["--shots", "0"], "--shots takes numbers from 1"),
        (["--seeds", "-1"], "--seeds takes numbers from 0"),
        (["--backbones", "xception"], "--tail LAYER: which layer of xception is the first to train"),
        (["--backbones", "nonesuch"], "unknown backbone"),
        (["--weights", "gone.weights.h5"], "gone.weights.h5 cannot be read"),
        (["--methods", "magic"], "invalid choice: 'magic'"),
    ],
)
def test_wrong_usage(
    data: Path, words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--data", str(data), "--out", str(tmp_path / "results"), *words])
    assert said in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_no_test_pictures(make_dataset: Any) -> None:
    with pytest.raises(featx.FeatxError, match="needs labelled training and test pictures"):
        Pictures.of(make_dataset())


# ------------------------------------------------------------------------------------------------------------- methods


@pytest.mark.parametrize("method, trains", [("tail", "last"), ("end-to-end", "all"), ("scratch", "cnn4")])
def test_fine_tuning(method: str, trains: str, data: Path, tmp_path: Path, tiny_backbone: str) -> None:
    size = 48 if method == "scratch" else 32
    recipe: dict[str, Any] = {"size": size}
    network: dict[str, Any] = {}
    if method != "scratch":
        network = {"backbone": "tiny", "preprocess": "rescale"}
        recipe |= {"backbone": tiny_backbone, "preprocess": "rescale", "weights": "imagenet"}
    cell = Cell("stripes", "", method, trains, size=size, seed=0, epochs=2, validation=0.2, **network)
    pictures = Pictures.of(data)
    labels = str(pictures.write_labels(tmp_path / "work", "all", pictures.drawn(None, 0)))
    features = cells.Job(cell.features or cell, labels, str(tmp_path / "cache"), recipe)
    job = cells.Job(cell, labels, str(tmp_path / "cache"), recipe)
    if not hasattr(featx, "finetune"):
        for one in (features, job):
            with pytest.raises(featx.FeatxError, match="no finetune"):
                cells.measure(one)
        return
    extracted = cells.measure(features)
    assert extracted["shape"] == ((4, 4, 8) if method == "tail" else (size, size, 3))
    assert extracted["pictures"] == 30
    measured = cells.measure(job)
    assert len(list((tmp_path / "cache").glob("*.h5"))) == 1  # it trained on what was extracted, and on nothing else
    assert (measured["training_pictures"], measured["test_rows"], measured["epochs"]) == (22, 8, 2)
    assert 0 < measured["seconds_to_95"] <= measured["seconds_to_99"] <= measured["train_seconds"]
    curve = measured["validation_curve"]
    assert len(curve) == (2 if method == "scratch" else 3)
    assert curve == sorted(curve, key=lambda point: point[0])
    assert measured["seconds_per_epoch"] > 0


def test_all_that_trains_on_pixels_shares_them() -> None:
    common: dict[str, Any] = {"size": 96, "seed": 3, "epochs": 2, "validation": 0.2}
    whole = Cell("d", "p", "end-to-end", "all", backbone="vgg16", weights="imagenet", preprocess="auto", **common)
    nothing = Cell("d", "p", "scratch", "cnn4", **common)
    assert whole.features == nothing.features == Cell("d", "p", "features", PIXELS, size=96)
    assert whole.features.features is None


def test_drawing(data: Path) -> None:
    pictures = Pictures.of(data)
    few, more = ({p.path for p in pictures.drawn(shots, 0)} for shots in (2, 5))
    assert few < more
    assert len(few) == 4
    assert few != {p.path for p in pictures.drawn(2, 1)}
    assert len(pictures.drawn(100, 0)) == len(pictures.drawn(None, 0)) == 22


# ------------------------------------------------------------------------------------------------------------- figures


def test_clock() -> None:
    """Two epochs of two steps, the first of which compiles; validation shows as a pause before the next epoch."""
    clock = cells.Clock()
    clock.ticks = [
        ("building the trunk", 0, 0, 0.5),
        ("training", 0, 80, 2.0),
        *[("training", 20, 80, 7.0), ("training", 40, 80, 8.0), ("training", 40, 80, 8.5)],
        *[("training", 60, 80, 9.5), ("training", 80, 80, 10.5)],
    ]
    assert clock.building() == 1.5
    assert clock.first_beyond_median("training") == 4.0
    assert clock.epoch_ends(2) == [2.0, 8.5, 10.5]
    assert clock.epoch_ends(1) == [2.0, 10.5]
    assert cells.Clock().epoch_ends(5) == []


def test_seconds_to() -> None:
    curve = [(1.0, 0.5), (2.0, 0.77), (3.0, 0.8), (4.0, 0.79)]
    assert cells.seconds_to(0.95, curve, 9.0) == 2.0
    assert cells.seconds_to(0.99, curve, 9.0) == 3.0
    assert cells.seconds_to(0.99, [], 9.0) == 9.0


def test_intervals() -> None:
    values = [0.9, 0.94, 0.95, 0.91]
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert student_interval(values) == pytest.approx(expected)
    assert all(map(math.isnan, student_interval([0.9])))


def row(method: str, accuracies: dict[int, float], seconds: float = 1.0) -> Row:
    """Runs by seed of a method on all pictures."""
    runs = {seed: {"accuracy": accuracy, "train_seconds": seconds} for seed, accuracy in accuracies.items()}
    return Row(Cell("d", "p", method, backbone="vgg16"), runs, {"features_seconds": 10.0})


def test_differences_are_paired_by_seed() -> None:
    tuned = row("end-to-end", {0: 0.90, 1: 0.80, 2: 0.70, 3: 0.5})
    same_for_all = Comparison(row("logreg", {0: 0.92, 1: 0.82, 2: 0.72}), tuned)
    assert same_for_all.differences == pytest.approx([2, 2, 2])
    assert str(same_for_all) == "logreg +2.0 (+2.0 to +2.0)"
    assert str(Comparison(row("svm", {0: 0.9}), tuned)) == "svm +0.0 (one seed)"


def test_sentences() -> None:
    tuned, logreg = row("end-to-end", {0: 0.9, 1: 0.8}, 90.0), row("logreg", {0: 0.93, 1: 0.83})
    assert sentences([row("majority", {0: 0.5}), logreg, tuned]) == [
        "With all training pictures, vgg16: **frozen heads not behind end-to-end fine-tuning** (0.850): logreg +3.0 "
        "(+3.0 to +3.0). They take 11 s at most to features and training, fine-tuning 100 s."
    ]
    (said,) = sentences([logreg, row("knn", {0: 0.88, 1: 0.8}), tuned])
    assert "**frozen heads within 1.0 points of end-to-end fine-tuning** (0.850): logreg +3.0" in said
    assert "knn -1.0 (-13.7 to +11.7)" in said
    assert sentences([logreg]) == []


@pytest.mark.parametrize("heights", [[], [0.5], [0.5, 0.5, 0.5, 0.9], [0.99, 0.98, 0.1], list(np.linspace(0, 1, 12))])
def test_labels_keep_apart(heights: list[float]) -> None:
    placed = spread(heights, 0.05, 0.0, 1.0)
    assert len(placed) == len(heights)
    assert np.all(np.diff(np.sort(placed)) > 0.05 - 1e-9)
    assert list(np.argsort(placed, kind="stable")) == list(np.argsort(heights, kind="stable"))
    assert all(-1e-9 <= height <= 1 + 1e-9 for height in placed)


def test_every_method_has_its_colour() -> None:
    assert set(COLOURS) == set(METHODS)
    assert len(set(COLOURS.values())) == len(METHODS)


# ---------------------------------------------------------------------------------------------------------- extraction


def test_rates_are_set_against_their_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The limit of an engine, the bound that decoding leaves of it, and the peer: by hand."""
    rates = {"keras_recipe": 50.0, "decoding": 400.0, "forward": 100.0, "featx_extract": 72.0}
    asked: list[str] = []

    def told(name: str, **arguments: Any) -> dict[str, Any]:
        asked.append(name)
        return {"rate": rates[name], "computing": 76.0}

    monkeypatch.setattr(extraction_bench, "measured", told)
    monkeypatch.setattr(extraction_bench, "web_photos", lambda *_: "photos")
    keras, openvino = extraction_bench.speed(tmp_path, tmp_path, 10, {"mobilenetv2": 3})
    assert (keras["engine"], openvino["engine"]) == ("keras", "openvino")
    assert keras["bound"] == pytest.approx(80) and keras["of the bound"] == pytest.approx(0.95)
    assert keras["of the limit"] == pytest.approx(0.76) and keras["times the peer"] == pytest.approx(1.44)
    assert asked[:6] == ["keras_recipe", "decoding", *["forward", "featx_extract"] * 2] and len(asked) == 18


def test_an_extraction_is_measured_as_it_happens(tmp_path: Path, tiny_backbone: str) -> None:
    for number in range(12):
        (tmp_path / "data" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        picture(number % 2, number).save(tmp_path / "data" / str(number % 2) / f"{number}.png")
    recipe = {"backbone": tiny_backbone, "preprocess": "rescale"}
    found = extraction_bench.featx_extract(str(tmp_path / "data"), recipe, batch_size=4)
    assert 0 < found["rate with start"] <= found["rate"] <= found["computing"] and found["trunk"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"], "the cache is gone again"
    assert extraction_bench.decoding(str(tmp_path / "data"), recipe)["rate"] > 0


def test_tables_show_medians_and_extremes() -> None:
    assert extraction_bench.spread([3.0]) == "3" and extraction_bench.spread([3.0, 1.0, 2.0]) == "2 (1 to 3)"
    rows = [{"a": 1.23456, "b": "x"}, {"a": 2, "c": True}]
    lines = ["| a | b | c |", "| --- | --- | --- |", "| 1.23 | x |  |", "| 2 |  | True |"]
    assert extraction_bench.as_table(rows) == "\n".join(lines)
