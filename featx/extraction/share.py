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

from featx._internal.parallel import end_with, share_of_cores, threads_in_environment
from featx.backbones import Trunk
from featx.cache import BlockWriter, Spec, StatRow, made_by, row_key
from featx.errors import DatasetError, ExtractionError, FeatxError, PictureError
from featx.extraction.engine import trunk_for
from featx.extraction.pipeline import Stopwatch, as_stored, load_file, run_trunk_on_views
from featx.extraction.recipe import Recipe
from featx.pictures import Views, quiet_pillow

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_ROWS = 256  # a block is written when it has so many rows and so much time has passed, or when it is large:
BLOCK_SECONDS = 10.0  # about so much work is lost when the process is killed


class TrunkChangedError(ExtractionError):
    """The trunk is not the one that the rows were to be filed under."""


@dataclass(frozen=True)
class Wanted:
    """A picture and the views of it that are to be computed.

    Attributes:
        path: relative to the root.
        content: its content id; a file that has another is not what was listed.
        views: their numbers.
        stat: what a later run can tell by that the file has not changed; None if it cannot.
    """

    path: str
    content: str
    views: tuple[int, ...]
    stat: StatRow | None


@dataclass(frozen=True)
class Share:
    """Pictures to be computed, and all that a process anywhere has to know for it.

    Attributes:
        root, pictures: the data set, and what is wanted of it.
        recipe, spec, feature_shape: how to compute; what that has to turn out to be.
        views: how views are made.
        folder: where the blocks go.
        networks: where converted networks are kept.
        attributes: of all blocks.
        batch_size: pictures a call; None: as many as suit the device.
        strict: end at the first picture that cannot be read.
        sharers: how many workers share the cores of a machine.
        gpus: of which a worker takes one for itself; empty: none in particular.
        parent: process id of the one without which the work is for nothing; 0: work on.
    """

    root: Path
    pictures: tuple[Wanted, ...] = field(repr=False)
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
        """How many rows are wanted."""
        return sum(len(picture.views) for picture in self.pictures)

    @property
    def threads(self) -> int | None:
        """That a process may have; None: as many as there are cores."""
        return share_of_cores(self.sharers) if self.sharers > 1 else None


