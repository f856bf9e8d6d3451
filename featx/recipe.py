"""The recipe: what to compute from a picture, and computing it for any pictures, with or without a cache."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import PIL

from featx.backbones import PIXELS, POOLINGS, Trunk, build_trunk, canonical_name, is_model_file, resolve_size
from featx.errors import BackboneError, FileReadError, PictureError, WeightsError
from featx.images import DECODER, MAX_PIXELS, RESIZES, content_id, decode, read_file, resize

if TYPE_CHECKING:
    from numpy.typing import NDArray

Job = TypeVar("Job", bound=Hashable)
Result = TypeVar("Result")

BATCH_SIZE = 32


@dataclass(frozen=True)
class Recipe:
    """What to compute. What that turns out to be, with everything resolved, is the spec.

    Attributes:
        backbone: a name of the table (``vgg16``, ``mobilenetv2-0.35``), the path of a ``.keras`` file, or ``pixels``:
            no network, the decoded pictures themselves.
        weights: ``imagenet``, ``random``, or a ``.weights.h5``, ``.h5`` or ``.keras`` file.
        layer: where the backbone is cut; by default at its last convolutional output.
        pooling: ``none``, ``avg`` or ``max`` over the map.
        size: side in pixels to which pictures are resized; by default the backbone's own.
        resize: ``stretch``, ``crop`` or ``pad``.
        preprocess: ``auto`` (the backbone's own), ``rescale`` (x/255), ``caffe``, ``tf``, ``torch`` or ``none``.
        dtype: ``float16`` or ``float32``, as which features are stored; ``uint8`` if they are pixels.
        max_pixels: pictures with more pixels are quarantined, unless the cache has their features already.
        random_state: seed of ``random`` weights; 0 for any others.
    """

    backbone: str = "vgg16"
    weights: str = "imagenet"
    layer: str | None = None
    pooling: str = "none"
    size: int | None = None
    resize: str = "stretch"
    preprocess: str = "auto"
    dtype: str = "float16"
    max_pixels: int = MAX_PIXELS
    random_state: int = 0

    def __post_init__(self) -> None:
        if self.backbone == PIXELS:
            if (self.layer or PIXELS, self.pooling, self.preprocess) != (PIXELS, "none", "auto"):
                raise BackboneError("pixels are cached as they are: --layer, --pooling and --preprocess do not apply")
            object.__setattr__(self, "dtype", "uint8")
        dtypes = ("float16", "float32") if self.backbone != PIXELS else ("uint8",)
        choices = {"pooling": POOLINGS, "resize": RESIZES, "dtype": dtypes}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise BackboneError(f"unknown {name} {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        if self.max_pixels < 1:
            raise BackboneError(f"--max-pixels must be at least 1, got {self.max_pixels}")
        object.__setattr__(self, "backbone", canonical_name(self.backbone))
        for name, file in self.files.items():  # so that a recipe means the same from any working directory
            object.__setattr__(self, name, os.path.abspath(file))
        if self.weights != "random":
            object.__setattr__(self, "random_state", 0)
        resolve_size(self.backbone, self.size)

    def trunk(self) -> Trunk:
        """The trunk, built or as built before in this process."""
        return _build(self._of_the_trunk(), self._fingerprint())

    def trunk_key(self) -> list[str]:
        """What a trunk depends on, to be known without building it: settings, files, Keras and its backend."""
        return [repr(self._of_the_trunk()), *self._fingerprint(), os.environ.get("KERAS_BACKEND", "")]

    def spec(self, trunk: Trunk) -> dict[str, Any]:
        """Everything that decides a feature's value."""
        return {
            "backbone": trunk.backbone,
            "weights": trunk.weights,
            "layer": trunk.layer,
            "pooling": trunk.pooling,
            "size": trunk.size,
            "preprocess": trunk.preprocess,
            "precision": "float32",
            **self.own_spec,
        }

    @property
    def own_spec(self) -> dict[str, str]:
        """The part of the spec that does not depend on the trunk."""
        return {"resize": self.resize, "decoder": DECODER, "dtype": self.dtype}

    @property
    def decoded_by(self) -> str:
        """What decides whether a picture can be read."""
        return f"{DECODER}, pillow {PIL.__version__}, max_pixels {self.max_pixels}"

    @property
    def files(self) -> dict[str, str]:
        """The fields that name a file, and the file."""
        named = ["weights"] if self.weights not in ("imagenet", "random") else []
        named += ["backbone"] if is_model_file(self.backbone) else []
        return {name: getattr(self, name) for name in named}

    def _of_the_trunk(self) -> Recipe:
        return replace(self, resize="stretch", dtype="float16", max_pixels=MAX_PIXELS)

    def _fingerprint(self) -> tuple[str, ...]:
        """The Keras that builds the trunk, and the content of the files it is built from."""
        try:
            return version("keras"), *(content_id(Path(file).read_bytes()) for file in self.files.values())
        except OSError as error:
            why = (error.strerror or "").lower()
            raise WeightsError(
                f"{error.filename} cannot be read: {why}. If the weights (or your own .keras file) have moved, "
                "--weights FILE says where they are"
            ) from None


@functools.lru_cache(maxsize=1)
def _build(recipe: Recipe, _fingerprint: tuple[str, ...]) -> Trunk:
    return build_trunk(
        recipe.backbone,
        weights=recipe.weights,
        layer=recipe.layer,
        pooling=recipe.pooling,
        size=recipe.size,
        preprocess=recipe.preprocess,
        random_state=recipe.random_state,
    )


def run_trunk(
    jobs: Iterable[Job],
    load: Callable[[Job], NDArray[np.uint8]],
    trunk: Trunk,
    batch_size: int,
    failures: dict[Job, PictureError],
) -> Iterator[tuple[list[Job], NDArray[np.float32]]]:
    """Load pictures in threads, ahead of the trunk, and compute their features in batches of one size.

    Args:
        jobs: what the pictures are known by.
        load: gives ``uint8 (size, size, 3)`` or raises :class:`PictureError`.
        trunk: see :func:`featx.backbones.build_trunk`.
        batch_size: pictures a call; the last call is filled up with black, so that nothing is compiled anew.
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
    batch_size: int,
    failures: dict[Job, PictureError],
    views: int = 1,
) -> Iterator[tuple[list[tuple[Job, int]], NDArray[np.float32]]]:
    """Like :func:`run_trunk`, where a job gives several images at once, so that a picture is decoded but once.

    Args:
        load: gives ``uint8 (images, size, size, 3)`` or raises :class:`PictureError`.
        views: how many images a job gives at most: of so many fewer jobs the images wait in memory.

    Yields:
        the job and the number of the image in it for each row of a batch, and the features.
    """
    loaded = in_threads(jobs, load, ahead=max(2, -(-2 * batch_size // views)))
    good: list[tuple[Job, int]] = []
    batch = np.zeros((batch_size, trunk.size, trunk.size, 3), np.uint8)
    for job, images in loaded:
        if isinstance(images, PictureError):
            failures[job] = images
            continue
        for number, image in enumerate(images):
            batch[len(good)] = image
            good.append((job, number))
            if len(good) == batch_size:
                yield good, trunk(batch)
                good = []
    if good:
        batch[len(good) :] = 0
        yield good, trunk(batch)[: len(good)]


def load_file(path: str | Path, size: int, recipe: Recipe, content: str | None = None) -> NDArray[np.uint8]:
    """Read, decode and resize one file by a recipe to ``uint8 (size, size, 3)`` RGB.

    Raises:
        FileReadError: it cannot be read, or its content id is no longer ``content``.
        PictureError: it cannot be decoded.
    """
    data = read_file(path)
    if content is not None and content_id(data) != content:
        raise FileReadError("was changed since featx last looked; extract again")
    return resize(decode(data, recipe.max_pixels), size, recipe.resize)


def as_stored(features: NDArray[np.float32], dtype: str) -> tuple[NDArray[Any], dict[int, str]]:
    """Features in the dtype of the file, and what is wrong with those that are then not finite, by row.

    Live features are rounded by it too, so that a head sees what it was trained on.
    """
    with np.errstate(over="ignore"):
        stored = features.astype(dtype)
    bad = np.flatnonzero(~np.isfinite(stored).reshape(len(stored), -1).all(axis=1))
    return stored, {int(row): _why_not_finite(features[row], dtype) for row in bad}


def _why_not_finite(features: NDArray[np.float32], dtype: str) -> str:
    if not np.isfinite(features).all():
        return "the trunk gave values that are not numbers; are its weights sound?"
    top = float(np.abs(features).max())
    return f"a feature of {top:.3g} is out of {dtype}'s range; extract with --dtype float32"


def in_threads(
    jobs: Iterable[Job], work: Callable[[Job], Result], ahead: int = 64
) -> Iterator[tuple[Job, Result | PictureError]]:
    """``work`` done by threads, results in order, a :class:`PictureError` among them where it was raised.

    At most ``ahead`` are under way or waiting, so memory stays bounded. (joblib's generators go on working however far
    behind their reader is.)
    """
    waiting: deque[tuple[Job, Future[Result]]] = deque()
    with _pool() as pool:
        for job in jobs:
            waiting.append((job, pool.submit(work, job)))
            if len(waiting) >= ahead:
                first, future = waiting.popleft()
                result = _outcome(future)
                yield first, result
        while waiting:
            first, future = waiting.popleft()
            result = _outcome(future)
            yield first, result


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _outcome(future: Future[Result]) -> Result | PictureError:
    try:
        return future.result()
    except PictureError as error:
        return error
