"""Results of a classifier: predictions, measured rows, and the comparison of live with cached features."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from featx.classifier.evaluation import Evaluation

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Prediction:
    """Prediction of one picture.

    Attributes:
        path: the picture, as it was named.
        label, probability: the most probable class, and its probability.
        all_probabilities: float32 ``(classes,)``, in the order of ``class_names``.

    Example:
        >>> import featx
        >>> features = featx.extract("photos", backbone="pixels", size=16).features_path
        >>> (prediction,), _ = featx.fit(features, "knn", n_neighbors=3).predict(["photos/lying/000.png"])
        >>> prediction.path, prediction.label, sorted(prediction.probabilities)
        ('photos/lying/000.png', 'lying', ['lying', 'standing'])
    """

    path: str
    label: str
    probability: float
    all_probabilities: NDArray[np.float32] = field(repr=False, compare=False)
    class_names: list[str] = field(repr=False)

    @property
    def probabilities(self) -> dict[str, float]:
        """Probability by class name."""
        return dict(zip(self.class_names, self.all_probabilities.tolist(), strict=True))


@dataclass(frozen=True)
class Measured:
    """Evaluation of a classifier, row by row.

    Attributes:
        evaluation: measures over all rows.
        rows: int64 ``(n,)``, numbers of the measured rows in the feature file.
        y: int64 ``(n,)``, true classes as numbers of the classifier's ``class_names``.
        probabilities: float32 ``(n, classes)``.
    """

    evaluation: Evaluation
    rows: NDArray[np.int64] = field(repr=False)
    y: NDArray[np.int64] = field(repr=False)
    probabilities: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True)
class Diagnosis:
    """Comparison of predictions from pictures with those from their cached features.

    Attributes:
        max_abs_difference: the largest difference of a probability; not a number if one is not.
        ok: whether that is below 1e-3.
        rows: pictures compared.
        skipped: ``(path, reason)`` of pictures that are no longer what they were.

    Example:
        >>> import featx
        >>> features = featx.extract("photos", backbone="pixels", size=16).features_path
        >>> diagnosis = featx.fit(features, "logreg").doctor()
        >>> diagnosis.ok, diagnosis.rows, diagnosis.max_abs_difference < 1e-3
        (True, 24, True)
    """

    max_abs_difference: float
    ok: bool
    rows: int
    skipped: list[tuple[str, str]] = field(repr=False)
