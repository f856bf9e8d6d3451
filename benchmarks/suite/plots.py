"""Pictures of what was measured, a panel a data set: accuracy against time, and against training pictures a class."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from scipy.optimize import isotonic_regression

from benchmarks.suite.grid import METHODS
from benchmarks.suite.report import Row, names
from featx._internal.files import write_whole

# Colours that the colour-blind tell apart: Okabe & Ito's without their pale yellow, and two of Paul Tol's muted ones.
COLOURS = {
    "majority": "#777777",
    "logreg": "#0072B2",
    "svm": "#56B4E9",
    "ridge": "#009E73",
    "knn": "#999933",
    "mlp": "#CC79A7",
    "bn-mlp": "#882255",
    "tail": "#E69F00",
    "end-to-end": "#D55E00",
    "scratch": "#000000",
}
MARKERS = "osD^vPX*"  # a backbone each
COLUMNS = 2
LABEL_GAP = 0.065  # of a panel's height
INTERVALS = "bars: 95 % of the mean over the seeds, Student's t; dashed: the largest class alone"

Panel = Callable[[Any, list[Row]], list[tuple[Row, float, float]]]  # draws rows, and gives where their labels belong


def draw_all(of_set: dict[str, list[Row]], folder: Path) -> list[Path]:
    """Draw both plots as PNG and SVG; returns the files.

    Args:
        of_set: rows by data set, as :func:`benchmarks.suite.report.rows_of` gives them.
        folder: where the files go.
    """
    plots: dict[str, tuple[str, Panel]] = {
        "accuracy-time": ("Test accuracy against seconds to features and of training", against_time),
        "accuracy-shots": ("Test accuracy against training pictures a class", against_shots),
    }
    return [file for name, plot in plots.items() for file in _draw(of_set, *plot, folder / name)]


def _draw(of_set: dict[str, list[Row]], title: str, panel: Panel, path: Path) -> list[Path]:
    rows = math.ceil(len(of_set) / COLUMNS)
    columns = min(COLUMNS, len(of_set))
    figure = Figure(figsize=(0.8 + 5.2 * columns, 0.9 + 3.6 * rows), layout="constrained")
    figure.suptitle(title, fontsize=12)
    figure.supxlabel(INTERVALS, fontsize=8, color="#555555")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (name, of) in zip(panels, of_set.items(), strict=False):
        _panel(axes, name, of, panel)
    for axes in panels[len(of_set) :]:
        axes.set_axis_off()
    return [_save(figure, path.with_suffix(suffix)) for suffix in (".png", ".svg")]


def _panel(axes: Any, name: str, rows: list[Row], panel: Panel) -> None:
    axes.set_xscale("log")
    places = panel(axes, [row for row in rows if row.cell.method != "majority"])
    floor = next((row for row in rows if row.cell.method == "majority"), None)  # that of most shots comes first
    if floor:
        axes.axhline(floor.accuracy, color=COLOURS["majority"], linestyle="--", linewidth=1)
        places.append((floor, axes.get_xlim()[1], floor.accuracy))
    axes.minorticks_off()
    axes.set_title(name, loc="left", fontsize=10)
    axes.set_ylabel("test accuracy")
    axes.grid(alpha=0.25, which="major")
    axes.spines[["top", "right"]].set_visible(False)
    called = names(rows)
    label(axes, [(called[row.cell], COLOURS[row.cell.method], x, y) for row, x, y in places])


def against_time(axes: Any, rows: list[Row]) -> list[tuple[Row, float, float]]:
    """A point a method, trained on as many pictures as there are."""
    most = max((row.cell.shots or math.inf for row in rows), default=math.inf)
    shown = [row for row in rows if (row.cell.shots or math.inf) == most]
    for row in shown:
        axes.errorbar(row.seconds, row.accuracy, _error(row), fmt=_marker(row, rows), color=COLOURS[row.cell.method])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("seconds to features and of training")
    return [(row, row.seconds, row.accuracy) for row in shown]


def against_shots(axes: Any, rows: list[Row]) -> list[tuple[Row, float, float]]:
    """A line a method; all pictures stand at their mean number a class."""
    ends: list[tuple[Row, float, float]] = []
    ticks: dict[float, str] = {}
    lines = [list(line) for _, line in itertools.groupby(sorted(rows, key=_called), key=_called)]
    for number, line in enumerate(lines):
        line.sort(key=lambda row: row.per_class)
        aside = 1.015 ** (number - len(lines) / 2)  # so that bars do not hide each other
        x, y = [row.per_class * aside for row in line], [row.accuracy for row in line]
        error = np.concatenate([_error(row) for row in line], axis=1)
        style = {"color": COLOURS[line[0].cell.method], "fmt": _marker(line[0], rows) + "-", "markersize": 4}
        axes.errorbar(x, y, error, linewidth=1.3, elinewidth=0.8, capsize=2, **style)
        ticks |= {row.per_class: str(row.cell.shots or "all") for row in line}
        ends.append((line[-1], x[-1], y[-1]))
    axes.set_xticks(sorted(ticks), [ticks[place] for place in sorted(ticks)])
    axes.set_xlabel("training pictures a class")
    return ends


def label(axes: Any, labels: list[tuple[str, str, float, float]]) -> None:
    """Names right of a panel, each with a line to its point; given are text, colour, and the point's x and y."""
    low, high = axes.get_ylim()
    heights = spread([y for *_, y in labels], LABEL_GAP * (high - low), low, high)
    for (text, colour, x, y), height in zip(labels, heights, strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(1.03, height),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6, "shrinkB": 4},
        )


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights a gap apart, as near to those given as can be (least squares), from ``low`` to ``high`` if they fit."""
    if not heights:
        return []
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    packed = isotonic_regression(np.asarray(heights)[order] - steps).x
    placed = np.empty(len(heights))
    placed[order] = np.maximum(np.minimum(packed, high - steps[-1]), low) + steps
    return [float(height) for height in placed]


def _error(row: Row) -> np.ndarray:
    """How far the interval reaches below and above the mean, ``(2, 1)``; nothing for one seed alone."""
    reach = np.abs(np.array(row.interval) - row.accuracy)
    return np.nan_to_num(reach)[:, None]


def _called(row: Row) -> tuple[int, str]:
    return METHODS.index(row.cell.method), row.cell.backbone or ""


def _marker(row: Row, rows: list[Row]) -> str:
    """One a backbone; networks from nothing have the last."""
    backbones = sorted({other.cell.backbone for other in rows if other.cell.backbone})
    at = backbones.index(row.cell.backbone) if row.cell.backbone else len(backbones)
    return MARKERS[at % len(MARKERS)]


def _save(figure: Any, path: Path) -> Path:
    file = io.BytesIO()
    figure.savefig(file, format=path.suffix[1:], dpi=150)
    write_whole(path, file.getvalue())
    return path
