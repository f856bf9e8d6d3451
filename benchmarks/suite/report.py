"""What was measured, summed up: means and intervals over seeds, differences paired by seed, Markdown."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.stats import t as student

from benchmarks.suite.grid import HEADS, METHODS, Cell
from benchmarks.suite.runner import Record, Results
from featx._internal.files import write_whole
from featx._internal.intervals import wilson_interval

Interval = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """The runs of one method on one data set with so many shots, which differ in their seeds alone.

    Attributes:
        cell: what was asked, its seed aside.
        runs: by seed, what was measured.
        features: what was measured of the extraction of its features; empty if it needs none.
    """

    cell: Cell
    runs: dict[int, dict[str, Any]]
    features: dict[str, Any]

    @property
    def accuracies(self) -> dict[int, float]:
        """Accuracy on the test pictures, by seed."""
        return {seed: run["accuracy"] for seed, run in self.runs.items()}

    @property
    def accuracy(self) -> float:
        """Its mean over the seeds."""
        return statistics.fmean(self.accuracies.values())

    @property
    def interval(self) -> Interval:
        """95 % interval of the mean accuracy, by Student's t over the seeds; not a number if there is one alone."""
        low, high = student_interval(list(self.accuracies.values()))
        return max(low, 0.0), min(high, 1.0)

    @property
    def right(self) -> tuple[int, int]:
        """Test pictures predicted right, and tested, over all seeds."""
        return sum(run["right"] for run in self.runs.values()), sum(run["test_rows"] for run in self.runs.values())

    @property
    def per_class(self) -> float:
        """Training pictures a class, held out ones included."""
        return statistics.fmean(run["training_pictures"] / run["classes"] for run in self.runs.values())

    @property
    def seconds(self) -> float:
        """To features and of training."""
        return float(self.features.get("features_seconds", 0.0)) + (self.median("train_seconds") or 0.0)

    @property
    def peak_bytes(self) -> int:
        """Of the extraction or of the training, whichever had more memory resident."""
        return max(int(of["peak_bytes"]) for of in (self.features, *self.runs.values()) if of)

    @property
    def warm_up_seconds(self) -> float:
        """Of the extraction and of the training."""
        return float(self.features.get("warm_up_seconds", 0.0)) + (self.median("warm_up_seconds") or 0.0)

    def median(self, measure: str) -> float | None:
        """The median of a measure over the seeds; None where the method has no such thing."""
        values = [run[measure] for run in self.runs.values() if run.get(measure) is not None]
        return statistics.median(values) if values else None

    def mean(self, measure: str) -> float:
        """The mean of a measure over the seeds."""
        return statistics.fmean(run[measure] for run in self.runs.values())


@dataclass(frozen=True)
class Comparison:
    """Accuracy of a method minus that of another, in points, paired by seed."""

    row: Row
    other: Row

    @property
    def differences(self) -> list[float]:
        """One a seed that both have."""
        mine, theirs = self.row.accuracies, self.other.accuracies
        return [100 * (mine[seed] - theirs[seed]) for seed in sorted(mine.keys() & theirs.keys())]

    @property
    def points(self) -> float:
        """Their mean."""
        return statistics.fmean(self.differences)

    def __str__(self) -> str:
        low, high = student_interval(self.differences)
        interval = "one seed" if math.isnan(low) else f"{_signed(low)} to {_signed(high)}"
        return f"{self.row.cell.method} {_signed(self.points)} ({interval})"


def student_interval(values: Sequence[float]) -> Interval:
    """95 % interval of a mean, by Student's t; not a number for one value."""
    if len(values) < 2:
        return math.nan, math.nan
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def rows_of(records: Iterable[Record]) -> dict[str, list[Row]]:
    """By data set, one row for cells that differ in their seeds alone; more shots before fewer."""
    done = {Cell(**record["cell"]): record["measured"] for record in records if "measured" in record}
    runs: dict[Cell, dict[int, dict[str, Any]]] = defaultdict(dict)
    for cell, measured in done.items():
        if cell.seed is not None:
            runs[replace(cell, seed=None)][cell.seed] = measured
    of_set: dict[str, list[Row]] = defaultdict(list)
    for cell, by_seed in sorted(runs.items(), key=lambda item: _place(item[0])):
        features = done.get(cell.features, {}) if cell.features else {}
        of_set[cell.dataset].append(Row(cell, dict(sorted(by_seed.items())), features))
    return {name: of_set[name] for name in dict.fromkeys(cell.dataset for cell in runs)}


