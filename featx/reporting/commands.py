"""Command lines that make a classifier again."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from featx._internal.options import option_of
from featx.backbones import SCRATCH
from featx.cache import Features
from featx.classifier import Classifier, Fitting, head_name
from featx.extraction import Recipe
from featx.heads import Head
from featx.tail import TailHead

# Parameters that `featx fit` has an option for, and those of `featx finetune` besides the head's
PARAMETERS = (
    "input", "C", "n_neighbors", "hidden", "layers", "dropout", "learning_rate", "batch_size", "epochs", "patience",
    "mixup", "weight_decay", "label_smoothing", "random_state",
)  # fmt: skip
TAIL_PARAMETERS = (
    "optimizer", "learning_rate", "momentum", "weight_decay", "schedule", "label_smoothing", "batch_size", "epochs",
    "patience", "keep", "random_state",
)  # fmt: skip
OPTIONS = {name: option_of(name) for name in PARAMETERS}
TAIL_OPTIONS = {name: option_of(name) for name in TAIL_PARAMETERS}
USUAL_VALIDATION = 0.2
USUAL_FOLDS = 5


@dataclass(frozen=True)
class Step:
    """Command line, and what it does."""

    what: str
    command: str


def steps_of(classifier: Classifier, trained_on: Features | None, folder: str) -> tuple[list[Step], list[str]]:
    """Steps from pictures to the classifier, and notes on what they leave out.

    Args:
        classifier: the classifier.
        trained_on: features that it was fitted on; None if they are gone.
        folder: folder to save it to.
    """
    if classifier.head.has_tail:
        return _finetuning(classifier, trained_on, folder)
    extract = ["featx", "extract", _dataset(trained_on), *_recipe_options(classifier.recipe), *_views(trained_on)]
    default = type(classifier.head)()
    fit = [*_fitting(classifier, default), "--out", folder]
    steps = [Step("Extract features", shlex.join(extract)), Step("Fit the head", shlex.join(fit))]
    return steps, _left_out(classifier.head, default, OPTIONS)


def _fitting(classifier: Classifier, default: Head) -> list[str]:
    """Words of `featx fit`, or of `featx cv` for what was cross-validated."""
    record = classifier.fitting
    options = _changed(classifier.head, default, OPTIONS)
    words = [record.features_path or "FEATURES", "--head", head_name(classifier.head)]
    if record.folds is not None:
        options = {option: value for option, value in options.items() if option in ("--C", "--input", "--seed")}
        words = ["featx", "cv", *words]
        words += [] if record.folds == USUAL_FOLDS else ["--folds", str(record.folds)]
    else:
        words = ["featx", "fit", *words, *_validation(record)]
    words += ["--calibrate"] if classifier.temperature != 1 else []
    return words + _flat(options)


def _finetuning(classifier: Classifier, trained_on: Features | None, folder: str) -> tuple[list[Step], list[str]]:
    """Words of `featx finetune`."""
    head = cast(TailHead, classifier.head)
    record = classifier.fitting
    division = head.division
    words = ["featx", "finetune", _dataset(trained_on)]
    if division["backbone"] in SCRATCH:
        words += ["--from-scratch", division["backbone"]]
    else:
        words += ["--backbone", division["backbone"], "--weights", str(head.weights)]
        words += ["--preprocess", division["preprocess"]]
        words += ["--unfreeze", record.unfreeze or "auto", "--layer", division["end"]]
    words += ["--size", str(division["size"])]
    words += ["--resize", classifier.recipe.resize] if classifier.recipe.resize != "stretch" else []
    words += ["--live-augment"] if record.live_augment else []
    words += ["--head", head.head] if head.head != "logreg" else []
    words += _flat(_changed(head, TailHead(division), TAIL_OPTIONS))
    settings = {OPTIONS[name]: str(value) for name, value in (head.head_params or {}).items() if name in OPTIONS}
    settings.pop("--epochs", None)  # of the head alone, for which the tail's own option is meant otherwise
    words += [*_flat(settings), *_views(trained_on), "--out", folder]
    notes = ["How pictures were varied while training (--flip, --zoom, ...) is not kept with a classifier."]
    return [Step("Fine-tune", shlex.join(words))], notes if record.live_augment else []


def _flat(options: dict[str, str]) -> list[str]:
    return [word for option in options.items() for word in option]


def _dataset(features: Features | None) -> str:
    """Data set as it would be named on a command line: its folder, or the label file in it."""
    if features is None:
        return "DATASET"
    root = Path(features.root)
    files = [root / f"{features.dataset}{suffix}" for suffix in (".csv", ".tsv", ".txt")]
    return str(next((f for f in files if root.name != features.dataset and f.is_file()), root))


def _recipe_options(recipe: Recipe) -> list[str]:
    """Options by which a recipe differs from the default."""
    default = asdict(Recipe())
    words = []
    for name, value in asdict(recipe).items():
        option = option_of(name)
        if value == default[name] or (name == "dtype" and recipe.backbone == "pixels"):
            continue
        words += [option] if value is True else [option, str(value)]
    return words


def _views(features: Features | None) -> list[str]:
    """Options that make the views of a feature file."""
    if features is None or not features.augmentation:
        return []
    words = ["--views", str(int(features.views.max()) + 1)]
    for name in ("flip", "zoom", "rotate", "shift", "brightness", "random_state"):
        option = option_of(name)
        value = features.augmentation.get(name)
        if value:
            words += [option] if value is True else [option, str(value)]
    return words


def _validation(record: Fitting) -> list[str]:
    """Share held out, if it was drawn and was not the default, as nearly as the numbers of rows tell."""
    if not record.refitted or not record.train_rows:
        return []
    share = record.validation_rows / record.train_rows
    return [] if abs(share - USUAL_VALIDATION) < 0.04 else ["--validation", f"{share:.2f}"]


def _changed(head: Head, default: Head, options: dict[str, str]) -> dict[str, str]:
    """Options whose parameter is not the default, and their values."""
    changed = _changed_params(head, default)
    return {options[name]: str(value) for name, value in changed.items() if name in options and value is not None}


def _left_out(head: Head, default: Head, options: dict[str, str]) -> list[str]:
    """Note on parameters that no option of the command line has; empty if there are none."""
    changed = _changed_params(head, default)
    left_out = [f"{name}={value!r}" for name, value in changed.items() if name not in options]
    return [f"Set from Python, no option has it: {', '.join(left_out)}."] if left_out else []


def _changed_params(head: Head, default: Head) -> dict[str, Any]:
    params = head.get_params(deep=False)
    defaults = default.get_params(deep=False)
    return {name: value for name, value in params.items() if value != defaults.get(name)}
