"""What the tests of feature files and the cache folder share."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import featx
from featx.cache import write_features

SPEC = {"backbone": "tiny.keras", "weights": "abc", "layer": "last", "size": 32, "dtype": "float16"}
SPEC32 = {**SPEC, "dtype": "float32"}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(featx.__file__).parents[1])}


def values(rows: int, shape: tuple[int, ...] = (2, 2, 3), dtype: str = "float16", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 10, (rows, *shape)).astype(dtype)


def tables(ids: list[str], **more: Any) -> dict[str, Any]:
    """All tables a finished file has, for rows with these content ids."""
    return {
        "ids": ids,
        "views": [0] * len(ids),
        "labels": [number % 2 for number in range(len(ids))],
        "paths": [f"class/{name}.png" for name in ids],
        "splits": ["train"] * len(ids),
        "quarantine": [("class/bad.png", "f" * 32, "the file is empty")],
        "stat": [("class/bad.png", "f" * 32, 0, 1, 2)],
        **more,
    }


def write(
    path: Path, ids: list[str] | int = 6, spec: dict[str, Any] = SPEC, root: str = "/data", seed: int = 0, **more: Any
) -> np.ndarray:
    """Write a feature file with all tables; returns its features."""
    names = [f"id{number}" for number in range(ids)] if isinstance(ids, int) else ids
    features = values(len(names), dtype=spec["dtype"], seed=seed)
    attributes = {"class_names": ["a", "b"], "dataset": "data", "root": root}
    write_features(path, [features], features.shape, spec=spec, tables=tables(names, **more), attributes=attributes)
    return features


def age(path: Path, seconds: int) -> None:
    """Make a file look as if it had been written that long ago."""
    then = time.time_ns() - seconds * 10**9
    os.utime(path, ns=(then, then))


def flip(path: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def damage(path: Path, row: int, byte: int = 0) -> None:
    """Flip one bit in a row's features."""
    with h5py.File(path) as file:
        start, row_bytes = file["features"].id.get_offset(), file["features"][0].nbytes
    flip(path, start + row * row_bytes + byte, 3)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())
