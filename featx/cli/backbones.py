"""The command that lists networks and their layers."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from featx.cli import completion
from featx.cli.program import NETWORK, PREPARE, app, command, option
from featx.cli.terminal import Report, by_shape, columns, progress

if TYPE_CHECKING:
    from collections.abc import Collection

    from featx.backbones import Backbone, LayerRow


@command(app, "featx backbones vgg16", PREPARE)
def backbones(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="List this network's layers; a .keras file works too.",
            autocompletion=completion.backbones,
        ),
    ] = None,
    size: Annotated[int | None, option(NETWORK, "Side of the input, for the layers' shapes.", min=1)] = None,
    unfreeze: Annotated[str | None, option(NETWORK, "Also say which layers `featx finetune` would train.")] = None,
) -> Report:
    """List the networks, or one network's layers and where it can be cut."""
    from featx.backbones import BACKBONES, list_layers

    if name is None:
        return _networks(BACKBONES.values())
    progress(f"building {name}", 0, 0)
    return _layers(name, list_layers(name, size, unfreeze), with_trains=unfreeze is not None)


def _networks(networks: Collection[Backbone]) -> Report:
    rows = [
        {"name": b.name, "parameters": b.parameters, "size": b.size, "smallest_size": b.min_size}
        | {"feature_shape": b.shape, "preprocessing": b.preprocess, "layer": b.layer}
        for b in networks
    ]
    table = [[b.name, b.parameters, b.size, b.min_size, by_shape(b.shape), b.preprocess, b.layer] for b in networks]
    header = ["name", "parameters", "size", "smallest", "features", "preprocessing", "default cut"]
    return Report({"backbones": rows}, columns(table, header))


def _layers(name: str, layers: list[LayerRow], with_trains: bool) -> Report:
    header = ["index", "name", "type", "output", "parameters", "cut", "tail", *(["trains"] if with_trains else [])]
    table = [
        [r.index, r.name, r.type, by_shape(r.output_shape), r.parameters, r.cut, r.tail, r.trains][: len(header)]
        for r in layers
    ]
    return Report({"name": name, "layers": [asdict(row) for row in layers]}, columns(table, header))
