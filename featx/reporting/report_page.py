"""The page about a classifier: findings and pictures, put into the template."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from featx._internal.progress import Progress, silent
from featx.cache import Features
from featx.classifier import Classifier
from featx.reporting import drawing
from featx.reporting.card import card_of, headline
from featx.reporting.embedding import Plot
from featx.reporting.findings import PAIRS_SHOWN, ClassFigures, Confusion, Findings, MeasuredPicture, findings_of
from featx.reporting.learning import histories_of
from featx.reporting.templates import environment, escape_invisible, write_html
from featx.reporting.thumbnails import SMALL, Shown, Thumbnail, thumbnails_of

MATRIX_OPEN = 20  # classes up to which the matrix is shown at once
MATRIX_MOST = 100  # classes up to which it can be opened
CELL_PICTURES = 6
PAIR_PICTURES = 8
CLASSES_SHOWN = 30  # with pictures; of more, those that did worst
MISTAKES_LISTED = 200

NOT_READ = Thumbnail(problem="not read")

Figures: TypeAlias = list[tuple[MeasuredPicture, Thumbnail]]


def write_report(
    classifier: Classifier, features: Features, out: Path, folder: Path | None = None, progress: Progress = silent
) -> Findings:
    """Measure a classifier, and write the page about it.

    Args:
        classifier: the classifier.
        features: feature file to measure on.
        out: file to write.
        folder: folder of the classifier, if it was loaded from one; it is named in the commands that make it again.
        progress: called with the stage, how much of it is done, and of how much.

    Returns:
        the findings that the page shows.
    """
    findings = findings_of(classifier, features, folder, progress)
    thumbnails = thumbnails_of(classifier, features, shown_pictures(findings), progress)
    write_html(out, page_of(findings, thumbnails))
    return findings


def shown_pictures(findings: Findings) -> Shown:
    """Rows whose pictures the page shows."""
    pictures = findings.pictures
    large = {position for pair in findings.pairs[:PAIRS_SHOWN] for position in pair.positions[:PAIR_PICTURES]}
    explained = {pictures[position].row: pictures[position].predicted for position in large}
    for number in _illustrated(findings):
        large |= {*findings.classes[number].best, *findings.classes[number].worst}
    return Shown(
        small={pictures[position].row for position in _pointed_at(findings)},
        large={pictures[position].row for position in large},
        explained=explained,
    )


def page_of(findings: Findings, thumbnails: dict[int, Thumbnail]) -> str:
    """Page as HTML.

    Args:
        findings: all that the page says.
        thumbnails: pictures by row of the feature file; any may be missing.
    """
    evaluation = findings.evaluation
    names = evaluation.class_names
    mistakes = [picture for picture in findings.pictures if not picture.right]
    pointed_at = _pointed_at(findings)
    shots = findings.learning.shots
    histories = histories_of(findings.learning.history)
    return environment().get_template("report.html.j2").render(
        f=findings,
        e=evaluation,
        names=names,
        lines=headline(findings),
        card=card_of(findings),
        matrix=_matrix(evaluation.confusion_matrix) if len(names) <= MATRIX_MOST else [],
        matrix_open=len(names) <= MATRIX_OPEN,
        pairs=[_pictured(findings, pair, thumbnails) for pair in findings.pairs[:PAIRS_SHOWN]],
        illustrated=[_illustration(findings, number, thumbnails) for number in _illustrated(findings)],
        mistakes=sorted(mistakes, key=lambda picture: -picture.probability)[:MISTAKES_LISTED],
        all_mistakes=len(mistakes),
        bars=drawing.bars_of(findings.bins),
        shares=drawing.shares(),
        shares_along=drawing.shares_along(),
        charts=[drawing.history_chart(name, history) for name, history in histories.items()],
        shots_chart=drawing.shots_chart(shots) if shots else None,
        plots=_plots(findings),
        where={position: number for number, position in enumerate(pointed_at)},
        legend=[(name, *drawing.mark_of(number)) for number, name in enumerate(names)],
        data=_script_data(findings, pointed_at, thumbnails),
        small=SMALL,
    )  # fmt: skip


def _pointed_at(findings: Findings) -> list[int]:
    """Positions of pictures that appear at a pointer or the keyboard: those of the plots, and a few of each mistake."""
    positions = {position for plot in findings.plots for position in plot.positions}
    if len(findings.evaluation.class_names) <= MATRIX_OPEN:
        positions |= {position for pair in findings.pairs for position in pair.positions[:CELL_PICTURES]}
    return sorted(positions)


def _illustrated(findings: Findings) -> list[int]:
    """Numbers of the classes whose pictures are shown: all, or the worst of many."""
    numbers = [number for number, figures in enumerate(findings.classes) if figures.support]
    return sorted(sorted(numbers, key=lambda number: findings.classes[number].f1)[:CLASSES_SHOWN])


def _matrix(counts: list[list[int]]) -> list[list[tuple[int, int]]]:
    """Count of each cell, and its percentage of its row."""
    return [[(count, round(100 * count / max(1, sum(row)))) for count in row] for row in counts]


def _plots(findings: Findings) -> list[tuple[Plot, list[drawing.Point]]]:
    classes = [picture.true for picture in findings.pictures]
    right = [picture.right for picture in findings.pictures]
    return [(plot, drawing.points_of(plot, classes, right)) for plot in findings.plots]


def _pictured(findings: Findings, pair: Confusion, thumbnails: dict[int, Thumbnail]) -> tuple[Confusion, Figures]:
    return pair, _figures(findings, pair.positions[:PAIR_PICTURES], thumbnails)


def _illustration(
    findings: Findings, number: int, thumbnails: dict[int, Thumbnail]
) -> tuple[ClassFigures, Figures, Figures]:
    figures = findings.classes[number]
    return figures, _figures(findings, figures.best, thumbnails), _figures(findings, figures.worst, thumbnails)


def _figures(findings: Findings, positions: tuple[int, ...], thumbnails: dict[int, Thumbnail]) -> Figures:
    pictures = [findings.pictures[position] for position in positions]
    return [(picture, thumbnails.get(picture.row, NOT_READ)) for picture in pictures]


def _script_data(findings: Findings, positions: list[int], thumbnails: dict[int, Thumbnail]) -> dict[str, Any]:
    """JSON for the page's script: pictures as path, true and predicted class, probability, image, problem."""
    rows = []
    for position in positions:
        picture = findings.pictures[position]
        thumbnail = thumbnails.get(picture.row, NOT_READ)
        shown = [escape_invisible(picture.path), picture.true, picture.predicted, round(picture.probability, 4)]
        rows.append([*shown, thumbnail.small.rpartition(",")[2], thumbnail.problem])
    return {"classes": [escape_invisible(name) for name in findings.evaluation.class_names], "rows": rows}
