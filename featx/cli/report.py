"""The command that writes pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featx.cli.commands import CacheDir, Model, Weights, app, percent
from featx.cli.terminal import Report, command, progress


@command(app, "featx report models/photos-logreg --out photos.html")
def report(
    model: Model,
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[FEATURES|DATASET]", help="What to measure on. Default: what it was fitted on."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write. Default: report.html in MODEL.")] = None,
    weights: Weights = None,
    cache_dir: CacheDir = Path("cache"),
) -> Report:
    """Write a page about a classifier: how good it is, where it errs, what it was made of.

    One HTML file with all its pictures, which asks for no other and runs without a network.
    """
    from featx.reporting import written

    path, found = written(
        model, out or model / "report.html", source=source, cache_dir=cache_dir, weights=weights, progress=progress
    )
    e, (name, share) = found.evaluation, found.majority
    fields = {"report": str(path), "bytes": path.stat().st_size, "accuracy": e.accuracy, "ci95": e.ci95}
    fields |= {"majority_accuracy": share, "rows": e.rows, "split": e.split, "quarantined": e.quarantined}
    fields |= {"calibration_error": e.calibration_error, "mistakes": sum(not row.right for row in found.rows)}
    low, high = e.ci95
    return Report(
        fields,
        f"accuracy {percent(e.accuracy)} (95 % interval {percent(low)} to {percent(high)}) on {e.rows} {e.split} rows; "
        f"always saying {name} would get {percent(share)}\n{path}",
    )
