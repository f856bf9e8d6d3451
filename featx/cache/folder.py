"""The cache folder: finished feature files and the blocks of unfinished ones. Rows are looked up by what they hold.

Finished files are ``*.h5``; while an extraction runs, its blocks are ``*.partial/*.h5``. A block is a small feature
file without labels, so rows are looked up in both alike, by spec, content id and view.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from featx._internal.files import remove_unfinished, write_whole
from featx._internal.hashing import digest
from featx.cache.feature_file import Features, load_features
from featx.cache.layout import read_header, read_reasons
from featx.cache.spec import Place, RowKey, Spec
from featx.cache.writing import writing
from featx.errors import CacheError

logger = logging.getLogger(__name__)


class CacheFolder:
    """Finished feature files and the blocks of unfinished ones, in one folder.

    Args:
        folder: the folder; it is made when something is written.

    Example:
        >>> import featx
        >>> done = featx.extract("photos", backbone="pixels", size=16)
        >>> [features.dataset for features in featx.CacheFolder("cache").iter_features()]
        ['photos']
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._warned: set[Path] = set()

    def files(self) -> list[Path]:
        """Finished feature files, the newest first."""
        return sorted(self.folder.glob("[!.]*.h5"), key=lambda p: (-_mtime_ns(p), p.name))

    def newest(self) -> Path:
        """The readable feature file written last.

        Raises:
            CacheError: there is none.
        """
        for path in self.files():
            with self._unreadable_warned_of(path):
                read_header(path)
                return path
        raise CacheError(f"no feature file in {self.folder}; run `featx extract DATASET` first, or name a file")

    def file_for(self, dataset: str, spec: Spec, listing: Any, views: dict[str, Any] | None = None) -> Path:
        """File for the features of a listing under a spec: ``<dataset>-<backbone>-<key>.h5``.

        Args:
            dataset: name of the data set.
            spec: everything that decides the features' values.
            listing: JSON values that tell one listing from another.
            views: number and settings of views, if there are more than the pictures themselves.
        """
        names = (dataset, str(spec["backbone"]).removesuffix(".keras"))
        parts = (re.sub(r"[^\w.-]+", "_", name).lstrip(".")[:40] or "data" for name in names)
        return self.folder / f"{'-'.join(parts)}-{digest([spec, listing, *([views] if views else [])])}.h5"

    def remove_litter(self, file: Path) -> None:
        """Remove what killed processes left of ``file``; its lock must be held."""
        remove_unfinished(file)

    def partial(self, file: Path) -> Path:
        """Folder for the blocks of an unfinished feature file."""
        return file.with_suffix(".partial")

    @property
    def networks(self) -> Path:
        """Folder for networks converted for an engine, by what they were made of: they only save work."""
        return self.folder / "networks"

    def discard(self, partial: Path) -> None:
        """Remove the blocks of a feature file that is finished; its lock must be held."""
        if partial.exists():
            remove(partial)

    def lock_file(self, file: Path) -> Path:
        """File that is locked while a feature file, or its blocks, are written."""
        return self.folder / ".locks" / f"{file.stem}.lock"

    @contextmanager
    def lock(self, file: Path) -> Iterator[None]:
        """Hold the right to write one feature file; a second process waits. A killed holder's lock is free."""
        lock_file = self.lock_file(file)
        with writing(lock_file.parent):
            lock = filelock.FileLock(lock_file)
        try:
            lock.acquire(timeout=0)
        except OSError as error:
            if not isinstance(error, filelock.Timeout):
                raise CacheError(f"{lock_file.parent} cannot be written; give another `cache_dir`") from error
            logger.warning("another process is extracting the same features; waiting for it to end")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def iter_features(self, **header: Any) -> Iterator[Features]:
        """Readable feature files, the newest first, then blocks, whose header has the values given.

        Unreadable ones are warned of, once.
        """
        for path in [*self.files(), *sorted(self.folder.glob("*.partial/[!.]*.h5"))]:
            with self._unreadable_warned_of(path):
                if header.items() <= read_header(path).items():
                    yield load_features(path)

    def reasons(self, decoded_by: str) -> dict[str, str]:
        """Reasons why pictures could not be read by that decoder, by content id."""
        reasons: dict[str, str] = {}
        for path in self.files():
            with self._unreadable_warned_of(path):
                if read_header(path).get("decoded_by") == decoded_by:
                    reasons |= read_reasons(path)
        return reasons

    @contextmanager
    def _unreadable_warned_of(self, path: Path) -> Iterator[None]:
        try:
            yield
        except CacheError as error:
            if path.exists() and path not in self._warned:  # else its extraction has just been finished and tidied up
                self._warned.add(path)
                logger.warning("%s", error)

    def find_rows(
        self, spec: Spec, damaged: Collection[Place] = (), keys: Collection[RowKey] | None = None
    ) -> dict[RowKey, Place]:
        """Newest place of each row made by ``spec``.

        Args:
            spec: everything that decides the features' values.
            damaged: places to pass over.
            keys: rows to look for; by default all.
        """
        places: dict[RowKey, Place] = {}
        for features in self.iter_features(spec=spec):
            for row, key in enumerate(features.row_keys()):
                if key not in places and (keys is None or key in keys):
                    place = Place(features.path, row, key)
                    if place not in damaged:
                        places[key] = place
            if keys is not None and len(places) == len(keys):
                break
        return places

    def read_memo(self, name: str) -> dict[str, Any]:
        """A JSON object kept beside the features, empty if it is missing or unreadable: it only saves work."""
        try:
            memo = json.loads((self.folder / name).read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return memo if isinstance(memo, dict) else {}

    def write_memo(self, name: str, memo: dict[str, Any]) -> None:
        """Replace a JSON object kept beside the features."""
        file = self.folder / name
        with writing(self.lock_file(file).parent), filelock.FileLock(self.lock_file(file)):
            self.remove_litter(file)
            write_whole(file, json.dumps(memo, indent=1).encode())

    def superseded(self) -> list[Path]:
        """Paths that can go without losing a row: blocks and files all of whose rows a (newer) finished file has."""
        newest: dict[tuple[str, str, str], set[RowKey]] = {}
        finished: dict[str, set[RowKey]] = {}
        superseded: list[Path] = []
        needed: set[Path] = set()
        for features in self.iter_features():  # finished files come first
            spec, keys = digest(features.spec), set(features.row_keys())
            if features.path.parent != self.folder:
                needed |= set() if keys <= finished.get(spec, set()) else {features.path.parent}
                continue
            group = (features.root, features.dataset, spec)
            if group in newest and keys <= newest[group]:
                superseded.append(features.path)
            newest.setdefault(group, keys)
            finished.setdefault(spec, set()).update(keys)
        return superseded + [partial for partial in sorted(self.folder.glob("*.partial")) if partial not in needed]

    def prune(self) -> Iterator[tuple[Path, int]]:
        """Remove what is superseded; gives each path with the bytes it freed. What is in use stays."""
        for path in self.superseded():
            try:
                with filelock.FileLock(self.lock_file(path), timeout=0):
                    yield path, remove(path)
            except filelock.Timeout:
                logger.warning("%s belongs to a running extraction and stays", path)


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # another process has just removed it
        return 0


def remove(path: Path) -> int:
    """Delete a feature file or a folder of blocks; returns the bytes freed."""
    size = size_on_disk(path)
    with writing(path.parent):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return size


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size
