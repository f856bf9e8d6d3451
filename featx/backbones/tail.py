"""A tail: the part of a network behind the cut, the layers of it that train, and where to cut for that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featx._internal.keras import load_keras
from featx.backbones.layers import (
    FEATURE_RANKS,
    LayerRow,
    is_input,
    layer_rows,
    layers_by_name,
    output_at,
    output_of,
    tail_cuts,
)
from featx.backbones.network import build_base, build_network
from featx.backbones.preprocessing import preprocess_pictures
from featx.backbones.scratch import SCRATCH, build_scratch
from featx.backbones.table import PIXELS, is_model_file, suggestion
from featx.backbones.weights import needs_imagenet_to_build
from featx.errors import BackboneError, one_line


@dataclass(frozen=True)
class Division:
    """A network divided for training it from one of its layers on.

    Attributes:
        backbone: name of the network, or path of a user's own file.
        size: side of its pictures in pixels.
        preprocess: its rule, resolved.
        cut: layer behind which everything is trained or at least computed anew; ``pixels`` if that is all of it.
        end: layer whose output the head sees.
        trains: names of the layers that train, in order; all before them are frozen.
        graph: digest that tells one graph of a user's network from another; empty for networks of the table.
    """

    backbone: str
    size: int
    preprocess: str
    cut: str
    end: str
    trains: tuple[str, ...]
    graph: str = ""


def divide(
    backbone: str,
    unfreeze: str,
    *,
    layer: str | None = None,
    size: int | None = None,
    preprocess: str = "auto",
    from_pixels: bool = False,
) -> Division:
    """Division of a network for training it from a layer on, with as much as possible cached before.

    The cut is the last layer before it through which everything passes. Layers between the two, such as those of the
    first half of a residual block, are computed anew each time but stay frozen.

    Args:
        backbone: as in :func:`build_trunk`.
        unfreeze: the first layer to train, its index, ``all``, or ``auto``: as many of the last layers as hold about
            half of the weights.
        layer: end of the network; by default its last convolutional output.
        size: as in :func:`build_trunk`.
        preprocess: as in :func:`build_trunk`.
        from_pixels: cut before the first layer in any case.

    Raises:
        BackboneError: no such layer, or none that trains between it and the end.
        SettingError: a size or rule that does not fit the network.
    """
    built = build_network(backbone, "none", size, preprocess)
    layers = layers_by_name(built.base)
    names = list(layers)
    end = layer or built.layer
    if end is None:
        raise BackboneError(f"{built.name} has no map to put a head on; name a layer with `layer`")
    output_at(built.base, end, built.name)  # which says what is wrong with it
    cuts = _cuts_before_a_tail(built.base)
    last = _index_of_end(built.base, names, end)
    if unfreeze == "auto":
        first = _last_half(list(layers.values())[: last + 1], [False, *(name in cuts for name in names)])
    else:
        first = _first_to_train(names, unfreeze, built.name)
    trains = tuple(name for name in names[first : last + 1] if layers[name].trainable_weights)
    if not trains:
        raise BackboneError(
            f"no layer of {built.name} from {names[first]} to its end, {end}, has weights to train; "
            f"`featx backbones {backbone}` lists the layers"
        )
    before = [] if from_pixels else [name for name in names[:first] if name in cuts]
    name = backbone if is_model_file(backbone) else built.name
    return Division(name, built.size, built.preprocess, before[-1] if before else PIXELS, end, trains, built.graph)


def list_layers(backbone: str, size: int | None = None, unfreeze: str | None = None) -> list[LayerRow]:
    """All layers of a backbone in order, at its own size or the one given. Weights are not loaded.

    Args:
        backbone: a name of ``BACKBONES``, or the path of a ``.keras`` file.
        size: side of the pictures in pixels; by default the network's own.
        unfreeze: layer (or its index, ``all``, ``auto``) from which on to train; then the rows tell which layers
            fine-tuning would train.

    Returns:
        A row per layer, with its output shape, its number of weights, and whether the network can be cut there.

    Raises:
        BackboneError: no such network or layer.
        SettingError: a size below the network's smallest.

    Example:
        >>> import featx
        >>> rows = featx.list_layers("mobilenet-0.25", size=32)
        >>> rows[-1].name, rows[-1].output_shape, rows[-1].cut
        ('conv_pw_13_relu', (1, 1, 256), True)
    """
    preprocess = "none" if is_model_file(backbone) else "auto"
    rows = layer_rows(build_base(backbone, size, preprocess), size)
    if unfreeze is None:
        return rows
    trains = divide(backbone, unfreeze, size=size, preprocess=preprocess).trains if unfreeze != "none" else ()
    return [replace(row, trains=row.name in trains) for row in rows]


def _last_half(layers: list[Any], behind_cut: list[bool]) -> int:
    """Index of a layer with a kernel, right behind a cut, from which on lie about half of the parameters."""
    behind = np.cumsum([layer.count_params() for layer in reversed(layers)])[::-1]
    places = [i for i, layer in enumerate(layers) if behind_cut[i] and any(len(w.shape) > 1 for w in layer.weights)]
    return min(places, key=lambda i: abs(2 * int(behind[i]) - int(behind[0])), default=0)


def _first_to_train(names: list[str], unfreeze: str, backbone: str) -> int:
    if unfreeze == "all":
        return 0
    if unfreeze.isdecimal() and int(unfreeze) < len(names):
        return int(unfreeze)
    if unfreeze not in names:
        raise BackboneError(
            f"{backbone} has no layer {unfreeze!r} to train from; {suggestion(unfreeze, names)}`unfreeze` takes a "
            f"layer, its index, all or none, and `featx backbones {backbone}` lists them"
        )
    return names.index(unfreeze)


def _index_of_end(base: Any, names: list[str], end: str) -> int:
    if end in names:
        return names.index(end)
    made_by = base.outputs[0]._keras_history.operation  # the end is called "output"
    return next(i for i, layer in enumerate(base.layers) if layer is made_by)


def _cuts_before_a_tail(base: Any) -> set[str]:
    """Names of the layers that can be the cut before a tail."""
    indices = tail_cuts(base)
    names = set()
    for index, (name, layer) in enumerate(layers_by_name(base).items()):
        output = output_of(base, layer)
        if index in indices and not is_input(layer) and output is not None and len(output.shape) - 1 in FEATURE_RANKS:
            names.add(name)
    return names


def build_tail(division: Division, *, weights: str | None, random_state: int = 0) -> Any:
    """Keras model from the trunk's features at the cut to the head's input, its frozen layers set so.

    Args:
        division: as :func:`divide` gives it; its ``backbone`` may also be a network to train from nothing.
        weights: as in :func:`build_trunk`; None leaves them to be set.
        random_state: seed of random weights.

    Returns:
        Model from ``float32 (n, ...)`` (pixels are 0 to 255, preprocessing is part of it) to the end. Its
        ``trainable`` layers are those of the division.
    """
    keras = load_keras()
    if division.backbone in SCRATCH:
        return build_scratch(division.backbone, division.size, random_state)
    from_pixels = division.cut == PIXELS
    if weights is None and not (from_pixels and needs_imagenet_to_build(division.backbone)):
        weights = "none"
    built = build_network(division.backbone, weights or "imagenet", division.size, division.preprocess, random_state)
    if built.graph != division.graph:
        raise BackboneError(
            f"{division.backbone} holds another network than the one that was trained; find the old one"
        )
    output = output_at(built.base, division.end, division.backbone)
    layers = layers_by_name(built.base)
    for name, layer in layers.items():
        layer.trainable = name in division.trains
    if not from_pixels:
        cut = output_at(built.base, division.cut, division.backbone)
        try:
            return keras.Model(cut, output)
        except ValueError as error:
            raise BackboneError(f"{division.cut} of {division.backbone} cannot be a cut: {one_line(error)}") from error
    pixels = keras.Input((division.size, division.size, 3))
    x = preprocess_pictures(pixels, division.preprocess)
    inner = keras.Model(built.base.inputs, output)
    return keras.Model(pixels, inner(keras.ops.cast(x, inner.inputs[0].dtype), training=False))
