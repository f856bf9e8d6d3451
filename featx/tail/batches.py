"""Rows in batches of one size, read by threads ahead of the network that works on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featx._internal.parallel import in_threads
from featx.errors import PictureError, TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCHES_AHEAD = 4  # are read, or wait


def of_epoch(X: Any, number: int) -> Any:
    """Rows as they are in an epoch: anew if they have ``of_epoch``, else always the same."""
    return X.of_epoch(number) if hasattr(X, "of_epoch") else X


def read_ahead(X: Any, batches: Sequence[Any]) -> Iterator[NDArray[np.float32]]:
    """Rows ``X[batch]`` of each of the batches, which are numbers of rows, as float32 and in order.

    Raises:
        TrainingError: a picture that can no longer be read.
    """
    loaded = in_threads(range(len(batches)), lambda i: np.asarray(X[batches[i]], np.float32), BATCHES_AHEAD)
    for _, rows in loaded:
        if isinstance(rows, PictureError):
            raise TrainingError(f"a picture is not what it was when training began: {rows}")
        yield rows


def in_batches(model: Any, X: Any, batch_size: int) -> Iterator[NDArray[np.float32]]:
    """Output of a Keras model for the rows of ``X``, by batches; the last is filled up: nothing is compiled anew."""
    starts = range(0, len(X), batch_size)
    for rows in read_ahead(X, [np.arange(start, min(start + batch_size, len(X))) for start in starts]):
        whole = np.zeros((batch_size, *rows.shape[1:]), np.float32)
        whole[: len(rows)] = rows
        yield np.asarray(model.predict_on_batch(whole))[: len(rows)]
