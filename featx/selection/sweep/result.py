"""Results of a sweep: its trials, and the classifier fitted with the best one's parameters."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from featx._internal.files import write_whole
from featx.classifier import Classifier

MEASURES = ("number", "state", "mean_accuracy", "std_accuracy", "log_loss", "seconds", "epochs")


@dataclass(frozen=True)
class Trial:
    """One set of parameters, and its measures on the validation rows.

    Attributes:
        number: number of the trial, counted from 0, which has the head's defaults.
        state: ``complete``; ``pruned``, because others were better after as many epochs; or ``failed``: could not be
            trained.
        params: parameters of the head, those held fixed too.
        mean_accuracy: accuracy in the best epoch, 0 to 1, mean over the repeats; of a pruned trial that of its epochs
            so far, of a failed one None.
        std_accuracy: standard deviation over the repeats; 0 if there is one only.
        log_loss: log loss in the best epoch, mean over the repeats; None if the trial is not complete.
        seconds: duration of the trial.
        epochs: epochs trained, over all repeats.
        error: reason of the failure.
    """

    number: int
    state: str
    params: dict[str, Any]
    mean_accuracy: float | None
    std_accuracy: float
    log_loss: float | None
    seconds: float
    epochs: int
    error: str | None = None

    @property
    def rank(self) -> tuple[float, float, int]:
        """Key of an order that ends with the best trial: by accuracy, among equals by log loss, then by number."""
        if self.state != "complete" or self.mean_accuracy is None or self.log_loss is None:
            return -1.0, self.mean_accuracy or 0.0, -self.number
        return self.mean_accuracy, -self.log_loss, -self.number


@dataclass(frozen=True)
class Sweep:
    """Result of a sweep.

    Attributes:
        best: the best trial.
        trials: all finished trials by their number.
        classifier: classifier fitted with the best trial's parameters.
        seconds: duration of this run.
        storage: file that holds the trials; None if it was a temporary one.

    Example:
        >>> import featx
        >>> features = featx.extract("photos", backbone="pixels", size=16).features_path
        >>> result = featx.sweep(features, "mlp", trials=1, epochs=2, hidden=8, input="avg")
        >>> result.best.number, result.best.state, [trial.epochs for trial in result.ranked]
        (0, 'complete', [2])
    """

    best: Trial
    trials: list[Trial] = field(repr=False)
    classifier: Classifier = field(repr=False)
    seconds: float
    storage: Path | None

    @property
    def ranked(self) -> list[Trial]:
        """Trials, the best first."""
        return sorted(self.trials, key=lambda trial: trial.rank, reverse=True)

    @property
    def varying(self) -> list[str]:
        """Names of the parameters that are not the same in all trials."""
        names = self.best.params
        return [name for name in names if len({repr(trial.params.get(name)) for trial in self.trials}) > 1]

    def write_csv(self, path: str | Path) -> None:
        """Write all trials, one per line: number, state, figures, then each parameter."""
        file = io.StringIO(newline="")
        writer = csv.writer(file)
        writer.writerow([*MEASURES, *self.best.params])
        for trial in self.trials:
            measures = asdict(trial)
            writer.writerow([*(measures[name] for name in MEASURES), *(trial.params.values())])
        write_whole(Path(path), file.getvalue().encode())

    def plot(self, path: str | Path) -> None:
        """Draw accuracy by trial, the best so far, and accuracy by each numeric parameter, as a PNG file.

        Raises:
            SweepError: Matplotlib is not installed.
        """
        from featx.selection.sweep.plot import draw

        draw(self, Path(path))
