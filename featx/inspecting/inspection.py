"""The inspection of a data set: what every picture shows by itself, by its content, and by its features."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featx.cache import CacheFolder, Features, load_features
from featx.census import Progress
from featx.errors import CacheError, DatasetError
from featx.images import Listing, Picture, list_dataset
from featx.inspecting.contents import Contents, on_one_side, rank
from featx.inspecting.likeness import (
    NEIGHBORS,
    OUTLYING,
    SIMILARITY,
    averaged,
    groups_of,
    modified_z,
    nearest,
    pairs_of,
)
from featx.inspecting.pictures import Seen, look_at, sizes_of
from featx.inspecting.result import Inspection, Outlier, Pair, Suspect, Unreadable
from featx.inspecting.suspects import confident, held_out_probabilities

if TYPE_CHECKING:
    from numpy.typing import NDArray

MANY_NEAR = 1 / 3  # of the pictures with a near-duplicate: more than most data sets have


def inspect(
    source: str | Path | Features,
    *,
    cache_dir: str | Path = "cache",
    similarity: float = SIMILARITY,
    neighbors: int = NEIGHBORS,
    random_state: int = 0,
    progress: Progress | None = None,
) -> Inspection:
    """Look through a data set: counts, sizes, mean images, and what is wrong with it.

    Every picture is decoded once, since that alone shows which are damaged. Near-duplicates, leaks by them, outliers and
    label suspects need features: those of the newest feature file of the data set, matched by the pictures' content.
    Nothing is extracted, and nothing is changed. Features are compared by brute force: minutes for 100,000 pictures,
    hours for a million, and twice ``4 * pictures * channels`` bytes.

    A ``similarity`` of 0.9 was chosen with MobileNetV2 at 224 pixels on flowers, ants and bees, cats and dogs (2,097
    pictures, and 60 of each set altered). It finds 98 % of copies saved again with JPEG quality 60 (80: all), 97 % of
    copies at 0.7 of their size, 99 % of copies with 5 % cut off (10 %: 93 %). Of the pictures as they are, 5 pairs reach
    it, all of flowers, four of which are shots of one series; the next pairs have 0.894. Other networks have other
    cosines: look at the pairs nearest to the limit, and set yours.

    Args:
        source: a folder or label file as for ``featx.extract``, or a feature file, whose pictures may be gone.
        cache_dir: where the feature files are.
        similarity: cosine from which on two pictures are near-duplicates, above 0 and at most 1.
        neighbors: how many nearest pictures are compared: near-duplicates beyond these are found by their own
            neighbours only, and an outlier is far from so many.
        random_state: seed of the folds by which labels are judged.
        progress: called with what is going on, how much is done, and of how much.

    Raises:
        DatasetError: no such data set, or a setting out of its range. CacheError: no such feature file, or one whose
            rows are no features.
    """
    started = time.perf_counter()
    if not 0 < similarity <= 1:
        raise DatasetError(f"the similarity must be above 0 and at most 1, got {similarity:g}")
    if neighbors < 1:
        raise DatasetError(f"neighbors must be at least 1, got {neighbors}")
    progress = progress or _silent
    features = _given(source)
    listing = list_dataset(source) if features is None else _listed_in(features)  # type: ignore[arg-type]
    seen = look_at(listing, progress, forgiving=features is not None)
    features = features or _features_of(listing, CacheFolder(cache_dir))
    pictures = [p for p in listing.pictures if p.path not in seen.unreadable]
    known = dict(zip(features.paths, features.ids.tolist(), strict=True)) if features else {}
    contents = Contents(pictures, seen.ids | {path: known[path] for path in seen.gone})
    alike = _compare(contents, features, similarity, neighbors, random_state, progress)
    return Inspection(
        dataset=listing.name,
        root=str(listing.root.resolve()),
        listed=len(listing.pictures),
        gone=len(seen.gone),
        quarantined=[Unreadable(_printable(path), reason) for path, reason in sorted(seen.unreadable.items())],
        ignored=len(listing.ignored),
        empty_classes=[_printable(name) for name in listing.empty_classes],
        features=str(features.path) if features else None,
        backbone=str(features.spec.get("backbone")) if features else None,
        similarity=similarity,
        neighbors=neighbors,
        duplicates=contents.duplicates(),
        leaks=contents.leaks() + [pair for pair in alike.pairs if not on_one_side(pair.first, pair.second)],
        near_duplicates=alike.pairs,
        compared=alike.compared,
        outliers=alike.outliers,
        suspects=alike.suspects,
        thresholds=alike.thresholds,
        notes=alike.notes,
        **_counted(pictures),
        **_shown(listing, seen, pictures),
        seconds=time.perf_counter() - started,
    )


# ------------------------------------------------------------------------------------------------- where things come from


def _given(source: str | Path | Features) -> Features | None:
    """The feature file, if one was given.

    Raises:
        CacheError: its rows cannot be compared.
    """
    if not isinstance(source, Features) and Path(source).suffix != ".h5":
        return None
    features = source if isinstance(source, Features) else load_features(source)
    if features.dtype.kind != "f":
        raise CacheError(f"{features.path} holds pixels, not features; name one that a network made, or the data set")
    if not all(features.paths):
        raise CacheError(f"{features.path} is a block of an unfinished extraction; run `featx extract` again")
    return features


def _listed_in(features: Features) -> Listing:
    """The data set as it was extracted; what was in the quarantine stays there."""
    rows, names = np.flatnonzero(features.views == 0), [*features.class_names, None]
    pictures = [
        Picture(str(path), names[label], str(split))
        for path, label, split in zip(features.paths[rows], features.y[rows], features.splits[rows], strict=True)
    ]
    pictures += [Picture(path) for path, _ in features.quarantine]
    ordered = tuple(sorted(pictures, key=lambda p: p.path))
    return Listing(Path(features.root), features.dataset, ordered, misplaced=dict(features.quarantine))


def _features_of(listing: Listing, store: CacheFolder) -> Features | None:
    """The newest feature file of the data set's folder; one of the same name before one of another label file."""
    first = None
    for features in store.features(root=str(listing.root.resolve())):
        if features.path.parent == store.folder and features.dtype.kind == "f":
            first = first or features
            if features.dataset == listing.name:
                return features
    return first


