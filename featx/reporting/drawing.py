"""Numbers as coordinates: what the templates' SVG is made of."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from featx.classifier import Bin
from featx.reporting.embedding import Plot
from featx.selection.few_shot import Shots

# Ends of the axes, in a drawing of 420 x 270
LEFT = 44.0
RIGHT = 408.0
TOP = 16.0
BOTTOM = 226.0
SCATTER = (640.0, 440.0)  # width and height of a scatter plot
MARGIN = 14.0
HUES = 8  # colours of the style sheet
MANY = 1500  # points from which on they are drawn smaller
SMALLER = 0.65
# Each shape is drawn from its middle on, about 9 wide; classes differ by it where colours cannot be seen.
SHAPES = (
    "m-4,0c0,-2.2 1.8,-4 4,-4c2.2,0 4,1.8 4,4c0,2.2 -1.8,4 -4,4c-2.2,0 -4,-1.8 -4,-4z",
    "m-3.6,-3.6h7.2v7.2h-7.2z",
    "m0,-5l4.6,8.2h-9.2z",
    "m0,-5.2l4.6,5.2l-4.6,5.2l-4.6,-5.2z",
    "m0,5l4.6,-8.2h-9.2z",
    "m-1.5,-4.6h3v3.1h3.1v3h-3.1v3.1h-3v-3.1h-3.1v-3h3.1z",
    "m-4.4,-1.6l4.4,-3.4l4.4,3.4l-1.7,5.2h-5.4z",
)


@dataclass(frozen=True)
class Axis:
    """Marks of an axis: coordinate and text of each."""

    marks: list[tuple[float, str]]


@dataclass(frozen=True)
class Bar:
    """Bin of the reliability diagram: its bar, the height of its mean confidence, its count."""

    x: float
    y: float
    width: float
    height: float
    expected: float
    count: int


@dataclass(frozen=True)
class Line:
    """Line of a chart.

    Attributes:
        name: name of the measure.
        points: coordinates of all points, as SVG writes them.
        dots: ``x, y`` of each point.
        intervals: ``x, low, high`` of each point's interval, if it has one.
    """

    name: str
    points: str
    dots: list[tuple[float, float]]
    intervals: list[tuple[float, float, float]]


@dataclass(frozen=True)
class Chart:
    """Lines between two axes."""

    title: str
    x: Axis
    y: Axis
    lines: list[Line]


@dataclass(frozen=True)
class Point:
    """Picture in the plane.

    Attributes:
        position: position in ``Findings.pictures``.
        path: SVG path of its shape.
        hue: number of its colour.
        right: whether it was predicted right.
    """

    position: int
    path: str
    hue: int
    right: bool


def bars_of(bins: list[Bin]) -> list[Bar]:
    """Bars of a reliability diagram: confidence to the right, accuracy upwards, both 0 to 1."""
    return [
        Bar(
            x=_along(b.low) + 1,
            y=_up(b.accuracy),
            width=_along(b.high) - _along(b.low) - 2,
            height=BOTTOM - _up(b.accuracy),
            expected=_up(b.confidence),
            count=b.count,
        )
        for b in bins
    ]


def shares() -> Axis:
    """Marks of a vertical axis from 0 to 100 %."""
    return Axis([(_up(share), f"{100 * share:.0f} %") for share in (0, 0.25, 0.5, 0.75, 1)])


def shares_along() -> Axis:
    """Marks of a horizontal axis from 0 to 100 %."""
    return Axis([(_along(share), f"{100 * share:.0f} %") for share in (0, 0.25, 0.5, 0.75, 1)])


def history_chart(title: str, history: dict[str, list[float]]) -> Chart:
    """Chart of measures by epoch. Where a measure has ended, or is not a number, it has no point."""
    epochs = max(len(values) for values in history.values())
    finite = [v for values in history.values() for v in values if math.isfinite(v)]
    top = 1.0 if title == "accuracy" else _nice(max(finite, default=1.0))
    xs = [LEFT + (RIGHT - LEFT) * (n + 0.5) / epochs for n in range(epochs)]
    lines = []
    for name, values in history.items():
        dots = [(x, _up(v / top)) for x, v in zip(xs, values, strict=False) if math.isfinite(v)]
        lines.append(Line(name, _joined(dots), dots, []))
    step = max(1, math.ceil(epochs / 8))
    marks = [(xs[n], str(n + 1)) for n in range(0, epochs, step)]
    y = shares() if title == "accuracy" else Axis([(_up(s), f"{s * top:.2g}") for s in (0, 0.25, 0.5, 0.75, 1)])
    return Chart(title, Axis(marks), y, lines)


def shots_chart(shots: Sequence[Shots]) -> Chart:
    """Chart of accuracy by pictures per class, with intervals; the numbers evenly spaced."""
    xs = [LEFT + (RIGHT - LEFT) * (n + 0.5) / len(shots) for n in range(len(shots))]
    dots = [(x, _up(s.mean_accuracy)) for x, s in zip(xs, shots, strict=True)]
    intervals = [(x, _up(s.ci95[0]), _up(s.ci95[1])) for x, s in zip(xs, shots, strict=True)]
    marks = [(x, "all" if s.shots is None else str(s.shots)) for x, s in zip(xs, shots, strict=True)]
    return Chart("accuracy", Axis(marks), shares(), [Line("accuracy", _joined(dots), dots, intervals)])


def points_of(plot: Plot, classes: Sequence[int], right: Sequence[bool]) -> list[Point]:
    """Points of a plot, both directions in one measure; mistakes last, so that they lie on top.

    Args:
        plot: the plot.
        classes: number of the true class of each picture of the findings.
        right: whether each picture was predicted right.
    """
    columns = list(zip(*plot.points, strict=True))
    lows = [min(column) for column in columns]
    highs = [max(column) for column in columns]
    spans = [max(high - low, 1e-12) for low, high in zip(lows, highs, strict=True)]
    scale = min((side - 2 * MARGIN) / span for side, span in zip(SCATTER, spans, strict=True))
    middle = [(low + high) / 2 for low, high in zip(lows, highs, strict=True)]
    shapes = [_shape(number, SMALLER if len(plot.points) > MANY else 1.0) for number in range(len(SHAPES))]
    points = []
    for position, (x, y) in zip(plot.positions, plot.points, strict=True):
        across = SCATTER[0] / 2 + (x - middle[0]) * scale
        down = SCATTER[1] / 2 - (y - middle[1]) * scale
        path = f"M{across:.1f},{down:.1f}{shapes[classes[position] % len(SHAPES)]}"
        points.append(Point(position, path, classes[position] % HUES, right[position]))
    return sorted(points, key=lambda point: not point.right)


def mark_of(number: int) -> tuple[str, int]:
    """Path and number of the colour of a class, in a legend of 16 x 16."""
    return f"M8,8{SHAPES[number % len(SHAPES)]}", number % HUES


def _shape(number: int, size: float) -> str:
    return re.sub(r"[\d.]+", lambda number: f"{float(number[0]) * size:.3g}", SHAPES[number])


def _along(share: float) -> float:
    return LEFT + share * (RIGHT - LEFT)


def _up(share: float) -> float:
    return round(BOTTOM - share * (BOTTOM - TOP), 2)


def _joined(dots: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)


def _nice(value: float) -> float:
    """Next of 1, 2, 4, 5 times a power of ten from ``value`` on."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(f * power for f in (1, 2, 4, 5, 10) if f * power >= value)
