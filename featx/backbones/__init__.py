"""Backbones: one table of networks, and a trunk built from one of them at a cut.

A trunk takes ``uint8 (n, size, size, 3)`` RGB and gives ``float32 (n, h, w, c)``, or ``(n, c)`` if pooled. The
preprocessing of its network is part of it, so that it can neither be forgotten nor be applied twice.
"""

from featx.backbones.devices import PRECISIONS, accelerated, gpus
from featx.backbones.layers import LayerRow
from featx.backbones.openvino import ENGINES, OpenVINOTrunk, fastest_engine, with_openvino
from featx.backbones.scratch import SCRATCH, has_mean_image, set_mean_image
from featx.backbones.table import (
    BACKBONES,
    PIXELS,
    POOLINGS,
    PREPROCESSINGS,
    Backbone,
    canonical_name,
    find_backbone,
    is_model_file,
    require_weights,
    resolve_size,
)
from featx.backbones.tail import Division, build_tail, divide, list_layers
from featx.backbones.trunk import KerasTrunk, PixelTrunk, Trunk, TrunkInfo, build_trunk

__all__ = [
    "BACKBONES",
    "ENGINES",
    "PIXELS",
    "POOLINGS",
    "PRECISIONS",
    "PREPROCESSINGS",
    "SCRATCH",
    "Backbone",
    "Division",
    "KerasTrunk",
    "LayerRow",
    "OpenVINOTrunk",
    "PixelTrunk",
    "Trunk",
    "TrunkInfo",
    "accelerated",
    "build_tail",
    "build_trunk",
    "canonical_name",
    "divide",
    "fastest_engine",
    "find_backbone",
    "gpus",
    "has_mean_image",
    "is_model_file",
    "list_layers",
    "require_weights",
    "resolve_size",
    "set_mean_image",
    "with_openvino",
]
