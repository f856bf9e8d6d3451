"""`featx cache`: look at feature files, verify them, explain what would be computed, tidy up."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli.commands import CacheDir, recipe_options
from featx.cli.terminal import Report, columns, command, progress

app = typer.Typer(
    help="Look at feature files, verify them, tidy up.", no_args_is_help=True, epilog="Example: featx cache ls"
)

FeatureFile = Annotated[Path, typer.Argument(metavar="FEATURES", help="A feature file.")]


@command(app, "featx cache ls")
def ls(cache_dir: CacheDir = Path("cache")) -> Report:
    """List the feature files of the cache folder, the newest first."""
    from featx.cache import CacheFolder, size_on_disk

    files = [
        {"features": str(f.path), "dataset": f.dataset, "backbone": f.spec["backbone"], "layer": f.spec["layer"]}
        | {"shape": f.shape, "dtype": str(f.dtype), "quarantined": len(f.quarantine), "bytes": size_on_disk(f.path)}
        for f in CacheFolder(cache_dir).iter_features()
        if f.path.parent == cache_dir
    ]
    unfinished = [str(partial) for partial in sorted(cache_dir.glob("*.partial"))]
    rows = [
        [f["features"], f["backbone"], f["layer"], " x ".join(map(str, f["shape"])), f["dtype"], f["bytes"] / 1e6]
        for f in files
    ]
    header = ["features", "backbone", "layer", "shape", "dtype", "MB"]
    text = [columns(rows, header) if rows else f"no feature files in {cache_dir}"]
    text += [f"{partial} holds the blocks of an unfinished extraction" for partial in unfinished]
    return Report({"files": files, "unfinished": unfinished}, "\n".join(text))


@command(app, "featx cache show cache/photos-vgg16-0123456789abcdef.h5")
def show(features: FeatureFile) -> Report:
    """Show what a feature file holds: spec, classes, splits, and the quarantine."""
    from featx.cache import load_features

    found = load_features(features)
    names = [*found.class_names, "unlabelled"]
    pictures = found.pictures
    classes = Counter(names[label] for label in found.y[pictures].tolist())
    splits = Counter(found.splits[pictures].tolist())
    fields: dict[str, Any] = {
        "features": str(found.path),
        "dataset": found.dataset,
        "root": found.root,
        "shape": found.shape,
        "dtype": str(found.dtype),
        "spec": found.spec,
        "classes": dict(classes),
        "splits": {name or "none": count for name, count in splits.items()},
        "views": int(found.views.max(initial=0)) + 1,
        "augmentation": found.augmentation,
        "quarantined": [{"path": path, "reason": reason} for path, reason in found.quarantine],
        "featx_version": found.featx_version,
    }
    shown = {**fields, **{f"spec.{k}": v for k, v in found.spec.items()}}
    lines = [f"{k:16} {v}" for k, v in shown.items() if k not in ("spec", "quarantined")]
    lines += [f"quarantined      {path!r}: {reason}" for path, reason in found.quarantine]
    return Report(fields, "\n".join(lines))


@command(app, "featx cache verify")
def verify(
    features: Annotated[
        list[Path] | None, typer.Argument(metavar="[FEATURES...]", help="Default: all in the cache folder.")
    ] = None,
    cache_dir: CacheDir = Path("cache"),
) -> Report:
    """Read every row of feature files and compare it with its checksum. Exit code 1 if one is damaged."""
    from featx.cache import CacheFolder, load_features
    from featx.errors import CacheError

    files: list[dict[str, Any]] = []
    for number, path in enumerate(paths := features or CacheFolder(cache_dir).files()):
        progress("verifying", number, len(paths))
        try:
            opened = load_features(path)
            files.append(
                {"features": str(path), "rows": len(opened), "damaged": opened.damaged_rows(), "problem": None}
            )
        except CacheError as error:
            files.append({"features": str(path), "rows": 0, "damaged": [], "problem": str(error)})
    progress("verifying", len(paths), len(paths))
    lines = [
        f"{f['features']}: "
        + (f["problem"] or (f"damaged rows: {f['damaged']}" if f["damaged"] else f"{f['rows']} rows sound"))
        for f in files
    ]
    sound = not any(f["damaged"] or f["problem"] for f in files)
    text = "\n".join(lines) or f"no feature files in {cache_dir}"
    return Report({"files": files, "ok": sound}, text, failed=not sound)


@command(app, "featx cache explain photos/ --backbone vgg16 --size 160", options=recipe_options)
def explain(
    dataset: Annotated[Path, typer.Argument(help="A data set, as for `featx extract`.")],
    settings: dict[str, Any],
    cache_dir: CacheDir = Path("cache"),
) -> Report:
    """Say why the next `featx extract` of the same options would compute: which files, or which field of the spec."""
    from featx.extraction import plan

    planned = plan(dataset, cache_dir=cache_dir, progress=progress, **settings)
    what = "pictures" if planned.views == 1 else "views of pictures"
    lines = [f"would compute {planned.would_compute} {what} and reuse {planned.would_reuse}"]
    lines += [f"new: {path!r}" for path in planned.new[:10]]
    lines += [f"... and {len(planned.new) - 10} more"] if len(planned.new) > 10 else []
    lines += [f"{other.features_path} differs: {'; '.join(other.differences)}" for other in planned.other_specs]
    fields = asdict(planned)
    for described in (fields, *fields["other_specs"]):
        described["features"] = described.pop("features_path")
    return Report(fields, "\n".join(lines))


@command(app, "featx cache prune --dry-run")
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    cache_dir: CacheDir = Path("cache"),
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
