"""The command that shows what a classifier looks at."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    from featx.explanation import explain

    classifier = Classifier.load(model, weights)
    maps, quarantine = explain(classifier, paths, method=method, class_name=class_name, out=out, progress=progress)
    for path, reason in quarantine:
        note(f"quarantined: {path!r}: {reason}")
    listed = len(maps) + len(quarantine)
    cached = sum(explanation.cached for explanation in maps)
    note(f"{listed} listed = {len(maps)} explained + {len(quarantine)} quarantined; {cached} from the cache")
    quarantined = [{"path": path, "reason": reason} for path, reason in quarantine]
    return Report({"maps": [_fields(m) for m in maps], "quarantined": quarantined}, _table(maps), failed=not maps)


def _fields(explanation: Explanation) -> dict[str, Any]:
    return {"image" if name == "image_path" else name: value for name, value in asdict(explanation).items()}


def _table(maps: list[Explanation]) -> str:
    header = ["picture", "predicted", "probability", "in truth", "explained", "image"]
    rows = [[escaped(m.path), m.label, m.probability, m.true_label or "", m.class_name, m.image_path] for m in maps]
    return columns(rows, header) if maps else ""
