"""Weights: Keras's own download, random ones, or those of a file; all of them checked to fit."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from featx._internal.keras import load_keras
from featx.backbones.download import build_with_download, download_place
from featx.backbones.layers import layers_by_name
from featx.backbones.preprocessing import IMAGENET_RGB_MEAN, preprocess_pictures
from featx.backbones.table import Backbone, canonical_name, find_backbone, is_model_file
from featx.errors import WeightsError, one_line


def with_imagenet(build: Callable[..., Any], options: dict[str, Any], row: Backbone) -> Any:
    """Network with Keras's ImageNet weights, downloaded if need be; that is logged, and nothing is printed.

    Args:
        build: constructor of ``keras.applications``.
        options: its arguments.
        row: the network's row in the table.

    Raises:
        WeightsError: they cannot be had: no network, or none that answers within seconds.
    """
    name = canonical_name(row.name, options.get("alpha"))
    output: list[str] = []
    try:
        return build_with_download(lambda: build(**{**options, "weights": "imagenet"}), name, output)
    except Exception as error:  # Keras raises a bare Exception when it cannot download, others break half-way
        url = re.search(r"https?://\S+?(?=[:,]?\s|$)", f"{error} {''.join(output)}")
        if url is None:
            raise WeightsError(f"no ImageNet weights for {name}: {one_line(error)}") from error
        other = "" if _rescales_for_imagenet(row) else "give `weights=FILE`, or "
        raise WeightsError(
            f"ImageNet weights for {name} could not be downloaded. Keras wants {url[0]}: put that file at "
            f'{download_place(Path(url[0]).name)}, or {other}`weights="random"` to try things out'
        ) from error


def needs_imagenet_to_build(backbone: str) -> bool:
    """Whether a network has another graph when Keras loads its ImageNet weights itself."""
    return not is_model_file(backbone) and _rescales_for_imagenet(find_backbone(backbone)[0])


def _rescales_for_imagenet(row: Backbone) -> bool:
    """Keras gives EfficientNet (not V2) one more layer when, and only when, it loads the ImageNet weights itself."""
    return row.constructor.startswith("EfficientNetB")


def refuse_imagenet_file(base: Any, file: Path, row: Backbone) -> None:
    """Raise :class:`WeightsError` for an EfficientNet's ImageNet weights in a network without the layer they need."""
    norms = [layer for layer in base.layers if type(layer).__name__ == "Normalization"]
    if _rescales_for_imagenet(row) and norms and np.allclose(norms[0].get_weights()[0], IMAGENET_RGB_MEAN, atol=1e-3):
        raise WeightsError(
            f"{file} holds ImageNet weights, for which Keras builds {row.name} with one more layer when it "
            f"loads them itself: put the file at {download_place(f'{row.name}_notop.h5')} and give "
            '`weights="imagenet"`'
        )


