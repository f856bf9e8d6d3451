"""Rows of a feature file: which train, validate and test, what they hold, and which are views of one picture.

Row numbers only: a listing is never shuffled.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featx._internal.progress import Progress
from featx.cache import Features
from featx.errors import SettingError, TrainingError
from featx.heads import Head, as_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Row numbers, int64, sorted.

    ``drawn`` says that the validation rows were drawn from the training rows, not given by the data set. ``left_out``
    are rows whose very picture is among the validation or test rows too, and is used only there.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    left_out: NDArray[np.int64]
    drawn: bool


def split_rows(
    ids: NDArray[Any],
    labels: NDArray[np.int32],
    splits: NDArray[Any],
    *,
    views: NDArray[np.int16] | None = None,
    validation: float = 0.2,
    random_state: int = 0,
) -> Split:
    """Split labelled rows by the data set's own splits, else by a stratified draw.

    Rows of one picture (equal ``ids``: copies of a file, and its views) always stay on one side.

    Args:
        ids: str ``(n,)``, content ids.
        labels: int ``(n,)``, -1 where unlabelled; such rows are on no side.
        splits: str ``(n,)``: ``train``, ``validation``, ``test`` or "" (which trains).
        views: int ``(n,)``, 0 for the picture itself. Other views only ever train.
        validation: share of each class's pictures that is drawn if no row is marked ``validation``.
        random_state: seed of the draw.

    Raises:
        SettingError: ``validation`` is not a share.
        TrainingError: nothing is left to train on.
    """
    if not 0 <= validation < 1:
        raise SettingError(f"`validation` must be at least 0 and below 1, got {validation:g}", "validation")
    labelled = labels >= 0
    itself = np.ones(len(labels), bool) if views is None else views == 0
    test = np.flatnonzero(labelled & itself & (splits == "test"))
    given = np.flatnonzero(labelled & itself & (splits == "validation"))
    tested_too = np.isin(ids[given], ids[test])
    copies, given = given[tested_too], given[~tested_too]
    candidates = np.flatnonzero(labelled & np.isin(splits, ["train", ""]))
    elsewhere = np.isin(ids[candidates], np.concatenate([ids[test], ids[given]]))
    train, left_out = candidates[~elsewhere], np.sort(np.concatenate([candidates[elsewhere], copies]))
    if not len(train):
        raise TrainingError("no labelled row to train on; expected rows of the train split, or of no split")
    drawn = not len(given)
    if drawn:
        held_out = _draw(ids[train], labels[train], validation, np.random.default_rng(random_state))
        train, given = train[~held_out], train[held_out & itself[train]]
    return Split(train, given, test, left_out[itself[left_out]], drawn)


def fold_numbers(ids: NDArray[Any], labels: NDArray[Any], folds: int, random_state: int = 0) -> NDArray[np.int64]:
    """In which of ``folds`` parts each row is held out, int64 ``(n,)`` from 0: each class's pictures dealt out in turn.

    Rows of one picture (equal ``ids``: copies of a file, and its views) are always in the same part, and the parts of a
    class, and of all, differ by one picture at most.

    Raises:
        SettingError: fewer than two folds, or fewer pictures than folds.
    """
    pictures, first, place = np.unique(ids, return_index=True, return_inverse=True)
    if not 2 <= folds <= len(pictures):
        raise SettingError(f"`folds` must be from 2 to the number of pictures, {len(pictures)}, got {folds}", "folds")
    rng = np.random.default_rng(random_state)
    order = rng.permutation(len(pictures))
    order = order[np.argsort(labels[first][order], kind="stable")]
    fold = np.empty(len(pictures), np.int64)
    fold[order] = np.arange(len(pictures)) % folds  # going on from class to class, so that small ones do not pile up
    return fold[place]


def _draw(ids: NDArray[Any], labels: NDArray[np.int32], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A mask of about ``share`` of each class's pictures: at least one of two or more, never the last one."""
    pictures, first = np.unique(ids, return_index=True)
    label_of = labels[first]
    chosen: list[Any] = []
    for label in np.unique(label_of):
        of_class = rng.permutation(pictures[label_of == label])
        count = min(max(1, round(share * len(of_class))), len(of_class) - 1) if share else 0
        chosen += of_class[:count].tolist()
    return np.isin(ids, chosen)


MEMORY_BYTES = 2**29  # of features that are loaded to be trained on; more are read block by block, again and again


def training_split(features: Features, validation: float = 0.2, random_state: int = 0) -> Split:
    """The rows of a feature file that train, validate and test; with warnings of what will disturb.

    Raises:
        TrainingError: one class only, or a class without a picture to train on.
    """
    split = split_of(features, validation, random_state)
    if len(features.class_names) < 2:
        only = features.class_names[0] if features.class_names else "none"
        raise TrainingError(f"{features.path.name} has one class only ({only}); a classifier needs two or more")
    absent = set(range(len(features.class_names))) - set(features.y[split.train].tolist())
    if absent:
        name = features.class_names[min(absent)]
        raise TrainingError(
            f"class {name!r} has no picture to train on in {features.path.name}: they are missing, unreadable, or only "
            "in the validation or test split. Add some, or take the class out"
        )
    pairs = np.unique(np.char.add(features.ids, features.y.astype(str))[features.y >= 0])
    disputed = len(pairs) - len(np.unique(features.ids[features.y >= 0]))
    if disputed:
        logger.warning("%d pictures lie in more than one class; no head can get those right", disputed)
    if len(split.left_out):
        logger.warning(
            "%d pictures are also among the validation or test pictures, and are used only there", len(split.left_out)
        )
    return split


