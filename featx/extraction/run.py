"""Extraction: pictures x trunk -> feature file. Look up what is stored, compute what is missing, put the file together.

The ledger always closes: rows + quarantined = listed. A row of a view other than 0 is not counted there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

from featx._internal.progress import Progress, silent
from featx.cache import CacheFolder, Features, MissingRowsError, Place, Spec
from featx.errors import require_whole
from featx.extraction.assembly import assemble, up_to_date
from featx.extraction.computation import Computation
from featx.extraction.manifest import Manifest, manifest_of
from featx.extraction.recipe import Recipe, RecipeFields
from featx.extraction.share import refuse
from featx.extraction.workers import Workers
from featx.pictures import Views, checked


@dataclass(frozen=True)
class Extraction:
    """Account of an extraction. ``rows + quarantined == listed``.

    Attributes:
        features_path: the feature file.
        listed: pictures in the data set.
        rows: pictures that have features.
        quarantined: pictures that could not be read.
        computed: rows that went through the trunk.
        reused: the others: stored in the cache folder before, or copies of a picture that was computed.
        shape: ``(rows + view_rows, h, w, c)`` or ``(rows + view_rows, c)``.
        dtype: dtype in which features are stored.
        seconds: time that it took.
        images_per_second: rows computed per second of computing.
        engine: name of the engine that computed, such as ``keras-tensorflow``.
        spec: everything that decides the features' values.
        quarantine: path and reason of the pictures that could not be read.
        ignored: other files of the data set.
        views: views of each training picture that were asked for.
        view_rows: rows that training pictures have besides their own.
        profile: seconds of ``list``, ``read``, ``decode``, ``resize``, ``trunk`` and ``write`` by all threads together,
            ``waiting`` in which the trunk had nothing to do, and ``assemble`` for putting the file together.

    Example:
        >>> import featx
        >>> done = featx.extract("photos", backbone="pixels", size=16)
        >>> (done.listed, done.rows, done.quarantined), done.shape
        ((24, 24, 0), (24, 16, 16, 3))
    """

    features_path: str
    listed: int
    rows: int
    quarantined: int
    computed: int
    reused: int
    shape: tuple[int, ...]
    dtype: str
    seconds: float = field(repr=False)
    images_per_second: float = field(repr=False)
    engine: str
    spec: Spec = field(repr=False)
    quarantine: list[tuple[str, str]] = field(repr=False)
    ignored: int = field(default=0, repr=False)
    views: int = 1
    view_rows: int = field(default=0, repr=False)
    profile: dict[str, float] = field(default_factory=dict, repr=False)


def extract(
    dataset: str | Path,
    *,
    recipe: Recipe | None = None,
    cache_dir: str | Path = "cache",
    batch_size: int | None = None,
    workers: str | int = 1,
    strict: bool = False,
    views: Views | None = None,
    progress: Progress | None = None,
    **fields: Unpack[RecipeFields],
) -> Extraction:
    """Run a frozen base over a data set once and keep its features in a feature file.

    Rows with the same spec and content are copied from any file of the cache folder; only the others are computed. It
    can be killed at any instant and run again: at most the block under way is lost.

    Args:
        dataset: a folder (``CLASS/*``, ``train/CLASS/*`` ..., or flat) or a label file.
        recipe: recipe of the features; by default the last maps of VGG16.
        cache_dir: the cache folder.
        batch_size: pictures per call of the trunk; by default as many as suit the device and its memory.
        workers: ``1``: this process; another number: so many processes; ``gpus``: one for each GPU;
            ``dask://HOST:PORT`` or ``ray://HOST:PORT``: those of a cluster that sees data set and cache folder under
            the same paths.
        strict: fail on the first picture that cannot be read, instead of quarantining it.
        views: views of each labelled picture of ``train``, or of no split; by default the picture itself. All other
            pictures have view 0 only.
        progress: called with the stage, how much of it is done, and of how much.
        **fields: fields of :class:`Recipe`, such as ``backbone="vgg16"``; they replace those of ``recipe``.

    Returns:
        The path of the feature file, and what was computed, reused and quarantined.

    Raises:
        SettingError: a setting out of its range, or an unknown one.
        DatasetError: nothing to extract; or ``strict``, and a picture cannot be read.
        BackboneError, WeightsError: no such trunk.
        CacheError: the cache folder cannot be written.
        ExtractionError: values that cannot be stored, or no picture that can be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> import featx
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "photos" / "cat").mkdir(parents=True)
        >>> for number, color in enumerate(["white", "gray"]):
        ...     Image.new("RGB", (40, 30), color).save(folder / "photos" / "cat" / f"{number}.png")
        >>> network = featx.Recipe("mobilenet-0.25", weights="random", size=32, pooling="avg")
        >>> done = featx.extract(folder / "photos", recipe=network, cache_dir=folder / "cache")
        >>> done.rows, done.computed, done.shape
        (2, 2, (2, 256))
        >>> featx.extract(folder / "photos", recipe=network, cache_dir=folder / "cache").computed
        0
    """
    started = time.perf_counter()
    recipe = Recipe.of(recipe, fields, extract)
    views = checked(views)
    where = Workers.parse(workers)
    if batch_size is not None:
        batch_size = require_whole("batch_size", batch_size, 1)
    progress = progress or silent
    store = CacheFolder(cache_dir)
    manifest = manifest_of(dataset, recipe, views, store, progress)
    if strict:
        refuse(manifest.unreadable)
    computation = Computation(manifest, store, workers=where, batch_size=batch_size, strict=strict, progress=progress)
    features = _feature_file(manifest, store, computation, progress)
    if not computation.requested:
        manifest.census.remember(store)
    return _summary(manifest, computation, features, time.perf_counter() - started)


def _feature_file(manifest: Manifest, store: CacheFolder, computation: Computation, progress: Progress) -> Features:
    """The feature file of a manifest: as it is if it is whole, else put together from rows stored or computed.

    A row is known by its spec and a key of content id and view. It is looked up in all files and blocks of the cache
    folder; what is missing is computed into blocks, and then looked up again: workers may have died meanwhile.
    """
    file = manifest.file
    features = up_to_date(manifest, computation.warn_once)
    if features is not None and not store.partial(file).exists():  # or blocks were left by a kill in the last instant
        return features
    with store.lock(file):
        features = up_to_date(manifest, computation.warn_once)  # another process may have been quicker
        damaged: set[Place] = set()
        if features is None:
            store.remove_litter(file)
        while features is None:
            places = store.find_rows(manifest.spec, damaged, manifest.keys())
            missing = manifest.missing(places)
            if missing:
                computation.run(missing)
                continue
            progress("writing the feature file", 0, 0)
            try:
                with computation.timed("assemble"):
                    features = assemble(manifest, places)
            except MissingRowsError as error:
                damaged |= error.places
        store.discard(store.partial(file))
    return features


def _summary(manifest: Manifest, computation: Computation, features: Features, seconds: float) -> Extraction:
    pictures = int(features.pictures.sum())
    requested = computation.requested
    computed = len(requested.intersection(features.row_keys())) if requested else 0
    profile = {"list": manifest.listing_seconds, **computation.seconds}
    return Extraction(
        features_path=str(features.path),
        listed=len(manifest.listing.pictures),
        rows=pictures,
        quarantined=len(features.quarantine),
        computed=computed,
        reused=len(features) - computed,
        shape=features.shape,
        dtype=str(features.dtype),
        seconds=seconds,
        images_per_second=computed / max(computation.wall_seconds, 1e-9),
        engine=computation.engine,
        spec=manifest.spec,
        quarantine=features.quarantine,
        ignored=len(manifest.listing.ignored),
        views=manifest.views.n,
        view_rows=len(features) - pictures,
        profile={stage: round(spent, 4) for stage, spent in profile.items()},
    )
