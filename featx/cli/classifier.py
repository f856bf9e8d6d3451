"""The commands that make a classifier of a feature file, measure it, use it, and check it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featx._internal.choices import Split
from featx._internal.options import option_of
from featx._internal.text import percent
from featx.cli.options import (
    CACHE,
    VALIDATION,
    BatchSize,
    CacheDir,
    Calibrate,
    Features,
    HeadName,
    Model,
    Neighbors,
    RandomState,
    Source,
    Validation,
    Weights,
    head_options,
    not_none,
)
from featx.cli.places import after_training, features_or_newest, require_folder_of, save, where_else
from featx.cli.program import OUTPUT, RUN, TRAIN, TRAINING, USE, app, command, option
from featx.cli.terminal import Report, columns, escaped, note, progress

if TYPE_CHECKING:
    from featx.classifier import Diagnosis, Evaluation, Fitting, Prediction

MATRIX_CLASSES = 20  # beyond, the confusion matrix is not shown whole


def epoch_options(
    learning_rate: Annotated[float | None, option(TRAINING, "bn-mlp, mlp: size of the steps.")] = None,
    batch_size: Annotated[int | None, option(TRAINING, "bn-mlp, mlp: rows per step.", min=1)] = None,
    epochs: Annotated[int | None, option(TRAINING, "bn-mlp, mlp: at most.", min=1)] = None,
    patience: Annotated[int | None, option(TRAINING, "bn-mlp, mlp: epochs to wait for a better one.", min=1)] = None,
    mixup: Annotated[float | None, option(TRAINING, "bn-mlp, mlp: alpha of mixing rows; 0 is off.")] = None,
    weight_decay: Annotated[float | None, option(TRAINING, "bn-mlp, mlp: of AdamW.")] = None,
    label_smoothing: Annotated[
        float | None, option(TRAINING, "bn-mlp, mlp: share of each target spread over all classes.")
    ] = None,
) -> dict[str, Any]:
    """Parameters of heads that train in epochs; those left out have no entry."""
    training = not_none(learning_rate=learning_rate, batch_size=batch_size, epochs=epochs, patience=patience)
    return training | not_none(mixup=mixup, weight_decay=weight_decay, label_smoothing=label_smoothing)


@command(
    app,
    "featx fit --head logreg --input avg --C 0.1",
    TRAIN,
    of_head=head_options,
    training=epoch_options,
)
def fit(
    features: Features = None,
    *,
    head: HeadName = "bn-mlp",
    of_head: dict[str, Any],
    n_neighbors: Neighbors = None,
    training: dict[str, Any],
    validation: Validation = VALIDATION,
    calibrate: Calibrate = False,
    random_state: RandomState = 0,
    cache_dir: CacheDir = CACHE,
    out: Annotated[Path | None, option(OUTPUT, "Folder to write. Default: models/FEATURES-HEAD.")] = None,
) -> Report:
    """Train a small head on cached features, in seconds.

    Options left out take the head's own defaults.
    """
    from featx.classifier import fit

    params = {**of_head, **not_none(n_neighbors=n_neighbors), **training}
    _require_options_of(head, params)
    features = features_or_newest(features, cache_dir)
    classifier = fit(
        features, head, validation=validation, random_state=random_state, calibrate=calibrate, progress=progress,
        **params,
    )  # fmt: skip
    folder = out or Path("models") / f"{features.stem}-{head}"
    save(classifier, folder)
    fields = {"model": str(folder), **classifier.fitting.to_json()}
    text = f"{head}: {_trained(classifier.fitting, calibrate)}\n{folder}"
    return Report(fields, text, next=after_training(classifier, folder))


def _require_options_of(head: str, params: dict[str, Any]) -> None:
    from featx.errors import TrainingError
    from featx.heads import HEADS

    if head not in HEADS:  # which the library says
        return
    known = HEADS[head]._get_param_names()
    for name in params:
        if name not in known:
            takes = ", ".join(option_of(parameter) for parameter in _parameters_with_options() if parameter in known)
            raise TrainingError(f"{option_of(name)} does not go with --head {head}, which takes {takes}")


def _parameters_with_options() -> list[str]:
    return [*head_options.__annotations__, "n_neighbors", *epoch_options.__annotations__]


def _trained(record: Fitting, calibrated: bool) -> str:
    temperature = f", temperature {record.temperature:.2f}" if calibrated else ""
    return (
        f"{on_validation_rows(record)}, {percent(record.train_accuracy)} on {record.train_rows} training rows"
        f"{temperature}, {record.seconds:.1f} s"
    )


def on_validation_rows(record: Fitting) -> str:
    """Accuracy on the rows held out, in words."""
    if record.validation_accuracy is None:
        return "no validation rows"
    return f"{percent(record.validation_accuracy)} on {record.validation_rows} validation rows"


@command(app, "featx evaluate models/photos-logreg --split test", USE)
def evaluate(
    model: Model,
    source: Source = None,
    split: Annotated[
        Split | None, option(RUN, "Rows to measure on. Default: test rows, else rows that were not trained on.")
    ] = None,
    weights: Weights = None,
    cache_dir: CacheDir = CACHE,
) -> Report:
    """Measure a classifier: accuracy with its 95 % interval, log loss, confusion matrix, and each class."""
    from featx.classifier import Classifier

    classifier = Classifier.load(model, weights)
    features = classifier.features_of(source, cache_dir=cache_dir, progress=progress)
    measured = classifier.evaluate(features, split)
    following = "doctor" if measured.split == "train" else "report"  # which needs rows that were not trained on
    next_command = (following, model, *where_else(source, cache_dir, weights))
    return Report(asdict(measured), _measures(measured), next=next_command)


def _measures(measured: Evaluation) -> str:
    low, high = measured.ci95
    classes = [
        [name, m["precision"], m["recall"], m["f1"], int(m["support"])] for name, m in measured.per_class.items()
    ]
    return (
        f"accuracy {percent(measured.accuracy)} (95 % interval {percent(low)} to {percent(high)}) on {measured.rows} "
        f"{measured.split} rows, log loss {measured.log_loss:.4f}, calibration error "
        f"{measured.calibration_error:.3f}; {measured.quarantined} pictures of the data set are quarantined\n\n"
        f"{columns(classes, ['class', 'precision', 'recall', 'f1', 'support'])}\n\n"
        f"{_confusions(measured.class_names, measured.confusion_matrix)}"
    )


def _confusions(names: list[str], matrix: list[list[int]]) -> str:
    """Confusion matrix; for many classes, which no terminal is wide enough for, the most confused pairs."""
    if len(names) <= MATRIX_CLASSES:
        return columns([[n, *row] for n, row in zip(names, matrix, strict=True)], ["true \\ predicted", *names])
    mistakes: list[tuple[str, str, int]] = [
        (true, names[j], count)
        for true, row in zip(names, matrix, strict=True)
        for j, count in enumerate(row)
        if count and names[j] != true
    ]
    worst = sorted(mistakes, key=lambda row: -row[2])[:MATRIX_CLASSES]
    return columns(worst, ["true", "predicted", "pictures"]) if worst else "nothing was confused"


@command(app, "featx predict models/photos-logreg new/ --top 3 --csv new.csv", USE)
def predict(
    model: Model,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Pictures, or folders of them.")],
    batch_size: BatchSize = None,
    weights: Weights = None,
    top: Annotated[int, option(OUTPUT, "How many classes to print for each picture.", min=1)] = 1,
    csv: Annotated[Path | None, option(OUTPUT, "Also write all probabilities to this file.")] = None,
) -> Report:
    """Predict new pictures, by the spec that was saved with the classifier."""
    from featx.classifier import Classifier

    require_folder_of("--csv", csv)
    classifier = Classifier.load(model, weights)
    predictions, quarantine = classifier.predict(paths, batch_size=batch_size, progress=progress)
    for path, reason in quarantine:
        note(f"quarantined: {path!r}: {reason}")
    listed = len(predictions) + len(quarantine)
    note(f"{listed} listed = {len(predictions)} predicted + {len(quarantine)} quarantined")
    if csv and predictions:
        _write_csv(csv, predictions)
    fields = {
        "predictions": [
            {"path": p.path, "label": p.label, "probability": p.probability, "probabilities": p.probabilities}
            for p in predictions
        ],
        "quarantined": [{"path": path, "reason": reason} for path, reason in quarantine],
    }
    return Report(fields, "\n".join(_line(p, top) for p in predictions), failed=not predictions)


def _line(prediction: Prediction, top: int) -> str:
    best = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:top]
    return "\t".join([escaped(prediction.path), *(f"{escaped(name)}\t{p:.4f}" for name, p in best)])


def _write_csv(path: Path, predictions: list[Prediction]) -> None:
    import csv
    import io

    from featx._internal.files import write_whole

    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["path", "label", "probability", *predictions[0].probabilities])
    for p in predictions:
        writer.writerow([p.path, p.label, f"{p.probability:.6f}", *(f"{v:.6f}" for v in p.probabilities.values())])
    write_whole(path, file.getvalue().encode("utf-8", "backslashreplace"))


@command(app, "featx doctor models/photos-logreg --rows 100", USE)
def doctor(
    model: Model,
    source: Source = None,
    n_rows: Annotated[int, option(RUN, "How many pictures to compare.", min=1)] = 32,
    weights: Weights = None,
    cache_dir: CacheDir = CACHE,
) -> Report:
    """Prove on your own pictures that predicting from files gives what was measured on the cache."""
    from featx.classifier import Classifier

    classifier = Classifier.load(model, weights)
    features = classifier.features_of(source, cache_dir=cache_dir, progress=progress)
    checked = classifier.doctor(features, n_rows)
    return Report(asdict(checked), _verdict(checked), failed=not checked.ok)


def _verdict(checked: Diagnosis) -> str:
    verdict = "agree" if checked.ok else "DISAGREE: do not trust this classifier; extract and fit again"
    skipped = f"; {len(checked.skipped)} pictures were not as they were" if checked.skipped else ""
    return (
        f"cached and live probabilities {verdict}: they differ by at most {checked.max_abs_difference:.2g} on "
        f"{checked.rows} pictures{skipped}"
    )
