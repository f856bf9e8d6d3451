"""Memory that featx keeps from call to call, so that the next one is quick, and its release."""

from __future__ import annotations

from collections.abc import Callable

_RELEASES: list[Callable[[], object]] = []


def released_by_clear_memory(release: Callable[[], object]) -> None:
    """Register a function that lets go of something kept in memory; to be called once, where that is defined."""
    _RELEASES.append(release)


def clear_memory() -> None:
    """Release what featx keeps in memory from call to call: networks, features, and tables of feature files.

    Nothing is lost but time: whatever is needed again is built, read or computed again. Objects that you hold, such as
    :class:`featx.Features` or :class:`featx.Classifier`, stay as they are.

    Example:
        >>> import featx
        >>> featx.clear_memory()
    """
    for release in _RELEASES:
        release()
