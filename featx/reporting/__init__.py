"""Pages for people, each one self-contained HTML file: about a classifier, and about a data set's inspection."""

from __future__ import annotations

from pathlib import Path

from featx._internal.progress import Progress, silent
from featx.classifier import Classifier
from featx.reporting.findings import Findings as Findings
from featx.reporting.inspection_page import write_inspection as write_inspection
from featx.reporting.report_page import write_report as write_report
from featx.reporting.templates import require_html as require_html


def report(
    classifier: Classifier | str | Path,
    out: str | Path,
    *,
    source: str | Path | None = None,
    cache_dir: str | Path = "cache",
    weights: str | Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a page about a classifier: how good it is, where it errs, and what it was made of.

    The page needs no other file and asks for none. Rows are measured as by :meth:`Classifier.evaluate`: test rows, else
    rows that the classifier was not trained on.

    Args:
        classifier: a classifier, or the folder of a saved one.
        out: file to write, ``.html``; one that exists is replaced.
        source: feature file or data set to measure on; by default the features that the classifier was fitted on.
        cache_dir: folder of the feature files, if ``source`` is a data set.
        weights: where the trunk's weights are now, if they have moved; for a classifier given by its folder.
        progress: called with the stage, how much of it is done, and of how much.

    Returns:
        Path of the file written.

    Raises:
        SettingError: ``out`` is not named ``.html``.
        ModelError: the folder is no classifier.
        CacheError: the features that it was fitted on are gone.
        SpecMismatchError: features of another spec than the classifier's.
        TrainingError: no labelled rows to measure on.

    Example:
        >>> import featx
        >>> features = featx.extract("photos", backbone="pixels", size=16).features_path
        >>> page = featx.report(featx.fit(features, "logreg"), "photos.html")
        >>> page.name, "Confusion matrix" in page.read_text()
        ('photos.html', True)
    """
    out = Path(out)
    require_html(out, "a report")
    folder = None if isinstance(classifier, Classifier) else Path(classifier)
    classifier = Classifier.of(classifier, weights)
    features = classifier.features_of(source, cache_dir=cache_dir, progress=progress)
    write_report(classifier, features, out, folder, progress or silent)
    return out
