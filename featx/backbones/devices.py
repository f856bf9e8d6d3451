"""The device that computes: processor or accelerator, the batch size that suits it, and the precision."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np

from featx._internal.choices import Precision
from featx._internal.keras import load_keras
from featx.backbones.layers import output_of

PRECISIONS: tuple[str, ...] = get_args(Precision)
CPU_BATCH = 32  # pictures; beyond, nothing is gained on a processor
ACCELERATOR_BATCH = 256
LARGEST_MAPS = 4  # of its largest map a network holds about so many at once
SHARE_OF_MEMORY = 4  # a quarter of what is free, at most


@cache
def accelerated() -> bool:
    """Whether Keras computes on a GPU or TPU."""
    devices = load_keras().distribution.list_devices()
    return any(name.lower().startswith(("gpu", "tpu", "cuda", "rocm")) for name in devices)


def gpus() -> list[str]:
    """NVIDIA GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them. Keras is not loaded."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    folder = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number, _ in enumerate(folder.iterdir())] if folder.is_dir() else []


def fitting_batch_size(model: Any) -> int:
    """Batch size that suits a Keras model's device and the memory that is free; a power of two."""
    if accelerated():  # whose memory Keras does not tell; should it be too small, the batch is halved
        return ACCELERATOR_BATCH
    maps = [output_of(model, layer) for layer in model.layers]
    per_picture = 4 * LARGEST_MAPS * max(_values(output) for output in maps if output is not None)
    fitting = max(1, _free_memory() // SHARE_OF_MEMORY // per_picture)
    return min(CPU_BATCH, 1 << (fitting.bit_length() - 1))


def compiled(model: Any) -> Callable[[Any], Any]:
    """Function that runs a Keras model on a batch, compiled for each batch size once, and safe in two threads."""
    if load_keras().backend.backend() != "jax":
        return lambda images: model.predict_on_batch(images)
    import jax  # whose compiled function starts at once: Keras's own hands over every variable at each call

    variables = ([v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables])
    run = jax.jit(lambda trained, other, images: model.stateless_call(trained, other, images, training=False)[0])
    return lambda images: run(*variables, images)


def compute_in(base: Any, precision: str) -> None:
    """Let every layer of a network compute in ``bfloat16`` or ``float16``; its weights stay as they are."""
    policy = load_keras().DTypePolicy(f"mixed_{precision}")
    for layer in base.layers:
        if hasattr(layer, "layers"):
            compute_in(layer, precision)
        else:
            layer.dtype_policy = policy


def _values(tensor: Any) -> int:
    return int(np.prod([n or 1 for n in tensor.shape]))


def _free_memory() -> int:
    """Bytes of memory that are free; where the system does not tell, enough not to matter."""
    try:
        return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return 2**36
