"""Findings about a classifier, as plain data: no HTML, no pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featx._internal.intervals import wilson_interval
from featx._internal.progress import Progress, silent
from featx.cache import Features
from featx.classifier import Bin, Classifier, Evaluation, Measured, calibration_bins
from featx.reporting.embedding import Plot, plots_of
from featx.reporting.learning import Learning, learning_of
from featx.reporting.provenance import Provenance, provenance_of

PAIRS_SHOWN = 12
EXAMPLES = 4  # best and worst pictures of a class


@dataclass(frozen=True)
class MeasuredPicture:
    """Picture that was measured.

    Attributes:
        row: its row in the feature file.
        path: its path, relative to the data set.
        true, predicted: numbers of its true and its predicted class.
        probability: probability of the predicted class.
    """

    row: int
    path: str
    true: int
    predicted: int
    probability: float

    @property
    def name(self) -> str:
        """Name of the file, without its folders."""
        return self.path.rpartition("/")[2]

    @property
    def right(self) -> bool:
        """Whether it was predicted right."""
        return self.true == self.predicted


@dataclass(frozen=True)
class Confusion:
    """Pictures of one class that were taken for another.

    Attributes:
        true, predicted: numbers of the two classes.
        support: number of measured pictures of the true class.
        positions: positions of the pictures in ``Findings.pictures``, the surest mistake first.
    """

    true: int
    predicted: int
    support: int
    positions: tuple[int, ...]


@dataclass(frozen=True)
class ClassFigures:
    """Figures of one class.

    Attributes:
        name: name of the class.
        support: number of its measured pictures.
        precision, recall, f1: its measures, 0 to 1.
        recall_ci95: 95 % interval of the recall; None without pictures.
        best: positions in ``Findings.pictures`` of those that were named rightly with the highest probability.
        worst: positions of those that were named wrongly with the highest probability.
    """

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
    """Everything that the page says.

    Attributes:
        dataset: name of the data set measured on.
        evaluation: measures of the classifier.
        majority: the most frequent class of the measured pictures, and the accuracy of always answering it.
        pictures: measured pictures, in the order of the feature file.
        pairs: classes taken for one another, the most frequent mistake first.
        classes: figures per class, in the order of ``evaluation.class_names``.
        held_out: accuracy on pictures held out from the training data; None if there were none.
        bins: bins of the probability that hold pictures, of 15 equally wide ones.
        learning: measures by epoch, and accuracy by the number of training pictures.
        plots: features of the pictures in the plane.
        provenance: what the classifier was made of, and by which commands.
    """

    dataset: str
    evaluation: Evaluation
    majority: tuple[str, float]
    pictures: list[MeasuredPicture]
    pairs: list[Confusion]
    classes: list[ClassFigures]
    held_out: float | None
    bins: list[Bin]
    learning: Learning
    plots: list[Plot]
    provenance: Provenance


def findings_of(
    classifier: Classifier, features: Features, folder: Path | None = None, progress: Progress = silent
) -> Findings:
    """Findings about a classifier, on the rows that :meth:`featx.Classifier.evaluate` measures by default.

    Args:
        classifier: the classifier.
        features: feature file of its spec.
        folder: folder that it was loaded from, if it was; it is named in the commands that make it again.
        progress: called with the stage, how much of it is done, and of how much.
    """
    measured = classifier.measured(features)
    pictures = measured_pictures(measured, features.paths[measured.rows].tolist())
    return Findings(
        dataset=features.dataset,
        evaluation=measured.evaluation,
        majority=majority_of(measured),
        pictures=pictures,
        pairs=confusions_of(pictures),
        classes=classes_of(pictures, measured.evaluation),
        held_out=classifier.fitting.validation_accuracy,
        bins=calibration_bins(measured.y, measured.probabilities),
        learning=learning_of(classifier, features, progress),
        plots=plots_of(features, measured.rows),
        provenance=provenance_of(classifier, features, folder, measured.evaluation.split),
    )


def measured_pictures(measured: Measured, paths: list[str]) -> list[MeasuredPicture]:
    """Measured pictures, one by one."""
    predicted = np.argmax(measured.probabilities, axis=1).tolist()
    probability = measured.probabilities.max(axis=1).tolist()
    columns = (measured.rows.tolist(), paths, measured.y.tolist(), predicted, probability)
    return [MeasuredPicture(*values) for values in zip(*columns, strict=True)]


def majority_of(measured: Measured) -> tuple[str, float]:
    """Name of the most frequent true class, and its share."""
    counts = np.bincount(measured.y)
    number = int(np.argmax(counts))
    return measured.evaluation.class_names[number], float(counts[number] / counts.sum())


def confusions_of(pictures: list[MeasuredPicture]) -> list[Confusion]:
    """Classes taken for one another, the most frequent mistake first, among equals that of the smaller class."""
    support = np.bincount([picture.true for picture in pictures])
    positions: dict[tuple[int, int], list[int]] = {}
    for position in _surest_first(pictures):
        picture = pictures[position]
        if not picture.right:
            positions.setdefault((picture.true, picture.predicted), []).append(position)
    pairs = [
        Confusion(true, predicted, int(support[true]), tuple(of_pair))
        for (true, predicted), of_pair in positions.items()
    ]
    return sorted(pairs, key=lambda pair: (-len(pair.positions), pair.support, pair.true, pair.predicted))


def classes_of(pictures: list[MeasuredPicture], evaluation: Evaluation) -> list[ClassFigures]:
    """Figures per class, and its pictures that are the surest right and the surest wrong."""
    positions: dict[tuple[int, bool], list[int]] = {}
    for position in _surest_first(pictures):
        picture = pictures[position]
        positions.setdefault((picture.true, picture.right), []).append(position)
    classes = []
    for number, name in enumerate(evaluation.class_names):
        measures = evaluation.per_class[name]
        support = int(measures["support"])
        classes.append(
            ClassFigures(
                name=name,
                support=support,
                precision=measures["precision"],
                recall=measures["recall"],
                recall_ci95=wilson_interval(measures["recall"], support) if support else None,
                f1=measures["f1"],
                best=tuple(positions.get((number, True), [])[:EXAMPLES]),
                worst=tuple(positions.get((number, False), [])[:EXAMPLES]),
            )
        )
    return classes


def _surest_first(pictures: list[MeasuredPicture]) -> list[int]:
    """Positions of the pictures, the most probable prediction first."""
    return sorted(range(len(pictures)), key=lambda position: -pictures[position].probability)
