"""What there is to say about a classifier, as plain data: no HTML, no pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featx._internal.intervals import wilson_interval
from featx._internal.progress import Progress
from featx.cache import Features
from featx.classifier import Bin, Classifier, Evaluation, Measured, calibration_bins
from featx.reporting.embedding import Plot, plots_of
from featx.reporting.learning import Learning, learning_of
from featx.reporting.provenance import Provenance, provenance_of

if TYPE_CHECKING:
    pass

PAIRS_SHOWN = 12
EXAMPLES = 4  # best and worst pictures of a class


@dataclass(frozen=True)
class Row:
    """A measured picture: its row in the feature file, its true and predicted class, the latter's probability."""

    number: int
    path: str
    true: int
    predicted: int
    probability: float

    @property
    def name(self) -> str:
        """The file's name without its folders."""
        return self.path.rpartition("/")[2]

    @property
    def right(self) -> bool:
        """Whether it was predicted right."""
        return self.true == self.predicted


@dataclass(frozen=True)
class Confusion:
    """Pictures of the class ``true`` taken for ``predicted``: places in ``Findings.rows``, the surest mistake first."""

    true: int
    predicted: int
    of: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class OfClass:
    """How one class did. ``best`` and ``worst`` are places in ``Findings.rows``: surest right, surest wrong ones."""

    name: str
    support: int
    precision: float
    recall: float
    recall_ci95: tuple[float, float] | None
    f1: float
    best: tuple[int, ...]
    worst: tuple[int, ...]


@dataclass(frozen=True)
class Findings:
    """All that the page says.

    Attributes:
        dataset: name of the data set measured on.
        evaluation: how the classifier does.
        majority: the most frequent class of the measured rows, and the accuracy of always saying it.
        rows: the measured pictures, in the order of the feature file.
        pairs: classes taken for one another, the most frequent mistake first.
        classes: one a class, in the order of ``evaluation.class_names``.
        held_out: accuracy on the training data's own held-out pictures, if there were any.
        bins: those of 15 equally wide ones that hold pictures.
        learning: curves of the training, and accuracy by the number of training pictures.
        plots: the pictures' features in the plane.
        provenance: what the classifier was made of, and by which commands.
    """

    dataset: str
    evaluation: Evaluation
    majority: tuple[str, float]
    rows: list[Row]
    pairs: list[Confusion]
    classes: list[OfClass]
    held_out: float | None
    bins: list[Bin]
    learning: Learning
    plots: list[Plot]
    provenance: Provenance


def find(
    classifier: Classifier, features: Features, folder: Path | None = None, progress: Progress | None = None
) -> Findings:
    """Measure a classifier on what :meth:`featx.Classifier.evaluate` measures by default.

    Args:
        classifier: to be measured.
        features: rows made by its spec.
        folder: where it was loaded from, if it was, as the commands that make it again name it.
        progress: called with what is going on, how much is done, and of how much.
    """
    measured = classifier.measured(features)
    rows = rows_of(measured, features.paths[measured.rows].tolist())
    return Findings(
        dataset=features.dataset,
        evaluation=measured.evaluation,
        majority=majority_of(measured),
        rows=rows,
        pairs=confusions_of(rows),
        classes=classes_of(rows, measured.evaluation),
        held_out=classifier.fitting.validation_accuracy,
        bins=calibration_bins(measured.y, measured.probabilities),
        learning=learning_of(classifier, features, progress),
        plots=plots_of(features, measured.rows),
        provenance=provenance_of(classifier, features, folder, measured.evaluation.split),
    )


def rows_of(measured: Measured, paths: list[str]) -> list[Row]:
    """The measured pictures, one by one."""
    predicted = np.argmax(measured.probabilities, axis=1)
    columns: list[list[Any]] = [measured.rows.tolist(), paths, measured.y.tolist(), predicted.tolist()]
    return [Row(*row) for row in zip(*columns, measured.probabilities.max(axis=1).tolist(), strict=True)]


def majority_of(measured: Measured) -> tuple[str, float]:
    """The most frequent true class and its share."""
    counts = np.bincount(measured.y)
    best = int(np.argmax(counts))
    return measured.evaluation.class_names[best], float(counts[best] / counts.sum())


def confusions_of(rows: list[Row]) -> list[Confusion]:
    """Which classes were taken for which, the most frequent first, among equals that of the smaller class."""
    support = np.bincount([row.true for row in rows])
    found: dict[tuple[int, int], list[int]] = {}
    for place in sorted(range(len(rows)), key=lambda i: -rows[i].probability):
        if not rows[place].right:
            found.setdefault((rows[place].true, rows[place].predicted), []).append(place)
    pairs = [Confusion(*key, int(support[key[0]]), tuple(places)) for key, places in found.items()]
    return sorted(pairs, key=lambda pair: (-len(pair.rows), pair.of, pair.true, pair.predicted))


def classes_of(rows: list[Row], evaluation: Evaluation) -> list[OfClass]:
    """Each class's figures, and its pictures that are the surest right and the surest wrong."""
    sure = sorted(range(len(rows)), key=lambda i: -rows[i].probability)
    of: dict[tuple[int, bool], list[int]] = {}
    for place in sure:
        of.setdefault((rows[place].true, rows[place].right), []).append(place)
    classes = []
    for number, name in enumerate(evaluation.class_names):
        told = evaluation.per_class[name]
        support = int(told["support"])
        classes.append(
            OfClass(
                name=name,
                support=support,
                precision=told["precision"],
                recall=told["recall"],
                recall_ci95=wilson_interval(told["recall"], support) if support else None,
                f1=told["f1"],
                best=tuple(of.get((number, True), [])[:EXAMPLES]),
                worst=tuple(of.get((number, False), [])[:EXAMPLES]),
            )
        )
    return classes
