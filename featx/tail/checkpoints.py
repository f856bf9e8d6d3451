"""Checkpoints of a training that takes minutes or hours, so that it can be interrupted and goes on."""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featx._internal.files import remove_unfinished, replacing, write_whole
from featx._internal.history import history_csv
from featx.errors import TrainingError
from featx.heads import TrainingRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

SECONDS = 15.0  # of training, or one epoch, are lost at most when the process is killed
CHECKPOINT, HISTORY = "checkpoint.npz", "history.csv"
LISTS = ("variables", "optimizer", "best_weights")


@dataclass
class State(TrainingRecord):
    """State of a training: its record, and all that is needed to go on from there.

    Attributes:
        start: validation loss and accuracy before the first epoch; None if there were none.
        variables: all values of the model, seeds too.
        optimizer: all values of its optimizer.
    """

    start: tuple[float, float] | None = None
    variables: list[NDArray[Any]] = field(default_factory=list)
    optimizer: list[NDArray[Any]] = field(default_factory=list)


def discard_checkpoints(folder: str | Path) -> None:
    """Remove a folder of checkpoints, if there is one: its training is finished and its classifier saved."""
    shutil.rmtree(folder, ignore_errors=True)


class Checkpoints:
    """A folder with the newest state of one training, and its history as CSV, a line per epoch.

    Args:
        folder: folder to write, made when first needed.
        settings: JSON values that decide how training goes: a state of other settings is not gone on from.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self._settings = json.loads(json.dumps(settings))
        self._saved_at = time.monotonic()
        self._epoch = 0

    def summary(self) -> str:
        """Sentence on which epochs are kept, and where."""
        if not self._epoch:
            return "nothing is kept yet"
        return f"epochs 1 to {self._epoch} are kept in {self.folder}"

    def newest(self) -> State | None:
        """State to go on from; None if there is none of these settings."""
        try:
            with (self.folder / CHECKPOINT).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                about = json.loads(str(stored["about"]))
                self._epoch = int(about["epoch"])
                if about["settings"] != self._settings:
                    logger.warning("%s holds a training with other settings; it is begun anew", self.folder)
                    return None
                lists = {name: [stored[f"{name}_{i}"] for i in range(about["counts"][name])] for name in LISTS}
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever NumPy, zip and JSON say of a damaged file
            logger.warning("%s cannot be read (%s); training is begun anew", self.folder / CHECKPOINT, error)
            return None
        values: dict[str, Any] = {name: about[name] for name in ("epoch", "history", "seconds", "best_epoch")}
        values |= {"start": about["start"] and tuple(about["start"]), "best": tuple(about["best"]), **lists}
        return State(**values)

    def due(self) -> bool:
        """Whether so much time has gone by that the state should be saved."""
        return time.monotonic() - self._saved_at >= SECONDS

    def save(self, state: State) -> None:
        """Replace the state kept by this one, in one instant.

        Raises:
            TrainingError: the folder cannot be written, or has no room; what it held stays.
        """
        lists: dict[str, list[NDArray[Any]]] = {name: getattr(state, name) for name in LISTS}
        names = ("epoch", "history", "seconds", "start", "best", "best_epoch")
        about = {name: getattr(state, name) for name in names}
        about |= {"settings": self._settings, "counts": {name: len(values) for name, values in lists.items()}}
        arrays = {f"{name}_{i}": value for name, values in lists.items() for i, value in enumerate(values)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.folder / CHECKPOINT)
            with replacing(self.folder / CHECKPOINT) as unfinished, unfinished.open("wb") as file:
                np.savez(file, **{"about": np.array(json.dumps(about)), **arrays})  # type: ignore[arg-type]
        except OSError as error:
            raise TrainingError(
                f"{self.folder} cannot hold a checkpoint: {(error.strerror or str(error)).lower()}. What it held "
                "before is kept. Free some space, or choose a folder elsewhere, and run the same command again"
            ) from error
        self._saved_at = time.monotonic()
        self._epoch = state.epoch

    def log(self, history: dict[str, list[float]]) -> None:
        """Write the history of the epochs so far."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / HISTORY, history_csv(history))
        except OSError as error:
            raise TrainingError(f"{self.folder} cannot be written: {(error.strerror or str(error)).lower()}") from error