def _place(cell: Cell) -> tuple[float, str, int]:
    return -(cell.shots or math.inf), cell.backbone or "", METHODS.index(cell.method)


def names(rows: list[Row]) -> dict[Cell, str]:
    """What each row is called: its method, with the backbone (or the size, if it has none) where there are several."""
    several = len({(row.cell.backbone, row.cell.size) for row in rows if row.cell.backbone}) > 1
    of = {row.cell: row.cell.backbone or (f"{row.cell.size} pixels" if row.cell.size else "") for row in rows}
    return {cell: f"{cell.method}, {of[cell]}" if several and of[cell] else cell.method for cell in of}


def comparisons(rows: list[Row], reference: str) -> Iterator[tuple[Row, list[Comparison]]]:
    """Each row of the reference's method, with the frozen heads on the same backbone and as many shots."""
    for row in rows:
        if row.cell.method == reference:
            same = [other for other in rows if _setting(other.cell) == _setting(row.cell)]
            heads = [Comparison(other, row) for other in same if other.cell.method in HEADS]
            heads = [comparison for comparison in heads if comparison.differences]
            if heads:
                yield row, heads


def _setting(cell: Cell) -> tuple[object, ...]:
    return cell.backbone, cell.weights, cell.preprocess, cell.size, cell.shots


# ----------------------------------------------------------------------------------------------------------- in words


def sentences(rows: list[Row]) -> list[str]:
    """How far frozen heads are from fine-tuning, in points of test accuracy and in seconds."""
    return [
        _sentence(row, heads) for reference in ("end-to-end", "tail") for row, heads in comparisons(rows, reference)
    ]


def _sentence(row: Row, heads: list[Comparison]) -> str:
    behind = -min(comparison.points for comparison in heads)
    within = f"within {behind:.1f} points of" if behind > 0 else "not behind"
    trained_on = f"{row.cell.shots} pictures a class" if row.cell.shots else "all training pictures"
    what = {"end-to-end": "end-to-end fine-tuning", "tail": f"fine-tuning from {row.cell.trains}"}[row.cell.method]
    slowest = max(comparison.row.seconds for comparison in heads)
    return (
        f"With {trained_on}, {row.cell.backbone}: **frozen heads {within} {what}** "
        f"({row.accuracy:.3f}): {', '.join(map(str, heads))}. "
        f"They take {_number(slowest)} s at most to features and training, fine-tuning {_number(row.seconds)} s."
    )


