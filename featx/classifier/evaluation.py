"""How good predictions are: accuracy with its interval, log loss, confusion matrix, and each class."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

from featx._internal.intervals import wilson_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 15  # of equal width, by which calibration is measured


@dataclass(frozen=True)
class Evaluation:
    """Measures of a classifier on labelled rows.

    Attributes:
        accuracy: share of rows predicted right; ``ci95`` its 95 % interval (Wilson 1927).
        log_loss: mean of -log(probability of the true class).
        calibration_error: difference between probability and accuracy of the predicted class, on average over 15
            equally wide bins of the probability (Guo et al. 2017); 0 to 1.
        rows, split: number of rows, and of which split they are; ``quarantined`` counts unreadable pictures.
        confusion_matrix: rows are true classes, columns predicted ones, in the order of ``class_names``.
        per_class: precision, recall, f1 and support by class name.
        seen_in_training: how many of the rows the measured head was trained on. Anything but 0 flatters.
        left_out: how many labelled rows of the data set were not measured, because the head was trained on them.

    Example:
        >>> import featx
        >>> features = featx.extract("photos", backbone="pixels", size=16).features_path
        >>> evaluation = featx.fit(features, "logreg").evaluate()
        >>> evaluation.split, evaluation.rows, len(evaluation.confusion_matrix)
        ('validation', 4, 2)
    """

    accuracy: float
    ci95: tuple[float, float]
    log_loss: float
    calibration_error: float
    rows: int
    split: str
    quarantined: int
    class_names: list[str] = field(repr=False)
    confusion_matrix: list[list[int]] = field(repr=False)
    per_class: dict[str, dict[str, float]] = field(repr=False)
    seen_in_training: int
    left_out: int


def measure(y: NDArray[np.int64], probabilities: NDArray[Any], class_names: list[str], **about: Any) -> Evaluation:
    """Compare true classes with probabilities.

    Args:
        y: int ``(n,)``, true classes as numbers of ``class_names``.
        probabilities: float ``(n, classes)``, rows summing to 1.
        class_names: the classes.
        **about: ``split``, ``quarantined``, ``seen_in_training`` and ``left_out``, passed on.
    """
    numbers = np.arange(len(class_names))
    predicted = np.argmax(probabilities, axis=1)
    probabilities = probabilities.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)  # float32 rows sum to 1 only nearly
    accuracy = float(np.mean(predicted == y))
    columns = precision_recall_fscore_support(y, predicted, labels=numbers, zero_division=0.0)
    measures = ("precision", "recall", "f1", "support")
    return Evaluation(
        accuracy=accuracy,
        ci95=wilson_interval(accuracy, len(y)),
        log_loss=float(log_loss(y, probabilities, labels=numbers)),
        calibration_error=calibration_error(y, probabilities),
        rows=len(y),
        class_names=class_names,
        confusion_matrix=confusion_matrix(y, predicted, labels=numbers).tolist(),
        per_class={
            name: {m: float(column[i]) for m, column in zip(measures, columns, strict=True)}
            for i, name in enumerate(class_names)
        },
        **about,
    )


@dataclass(frozen=True)
class Bin:
    """Rows whose predicted class has a probability between ``low`` and ``high``.

    Attributes:
        low, high: bounds of the probability; ``low`` belongs to the bin, ``high`` does not (but for 1).
        count: rows, at least 1.
        confidence: mean probability of the predicted class.
        accuracy: share of the rows that were predicted right.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def calibration_bins(y: NDArray[Any], probabilities: NDArray[Any], bins: int = BINS) -> list[Bin]:
    """Rows by the probability of their predicted class, in equally wide bins; bins without rows are left out.

    Args:
        y: int ``(n,)``, true classes.
        probabilities: float ``(n, classes)``.
        bins: number of bins between 0 and 1.
    """
    confidence = probabilities.max(axis=1)
    right = np.argmax(probabilities, axis=1) == y
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        Bin(n / bins, (n + 1) / bins, int(of.sum()), float(confidence[of].mean()), float(right[of].mean()))
        for n in range(bins)
        if (of := number == n).any()
    ]


def calibration_error(y: NDArray[Any], probabilities: NDArray[Any], bins: int = BINS) -> float:
    """Expected calibration error, 0 to 1 (Guo et al. 2017, "On calibration of modern neural networks")."""
    surplus = (of.count * abs(of.confidence - of.accuracy) for of in calibration_bins(y, probabilities, bins))
    return sum(surplus) / len(y)


def fit_temperature(probabilities: NDArray[Any], y: NDArray[Any]) -> float:
    """The temperature (Guo et al. 2017) at which probabilities of held-out rows have the least log loss, 0.05 to 20.

    Args:
        probabilities: float ``(n, classes)``.
        y: int ``(n,)``, the true classes.
    """
    logarithms, rows = np.log(np.maximum(probabilities.astype(np.float64), 1e-12)), np.arange(len(y))

    def loss(log_temperature: float) -> float:
        scaled = logarithms / math.exp(log_temperature)
        top = scaled.max(axis=1, keepdims=True)
        total = np.log(np.exp(scaled - top).sum(axis=1)) + top[:, 0]
        return float(np.mean(total - scaled[rows, y]))

    return math.exp(minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded").x)


def with_temperature(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Probabilities ``(n, classes)`` whose logarithms are divided by ``temperature``; the order stays."""
    if temperature == 1:
        return probabilities
    logarithms = np.log(np.maximum(probabilities.astype(np.float64), 1e-30)) / temperature
    powers = np.exp(logarithms - logarithms.max(axis=1, keepdims=True, initial=-np.inf))
    scaled: NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return scaled
