"""Completions at a press of Tab: names, and files that fit. Where nothing does, the shell offers any file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from glob import escape, glob
from pathlib import Path

import typer

from featx._internal.choices import HEADS


def _beginning_with(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def backbones(incomplete: str) -> list[str]:
    """Networks of the table, and files of networks."""
    from featx.backbones import BACKBONES

    return _beginning_with([*BACKBONES, *sorted(glob(f"{escape(incomplete)}*.keras"))], incomplete)


def heads(incomplete: str) -> list[str]:
    """Heads."""
    return _beginning_with(HEADS, incomplete)


def one_of(*names: str) -> Callable[[str], list[str]]:
    """Completion of a few names that an option takes besides others."""

    def complete(incomplete: str) -> list[str]:
        """Names that begin so."""
        return _beginning_with(names, incomplete)

    return complete


def features(ctx: typer.Context, incomplete: str) -> list[str]:
    """Feature files: those of the cache folder, and those where the word points to."""
    cached = Path(ctx.params.get("cache_dir") or "cache").glob("*.h5")
    named = glob(f"{escape(incomplete)}*.h5")
    return _beginning_with(sorted({*map(str, cached), *named}), incomplete)


def models(incomplete: str) -> list[str]:
    """Classifiers: those in ``models``, and those where the word points to."""
    files = [*Path("models").glob("*/classifier.json"), *map(Path, glob(f"{escape(incomplete)}*/classifier.json"))]
    return _beginning_with(sorted({str(file.parent) for file in files}), incomplete)
