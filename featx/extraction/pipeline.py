"""From files to features, at the speed of the network: what can be done ahead of it is done by threads meanwhile.

Pictures are read, decoded and resized by a pool of threads, put together in batches of one size, and given to the trunk
by a thread of its own (two where a device works beside the processor), while the caller stores the batch before. All
queues are bounded, so memory does not grow with the number of pictures.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from featx._internal.hashing import content_id
from featx._internal.parallel import cores, in_threads
from featx.backbones import Trunk
from featx.errors import ExtractionError, FileReadError, PictureError
from featx.extraction.recipe import Recipe
from featx.pictures import decode, read_file, resize

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Job = TypeVar("Job", bound=Hashable)

DRAFT_SIDES = 2  # a draft has at least twice the side wanted, so that resizing it still averages pixels
STAGES = ("read", "decode", "resize", "trunk", "write")


class Stopwatch:
    """Seconds spent in each stage, by all threads together.

    Attributes:
        seconds: seconds by stage.
    """

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


class Batch(NamedTuple, Generic[Job]):
    """Features of a batch of images, a row per image.

    Attributes:
        jobs: job of each row.
        numbers: number of each row's image among those of its job, from 0.
        features: ``(n, ...)``.
    """

    jobs: list[Job]
    numbers: list[int]
    features: NDArray[Any]


def features_of(
    jobs: Iterable[Job],
    load: Callable[[Job], NDArray[np.uint8]],
    trunk: Trunk,
    dtype: str,
    failures: dict[Job, PictureError],
    *,
    batch_size: int | None = None,
    images_per_job: int = 1,
    quarantine_features: bool = True,
    threads: int | None = None,
    watch: Stopwatch | None = None,
) -> Iterator[Batch[Job]]:
    """Features of pictures through a trunk, as the feature file holds them, in batches, each picture decoded once.

    Args:
        jobs: names of the pictures, whatever ``load`` takes.
        load: function of a job that gives its images, ``uint8 (images, size, size, 3)``, or raises
            :class:`PictureError`. It is called by threads, ahead of the trunk.
        trunk: trunk that computes.
        dtype: ``float16``, ``float32`` or ``uint8``, as which features are stored.
        failures: gets the error of every picture that cannot be loaded, or has no features that can be stored.
        batch_size: images per call, by default as many as suit the device; the last call is filled up with black, so
            that nothing is compiled anew.
        images_per_job: images that a job gives at most; the more, the fewer jobs are loaded ahead.
        quarantine_features: whether pictures whose features cannot be stored go to the failures; else that is an error.
        threads: threads that load; by default as many as there are cores.
        watch: gets the seconds of the trunk and of storing.

    Raises:
        ExtractionError: features that cannot be stored, if those are not quarantined.
    """
    watch = watch or Stopwatch()
    for batch in _computed(jobs, load, trunk, batch_size, failures, images_per_job, threads or cores(), watch):
        with watch("write"):
            stored, unstorable = as_stored(batch.features, dtype)
        for row, reason in unstorable.items():
            if not quarantine_features:
                raise ExtractionError(f"{batch.jobs[row]}: {reason}")
            failures[batch.jobs[row]] = PictureError(reason)
        rows = [row for row in range(len(stored)) if row not in unstorable]
        jobs_of_rows = [batch.jobs[row] for row in rows]
        numbers = [batch.numbers[row] for row in rows]
        yield Batch(jobs_of_rows, numbers, stored[rows] if unstorable else stored)


def _computed(
    jobs: Iterable[Job],
    load: Callable[[Job], NDArray[np.uint8]],
    trunk: Trunk,
    batch_size: int | None,
    failures: dict[Job, PictureError],
    images_per_job: int,
    threads: int,
    watch: Stopwatch,
) -> Iterator[Batch[Job]]:
    """Features as the trunk gives them, float32."""
    info = trunk.info
    batch_size = batch_size or info.batch_size
    ahead = max(2 * threads, -(-batch_size // images_per_job))
    batches = _batches(in_threads(jobs, load, ahead, threads), info.size, batch_size, failures)
    compute = _Backoff(trunk, watch)
    for (keys, _), features in in_threads(batches, lambda batch: compute(batch[1]), info.lanes + 1, info.lanes):
        if isinstance(features, PictureError):  # which no trunk raises
            raise features
        yield Batch([job for job, _ in keys], [number for _, number in keys], features[: len(keys)])


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
                keys = []
                batch = np.zeros_like(batch)
    if keys:
        yield keys, batch


class _Backoff:
    """A trunk that is given smaller batches once its device has run out of memory."""

    def __init__(self, trunk: Trunk, watch: Stopwatch) -> None:
        self._trunk = trunk
        self._watch = watch
        self._batch_size = 0  # that of the first batch, until memory runs out

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._batch_size = self._batch_size or len(images)
        while True:
            try:
                with self._watch("trunk"):
                    return self._in_parts(images, self._batch_size)
            except Exception as error:
                if not _is_out_of_memory(error) or self._batch_size == 1:
                    raise
                self._batch_size = -(-self._batch_size // 2)
                logger.warning(
                    "the device has not memory enough for the batch; going on with %d at a time", self._batch_size
                )

    def _in_parts(self, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
        if batch_size >= len(images):
            return self._trunk(images)
        padded = np.zeros((-(-len(images) // batch_size) * batch_size, *images.shape[1:]), np.uint8)
        padded[: len(images)] = images
        parts = [self._trunk(padded[start : start + batch_size]) for start in range(0, len(padded), batch_size)]
        return np.concatenate(parts)[: len(images)]


def _is_out_of_memory(error: Exception) -> bool:
    """Whether a network library says that its device is full; each has another class for it."""
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in ("resource_exhausted", "resourceexhausted", "out of memory", "outofmemory"))


def load_file(
    file: str | Path | bytes, size: int, recipe: Recipe, expected_id: str | None = None, watch: Stopwatch | None = None
) -> NDArray[np.uint8]:
    """Read, decode and resize one picture by a recipe to ``uint8 (size, size, 3)`` RGB.

    Args:
        file: path of it, or the bytes of a file.
        size: side in pixels.
        recipe: recipe by which to decode and resize.
        expected_id: content id that the file had when it was listed.
        watch: gets the seconds of each stage.

    Raises:
        FileReadError: it cannot be read, or has another content id by now.
        PictureError: it cannot be decoded.
    """
    watch = watch or Stopwatch()
    with watch("read"):
        data = file if isinstance(file, bytes) else read_file(file)
        if expected_id is not None and content_id(data) != expected_id:
            raise FileReadError("was changed since featx last looked; extract again")
    with watch("decode"):
        image = decode(data, recipe.max_pixels, DRAFT_SIDES * size if recipe.draft else None)
    with watch("resize"):
        return resize(image, size, recipe.resize)


def as_stored(features: NDArray[np.float32], dtype: str) -> tuple[NDArray[Any], dict[int, str]]:
    """Features in the dtype of the file, and the reasons, by row, why some are not finite numbers in it.

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
    largest = float(np.abs(features).max())
    return f'a feature of {largest:.3g} is out of {dtype}\'s range; extract with `dtype="float32"`'
