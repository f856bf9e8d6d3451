"""The sweep: what it tries and keeps, that it goes on after any end, and which rows it looks at."""

from __future__ import annotations

import copy
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import h5py
import joblib
import numpy as np
import optuna
import pytest
from conftest import picture
from typer.testing import CliRunner

import featx
from featx._internal.parallel import share_of_cores, threads_in_environment
from featx.cache import Features
from featx.cli import app
from featx.errors import SettingError, SweepError, TrainingError
from featx.heads import HEADS, BNMLPHead, MLPHead
from featx.rows import Rows, inputs_of, read_rows
from featx.selection.sweep import PRUNERS, Sweep, Trial, search_space, training
from featx.selection.sweep import space as spaces
from featx.selection.sweep import study as studies

ROOT = Path(featx.__file__).parents[1]
EVERYTHING = [*spaces.SPACE, "epochs", "patience", "random_state"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training pictures and 8 test pictures of two classes."""
    folder = tmp_path_factory.mktemp("sweep") / "data"
    for split, numbers in {"train": range(12), "test": range(50, 54)}.items():
        for kind, name in enumerate(["lying", "standing"]):
            (folder / split / name).mkdir(parents=True)
            for number in numbers:
                picture(kind, number).save(folder / split / name / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module")
def file(data: Path, tiny_backbone: str) -> Path:
    """Their features, maps of 4 x 4 x 8."""
    done = featx.extract(data, backbone=tiny_backbone, preprocess="rescale", cache_dir=data.parent / "cache")
    return Path(done.features_path)


@pytest.fixture(autouse=True)
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eagerly: None) -> None:
    """An empty folder to work in, and quick training."""
    monkeypatch.delenv("FEATX_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)


def sweep(features: Any, head: str = "mlp", **options: Any) -> Sweep:
    """A sweep of short trainings of narrow heads."""
    return featx.sweep(features, head, **{"trials": 3, "epochs": 2, "hidden": 4, **options})


def told(trials: list[Trial]) -> list[tuple[Any, ...]]:
    """What two equal sweeps have in common."""
    return [(t.number, t.state, t.params, t.mean_accuracy, t.log_loss, t.epochs) for t in trials]


def with_columns(features: Features, **columns: Any) -> Features:
    """The same features with other columns."""
    other = copy.copy(features)
    for name, value in columns.items():
        setattr(other, name, value)
    return other


def fit_of(monkeypatch: pytest.MonkeyPatch, replaced: Callable[[int, Callable[[], Any]], Any]) -> list[int]:
    """Let ``replaced(number of the call from 0, the real fit)`` stand in for the fit of ``mlp``; returns the calls."""
    real, calls = MLPHead.fit, []

    def fit(self: MLPHead, X: Any, y: Any, validation_data: Any = None, progress: Any = None, **more: Any) -> Any:
        calls.append(len(X))
        return replaced(len(calls) - 1, lambda: real(self, X, y, validation_data, progress, **more))

    monkeypatch.setattr(MLPHead, "fit", fit)
    return calls


# ----------------------------------------------------------------------------------------------------------- the space


@pytest.mark.parametrize("head", spaces.SWEPT_HEADS)
def test_the_defaults_have_a_place(head: str) -> None:
    space = search_space(head, ["avg", "max", "flat"])
    places = spaces.defaults(head, space)
    for name, place in places.items():
        assert space[name].distribution._contains(space[name].distribution.to_internal_repr(place)), name
    params = HEADS[head]().get_params()
    assert studies.decoded(places, space) == {name: params[name] for name in places}


def test_a_head_is_searched_in_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"hidden", "dropout", "learning_rate", "batch_size"}
    for head in spaces.SWEPT_HEADS:
        assert own <= set(search_space(head, ["avg"])) <= set(HEADS[head]._get_param_names())
    monkeypatch.setattr(BNMLPHead, "_get_param_names", classmethod(lambda cls: EVERYTHING))
    assert list(search_space("bn-mlp", ["avg", "flat"])) == list(spaces.SPACE)
    assert set(search_space("bn-mlp", ["avg"], ["layers"])) == set(spaces.SPACE) - {"input", "layers"}
    monkeypatch.setattr(BNMLPHead, "_get_param_names", classmethod(lambda cls: ["hidden", "epochs"]))
    assert list(search_space("bn-mlp", ["avg", "max"])) == ["hidden"]


VALUES: dict[str, Callable[[Any], bool]] = {
    "input": lambda value: value in ("flat", "avg", "max"),
    "layers": lambda value: value in (1, 2, 3) and isinstance(value, int),
    "hidden": lambda value: value in (64, 128, 256, 512, 1024),
    "dropout": lambda value: 0 <= value <= 0.8 and value == round(value, 2),
    "batch_norm": lambda value: value in (True, False) and isinstance(value, bool),
    "learning_rate": lambda value: 1e-4 <= value <= 1e-2,
    "weight_decay": lambda value: value == 0 or 1e-6 <= value <= 0.1,
    "batch_size": lambda value: value in (16, 32, 64, 128, 256),
    "label_smoothing": lambda value: 0 <= value <= 0.2 and value == round(value, 2),
    "mixup": lambda value: 0 <= value <= 0.4 and value == round(value, 1),
}


@pytest.mark.parametrize("name", spaces.SPACE)
def test_places_stand_for_values_a_practitioner_would_try(name: str) -> None:
    scale = spaces.SPACE[name]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    values = [scale.decode(study.ask({name: scale.distribution}).params[name]) for _ in range(60)]
    assert all(map(VALUES[name], values)) and len(set(values)) > 1
    assert all(scale.decode(scale.encode(value)) == value for value in values)
    assert name != "weight_decay" or 3 <= values.count(0.0) <= 20  # a decade of six


# ---------------------------------------------------------------------------------------------------- what it has found


@pytest.mark.parametrize("head", spaces.SWEPT_HEADS)
def test_the_first_trial_is_the_heads_defaults_and_the_best_is_fitted(head: str, file: Path, tmp_path: Path) -> None:
    fixed = {"hidden": 4, "epochs": 2}
    found = sweep(file, head, storage="s.db")
    first, params = found.trials[0], HEADS[head]().get_params()
    assert first.params == fixed | {name: params[name] for name in first.params if name not in fixed}
    assert [t.number for t in found.trials] == [0, 1, 2] and {t.state for t in found.trials} == {"complete"}
    fit = featx.fit(file, head, **first.params)
    assert (first.mean_accuracy, first.epochs) == (fit.fitting.validation_accuracy, fit.fitting.epochs)
    held_out = featx.load_features(file)
    loss = fit.evaluate(held_out, "validation").log_loss
    assert first.log_loss == pytest.approx(loss, rel=1e-3)
    assert found.best == max(found.trials, key=lambda t: (t.mean_accuracy, -(t.log_loss or 0)))
    assert found.best.mean_accuracy == found.classifier.fitting.validation_accuracy
    assert found.best.params.items() <= found.classifier.head.get_params().items()
    assert found.classifier.fitting.train_rows == 24  # fitted again on all training rows
    again = featx.Classifier.load(found.classifier.save(tmp_path / "model"))
    assert again.evaluate(held_out).rows == 8
    assert found.storage == Path("s.db") and found.seconds > 0 and all(t.seconds > 0 for t in found.trials)


def test_the_same_seed_gives_the_same_trials(file: Path) -> None:
    one, same, other = (sweep(file, random_state=seed) for seed in (0, 0, 1))
    assert told(one.trials) == told(same.trials) and one.storage is None
    assert [t.params for t in one.trials[1:]] != [t.params for t in other.trials[1:]]
    assert len({json.dumps(t.params) for t in one.trials}) == 3


def test_what_is_given_is_not_searched(file: Path) -> None:
    found = sweep(file, trials=2, input="max", dropout=0.25, learning_rate=0.01, batch_size=8)
    fixed = {"epochs": 2, "hidden": 4, "input": "max", "dropout": 0.25, "learning_rate": 0.01, "batch_size": 8}
    assert all(fixed.items() <= trial.params.items() for trial in found.trials)
    assert not {"input", "dropout", "hidden"} & set(found.varying)


def test_ties_are_broken_by_log_loss() -> None:
    trials = [
        Trial(0, "complete", {}, 0.9, 0.0, 0.5, 1.0, 1),
        Trial(1, "complete", {}, 0.9, 0.0, 0.3, 1.0, 1),
        Trial(2, "complete", {}, 0.9, 0.0, 0.3, 1.0, 1),
        Trial(3, "pruned", {}, 0.99, 0.0, None, 1.0, 1),
        Trial(4, "failed", {}, None, 0.0, None, 1.0, 0, "why"),
    ]
    assert [t.number for t in sorted(trials, key=lambda t: t.rank, reverse=True)] == [1, 2, 0, 3, 4]


def test_repeats_are_averaged(file: Path) -> None:
    fixed = {"input": "avg", "dropout": 0.5, "learning_rate": 0.01, "batch_size": 8, "hidden": 4, "epochs": 2}
    found = featx.sweep(file, "mlp", trials=1, repeats=3, **fixed).best
    fits = [featx.fit(file, "mlp", random_state=seed, **fixed).fitting for seed in range(3)]
    accuracies = [record.validation_accuracy for record in fits]
    assert found.mean_accuracy == pytest.approx(np.mean(accuracies))
    assert found.std_accuracy == pytest.approx(np.std(accuracies))
    assert found.epochs == 6


def test_a_timeout_ends_it_but_not_before_the_first_trial(file: Path) -> None:
    assert len(sweep(file, timeout=1e-9, trials=30).trials) == 1


# ----------------------------------------------------------------------------------------------- which rows it looks at


@pytest.fixture
def poisoned(file: Path) -> Path:
    """The features with every test row damaged: reading one is an error."""
    copied = Path("poisoned.h5")
    shutil.copyfile(file, copied)
    features = featx.load_features(file)
    with h5py.File(file) as stored:
        start, width = stored["features"].id.get_offset(), stored["features"][0].nbytes
    with copied.open("r+b") as raw:
        for row in np.flatnonzero(features.splits == "test"):
            raw.seek(start + int(row) * width)
            raw.write(b"\xff" * width)
    return copied


def test_test_rows_are_not_looked_at(file: Path, poisoned: Path) -> None:
    features = featx.load_features(poisoned)
    with pytest.raises(featx.FeatxError, match="8 rows are damaged"):
        features.X()
    swapped = np.where(features.splits == "test", 1 - features.y, features.y)
    found = sweep(with_columns(features, y=swapped), repeats=2, trials=2)
    assert told(found.trials) == told(sweep(file, repeats=2, trials=2).trials)


def test_features_are_read_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = Features.stored

    def stored(self: Features, rows: Any = None) -> Any:
        numbers = np.arange(len(self))[slice(None) if rows is None else rows]
        read.extend(numbers.tolist())
        return real(self, rows)

    monkeypatch.setattr(Features, "stored", stored)
    inputs: set[str] = set()

    def fit(features: Features, head: str, **_options: Any) -> Any:
        return None  # reads them again, which is another matter

    monkeypatch.setattr("featx.selection.sweep.search.fit", fit)
    for trials in (1, 6):
        read.clear()
        inputs = {trial.params["input"] for trial in sweep(file, trials=trials, epochs=1).trials}
        assert sorted(read) == np.flatnonzero(featx.load_features(file).splits == "train").tolist()
    assert len(inputs) > 1


def test_rows_are_pooled_as_fit_pools_them(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = featx.load_features(file)
    rows = read_rows(features, inputs_of(features, {}), 0.25, 0, 2)
    train, held_out = rows.parts[0]
    assert (len(train), len(held_out), len(rows.y)) == (18, 6, 24)
    X = rows.of("flat", train)[0]
    assert (X.dtype, X.shape) == (np.float16, (18, 4, 4, 8)) and np.shares_memory(X, rows.inputs["flat"])
    np.testing.assert_array_equal(rows.of("avg", train)[0], X.astype(np.float32).mean(axis=(1, 2)))
    np.testing.assert_array_equal(rows.of("max", train)[0], X.max(axis=(1, 2)))
    again = rows.of("flat", rows.parts[1][0])[0]
    assert len(again) == 18 and not np.array_equal(again, X)
    monkeypatch.setattr("featx.rows.FLAT_BYTES", 100)
    assert inputs_of(features, {}) == ["avg", "max"] and inputs_of(features, {"input": "flat"}) == ["flat"]


def test_only_pictures_themselves_are_taken(data: Path, tiny_backbone: str) -> None:
    done = featx.extract(
        data,
        backbone=tiny_backbone,
        preprocess="rescale",
        pooling="avg",
        cache_dir="cache",
        views=featx.Views(3, flip=True, zoom=0.2),
    )
    features = featx.load_features(done.features_path)
    assert len(features) == 32 + 48
    rows = read_rows(features, inputs_of(features, {}), 0.25, 0, 1)
    assert len(rows.y) == 24
    picture_rows = features.X(np.flatnonzero((features.views == 0) & (features.splits == "train")))
    assert sorted(rows.inputs["avg"].tolist()) == sorted(picture_rows.tolist())
    assert "input" not in sweep(features, trials=1).best.params


# ------------------------------------------------------------------------------------------------------------ going on


def test_it_goes_on_after_ctrl_c(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(call: int, real: Callable[[], Any]) -> Any:
        if call == 2:
            raise KeyboardInterrupt
        return real()

    expected = sweep(file, trials=5)
    with monkeypatch.context() as patch:
        fit_of(patch, interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"^2 of 5 trials are kept in s\.db; run the same command again"):
            sweep(file, trials=5, storage="s.db")
    with monkeypatch.context() as patch:
        calls = fit_of(patch, lambda _call, real: real())
        found = sweep(file, trials=5, storage="s.db")
    assert told(found.trials) == told(expected.trials)
    assert calls == [20] * 4  # three trials, and the best one once more
    assert told(sweep(file, trials=4, storage="s.db").trials) == told(expected.trials)


KILLED = """
import os, signal, sys
import featx
from featx.heads import MLPHead
real, calls = MLPHead.fit, []
def fit(self, *given, **options):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *given, **options)
MLPHead.fit = fit
featx.sweep(sys.argv[1], "mlp", trials=3, epochs=2, hidden=4, storage="s.db")
"""


def test_it_goes_on_after_kill_9(file: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, file], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    kept = optuna.load_study(study_name=studies.NAME, storage="sqlite:///s.db").trials
    assert [t.state.name for t in kept] == ["COMPLETE", "RUNNING"]
    found = sweep(file, storage="s.db")
    assert [t.number for t in found.trials] == [0, 1, 2]
    assert [t.params for t in found.trials] == [t.params for t in sweep(file).trials]


@pytest.fixture
def begun(file: Path) -> Path:
    """The storage of a sweep with one trial."""
    sweep(file, trials=1, storage="s.db")
    return Path("s.db")


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"random_state": 1}, "seed is 0, not 1"),
        ({"validation": 0.5}, r"validation is 0\.2, not 0\.5"),
        ({"repeats": 2}, "repeats is 1, not 2"),
        ({"epochs": 3}, "parameters held fixed is .*, not"),
        ({"head": "bn-mlp"}, "head is mlp, not bn-mlp"),
        ({"dropout": 0.1}, "parameters held fixed is .*; search space is"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_another_sweeps_storage_is_refused(changed: dict[str, Any], what: str, file: Path, begun: Path) -> None:
    before = begun.read_bytes()
    with pytest.raises(
        SweepError, match=rf"^s\.db holds another sweep: {what}.*Give another `storage`, or remove it$"
    ) as caught:
        sweep(file, **{"trials": 1, "storage": begun, **changed})
    assert "\n" not in str(caught.value) and begun.read_bytes() == before


def test_the_storage_of_other_features_is_refused(file: Path, begun: Path) -> None:
    features = featx.load_features(file)
    y, splits = features.y.copy(), features.splits.copy()
    y[0], splits[0] = 1 - y[0], "validation"
    others = [
        with_columns(features, y=y),
        with_columns(features, splits=splits),
        with_columns(features, ids=features.ids[::-1]),
    ]
    for other in others:
        with pytest.raises(SweepError, match=r"holds another sweep: content \(pictures, labels, splits\) is"):
            sweep(other, storage=begun)
    with pytest.raises(SweepError, match="holds another sweep: spec of the features is"):
        sweep(with_columns(features, spec={**features.spec, "layer": "edges"}), storage=begun)


def test_a_storage_serves_one_at_a_time(file: Path) -> None:
    with studies.opened(Path("s.db"), {}, studies.make_pruner("none", 1)):
        with pytest.raises(SweepError, match=r"^s\.db is in use by another sweep; wait for its end"):
            sweep(file, storage="s.db")


def test_what_is_no_storage_is_refused(file: Path) -> None:
    Path("notes.txt").write_text("not SQLite, " * 100)
    with pytest.raises(SweepError, match=r"^notes\.txt cannot be used as the storage of a sweep: .*not a database"):
        sweep(file, storage="notes.txt")
    assert Path("notes.txt").read_text() == "not SQLite, " * 100
    with pytest.raises(SweepError, match=r"^\. is a folder; `storage` names a file in it, such as sweep\.db"):
        sweep(file, storage=".")


def test_names_of_storages_are_taken_literally(file: Path) -> None:
    name = "a ?b#ü%20.db"
    sweep(file, trials=1, storage=Path("deep") / name)
    assert name in os.listdir("deep") and len(sweep(file, trials=1, storage=f"deep/{name}").trials) == 1


# ---------------------------------------------------------------------------------------------------- pruned and failed


class Strict(optuna.pruners.BasePruner):
    """Prunes all trials but the first after their second epoch."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """As said."""
        return trial.number > 0 and len(trial.intermediate_values) == 2


def test_pruned_trials_are_reported_as_such(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "make_pruner", lambda name, epochs: Strict())
    found = sweep(file, epochs=4, storage="s.db")
    assert [(t.state, t.epochs) for t in found.trials] == [("complete", 4), ("pruned", 2), ("pruned", 2)]
    assert all(0 <= (t.mean_accuracy or -1) <= 1 and t.log_loss is None for t in found.trials[1:])
    assert found.best.number == 0
    kept = optuna.load_study(study_name=studies.NAME, storage="sqlite:///s.db").trials
    assert [list(t.intermediate_values) for t in kept] == [[1, 2, 3, 4], [1, 2], [1, 2]]


@pytest.mark.parametrize("pruner", PRUNERS)
def test_every_pruner_leaves_a_best_one(pruner: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = sweep(file, pruner=pruner, epochs=3)
    assert len(found.trials) == 3 and found.best.state == "complete"
    assert pruner != "none" or {t.state for t in found.trials} == {"complete"}


def test_a_trial_that_cannot_be_trained_has_failed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverges(call: int, real: Callable[[], Any]) -> Any:
        if call in (1, 2):
            raise [TrainingError("the loss became\nnot a number"), MemoryError()][call - 1]
        return real()

    fit_of(monkeypatch, diverges)
    found = sweep(file, trials=4)
    assert [t.state for t in found.trials] == ["complete", "failed", "failed", "complete"]
    assert [t.error for t in found.trials] == [None, "the loss became not a number", "MemoryError", None]
    assert [t.mean_accuracy for t in found.trials[1:3]] == [None, None]


def test_if_no_trial_can_be_trained_the_sweep_says_why(file: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"^none of 2 trials could be trained: the loss became not a number in epoch 2"
    ):
        sweep(file, trials=2, learning_rate=1e30, batch_size=64)
    with pytest.raises(SettingError, match="^`dropout` must be at least 0 and below 1, got 2.0"):
        sweep(file, trials=2, dropout=2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "svm"}, "only bn-mlp and mlp are swept, got `head=svm`; `featx fit` fits the others"),
        ({"pruner": "best"}, "unknown `pruner` 'best'; expected one of median, hyperband, none"),
        ({"trials": 0}, "`trials` must be at least 1, got 0"),
        ({"workers": 0}, "`workers` must be at least 1, got 0"),
        ({"repeats": 0}, "`repeats` must be at least 1, got 0"),
        ({"timeout": 0}, "`timeout` must be more than 0 seconds, got 0"),
        ({"C": 1}, "the mlp head has no setting 'C'; it takes batch_size, dropout, "),
        ({"validation": 1}, "`validation` must be at least 0 and below 1, got 1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_are_errors(options: dict[str, Any], message: str, file: Path) -> None:
    with pytest.raises(SettingError) as caught:
        sweep(file, storage="s.db", **options)
    assert str(caught.value).startswith(message)
    assert caught.value.setting == next(iter(options))
    assert not Path("s.db").exists()


def test_without_validation_rows_there_is_nothing_to_choose_by(file: Path) -> None:
    with pytest.raises(TrainingError, match="^a sweep chooses by validation rows, and there are none; give `validati"):
        sweep(file, storage="s.db", validation=0)
    assert not Path("s.db").exists()


# ------------------------------------------------------------------------------------------------------------- workers


def attempt_or_die(trial: optuna.Trial, task: training.Task) -> None:
    """The second trial's process is killed, once."""
    try:
        if trial.number == 1:
            Path(os.environ["FEATX_DIED"]).touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
    except FileExistsError:
        pass
    assert isinstance(task.rows, Path)
    REAL_ATTEMPT(trial, task)


