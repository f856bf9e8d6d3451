"""What the five tutorials share: where pictures and weights are, and rows of a table that are measured but once."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import featx
from benchmarks.suite.report import student_interval
from featx._internal.files import write_whole

REAL = {"mobilenetv2": "mobilenet_v2_1.0_224_imagenet_notop.weights.h5"}


class Absent(Exception):
    """Pictures or weights that a tutorial needs are not there."""


@dataclass(frozen=True)
class Row:
    """One variant of one tutorial.

    Attributes:
        tutorial, variant: what was done.
        weights: of the network: ``imagenet`` (real), ``random`` or ``none``.
        accuracies: on the test pictures, one a seed.
        epochs, seconds: of training, the largest number and the median over the seeds.
        published: the tutorial's own figure, in its own words; empty if it has none.
        notes: what else there is to say.
    """

    tutorial: str
    variant: str
    weights: str
    accuracies: list[float]
    epochs: int
    seconds: float
    published: str
    notes: str

    @property
    def accuracy(self) -> str:
        """Mean, and with several seeds its 95 % interval."""
        mean = f"{100 * float(np.mean(self.accuracies)):.1f} %"
        if len(self.accuracies) < 2:
            return f"{mean} (one seed)"
        low, high = student_interval(self.accuracies)
        return f"{mean} ({100 * max(low, 0):.1f} to {100 * min(high, 1):.1f})"


@dataclass
class Lesson:
    """A run of one tutorial.

    Attributes:
        name: of the tutorial.
        data: folder of its pictures.
        weights: folder of real weights.
        out: folder of rows, caches and classifiers.
        seeds: of which means are taken.
        quick: one or two epochs and one seed, to see that all runs.
        rows: measured so far.
    """

    name: str
    data: Path
    weights: Path
    out: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    quick: bool = False
    rows: list[Row] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        """The cache folder that all tutorials share."""
        return self.out / "cache"

    def pictures(self) -> Path:
        """The data set."""
        if not self.data.is_dir():
            raise Absent(f"no pictures at {self.data}; give --data")
        return self.data

    def real(self, backbone: str = "mobilenetv2") -> dict[str, Any]:
        """A backbone with real ImageNet weights, as recipe."""
        file = self.weights / REAL[backbone]
        if not file.is_file():
            raise Absent(f"no weights at {file}")
        return {"backbone": backbone, "weights": str(file)}

    def epochs(self, wanted: int) -> int:
        """So many, or one."""
        return 1 if self.quick else wanted

    def measure(
        self,
        variant: str,
        weights: str,
        train: Callable[[int], featx.Classifier],
        *,
        published: str = "",
        seeds: tuple[int, ...] | None = None,
        note: Callable[[featx.Classifier, Any], str] = lambda classifier, features: "",
    ) -> Row:
        """Train once a seed, measure on the test pictures, and keep the row; one that is kept is not trained again."""
        seeds = self.seeds if seeds is None else seeds
        asked = f"{self.name}-{self.data.name}-{variant}-{weights}-seeds-{'-'.join(map(str, seeds))}.json"
        file = self.out / "rows" / asked.replace(" ", "-").replace("/", "-")
        if file.is_file():
            row = Row(**json.loads(file.read_text()))
        else:
            self.say(f"{variant}, {weights} weights ...")
            accuracies, epochs, seconds, notes = [], [], [], ""
            for seed in seeds:
                started = time.perf_counter()
                classifier = train(seed)
                seconds.append(time.perf_counter() - started)
                features = classifier.features_of(cache_dir=self.cache)
                accuracies.append(classifier.evaluate(features, "test").accuracy)
                epochs.append(classifier.fitting.epochs or 0)
                notes = notes or note(classifier, features)
            row = Row(self.name, variant, weights, accuracies, max(epochs), float(np.median(seconds)), published, notes)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(asdict(row), indent=1).encode())
        self.say(f"{row.variant}: {row.accuracy}")
        self.rows.append(row)
        return row

    def say(self, text: str) -> None:
        """To a person, on stderr."""
        print(f"{self.name}: {text}", file=sys.stderr, flush=True)


def table(rows: list[Row]) -> str:
    """Markdown."""
    header = ["tutorial", "variant", "weights", "test accuracy", "epochs", "seconds", "published", "notes"]
    lines = ["| " + " | ".join(header) + " |", "| --- " * len(header) + "|"]
    for row in rows:
        cells = [row.tutorial, row.variant, row.weights, row.accuracy, row.epochs, f"{row.seconds:.0f}"]
        lines.append("| " + " | ".join(map(str, [*cells, row.published, row.notes])) + " |")
    return "\n".join(lines)
