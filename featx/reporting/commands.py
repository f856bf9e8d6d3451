"""The command lines that make a classifier again."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featx._internal.options import option_of
from featx.backbones import SCRATCH
from featx.cache import Features
from featx.classifier import Classifier, Fitting, head_name

# Parameters that `featx fit` has an option for, and those of `featx finetune` besides the head's
PARAMETERS = (
    *("input", "C", "n_neighbors", "hidden", "layers", "dropout", "learning_rate", "batch_size", "epochs", "patience"),
    *("mixup", "weight_decay", "label_smoothing", "random_state"),
)
TAIL_PARAMETERS = (
    *("optimizer", "learning_rate", "momentum", "weight_decay", "schedule", "label_smoothing", "batch_size", "epochs"),
    *("patience", "keep", "random_state"),
)
OPTIONS = {name: option_of(name) for name in PARAMETERS}
TAIL_OPTIONS = {name: option_of(name) for name in TAIL_PARAMETERS}
USUAL_VALIDATION = 0.2
USUAL_FOLDS = 5


@dataclass(frozen=True)
class Step:
    """A command line, and what it does."""

    what: str
    command: str


def steps_of(classifier: Classifier, trained_on: Features | None, folder: str) -> tuple[list[Step], list[str]]:
    """The steps from pictures to the classifier, and what they leave out.

    Args:
        classifier: to be made again.
        trained_on: the features that it was fitted on, if they are still there.
        folder: where it is to be saved.
    """
    if classifier.head.has_tail:
        return _finetuning(classifier, trained_on, folder)
    extract = ["featx", "extract", _dataset(trained_on), *_recipe_options(classifier.recipe), *_views(trained_on)]
    usual = type(classifier.head)()
    fit = [*_fitting(classifier, usual), "--out", folder]
    steps = [Step("Extract features", shlex.join(extract)), Step("Fit the head", shlex.join(fit))]
    return steps, _left_out(classifier.head, usual, OPTIONS)


def _fitting(classifier: Classifier, usual: Any) -> list[str]:
    """`featx fit`, or `featx cv` for what was cross-validated."""
    record, head = classifier.fitting, classifier.head
    given = _given(head, usual, OPTIONS)
    words = [record.features_path or "FEATURES", "--head", head_name(head)]
    if record.folds is not None:
        given = {option: value for option, value in given.items() if option in ("--C", "--input", "--seed")}
        words = ["featx", "cv", *words]
        words += [] if record.folds == USUAL_FOLDS else ["--folds", str(record.folds)]
    else:
        words = ["featx", "fit", *words, *_validation(record)]
    words += ["--calibrate"] if classifier.temperature != 1 else []
    return words + _flat(given)


def _finetuning(classifier: Classifier, trained_on: Features | None, folder: str) -> tuple[list[Step], list[str]]:
    head: Any = classifier.head
    record, division = classifier.fitting, head.division
    words = ["featx", "finetune", _dataset(trained_on)]
    if division["backbone"] in SCRATCH:
        words += ["--from-scratch", division["backbone"]]
    else:
        words += ["--backbone", division["backbone"], "--weights", head.weights, "--preprocess", division["preprocess"]]
        words += ["--unfreeze", record.unfreeze or "auto", "--layer", division["end"]]
    words += ["--size", str(division["size"])]
    words += ["--resize", classifier.recipe.resize] if classifier.recipe.resize != "stretch" else []
    words += ["--live-augment"] if record.live_augment else []
    words += ["--head", head.head] if head.head != "logreg" else []
    words += _flat(_given(head, type(head)(division), TAIL_OPTIONS))
    settings = {OPTIONS[name]: str(value) for name, value in (head.head_params or {}).items() if name in OPTIONS}
    settings.pop("--epochs", None)  # of the head alone, for which the tail's own option is meant otherwise
    words += [*_flat(settings), *_views(trained_on), "--out", folder]
    notes = ["How pictures were varied while training (--flip, --zoom, ...) is not kept with a classifier."]
    return [Step("Fine-tune", shlex.join(words))], notes if record.live_augment else []


def _flat(given: dict[str, str]) -> list[str]:
    return [word for option in given.items() for word in option]


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
        option = option_of(name)
        if value == usual[name] or (name == "dtype" and recipe.backbone == "pixels"):
            continue
        words += [option] if value is True else [option, str(value)]
    return words


def _views(features: Features | None) -> list[str]:
    """The options that make the views of a feature file."""
    if features is None or not features.augmentation:
        return []
    words = ["--views", str(int(features.views.max()) + 1)]
    for name in ("flip", "zoom", "rotate", "shift", "brightness", "random_state"):
        option, value = option_of(name), features.augmentation.get(name)
        words += [option] if value is True else [option, str(value)] if value else []
    return words


def _validation(record: Fitting) -> list[str]:
    """The share held out, where it was drawn and was not the usual one, as nearly as the numbers tell."""
    if not record.refitted or not record.train_rows:
        return []
    share = record.validation_rows / record.train_rows
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
