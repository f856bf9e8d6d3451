"""The version of featx, which ``pyproject.toml`` alone states."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def featx_version() -> str:
    """The installed version, such as ``0.2.0``; ``unknown`` where featx is imported without being installed."""
    try:
        return version("featx")
    except PackageNotFoundError:
        return "unknown"