REAL_ATTEMPT = training.attempt


def test_workers_share_the_rows_and_may_be_killed(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEATX_DIED", str(tmp_path / "died"))
    monkeypatch.setattr(training, "attempt", attempt_or_die)
    found = sweep(file, workers=2, trials=4, storage="s.db")
    assert Path("died").exists() and [t.number for t in found.trials] == [0, 1, 2, 3]
    assert {t.state for t in found.trials} == {"complete"}
    kept = optuna.load_study(study_name=studies.NAME, storage="sqlite:///s.db").trials
    assert "FAIL" in {t.state.name for t in kept}
    assert not Path(".s.db.rows").exists()
    assert len({json.dumps(t.params) for t in found.trials}) == 4


def test_a_worker_maps_the_rows_into_memory(tmp_path: Path) -> None:
    parts = [(np.array([0, 2]), np.array([1])), (np.array([1, 2]), np.array([3]))]
    rows = Rows({"avg": np.arange(8, dtype=np.float32).reshape(4, 2)}, np.arange(4, dtype=np.int32), parts)
    rows.write(tmp_path / "rows")
    rows.write(tmp_path / "rows")  # over what a killed sweep has left
    mapped = training._mapped(tmp_path / "rows")
    np.testing.assert_equal([mapped.y, mapped.parts], [rows.y, rows.parts])
    assert isinstance(mapped.inputs["avg"], np.memmap) and training._mapped(tmp_path / "rows") is mapped
    np.testing.assert_array_equal(mapped.of("avg", np.array([1, 2]))[0], rows.inputs["avg"][1:3])


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 16)
    assert [share_of_cores(workers) for workers in (1, 4, 64)] == [16, 4, 1]
    names = {"TF_NUM_INTRAOP_THREADS": "4", "OMP_NUM_THREADS": "4", "NPROC": "4"}
    assert names.items() <= threads_in_environment(4).items()


