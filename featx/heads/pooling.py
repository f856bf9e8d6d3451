"""Maps as rows: flat or pooled, and max-pooled 2 x 2 before they become flat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from featx._internal.choices import Input

if TYPE_CHECKING:
    from numpy.typing import NDArray

INPUTS: tuple[str, ...] = get_args(Input)


def is_map(X: Any) -> bool:
    """Whether ``X`` is an array of maps, ``(n, h, w, c)``."""
    return isinstance(X, np.ndarray) and X.ndim == 4


def as_rows(X: Any, input: str) -> Any:
    """Maps ``(n, h, w, c)`` flattened or pooled to ``(n, d)``, float16 made float32; anything else as it is."""
    if isinstance(X, np.ndarray) and X.dtype == np.float16:
        X = X.astype(np.float32)  # sums of float16 overflow
    if not is_map(X):
        return X
    if input == "flat":
        return X.reshape(len(X), -1)
    return X.mean(axis=(1, 2)) if input == "avg" else X.max(axis=(1, 2))


def width(feature_shape: tuple[int, ...], input: str) -> int:
    """Columns of a row made from features of a shape, ``(h, w, c)`` or ``(d,)``."""
    return int(np.prod(feature_shape)) if input == "flat" else int(feature_shape[-1])


def downsampled_shape(feature_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Shape of a map ``(h, w, c)`` max-pooled 2 x 2, where odd maps keep their last row."""
    return -(-feature_shape[0] // 2), -(-feature_shape[1] // 2), feature_shape[2]


def downsample(maps: NDArray[Any]) -> NDArray[Any]:
    """Maps ``(n, h, w, c)`` max-pooled 2 x 2, where odd maps keep their last row, in the same dtype."""
    rows = maps[:, ::2].copy()
    np.maximum(rows[:, : maps.shape[1] // 2], maps[:, 1::2], out=rows[:, : maps.shape[1] // 2])
    pooled = rows[:, :, ::2].copy()
    half = maps.shape[2] // 2
    np.maximum(pooled[:, :, :half], rows[:, :, 1::2], out=pooled[:, :, :half])
    return pooled


def downsample_gradient(maps: NDArray[np.float32], gradient: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gradient with respect to maps, from the one with respect to :func:`downsample` of them.

    It goes to the largest of each 2 x 2, the first among equals.
    """
    largest = downsample(maps)
    result = np.zeros(maps.shape, np.float32)
    free = np.ones(gradient.shape, np.bool_)
    for row in (0, 1):
        for column in (0, 1):
            corner, target = maps[:, row::2, column::2], result[:, row::2, column::2]
            inside = np.s_[:, : corner.shape[1], : corner.shape[2]]  # odd maps have no second one at their end
            taken = free[inside] & (corner == largest[inside])
            target[taken] = gradient[inside][taken]
            free[inside] &= ~taken
    return result


def max_gradient(rows: NDArray[np.float32], gradient: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gradient with respect to ``rows`` ``(n, places, c)``, from the one ``(n, c)`` with respect to their maxima."""
    placed = np.zeros(rows.shape, np.float32)
    np.put_along_axis(placed, rows.argmax(axis=1)[:, None, :], gradient[:, None, :].astype(np.float32), axis=1)
    return placed
