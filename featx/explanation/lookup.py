"""Pictures to explain and their features: from a feature file where it has them, else by the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featx._internal.hashing import content_id
from featx._internal.parallel import in_threads
from featx.cache import Features, load_features, require_same_spec
from featx.classifier import Classifier
from featx.errors import CacheError, PictureError, SettingError, SpecMismatchError
from featx.pictures import list_files, read_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 64  # pictures whose features are in memory at once


@dataclass(frozen=True)
class Target:
    """Picture to explain.

    Attributes:
        path: file of the picture.
        row: row of its features in the feature file; None if it has none.
    """

    path: str
    row: int | None = None


@dataclass
class Lookup:
    """Pictures to explain, and the feature file in which they were looked up.

    Attributes:
        features: the feature file; None if there is none.
        targets: pictures in the order in which they were named.
        unreadable: reason by path, of pictures that cannot be read.
    """

    features: Features | None
    targets: list[Target] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureBlock:
    """Features of a few pictures.

    Attributes:
        paths: files of the pictures.
        stored: ``(n, h, w, c)``, in the dtype of the cache.
        true_labels: label of each picture in the feature file's data set; None where there is none.
        cached: whether the features came from the feature file.
    """

    paths: list[str]
    stored: NDArray[Any]
    true_labels: list[str | None]
    cached: bool


def look_up(classifier: Classifier, paths: list[Path]) -> Lookup:
    """Pictures of one feature file, or pictures by their paths, looked up in the file that the head was fitted on.

    Raises:
        SettingError: a feature file among other paths.
        SpecMismatchError: a feature file of another spec than the classifier's.
    """
    if any(path.suffix == ".h5" for path in paths):
        if len(paths) > 1:
            raise SettingError("`paths` takes one feature file, or pictures and folders; not both", "paths")
        return _in_feature_file(classifier, paths[0])
    lookup = Lookup(_fitted_features(classifier))
    ids = [] if lookup.features is None else lookup.features.ids.tolist()
    rows = {id: row for row, id in reversed(list(enumerate(ids)))}  # the first of several rows is the picture itself
    files = list(dict.fromkeys(str(path) for path in list_files(paths)))
    for path, content in in_threads(files, lambda path: content_id(read_file(path))):
        if isinstance(content, PictureError):
            lookup.unreadable[path] = str(content)
        else:
            lookup.targets.append(Target(path, rows.get(content)))
    return lookup


def _in_feature_file(classifier: Classifier, path: Path) -> Lookup:
    features = load_features(path)
    require_same_spec(features.spec, classifier.spec, path)
    root = Path(features.root)
    rows = np.flatnonzero(features.pictures).tolist()
    return Lookup(features, [Target(str(root / features.paths[row]), row) for row in rows])


def _fitted_features(classifier: Classifier) -> Features | None:
    """Feature file that the classifier was fitted on; None if it is gone or of another spec by now."""
    try:
        features = load_features(classifier.fitting.features_path)
        require_same_spec(features.spec, classifier.spec, features.path)
    except (CacheError, SpecMismatchError):
        return None
    return features


def feature_blocks(classifier: Classifier, lookup: Lookup) -> Iterator[FeatureBlock]:
    """Features of all pictures, block by block: cached ones first, then the others, by the network.

    Pictures that turn out to be unreadable are added to ``lookup.unreadable``.
    """
    if lookup.features is not None:
        yield from _cached_blocks(lookup.features, lookup.targets)
    new = [target.path for target in lookup.targets if target.row is None]
    if new:
        failures: dict[str, PictureError] = {}
        for paths, stored in classifier.live_features(new, failures):
            yield FeatureBlock(list(paths), stored, [None] * len(paths), cached=False)
        lookup.unreadable |= {path: str(error) for path, error in failures.items()}


def _cached_blocks(features: Features, targets: list[Target]) -> Iterator[FeatureBlock]:
    names = [*features.class_names, None]  # the last for -1, which means unlabelled
    cached = [(target.path, target.row) for target in targets if target.row is not None]
    for start in range(0, len(cached), BLOCK):
        paths, rows = zip(*cached[start : start + BLOCK], strict=True)
        labels = features.y[list(rows)].tolist()
        yield FeatureBlock(list(paths), features.stored(list(rows)), [names[label] for label in labels], cached=True)