# ------------------------------------------------------------------------------------------------------- by themselves


def _counted(pictures: list[Picture]) -> dict[str, Any]:
    counts: dict[str, Counter[str]] = {}
    unlabelled: Counter[str] = Counter()
    for picture in pictures:
        by_split = unlabelled if picture.label is None else counts.setdefault(picture.label, Counter())
        by_split[picture.split or "none"] += 1
    totals = [by_split.total() for by_split in counts.values()]
    return {
        "counts": {name: dict(counts[name]) for name in _in_order(counts)},
        "unlabelled": dict(unlabelled),
        "imbalance": max(totals) / min(totals) if totals else None,
    }


def _in_order(names: Iterable[str]) -> list[str]:
    """Class names as a listing orders them."""
    return Listing(Path(), "", tuple(Picture("", name) for name in names)).class_names


def _shown(listing: Listing, seen: Seen, pictures: list[Picture]) -> dict[str, Any]:
    return {
        "readable": len(seen.ids),
        "formats": dict(seen.formats.most_common()),
        "sizes": sizes_of(list(seen.ids), seen.measured),
        "mean_image": {name: seen.mean_image(name) for name in listing.class_names if name in seen.sums},
        "mean_image_of_all": seen.mean_image(None),
        "pictures": [p for p in pictures if p.path in seen.ids],
    }


# --------------------------------------------------------------------------------------------------------- by features


