"""Extraction: pictures x trunk -> feature file. Plan what is missing, compute that, put the file together.

The ledger always closes: rows + quarantined = listed. A row of a view other than 0 is not counted there.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featx._internal.hashing import digest
from featx._internal.progress import Progress, silent
from featx.cache import (
    CacheFolder,
    Features,
    MissingRowsError,
    Place,
    RowKey,
    Spec,
    gather,
    load_features,
    made_by,
    require_room,
    row_key,
    spec_difference,
    write_features,
)
from featx.errors import CacheError, ExtractionError, FileReadError, PictureError
from featx.extraction.census import Census
from featx.extraction.recipe import Recipe
from featx.extraction.share import Outcome, Share, TrunkChangedError, Wanted, compute, refuse
from featx.extraction.workers import Workers, WorkersLostError, spread
from featx.pictures import Listing, Picture, Views, checked, list_dataset, printable

logger = logging.getLogger(__name__)

VERIFY_BYTES = 2**30  # how much of a finished file a run with nothing to do looks through
LOST_AT_MOST = 3  # times in a row that workers may die without having written anything


@dataclass(frozen=True)
class Extraction:
    """What an extraction did. ``features`` is the path of the file; ``rows + quarantined == listed``.

    ``rows`` counts pictures, ``view_rows`` the rows that training pictures have besides, so that ``shape[0]`` is
    ``rows + view_rows``; ``views`` is how many were asked for. ``computed`` counts rows that went through the trunk,
    ``reused`` the others: found in the cache folder, or copies of a picture that was computed. ``profile`` says where
    the time went, in seconds: ``list``, ``read``, ``decode``, ``resize``, ``trunk`` and ``write`` by all threads
    together, ``waiting`` in which the trunk had nothing to do, and ``assemble`` for putting the file together.
    """

    features: str
    listed: int
    rows: int
    quarantined: int
    computed: int
    reused: int
    shape: tuple[int, ...]
    dtype: str
    seconds: float
    images_per_second: float
    engine: str
    spec: Spec
    quarantine: list[tuple[str, str]] = field(repr=False)
    ignored: int = 0
    views: int = 1
    view_rows: int = 0
    profile: dict[str, float] = field(default_factory=dict)


def extract(
    dataset: str | Path,
    *,
    cache_dir: str | Path = "cache",
    batch_size: int | None = None,
    workers: str | int = 1,
    strict: bool = False,
    views: Views | None = None,
    progress: Progress | None = None,
    **recipe: Any,
) -> Extraction:
    """Run a frozen base over a data set once and keep its features in a feature file.

    Rows with the same spec and content are copied from any file of the cache folder; only the others are computed. It
    can be killed at any instant and run again: at most the block under way is lost.

    Args:
        dataset: a folder (``CLASS/*``, ``train/CLASS/*`` ..., or flat) or a label file.
        cache_dir: the cache folder.
        batch_size: pictures a call of the trunk; by default as many as suit the device and its memory.
        workers: ``1``: this process; another number: so many processes; ``gpus``: one for each GPU;
            ``dask://HOST:PORT`` or ``ray://HOST:PORT``: those of a cluster that sees data set and cache folder under
            the same paths.
        strict: fail on the first picture that cannot be read, instead of quarantining it.
        views: how many views of each labelled picture of ``train``, or of no split, there are to be; by default the
            picture itself. All other pictures have view 0 only.
        progress: called with what is going on, how much is done, and of how much.
        **recipe: the fields of :class:`Recipe`, such as ``backbone="vgg16"``, ``pooling="avg"``.

    Raises:
        DatasetError: nothing to extract. BackboneError, WeightsError: no such trunk. CacheError: cannot be written.
        ExtractionError: values that cannot be stored, or no picture that can be read.
    """
    started = time.perf_counter()
    if batch_size is not None and batch_size < 1:
        raise ExtractionError(f"batch_size must be at least 1, got {batch_size}")
    run = _Run(
        dataset, Recipe(**recipe), views, CacheFolder(cache_dir), progress, batch_size, Workers.parse(workers), strict
    )
    features = run.finish()
    pictures = int((features.views == 0).sum())
    return Extraction(
        features=str(features.path),
        listed=len(run.listing.pictures),
        rows=pictures,
        quarantined=len(features.quarantine),
        computed=run.computed,
        reused=len(features) - run.computed,
        shape=features.shape,
        dtype=str(features.dtype),
        seconds=time.perf_counter() - started,
        images_per_second=run.computed / max(run.compute_seconds, 1e-9),
        engine=run.engine,
        spec=run.spec,
        quarantine=features.quarantine,
        ignored=len(run.listing.ignored),
        views=run.views.n,
        view_rows=len(features) - pictures,
        profile={stage: round(seconds, 4) for stage, seconds in run.profile.items()},
    )


def explain(
    dataset: str | Path,
    *,
    cache_dir: str | Path = "cache",
    views: Views | None = None,
    progress: Progress | None = None,
    **recipe: Any,
) -> dict[str, Any]:
    """Why the next :func:`extract` of the same arguments would compute: which files, or which field of the spec.

    Returns:
        ``features`` (the file it would write), ``would_compute`` (rows, at most: whether a new picture can be read
        shows only then), ``would_reuse``, ``new`` (paths of which a view is to be computed), ``views``, and
        ``other_specs``: for each feature file of this data set made by another spec, or with views made by other
        settings, how these differ.
    """
    run = _Run(dataset, Recipe(**recipe), views, CacheFolder(cache_dir), progress)
    missing = run.missing(run.store.find_rows(run.spec, run.damaged(), run.keys()))
    computed = sum(map(len, missing.values()))
    others = [(str(f.path), run.differences(f)) for f in run.store.features(root=run.root)]
    return {
        "features": str(run.file),
        "views": run.views.n,
        "would_compute": computed,
        "would_reuse": len(run.rows()) - computed,
        "new": sorted(missing),
        "other_specs": [{"features": path, "differences": lines} for path, lines in others if lines],
    }


class _Run:
    """One extraction: the listing with its content ids, and what is known of the trunk."""

    def __init__(
        self,
        dataset: str | Path,
        recipe: Recipe,
        views: Views | None,
        store: CacheFolder,
        progress: Progress | None,
        batch_size: int | None = None,
        workers: Workers | None = None,
        strict: bool = False,
    ) -> None:
        self.recipe, self.store, self.progress = recipe, store, progress or silent
        self.batch_size, self.workers, self.strict = batch_size, workers or Workers(), strict
        self.views = checked(views)
        self.augmentation, self.maker = self.views.settings, made_by(self.views.settings)
        self.asked: set[RowKey] = set()  # rows that were to be computed
        self.computed, self.compute_seconds = 0, 0.0
        self.profile: dict[str, float] = {}
        self.momentary: set[str] = set()
        self.warned: set[str] = set()
        self.lost = 0  # how many times in a row workers died without having done anything
        started = time.perf_counter()
        self.listing: Listing = list_dataset(dataset)
        for folder in self.listing.empty_classes:
            logger.warning("%s/%s holds no pictures; there will be no such class", self.listing.root, folder)
        if self.views.n > 1 and not any(map(_for_training, self.listing.pictures)):
            logger.warning("%s has no labelled training pictures; no views are made", self.listing.root)
        self.root = str(self.listing.root.resolve())
        listed = time.perf_counter() - started
        self.spec, self.shape, self.engine = self._identify()
        started = time.perf_counter()
        self.census = Census(self.listing, store, self.progress)
        self.ids, self.unreadable = self.census.ids, self.census.unreadable
        self._spent("list", listed + time.perf_counter() - started)
        self.unreadable = self.unreadable | self._known_bad()
        if strict:
            refuse(self.unreadable)
        rows = [[p.path, self.ids.get(p.path, ""), p.label, p.split] for p in self.listing.pictures]
        several = self.augmentation and {"n": self.views.n, **self.augmentation}
        self.file = store.file_for(self.listing.name, self.spec, rows, several)

    def _spent(self, stage: str, seconds: float) -> None:
        self.profile[stage] = self.profile.get(stage, 0.0) + seconds

    def _identify(self) -> tuple[Spec, tuple[int, ...], str]:
        """Spec, feature shape and engine; from an earlier run's memo if there is one, since building takes seconds."""
        key = digest(self.recipe.trunk_key())
        memo = self.store.read_memo("trunks.json")
        try:
            known = memo[key]
            return {**known["spec"], **self.recipe.own_spec}, tuple(known["shape"]), str(known["engine"])
        except (KeyError, TypeError):  # not known yet, or somebody's edit
            pass
        self.progress("building the trunk", 0, 0)
        trunk = self.recipe.trunk()
        spec = self.recipe.spec(trunk)
        known = {"spec": spec, "shape": trunk.feature_shape, "engine": trunk.engine}
        with contextlib.suppress(CacheError):  # it only saves work
            self.store.write_memo("trunks.json", {**memo, key: known})
        return spec, trunk.feature_shape, trunk.engine

    def _remember(self, engine: str) -> None:
        """So that a run that has nothing to compute can tell by which engine that was."""
        if not engine or engine == self.engine:
            return
        self.engine = engine
        key, memo = digest(self.recipe.trunk_key()), self.store.read_memo("trunks.json")
        if isinstance(memo.get(key), dict):
            with contextlib.suppress(CacheError):
                self.store.write_memo("trunks.json", {**memo, key: {**memo[key], "engine": engine}})

    def _known_bad(self) -> dict[str, str]:
        """Pictures of which an earlier run with the same decoder found that they cannot be read."""
        reasons = self.store.reasons(self.recipe.decoded_by)
        return {path: reasons[content] for path, content in self.ids.items() if content in reasons}

    def rows(self) -> list[tuple[Picture, int]]:
        """The pictures that have features, with the number of the view, in the order of the file."""
        pictures = [p for p in self.listing.pictures if p.path not in self.unreadable]
        training = [p for p in pictures if _for_training(p)]
        return [(p, 0) for p in pictures] + [(p, view) for view in range(1, self.views.n) for p in training]

    def key(self, path: str, view: int) -> RowKey:
        """What a row is known by."""
        return row_key(self.ids[path], view, self.maker)

    def keys(self) -> dict[RowKey, str]:
        """What the rows are known by, each with the first file that it can be computed from."""
        keys: dict[RowKey, str] = {}
        for picture, view in self.rows():
            keys.setdefault(self.key(picture.path, view), picture.path)
        return keys

    def missing(self, found: dict[RowKey, Place]) -> dict[str, list[int]]:
        """The views to be computed, each content once, by file."""
        missing: dict[str, list[int]] = {}
        for key, path in self.keys().items():
            if key not in found:
                missing.setdefault(path, []).append(key[1])
        return missing

    def differences(self, features: Features) -> list[str]:
        """Why rows of a feature file are not those of this run: its spec, or how its views were made."""
        settings = (features.augmentation, self.augmentation)
        return spec_difference(features.spec, self.spec) + (spec_difference(*settings) if all(settings) else [])

    def finish(self) -> Features:
        """The finished feature file: as it is if it is whole, else computed and put together."""
        features = self._unchanged()
        if features is None or self.store.partial(self.file).exists():  # or left by a kill in the last instant
            with self.store.lock(self.file):
                features = self._unchanged() or self._make()
                self.store.discard(self.store.partial(self.file))
        if not self.asked:
            self.census.keep()
        return features

    def _unchanged(self) -> Features | None:
        if not self.file.exists():
            return None
        try:
            features = load_features(self.file)
        except CacheError as error:
            logger.warning("%s", error)
            return None
        if any(path in self.ids for path, content in features.unread() if not content):
            return None  # a file that could not be read then can be now
        if features.quarantine and features.decoded_by != self.recipe.decoded_by:
            return None  # another decoder or limit may read what that one could not
        if features.root != self.root or not self.recipe.files.items() <= features.recipe.items():
            return None  # pictures or weights have moved: the file has to say where they are now
        damaged = features.damaged_rows(VERIFY_BYTES)
        if damaged:
            self._warn_once(f"{self.file}: {len(damaged)} rows are damaged and will be replaced")
        return None if damaged else features

    def damaged(self) -> set[Place]:
        """Places in the finished file that hold damaged rows, as far as a run with nothing to do would see."""
        try:
            return {Place(self.file, row) for row in load_features(self.file).damaged_rows(VERIFY_BYTES)}
        except CacheError:  # there is none, or none of its rows can be had
            return set()

    def _make(self) -> Features:
        self.store.sweep(self.file)
        damaged: set[Place] = set()
        while True:
            found = self.store.find_rows(self.spec, damaged, self.keys())
            missing = self.missing(found)
            if missing:
                self._compute(missing)
                continue
            if not self.rows():
                path, reason = next(iter(self.unreadable.items()))
                raise ExtractionError(
                    f"none of the {len(self.listing.pictures)} pictures could be read; the first, {path}: {reason}"
                )
            try:
                self._assemble(found)
            except MissingRowsError as error:
                damaged |= error.places
                continue
            self.computed = len(self.asked & found.keys())
            return load_features(self.file)

    def _compute(self, missing: dict[str, list[int]]) -> None:
        share = self._share(missing)
        self.asked |= {self.key(path, view) for path, views in missing.items() for view in views}
        row_bytes = np.dtype(self.recipe.dtype).itemsize * int(np.prod(self.shape))
        require_room(self.store.folder, (share.rows + len(self.rows())) * row_bytes)
        total = Outcome()
        try:
            self._here(share, total) if self.workers.kind == "here" else self._elsewhere(share, total)
        except KeyboardInterrupt:
            what = "pictures" if self.views.n == 1 else "views of pictures"
            kept = f"{total.rows} of {share.rows} {what} are kept in {share.folder}"
            raise KeyboardInterrupt(f"{kept}; run the same command again to go on") from None
        except TrunkChangedError:
            self.store.write_memo("trunks.json", {})
            raise
        finally:
            self.compute_seconds += total.wall
            self._remember(total.engine)
            for stage, seconds in total.seconds.items():
                self._spent(stage, seconds)
        self._set_aside(total.failures)

    def _share(self, missing: dict[str, list[int]]) -> Share:
        stats = {row[0]: row for row in self.census.stat_rows(missing)}
        return Share(
            root=self.listing.root,
            pictures=tuple(Wanted(p, self.ids[p], tuple(views), stats.get(p)) for p, views in missing.items()),
            recipe=self.recipe,
            spec=self.spec,
            feature_shape=self.shape,
            views=self.views,
            folder=self.store.partial(self.file),
            networks=self.store.networks,
            attributes={"root": self.root, "augmentation": self.augmentation},
            batch_size=self.batch_size,
            strict=self.strict,
        )

    def _here(self, share: Share, total: Outcome) -> None:
        self.progress("building the trunk", 0, 0)
        compute(share, total, self._teller(share, total))
        if total.rows < share.rows:  # the last were unreadable
            self.progress("extracting", share.rows, share.rows)

    def _teller(self, share: Share, total: Outcome) -> Callable[[], None]:
        """Tells how far a share is; a picture that cannot be read counts with all its views."""
        views = {picture.path: len(picture.views) for picture in share.pictures}

        def tell() -> None:
            done = total.rows + sum(views[path] for path in total.failures)
            self.progress("extracting", done, share.rows)

        return tell

    def _elsewhere(self, share: Share, total: Outcome) -> None:
        """By workers; if some are lost, what they have not written is missing, and will be given out anew."""
        tell, started = self._teller(share, total), time.perf_counter()
        tell()
        try:
            for part in spread(share, self.workers):
                total.add(part)
                total.wall = time.perf_counter() - started
                for message in part.notes:
                    self._warn_once(message)
                if part.error:
                    raise part.error
                tell()
            self.lost = 0
        except WorkersLostError as error:
            self.lost = 1 if total.rows else self.lost + 1
            if self.lost == LOST_AT_MOST:
                raise
            logger.warning("%s. What they had not written is done again", error)

    def _warn_once(self, message: str) -> None:
        if message not in self.warned:
            self.warned.add(message)
            logger.warning("%s", message)

    def _set_aside(self, failures: dict[str, PictureError]) -> None:
        if self.strict:
            refuse(failures)
        # A file that could not be read this time says nothing of its content: its copies, and later runs, try again
        momentary = {path: str(e) for path, e in failures.items() if isinstance(e, FileReadError)}
        reasons = {self.ids[path]: str(e) for path, e in failures.items() if path not in momentary}
        self.unreadable |= {p: reasons[content] for p, content in self.ids.items() if content in reasons} | momentary
        self.momentary |= set(momentary)

    def _assemble(self, found: dict[RowKey, Place]) -> None:
        rows, names = self.rows(), self.listing.class_names
        places = [found[self.key(p.path, view)] for p, view in rows]
        index = {name: number for number, name in enumerate(names)}
        known = {path: content for path, content in self.ids.items() if path not in self.momentary}
        bad = [(printable(path), known.get(path, ""), reason) for path, reason in sorted(self.unreadable.items())]
        tables = {
            "ids": [self.ids[p.path] for p, _ in rows],
            "views": [view for _, view in rows],
            "labels": [-1 if p.label is None else index[p.label] for p, _ in rows],
            "paths": [p.path for p, _ in rows],
            "splits": [p.split for p, _ in rows],
            "quarantine": bad,
            "stat": self.census.stat_rows(sorted(self.ids)),
        }
        self.progress("writing the feature file", 0, 0)
        started = time.perf_counter()
        write_features(
            self.file,
            gather(places, self.shape, self.recipe.dtype),
            (len(rows), *self.shape),
            spec=self.spec,
            tables=tables,
            attributes={
                "class_names": names,
                "dataset": self.listing.name,
                "root": self.root,
                "recipe": asdict(self.recipe.in_any_engine()),
                "decoded_by": self.recipe.decoded_by,
                "augmentation": self.augmentation,
            },
        )
        self._spent("assemble", time.perf_counter() - started)


def _for_training(picture: Picture) -> bool:
    """Whether a picture may have views besides itself."""
    return picture.label is not None and picture.split in ("train", "")
