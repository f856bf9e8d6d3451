"""The finished feature file: whether it is what a manifest says, and how it is put together from rows anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from featx.cache import Features, Place, RowKey, gather, load_features, write_features
from featx.errors import CacheError, ExtractionError
from featx.extraction.manifest import Manifest
from featx.pictures import printable

VERIFY_BYTES = 2**30  # of a finished file that a run with nothing to do looks through


def up_to_date(manifest: Manifest, warn: Callable[[str], None]) -> Features | None:
    """The feature file of a manifest, if it is there, whole, and up to date; ``warn`` gets what is wrong with it."""
    if not manifest.file.exists():
        return None
    try:
        features = load_features(manifest.file)
    except CacheError as error:
        warn(str(error))
        return None
    if not _is_up_to_date(features, manifest):
        return None
    damaged = features.damaged_rows(VERIFY_BYTES)
    if damaged:
        warn(f"{manifest.file}: {len(damaged)} rows are damaged and will be replaced")
    return None if damaged else features


def _is_up_to_date(features: Features, manifest: Manifest) -> bool:
    if any(path in manifest.census.ids for path, content_id in features.unread() if not content_id):
        return False  # a file that could not be read then can be now
    if features.quarantine and features.decoded_by != manifest.recipe.decoded_by:
        return False  # another decoder or limit may read what that one could not
    # Where pictures or weights have moved, the file has to say where they are now
    return features.root == manifest.root and manifest.recipe.files.items() <= features.recipe.items()


def damaged_places(file: Path) -> set[Place]:
    """Places in a finished file that hold damaged rows, as far as a run with nothing to do would see."""
    try:
        return {Place(file, row) for row in load_features(file).damaged_rows(VERIFY_BYTES)}
    except CacheError:  # no such file, or none of its rows can be had
        return set()


def assemble(manifest: Manifest, places: dict[RowKey, Place]) -> Features:
    """Put the feature file together from rows that lie in other files and in blocks.

    Raises:
        MissingRowsError: rows are damaged or gone since they were looked up. ExtractionError: no row at all.
    """
    rows = manifest.rows()
    if not rows:
        path, reason = next(iter(manifest.unreadable.items()))
        count = len(manifest.listing.pictures)
        raise ExtractionError(f"none of the {count} pictures could be read; the first, {path}: {reason}")
    listing = manifest.listing
    ids = manifest.census.ids
    numbers = {name: number for number, name in enumerate(listing.class_names)}
    feature_shape = manifest.trunk.feature_shape
    row_places = [places[manifest.key(picture.path, view)] for picture, view in rows]
    write_features(
        manifest.file,
        gather(row_places, feature_shape, manifest.recipe.dtype),
        (len(rows), *feature_shape),
        spec=manifest.spec,
        tables={
            "ids": [ids[picture.path] for picture, _ in rows],
            "views": [view for _, view in rows],
            "labels": [-1 if picture.label is None else numbers[picture.label] for picture, _ in rows],
            "paths": [picture.path for picture, _ in rows],
            "splits": [picture.split for picture, _ in rows],
            "quarantine": _quarantine_rows(manifest),
            "stat": manifest.census.stat_rows(sorted(ids)),
        },
        attributes={
            "class_names": listing.class_names,
            "dataset": listing.name,
            "root": manifest.root,
            "recipe": asdict(manifest.recipe.without_engine()),
            "decoded_by": manifest.recipe.decoded_by,
            "augmentation": manifest.views.settings,
        },
    )
    return load_features(manifest.file)


def _quarantine_rows(manifest: Manifest) -> list[tuple[str, str, str]]:
    """Path, content id and reason of the pictures without a row; no id where another run should try again."""
    ids = {path: content_id for path, content_id in manifest.census.ids.items() if path not in manifest.momentary}
    return [(printable(path), ids.get(path, ""), reason) for path, reason in sorted(manifest.unreadable.items())]
