"""From files to features, at the speed of the network: what can be done ahead of it is done by threads meanwhile.

Pictures are read, decoded and resized by a pool of threads, put together in batches of one size, and given to the trunk
by a thread of its own (two where a device works beside the processor), while whoever asked stores what came before. All
queues are bounded, so memory does not grow with the number of pictures.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from featx._internal.hashing import content_id
from featx._internal.parallel import cores, in_threads
from featx.backbones import Trunk
from featx.errors import FileReadError, PictureError
from featx.extraction.recipe import Recipe
from featx.pictures import decode, read_file, resize

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Job = TypeVar("Job", bound=Hashable)
Result = TypeVar("Result")

DRAFT_SIDES = 2  # a draft has at least twice the side wanted, so that resizing it still averages pixels
STAGES = ("read", "decode", "resize", "trunk", "write")


class Stopwatch:
    """Seconds spent in each stage, by all threads together."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time inside the block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add({stage: time.perf_counter() - started})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count what was measured elsewhere."""
        with self._lock:
            for stage, more in seconds.items():
                self.seconds[stage] += more


def run_trunk(
    jobs: Iterable[Job],
    load: Callable[[Job], NDArray[np.uint8]],
    trunk: Trunk,
    batch_size: int | None,
    failures: dict[Job, PictureError],
) -> Iterator[tuple[list[Job], NDArray[np.float32]]]:
    """Load pictures in threads, ahead of the trunk, and compute their features in batches of one size.

    Args:
        jobs: what the pictures are known by.
        load: gives ``uint8 (size, size, 3)`` or raises :class:`PictureError`.
        trunk: see :func:`featx.backbones.build_trunk`.
        batch_size: pictures a call, by default as many as suit the device; the last call is filled up with black, so
            that nothing is compiled anew.
        failures: gets the error of every picture that could not be loaded.

    Yields:
        the jobs of a batch and their features, ``float32 (n, *trunk.feature_shape)``.
    """
    for keys, features in run_trunk_on_views(jobs, lambda job: load(job)[None], trunk, batch_size, failures):
        yield [job for job, _ in keys], features


def run_trunk_on_views(
    jobs: Iterable[Job],
    load: Callable[[Job], NDArray[np.uint8]],
    trunk: Trunk,
    batch_size: int | None,
    failures: dict[Job, PictureError],
    views: int = 1,
    *,
    threads: int | None = None,
    watch: Stopwatch | None = None,
) -> Iterator[tuple[list[tuple[Job, int]], NDArray[np.float32]]]:
    """Like :func:`run_trunk`, where a job gives several images at once, so that a picture is decoded but once.

    Args:
        load: gives ``uint8 (images, size, size, 3)`` or raises :class:`PictureError`.
        views: how many images a job gives at most: of so many fewer jobs the images wait in memory.
        threads: that load; by default as many as there are cores.
        watch: gets the trunk's seconds.

    Yields:
        the job and the number of the image in it for each row of a batch, and the features.
    """
    size = batch_size or trunk.batch_size
    threads = threads or cores()
    watch = watch or Stopwatch()
    compute = _Patient(trunk, watch)
    loaded = in_threads(jobs, load, max(2 * threads, -(-size // views)), threads)
    batches = _batches(loaded, trunk.size, size, failures)
    lanes = getattr(trunk, "lanes", 1)
    for (keys, _), features in in_threads(batches, lambda batch: compute(batch[1]), lanes + 1, lanes):
        if isinstance(features, PictureError):  # which no trunk raises
            raise features
        yield keys, features[: len(keys)]


def _batches(
    loaded: Iterator[tuple[Job, NDArray[np.uint8] | PictureError]],
    side: int,
    batch_size: int,
    failures: dict[Job, PictureError],
) -> Iterator[tuple[list[tuple[Job, int]], NDArray[np.uint8]]]:
    """Images put together, each batch in memory of its own: the one before may still be on its way to a device."""
    keys: list[tuple[Job, int]] = []
    batch = np.zeros((batch_size, side, side, 3), np.uint8)
    for job, images in loaded:
        if isinstance(images, PictureError):
            failures[job] = images
            continue
        for number, image in enumerate(images):
            batch[len(keys)] = image
            keys.append((job, number))
            if len(keys) == batch_size:
                yield keys, batch
                keys, batch = [], np.zeros_like(batch)
    if keys:
        yield keys, batch


class _Patient:
    """A trunk that is given smaller batches when its device runs out of memory."""

    def __init__(self, trunk: Trunk, watch: Stopwatch) -> None:
        self.trunk, self.watch, self.most = trunk, watch, 0

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.most = self.most or len(images)
        while True:
            try:
                with self.watch("trunk"):
                    return self._in_parts(images, self.most)
            except Exception as error:
                if not _lacks_memory(error) or self.most == 1:
                    raise
                self.most = -(-self.most // 2)
                logger.warning("the device has not memory enough for the batch; going on with %d at a time", self.most)

    def _in_parts(self, images: NDArray[np.uint8], most: int) -> NDArray[np.float32]:
        if most >= len(images):
            return self.trunk(images)
        whole = np.zeros((-(-len(images) // most) * most, *images.shape[1:]), np.uint8)
        whole[: len(images)] = images
        parts = [self.trunk(whole[start : start + most]) for start in range(0, len(whole), most)]
        return np.concatenate(parts)[: len(images)]


def _lacks_memory(error: Exception) -> bool:
    """Whether a network library says that its device is full; each has another class for it."""
    said = f"{type(error).__name__} {error}".lower()
    return any(word in said for word in ("resource_exhausted", "resourceexhausted", "out of memory", "outofmemory"))


def load_file(
    path: str | Path | bytes, size: int, recipe: Recipe, content: str | None = None, watch: Stopwatch | None = None
) -> NDArray[np.uint8]:
    """Read, decode and resize one file, or what would be in it, by a recipe to ``uint8 (size, size, 3)`` RGB.

    Raises:
        FileReadError: it cannot be read, or its content id is no longer ``content``.
        PictureError: it cannot be decoded.
    """
    watch = watch or Stopwatch()
    with watch("read"):
        data = path if isinstance(path, bytes) else read_file(path)
        if content is not None and content_id(data) != content:
            raise FileReadError("was changed since featx last looked; extract again")
    with watch("decode"):
        image = decode(data, recipe.max_pixels, DRAFT_SIDES * size if recipe.draft else None)
    with watch("resize"):
        return resize(image, size, recipe.resize)


def as_stored(features: NDArray[np.float32], dtype: str) -> tuple[NDArray[Any], dict[int, str]]:
    """Features in the dtype of the file, and what is wrong with those that are then not finite, by row.

    Live features are rounded by it too, so that a head sees what it was trained on.
    """
    try:
        with np.errstate(over="raise"):
            stored = features.astype(dtype)
        if np.isfinite(features).all():  # quicker than looking at float16
            return stored, {}
    except FloatingPointError:
        pass
    with np.errstate(over="ignore"):
        stored = features.astype(dtype)
    bad = np.flatnonzero(~np.isfinite(stored).reshape(len(stored), -1).all(axis=1))
    return stored, {int(row): _why_not_finite(features[row], dtype) for row in bad}


def _why_not_finite(features: NDArray[np.float32], dtype: str) -> str:
    if not np.isfinite(features).all():
        return "the trunk gave values that are not numbers; are its weights sound?"
    top = float(np.abs(features).max())
    return f"a feature of {top:.3g} is out of {dtype}'s range; extract with --dtype float32"
