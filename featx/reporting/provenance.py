"""What a classifier was made of, and the command lines that make it again."""

from __future__ import annotations

import platform
import shlex
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from featx import __version__
from featx.backbones import SCRATCH
from featx.cache import Features, load_features
from featx.classifier import TAIL, Classifier, head_name
from featx.errors import CacheError

PACKAGES = ("keras", "tensorflow", "scikit-learn", "numpy", "pillow")
OPTIONS = {
    "n_neighbors": "--neighbors",
    "random_state": "--seed",
    **{name: f"--{name}" for name in ("input", "C", "hidden", "dropout", "epochs", "patience", "mixup", "layers")},
    **{n: "--" + n.replace("_", "-") for n in ("learning_rate", "batch_size", "weight_decay", "label_smoothing")},
}
TAIL_OPTIONS = {
    name: OPTIONS.get(name, f"--{name}")
    for name in ("optimizer", "learning_rate", "momentum", "weight_decay", "schedule", "label_smoothing", "batch_size")
    + ("epochs", "patience", "keep", "random_state")
}
USUAL_VALIDATION = 0.2
CLASSES_NAMED = 30


@dataclass(frozen=True)
class Step:
    """A command line, and what it does."""

    what: str
    command: str


@dataclass(frozen=True)
class Provenance:
    """What is known of a classifier's making.

    Attributes:
        tables: facts: a title, and rows of name and value.
        steps: that make it again; ``notes`` say what they leave out.
        training: sentences about the pictures it was trained on.
        summary: head and network in a few words.
    """

    tables: list[tuple[str, list[tuple[str, str]]]]
    steps: list[Step]
    notes: list[str]
    training: list[str]
    summary: str


def provenance_of(classifier: Classifier, features: Features, folder: Path | None, split: str) -> Provenance:
    """What is known of a classifier's making.

    Args:
        classifier: of which it is told.
        features: that it is measured on.
        folder: where it was loaded from.
        split: which rows were measured.
    """
    trained_on = _trained_on(classifier, features)
    steps, notes = _steps(classifier, trained_on, str(folder or "MODEL"))
    measured = ["featx", "evaluate", str(folder or "MODEL")]
    if features.path.resolve() != Path(classifier.report.get("features", "")).resolve():
        measured.append(str(features.path))
    measured += ["--split", split] if split != "unseen" else []
    steps.append(Step("Measure it", shlex.join(measured)))
    spec = classifier.spec
    tail = head_name(classifier.head) == TAIL
    network = getattr(classifier.head, "division", {}).get("backbone") if tail else spec["backbone"]
    summary = (
        f"{network}, its last layers trained too" if tail else f"the {head_name(classifier.head)} head on {network}"
    )
    return Provenance(_tables(classifier, features), steps, notes, _training(classifier, trained_on), summary)


def _trained_on(classifier: Classifier, features: Features) -> Features | None:
    """The features it was fitted on, if they are still there."""
    path = Path(classifier.report.get("features", ""))
    if features.path.resolve() == path:
        return features
    try:
        return load_features(path)
    except CacheError:
        return None


def _training(classifier: Classifier, features: Features | None) -> list[str]:
    """How many pictures it was trained on, of which data set, and how many of each class if that can still be seen."""
    report = classifier.report
    lines = [f"{len(classifier.train_ids):,} pictures of the data set {report.get('dataset') or 'that has no name'}."]
    if report.get("train_views"):
        lines.append(f"To these were added {report['train_views']:,} variations of them (views).")
    if features is None:
        return [*lines, "The features that it was fitted on are gone, so that its classes cannot be counted."]
    rows = np.isin(features.ids, classifier.train_ids) & (features.views == 0) & (features.y >= 0)
    counts = np.bincount(features.y[rows], minlength=len(features.class_names)).tolist()
    most = sorted(zip(features.class_names, counts, strict=True), key=lambda pair: -pair[1])
    if len(most) > CLASSES_NAMED:
        return [*lines, f"From {most[-1][1]:,} pictures ({most[-1][0]}) to {most[0][1]:,} ({most[0][0]}) a class."]
    return [*lines, "By class: " + ", ".join(f"{name} {count:,}" for name, count in most) + "."]


def _tables(classifier: Classifier, features: Features) -> list[tuple[str, list[tuple[str, str]]]]:
    report = {k: v for k, v in classifier.report.items() if k not in ("history", "params") and v is not None}
    params = {k: v for k, v in classifier.head.get_params(deep=False).items() if v is not None}
    made = {"features made by": f"featx {features.featx_version}", "decoder": features.decoded_by}
    made |= {"this page made by": f"featx {__version__}", "on": date.today().isoformat(), **_versions()}
    return [
        ("Spec: what decides the features", _shown(classifier.spec)),
        ("Recipe: how to make them", _shown({k: v for k, v in asdict(classifier.recipe).items() if v is not None})),
        (f"Head: {head_name(classifier.head)}", _shown({**params, "temperature": classifier.temperature})),
        ("Fitting", _shown(report)),
        ("Versions", _shown(made)),
    ]


