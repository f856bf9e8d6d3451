"""The layers of a network: their names in any process, what they give, and where a network can be cut."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from featx._internal.keras import load_keras
from featx.backbones.table import suggestion
from featx.errors import BackboneError

FEATURE_RANKS = (1, 3)  # dimensions of one picture's features: (c,) or (h, w, c)


@dataclass(frozen=True)
class LayerRow:
    """One layer of a network.

    Attributes:
        index: number of it, from 0.
        name: name of it.
        type: its Keras class.
        output_shape: shape of its output for one picture, None where the network leaves it open; empty if it has
            several.
        parameters: number of its weights.
        cut: whether features can be taken there.
        tail: whether, besides, all that follows depends on it alone.
        trains: whether fine-tuning from the layer asked about would train it.
    """

    index: int
    name: str
    type: str
    output_shape: tuple[int | None, ...]
    parameters: int
    cut: bool
    tail: bool
    trains: bool = False


def layer_rows(base: Any, size: int | None) -> list[LayerRow]:
    """All layers of a network in order, their shapes at ``size`` where the network leaves that open."""
    tails = tail_cuts(base)
    shapes = _shapes(base, size)
    rows = []
    for index, (name, layer) in enumerate(layers_by_name(base).items()):
        cut = len(shapes[name]) in FEATURE_RANKS and not is_input(layer)
        kind, parameters = type(layer).__name__, int(layer.count_params())
        rows.append(LayerRow(index, name, kind, shapes[name], parameters, cut, cut and index in tails))
    return rows


def _shapes(base: Any, size: int | None) -> dict[str, tuple[int | None, ...]]:
    """Output shape of one picture by layer, at ``size`` where the network leaves that open; () for several outputs."""
    layers = layers_by_name(base)
    outputs = {name: output_of(base, layer) for name, layer in layers.items()}
    single = {name: output for name, output in outputs.items() if output is not None}
    if size is not None and None in base.input_shape[1:]:
        keras = load_keras()
        outputs = keras.Model(base.inputs, list(single.values()))(keras.Input((size, size, 3)))
        single = dict(zip(single, outputs, strict=True))
    return {name: tuple(single[name].shape[1:]) if name in single else () for name in layers}


def layers_by_name(model: Any) -> dict[str, Any]:
    """Layers by the names they have in a fresh process.

    Keras numbers unnamed layers through the whole process (``activation_19``, then ``activation_38``); a spec must not
    depend on what was built before.
    """
    numbered: dict[str, list[tuple[int, str]]] = {}
    for layer in model.layers:
        match = re.fullmatch(r"(.+?)(?:_(\d+))?", layer.name)
        stem, number = match.groups() if match else (layer.name, None)
        if stem == _snake(type(layer).__name__):
            numbered.setdefault(stem, []).append((int(number or 0), layer.name))
    fresh = {
        name: stem if rank == 0 else f"{stem}_{rank}"
        for stem, group in numbered.items()
        for rank, (_, name) in enumerate(sorted(group))
    }
    return {fresh.get(layer.name, layer.name): layer for layer in model.layers}


def _snake(name: str) -> str:
    """``Conv2D`` to ``conv2d``, ``BatchNormalization`` to ``batch_normalization``: Keras's rule for unnamed layers."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def output_at(base: Any, layer: str, backbone: str) -> Any:
    """Output of the layer at which a network is cut.

    Raises:
        BackboneError: no such layer, or none with one output per picture.
    """
    if layer == "output" and len(base.outputs) == 1:
        return base.outputs[0]
    layers = layers_by_name(base)
    if layer not in layers:
        raise BackboneError(
            f"{backbone} has no layer {layer!r}; {suggestion(layer, layers)}`featx backbones {backbone}` lists them"
        )
    output = output_of(base, layers[layer])
    if is_input(layers[layer]):
        raise BackboneError(f"layer {layer} of {backbone} cannot be a cut: it is the input itself")
    if output is None or len(output.shape) - 1 not in FEATURE_RANKS:
        gives = "has several outputs" if output is None else f"gives {tuple(output.shape[1:])}"
        raise BackboneError(
            f"layer {layer} of {backbone} cannot be a cut: it {gives}; expected one map (h, w, c) or vector (c) per "
            f"picture. `featx backbones {backbone}` says which layers can"
        )
    return output


def output_of(base: Any, layer: Any) -> Any:
    """Tensor that a layer gives in this network; None if it gives several.

    A network used as a layer has an output of its own, on an input of its own; what counts is what it gives here.
    """
    if not hasattr(layer, "layers"):
        return None if isinstance(layer.output, (list, tuple, dict)) else layer.output
    consumed = [tensor for other in base.layers if not hasattr(other, "layers") for tensor in _inputs(other)]
    tensors = {id(t): t for t in [*base.outputs, *consumed] if t._keras_history.operation is layer}
    return next(iter(tensors.values())) if len(tensors) == 1 else None


def _inputs(layer: Any) -> list[Any]:
    return list(layer.input) if isinstance(layer.input, (list, tuple)) else [layer.input]


def tail_cuts(base: Any) -> set[int]:
    """Indices of the layers behind which everything depends on their output alone."""
    producer: dict[int, int] = {}
    last_use: dict[int, int] = {}
    for index, layer in enumerate(base.layers):
        for tensor in _inputs(layer):
            if id(tensor) in producer:
                last_use[producer[id(tensor)]] = index
        output = output_of(base, layer)
        for tensor in [output] if output is not None else layer.output:
            producer.setdefault(id(tensor), index)
    cuts = set()
    open_until = 0
    for index in range(len(base.layers)):
        if open_until <= index:
            cuts.add(index)
        open_until = max(open_until, last_use.get(index, index))
    return cuts


def is_input(layer: Any) -> bool:
    """Whether a layer only stands for the network's input."""
    return type(layer).__name__ == "InputLayer"
