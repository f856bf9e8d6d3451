"""A share of an extraction: pictures go in, blocks of features come out. Done here, or by a worker anywhere."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featx._internal.memory import released_by_clear_memory
from featx._internal.parallel import share_of_cores, threads_in_environment, watch_parent
from featx.backbones import Trunk
from featx.cache import BlockWriter, Spec, StatRow, row_key, settings_key
from featx.errors import DatasetError, ExtractionError, FeatxError, PictureError
from featx.extraction.engine import trunk_for
from featx.extraction.pipeline import Stopwatch, features_of, load_file
from featx.extraction.recipe import Recipe
from featx.pictures import Views, quiet_pillow

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_ROWS = 256  # a block is written when it has so many rows and so much time has passed, or when it is large:
BLOCK_SECONDS = 10.0  # about so much work is lost when the process is killed


class TrunkChangedError(ExtractionError):
    """The trunk is not the one that the rows were to be filed under."""


@dataclass(frozen=True)
class PictureTask:
    """A picture and the views of it that are to be computed.

    Attributes:
        path: relative to the root.
        content_id: a file that has another is not what was listed.
        views: numbers of the views.
        stat: size and times of the file, for later runs to tell by that it has not changed; None if they cannot.
    """

    path: str
    content_id: str
    views: tuple[int, ...]
    stat: StatRow | None


@dataclass(frozen=True)
class Share:
    """Pictures to be computed, and all that a process anywhere has to know for it.

    Attributes:
        root: folder of the data set.
        pictures: pictures and views that are to be computed.
        recipe: recipe of the features.
        spec: spec that the recipe has to turn out to be.
        feature_shape: shape that the features have to have.
        views: settings of the views.
        folder: folder for the blocks.
        networks: folder for converted networks.
        attributes: JSON values to write into each block.
        batch_size: pictures per call; None: as many as suit the device.
        strict: whether to end at the first picture that cannot be read.
        sharers: number of workers that share the cores of a machine.
        gpus: GPUs of which a worker takes one for itself; empty: none in particular.
        parent: process id of the parent, with which a worker ends; 0: with none.
    """

    root: Path
    pictures: tuple[PictureTask, ...] = field(repr=False)
    recipe: Recipe
    spec: Spec
    feature_shape: tuple[int, ...]
    views: Views
    folder: Path
    networks: Path
    attributes: dict[str, Any]
    batch_size: int | None = None
    strict: bool = False
    sharers: int = 1
    gpus: tuple[str, ...] = ()
    parent: int = 0

    @property
    def rows(self) -> int:
        """Number of rows to be computed."""
        return sum(len(picture.views) for picture in self.pictures)

    @property
    def threads(self) -> int | None:
        """Threads that a process may have; None: as many as there are cores."""
        return share_of_cores(self.sharers) if self.sharers > 1 else None


@dataclass
class Outcome:
    """Outcome of a share.

    Attributes:
        rows: number of rows that were written.
        failures: error by path of the pictures that could not be read.
        seconds: time spent in each stage by all threads together; ``waiting``: in which the trunk had nothing to do.
        wall: seconds from when the trunk was there until the end.
        engine: name of the engine that computed.
        error: error that ended it early.
        notes: warnings, to be shown by the process that gave out the share.
    """

    rows: int = 0
    failures: dict[str, PictureError] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    wall: float = 0.0
    engine: str = ""
    error: FeatxError | None = None
    notes: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Count a part that was done elsewhere."""
        self.rows += other.rows
        self.failures |= other.failures
        self.engine = other.engine or self.engine
        for stage, seconds in other.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


class Process:
    """State that this process keeps from share to share.

    Attributes:
        busy: lock on computing: a worker of a cluster may be given several shares at once.
        is_prepared: whether the process has taken its part of the machine.
    """

    def __init__(self) -> None:
        self.busy = threading.Lock()
        self.is_prepared = False
        self._gpu_locks: list[Any] = []  # held as long as the process lives
        self._trunk_key: tuple[str, ...] = ()
        self._trunk: Trunk | None = None  # the last one, proved: a worker is given many shares

    def trunk(self, share: Share) -> Trunk:
        """The trunk that a share's rows will be filed under, and no other."""
        key = (*share.recipe.trunk_key(), share.recipe.engine, str(share.networks), str(share.threads))
        trunk = self._trunk if key == self._trunk_key else None
        if trunk is None:
            samples = functools.partial(_first_pictures, share)
            trunk = trunk_for(share.recipe, samples, share.networks, share.threads)
        self._trunk_key = key
        self._trunk = trunk
        if (share.recipe.spec(trunk), trunk.info.feature_shape) != (share.spec, share.feature_shape):
            raise TrunkChangedError("the weights were changed while featx was running; run the same command again")
        return trunk

    def prepare(self, share: Share) -> None:
        """Take this worker's part of the cores, and a GPU for it alone, before a network library is loaded."""
        if self.is_prepared:
            return
        if share.parent:
            watch_parent(share.parent)
        if share.threads:
            os.environ.update(threads_in_environment(share.threads))
        if share.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = self._claim_gpu(share.gpus, share.folder)
        self.is_prepared = True

    def release(self) -> None:
        """Let go of the trunk."""
        self._trunk_key = ()
        self._trunk = None

    def _claim_gpu(self, gpus: tuple[str, ...], folder: Path) -> str:
        """A GPU that no other worker has; it is free again when this process ends, however it ends."""
        import filelock

        folder.mkdir(parents=True, exist_ok=True)
        for name in gpus:
            lock = filelock.FileLock(folder / f".gpu-{name}.lock")
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                continue
            self._gpu_locks.append(lock)
            return name
        raise ExtractionError(f"there are more workers than GPUs ({', '.join(gpus)})")