def _shown(values: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, f"{v:.6g}" if isinstance(v, float) else str(v)) for name, v in values.items()]


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # such as TensorFlow, where JAX is the backend
            continue
    return found


def _steps(classifier: Classifier, trained_on: Features | None, folder: str) -> tuple[list[Step], list[str]]:
    dataset = _dataset(trained_on)
    if head_name(classifier.head) == TAIL:
        return _finetuning(classifier, trained_on, dataset, folder)
    steps = [Step("Extract features", shlex.join(["featx", "extract", dataset, *_recipe_options(classifier.recipe)]))]
    steps[0] = Step(steps[0].what, steps[0].command + _views(trained_on))
    report, head = classifier.report, classifier.head
    given = _given(head, type(head)(), OPTIONS)
    words = ["featx", "fit", str(report.get("features", "FEATURES")), "--head", head_name(head)]
    if "folds" in report:
        words[1] = "cv"
        given = {k: v for k, v in given.items() if k in ("--C", "--input", "--seed")}
        words += [] if report["folds"] == 5 else ["--folds", str(report["folds"])]
    else:
        words += _validation(report)
    words += [word for option in given.items() for word in option] + (
        ["--calibrate"] if classifier.temperature != 1 else []
    )
    steps.append(Step("Fit the head", shlex.join([*words, "--out", folder])))
    return steps, _left_out(head, type(head)(), OPTIONS)


def _finetuning(
    classifier: Classifier, trained_on: Features | None, dataset: str, folder: str
) -> tuple[list[Step], list[str]]:
    head: Any = classifier.head
    report, division = classifier.report, head.division
    words = ["featx", "finetune", dataset]
    if division["backbone"] in SCRATCH:
        words += ["--from-scratch", division["backbone"]]
    else:
        words += ["--backbone", division["backbone"], "--weights", head.weights]
        words += ["--unfreeze", str(report.get("unfreeze", "auto")), "--layer", division["end"]]
    words += ["--size", str(division["size"])]
    words += ["--resize", classifier.recipe.resize] if classifier.recipe.resize != "stretch" else []
    words += ["--live-augment"] if report.get("live_augment") else []
    words += ["--head", head.head] if head.head != "logreg" else []
    usual = type(head)(division)
    words += [word for option in _given(head, usual, TAIL_OPTIONS).items() for word in option]
    named = {OPTIONS[name]: value for name, value in (head.head_params or {}).items() if name in OPTIONS}
    words += [word for option, value in named.items() for word in (option, str(value)) if option != "--epochs"]
    steps = [Step("Fine-tune", shlex.join([*words, "--out", folder]) + _views(trained_on))]
    notes = ["How pictures were varied while training (--flip, --zoom, ...) is not kept with a classifier."]
    return steps, notes if report.get("live_augment") else []


def _dataset(features: Features | None) -> str:
    """The data set as it would be named on a command line: its folder, or the label file in it."""
    if features is None:
        return "DATASET"
    root = Path(features.root)
    files = [root / f"{features.dataset}{suffix}" for suffix in (".csv", ".tsv", ".txt")]
    return str(next((f for f in files if root.name != features.dataset and f.is_file()), root))


def _recipe_options(recipe: Any) -> list[str]:
    """The options by which a recipe differs from the usual one."""
    usual = asdict(type(recipe)())
    words = []
    for name, value in asdict(recipe).items():
        option = "--seed" if name == "random_state" else "--" + name.replace("_", "-")
        if value == usual[name] or (name == "dtype" and recipe.backbone == "pixels"):
            continue
        words += [option] if value is True else [option, str(value)]
    return words


def _views(features: Features | None) -> str:
    """The options that make the views of a feature file, with a space before them."""
    if features is None or not features.augmentation:
        return ""
    words = ["--views", str(int(features.views.max()) + 1)]
    for name in ("flip", "zoom", "rotate", "shift", "brightness"):
        value = features.augmentation.get(name)
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)] if value else []
    seed = features.augmentation.get("random_state", 0)
    return " " + shlex.join(words + (["--seed", str(seed)] if seed else []))


def _validation(report: dict[str, Any]) -> list[str]:
    """The share held out, where it was drawn and was not the usual one, as nearly as the numbers tell."""
    if not report.get("refitted") or not report.get("train_rows"):
        return []
    share = report["validation_rows"] / report["train_rows"]
    return [] if abs(share - USUAL_VALIDATION) < 0.04 else ["--validation", f"{share:.2f}"]


def _given(head: Any, usual: Any, options: dict[str, str]) -> dict[str, str]:
    """The options whose parameter is not the usual one."""
    params, defaults = head.get_params(deep=False), usual.get_params(deep=False)
    return {options[n]: str(v) for n, v in params.items() if n in options and v != defaults.get(n) and v is not None}


def _left_out(head: Any, usual: Any, options: dict[str, str]) -> list[str]:
    """Settings that no option of the command line has."""
    params, defaults = head.get_params(deep=False), usual.get_params(deep=False)
    odd = [f"{name}={value!r}" for name, value in params.items() if name not in options and value != defaults.get(name)]
    return [f"Set from Python, no option has it: {', '.join(odd)}."] if odd else []