def randomise(base: Any, size: int, rule: str, random_state: int) -> None:
    """Random weights whose features keep a sensible scale at any depth.

    Kernels are He-normal (He et al. 2015), drawn by NumPy, so that every backend and Keras version gets the same; batch
    norms take their statistics from pictures of coarse noise, without which deep networks vanish or overflow.
    """
    ops = load_keras().ops
    for index, layer in enumerate(base.layers):
        for variable in layer.weights:
            if "kernel" in variable.name:
                depthwise = "Depthwise" in type(layer).__name__ or "depthwise" in variable.name
                fan_in = np.prod(variable.shape[:2] if depthwise else variable.shape[:-1])
                values = np.random.default_rng([random_state, index]).standard_normal(variable.shape, dtype=np.float32)
                variable.assign(values * np.float32(np.sqrt(2 / fan_in)))
        if "Dropout" in type(layer).__name__:
            layer.rate = 0.0  # never used: a trunk is frozen; and here it would make the statistics random
    norms = [layer for layer in base.layers if type(layer).__name__ == "BatchNormalization"]
    for norm in norms:
        norm.momentum = 0.0
    if norms:
        count = 4 if size >= 96 else 64  # the last maps of small pictures are one pixel
        noise = np.random.default_rng(random_state).uniform(0, 255, (count, 8, 8, 3)).astype(np.float32)
        coarse = noise.repeat(-(-size // 8), axis=1).repeat(-(-size // 8), axis=2)[:, :size, :size]
        base(preprocess_pictures(ops.convert_to_tensor(coarse), rule), training=True)


def load_weights_file(base: Any, file: Path, backbone: str) -> None:
    """Load a weights file; every layer must be found in it.

    Raises:
        WeightsError: no such file, or one that does not fit; the message names the layer.
    """
    if not file.is_file():
        raise WeightsError(
            f"no weights file {file}; `weights` takes imagenet, random, or a .weights.h5, .h5 or .keras file"
        )
    ways = [_copy_weights] if file.suffix == ".keras" else [_load_in_order]
    has_other_layouts = file.suffix != ".keras" and not file.name.endswith(".weights.h5")
    if has_other_layouts:
        ways.append(_load_by_name)  # an older file of the whole network, its classifier included
    for load in ways:
        problem = _problem_of_loading(load, base, file)
        if problem is None:
            return
    suffix = ", and does its name end in .weights.h5 if Keras 3 wrote it so" if has_other_layouts else ""
    raise WeightsError(
        f"{file} does not fit {backbone}: {problem}. Are network and width (`alpha`) the file's{suffix}?"
    )


def _problem_of_loading(load: Callable[[Any, Path], None], base: Any, file: Path) -> str | None:
    """What went wrong when a file was loaded in one of the ways; None if all weights were."""
    for variable in base.weights:
        if "float" in variable.dtype:  # Normalization counts
            variable.assign(np.full(variable.shape, np.nan, np.float32))
    try:
        with warnings.catch_warnings():
            # Such as "Affected layers will retain ...": the check for NaN is stricter
            warnings.simplefilter("ignore")
            load(base, file)
    except WeightsError:
        raise
    except Exception as error:  # Keras and h5py raise what comes along when a file does not fit
        return _mismatch(error)
    return _first_unloaded(base)


def _load_in_order(base: Any, file: Path) -> None:
    base.load_weights(file)


def _load_by_name(base: Any, file: Path) -> None:
    base.load_weights(file, by_name=True)


def _copy_weights(base: Any, file: Path) -> None:
    stored = layers_by_name(read_model(file))
    for name, layer in layers_by_name(base).items():
        if layer.weights and name in stored:
            try:
                layer.set_weights(stored[name].get_weights())
                if hasattr(layer, "finalize_state"):  # Normalization computes with a copy of its weights
                    layer.finalize_state()
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {one_line(error)}") from None


def read_model(file: Path) -> Any:
    """A Keras model from a file, which may hold a graph and weights but no code."""
    keras = load_keras()
    if not file.is_file():
        raise WeightsError(f"no such model file: {file}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # zip, JSON, HDF5 and Keras errors alike
        raise WeightsError(f"{file} was refused as a model of layers and weights only: {one_line(error)}") from error


def _first_unloaded(base: Any) -> str | None:
    for name, layer in layers_by_name(base).items():
        if any(np.isnan(np.sum(np.asarray(value))) for value in layer.get_weights()):
            return f"it has no values for layer {name!r}"
    return None


def _mismatch(error: Exception) -> str:
    """What did not fit, with the layer's name, from the many ways in which Keras says so."""
    text = str(error)
    named = re.search(r"name=([\w./-]+),|[Ll]ayer '([\w./-]+)'|named ([\w./-]+)", text)
    layer = next(filter(None, named.groups())) if named else None
    counts = re.search(r"Layer '([^']+)' expected (\d+) variables, but received (\d+)", text)
    if counts:
        return f"layer {counts[1]!r} has {counts[2]} arrays of weights, in the file {counts[3]}"
    shapes = re.search(r"variable\.shape=(\([^)]*\)), Received: value\.shape=(\([^)]*\))", text)
    if layer and shapes:
        return f"layer {layer!r} has shape {shapes[1]}, in the file {shapes[2]}"
    return f"layer {layer!r}: {one_line(error)}" if layer else one_line(error)


def hash_weights(model: Any) -> str:
    """BLAKE2b-128 of the shapes and values of all weights, in hexadecimal."""
    state = hashlib.blake2b(digest_size=16)
    for variable in model.weights:
        value = np.ascontiguousarray(variable.numpy() if hasattr(variable, "numpy") else variable, dtype="<f4")
        state.update(repr(value.shape).encode())
        state.update(value.tobytes())
    return state.hexdigest()
