"""`featx cache`: look at feature files, verify them, explain what would be computed, tidy up."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featx.cli import completion
from featx.cli.options import (
    CACHE,
    CacheDir,
    Dataset,
    PoolingRule,
    extraction_options,
    network_options,
    view_options,
)
from featx.cli.program import RUN, command, option
from featx.cli.terminal import Report, by_shape, columns, progress

if TYPE_CHECKING:
    from featx.cache import Features
    from featx.extraction import ExtractionPlan

SHOWN = 10  # new files

app = typer.Typer(
    help="Look at feature files, verify them, tidy up.", no_args_is_help=True, epilog="Example: featx cache ls"
)

FeatureFile = Annotated[
    Path, typer.Argument(metavar="FEATURES", help="A feature file.", autocompletion=completion.features)
]


@command(app, "featx cache ls")
def ls(cache_dir: CacheDir = CACHE) -> Report:
    """List the feature files of the cache folder, the newest first."""
    from featx.cache import CacheFolder

    files = [
        _about(features) for features in CacheFolder(cache_dir).iter_features() if features.path.parent == cache_dir
    ]
    unfinished = [str(partial) for partial in sorted(cache_dir.glob("*.partial"))]
    text = [_table(files) if files else f"no feature files in {cache_dir}"]
    text += [f"{partial} holds the blocks of an unfinished extraction" for partial in unfinished]
    return Report({"files": files, "unfinished": unfinished}, "\n".join(text))


def _about(features: Features) -> dict[str, Any]:
    from featx.cache import size_on_disk

    return {
        "features": str(features.path),
        "dataset": features.dataset,
        "backbone": features.spec["backbone"],
        "layer": features.spec["layer"],
        "shape": features.shape,
        "dtype": str(features.dtype),
        "quarantined": len(features.quarantine),
        "bytes": size_on_disk(features.path),
    }


def _table(files: list[dict[str, Any]]) -> str:
    rows = [
        [f["features"], f["backbone"], f["layer"], by_shape(f["shape"]), f["dtype"], f["bytes"] / 1e6] for f in files
    ]
    return columns(rows, ["features", "backbone", "layer", "shape", "dtype", "MB"])


@command(app, "featx cache show cache/photos-vgg16-0123456789abcdef.h5")
def show(features: FeatureFile) -> Report:
    """Show what a feature file holds: spec, classes, splits, and the quarantine."""
    from featx.cache import load_features

    fields = _contents(load_features(features))
    return Report(fields, _lines(fields))


def _contents(features: Features) -> dict[str, Any]:
    names = [*features.class_names, "unlabelled"]
    pictures = features.pictures
    classes = Counter(names[label] for label in features.y[pictures].tolist())
    splits = Counter(features.splits[pictures].tolist())
    return {
        "features": str(features.path),
        "dataset": features.dataset,
        "root": features.root,
        "shape": features.shape,
        "dtype": str(features.dtype),
        "spec": features.spec,
        "classes": dict(classes),
        "splits": {name or "none": count for name, count in splits.items()},
        "views": int(features.views.max(initial=0)) + 1,
        "augmentation": features.augmentation,
        "quarantined": [{"path": path, "reason": reason} for path, reason in features.quarantine],
        "featx_version": features.featx_version,
    }


def _lines(contents: dict[str, Any]) -> str:
    shown = {**contents, **{f"spec.{name}": value for name, value in contents["spec"].items()}}
    lines = [f"{name:16} {value}" for name, value in shown.items() if name not in ("spec", "quarantined")]
    lines += [f"quarantined      {bad['path']!r}: {bad['reason']}" for bad in contents["quarantined"]]
    return "\n".join(lines)


@command(app, "featx cache verify")
def verify(
    features: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FEATURES", help="Default: all in the cache folder.", autocompletion=completion.features
        ),
    ] = None,
    cache_dir: CacheDir = CACHE,
) -> Report:
    """Read every row of feature files and compare it with its checksum. Exit code 1 if one is damaged."""
    from featx.cache import CacheFolder

    files = []
    for number, path in enumerate(paths := features or CacheFolder(cache_dir).files()):
        progress("verifying", number, len(paths))
        files.append(_verified(path))
    progress("verifying", len(paths), len(paths))
    sound = not any(file["damaged"] or file["problem"] for file in files)
    text = "\n".join(map(_state, files)) or f"no feature files in {cache_dir}"
    return Report({"files": files, "ok": sound}, text, failed=not sound)


def _verified(path: Path) -> dict[str, Any]:
    from featx.cache import load_features
    from featx.errors import CacheError

    try:
        features = load_features(path)
        damaged = features.damaged_rows()
    except CacheError as error:
        return {"features": str(path), "rows": 0, "damaged": [], "problem": str(error)}
    return {"features": str(path), "rows": len(features), "damaged": damaged, "problem": None}


def _state(file: dict[str, Any]) -> str:
    damaged = f"damaged rows: {file['damaged']}" if file["damaged"] else f"{file['rows']} rows sound"
    return f"{file['features']}: {file['problem'] or damaged}"


@command(
    app,
    "featx cache explain photos/ --backbone vgg16 --size 160",
    network=network_options,
    computing=extraction_options,
    views=view_options,
)
def explain(
    dataset: Dataset,
    network: dict[str, Any],
    computing: dict[str, Any],
    views: dict[str, Any],
    pooling: PoolingRule = "none",
    cache_dir: CacheDir = CACHE,
) -> Report:
    """Say why the next `featx extract` of the same options would compute: which files, or which field of the spec."""
    from featx.extraction import plan
    from featx.pictures import Views

    recipe = {**network, **computing, "pooling": pooling}
    planned = plan(dataset, views=Views(**views), cache_dir=cache_dir, progress=progress, **recipe)
    fields = asdict(planned)
    for described in (fields, *fields["other_specs"]):
        described["features"] = described.pop("features_path")
    return Report(fields, _reasons(planned))


def _reasons(planned: ExtractionPlan) -> str:
    what = "pictures" if planned.views == 1 else "views of pictures"
    lines = [f"would compute {planned.would_compute} {what} and reuse {planned.would_reuse}"]
    lines += [f"new: {path!r}" for path in planned.new[:SHOWN]]
    lines += [f"... and {len(planned.new) - SHOWN} more"] if len(planned.new) > SHOWN else []
    lines += [f"{other.features_path} differs: {'; '.join(other.differences)}" for other in planned.other_specs]
    return "\n".join(lines)


@command(app, "featx cache prune --dry-run")
def prune(
    dry_run: Annotated[bool, option(RUN, "Only say what would go.")] = False,
    cache_dir: CacheDir = CACHE,
) -> Report:
    """Remove what can go without losing a row of a finished file.

    That is: blocks and files all of whose rows a newer finished file of the same spec has.
    """
    from featx.cache import CacheFolder, size_on_disk

    folder = CacheFolder(cache_dir)
    sizes = {path: size_on_disk(path) for path in folder.superseded()} if dry_run else dict(folder.prune())
    verb, freed = "would remove" if dry_run else "removed", sum(sizes.values())
    text = "\n".join([*(f"{verb} {path}" for path in sizes), f"{verb} {freed / 1e6:.1f} MB in all"])
    text = text if sizes else "nothing to remove"
    return Report({"removed": [str(path) for path in sizes], "bytes": freed, "dry_run": dry_run}, text)
