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
    from featx.classifier import Classifier
    from featx.reporting import require_html, write_report

    out = out or model / "report.html"
    require_html(out, "a report")
    classifier = Classifier.load(model, weights)
    features = classifier.features_of(source, cache_dir=cache_dir, progress=progress)
    findings = write_report(classifier, features, out, model, progress)
    next_command = ("doctor", model, *where_else(source, cache_dir, weights))
    return Report(_fields(out, findings), f"{_headline(findings)}\n{out}", next=next_command)


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
        "mistakes": sum(not picture.right for picture in findings.pictures),
    }


def _headline(findings: Findings) -> str:
    measured = findings.evaluation
    name, share = findings.majority
    low, high = measured.ci95
    return (
        f"accuracy {percent(measured.accuracy)} (95 % interval {percent(low)} to {percent(high)}) on {measured.rows} "
        f"{measured.split} rows; always saying {name} would get {percent(share)}"
    )
