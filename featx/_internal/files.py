"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all; one that exists is replaced in the last instant."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Name under which to write a file or folder that is to become ``path``.

    On leaving, what was written is synced and renamed: whenever the machine stops, a reader finds the old content or
    the new, never a part. After an error it is removed. Of two processes that write the same folder, the first wins.
    """
    # Hidden, so that no listing takes it for finished; random, because threads, and processes of several machines with
    # equal numbers, may write at once; named after the file, so that `remove_unfinished` finds what a kill has left
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        yield unfinished
        if unfinished.is_dir():
            for file in unfinished.iterdir():
                sync(file)
        sync(unfinished)
        _rename(unfinished, path)
        sync(path.parent)
    finally:
        with contextlib.suppress(OSError):  # what went wrong before is what matters
            shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes left of a file under other names; nobody else may be writing it."""
    for unfinished in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with contextlib.suppress(OSError):
            unfinished.unlink()


def sync(path: Path) -> None:
    """Make a file or folder survive a power cut. Windows cannot sync a folder and does not need to."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(source: Path, target: Path) -> None:
    if not source.is_dir():
        os.replace(source, target)
        return
    shutil.rmtree(target, ignore_errors=True)  # a folder takes the place of an empty one only
    try:
        os.replace(source, target)
    except OSError:
        if not target.is_dir():  # else another process was quicker
            raise
