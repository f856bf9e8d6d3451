"""The commands on pictures and classifiers."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from featx.cli.terminal import Report, columns, command, escaped, note, progress
from featx.pictures import MAX_PIXELS

app = typer.Typer(
    help="Image classifiers from frozen features, trained in seconds.",
    no_args_is_help=True,
    add_completion=False,
    epilog="Example: featx extract photos/",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

CacheDir = Annotated[Path, typer.Option(envvar="FEATX_CACHE", help="Where feature files are kept.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Pictures a call of the network. Default: what suits device and memory.")
]
Weights = Annotated[str | None, typer.Option(help="Where the backbone's weights are now, if they have moved.")]
Model = Annotated[Path, typer.Argument(help="A classifier: the folder that `featx fit` wrote.")]


MATRIX_CLASSES = 20  # beyond, the confusion matrix is not shown whole


def recipe_options(
    backbone: Annotated[str, typer.Option(help="A name of `featx backbones`, or a .keras file.")] = "vgg16",
    alpha: Annotated[float | None, typer.Option(help="Width of a MobileNet, such as 0.35.")] = None,
    layer: Annotated[str | None, typer.Option(help="Cut there. Default: the last convolutional output.")] = None,
    pooling: Annotated[Literal["none", "avg", "max"], typer.Option(help="Pool the maps before storing them.")] = "none",
    size: Annotated[int | None, typer.Option(min=1, help="Side in pixels. Default: the backbone's.")] = None,
    resize: Annotated[Literal["stretch", "crop", "pad"], typer.Option(help="How pictures get that size.")] = "stretch",
    preprocess: Annotated[
        Literal["auto", "rescale", "caffe", "tf", "torch", "none"],
        typer.Option(help="auto: the backbone's own rule; rescale: x/255."),
    ] = "auto",
    weights: Annotated[str, typer.Option(help="imagenet, random, or a .weights.h5, .h5 or .keras file.")] = "imagenet",
    dtype: Annotated[Literal["float16", "float32"], typer.Option(help="As which features are stored.")] = "float16",
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="In which the network computes.")
    ] = "float32",
    engine: Annotated[
        Literal["auto", "keras", "openvino"],
        typer.Option(help="What computes. auto: FEATX_ENGINE if set, else the fastest that is there."),
    ] = "auto",
    draft: Annotated[bool, typer.Option("--draft", help="Decode large JPEGs at a fraction of their size.")] = False,
    max_pixels: Annotated[int, typer.Option(min=1, help="Larger pictures are quarantined.")] = MAX_PIXELS,
    views: Annotated[int, typer.Option(min=1, help="Views of each training picture; 1: itself only.")] = 1,
    flip: Annotated[bool, typer.Option("--flip", help="Views: mirror about half of them left to right.")] = False,
    zoom: Annotated[float, typer.Option(help="Views: magnify or shrink by up to this share.")] = 0.0,
    rotate: Annotated[float, typer.Option(help="Views: turn by up to so many degrees either way.")] = 0.0,
    shift: Annotated[float, typer.Option(help="Views: move by up to this share of the side.")] = 0.0,
    brightness: Annotated[float, typer.Option(help="Views: brighten or darken by up to this share.")] = 0.0,
    seed: Seed = 0,
) -> dict[str, Any]:
    """The fields of a recipe, and its views."""
    from featx.backbones import canonical_name
    from featx.pictures import Views

    return {
        "backbone": canonical_name(backbone, alpha),
        "layer": layer,
        "pooling": pooling,
        "size": size,
        "resize": resize,
        "preprocess": preprocess,
        "weights": weights,
        "dtype": dtype,
        "precision": precision,
        "engine": engine,
        "draft": draft,
        "max_pixels": max_pixels,
        "random_state": seed,
        "views": Views(views, flip, zoom, rotate, shift, brightness, random_state=seed),
    }


@command(app, "featx extract photos/ --backbone resnet50", options=recipe_options)
def extract(
    dataset: Annotated[Path, typer.Argument(help="Folder of CLASS/*, of train/CLASS/* ..., or a label file.")],
    settings: dict[str, Any],
    batch_size: BatchSize = None,
    workers: Annotated[
        str, typer.Option(help="A number of processes, gpus (one each), dask://HOST:PORT or ray://HOST:PORT.")
    ] = "1",
    strict: Annotated[bool, typer.Option("--strict", help="Fail on the first unreadable picture.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Print where the time went.")] = False,
    cache_dir: CacheDir = Path("cache"),
) -> Report:
    """Run a frozen network over pictures once, and keep its features in a file.

    Pictures whose features are in the cache folder already are not computed again. Unreadable ones go to the
    quarantine, with the reason.
    """
    from featx.cache import load_features
    from featx.extraction import extract

    done = extract(
        dataset,
        cache_dir=cache_dir,
        batch_size=batch_size,
        workers=workers,
        strict=strict,
        progress=progress,
        **settings,
    )
    fields = asdict(done) | {"quarantine": [{"path": path, "reason": reason} for path, reason in done.quarantine]}
    fields["features"] = fields.pop("features_path")
    for path, reason in done.quarantine[:10]:
        note(f"quarantined: {path!r}: {reason}")
    if len(done.quarantine) > 10:
        note(f"quarantined: {len(done.quarantine) - 10} more; `featx cache show {done.features_path}` lists all")
    engine = f" by {done.engine}" if done.computed else ""
    rate = f", {done.images_per_second:.1f} pictures/s" if done.computed else ""
    ignored = f" ({done.ignored} other files ignored)" if done.ignored else ""
    views = f"; {done.view_rows} rows of views 1 to {done.views - 1}" if done.view_rows else ""
    classes = _counts(load_features(done.features_path))
    return Report(
        fields,
        f"{done.listed} listed = {done.rows} rows + {done.quarantined} quarantined{ignored}{views}\n{classes}\n"
        f"{done.computed} computed{engine}, {done.reused} reused in {done.seconds:.1f} s{rate}\n"
        f"{done.features_path}: {_shape(done.shape)} {done.dtype}" + (f"\n\n{_profile(done)}" if profile else ""),
    )


@command(app, "featx fit --head logreg --input avg --C 0.1")
def fit(
    features: Annotated[Path | None, typer.Argument(help="A feature file. Default: the newest in the cache.")] = None,
    head: Annotated[str, typer.Option(help="bn-mlp, mlp, logreg, svm, ridge or knn.")] = "bn-mlp",
    input: Annotated[Literal["flat", "avg", "max"] | None, typer.Option(help="What becomes of maps.")] = None,
    C: Annotated[float | None, typer.Option("--C", help="logreg, svm, ridge: inverse penalty.")] = None,
    n_neighbors: Annotated[int | None, typer.Option("--neighbors", min=1, help="knn: how many vote.")] = None,
    hidden: Annotated[int | None, typer.Option(min=1, help="bn-mlp, mlp: width of hidden layers.")] = None,
    dropout: Annotated[float | None, typer.Option(help="bn-mlp, mlp.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="bn-mlp, mlp.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="bn-mlp, mlp: rows a step.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="bn-mlp, mlp: at most.")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="bn-mlp, mlp: epochs to wait for a better one.")] = None,
    mixup: Annotated[float | None, typer.Option(help="bn-mlp, mlp: alpha of mixing rows; 0 is off.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="bn-mlp, mlp: of AdamW.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="bn-mlp, mlp: share spread over all classes.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="bn-mlp, mlp: hidden layers.")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Choose a temperature by the validation rows.")
    ] = False,
    validation: Annotated[float, typer.Option(help="Share to hold out if the data set does not say.")] = 0.2,
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: models/FEATURES-HEAD.")] = None,
    seed: Seed = 0,
    cache_dir: CacheDir = Path("cache"),
) -> Report:
    """Train a small head on cached features, in seconds.

    Options left out take the head's own defaults.
    """
    given = {"input": input, "C": C, "n_neighbors": n_neighbors, "hidden": hidden, "dropout": dropout}
    given |= {"learning_rate": learning_rate, "batch_size": batch_size, "epochs": epochs, "patience": patience}
    given |= {"mixup": mixup, "weight_decay": weight_decay, "label_smoothing": label_smoothing, "layers": layers}
    params: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    from featx.cache import CacheFolder
    from featx.classifier import fit

    _require_options_of(head, params)

    if features is None:
        features = CacheFolder(cache_dir).newest()
        note(f"using {features}, the newest feature file")
    classifier = fit(
        features, head, validation=validation, random_state=seed, calibrate=calibrate, progress=progress, **params
    )
    folder = out or Path("models") / f"{features.stem}-{head}"
    if folder.exists():
        note(f"{folder} is replaced")
    classifier.save(folder)
    report = classifier.report
    calibrated = f", temperature {report['temperature']:.2f}" if calibrate else ""
    return Report(
        {"model": str(folder), **report},
        f"{head}: {on_validation_rows(report)}, {percent(report['train_accuracy'])} on {report['train_rows']} "
        f"training rows{calibrated}, {report['seconds']:.1f} s\n{folder}",
    )


@command(app, "featx evaluate models/photos-logreg --split test")
def evaluate(
    model: Model,
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[FEATURES|DATASET]", help="What to measure on. Default: what it was fitted on."),
    ] = None,
    split: Annotated[
        Literal["test", "validation", "train"] | None,
        typer.Option(help="Default: test rows, else rows that were not trained on."),
    ] = None,
    weights: Weights = None,
    cache_dir: CacheDir = Path("cache"),
) -> Report:
    """Measure a classifier: accuracy with its 95 % interval, log loss, confusion matrix, and each class."""
    from featx.classifier import Classifier

    classifier = Classifier.load(model, weights)
    features = classifier.features(source, cache_dir=cache_dir, progress=progress)
    found = classifier.evaluate(features, split)
    names = found.class_names
    classes = columns(
        [
            [n, *(v for m, v in found.per_class[n].items() if m != "support"), int(found.per_class[n]["support"])]
            for n in names
        ],
        ["class", "precision", "recall", "f1", "support"],
    )
    matrix = _confusions(names, found.confusion_matrix)
    low, high = found.ci95
    return Report(
        asdict(found),
        f"accuracy {percent(found.accuracy)} (95 % interval {percent(low)} to {percent(high)}) on {found.rows} "
        f"{found.split} rows, log loss {found.log_loss:.4f}, calibration error {found.calibration_error:.3f}; "
        f"{found.quarantined} pictures of the data set are "
        f"quarantined\n\n{classes}\n\n{matrix}",
    )


@command(app, "featx predict models/photos-logreg new/ --top 3 --csv new.csv")
def predict(
    model: Model,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Pictures, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to print for each picture.")] = 1,
    csv: Annotated[Path | None, typer.Option(help="Also write all probabilities to this file.")] = None,
    batch_size: BatchSize = None,
    weights: Weights = None,
) -> Report:
    """Predict new pictures, by the spec that was saved with the classifier."""
    from featx.classifier import Classifier
    from featx.errors import DatasetError

    if csv and not csv.absolute().parent.is_dir():
        raise DatasetError(f"--csv {csv}: there is no folder {csv.absolute().parent}; make it, or name another file")
    predictions, bad = Classifier.load(model, weights).predict(paths, batch_size=batch_size, progress=progress)
    for path, reason in bad:
        note(f"quarantined: {path!r}: {reason}")
    note(f"{len(predictions) + len(bad)} listed = {len(predictions)} predicted + {len(bad)} quarantined")
    if csv and predictions:
        _write_csv(csv, predictions)
    lines = []
    for prediction in predictions:
        best = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:top]
        lines.append("\t".join([escaped(prediction.path), *(f"{escaped(name)}\t{p:.4f}" for name, p in best)]))
    fields = {
        "predictions": [
            {"path": p.path, "label": p.label, "probability": p.probability, "probabilities": p.probabilities}
            for p in predictions
        ],
        "quarantined": [{"path": path, "reason": reason} for path, reason in bad],
    }
    return Report(fields, "\n".join(lines), failed=not predictions)


@command(app, "featx doctor models/photos-logreg --rows 100")
def doctor(
    model: Model,
    source: Annotated[
        Path | None, typer.Argument(metavar="[FEATURES|DATASET]", help="Default: what it was fitted on.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many pictures to compare.")] = 32,
    weights: Weights = None,
    cache_dir: CacheDir = Path("cache"),
) -> Report:
    """Prove on your own pictures that predicting from files gives what was measured on the cache."""
    from featx.classifier import Classifier

    classifier = Classifier.load(model, weights)
    features = classifier.features(source, cache_dir=cache_dir, progress=progress)
    found = classifier.doctor(features, rows)
    verdict = "agree" if found["ok"] else "DISAGREE: do not trust this classifier; extract and fit again"
    skipped = f"; {len(found['skipped'])} pictures were not as they were" if found["skipped"] else ""
    return Report(
        found,
        f"cached and live probabilities {verdict}: they differ by at most {found['max_abs_difference']:.2g} on "
        f"{found['rows']} pictures{skipped}",
        failed=not found["ok"],
    )


@command(app, "featx backbones vgg16")
def backbones(
    name: Annotated[str | None, typer.Argument(help="List this network's layers; a .keras file works too.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Side of the input, for the layers' shapes.")] = None,
    unfreeze: Annotated[str | None, typer.Option(help="Also say which layers `featx finetune` would train.")] = None,
) -> Report:
    """List the networks, or one network's layers and where it can be cut."""
    from featx.backbones import BACKBONES, list_layers

    if name is None:
        rows = [
            {"name": b.name, "parameters": b.parameters, "size": b.size, "smallest_size": b.min_size}
            | {"feature_shape": b.shape, "preprocessing": b.preprocess, "layer": b.layer}
            for b in BACKBONES.values()
        ]
        table = [
            [*list(row.values())[:4], _shape(row["feature_shape"]), row["preprocessing"], row["layer"]] for row in rows
        ]
        header = ["name", "parameters", "size", "smallest", "features", "preprocessing", "default cut"]
        return Report({"backbones": rows}, columns(table, header))
    progress(f"building {name}", 0, 0)
    layers = list_layers(name, size, unfreeze)
    header = ["index", "name", "type", "output", "parameters", "cut", "tail", *(["trains"] if unfreeze else [])]
    shown = [
        [r.index, r.name, r.type, _shape(r.output_shape), r.parameters, r.cut, r.tail, r.trains][: len(header)]
        for r in layers
    ]
    return Report({"name": name, "layers": [asdict(r) for r in layers]}, columns(shown, header))


