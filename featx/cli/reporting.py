"""The command that writes a page about a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from featx._internal.text import percent
from featx.cli.options import CACHE, CacheDir, Model, Source, Weights
from featx.cli.places import where_else
from featx.cli.program import OUTPUT, USE, app, command, option
from featx.cli.terminal import Report, progress

if TYPE_CHECKING:
    from featx.reporting import Findings


@command(app, "featx report models/photos-logreg --out photos.html", USE)
def report(
    model: Model,
    source: Source = None,
    weights: Weights = None,
    cache_dir: CacheDir = CACHE,
    out: Annotated[Path | None, option(OUTPUT, "The file to write. Default: report.html in MODEL.")] = None,
) -> Report:
    """Write a page about a classifier: how good it is, where it errs, what it was made of.

    One HTML file with all its pictures, which asks for no other and runs without a network.
    """
    from featx.reporting import written

    path, findings = written(
        model, out or model / "report.html", source=source, cache_dir=cache_dir, weights=weights, progress=progress
    )
    next_command = ("doctor", model, *where_else(source, cache_dir, weights))
    return Report(_fields(path, findings), f"{_headline(findings)}\n{path}", next=next_command)


def _fields(path: Path, findings: Findings) -> dict[str, Any]:
    measured = findings.evaluation
    return {
        "report": str(path),
        "bytes": path.stat().st_size,
        "accuracy": measured.accuracy,
        "ci95": measured.ci95,
        "majority_accuracy": findings.majority[1],
        "rows": measured.rows,
        "split": measured.split,
        "quarantined": measured.quarantined,
        "calibration_error": measured.calibration_error,
        "mistakes": sum(not row.right for row in findings.rows),
    }


def _headline(findings: Findings) -> str:
    measured, (name, share) = findings.evaluation, findings.majority
    low, high = measured.ci95
    return (
        f"accuracy {percent(measured.accuracy)} (95 % interval {percent(low)} to {percent(high)}) on {measured.rows} "
        f"{measured.split} rows; always saying {name} would get {percent(share)}"
    )
