"""Provenance of a classifier: what it was made of, and the command lines that make it again."""

from __future__ import annotations

import platform
import shlex
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from featx._internal.version import featx_version
from featx.cache import Features, load_features
from featx.classifier import Classifier, head_name
from featx.errors import CacheError
from featx.reporting.commands import Step, steps_of

PACKAGES = ("keras", "tensorflow", "scikit-learn", "numpy", "pillow")
CLASSES_NAMED = 30


@dataclass(frozen=True)
class Provenance:
    """Provenance of a classifier.

    Attributes:
        tables: facts, as titles and rows of name and value.
        steps: command lines that make it again.
        notes: what the command lines leave out.
        training: sentences about the pictures it was trained on.
        summary: head and network in a few words.
    """

    tables: list[tuple[str, list[tuple[str, str]]]]
    steps: list[Step]
    notes: list[str]
    training: list[str]
    summary: str


def provenance_of(classifier: Classifier, features: Features, folder: Path | None, split: str) -> Provenance:
    """Provenance of a classifier.

    Args:
        classifier: the classifier.
        features: feature file that it is measured on.
        folder: folder that it was loaded from, if it was.
        split: rows that were measured.
    """
    trained_on = _trained_on(classifier, features)
    steps, notes = steps_of(classifier, trained_on, str(folder or "MODEL"))
    measured = ["featx", "evaluate", str(folder or "MODEL")]
    if features.path.resolve() != Path(classifier.fitting.features_path).resolve():
        measured.append(str(features.path))
    measured += ["--split", split] if split != "unseen" else []
    steps.append(Step("Measure it", shlex.join(measured)))
    spec = classifier.spec
    tail = classifier.head.has_tail
    network = getattr(classifier.head, "division", {}).get("backbone") if tail else spec["backbone"]
    kind = f"the {head_name(classifier.head)} head on {network}"
    summary = f"{network}, its last layers trained too" if tail else kind
    return Provenance(_tables(classifier, features), steps, notes, _training(classifier, trained_on), summary)


def _trained_on(classifier: Classifier, features: Features) -> Features | None:
    """Features that it was fitted on; None if they are gone."""
    path = Path(classifier.fitting.features_path)
    if features.path.resolve() == path:
        return features
    try:
        return load_features(path)
    except CacheError:
        return None


def _training(classifier: Classifier, features: Features | None) -> list[str]:
    """Number of pictures it was trained on, and their data set; of each class, if its features still exist."""
    record = classifier.fitting
    lines = [f"{len(classifier.train_ids):,} pictures of the data set {record.dataset or 'that has no name'}."]
    if record.train_views:
        lines.append(f"To these were added {record.train_views:,} variations of them (views).")
    if features is None:
        return [*lines, "The features that it was fitted on are gone, so that its classes cannot be counted."]
    rows = np.isin(features.ids, classifier.train_ids) & features.pictures & (features.y >= 0)
    counts = np.bincount(features.y[rows], minlength=len(features.class_names)).tolist()
    most = sorted(zip(features.class_names, counts, strict=True), key=lambda pair: -pair[1])
    if len(most) > CLASSES_NAMED:
        return [*lines, f"From {most[-1][1]:,} pictures ({most[-1][0]}) to {most[0][1]:,} ({most[0][0]}) a class."]
    return [*lines, "By class: " + ", ".join(f"{name} {count:,}" for name, count in most) + "."]


def _tables(classifier: Classifier, features: Features) -> list[tuple[str, list[tuple[str, str]]]]:
    record = classifier.fitting.to_json()
    fitting = {name: v for name, v in record.items() if name not in ("history", "params") and v is not None}
    params = {name: v for name, v in classifier.head.get_params(deep=False).items() if v is not None}
    recipe = {name: v for name, v in asdict(classifier.recipe).items() if v is not None}
    made = {"features made by": f"featx {features.featx_version}", "decoder": features.decoded_by}
    made |= {"this page made by": f"featx {featx_version()}", "on": date.today().isoformat(), **_versions()}
    return [
        ("Spec: what decides the features", _shown(classifier.spec)),
        ("Recipe: how to make them", _shown(recipe)),
        (f"Head: {head_name(classifier.head)}", _shown({**params, "temperature": classifier.temperature})),
        ("Fitting", _shown(fitting)),
        ("Versions", _shown(made)),
    ]


def _shown(values: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, f"{v:.6g}" if isinstance(v, float) else str(v)) for name, v in values.items()]


def _versions() -> dict[str, str]:
    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # such as TensorFlow, where JAX is the backend
            continue
    return versions
