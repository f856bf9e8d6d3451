"""One self-contained HTML page about a classifier: how good it is, where it errs, what it was made of."""

from __future__ import annotations

from pathlib import Path

from featx._internal.files import write_whole
from featx._internal.progress import Progress
from featx.classifier import Classifier
from featx.errors import SettingError
from featx.reporting.findings import Findings as Findings
from featx.reporting.findings import find as find
from featx.reporting.inspection import write_page as write_page
from featx.reporting.page import rendered


def report(
    classifier: Classifier | str | Path,
    out: str | Path,
    *,
    source: str | Path | None = None,
    cache_dir: str | Path = "cache",
    weights: str | Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a page about a classifier, which needs no other file and asks for none.

    Args:
        classifier: a classifier, or the folder of a saved one.
        out: the file to write, ``.html``; one that is there is replaced.
        source: a feature file or a data set to measure on; by default what the classifier was fitted on.
        cache_dir: where feature files are kept.
        weights: where the trunk's weights are now, if they have moved; for a classifier given by its folder.
        progress: called with what is going on, how much is done, and of how much.

    Returns:
        the file written.

    Raises:
        SettingError: ``out`` is not named ``.html``.
        ModelError: the folder is no classifier.
        TrainingError: there are no labelled rows to measure on.
    """
    path, _ = written(classifier, out, source=source, cache_dir=cache_dir, weights=weights, progress=progress)
    return path


def written(
    classifier: Classifier | str | Path,
    out: str | Path,
    *,
    source: str | Path | None = None,
    cache_dir: str | Path = "cache",
    weights: str | Path | None = None,
    progress: Progress | None = None,
) -> tuple[Path, Findings]:
    """:func:`report`, which also gives what was found."""
    out = Path(out)
    if out.suffix.lower() != ".html":  # beside a classifier, other files could carry code, and it would be refused
        raise SettingError(f"{out}: a report is a page; give an `out` that ends in .html", "out")
    folder = None if isinstance(classifier, Classifier) else Path(classifier)
    classifier = Classifier.of(classifier, weights)
    features = classifier.features_of(source, cache_dir=cache_dir, progress=progress)
    findings = find(classifier, features, folder, progress)
    page = rendered(findings, classifier, features, progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page.encode("utf-8", "backslashreplace"))
    return out, findings
