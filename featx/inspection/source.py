"""Source of an inspection: a data set, with its newest feature file, or a feature file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from featx.cache import CacheFolder, Features, load_features
from featx.errors import CacheError
from featx.pictures import Listing, Picture


def feature_file(source: str | Path | Features) -> Features | None:
    """Feature file that ``source`` is or names; None if it is a data set.

    Raises:
        CacheError: its rows cannot be compared.
    """
    if not isinstance(source, Features) and Path(source).suffix != ".h5":
        return None
    features = load_features(source)
    if features.dtype.kind != "f":
        raise CacheError(f"{features.path} holds pixels, not features; name one that a network made, or the data set")
    if not all(features.paths):
        raise CacheError(f"{features.path} is a block of an unfinished extraction; run `featx extract` again")
    return features


def root_of(source: str | Path | Features) -> Path:
    """Folder that the pictures' paths are relative to, as far as can be said without listing them."""
    features = feature_file(source)
    if features is not None:
        return Path(features.root)
    path = Path(source)  # type: ignore[arg-type]
    return path if path.is_dir() else path.parent


def listing_of(features: Features) -> Listing:
    """Data set as it was extracted; what was in the quarantine stays there."""
    rows = np.flatnonzero(features.pictures)
    names = [*features.class_names, None]  # the last for -1, which means unlabelled
    pictures = [
        Picture(str(path), names[label], str(split))
        for path, label, split in zip(features.paths[rows], features.y[rows], features.splits[rows], strict=True)
    ]
    pictures += [Picture(path) for path, _ in features.quarantine]
    ordered = tuple(sorted(pictures, key=lambda p: p.path))
    return Listing(Path(features.root), features.dataset, ordered, misplaced=dict(features.quarantine))


def newest_features(listing: Listing, store: CacheFolder) -> Features | None:
    """Newest feature file of the data set's folder; one of the same name before one of another label file."""
    newest = None
    for features in store.iter_features(root=str(listing.root.resolve())):
        if features.path.parent == store.folder and features.dtype.kind == "f":
            newest = features if newest is None else newest
            if features.dataset == listing.name:
                return features
    return newest
