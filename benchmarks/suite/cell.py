"""One cell, measured in a process of its own: `python -m benchmarks.suite.cell JOB`, where JOB is JSON.

The last line on stdout is what was measured, as JSON. The process ends when its stdin is closed: so it does not outlive
the run that started it, whatever ends that.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import featx
from benchmarks.suite.grid import FEATURES, FINE_TUNED, PIXELS, Cell
from featx._internal.keras import load_keras
from featx.errors import FeatxError, one_line

SHARES = (95, 99)  # percent of the best accuracy, to which seconds are measured


@dataclass(frozen=True)
class Job:
    """What a process is told.

    Attributes:
        cell: what to measure.
        labels: label file of its training and test pictures.
        cache: folder of the features that it uses.
        recipe: of these features, as :func:`featx.extract` takes it.
    """

    cell: Cell
    labels: str
    cache: str
    recipe: dict[str, Any]


class Clock:
    """A featx progress callback that notes the time: ticks of stage, amount done, of how much, and seconds since."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.ticks: list[tuple[str, int, int, float]] = []

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.ticks.append((stage, done, total, self.seconds))

    @property
    def seconds(self) -> float:
        """Since the clock was made."""
        return time.perf_counter() - self.started

    def building(self) -> float:
        """Seconds in which networks were built."""
        return sum(b[3] - a[3] for a, b in pairwise(self.ticks) if a[0].startswith("building"))

    def first_beyond_median(self, stage: str) -> float:
        """Seconds that the first step of a stage took longer than the median one: what was compiled in it."""
        ticks = [tick for tick in self.ticks if tick[0] == stage]
        steps = [b[3] - a[3] for a, b in pairwise(ticks) if b[1] > a[1]]
        return max(0.0, steps[0] - statistics.median(steps[1:])) if len(steps) > 1 else 0.0

    def epoch_ends(self, epochs: int) -> list[float]:
        """Seconds at which training began and each epoch ended, with its validation; ``epochs`` were to be trained."""
        ticks = [(done * epochs / total, at) for stage, done, total, at in self.ticks if stage == "training"]
        reached = int(max((epoch for epoch, _ in ticks), default=-1))
        return [max(at for epoch, at in ticks if epoch <= number) for number in range(reached + 1)]


# ---------------------------------------------------------------------------------------------------------- measuring


def measure(job: Job) -> dict[str, Any]:
    """All that is measured of a cell; seconds are net of what is in ``warm_up_seconds``."""
    measured = _measure_of(job.cell.method)(job)
    return {**measured, "peak_bytes": peak_bytes()}


def _measure_of(method: str) -> Callable[[Job], dict[str, Any]]:
    if method in FINE_TUNED:
        return fine_tuned
    return {FEATURES: extracted, "majority": majority}.get(method, head_on_features)


def extracted(job: Job) -> dict[str, Any]:
    """Features of all pictures, into an empty cache."""
    imports = import_all(keras=job.cell.trains != PIXELS)
    recipe, clock = recipe_of_features(job), Clock()
    done = featx.extract(job.labels, cache_dir=job.cache, progress=clock, **recipe)
    seconds, warm_up = clock.seconds, clock.building() + clock.first_beyond_median("extracting")
    return {
        "warm_up_seconds": imports + warm_up,
        "features_seconds": seconds - warm_up,
        "pictures": done.rows,
        "shape": done.shape[1:],
        "disk_bytes": os.path.getsize(done.features_path),
    }


def recipe_of_features(job: Job) -> dict[str, Any]:
    """What heads, or :func:`featx.finetune`, train on: maps at the network's end or before its tail, or pixels."""
    cell, recipe = job.cell, job.recipe
    if cell.trains == "head":
        return recipe
    require_finetune()
    from featx import backbones

    if cell.trains == PIXELS:
        return {"backbone": backbones.PIXELS, "size": cell.size}
    parts = backbones.divide(recipe["backbone"], str(cell.trains), size=cell.size, preprocess=recipe["preprocess"])
    return {**recipe, "layer": parts.cut}


def majority(job: Job) -> dict[str, Any]:
    """No training: every picture gets the shares of the classes among the training pictures."""
    from featx.classifier.evaluation import measure as measured
    from featx.pictures import list_dataset

    listing = list_dataset(job.labels)
    index = {name: number for number, name in enumerate(listing.class_names)}
    of = {s: np.array([index[str(p.label)] for p in listing.pictures if p.split == s]) for s in ("train", "test")}
    shares = np.bincount(of["train"], minlength=len(index)) / len(of["train"])
    about = {"split": "test", "quarantined": 0, "seen_in_training": 0, "left_out": 0}
    told = measured(of["test"], np.tile(shares, (len(of["test"]), 1)), listing.class_names, **about)
    return {**_accuracy(told), "training_pictures": len(of["train"]), "train_seconds": 0.0, "warm_up_seconds": 0.0}


