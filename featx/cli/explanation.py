"""The command that shows what a classifier looks at."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from featx.cli.commands import Model, Weights, app
from featx.cli.terminal import Report, columns, command, escaped, note, progress


@command(app, "featx explain models/photos-logreg new/ --out maps")
def explain(
    model: Model,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Pictures, folders of them, or one feature file.")
    ],
    method: Annotated[
        Literal["cam", "gradcam"] | None,
        typer.Option(help="cam: exact, of linear heads; gradcam: of any but knn. Default: cam if it can be had."),
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="The class to explain. Default: the predicted one.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write a PNG for each picture to.")] = Path("explanations"),
    weights: Weights = None,
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
    cached = sum(found.cached for found in maps)
    note(f"{len(maps) + len(bad)} listed = {len(maps)} explained + {len(bad)} quarantined; {cached} from the cache")
    rows = [[escaped(m.path), m.label, m.probability, m.true_label or "", m.class_name, m.image] for m in maps]
    return Report(
        {"maps": [asdict(m) for m in maps], "quarantined": [{"path": p, "reason": r} for p, r in bad]},
        columns(rows, ["picture", "predicted", "probability", "in truth", "explained", "image"]) if maps else "",
        failed=not maps,
    )
