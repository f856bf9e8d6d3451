"""What the tests of extraction share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import disk_of, picture
from PIL import Image

import featx
from featx.backbones import KerasTrunk
from featx.cache import Features
from featx.extraction import Extraction
from featx.extraction import census as census_module
from featx.extraction import run as run_module
from featx.extraction import share as share_module

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(featx.__file__).parents[1])}
Run = Callable[..., Extraction]
Make = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path, tiny_backbone: str) -> Run:
    """``extract`` into ``tmp_path / "cache"`` by the tiny backbone."""

    def extract(dataset: Path, **options: Any) -> Extraction:
        usual = {"cache_dir": tmp_path / "cache", "backbone": tiny_backbone, "preprocess": "rescale", "batch_size": 4}
        return run_module.extract(dataset, **{**usual, **options})

    return extract


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this instant count as settled, so that a second run need not read them."""
    monkeypatch.setattr(census_module, "RACY_NS", 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    with disk_of("1m", tmp_path / "disk") as folder:
        yield folder


def on_call(monkeypatch: pytest.MonkeyPatch, number: int, what: Callable[[], Any]) -> None:
    """Do something just before the trunk's ``number``-th call."""
    real, calls = KerasTrunk.__call__, iter(range(1, 10**6))

    def call(self: KerasTrunk, images: Any) -> Any:
        if next(calls) == number:
            what()
        return real(self, images)

    monkeypatch.setattr(KerasTrunk, "__call__", call)


def interrupt(run: Run, root: Path, after: int, monkeypatch: pytest.MonkeyPatch, block_rows: int = 2) -> Path:
    """Ctrl-C after some pictures; returns the folder of blocks."""

    def ctrl_c() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(share_module, "BLOCK_ROWS", block_rows)
        patch.setattr(share_module, "BLOCK_SECONDS", 0)
        on_call(patch, after + 1, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            run(root, batch_size=1)
    (partial,) = (root.parent / "cache").glob("*.partial")
    return partial


def damage(path: Path | str, row: int) -> None:
    """Flip one bit in a row's features."""
    with h5py.File(path) as file:
        at = file["features"].id.get_offset() + row * file["features"][0].nbytes + 5
    data = bytearray(Path(path).read_bytes())
    data[at] ^= 4
    Path(path).write_bytes(data)


def by_hand(backbone: str, root: Path, paths: Any) -> np.ndarray:
    """Features computed without listing, cache, threads and batches."""
    trunk = featx.build_trunk(backbone, preprocess="rescale")
    pictures = [
        np.asarray(Image.open(root / p).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)) for p in paths
    ]
    return np.concatenate([trunk(image[None]) for image in pictures])


def values(done: Extraction) -> np.ndarray:
    return Features(done.features_path).stored()


def add_bad_pictures(root: Path) -> dict[str, str]:
    """Pictures that cannot be read, and a word of the reason for each."""
    half = (root / "lying" / "whole.jpg").with_suffix(".tmp")
    picture(0, 99, (200, 150)).save(half, "JPEG")
    (root / "lying" / "half.png").write_bytes(half.read_bytes()[:2000])
    half.unlink()
    (root / "lying" / "empty.jpg").write_bytes(b"")
    (root / "standing" / "page.jpg").write_text("<html>404 not found</html>")
    (root / "standing" / "pipe.png").mkdir() if os.name == "nt" else os.mkfifo(root / "standing" / "pipe.png")
    return {
        "lying/empty.jpg": "empty",
        "lying/half.png": "damaged",
        "standing/page.jpg": "not a picture",
        "standing/pipe.png": "not a regular file",
    }


FAKE = """
import dataclasses, json, os, signal, sys, time
import numpy as np
import featx.extraction.recipe, featx.extraction.run, featx.extraction.share
from featx.cache import Features

class Fake:
    '''A trunk without a network library: the picture's mean colours.'''
    info = featx.backbones.TrunkInfo(
        backbone="fake", weights="fake", layer="last", pooling="none", size=32, preprocess="none", precision="float32",
        engine="fake", feature_shape=(2, 2, 3), batch_size=32,
    )
    seconds = 0.0

    def __call__(self, images):
        time.sleep(self.seconds)
        return images.reshape(-1, 2, 16, 2, 16, 3).mean(axis=(2, 4), dtype=np.float32)

featx.extraction.recipe.Recipe.trunk = lambda self: Fake()
root, cache = sys.argv[1], sys.argv[2]

def extract(cache, **options):
    return featx.extract(root, cache_dir=cache, backbone="vgg16", **{"batch_size": 1, **options})
"""
