"""The rows of a sweep: read from the feature file once, in each form that a trial may want."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featx.cache import Features
from featx.errors import TrainingError
from featx.heads import as_rows
from featx.training import training_split

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FLAT_BYTES = 2 * 2**30  # maps beyond are searched pooled only: whole, each trial would take hours and all memory


@dataclass(frozen=True)
class Rows:
    """The labelled rows that are not test rows.

    Attributes:
        inputs: by what becomes of maps: float32 ``(n, c)`` for ``avg`` and ``max``, maps ``(n, h, w, c)`` as stored for
            ``flat``; rows that are stored pooled are the same for all.
        y: int32 ``(n,)``, classes.
        parts: for each repeat the positions, int64, of the training and of the validation rows.
    """

    inputs: dict[str, NDArray[Any]]
    y: NDArray[np.int32]
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]]

    def write(self, folder: Path) -> None:
        """Into a folder, from which several processes can map them into memory; what lies there is replaced."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, rows in self.inputs.items():
            np.save(folder / f"input-{name}.npy", rows)
        np.save(folder / "y.npy", self.y)
        for number, (train, held_out) in enumerate(self.parts):
            np.save(folder / f"train-{number}.npy", train)
            np.save(folder / f"held_out-{number}.npy", held_out)

    @classmethod
    def mapped(cls, folder: Path) -> Rows:
        """What :meth:`write` wrote, read when it is needed."""

        def load(name: str) -> Any:
            return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

        names = [path.stem.removeprefix("input-") for path in folder.glob("input-*.npy")]
        repeats = range(len(list(folder.glob("train-*.npy"))))
        parts = [(load(f"train-{number}"), load(f"held_out-{number}")) for number in repeats]
        return cls({name: load(f"input-{name}") for name in names}, load("y"), parts)

    def of(self, input: str, positions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Features and classes; no copies where the positions are one run, as they are in the first repeat."""
        first, last = int(positions[0]), int(positions[-1])
        run = last - first + 1 == len(positions) and bool((np.diff(positions) == 1).all())
        rows: Any = slice(first, last + 1) if run else positions
        return self.inputs[input][rows], self.y[rows]


def inputs_of(features: Features, fixed: dict[str, Any]) -> list[str]:
    """What may become of the features' maps, the smallest forms first; one entry if there is no choice."""
    if "input" in fixed or len(features.shape) != 4:
        return [fixed.get("input", "avg")]
    size = features.dtype.itemsize * int(np.prod(features.shape[1:])) * int((features.views == 0).sum())
    if size <= FLAT_BYTES:
        return ["avg", "max", "flat"]
    logger.info("maps of %.1f GB are not searched flat, only pooled; fit --input flat tries it", size / 1e9)
    return ["avg", "max"]


def read_rows(features: Features, inputs: list[str], validation: float, random_state: int, repeats: int) -> Rows:
    """Read what trials need, in one pass over the file.

    Args:
        features: a feature file; only pictures themselves (view 0) are taken.
        inputs: as from :func:`inputs_of`.
        validation: share to draw if the data set has no validation split.
        random_state: seed of the first repeat's draw; the next has the next.
        repeats: how many draws.

    Raises:
        TrainingError: rows on which no head can be trained, or none to choose by.
    """
    splits = [training_split(features, validation, random_state + repeat) for repeat in range(repeats)]
    splits = [replace(split, train=split.train[features.views[split.train] == 0]) for split in splits]
    if not len(splits[0].validation):
        raise TrainingError("a sweep chooses by validation rows, and there are none; give --validation 0.2, or more")
    numbers = np.concatenate([splits[0].train, splits[0].validation])
    order = np.argsort(numbers)

    def positions(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return order[np.searchsorted(numbers, rows, sorter=order)]

    parts = [(positions(split.train), positions(split.validation)) for split in splits]
    return Rows(_read(features, numbers, inputs), features.y[numbers], parts)


def _read(features: Features, numbers: NDArray[np.int64], inputs: list[str]) -> dict[str, NDArray[Any]]:
    if len(features.shape) != 4:
        return dict.fromkeys(inputs, features.stored(numbers))
    made = {
        name: np.empty((len(numbers), *features.shape[1:]), features.dtype)
        if name == "flat"
        else np.empty((len(numbers), features.shape[-1]), np.float32)
        for name in inputs
    }
    done = 0
    for block, X in features.blocks(numbers):
        for name, rows in made.items():
            rows[done : done + len(block)] = X if name == "flat" else as_rows(X, name)
        done += len(block)
    return made
