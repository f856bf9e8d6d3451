"""OpenVINO in Keras's place on a processor: the same network, converted once, and faster."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
import threading
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from featx._internal.choices import Engine
from featx._internal.files import sync
from featx._internal.keras import backend_asked, held_back
from featx.backbones.devices import gpus
from featx.backbones.trunk import Trunk
from featx.errors import BackboneError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENGINES: tuple[str, ...] = get_args(Engine)
FILES = ("network.xml", "network.bin")
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def installed() -> bool:
    """Whether there is an OpenVINO here."""
    return importlib.util.find_spec("openvino") is not None


def fastest_engine(precision: str) -> str:
    """The engine that ``auto`` means on this machine: ``openvino`` on a processor that it is installed for.

    ``FEATX_ENGINE`` in the environment decides otherwise.
    """
    asked = os.environ.get("FEATX_ENGINE", "auto")
    if asked in ("keras", "openvino"):
        return asked
    if gpus() or not installed() or precision not in _HINTS:
        return "keras"
    if backend_asked() == "jax":  # whose exported networks are one operation, which OpenVINO cannot take apart
        return "keras"
    return "openvino" if precision == "float32" or _has_bfloat16() else "keras"


def with_openvino(
    trunk: Trunk, *, precision: str = "float32", folder: Path | None = None, threads: int | None = None
) -> Trunk:
    """The same trunk, computed by OpenVINO on the processor.

    Args:
        trunk: built by Keras in float32.
        precision: ``float32`` or ``bfloat16``.
        folder: where converted networks are kept; by default nowhere.
        threads: that compute; by default as many as there are cores.

    Raises:
        BackboneError: OpenVINO is not installed, cannot compute in that precision, or cannot convert the network.
    """
    if not installed():
        raise BackboneError("OpenVINO is not installed: pip install '.[openvino]', or give --engine keras")
    if precision not in _HINTS:
        raise BackboneError(f"OpenVINO does not compute in {precision} on a processor; give --engine keras")
    if precision == "bfloat16" and not _has_bfloat16():
        raise BackboneError("this processor has no bfloat16 arithmetic for OpenVINO; leave --precision out")
    return _OpenVINO(trunk, precision, folder, threads)


class _OpenVINO(Trunk):
    """See :func:`with_openvino`."""

    def __init__(self, trunk: Trunk, precision: str, folder: Path | None, threads: int | None) -> None:
        self.backbone, self.layer, self.pooling, self.size = trunk.backbone, trunk.layer, trunk.pooling, trunk.size
        self.preprocess, self.weights, self.feature_shape = trunk.preprocess, trunk.weights, trunk.feature_shape
        self.precision, self.engine = precision, "openvino"
        self.batch_size, self.lanes = trunk.batch_size, 1
        self._options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _HINTS[precision]}
        if threads:
            self._options["INFERENCE_NUM_THREADS"] = threads
        self._requests: dict[int, Any] = {}
        self._lock = threading.Lock()
        with contextlib.ExitStack() as stack:
            if folder is None:
                temporary = tempfile.TemporaryDirectory(prefix="featx-", ignore_cleanup_errors=True)
                folder = Path(stack.enter_context(temporary))
            self._network = _openvino().Core().read_model(_converted(trunk, folder))

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with self._lock:  # one request has one place for its results
            if len(images) not in self._requests:
                self._requests[len(images)] = self._request(images.shape)
            results = self._requests[len(images)].infer({0: np.ascontiguousarray(images)}, share_inputs=True)
            return np.array(results[0], dtype=np.float32)

    def _request(self, shape: tuple[int, ...]) -> Any:
        network = self._network.clone()
        network.reshape(list(shape))  # a size known beforehand is faster
        return _openvino().Core().compile_model(network, "CPU", self._options).create_infer_request()


def _openvino() -> Any:
    """The ``openvino`` module, without the telemetry that its converter would send unasked."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # the import fails; it has a stub then
    import openvino

    return openvino


def _has_bfloat16() -> bool:
    capabilities: list[str] = _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


def _converted(trunk: Trunk, folder: Path) -> Path:
    """The converted network in ``folder``, from before if it is whole and of the same weights and versions."""
    made_of = [trunk.backbone, trunk.weights, trunk.layer, trunk.pooling, trunk.size, trunk.preprocess]
    name = hashlib.blake2b(repr([*made_of, version("keras"), version("openvino")]).encode(), digest_size=8).hexdigest()
    place = folder / name
    if not _is_whole(place):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder, ignore_cleanup_errors=True) as unfinished:
            _convert(trunk, Path(unfinished))
            shutil.rmtree(place, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process was quicker
                os.replace(unfinished, place)
    return place / FILES[0]


def _convert(trunk: Trunk, folder: Path) -> None:
    _openvino()
    try:
        with held_back(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trunk._model.export(str(folder / FILES[0]), format="openvino", verbose=False)
    except Exception as error:  # converters raise anything for what they do not know
        raise BackboneError(
            f"{trunk.backbone} cannot be converted to OpenVINO: {one_line(error)}. Give --engine keras"
        ) from error
    (folder / "digest").write_text(_digest(folder))
    for file in folder.iterdir():
        sync(file)


def _is_whole(place: Path) -> bool:
    try:
        return (place / "digest").read_text() == _digest(place)
    except OSError:
        return False


def _digest(place: Path) -> str:
    state = hashlib.blake2b(digest_size=16)
    for name in FILES:
        state.update((place / name).read_bytes())
    return state.hexdigest()
