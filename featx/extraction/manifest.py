"""The manifest: the rows that a feature file is to hold, each known by what its picture holds."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from featx._internal.progress import Progress
from featx.cache import CacheFolder, Features, Place, RowKey, Spec, row_key, settings_key, spec_difference
from featx.errors import FileReadError, PictureError
from featx.extraction.census import Census, take_census
from featx.extraction.identity import TrunkIdentity, identify
from featx.extraction.recipe import Recipe
from featx.pictures import Listing, Picture, Views, list_dataset

logger = logging.getLogger(__name__)


@dataclass
class Manifest:
    """Rows of a feature file: the pictures of a data set that can be read, and views of them.

    Attributes:
        listing: the data set.
        recipe: recipe of the features.
        views: views of each training picture.
        trunk: identity of the recipe's trunk.
        census: content ids of the files.
        file: the feature file.
        settings_key: settings of the views in a few characters.
        listing_seconds: time spent listing and hashing.
        unreadable: reason by path why pictures have no row; grows as that turns out.
        momentary: paths of those among them whose file could not be read this time: other runs will try again.
    """

    listing: Listing
    recipe: Recipe
    views: Views
    trunk: TrunkIdentity
    census: Census
    file: Path
    settings_key: str
    listing_seconds: float
    unreadable: dict[str, str]
    momentary: set[str] = field(default_factory=set)

    @property
    def root(self) -> str:
        """Absolute path of the data set."""
        return self.census.root

    @property
    def spec(self) -> Spec:
        """Everything that decides the features' values."""
        return self.trunk.spec

    def rows(self) -> list[tuple[Picture, int]]:
        """Picture and number of the view of each row, in the order of the file."""
        pictures = [p for p in self.listing.pictures if p.path not in self.unreadable]
        training = [p for p in pictures if _is_for_training(p)]
        return [(p, 0) for p in pictures] + [(p, view) for view in range(1, self.views.n) for p in training]

    def key(self, path: str, view: int) -> RowKey:
        """Key by which a row is known."""
        return row_key(self.census.ids[path], view, self.settings_key)

    def keys(self) -> dict[RowKey, str]:
        """Keys of the rows, each with the first file that it can be computed from."""
        keys: dict[RowKey, str] = {}
        for picture, view in self.rows():
            keys.setdefault(self.key(picture.path, view), picture.path)
        return keys

    def missing(self, places: dict[RowKey, Place]) -> dict[str, list[int]]:
        """Views to be computed by file, each content once: of the rows that are at none of the places."""
        missing: dict[str, list[int]] = {}
        for key, path in self.keys().items():
            if key not in places:
                missing.setdefault(path, []).append(key[1])
        return missing

    def quarantine(self, failures: dict[str, PictureError]) -> None:
        """Leave out pictures that could not be read, and all others of the same content."""
        # A file that could not be read this time says nothing of its content: its copies, and later runs, try again
        momentary = {path: str(e) for path, e in failures.items() if isinstance(e, FileReadError)}
        ids = self.census.ids
        reasons = {ids[path]: str(e) for path, e in failures.items() if path not in momentary}
        self.unreadable |= {path: reasons[content_id] for path, content_id in ids.items() if content_id in reasons}
        self.unreadable |= momentary
        self.momentary |= set(momentary)

    def differences(self, features: Features) -> list[str]:
        """Fields of the spec, or of the views' settings, in which a file differs; empty if its rows can be used."""
        settings = (features.augmentation, self.views.settings)
        return spec_difference(features.spec, self.spec) + (spec_difference(*settings) if all(settings) else [])


def manifest_of(dataset: str | Path, recipe: Recipe, views: Views, store: CacheFolder, progress: Progress) -> Manifest:
    """Manifest of a data set: lists it, identifies the recipe's trunk, and hashes the files that no run has hashed."""
    started = time.perf_counter()
    listing = _listed(dataset, views)
    listed = time.perf_counter()
    trunk = identify(recipe, store, progress)
    identified = time.perf_counter()
    census = take_census(listing, store, progress)
    hashed = time.perf_counter()
    reasons = store.reasons(recipe.decoded_by)  # of pictures that an earlier run with the same decoder could not read
    known_bad = {path: reasons[content_id] for path, content_id in census.ids.items() if content_id in reasons}
    rows = [[p.path, census.ids.get(p.path, ""), p.label, p.split] for p in listing.pictures]
    more_views = {"n": views.n, **views.settings} if views.settings else None
    return Manifest(
        listing=listing,
        recipe=recipe,
        views=views,
        trunk=trunk,
        census=census,
        file=store.file_for(listing.name, trunk.spec, rows, more_views),
        settings_key=settings_key(views.settings),
        listing_seconds=(listed - started) + (hashed - identified),
        unreadable=census.unreadable | known_bad,
    )


def _listed(dataset: str | Path, views: Views) -> Listing:
    """The pictures of a data set, with warnings of what a user may not expect."""
    listing = list_dataset(dataset)
    for folder in listing.empty_classes:
        logger.warning("%s/%s holds no pictures; there will be no such class", listing.root, folder)
    if views.n > 1 and not any(map(_is_for_training, listing.pictures)):
        logger.warning("%s has no labelled training pictures; no views are made", listing.root)
    return listing


def _is_for_training(picture: Picture) -> bool:
    """Whether a picture may have views besides itself."""
    return picture.label is not None and picture.split in ("train", "")
