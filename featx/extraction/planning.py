"""The plan of an extraction: the files it would compute, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

from featx._internal.progress import Progress, silent
from featx.cache import CacheFolder
from featx.extraction.assembly import damaged_places
from featx.extraction.manifest import manifest_of
from featx.extraction.recipe import Recipe, RecipeFields
from featx.pictures import Views, checked


@dataclass(frozen=True)
class OtherSpec:
    """A feature file of the same data set whose rows are of no use.

    Attributes:
        features_path: the file.
        differences: fields in which its spec, or the settings of its views, differ.
    """

    features_path: str
    differences: list[str]


@dataclass(frozen=True)
class ExtractionPlan:
    """Account of what an extraction would compute, and why.

    Attributes:
        features_path: the file that it would write.
        views: views of each training picture.
        would_compute: rows, at most: whether a new picture can be read shows only then.
        would_reuse: rows that are in the cache folder.
        new: paths of which a view is to be computed.
        other_specs: feature files of this data set made by another spec, or with views made by other settings.

    Example:
        >>> import featx
        >>> planned = featx.plan("photos", backbone="pixels", size=16)
        >>> planned.would_compute, planned.would_reuse
        (24, 0)
    """

    features_path: str
    views: int
    would_compute: int
    would_reuse: int
    new: list[str] = field(repr=False)
    other_specs: list[OtherSpec] = field(repr=False)


def plan(
    dataset: str | Path,
    *,
    recipe: Recipe | None = None,
    cache_dir: str | Path = "cache",
    views: Views | None = None,
    progress: Progress | None = None,
    **fields: Unpack[RecipeFields],
) -> ExtractionPlan:
    """Plan of the next :func:`extract` of the same arguments: the files it would compute, and why.

    Args:
        dataset: a folder (``CLASS/*``, ``train/CLASS/*`` ..., or flat) or a label file.
        recipe: recipe of the features; by default the last maps of VGG16.
        cache_dir: the cache folder.
        views: views of each training picture.
        progress: called with the stage, how much of it is done, and of how much.
        **fields: fields of :class:`Recipe`, such as ``backbone="vgg16"``; they replace those of ``recipe``.

    Raises:
        SettingError: a setting out of its range, or an unknown one. DatasetError: nothing to extract.
        BackboneError, WeightsError: no such trunk.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> import featx
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (40, 30), "gray").save(folder / "1.png")
        >>> planned = featx.plan(folder, cache_dir=folder / "cache", backbone="pixels", size=8)
        >>> planned.would_compute, planned.would_reuse, planned.new
        (1, 0, ['1.png'])
    """
    recipe = Recipe.of(recipe, fields, plan)
    store = CacheFolder(cache_dir)
    manifest = manifest_of(dataset, recipe, checked(views), store, progress or silent)
    missing = manifest.missing(store.find_rows(manifest.spec, damaged_places(manifest.file), manifest.keys()))
    would_compute = sum(map(len, missing.values()))
    others = [OtherSpec(str(f.path), manifest.differences(f)) for f in store.iter_features(root=manifest.root)]
    return ExtractionPlan(
        features_path=str(manifest.file),
        views=manifest.views.n,
        would_compute=would_compute,
        would_reuse=len(manifest.rows()) - would_compute,
        new=sorted(missing),
        other_specs=[other for other in others if other.differences],
    )
