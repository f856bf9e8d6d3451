"""The computation of missing rows: in this process or by workers, whatever becomes of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from featx._internal.progress import Progress
from featx.cache import CacheFolder, RowKey, require_room
from featx.extraction.identity import forget_identities, note_engine
from featx.extraction.manifest import Manifest
from featx.extraction.share import Outcome, PictureTask, Share, TrunkChangedError, compute, refuse
from featx.extraction.workers import Workers, WorkersLostError, spread

logger = logging.getLogger(__name__)

MOST_LOSSES = 3  # in a row that workers may die without having written anything


class Computation:
    """Computes rows that a manifest lacks, into blocks in the cache folder, and counts what that took.

    Attributes:
        requested: keys of the rows that were to be computed.
        seconds: time by stage, of all threads together.
        wall_seconds: time from when trunks were built until the rows were.
        engine: name of the engine that computed last.
    """

    def __init__(
        self,
        manifest: Manifest,
        store: CacheFolder,
        *,
        workers: Workers,
        batch_size: int | None,
        strict: bool,
        progress: Progress,
    ) -> None:
        self.requested: set[RowKey] = set()
        self.seconds: dict[str, float] = {}
        self.wall_seconds = 0.0
        self.engine = manifest.trunk.engine
        self._manifest = manifest
        self._store = store
        self._workers = workers
        self._batch_size = batch_size
        self._strict = strict
        self._progress = progress
        self._losses = 0  # in a row, of workers that had not done anything
        self._shown: set[str] = set()  # warnings

    def run(self, missing: Mapping[str, list[int]]) -> None:
        """Compute views of pictures, by path; those that cannot be read go to the manifest's quarantine.

        Workers may die: the rows that they had not written are then still missing.
        """
        share = self._share(missing)
        self.requested |= {self._manifest.key(path, view) for path, views in missing.items() for view in views}
        self._require_room(share)
        total = Outcome()
        try:
            self._compute_here(share, total) if self._workers.kind == "here" else self._spread(share, total)
        except KeyboardInterrupt:
            what = "pictures" if self._manifest.views.n == 1 else "views of pictures"
            kept = f"{total.rows} of {share.rows} {what} are kept in {share.folder}"
            raise KeyboardInterrupt(f"{kept}; run the same command again to go on") from None
        except TrunkChangedError:
            forget_identities(self._store)
            raise
        finally:
            self._count(total)
        if self._strict:
            refuse(total.failures)
        self._manifest.quarantine(total.failures)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the time inside the block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._add_seconds(stage, time.perf_counter() - started)

    def warn_once(self, message: str) -> None:
        """Log a warning, unless this computation has."""
        if message not in self._shown:
            self._shown.add(message)
            logger.warning("%s", message)

    def _share(self, missing: Mapping[str, list[int]]) -> Share:
        manifest = self._manifest
        ids = manifest.census.ids
        stats = {row[0]: row for row in manifest.census.stat_rows(missing)}
        return Share(
            root=manifest.listing.root,
            pictures=tuple(PictureTask(p, ids[p], tuple(views), stats.get(p)) for p, views in missing.items()),
            recipe=manifest.recipe,
            spec=manifest.spec,
            feature_shape=manifest.trunk.feature_shape,
            views=manifest.views,
            folder=self._store.partial(manifest.file),
            networks=self._store.networks,
            attributes={"root": manifest.root, "augmentation": manifest.views.settings},
            batch_size=self._batch_size,
            strict=self._strict,
        )

    def _require_room(self, share: Share) -> None:
        """Blocks and the finished file lie on the disk together for a while."""
        row_bytes = np.dtype(share.recipe.dtype).itemsize * int(np.prod(share.feature_shape))
        require_room(self._store.folder, (share.rows + len(self._manifest.rows())) * row_bytes)

    def _compute_here(self, share: Share, total: Outcome) -> None:
        self._progress("building the trunk", 0, 0)
        compute(share, total, self._progress_of(share, total))
        if total.rows < share.rows:  # the last were unreadable
            self._progress("extracting", share.rows, share.rows)

    def _spread(self, share: Share, total: Outcome) -> None:
        show_progress = self._progress_of(share, total)
        started = time.perf_counter()
        show_progress()
        try:
            for part in spread(share, self._workers):
                total.add(part)
                total.wall = time.perf_counter() - started
                for message in part.notes:
                    self.warn_once(message)
                if part.error:
                    raise part.error
                show_progress()
            self._losses = 0
        except WorkersLostError as error:
            self._losses = 1 if total.rows else self._losses + 1
            if self._losses == MOST_LOSSES:
                raise
            logger.warning("%s. What they had not written is done again", error)

    def _progress_of(self, share: Share, total: Outcome) -> Callable[[], None]:
        """Function that shows how far a share is; a picture that cannot be read counts with all its views."""
        views = {picture.path: len(picture.views) for picture in share.pictures}

        def show() -> None:
            done = total.rows + sum(views[path] for path in total.failures)
            self._progress("extracting", done, share.rows)

        return show

    def _count(self, total: Outcome) -> None:
        self.wall_seconds += total.wall
        for stage, seconds in total.seconds.items():
            self._add_seconds(stage, seconds)
        if total.engine and total.engine != self.engine:
            self.engine = total.engine
            note_engine(self._manifest.recipe, self._store, self.engine)

    def _add_seconds(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
