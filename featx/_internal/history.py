"""History of a training: a list of values per measure."""

from __future__ import annotations


def history_csv(history: dict[str, list[float]]) -> bytes:
    """History as CSV: a column per measure, a line per epoch, counted from 1."""
    lines = [["epoch", *history], *([n, *row] for n, row in enumerate(zip(*history.values(), strict=True), 1))]
    return "".join(",".join(map(str, line)) + "\n" for line in lines).encode()