def test_it_gives_up_if_workers_are_killed_again_and_again() -> None:
    lives = iter([2, 0, 1, 0, 0])

    def attempts() -> Iterator[None]:
        yield from [None] * next(lives)
        raise BrokenProcessPool

    found = training.patiently(attempts)
    for _ in range(3):
        next(found)
    with pytest.raises(SweepError, match="workers were killed 3 times before any finished a trial.*fewer `workers`"):
        next(found)


# ---------------------------------------------------------------------------------------------------- the command line


def run(*words: Any, code: int = 0) -> Any:
    """Run the command in this process."""
    result = CliRunner().invoke(app, ["sweep", *map(str, words)])
    assert result.exit_code == code, result.output
    return result


SHORT = ("--head", "mlp", "--epochs", 2, "--trials", 4)


def test_the_command_writes_what_it_has_found(file: Path) -> None:
    words = (file, *SHORT, "--csv", "out.csv", "--plot", "out.png")
    found = json.loads(run(*words, "--json").stdout)
    assert found["storage"] == f"sweeps/{file.stem}-mlp.db" and Path(found["storage"]).is_file()
    assert found["model"] == f"models/{file.stem}-mlp-sweep" and found["seconds"] > 0
    classifier = featx.Classifier.load(found["model"])
    assert classifier.evaluate(featx.load_features(file)).rows == 8
    assert found["best"]["params"].items() <= classifier.head.get_params().items()
    assert found["best"] in found["trials"] and len(found["trials"]) == 4
    header, *rows = csv.reader(Path("out.csv").read_text().splitlines())
    names = list(found["best"]["params"])
    assert header == [
        "number", "state", "mean_accuracy", "std_accuracy", "log_loss", "seconds", "epochs", *names
    ]  # fmt: skip
    for row, trial in zip(rows, found["trials"], strict=True):
        values = [*(trial[name] for name in header[:7]), *trial["params"].values()]
        assert row == list(map(str, values))
    with featx.pictures.decoding.Image.open("out.png") as image:
        assert image.format == "PNG" and image.size[0] >= 1000
    again = run(*words)
    assert f"models/{file.stem}-mlp-sweep is replaced" in again.stderr
    lines = again.stdout.splitlines()
    assert lines[0].split()[:3] == ["trial", "accuracy", "deviation"] and "hidden" in lines[0]
    assert not re.search(r"\bepochs +2\b|patience", lines[0])
    best_first = sorted(found["trials"], key=lambda t: (-t["mean_accuracy"], t["log_loss"]))
    assert [line.split()[0] for line in lines[1:5]] == [str(t["number"]) for t in best_first]
    assert f"4 trials (4 complete) in sweeps/{file.stem}-mlp.db" in lines[-2]