@dataclass
class _Alike:
    compared: int = 0
    pairs: list[Pair] = field(default_factory=list)
    outliers: list[Outlier] = field(default_factory=list)
    suspects: list[Suspect] = field(default_factory=list)
    thresholds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _compare(
    contents: Contents,
    features: Features | None,
    similarity: float,
    neighbors: int,
    random_state: int,
    progress: Progress,
) -> _Alike:
    """All that features tell. Copies of a file are compared as one picture."""
    if features is None:
        why = (
            "no features of this data set were found, so near-duplicates, outliers and wrong labels were not looked for"
        )
        return _Alike(notes=[f"{why}; run `featx extract` on it first"])
    itself = np.flatnonzero(features.views == 0)
    row_of = dict(zip(features.ids[itself].tolist(), itself.tolist(), strict=True))
    found = [(row_of[content], copies) for content, copies in zip(contents.ids, contents.copies, strict=True)
             if content in row_of]  # fmt: skip
    copies = [pictures for _, pictures in found]
    alike = _Alike(compared=sum(map(len, copies)))
    missing = sum(map(len, contents.copies)) - alike.compared
    if missing:
        alike.notes.append(f"{missing} pictures have no features in {features.path}; extract again to compare them")
    if len(copies) < 2:
        alike.notes.append("there are no two different pictures with features to compare")
        return alike
    X = averaged(features, np.array([row for row, _ in found]))
    cosines, numbers = nearest(X, neighbors, progress)
    pairs, cosine = pairs_of(cosines, numbers, similarity)
    keepers = [pictures[0] for pictures in copies]
    for (one, other), value in zip(pairs.tolist(), cosine.tolist(), strict=True):
        first, second = sorted((keepers[one], keepers[other]), key=rank)
        alike.pairs.append(Pair(first, second, value, exact=False))
    alike.outliers = _outliers(keepers, cosines, numbers)
    if len(np.unique(pairs)) > MANY_NEAR * len(keepers):
        alike.notes.append(
            f"{len(np.unique(pairs))} of {len(keepers)} pictures have a near-duplicate: look at some, and if they are "
            f"not alike, give a higher similarity than {similarity:g}; networks differ in it"
        )
    _judge(alike, X, copies, groups_of(len(copies), pairs), random_state, progress)
    return alike


def _outliers(keepers: list[Picture], cosines: NDArray[np.float64], numbers: NDArray[np.int64]) -> list[Outlier]:
    distances = 1 - cosines.mean(axis=1)
    scores = modified_z(distances)
    far = np.flatnonzero(scores > OUTLYING)
    return [
        Outlier(
            path=keepers[row].path,
            label=keepers[row].label,
            split=keepers[row].split,
            distance=float(distances[row]),
            score=float(scores[row]),
            nearest=keepers[numbers[row, 0]].path,
        )
        for row in far[np.argsort(-scores[far], kind="stable")].tolist()
    ]


def _judge(
    alike: _Alike,
    X: NDArray[np.float32],
    copies: list[list[Picture]],
    groups: NDArray[np.int64],
    random_state: int,
    progress: Progress,
) -> None:
    """Find label suspects. Near-duplicates stay in one fold, else a copy with the same wrong label would vouch for it."""
    at = {label for pictures in copies for label in (p.label for p in pictures) if label is not None}
    groups_with: dict[str, set[int]] = {label: set() for label in at}
    for pictures, group in zip(copies, groups.tolist(), strict=True):
        for label in (p.label for p in pictures if p.label is not None):
            groups_with[label].add(group)
    names = _in_order(label for label, with_it in groups_with.items() if len(with_it) > 1)
    small = _in_order(set(groups_with) - set(names))
    if small:
        alike.notes.append(
            f"labels of {len(small)} classes cannot be judged, since none has two different pictures: "
            + ", ".join(small[:5])
        )
    if len(names) < 2:
        alike.notes.append("wrong labels were not looked for: that takes two classes of two different pictures each")
        return
    number = {name: n for n, name in enumerate(names)}
    rows = [(place, p) for place, pictures in enumerate(copies) for p in pictures if p.label in number]
    place, y = np.array([place for place, _ in rows]), np.array([number[str(p.label)] for _, p in rows], np.int32)
    found, judged = held_out_probabilities(X, place, y, groups[place], random_state, progress)
    pictures, found, y = [rows[row][1] for row in np.flatnonzero(judged)], found[judged], y[judged]
    thresholds, likely = confident(found, y)
    alike.thresholds = {name: float(thresholds[n]) for name, n in number.items() if np.isfinite(thresholds[n])}
    alike.suspects = [
        Suspect(
            path=pictures[row].path,
            label=names[y[row]],
            split=pictures[row].split,
            suggested=names[likely[row]],
            probability=float(found[row, y[row]]),
            suggested_probability=float(found[row, likely[row]]),
            margin=float(found[row, y[row]] - found[row, likely[row]]),
        )
        for row in np.flatnonzero(likely != y).tolist()
    ]
    alike.suspects.sort(key=lambda suspect: (suspect.margin, suspect.path))


def _printable(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _silent(stage: str, done: int, total: int) -> None:
    """No progress shown."""
