"""The command for a newcomer's first minute."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from featx.cli.options import RandomState
from featx.cli.program import NETWORK, OUTPUT, START, app, command, option
from featx.cli.terminal import Report, columns, note, progress


@command(app, "featx demo", START)
def demo(
    weights: Annotated[str | None, option(NETWORK, "VGG16 weights. Default: ImageNet's, else random.")] = None,
    random_state: RandomState = 0,
    out: Annotated[Path, option(OUTPUT, "Folder to write everything to.")] = Path("featx-demo"),
) -> Report:
    """Handwritten digits, VGG16 and three heads, in a minute or two and without a network.

    With --json, one object per step; the last has the accuracies and the paths.
    """
    from featx.demo import demo_steps

    steps = []
    for step in demo_steps(out, weights=weights, random_state=random_state, progress=progress):
        note(step.text)
        steps.append(step.fields)
    best = max(steps[-1]["heads"], key=lambda head: head["test_accuracy"])
    return Report(steps, _text(steps[-1]), next=("report", best["model"]))


def _text(last: dict[str, Any]) -> str:
    rows = [[head["head"], head["test_accuracy"], head["seconds"]] for head in last["heads"]]
    written = "\n".join(f"{what:9} {path}" for what, path in last["written"].items())
    return f"{columns(rows, ['head', 'test accuracy', 'seconds'])}\n\n{written}"