def head_on_features(job: Job) -> dict[str, Any]:
    """A head, fitted by :func:`featx.fit` on features that are cached already."""
    imports = import_all(keras=job.cell.method in ("mlp", "bn-mlp"))
    done = featx.extract(job.labels, cache_dir=job.cache, **job.recipe)
    clock, cell = Clock(), job.cell
    choosing: dict[str, Any] = {"validation": cell.validation, "random_state": cell.seed}
    classifier = featx.fit(done.features_path, cell.method, progress=clock, **choosing)
    return _trained(job, classifier, clock, imports, features_seconds=0.0)


def fine_tuned(job: Job) -> dict[str, Any]:
    """More than a head, trained by :func:`featx.finetune`."""
    imports, clock, cell = import_all(keras=True), Clock(), job.cell
    require_finetune()
    how = {"from_scratch": cell.trains} if cell.backbone is None else {"unfreeze": cell.trains}
    settings: dict[str, Any] = {"validation": cell.validation, "random_state": cell.seed, "epochs": cell.epochs}
    options = {**how, **settings, **job.recipe}
    classifier = featx.finetune(job.labels, cache_dir=job.cache, progress=clock, **options)
    return _trained(job, classifier, clock, imports, classifier.fitting.features_seconds)


def require_finetune() -> None:
    """Raises FeatxError if this featx cannot fine-tune."""
    if not hasattr(featx, "finetune"):
        raise FeatxError(f"this featx has no finetune, which {', '.join(FINE_TUNED)} are measured with")


def _trained(
    job: Job, classifier: featx.Classifier, clock: Clock, imports: float, features_seconds: float
) -> dict[str, Any]:
    """What is measured of a training that has just ended; its features took ``features_seconds`` of the clock."""
    seconds, compiling = clock.seconds, clock.first_beyond_median("training")
    features = featx.load_features(classifier.fitting.features_path)
    told = classifier.evaluate(features, "test")
    if job.cell.shots is not None:
        features.path.unlink()  # its rows are in the file of all pictures too, and it is not read again
    record = classifier.fitting
    ends = clock.epoch_ends(getattr(classifier.head, "epochs", 0))
    curve = validation_curve(classifier, [end - features_seconds - compiling * bool(n) for n, end in enumerate(ends)])
    trained = seconds - features_seconds - compiling
    epochs = [b - a for a, b in pairwise(ends)]
    per_epoch = record.seconds_per_epoch or (statistics.median(epochs[1:] or epochs) if epochs else None)
    return {
        **_accuracy(told),
        "validation_accuracy": record.validation_accuracy,
        "train_accuracy": record.train_accuracy,
        "training_pictures": len(np.union1d(classifier.train_ids, classifier.validation_ids)),
        "held_out_pictures": record.validation_rows,
        "warm_up_seconds": imports + compiling,
        "train_seconds": trained,
        "seconds_per_epoch": per_epoch,
        "epochs": record.epochs,
        "validation_curve": curve,
        **{f"seconds_to_{share}": seconds_to(share / 100, curve, trained) for share in SHARES},
    }


def validation_curve(classifier: featx.Classifier, ends: list[float]) -> list[tuple[float, float]]:
    """Seconds and validation accuracy: as training began, if that was measured, and after each epoch."""
    history = getattr(classifier.head, "history_", {}).get("val_accuracy", [])
    begun = classifier.fitting.start_validation_accuracy
    curve = [] if begun is None else [(ends[0], begun)]
    return curve + list(zip(ends[1:], history, strict=False))


def seconds_to(share: float, curve: list[tuple[float, float]], seconds: float) -> float:
    """Seconds to a share of the best validation accuracy; of a method without epochs, all it took."""
    if not curve:
        return seconds
    best = max(accuracy for _, accuracy in curve)
    return next(at for at, accuracy in curve if accuracy >= share * best)


def _accuracy(told: Any) -> dict[str, Any]:
    return {
        "accuracy": told.accuracy,
        "wilson95": told.ci95,
        "right": round(told.accuracy * told.rows),
        "test_rows": told.rows,
        "classes": len(told.class_names),
        "log_loss": told.log_loss,
    }


def import_all(keras: bool) -> float:
    """Seconds of importing what a method needs."""
    started = time.perf_counter()
    import_module("featx.classifier")  # and scikit-learn
    if keras:
        load_keras()
    return time.perf_counter() - started


def peak_bytes() -> int:
    """The most memory of this process that was ever resident."""
    status = Path("/proc/self/status")
    if status.exists():  # elsewhere than on Linux there is only getrusage, which may count the parent before `exec` too
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# ------------------------------------------------------------------------------------------------------------ process


def main() -> int:
    """Measure what the argument asks for."""
    asked = json.loads(sys.argv[1])
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        print(json.dumps(measure(Job(**{**asked, "cell": Cell(**asked["cell"])}))), flush=True)
    except Exception as error:  # whatever it is, the other cells go on
        why = str(error) if isinstance(error, FeatxError) else f"{type(error).__name__}: {one_line(error)}"
        print(json.dumps({"error": why}), flush=True)
        return 1
    return 0


def _end_with_stdin() -> None:
    os.read(0, 1)  # not sys.stdin, whose lock could not be had when Python shuts down
    os._exit(1)


if __name__ == "__main__":
    status = main()
    os._exit(status)  # without taking TensorFlow's graphs apart, which takes seconds
