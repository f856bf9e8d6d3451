"""The picture of a sweep."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featx._internal.files import write_whole
from featx.errors import SweepError
from featx.selection.sweep.space import SPACE, Logarithmic, PowersOfTwo, Scale, Steps

if TYPE_CHECKING:
    from featx.selection.sweep.result import Sweep, Trial

COLUMNS = 3
COLOURS = {"complete": "tab:blue", "pruned": "tab:orange"}


def load_matplotlib() -> Any:
    """Matplotlib's class of figures that need no screen.

    Raises:
        SweepError: it is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SweepError("`plot` needs Matplotlib, which is not installed: pip install '.[plot]'") from None
    return Figure


def draw(sweep: Sweep, path: Path) -> None:
    """Accuracy by trial with the best so far, above a panel for each numeric parameter that varies; PNG."""
    numeric = [name for name in sweep.varying if _is_number(sweep.best.params[name])]
    rows = 2 - (-len(numeric) // COLUMNS)
    figure = load_matplotlib()(figsize=(10, 2.6 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, COLUMNS)
    _by_number(figure.add_subplot(grid[:2, :]), sweep)
    for i, name in enumerate(numeric):
        axes = figure.add_subplot(grid[2 + i // COLUMNS, i % COLUMNS])
        _scatter(axes, sweep, lambda trial, name=name: trial.params[name])
        axes.set_xlabel(name.replace("_", " "))
        _scale(axes, SPACE.get(name))
        if not i % COLUMNS:
            axes.set_ylabel("validation accuracy")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    write_whole(path, file.getvalue())


def _by_number(axes: Any, sweep: Sweep) -> None:
    _scatter(axes, sweep, lambda trial: trial.number)
    best, numbers, heights = 0.0, [], []
    for trial in sweep.trials:
        if trial.state == "complete" and trial.mean_accuracy is not None:
            best = max(best, trial.mean_accuracy)
            numbers.append(trial.number)
            heights.append(best)
    axes.step(numbers, heights, where="post", color="tab:green", label="best so far")
    for n, trial in enumerate([trial for trial in sweep.trials if trial.state == "failed"]):
        axes.axvline(trial.number, color="tab:red", alpha=0.3, label=None if n else "failed")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("trial")
    axes.set_ylabel("validation accuracy")
    axes.set_title(f"best of {len(sweep.trials)}: trial {sweep.best.number}, {sweep.best.mean_accuracy:.4f}")
    axes.legend(loc="best")


def _scatter(axes: Any, sweep: Sweep, place: Any) -> None:
    for state, colour in COLOURS.items():
        trials: list[Trial] = [t for t in sweep.trials if t.state == state and t.mean_accuracy is not None]
        if trials:
            heights = [trial.mean_accuracy for trial in trials]
            axes.scatter([place(t) for t in trials], heights, s=18, color=colour, alpha=0.7, label=state)
    axes.plot(place(sweep.best), sweep.best.mean_accuracy, "*", color="tab:green", markersize=13)
    axes.grid(alpha=0.3)


def _scale(axes: Any, scale: Scale | None) -> None:
    """The axis on which the parameter was searched, over its whole length."""
    if isinstance(scale, PowersOfTwo):
        axes.set_xscale("log", base=2)
        axes.set_xlim(scale.low / 1.3, scale.high * 1.3)
    elif isinstance(scale, Logarithmic) and scale.or_zero:
        axes.set_xscale("symlog", linthresh=scale.low)  # 0 has a place left of the smallest
        axes.set_xlim(-scale.low / 2, scale.high * 2)
    elif isinstance(scale, Logarithmic):
        axes.set_xscale("log")
        axes.set_xlim(scale.low / 1.3, scale.high * 1.3)
    if isinstance(scale, PowersOfTwo):
        axes.xaxis.set_major_formatter("{x:g}")
    elif isinstance(scale, Logarithmic):
        axes.xaxis.set_minor_formatter("")  # they would lie on top of each other
    elif isinstance(scale, Steps) and isinstance(scale.step, int):
        axes.xaxis.get_major_locator().set_params(integer=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
