"""The commands that choose heads' parameters."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from featx._internal.choices import Input, Pruner, Rule, SweptHead
from featx._internal.text import percent
from featx.cli.options import (
    CACHE,
    VALIDATION,
    CacheDir,
    Calibrate,
    Features,
    HeadName,
    InputRule,
    RandomState,
    Validation,
    not_none,
)
from featx.cli.places import after_training, features_or_newest, require_folder_of, save
from featx.cli.program import HEAD, OUTPUT, RUN, SEARCH, TRAIN, TRAINING, app, command, option
from featx.cli.terminal import Report, columns, note, progress
from featx.errors import SettingError

if TYPE_CHECKING:
    from featx.selection.cross_validation import CrossValidation
    from featx.selection.cross_validation import Trial as Setting
    from featx.selection.few_shot import Shots
    from featx.selection.sweep import Sweep, Trial

BEST_SHOWN = 10


@command(app, "featx cv --head logreg --C 1e-5:10:9 --rule one-se", TRAIN)
def cv(
    features: Features = None,
    head: HeadName = "logreg",
    input: InputRule = None,
    C: Annotated[
        str | None, option(HEAD, "logreg, svm, ridge: lo:hi:n, or one value. Default: a range that suits.")
    ] = None,
    folds: Annotated[int, option(SEARCH, "Parts of the pictures; each is held out once.", min=2)] = 5,
    rule: Annotated[
        Rule, option(SEARCH, "Highest mean, or the strongest penalty within one standard error of it.")
    ] = "best",
    shots: Annotated[
        str | None, option(SEARCH, "Instead, accuracy by pictures per class, such as 1,2,5,10,20,all.")
    ] = None,
    repeats: Annotated[int, option(SEARCH, "--shots: how many draws.", min=2)] = 10,
    calibrate: Calibrate = False,
    random_state: RandomState = 0,
    cache_dir: CacheDir = CACHE,
    out: Annotated[Path | None, option(OUTPUT, "Folder to write. Default: models/FEATURES-HEAD-cv.")] = None,
) -> Report:
    """Cross-validate a head on the training rows, all values of C at once, and fit the best on all of them.

    Test rows are not looked at. With --shots: how accuracy grows with the number of training pictures.
    """
    from featx.selection.cross_validation import cross_validate
    from featx.selection.few_shot import few_shot

    features = features_or_newest(features, cache_dir)
    values = parse_C(C) if C else None
    params = not_none(input=input)
    if shots:
        params |= {"C": _only(values)} if values else {}
        curve = few_shot(
            features, head, shots=parse_shots(shots), repeats=repeats, random_state=random_state, progress=progress,
            **params,
        )  # fmt: skip
        return _curve(head, curve, repeats)
    validated = cross_validate(
        features, head, C=values, folds=folds, rule=rule, random_state=random_state, calibrate=calibrate,
        progress=progress, **params,
    )  # fmt: skip
    folder = out or Path("models") / f"{features.stem}-{head}-cv"
    save(validated.classifier, folder)
    _note_end_of_range(validated)
    return _validated(head, validated, folder)


def _only(values: list[float]) -> float:
    from featx.errors import TrainingError

    if len(values) > 1:
        raise TrainingError("--shots takes one value of --C; `featx cv` without --shots finds the best of a range")
    return values[0]


def _curve(head: str, curve: list[Shots], repeats: int) -> Report:
    rows = [[p.shots or "all", f"{p.rows:g}", p.mean_accuracy, *p.ci95] for p in curve]
    fields = {"head": head, "repeats": repeats, "shots": [asdict(point) for point in curve]}
    header = ["pictures per class", "in all", "accuracy", "95 % from", "to"]
    return Report(fields, f"{columns(rows, header)}\n\n{head}, {repeats} draws, measured on validation rows")


def _note_end_of_range(validated: CrossValidation) -> None:
    values = [trial.params["C"] for trial in validated.trials if "C" in trial.params]
    if len(values) > 1 and (best := validated.best.params["C"]) in (min(values), max(values)):
        note(f"the best C, {best:g}, is at the end of the range; --C with a wider one may find a better")


def _validated(head: str, validated: CrossValidation, folder: Path) -> Report:
    best, trained_on = validated.best, validated.classifier.fitting.train_rows
    fields = {
        "head": head,
        "folds": validated.folds,
        "best": asdict(best),
        "trials": [asdict(trial) for trial in validated.trials],
        "seconds": validated.seconds,
        "train_rows": trained_on,
        "model": str(folder),
    }
    table = columns(
        [_row(trial, chosen=trial is best) for trial in validated.trials],
        ["C", "accuracy", "deviation", "log loss", ""],
    )
    text = (
        f"{table}\n\n{head}: {percent(best.mean_accuracy)} over {validated.folds} folds of {trained_on} rows, "
        f"{validated.seconds:.1f} s\n{folder}"
    )
    return Report(fields, text, next=after_training(validated.classifier, folder))


def _row(trial: Setting, chosen: bool) -> list[Any]:
    C = f"{trial.params['C']:g}" if trial.params else "-"
    return [C, trial.mean_accuracy, trial.std_accuracy, trial.mean_log_loss, "chosen" if chosen else ""]


def parse_C(text: str) -> list[float]:
    """Values of C: ``0.1``, or ``lo:hi:n`` for ``n`` values from ``lo`` to ``hi``, evenly spaced in their logarithm."""
    import numpy as np

    try:
        if ":" not in text:
            return [float(text)]
        low, high, count = text.split(":")
        if not 0 < float(low) <= float(high) < math.inf or int(count) < 1:
            raise ValueError(text)
        return [float(value) for value in np.geomspace(float(low), float(high), int(count))]
    except ValueError:
        raise SettingError(f"`C` takes a number, or lo:hi:n such as 1e-5:10:9, got {text!r}", "C") from None


def parse_shots(text: str) -> list[int | None]:
    """Numbers of pictures per class, such as ``1,2,5,all``; None for all."""
    try:
        return [None if part.strip() == "all" else int(part) for part in text.split(",")]
    except ValueError:
        raise SettingError(f"`shots` takes numbers and `all`, such as 1,2,5,10,20,all, got {text!r}", "shots") from None


@command(app, "featx sweep --head bn-mlp --trials 64 --plot sweep.png", TRAIN)
def sweep(
    features: Features = None,
    head: Annotated[SweptHead, option(HEAD, "Whose parameters.")] = "bn-mlp",
    input: Annotated[Input | None, option(HEAD, "What becomes of maps. Default: searched.")] = None,
    trials: Annotated[int, option(SEARCH, "How many, those kept in the storage among them.", min=1)] = 32,
    timeout: Annotated[
        float | None, option(SEARCH, "Seconds after which no other trial begins. One is always finished.", min=0)
    ] = None,
    pruner: Annotated[Pruner, option(SEARCH, "Which trials end before their last epoch.")] = "median",
    repeats: Annotated[int, option(SEARCH, "Draws and seeds that a trial is averaged over.", min=1)] = 1,
    epochs: Annotated[int | None, option(TRAINING, "Of a trial, at most.", min=1)] = None,
    patience: Annotated[
        int | None,
        option(
            TRAINING,
            "Epochs to wait for a better one. Default: 8; for the final fit the head's own.",
            min=1,
        ),
    ] = None,
    validation: Validation = VALIDATION,
    workers: Annotated[
        int, option(RUN, "Processes. Each needs seconds to start: for trials that take longer than that.", min=1)
    ] = 1,
    storage: Annotated[
        Path | None, option(RUN, "File that keeps the trials. Default: sweeps/FEATURES-HEAD.db.")
    ] = None,
    random_state: RandomState = 0,
    cache_dir: CacheDir = CACHE,
    out: Annotated[Path | None, option(OUTPUT, "Folder to write. Default: models/FEATURES-HEAD-sweep.")] = None,
    csv: Annotated[Path | None, option(OUTPUT, "Also write all trials to this file.")] = None,
    plot: Annotated[Path | None, option(OUTPUT, "Also draw the trials into this PNG file.")] = None,
) -> Report:
    """Search for a head's best parameters, and fit it with them.

    Interrupted or killed, the same command goes on. Accuracies are those of validation rows, by which the best was
    chosen: they flatter it. `featx evaluate` measures it on the test rows.
    """
    from featx.selection.sweep import sweep

    features = features_or_newest(features, cache_dir)
    name = f"{features.stem}-{head}"
    folder = out or Path("models") / f"{name}-sweep"
    _require_places(folder, csv, plot)
    searched = sweep(
        features, head, trials=trials, timeout=timeout, storage=storage or Path("sweeps") / f"{name}.db",
        pruner=pruner, workers=workers, validation=validation, repeats=repeats, random_state=random_state,
        progress=progress, **not_none(input=input, epochs=epochs, patience=patience),
    )  # fmt: skip
    save(searched.classifier, folder)
    if csv:
        searched.write_csv(csv)
    if plot:
        searched.plot(plot)
    return _searched(searched, folder)


def _require_places(folder: Path, csv: Path | None, plot: Path | None) -> None:
    """Refuse, before hours go by, folders and files that cannot be written."""
    from featx.classifier import refuse_foreign
    from featx.errors import SettingError
    from featx.selection.sweep.plot import load_matplotlib

    refuse_foreign(folder)
    require_folder_of("--csv", csv)
    require_folder_of("--plot", plot)
    if plot and plot.suffix.lower() != ".png":
        raise SettingError(f"--plot {plot}: only PNG is drawn; name a file that ends in .png")
    if plot:
        load_matplotlib()


def _searched(searched: Sweep, folder: Path) -> Report:
    fields = {
        "best": asdict(searched.best),
        "trials": [asdict(trial) for trial in searched.trials],
        "seconds": searched.seconds,
        "model": str(folder),
        "storage": str(searched.storage),
    }
    states = [trial.state for trial in searched.trials]
    counts = ", ".join(f"{states.count(s)} {s}" for s in ("complete", "pruned", "failed") if s in states)
    text = (
        f"{_best(searched)}\n\n{len(states)} trials ({counts}) in {searched.storage}; the accuracies are of "
        f"the validation rows, by which the best was chosen: they flatter it\n{folder}"
    )
    return Report(fields, text, next=after_training(searched.classifier, folder))


def _best(searched: Sweep) -> str:
    complete = [trial for trial in searched.ranked if trial.state == "complete"]
    header = ["trial", "accuracy", "deviation", "log loss", "epochs", *searched.varying]
    return columns([_trial(trial, searched.varying) for trial in complete[:BEST_SHOWN]], header)


def _trial(trial: Trial, varying: list[str]) -> list[Any]:
    measures = [trial.number, trial.mean_accuracy, trial.std_accuracy, trial.log_loss, trial.epochs]
    return [*measures, *(_shown(trial.params[name]) for name in varying)]


def _shown(value: Any) -> Any:
    """Parameter as a table shows it: unlike measures, which have four digits, a rate of 0.00001 is not 0."""
    return f"{value:g}" if isinstance(value, float) else value