PROCESS = Process()
released_by_clear_memory(PROCESS.release)


def compute(share: Share, outcome: Outcome, on_rows: Callable[[], None]) -> None:
    """Compute a share in this process.

    Args:
        share: pictures and views to compute.
        outcome: grows meanwhile.
        on_rows: called whenever it did.

    Raises:
        TrunkChangedError: the trunk is not the one expected. ExtractionError: it gives values that cannot be stored.
        DatasetError: ``strict``, and a picture cannot be read. CacheError: a block cannot be written.
    """
    trunk = PROCESS.trunk(share)
    watch = Stopwatch()
    started = time.perf_counter()
    blocks = BlockWriter(share.folder, BLOCK_ROWS, BLOCK_SECONDS, share.spec, share.attributes)
    try:
        with quiet_pillow(share.recipe.max_pixels), blocks:
            on_rows()
            for _ in _fill(blocks, share, trunk, watch, outcome):
                outcome.rows = blocks.rows
                on_rows()
        if share.strict:
            refuse(outcome.failures)
    finally:
        outcome.rows = blocks.rows
        outcome.engine = trunk.info.engine
        outcome.wall = time.perf_counter() - started
        watch.add({"write": blocks.seconds_writing})
        outcome.seconds = {**watch.seconds, "waiting": max(0.0, outcome.wall - watch.seconds["trunk"])}


def compute_as_worker(share: Share) -> Outcome:
    """Compute a share in a process that was started for it; its outcome has the errors and warnings too."""
    outcome = Outcome()
    with PROCESS.busy, _notes_into(outcome.notes):
        try:
            PROCESS.prepare(share)
            _require_shared_folders(share)
            compute(share, outcome, lambda: None)
        except FeatxError as error:
            outcome.error = error
    return outcome


def refuse(unreadable: Mapping[str, object]) -> None:
    """Raise :class:`DatasetError` for the first of the pictures that cannot be read, if there are any."""
    if unreadable:
        path, reason = next(iter(unreadable.items()))
        raise DatasetError(f"`strict`: {path} cannot be read: {reason}. Mend or remove it, or leave `strict` out")


def _fill(blocks: BlockWriter, share: Share, trunk: Trunk, watch: Stopwatch, outcome: Outcome) -> Iterator[None]:
    """Compute batch after batch into the blocks."""
    tasks = {picture.path: picture for picture in share.pictures}
    views_key = settings_key(share.views.settings)

    def load(path: str) -> NDArray[np.uint8]:  # a picture is decoded once for all its views
        task = tasks[path]
        image = load_file(share.root / path, trunk.info.size, share.recipe, task.content_id, watch)
        return np.stack([share.views.augment(image, task.content_id, view) for view in task.views])

    batches = features_of(
        tasks,
        load,
        trunk,
        share.recipe.dtype,
        outcome.failures,
        batch_size=share.batch_size,
        images_per_job=share.views.n,
        quarantine_features=False,
        threads=share.threads,
        watch=watch,
    )
    for paths, numbers, stored in batches:
        with watch("write"):
            of_rows = [tasks[path] for path in paths]
            views = [task.views[number] for task, number in zip(of_rows, numbers, strict=True)]
            keys = [row_key(task.content_id, view, views_key) for task, view in zip(of_rows, views, strict=True)]
            blocks.add(keys, [task.stat for task in of_rows if task.stat], stored)
        yield
        if share.strict:
            refuse(outcome.failures)


def _first_pictures(share: Share, n: int, size: int) -> NDArray[np.uint8]:
    """The first pictures of a share that can be read, ``n`` at most, ``uint8 (n, size, size, 3)``."""
    images: list[NDArray[np.uint8]] = []
    with quiet_pillow(share.recipe.max_pixels):
        for picture in share.pictures:
            with contextlib.suppress(PictureError):  # the pipeline will say so
                images.append(load_file(share.root / picture.path, size, share.recipe, picture.content_id))
            if len(images) == n:
                break
    return np.stack(images) if images else np.empty((0, size, size, 3), np.uint8)


def _require_shared_folders(share: Share) -> None:
    for what, folder in (("data set", share.root), ("cache folder", share.folder.parent)):
        if not folder.is_dir():
            raise ExtractionError(
                f"the {what} {folder} is not to be seen by the worker on {os.uname().nodename}; put it on a file "
                "system that all workers share, under the same path"
            )


@contextlib.contextmanager
def _notes_into(notes: list[str]) -> Iterator[None]:
    """Collect the library's warnings: nobody reads a worker's own."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notes.append(record.getMessage())

    logger = logging.getLogger("featx")
    handler = Collector(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
