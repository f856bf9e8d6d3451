"""Weights: Keras's own download, random ones, or a file's; all of them checked to fit."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import socket
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from featx._internal.keras import load_keras
from featx.backbones.layers import layers_by_name
from featx.backbones.preprocessing import IMAGENET_RGB_MEAN, preprocess_pictures
from featx.backbones.table import Backbone, canonical_name, find_backbone, is_model_file
from featx.errors import WeightsError, one_line

logger = logging.getLogger(__name__)

DOWNLOAD_TIMEOUT = 10.0  # seconds without a byte
# Files that Keras saves under another name than their address has
_SAVED_AS = {
    "NASNet-mobile-no-top.h5": "nasnet_mobile_no_top.h5",
    "NASNet-large-no-top.h5": "nasnet_large_no_top.h5",
}


def with_imagenet(build: Callable[..., Any], options: dict[str, Any], row: Backbone) -> Any:
    """Build with Keras's ImageNet weights, downloaded if need be; how that goes is logged, and nothing is printed.

    Raises:
        WeightsError: they cannot be had: no network, or none that answers within seconds.
    """
    name = canonical_name(row.name, options.get("alpha"))
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    said = _Said(name)
    try:
        with contextlib.redirect_stdout(said):
            return _unless_it_hangs(lambda: build(**{**options, "weights": "imagenet"}), said)
    except Exception as error:  # Keras raises a bare Exception when it cannot download, others break half-way
        url = re.search(r"https?://\S+?(?=[:,]?\s|$)", f"{error} {said.text}")
        if url is None:
            raise WeightsError(f"no ImageNet weights for {name}: {one_line(error)}") from error
        other = "" if _rescales_for_imagenet(row) else "give --weights FILE, or "
        raise WeightsError(
            f"ImageNet weights for {name} could not be downloaded. Keras wants {url[0]}: put that file at "
            f"{_place(Path(url[0]).name)}, or {other}--weights random to try things out"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _place(file: str) -> Path:
    """Where Keras keeps a downloaded file."""
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    return home / "models" / _SAVED_AS.get(file, file)


def _unless_it_hangs(build: Callable[[], Any], said: _Said) -> Any:
    """What ``build`` returns or raises, unless a connection takes too long.

    A socket's own timeout does not bound that: names are looked up without one, and a host's addresses tried in turn.
    """
    outcome: list[Any] = []
    thread = threading.Thread(target=lambda: outcome.append(_caught(build)), daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.05)
        if said.connecting_since and time.monotonic() - said.connecting_since > DOWNLOAD_TIMEOUT:
            raise TimeoutError("no answer")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _caught(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except BaseException as error:
        return error


class _Said:
    """Listens to what Keras prints while downloading: the address, then how many bytes of how many."""

    def __init__(self, name: str) -> None:
        self.name, self.text, self.connecting_since, self._logged = name, "", 0.0, -1

    def write(self, text: str) -> int:
        self.text = (self.text + text)[:2000]
        bytes_done = re.search(r"(\d+)/(\d+)", text)
        if bytes_done:
            self.connecting_since = 0.0
            self._log(int(bytes_done[1]), int(bytes_done[2]))
        elif "Downloading data from" in text:
            self.connecting_since = time.monotonic()
        return len(text)

    def _log(self, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if tenth > self._logged:
            self._logged = tenth
            logger.info("downloading the weights of %s: %d %% of %.0f MB", self.name, 10 * tenth, total / 1e6)

    def flush(self) -> None:
        """Nothing is held back."""


def needs_imagenet_to_build(backbone: str) -> bool:
    """Whether a network has another graph when Keras loads its ImageNet weights itself."""
    return not is_model_file(backbone) and _rescales_for_imagenet(find_backbone(backbone)[0])


def _rescales_for_imagenet(row: Backbone) -> bool:
    """Keras gives EfficientNet (not V2) one more layer when, and only when, it loads the ImageNet weights itself."""
    return row.constructor.startswith("EfficientNetB")


def refuse_imagenet_file(base: Any, file: Path, row: Backbone) -> None:
    """ImageNet weights of an EfficientNet, in a network that lacks the layer which Keras builds for them."""
    norms = [layer for layer in base.layers if type(layer).__name__ == "Normalization"]
    if _rescales_for_imagenet(row) and norms and np.allclose(norms[0].get_weights()[0], IMAGENET_RGB_MEAN, atol=1e-3):
        raise WeightsError(
            f"{file} holds ImageNet weights, for which Keras builds {row.name} with one more layer when it "
            f"loads them itself: put the file at {_place(f'{row.name}_notop.h5')} and give --weights imagenet"
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
    """Load a weights file; every layer must be found in it."""
    if not file.is_file():
        raise WeightsError(
            f"no weights file {file}; --weights takes imagenet, random, or a .weights.h5, .h5 or .keras file"
        )
    if file.suffix not in (".h5", ".hdf5", ".keras"):
        raise WeightsError(f"{file}: expected a .weights.h5, .h5 or .keras file")
    attempts = [_copy_weights] if file.suffix == ".keras" else [_load_in_order]
    if file.suffix != ".keras" and not file.name.endswith(".weights.h5"):
        attempts.append(_load_by_name)  # an older file of the whole network, its classifier included
    for attempt in attempts:
        try:
            for variable in base.weights:
                if "float" in variable.dtype:  # Normalization counts
                    variable.assign(np.full(variable.shape, np.nan, np.float32))
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # "Affected layers will retain ...": the check for NaN below is stricter
                attempt(base, file)
            problem = _first_unloaded(base)
        except WeightsError:
            raise
        except Exception as error:  # Keras and h5py raise what comes along when a file does not fit
            problem = _mismatch(error)
        if problem is None:
            return
    renamed = (
        ""
        if file.suffix == ".keras" or file.name.endswith(".weights.h5")
        else (", and does its name end in .weights.h5 if Keras 3 wrote it so")
    )
    raise WeightsError(
        f"{file} does not fit {backbone}: {problem}. Are network and width (--alpha) the file's{renamed}?"
    )


def _load_in_order(base: Any, file: Path) -> None:
    base.load_weights(file)


def _load_by_name(base: Any, file: Path) -> None:
    base.load_weights(file, by_name=True)


def _copy_weights(base: Any, file: Path) -> None:
    theirs = layers_by_name(read_model(file))
    for name, layer in layers_by_name(base).items():
        if layer.weights and name in theirs:
            try:
                layer.set_weights(theirs[name].get_weights())
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
    layer = re.search(r"name=([\w./-]+),|[Ll]ayer '([\w./-]+)'|named ([\w./-]+)", text)
    counts = re.search(r"Layer '([^']+)' expected (\d+) variables, but received (\d+)", text)
    if counts:
        return f"layer {counts[1]!r} has {counts[2]} arrays of weights, in the file {counts[3]}"
    shapes = re.search(r"variable\.shape=(\([^)]*\)), Received: value\.shape=(\([^)]*\))", text)
    if layer and shapes:
        return f"layer {next(filter(None, layer.groups()))!r} has shape {shapes[1]}, in the file {shapes[2]}"
    return f"layer {next(filter(None, layer.groups()))!r}: {one_line(error)}" if layer else one_line(error)


def hash_weights(model: Any) -> str:
    """BLAKE2b-128 of the shapes and values of all weights, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    for variable in model.weights:
        value = np.ascontiguousarray(variable.numpy() if hasattr(variable, "numpy") else variable, dtype="<f4")
        digest.update(repr(value.shape).encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