def test_the_command_says_how_far_it_is(file: Path) -> None:
    said = run(*SHORT, "--cache-dir", file.parent).stderr
    assert f"using {file}, the newest feature file" in said
    assert re.search(r"best so far: trial 0, accuracy 0\.\d{4}: input avg, layers 1, hidden 64, dropout 0\.5", said)
    assert re.search(r"sweeping: 4/4, \d+\.\d/s, 0 s left", said)
    assert run(file, *SHORT, "--quiet").stderr == ""


def test_ctrl_c_is_130_and_the_same_command_goes_on(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(call: int, real: Callable[[], Any]) -> Any:
        if call == 1:
            raise KeyboardInterrupt
        return real()

    with monkeypatch.context() as patch:
        fit_of(patch, interrupted)
        result = run(file, *SHORT, "--storage", "s.db", "--json", code=130)
    said = "1 of 4 trials are kept in s.db; run the same command again to go on"
    assert result.stderr.splitlines()[-1] == f"interrupted: {said}" and said in json.loads(result.stdout)["error"]
    assert "Traceback" not in result.output
    assert len(json.loads(run(file, *SHORT, "--storage", "s.db", "--json").stdout)["trials"]) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--csv nowhere/out.csv", "--csv nowhere/out.csv: there is no folder"),
        ("--plot nowhere/out.png", "--plot nowhere/out.png: there is no folder"),
        ("--plot out.pdf", "--plot out.pdf: only PNG is drawn"),
        ("--out full", "full exists and is not a classifier; give another --out"),
        ("--timeout 0", "--timeout must be more than 0 seconds, got 0"),
        ("--validation 0", "a sweep chooses by validation rows"),
        ("--storage full/letter", "full/letter cannot be used as the storage of a sweep"),
    ],
)
def test_errors_are_one_line_and_come_first(
    words: str, message: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("full").mkdir()
    Path("full/letter").write_text("a letter " * 100)
    calls = fit_of(monkeypatch, lambda _call, real: real())
    result = run(file, *SHORT, *words.split(), "--json", "--quiet", code=1)
    assert message in json.loads(result.stdout)["error"]
    assert re.fullmatch(r"error: .+\n", result.stderr) and not calls


@pytest.mark.parametrize("words", ["--head svm", "--pruner best", "--trials 0", "--workers 0", "--seed -1"])
def test_wrong_usage_is_2(words: str) -> None:
    assert "Usage: " in run(*words.split(), code=2).stderr


def test_without_matplotlib_the_plot_says_what_to_install(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    calls = fit_of(monkeypatch, lambda _call, real: real())
    said = run(file, *SHORT, "--plot", "out.png", code=1).stderr
    assert said == "error: --plot needs Matplotlib, which is not installed: pip install '.[plot]'\n" and not calls


def test_the_plot_shows_all_kinds_of_trials(file: Path) -> None:
    params = {"input": "avg", "layers": 2, "hidden": 64, "weight_decay": 0.0, "learning_rate": 1e-3, "batch_norm": True}
    changed = {"input": "max", "layers": 1, "hidden": 128, "weight_decay": 1e-4, "learning_rate": 1e-2}
    trials = [
        Trial(0, "complete", params, 0.8, 0.0, 0.5, 1.0, 3),
        Trial(1, "pruned", {**params, **changed}, 0.7, 0.0, None, 1.0, 2),
        Trial(2, "failed", {**params, "batch_norm": False}, None, 0.0, None, 1.0, 0, "why"),
        Trial(3, "complete", {**params, "weight_decay": 0.1}, 0.9, 0.0, 0.4, 1.0, 3),
    ]
    classifier: Any = None
    found = Sweep(trials[3], trials, classifier, 1.0, None)
    assert found.varying == ["input", "layers", "hidden", "weight_decay", "learning_rate", "batch_norm"]
    found.plot("all.png")
    one = Sweep(trials[0], trials[:1], classifier, 1.0, None)
    one.plot("one.png")
    assert one.varying == [] and Path("one.png").read_bytes()[:4] == Path("all.png").read_bytes()[:4] == b"\x89PNG"


def test_optuna_keeps_its_own_settings(file: Path) -> None:
    before = optuna.logging.get_verbosity()
    sweep(file, trials=1)
    assert optuna.logging.get_verbosity() == before
