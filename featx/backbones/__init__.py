"""Backbones: one table of networks, and a trunk built from one of them at a cut.

A trunk takes ``uint8 (n, size, size, 3)`` RGB and gives ``float32 (n, h, w, c)``, or ``(n, c)`` if pooled. The
preprocessing of its network is part of it, so that it can neither be forgotten nor be applied twice.
"""

from featx.backbones.layers import LayerRow
from featx.backbones.table import (
    BACKBONES,
    POOLINGS,
    PREPROCESSINGS,
    Backbone,
    canonical_name,
    find_backbone,
    is_model_file,
    resolve_size,
)
from featx.backbones.trunk import Trunk, build_trunk, list_layers

__all__ = [
    "BACKBONES",
    "POOLINGS",
    "PREPROCESSINGS",
    "Backbone",
    "LayerRow",
    "Trunk",
    "build_trunk",
    "canonical_name",
    "find_backbone",
    "is_model_file",
    "list_layers",
    "resolve_size",
]
