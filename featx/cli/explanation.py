"""The command that shows what a classifier looks at."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featx._internal.choices import Method
from featx.cli.options import Model, Weights
from featx.cli.program import OUTPUT, RUN, USE, app, command, option
from featx.cli.terminal import Report, columns, escaped, note, progress

if TYPE_CHECKING:
    from featx.explanation import Explanation


@command(app, "featx explain models/photos-logreg new/ --out maps", USE)
def explain(
    model: Model,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Pictures, folders of them, or one feature file.")
    ],
    method: Annotated[
        Method | None,
        option(RUN, "cam: exact, of linear heads; gradcam: of any but knn. Default: cam if it can be had."),
    ] = None,
    class_name: Annotated[str | None, option(RUN, "The class to explain. Default: the predicted one.")] = None,
    weights: Weights = None,
    out: Annotated[Path, option(OUTPUT, "Folder to write a PNG for each picture to.")] = Path("explanations"),
) -> Report:
    """Show which places of a picture speak for a class, and which against it.

    Pictures whose features are cached cost no run of the network.
    """
    from featx.classifier import Classifier
    from featx.explanation.explanation import explain

    classifier = Classifier.load(model, weights)
    maps, bad = explain(classifier, paths, method=method, class_name=class_name, out=out, progress=progress)
    for path, reason in bad:
        note(f"quarantined: {path!r}: {reason}")
    cached = sum(explanation.cached for explanation in maps)
    note(f"{len(maps) + len(bad)} listed = {len(maps)} explained + {len(bad)} quarantined; {cached} from the cache")
    fields = {"maps": [asdict(m) for m in maps], "quarantined": [{"path": p, "reason": r} for p, r in bad]}
    return Report(fields, _table(maps), failed=not maps)


def _table(maps: list[Explanation]) -> str:
    rows = [[escaped(m.path), m.label, m.probability, m.true_label or "", m.class_name, m.image] for m in maps]
    return columns(rows, ["picture", "predicted", "probability", "in truth", "explained", "image"]) if maps else ""
