"""A network without its classifier: of the table or of a user's own file, with its weights."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featx._internal.keras import held_back, load_keras
from featx.backbones.layers import is_input, layers_by_name, output_of
from featx.backbones.table import (
    PREPROCESSINGS,
    canonical_name,
    find_backbone,
    is_model_file,
    require_weights,
    resolve_size,
)
from featx.backbones.weights import (
    load_weights_file,
    randomise,
    read_model,
    refuse_imagenet_file,
    with_imagenet,
)
from featx.errors import BackboneError, SettingError, one_line, require_choice


@dataclass(frozen=True)
class Network:
    """A network without its classifier, as Keras has it.

    Attributes:
        base: the Keras model.
        name: name of it in a spec.
        layer: default cut; None if it has no map.
        size: side of its input in pixels.
        preprocess: its rule, resolved.
        graph: digest that tells one graph of a user's file from another; empty for networks of the table.
    """

    base: Any
    name: str
    layer: str | None
    size: int
    preprocess: str
    graph: str


def build_network(
    backbone: str, weights: str, size: int | None, preprocess: str = "auto", random_state: int = 0
) -> Network:
    """A network with its weights; see :func:`build_trunk`. With ``weights="none"`` they are left as they come."""
    if weights != "none":
        require_weights(weights)
    from_file = is_model_file(backbone)
    base, layer, rule = _base_and_defaults(backbone, weights, size, preprocess)
    name = Path(backbone).name if from_file else canonical_name(backbone)
    side = _side(base, size, name)
    if weights == "random":
        randomise(base, side, rule, random_state)
    elif weights not in ("imagenet", "none"):
        load_weights_file(base, Path(weights), name)
        if not from_file:
            refuse_imagenet_file(base, Path(weights), find_backbone(name)[0])
    return Network(base, name, layer, side, rule, _graph(base) if from_file else "")


def build_base(backbone: str, size: int | None, preprocess: str) -> Any:
    """The Keras model of a network, without weights; that of a user's file may leave its size open."""
    return _base_and_defaults(backbone, "none", size, preprocess)[0]


def _base_and_defaults(backbone: str, weights: str, size: int | None, preprocess: str) -> tuple[Any, str | None, str]:
    """The Keras model, its default cut, and its rule of preprocessing."""
    if is_model_file(backbone):
        return _base_of_file(backbone, preprocess)
    return _base_of_table(backbone, weights, size, preprocess)


def _base_of_table(backbone: str, weights: str, size: int | None, preprocess: str) -> tuple[Any, str, str]:
    row, width = find_backbone(backbone)
    side = resolve_size(backbone, size)
    require_choice("preprocess", preprocess, ("auto", *PREPROCESSINGS))
    if row.preprocess == "none" and preprocess not in ("auto", "none"):
        raise SettingError(
            f'{row.name} rescales its input by itself; `preprocess="{preprocess}"` would do it twice', "preprocess"
        )
    options: dict[str, Any] = {"include_top": False, "input_shape": (side, side, 3), "weights": None}
    if row.has_widths:
        options["alpha"] = width
    build = getattr(load_keras().applications, row.constructor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as "weights for input shape (224, 224) will be loaded": as intended
        try:
            base = with_imagenet(build, options, row) if weights == "imagenet" else build(**options)
        except ValueError as error:  # such as a width that leaves no channels
            raise BackboneError(f"{backbone} cannot be built: {one_line(error)}") from error
    return base, row.layer, row.preprocess if preprocess == "auto" else preprocess


def _base_of_file(file: str, preprocess: str) -> tuple[Any, str | None, str]:
    if preprocess not in PREPROCESSINGS:
        raise SettingError(
            f"featx cannot know how {file} wants its pictures; give `preprocess` as one of {', '.join(PREPROCESSINGS)}",
            "preprocess",
        )
    base = read_model(Path(file))
    shape = getattr(base, "input_shape", None)
    if not (isinstance(shape, tuple) and len(shape) == 4 and shape[-1] == 3):
        raise BackboneError(f"{file} takes input of shape {shape}; expected pictures, (n, height, width, 3)")
    if "float" not in base.inputs[0].dtype and preprocess != "none":
        raise SettingError(
            f'{file} takes {base.inputs[0].dtype}, which `preprocess="{preprocess}"` would round to nothing; give '
            '`preprocess="none"`',
            "preprocess",
        )
    return base, _last_map(base), preprocess


def _last_map(base: Any) -> str | None:
    """The default cut of a user's network: its output if that is a map, else the last layer that gives one."""
    outputs = {n: output_of(base, layer) for n, layer in layers_by_name(base).items() if not is_input(layer)}
    maps = {name: output for name, output in outputs.items() if output is not None and len(output.shape) == 4}
    if len(base.outputs) == 1 and len(base.outputs[0].shape) == 4:
        return next((name for name in maps if maps[name] is base.outputs[0]), "output")
    return list(maps)[-1] if maps else None


def _side(base: Any, size: int | None, name: str) -> int:
    """Side of the square input: the network's if it is fixed, else ``size``."""
    _, height, width, _ = base.input_shape
    side = height or width or size
    if height != width:
        raise BackboneError(f"{name} takes pictures of {height} x {width} pixels; featx makes squares only")
    if side is None:
        raise SettingError(f"{name} leaves the size of its input open; give `size`", "size")
    if {height or side, width or side, size or side} != {side}:
        raise SettingError(f"{name} takes pictures of {height} x {width} pixels, asked for {size} x {size}", "size")
    return int(side)


def _graph(base: Any) -> str:
    with held_back():  # Keras imports TensorFlow here, if it is installed, on other backends too
        return hashlib.blake2b(base.to_json().encode(), digest_size=8).hexdigest()