COLUMNS: dict[str, Callable[[Row], str]] = {
    "pictures a class": lambda row: str(row.cell.shots or f"all ({row.per_class:.0f})"),
    "accuracy, mean (95 % over seeds)": lambda row: f"{row.accuracy:.3f} {_interval(row.interval)}",
    "right of tested": lambda row: f"{row.right[0]} of {row.right[1]}",
    "log loss": lambda row: f"{row.mean('log_loss'):.3f}",
    "seconds to features": lambda row: _number(row.features.get("features_seconds")),
    "training s": lambda row: _number(row.median("train_seconds")),
    "s/epoch": lambda row: _number(row.median("seconds_per_epoch")),
    "s to 95 %": lambda row: _number(row.median("seconds_to_95")),
    "s to 99 %": lambda row: _number(row.median("seconds_to_99")),
    "warm-up s": lambda row: _number(row.warm_up_seconds),
    "peak MB": lambda row: f"{row.peak_bytes / 1e6:.0f}",
    "disk MB": lambda row: _number(row.features.get("disk_bytes", 0) / 1e6),
}
NOTES = """\
- Accuracy and log loss are of the test pictures, which chose nothing. The interval of a mean is Student's t over the
  seeds: it holds the draw of the training pictures and of the training itself, not that of the test pictures; the
  Wilson interval above each table does. Methods in which a seed changes nothing have an interval without width. "Right
  of tested" counts every test picture once a seed.
- A seed draws the pictures of a class, the pictures held out of them, and all that is random in training. Heads are
  fitted again on the pictures that were held out of their training; fine-tuning is not.
- Seconds to features: extracting all pictures, test pictures included, into an empty cache, once, in a process of its
  own; for `end-to-end` and `scratch`, decoding and resizing them. Training: the median over the seeds, with choosing
  and validation, features being cached. "s to 95 %" and "s to 99 %": until the accuracy on the held-out pictures first
  was that share of its best; without epochs, all of the training.
- s/epoch: the median, for fine-tuning without its validation.
- Warm-up is in none of these: imports; of an extraction, building the network, and what the first batch took longer
  than the median one; of a training, what the first step (`mlp`, `bn-mlp`: epoch) took longer than the median one.
- Peak: resident memory of the extraction or of the training, whichever had more. Disk: the features of all pictures.
- `svm` and `ridge` are not calibrated: their log loss is that of a softmax of margins.
"""


def markdown(records: list[Record]) -> str:
    """Tables, one a data set, and what they say."""
    lines = ["# Is end-to-end fine-tuning worth it, on these pictures?", ""]
    for dataset, rows in rows_of(records).items():
        said = [f"- {sentence}" for sentence in sentences(rows)]
        lines += [f"## {dataset}", "", *said, *[""] * bool(said), _of_the_test_pictures(rows), "", *_table(rows), ""]
    failed: dict[str, list[Cell]] = defaultdict(list)
    for record in records:
        if "error" in record:
            failed[record["error"]].append(Cell(**record["cell"]))
    if failed:
        lines += ["## Failed", "", *(f"- {'; '.join(map(str, cells))}: {why}" for why, cells in failed.items()), ""]
    places = {json.dumps(record["environment"]): record["environment"] for record in records}.values()
    lines += ["## How to read this", "", NOTES]
    lines += [f"Measured with {', '.join(f'{name} {value}' for name, value in place.items())}." for place in places]
    return "\n".join(lines) + "\n"


def _of_the_test_pictures(rows: list[Row]) -> str:
    best = max(rows, key=lambda row: row.accuracy)
    run = next(iter(best.runs.values()))
    low, high = wilson_interval(best.accuracy, run["test_rows"])
    return (
        f"{run['test_rows']} test pictures, {run['classes']} classes. Whatever the seeds say, so many test pictures "
        f"leave an accuracy of {best.accuracy:.3f} open from {low:.3f} to {high:.3f} (Wilson, 95 %). Differences are "
        "in points, paired by seed, with 95 % intervals by Student's t over the seeds."
    )


def _table(rows: list[Row]) -> list[str]:
    name = names(rows)
    heads, rule = " | ".join(["method", *COLUMNS]), " | ".join(["---"] * (1 + len(COLUMNS)))
    cells = [" | ".join([name[row.cell], *(column(row) for column in COLUMNS.values())]) for row in rows]
    return [f"| {line} |" for line in (heads, rule, *cells)]


def _interval(interval: Interval) -> str:
    return "(one seed)" if math.isnan(interval[0]) else f"({interval[0]:.3f} to {interval[1]:.3f})"


def _number(value: float | None) -> str:
    """Three digits, or nothing where a method has no such thing."""
    if not value:
        return "" if value is None else "0"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _signed(points: float) -> str:
    return f"{points:+.1f}"


# -------------------------------------------------------------------------------------------------------------- files


def write_report(results: Results) -> str:
    """Write `results.json` and `results.md`. Returns the Markdown."""
    records = results.asked()
    write_whole(results.folder / "results.json", json.dumps(records, indent=1).encode())
    text = markdown(records)
    write_whole(results.folder / "results.md", text.encode())
    return text
