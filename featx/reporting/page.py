"""Findings as a page: Jinja2's templates beside this file, with every name in them escaped."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from featx._internal.progress import Progress
from featx.cache import Features
from featx.classifier import Classifier
from featx.reporting import drawing
from featx.reporting.card import NO_BREAK, card_of, headline, percent
from featx.reporting.findings import PAIRS_SHOWN, Confusion, Findings
from featx.reporting.learning import measures_of
from featx.reporting.pictures import SMALL, Thumb, thumbs_of

MATRIX_OPEN, MATRIX_MOST = 20, 100  # classes up to which the matrix is shown at once; in a box that scrolls; at all
CELL_PICTURES, PAIR_PICTURES = 6, 8
CLASSES_SHOWN = 30  # with pictures; of more, those that did worst
MISTAKES_LISTED = 200


@functools.cache
def environment() -> Environment:
    """Jinja2 for pages that look alike: ``base.html.j2`` is to be extended. Whatever is put in is escaped."""
    found = Environment(
        loader=PackageLoader("featx.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    found.filters["percent"] = percent
    return found


def _printable(value: Any) -> Any:
    """Text without the characters that nobody sees, or that turn the direction of what follows."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(c if c.isprintable() or c == NO_BREAK else repr(c)[1:-1] for c in value)


def rendered(findings: Findings, classifier: Classifier, features: Features, progress: Progress | None = None) -> str:
    """The page, with its pictures."""
    wanted = wanted_of(findings)
    thumbs = thumbs_of(classifier, features, wanted.small, wanted.large, wanted.explained, progress)
    return page_of(findings, thumbs)


@dataclass(frozen=True)
class Wanted:
    """Rows of the feature file whose pictures are to be seen: small, large, and with their maps of which class."""

    small: set[int]
    large: set[int]
    explained: dict[int, int]


def wanted_of(findings: Findings) -> Wanted:
    """The pictures that the page shows."""
    rows = findings.rows
    large = {place for pair in findings.pairs[:PAIRS_SHOWN] for place in pair.rows[:PAIR_PICTURES]}
    explained = {rows[place].number: rows[place].predicted for place in large}
    for number in _illustrated(findings):
        large |= {*findings.classes[number].best, *findings.classes[number].worst}
    return Wanted(
        {rows[place].number for place in _listed(findings)}, {rows[place].number for place in large}, explained
    )


def page_of(findings: Findings, thumbs: dict[int, Thumb]) -> str:
    """The page.

    Args:
        findings: what to say.
        thumbs: pictures by row of the feature file; any may be missing.
    """
    evaluation, rows = findings.evaluation, findings.rows
    listed = _listed(findings)
    where = {place: number for number, place in enumerate(listed)}
    of_class, right = [row.true for row in rows], [row.right for row in rows]
    plots = [(plot, drawing.scattered(plot, of_class, right)) for plot in findings.plots]
    charts = [drawing.history_chart(name, drawn) for name, drawn in measures_of(findings.learning.history).items()]
    shots = findings.learning.shots
    mistakes = [row for row in rows if not row.right]
    return environment().get_template("report.html.j2").render(
        f=findings,
        e=evaluation,
        names=evaluation.class_names,
        lines=headline(findings),
        card=card_of(findings),
        matrix=_matrix(evaluation.confusion_matrix) if len(evaluation.class_names) <= MATRIX_MOST else [],
        matrix_open=len(evaluation.class_names) <= MATRIX_OPEN,
        pairs=[_pictured(findings, pair, thumbs) for pair in findings.pairs[:PAIRS_SHOWN]],
        illustrated=[_illustration(findings, number, thumbs) for number in _illustrated(findings)],
        mistakes=sorted(mistakes, key=lambda row: -row.probability)[:MISTAKES_LISTED],
        all_mistakes=len(mistakes),
        bars=drawing.bars_of(findings.bins),
        shares=drawing.shares(),
        shares_along=drawing.shares_along(),
        charts=charts,
        shots_chart=drawing.shots_chart(shots) if shots else None,
        plots=plots,
        where=where,
        legend=[(name, *drawing.mark_of(number)) for number, name in enumerate(evaluation.class_names)],
        data=_data(findings, listed, thumbs),
        small=SMALL,
    )  # fmt: skip


def _listed(findings: Findings) -> list[int]:
    """Places of the pictures that a pointer or the keyboard may ask for: those of the plots, some of each mistake."""
    places = {place for plot in findings.plots for place in plot.places}
    if len(findings.evaluation.class_names) <= MATRIX_OPEN:
        places |= {place for pair in findings.pairs for place in pair.rows[:CELL_PICTURES]}
    return sorted(places)


def _illustrated(findings: Findings) -> list[int]:
    """Numbers of the classes whose pictures are shown: all, or the worst of many."""
    numbers = [n for n, told in enumerate(findings.classes) if told.support]
    return sorted(sorted(numbers, key=lambda n: findings.classes[n].f1)[:CLASSES_SHOWN])


def _matrix(counts: list[list[int]]) -> list[list[tuple[int, int]]]:
    """Count of each cell, and what percentage of its row that is."""
    return [[(count, round(100 * count / max(1, sum(row)))) for count in row] for row in counts]


def _pictured(findings: Findings, pair: Confusion, thumbs: dict[int, Thumb]) -> tuple[Confusion, list[Any]]:
    return pair, _figures(findings, pair.rows[:PAIR_PICTURES], thumbs)


def _illustration(findings: Findings, number: int, thumbs: dict[int, Thumb]) -> tuple[Any, list[Any], list[Any]]:
    told = findings.classes[number]
    return told, _figures(findings, told.best, thumbs), _figures(findings, told.worst, thumbs)


def _figures(findings: Findings, places: tuple[int, ...], thumbs: dict[int, Thumb]) -> list[Any]:
    rows = [findings.rows[place] for place in places]
    return [(row, thumbs.get(row.number, Thumb(problem="not read"))) for row in rows]


def _data(findings: Findings, listed: list[int], thumbs: dict[int, Thumb]) -> dict[str, Any]:
    """What the page's script needs: pictures as path, true and predicted class, probability, image, problem."""
    rows = []
    for place in listed:
        row = findings.rows[place]
        thumb = thumbs.get(row.number, Thumb(problem="not read"))
        shown = [_printable(row.path), row.true, row.predicted, round(row.probability, 4)]
        rows.append([*shown, thumb.small.rpartition(",")[2], thumb.problem])
    return {"classes": [_printable(name) for name in findings.evaluation.class_names], "rows": rows}