@dataclass
class Outcome:
    """What became of a share.

    Attributes:
        rows: that were written.
        failures: the pictures that could not be read, and why.
        seconds: spent in each stage by all threads together; ``waiting``: in which the trunk had nothing to do.
        wall: seconds from when the trunk was there until the end.
        engine: what computed.
        error: what ended it early.
        notes: warnings, to be shown by who asked.
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


def compute(share: Share, outcome: Outcome, on_rows: Callable[[], None]) -> None:
    """Compute a share in this process; ``outcome`` grows meanwhile, ``on_rows`` is called whenever it did.

    Raises:
        TrunkChangedError: the trunk is not the one expected. ExtractionError: it gives values that cannot be stored.
        DatasetError: ``strict``, and a picture cannot be read. CacheError: a block cannot be written.
    """
    trunk = _trunk(share)
    watch, started = Stopwatch(), time.perf_counter()
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
        outcome.rows, outcome.engine, outcome.wall = blocks.rows, trunk.engine, time.perf_counter() - started
        watch.add({"write": blocks.seconds_writing})
        outcome.seconds = {**watch.seconds, "waiting": max(0.0, outcome.wall - watch.seconds["trunk"])}


def _fill(blocks: BlockWriter, share: Share, trunk: Trunk, watch: Stopwatch, outcome: Outcome) -> Iterator[None]:
    wanted = {picture.path: picture for picture in share.pictures}
    recipe, maker = share.recipe, made_by(share.views.settings)

    def load(path: str) -> NDArray[np.uint8]:  # a picture is decoded once for all its views
        picture = wanted[path]
        image = load_file(share.root / path, trunk.size, recipe, picture.content, watch)
        return np.stack([share.views.augment(image, picture.content, view) for view in picture.views])

    batches = run_trunk_on_views(
        wanted, load, trunk, share.batch_size, outcome.failures, share.views.n, threads=share.threads, watch=watch
    )
    for jobs, features in batches:
        with watch("write"):
            stored, wrong = as_stored(features, recipe.dtype)
            for row, why in wrong.items():
                raise ExtractionError(f"{jobs[row][0]}: {why}")
            keys = [row_key(wanted[path].content, wanted[path].views[number], maker) for path, number in jobs]
            stats = [stat for path, _ in jobs if (stat := wanted[path].stat)]
            blocks.add(keys, stats, stored)
        yield
        if share.strict:
            refuse(outcome.failures)


def refuse(unreadable: Mapping[str, object]) -> None:
    """Raise :class:`DatasetError` for the first of the pictures that cannot be read, if there are any."""
    if unreadable:
        path, reason = next(iter(unreadable.items()))
        raise DatasetError(f"--strict: {path} cannot be read: {reason}. Mend or remove it, or leave --strict out")


def _trunk(share: Share) -> Trunk:
    """The trunk that the rows will be filed under, and no other."""
    key = (*share.recipe.trunk_key(), share.recipe.engine, str(share.networks), str(share.threads))
    trunk = _TRUNKS.get(key) or trunk_for(share.recipe, functools.partial(_some, share), share.networks, share.threads)
    _TRUNKS.clear()
    _TRUNKS[key] = trunk
    if (share.recipe.spec(trunk), trunk.feature_shape) != (share.spec, share.feature_shape):
        raise TrunkChangedError("the weights were changed while featx was running; run the same command again")
    return trunk


def _some(share: Share, n: int, size: int) -> NDArray[np.uint8]:
    """The first pictures of a share that can be read, ``n`` at most, ``uint8 (n, size, size, 3)``."""
    images: list[NDArray[np.uint8]] = []
    with quiet_pillow(share.recipe.max_pixels):
        for picture in share.pictures:
            with contextlib.suppress(PictureError):  # the pipeline will tell
                images.append(load_file(share.root / picture.path, size, share.recipe, picture.content))
            if len(images) == n:
                break
    return np.stack(images) if images else np.empty((0, size, size, 3), np.uint8)


_TRUNKS: dict[tuple[str, ...], Trunk] = {}  # the last one, proved: a worker is given many shares


# ------------------------------------------------------------------------------------------------------------- workers

_ONE_AT_A_TIME = threading.Lock()  # a worker of a cluster may be given several shares at once
_BEGUN: list[str] = []  # what this process has taken for itself, once


def compute_as_worker(share: Share) -> Outcome:
    """Compute a share in a process that was started for it, and tell what became of it, errors too."""
    outcome = Outcome()
    with _ONE_AT_A_TIME, _notes_into(outcome.notes):
        try:
            _begin(share)
            _require_in_sight(share)
            compute(share, outcome, lambda: None)
        except FeatxError as error:
            outcome.error = error
    return outcome


def _begin(share: Share) -> None:
    """Take a share of the cores and a GPU of its own, before a network library is loaded."""
    if _BEGUN:
        return
    if share.parent:
        end_with(share.parent)
    if share.threads:
        os.environ.update(threads_in_environment(share.threads))
    if share.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = _claimed(share.gpus, share.folder)
    _BEGUN.append("begun")


def _claimed(gpus: tuple[str, ...], folder: Path) -> str:
    """A GPU that no other worker has; it is free again when this process ends, however it ends."""
    import filelock

    folder.mkdir(parents=True, exist_ok=True)
    for name in gpus:
        lock = filelock.FileLock(folder / f".gpu-{name}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            continue
        _LOCKS.append(lock)
        return name
    raise ExtractionError(f"there are more workers than GPUs ({', '.join(gpus)})")


_LOCKS: list[Any] = []  # held as long as this process lives


def _require_in_sight(share: Share) -> None:
    for what, place in (("data set", share.root), ("cache folder", share.folder.parent)):
        if not place.is_dir():
            raise ExtractionError(
                f"the {what} {place} is not to be seen by the worker on {os.uname().nodename}; put it on a file system "
                "that all workers share, under the same path"
            )


@contextlib.contextmanager
def _notes_into(notes: list[str]) -> Iterator[None]:
    """Collect the library's warnings: nobody reads what a worker says."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notes.append(record.getMessage())

    logger, handler = logging.getLogger("featx"), Collector(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
