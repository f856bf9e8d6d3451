"""The commands that choose heads' parameters."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from featx.cli.commands import CacheDir, Seed, app
from featx.cli.terminal import Report, columns, command, note, progress

BEST_SHOWN = 10


@command(app, "featx cv --head logreg --C 1e-5:10:9 --rule one-se")
def cv(
    features: Annotated[Path | None, typer.Argument(help="A feature file. Default: the newest in the cache.")] = None,
    head: Annotated[str, typer.Option(help="logreg, svm, ridge, knn, bn-mlp or mlp.")] = "logreg",
    folds: Annotated[int, typer.Option(min=2, help="Each picture is held out once.")] = 5,
    C: Annotated[
        str | None, typer.Option("--C", help="logreg, svm, ridge: lo:hi:n, or one value. Default: a range that suits.")
    ] = None,
    rule: Annotated[
        Literal["best", "one-se"],
        typer.Option(help="Highest mean, or the strongest penalty within one standard error of it."),
    ] = "best",
    shots: Annotated[
        str | None, typer.Option(help="Instead, accuracy by pictures a class, such as 1,2,5,10,20,all.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=2, help="--shots: how many draws.")] = 10,
    input: Annotated[Literal["flat", "avg", "max"] | None, typer.Option(help="What becomes of maps.")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Choose a temperature by the held-out probabilities.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: models/FEATURES-HEAD-cv.")] = None,
    seed: Seed = 0,
    cache_dir: CacheDir = Path("cache"),
) -> Report:
    """Cross-validate a head on the training rows, all values of C at once, and fit the best on all of them.

    Test rows are not looked at. With --shots: how accuracy grows with the number of training pictures.
    """
    from featx.cache import CacheFolder
    from featx.selection.cross_validation import cross_validate, parse_C
    from featx.selection.few_shot import few_shot, parse_shots

    if features is None:
        features = CacheFolder(cache_dir).newest()
        note(f"using {features}, the newest feature file")
    values = parse_C(C) if C else None
    params: dict[str, Any] = {"input": input} if input else {}
    if shots:
        params |= {"C": _only(values)} if values else {}
        curve = few_shot(
            features, head, shots=parse_shots(shots), repeats=repeats, random_state=seed, progress=progress, **params
        )
        return _curve(head, curve, repeats)
    found = cross_validate(
        features, head, C=values, folds=folds, rule=rule, random_state=seed, calibrate=calibrate, progress=progress,
        **params,
    )  # fmt: skip
    folder = out or Path("models") / f"{features.stem}-{head}-cv"
    if folder.exists():
        note(f"{folder} is replaced")
    found.classifier.save(folder)
    return _validated(head, found, folder)


def _only(values: list[float]) -> float:
    from featx.errors import TrainingError

    if len(values) > 1:
        raise TrainingError("--shots takes one value of --C; `featx cv` without --shots finds the best of a range")
    return values[0]


def _curve(head: str, curve: list[Any], repeats: int) -> Report:
    rows = [[p.shots or "all", f"{p.rows:g}", p.mean_accuracy, *p.ci95] for p in curve]
    fields = {"head": head, "repeats": repeats, "shots": [asdict(point) for point in curve]}
    header = ["pictures a class", "in all", "accuracy", "95 % from", "to"]
    return Report(fields, f"{columns(rows, header)}\n\n{head}, {repeats} draws, measured on validation rows")


def _validated(head: str, found: Any, folder: Path) -> Report:
    report, best = found.classifier.report, found.best
    fields = {"head": head, "folds": found.folds, "best": asdict(best), "trials": [asdict(t) for t in found.trials]}
    fields |= {"seconds": found.seconds, "train_rows": report["train_rows"], "model": str(folder)}
    values = [trial.params["C"] for trial in found.trials if "C" in trial.params]
    if len(values) > 1 and best.params["C"] in (min(values), max(values)):
        note(f"the best C, {best.params['C']:g}, is at the end of the range; --C with a wider one may find a better")
    rows = [
        [f"{t.params['C']:g}" if t.params else "-", t.mean_accuracy, t.std_accuracy, t.mean_log_loss, _mark(t, best)]
        for t in found.trials
    ]
    return Report(
        fields,
        f"{columns(rows, ['C', 'accuracy', 'deviation', 'log loss', ''])}\n\n{head}: {100 * best.mean_accuracy:.1f} % "
        f"over {found.folds} folds of {report['train_rows']} rows, {found.seconds:.1f} s\n{folder}",
    )


def _mark(trial: Any, best: Any) -> str:
    return "chosen" if trial is best else ""


@command(app, "featx sweep --head bn-mlp --trials 64 --plot sweep.png")
def sweep(
    features: Annotated[Path | None, typer.Argument(help="A feature file. Default: the newest in the cache.")] = None,
    head: Annotated[Literal["bn-mlp", "mlp"], typer.Option(help="Whose parameters.")] = "bn-mlp",
    trials: Annotated[int, typer.Option(min=1, help="How many, those kept in the storage among them.")] = 32,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which no other trial begins. One is always finished.")
    ] = None,
    storage: Annotated[
        Path | None, typer.Option(help="File that keeps the trials. Default: sweeps/FEATURES-HEAD.db.")
    ] = None,
    pruner: Annotated[
        Literal["median", "hyperband", "none"], typer.Option(help="Which trials end before their last epoch.")
    ] = "median",
    workers: Annotated[
        int, typer.Option(min=1, help="Processes. Each needs seconds to start: for trials that take longer than that.")
    ] = 1,
    validation: Annotated[float, typer.Option(help="Share to hold out if the data set does not say.")] = 0.2,
    repeats: Annotated[int, typer.Option(min=1, help="Draws and seeds that a trial is averaged over.")] = 1,
    input: Annotated[Literal["flat", "avg", "max"] | None, typer.Option(help="Not searched, but this.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of a trial, at most.")] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Epochs to wait for a better one. Default: 8; at last the head's own.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: models/FEATURES-HEAD-sweep.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Also write all trials to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the trials into this PNG file.")] = None,
    seed: Seed = 0,
    cache_dir: CacheDir = Path("cache"),
) -> Report:
    """Search for a head's best parameters, and fit it with them.

    Interrupted or killed, the same command goes on. Accuracies are those of validation rows, by which the best was
    chosen: they flatter it. `featx evaluate` measures it on the test rows.
    """
    from featx.cache import CacheFolder
    from featx.selection.sweep import sweep

    if features is None:
        features = CacheFolder(cache_dir).newest()
        note(f"using {features}, the newest feature file")
    name = f"{features.stem}-{head}"
    folder = out or Path("models") / f"{name}-sweep"
    _require_places(folder, csv, plot)
    given = {"input": input, "epochs": epochs, "patience": patience}
    found = sweep(
        features,
        head,
        trials=trials,
        timeout=timeout,
        storage=storage or Path("sweeps") / f"{name}.db",
        pruner=pruner,
        workers=workers,
        validation=validation,
        repeats=repeats,
        random_state=seed,
        progress=progress,
        **{name: value for name, value in given.items() if value is not None},
    )
    if folder.exists():
        note(f"{folder} is replaced")
    found.classifier.save(folder)
    if csv:
        found.write_csv(csv)
    if plot:
        found.plot(plot)
    return _report(found, folder)


def _require_places(folder: Path, csv: Path | None, plot: Path | None) -> None:
    """Find out before hours go by whether what a sweep finds can be written."""
    from featx.classifier import refuse_foreign
    from featx.errors import SweepError
    from featx.selection.sweep.plot import load_matplotlib

    refuse_foreign(folder)
    for option, path in (("--csv", csv), ("--plot", plot)):
        if path and not path.absolute().parent.is_dir():
            raise SweepError(f"{option} {path}: there is no folder {path.absolute().parent}; make it, or name another")
    if plot and plot.suffix.lower() != ".png":
        raise SweepError(f"--plot {plot}: only PNG is drawn; name a file that ends in .png")
    if plot:
        load_matplotlib()


def _report(found: Any, folder: Path) -> Report:
    fields = {
        "best": asdict(found.best),
        "trials": [asdict(trial) for trial in found.trials],
        "seconds": found.seconds,
        "model": str(folder),
        "storage": str(found.storage),
    }
    shown = [trial for trial in found.ranked if trial.state == "complete"][:BEST_SHOWN]
    rows = [
        [t.number, t.mean_accuracy, t.std_accuracy, t.log_loss, t.epochs, *(_shown(t.params[n]) for n in found.varying)]
        for t in shown
    ]
    header = ["trial", "accuracy", "deviation", "log loss", "epochs", *found.varying]
    states = [trial.state for trial in found.trials]
    counts = ", ".join(f"{states.count(s)} {s}" for s in ("complete", "pruned", "failed") if s in states)
    return Report(
        fields,
        f"{columns(rows, header)}\n\n{len(states)} trials ({counts}) in {found.storage}; the accuracies are of "
        f"the validation rows, by which the best was chosen: they flatter it\n{folder}",
    )


def _shown(value: Any) -> Any:
    """A parameter: unlike measures, which have four digits, a rate of 0.00001 is not 0."""
    return f"{value:g}" if isinstance(value, float) else value