@command(app, "featx demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write everything to.")] = Path("featx-demo"),
    weights: Annotated[str | None, typer.Option(help="VGG16 weights. Default: ImageNet's, else random.")] = None,
    seed: Seed = 0,
) -> Report:
    """Handwritten digits, VGG16 and three heads, in a minute or two and without a network.

    With --json, one object a step; the last has the accuracies and the paths.
    """
    from featx.demo import run

    steps = []
    for step in run(out, weights=weights, random_state=seed, progress=progress):
        note(step.pop("text"))
        steps.append(step)
    last = steps[-1]
    rows = [[h["head"], h["test_accuracy"], h["seconds"]] for h in last["heads"]]
    written = "\n".join(f"{what:9} {path}" for what, path in last["written"].items())
    return Report(steps, f"{columns(rows, ['head', 'test accuracy', 'seconds'])}\n\n{written}")


def _profile(done: Any) -> str:
    """Where an extraction's time went, and what would make it quicker."""
    about = {
        "list": "finding the files and reading those that are new",
        "read": "reading files, all threads together",
        "decode": "decoding them",
        "resize": "resizing them",
        "trunk": f"the network, by {done.engine}",
        "waiting": "the network had no pictures to work on",
        "write": "writing blocks",
        "assemble": "putting the feature file together",
    }
    rows = [[stage, round(done.profile[stage], 2), text] for stage, text in about.items() if stage in done.profile]
    loading = sum(done.profile.get(stage, 0.0) for stage in ("read", "decode", "resize"))
    hint = "the network is what takes the time"
    if not done.computed:
        hint = "nothing was computed"
    elif done.profile["waiting"] > done.profile["trunk"]:
        slowest = "decoding" if done.profile["decode"] > loading / 2 else "reading"
        hint = f"{slowest} pictures is what takes the time"
        hint += (
            "; --draft decodes large JPEGs faster"
            if slowest == "decoding" and "draft" not in done.spec["decoder"]
            else ""
        )
    return f"{columns(rows, ['stage', 'seconds', ''])}\n{hint}"


