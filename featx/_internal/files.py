"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name, sync it, and rename it; one that exists is replaced in the last instant."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # threads may write at once
    try:
        unfinished.write_bytes(data)
        sync(unfinished)
        os.replace(unfinished, path)
        sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def history_csv(history: dict[str, list[float]]) -> bytes:
    """A training's history as CSV: a column a measure, a line an epoch, counted from 1."""
    lines = [["epoch", *history], *([n, *row] for n, row in enumerate(zip(*history.values(), strict=True), 1))]
    return "".join(",".join(map(str, line)) + "\n" for line in lines).encode()


def sync(path: Path) -> None:
    """Make a file or folder survive a power cut. Windows cannot sync a folder and does not need to."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
