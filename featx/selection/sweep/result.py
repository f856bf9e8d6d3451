"""What a sweep has found."""

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
    """One set of parameters, and how it did on the validation rows.

    Attributes:
        number: counted from 0, the head's defaults.
        state: ``complete``; ``pruned``, because others were better after as many epochs; or ``failed``: could not be
            trained.
        params: of the head, those held fixed too.
        mean_accuracy: of the best epoch, 0 to 1, mean over the repeats; of a pruned trial so far, of a failed one None.
        std_accuracy: deviation between the repeats; 0 if there is but one.
        log_loss: of the best epoch, mean over the repeats; None if the trial is not complete.
        seconds: it took.
        epochs: trained, over all repeats.
        error: why it failed.
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
        """The greater the better: complete ones by accuracy, among equals by log loss, then the earlier."""
        if self.state != "complete" or self.mean_accuracy is None or self.log_loss is None:
            return -1.0, self.mean_accuracy or 0.0, -self.number
        return self.mean_accuracy, -self.log_loss, -self.number


@dataclass(frozen=True)
class Sweep:
    """The best trial, all finished ones by their number, and the classifier fitted with the best one's parameters.

    ``seconds`` is what this run took; ``storage`` is the file that holds the trials, None if it was a temporary one.
    """

    best: Trial
    trials: list[Trial]
    classifier: Classifier = field(repr=False)
    seconds: float
    storage: Path | None

    @property
    def ranked(self) -> list[Trial]:
        """The trials, the best first."""
        return sorted(self.trials, key=lambda trial: trial.rank, reverse=True)

    @property
    def varying(self) -> list[str]:
        """Names of the parameters that are not the same in all trials."""
        names = self.best.params
        return [name for name in names if len({repr(trial.params.get(name)) for trial in self.trials}) > 1]

    def write_csv(self, path: str | Path) -> None:
        """Write all trials, one a line: number, state, figures, then each parameter."""
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