def _counts(features: Any) -> str:
    """How many pictures each class and each split has, in a line."""
    first = features.pictures
    classes = Counter(features.class_names[label] for label in features.y[first].tolist() if label >= 0)
    some = ", ".join(f"{escaped(name)} {count}" for name, count in list(classes.items())[:10])
    more = f", ... and {len(classes) - 10} more" if len(classes) > 10 else ""
    splits = Counter(features.splits[first].tolist())
    marked = ", ".join(f"{name or 'no split'} {count}" for name, count in splits.items())
    return f"{len(classes)} classes: {some}{more}; {marked}" if classes else f"no labels; {marked}"


def _write_csv(path: Path, predictions: list[Any]) -> None:
    import csv
    import io

    from featx._internal.files import write_whole

    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["path", "label", "probability", *predictions[0].probabilities])
    for p in predictions:
        writer.writerow([p.path, p.label, f"{p.probability:.6f}", *(f"{v:.6f}" for v in p.probabilities.values())])
    write_whole(path, file.getvalue().encode("utf-8", "backslashreplace"))


def _require_options_of(head: str, params: dict[str, Any]) -> None:
    from featx.errors import TrainingError
    from featx.heads import HEADS

    known = HEADS[head]._get_param_names() if head in HEADS else list(params)
    options = {"C": "--C", "n_neighbors": "--neighbors", "input": "--input", "hidden": "--hidden", "epochs": "--epochs"}
    options |= {"dropout": "--dropout", "learning_rate": "--learning-rate", "batch_size": "--batch-size"}
    options |= {"patience": "--patience", "mixup": "--mixup", "weight_decay": "--weight-decay"}
    options |= {"label_smoothing": "--label-smoothing", "layers": "--layers"}
    for name in set(params) - set(known):
        its = ", ".join(option for parameter, option in options.items() if parameter in known)
        raise TrainingError(f"{options[name]} does not go with --head {head}, which takes {its}")


def _confusions(names: list[str], matrix: list[list[int]]) -> str:
    """The matrix; for many classes, which no terminal is wide enough for, what was confused most."""
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


def on_validation_rows(report: dict[str, Any]) -> str:
    """How a classifier did on the rows held out."""
    if not report["validation_rows"]:
        return "no validation rows"
    return f"{percent(report['validation_accuracy'])} on {report['validation_rows']} validation rows"


def percent(share: float) -> str:
    """A share as a person reads it."""
    return f"{100 * share:.1f} %"


def _shape(shape: Any) -> str:
    return " x ".join("?" if n is None else str(n) for n in shape)
