"""Specs, by which features are comparable, and keys, by which a row of them is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from featx._internal.hashing import digest
from featx.errors import SpecMismatchError

Spec: TypeAlias = dict[str, Any]
RowKey: TypeAlias = tuple[str, int, str]  # content id, view, and the key of the views' settings: see `row_key`


@dataclass(frozen=True)
class Place:
    """Place of one row of features.

    Attributes:
        file: feature file or block.
        row: number of the row in it.
        key: key that the row should have; None if any will do.
    """

    file: Path
    row: int
    key: RowKey | None = field(default=None, compare=False)


def spec_difference(stored: Spec, expected: Spec) -> list[str]:
    """One line for each field in which two specs differ; empty if features made by them are comparable."""
    fields = sorted(stored.keys() | expected.keys())
    return [f"{f} is {stored.get(f)}, not {expected.get(f)}" for f in fields if stored.get(f) != expected.get(f)]


def require_same_spec(stored: Spec, expected: Spec, where: str | Path) -> None:
    """Raise :class:`SpecMismatchError`, naming each field with both values, unless the two specs are equal."""
    differences = spec_difference(stored, expected)
    if differences:
        raise SpecMismatchError(
            f"{where} was made by another spec: {'; '.join(differences)}. Extract again with the settings wanted"
        )


def settings_key(augmentation: dict[str, Any]) -> str:
    """Settings of views in a few characters; empty if there are none."""
    return digest(augmentation) if augmentation else ""


def row_key(content_id: str, view: int, settings_key: str) -> RowKey:
    """Key by which a row is known, next to its spec. View 0, the picture itself, is the same whatever the settings.

    Args:
        content_id: the picture's.
        view: number of the view.
        settings_key: key of the views' settings, from :func:`settings_key`.
    """
    return content_id, view, settings_key if view else ""
