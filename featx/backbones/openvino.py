"""OpenVINO in Keras's place on a processor: the same network, converted once, and faster."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import sys
import tempfile
import threading
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from featx._internal.choices import Engine
from featx._internal.files import replacing
from featx._internal.keras import backend_asked, held_back
from featx.backbones.devices import gpus
from featx.backbones.trunk import KerasTrunk, Trunk, TrunkInfo
from featx.errors import BackboneError, SettingError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENGINES: tuple[str, ...] = get_args(Engine)
FILES = ("network.xml", "network.bin")
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def installed() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


def fastest_engine(precision: str) -> str:
    """Engine that ``auto`` means on this machine: ``openvino`` on a processor, if it is installed and can do it.

    ``FEATX_ENGINE`` in the environment decides otherwise.
    """
    engine = os.environ.get("FEATX_ENGINE", "auto")
    if engine in ("keras", "openvino"):
        return engine
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
        folder: folder in which to keep converted networks; by default they are not kept.
        threads: threads that compute; by default as many as there are cores.

    Raises:
        BackboneError: OpenVINO is not installed, or it or this processor cannot compute the network so.
        SettingError: a precision that OpenVINO does not know on a processor.
    """
    if precision not in _HINTS:
        raise SettingError(
            f'OpenVINO does not compute in {precision} on a processor; give `engine="keras"`', "precision"
        )
    if not installed():
        raise BackboneError("OpenVINO is not installed: pip install '.[openvino]', or give `engine=\"keras\"`")
    if precision == "bfloat16" and not _has_bfloat16():
        raise BackboneError("this processor has no bfloat16 arithmetic for OpenVINO; leave `precision` out")
    if not isinstance(trunk, KerasTrunk):
        raise BackboneError(f"OpenVINO computes what Keras can; {trunk.info.backbone} is not computed by Keras")
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _HINTS[precision]}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    info = replace(trunk.info, precision=precision, engine="openvino", lanes=1)
    return OpenVINOTrunk(info, _read_converted(trunk, folder), options)


class OpenVINOTrunk:
    """Trunk that OpenVINO computes on the processor; see :func:`with_openvino`.

    Attributes:
        info: record of the trunk.
    """

    def __init__(self, info: TrunkInfo, network: Any, options: dict[str, Any]) -> None:
        self.info = info
        self._network = network
        self._options = options
        self._requests: dict[int, Any] = {}  # by batch size
        self._lock = threading.Lock()

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """See :class:`Trunk`."""
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
    """Module ``openvino``, without the telemetry that its converter would send unasked."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # the import fails; it has a stub then
    import openvino

    return openvino


def _has_bfloat16() -> bool:
    capabilities: list[str] = _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


def _read_converted(trunk: KerasTrunk, folder: Path | None) -> Any:
    """OpenVINO's network for a trunk, converted into ``folder``, or into one that is removed again."""
    with contextlib.ExitStack() as stack:
        if folder is None:
            temporary = tempfile.TemporaryDirectory(prefix="featx-", ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(temporary))
        return _openvino().Core().read_model(_converted(trunk, folder))


def _converted(trunk: KerasTrunk, folder: Path) -> Path:
    """File of the converted network, from before if it is whole and of the same weights and versions."""
    info = trunk.info
    made_of = [info.backbone, info.weights, info.layer, info.pooling, info.size, info.preprocess]
    name = hashlib.blake2b(repr([*made_of, version("keras"), version("openvino")]).encode(), digest_size=8).hexdigest()
    network = folder / name
    if not _is_whole(network):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(network) as unfinished:
            unfinished.mkdir()
            _convert(trunk, unfinished)
    return network / FILES[0]


def _convert(trunk: KerasTrunk, folder: Path) -> None:
    _openvino()
    try:
        with held_back(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trunk.export(folder / FILES[0])
    except Exception as error:  # converters raise anything for what they do not know
        raise BackboneError(
            f'{trunk.info.backbone} cannot be converted to OpenVINO: {one_line(error)}. Give `engine="keras"`'
        ) from error
    (folder / "digest").write_text(_digest_of(folder))


def _is_whole(folder: Path) -> bool:
    try:
        return (folder / "digest").read_text() == _digest_of(folder)
    except OSError:
        return False


def _digest_of(folder: Path) -> str:
    state = hashlib.blake2b(digest_size=16)
    for name in FILES:
        state.update((folder / name).read_bytes())
    return state.hexdigest()