def split_of(features: Features, validation: float, random_state: int = 0) -> Split:
    """:func:`featx.rows.split_rows` of a feature file."""
    f = features
    return split_rows(f.ids, f.y, f.splits, views=f.views, validation=validation, random_state=random_state)


def inputs(head: Head, features: Features, rows: NDArray[np.int64]) -> Any:
    """What the head is fitted on: an array, or, if that would not fit into memory, rows that are read when asked for.

    Maps that the head would pool anyway are pooled block by block.
    """
    becomes_rows = len(features.shape) == 4 and head.input != "flat"
    row_bytes = 4 * features.shape[-1] if becomes_rows else features.dtype.itemsize * int(np.prod(features.shape[1:]))
    if len(rows) * row_bytes > MEMORY_BYTES:
        return features.rows(rows)
    return pooled(features, rows, head.input) if becomes_rows else features.stored(rows)


def pooled(features: Features, rows: NDArray[np.int64], how: str) -> NDArray[np.float32]:
    """Features of rows of a file, float32 ``(n, c)``, read block by block; maps are pooled.

    Args:
        features: a feature file.
        rows: int64 ``(n,)``.
        how: ``avg`` or ``max``, over height and width.
    """
    X = np.empty((len(rows), features.shape[-1]), np.float32)
    done = 0
    for block, read in features.blocks(rows):
        X[done : done + len(block)] = as_rows(read, how)
        done += len(block)
    return X


def groups_of(features: Features, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Which of the rows are views of one picture, as the argument ``groups`` of a head's fit; nothing without views."""
    if not features.views[rows].any():
        return {}
    names = np.array([f"{label} {path}" for label, path in zip(features.y[rows], features.paths[rows], strict=True)])
    return {"groups": np.unique(names, return_inverse=True)[1]}


def probabilities(head: Head, features: Features, rows: Any = None) -> NDArray[np.float32]:
    """Probabilities ``(n, classes)`` of rows of a feature file, block by block."""
    numbers = features.row_numbers(rows)
    found = np.empty((len(numbers), len(head.classes_)), np.float32)
    done = 0
    for block, X in features.blocks(numbers):
        found[done : done + len(block)] = head.predict_proba(X)
        done += len(block)
    return found


def out_of_fold(
    fold: NDArray[np.int64],
    n_classes: int,
    predict: Callable[[NDArray[np.int64], NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[Any]]],
    progress: Progress,
    stage: str,
) -> NDArray[np.float32]:
    """Probabilities of each row by a head that was fitted without the row's part.

    Args:
        fold: int64 ``(n,)``, the part in which each row is held out; see :func:`fold_numbers`.
        n_classes: how many there are in all.
        predict: called with the positions of training rows and of held-out rows; gives the classes, int ``(known,)``,
            that a head fitted on the first knows, and its probabilities ``(held out, known)`` of the second.
        progress: called with ``stage``, the parts done and how many there are.
        stage: what to call it.

    Returns:
        float32 ``(n, n_classes)``; not a number for classes that the row's head did not know.
    """
    found = np.full((len(fold), n_classes), np.nan, np.float32)
    n_folds = int(fold.max()) + 1
    for number in range(n_folds):
        progress(stage, number, n_folds)
        held_out = np.flatnonzero(fold == number)
        classes, predicted = predict(np.flatnonzero(fold != number), held_out)
        found[np.ix_(held_out, classes)] = predicted
    progress(stage, n_folds, n_folds)
    return found


def accuracy(probabilities: NDArray[np.floating[Any]], y: NDArray[np.int32]) -> float:
    """Share of rows whose most probable class is ``y``."""
    return float(np.mean(np.argmax(probabilities, axis=1) == y))


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


def inputs_of(features: Features, fixed: Mapping[str, Any]) -> list[str]:
    """What may become of the features' maps, the smallest forms first; one entry if there is no choice."""
    if "input" in fixed or len(features.shape) != 4:
        return [fixed.get("input", "avg")]
    size = features.dtype.itemsize * int(np.prod(features.shape[1:])) * int(features.pictures.sum())
    if size <= FLAT_BYTES:
        return ["avg", "max", "flat"]
    logger.info('maps of %.1f GB are not searched flat, only pooled; a fit with `input="flat"` tries it', size / 1e9)
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
    splits = [replace(split, train=split.train[features.pictures[split.train]]) for split in splits]
    if not len(splits[0].validation):
        raise TrainingError("a sweep chooses by validation rows, and there are none; give `validation=0.2`, or more")
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
