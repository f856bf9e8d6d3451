"""The census: content ids of a data set's files, for which only those are read that may have changed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from featx._internal.hashing import content_id, digest
from featx._internal.parallel import in_threads
from featx._internal.progress import Progress
from featx.cache import CacheFolder, Stat, StatRow
from featx.errors import CacheError, PictureError
from featx.pictures import Listing, read_file

RACY_NS = 2_000_000_000  # a file changed this recently may change again within the same tick of its clock


@dataclass
class Census:
    """Content id of every file of a listing.

    Attributes:
        root: absolute path of the data set.
        begun_ns: time when the census was begun, in nanoseconds.
        ids: content id by path, of the files that can be read.
        unreadable: reason by path why the others cannot.
        stats: size and times by path.
        newly_read: paths of the files that no earlier run knew.
    """

    root: str
    begun_ns: int
    ids: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    stats: dict[str, Stat] = field(default_factory=dict)
    newly_read: list[str] = field(default_factory=list)

    def stat_rows(self, paths: Iterable[str]) -> list[StatRow]:
        """Size and times of files, for later runs to tell by that they have not changed.

        Files whose times are so fresh that a later change might not show are left out: they will be read again.
        """
        settled = self.begun_ns - RACY_NS
        return [(path, self.ids[path], *self.stats[path]) for path in paths if max(self.stats[path][1:]) < settled]

    def remember(self, store: CacheFolder) -> None:
        """Note what had to be read and has settled since the feature file was written, lest every run read it."""
        rows = self.stat_rows(self.newly_read)
        if rows:
            latest = list({row[0]: list(row) for row in [*_remembered(self.root, store), *rows]}.values())
            with contextlib.suppress(CacheError):  # it only saves work
                store.write_memo(_memo_name(self.root), {"digest": digest([self.root, latest]), "stat": latest})


def take_census(listing: Listing, store: CacheFolder, progress: Progress) -> Census:
    """Content ids of a listing's files. A file whose size and times are those of an earlier run is not read."""
    census = Census(str(listing.root.resolve()), time.time_ns(), unreadable=dict(listing.misplaced))
    known = _known_ids(census.root, store)
    unknown = []
    for path in (p.path for p in listing.pictures if p.path not in census.unreadable):
        census.stats[path] = _stat(os.path.join(listing.root, path))
        known_id = known.get((path, census.stats[path]))
        if known_id:
            census.ids[path] = known_id
        else:
            unknown.append(path)
    if unknown:
        progress("looking through the pictures", 0, len(unknown))
    results = in_threads(unknown, lambda path: content_id(read_file(listing.root / path)))
    for done, (path, id_or_error) in enumerate(results, 1):
        if isinstance(id_or_error, PictureError):
            census.unreadable[path] = str(id_or_error)
        else:
            census.ids[path] = id_or_error
            census.newly_read.append(path)
        progress("looking through the pictures", done, len(unknown))
    return census


def _known_ids(root: str, store: CacheFolder) -> dict[tuple[str, Stat], str]:
    """Content ids by path and stat, from earlier runs."""
    known = {(path, (size, mtime, ctime)): content for path, content, size, mtime, ctime in _remembered(root, store)}
    for features in store.iter_features(root=root):
        known |= {(path, stat): content for path, (stat, content) in features.stats().items()}
    return known


def _remembered(root: str, store: CacheFolder) -> list[StatRow]:
    """Rows that :meth:`Census.remember` noted, if nobody has touched them."""
    memo = store.read_memo(_memo_name(root))
    sound = memo.get("digest") == digest([root, memo.get("stat")])
    return [tuple(row) for row in memo["stat"]] if sound else []


def _memo_name(root: str) -> str:
    return f"stat-{digest(root)}.json"


def _stat(path: str) -> Stat:
    try:
        status = os.stat(path)
    except OSError:  # reading it will say why
        return (-1, 0, 0)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
