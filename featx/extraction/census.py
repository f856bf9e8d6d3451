"""The census: which files of a data set are which, by content, reading only those that may have changed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable

from featx._internal.hashing import content_id, digest
from featx._internal.parallel import in_threads
from featx._internal.progress import Progress
from featx.cache import CacheFolder, Stat, StatRow
from featx.errors import CacheError, PictureError
from featx.pictures import Listing, read_file

RACY_NS = 2_000_000_000  # a file changed this recently may change again within the same tick of its clock


class Census:
    """Content id of every file of a listing. A file whose size and times are those of an earlier run is not read.

    Attributes:
        ids: content id by path, of the files that can be read.
        unreadable: why the others cannot, by path.
    """

    def __init__(self, listing: Listing, store: CacheFolder, progress: Progress) -> None:
        self.root = str(listing.root.resolve())
        self.ids: dict[str, str] = {}
        self.unreadable: dict[str, str] = dict(listing.misplaced)
        self._listing, self._store, self._progress = listing, store, progress
        self._begun = time.time_ns()
        self._stats: dict[str, Stat] = {}
        self._read: list[str] = []
        self._take()

    def _take(self) -> None:
        known = self._known()
        unknown = []
        for path in (p.path for p in self._listing.pictures if p.path not in self.unreadable):
            self._stats[path] = _stat(os.path.join(self._listing.root, path))
            content = known.get((path, self._stats[path]))
            if content:
                self.ids[path] = content
            else:
                unknown.append(path)
        if unknown:
            self._progress("looking through the pictures", 0, len(unknown))
        read = in_threads(unknown, lambda path: content_id(read_file(self._listing.root / path)))
        for done, (path, content_or_error) in enumerate(read, 1):
            if isinstance(content_or_error, PictureError):
                self.unreadable[path] = str(content_or_error)
            else:
                self.ids[path] = content_or_error
                self._read.append(path)
            self._progress("looking through the pictures", done, len(unknown))

    def stat_rows(self, paths: Iterable[str]) -> list[StatRow]:
        """Files whose times are so fresh that a later change might not show are left out: they will be read again."""
        settled = self._begun - RACY_NS
        return [(path, self.ids[path], *self._stats[path]) for path in paths if max(self._stats[path][1:]) < settled]

    def keep(self) -> None:
        """Note what had to be read and has settled since the feature file was written, lest every run read it."""
        rows = self.stat_rows(self._read)
        if rows:
            latest = list({row[0]: list(row) for row in [*self._kept(), *rows]}.values())
            with contextlib.suppress(CacheError):  # it only saves work
                self._store.write_memo(self._memo, {"digest": digest([self.root, latest]), "stat": latest})

    def _kept(self) -> list[StatRow]:
        """What :meth:`keep` noted, if nobody has touched it."""
        memo = self._store.read_memo(self._memo)
        sound = memo.get("digest") == digest([self.root, memo.get("stat")])
        return [tuple(row) for row in memo["stat"]] if sound else []

    def _known(self) -> dict[tuple[str, Stat], str]:
        """Content ids by path and stat, as earlier runs have found them."""
        known = {(path, (size, mtime, ctime)): content for path, content, size, mtime, ctime in self._kept()}
        for features in self._store.features(root=self.root):
            known |= {(path, stat): content for path, (stat, content) in features.stats().items()}
        return known

    @property
    def _memo(self) -> str:
        return f"stat-{digest(self.root)}.json"


def _stat(path: str) -> Stat:
    try:
        now = os.stat(path)
    except OSError:  # reading it will say why
        return (-1, 0, 0)
    return now.st_size, now.st_mtime_ns, now.st_ctime_ns
