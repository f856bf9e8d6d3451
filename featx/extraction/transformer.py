"""Feature extraction as a scikit-learn transformer, for pipelines and grid searches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from featx._internal.hashing import content_id
from featx.errors import ExtractionError, PictureError
from featx.extraction.pipeline import as_stored, load_file, run_trunk
from featx.extraction.recipe import Recipe
from featx.pictures import MAX_PIXELS, quiet_pillow, read_file
from featx.pictures import resize as fit_to_size

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FeatureExtractor(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Pictures in, features of a frozen base out. Nothing is learned: ``fit`` only checks the settings.

    ``X`` is a list of paths, or an array of pictures, ``uint8 (n, h, w, 3)`` RGB. Clones share one trunk, and features
    once computed are remembered by the picture's content (a gigabyte of them, as long as the process lives), so a grid
    search computes each picture once. For more, extract to a feature file.

    Args:
        backbone, weights, layer, pooling, size, resize, preprocess, dtype, max_pixels, random_state: see
            :class:`featx.Recipe`; here ``pooling`` is ``avg`` by default, since most estimators want rows.
        batch_size: pictures a call of the trunk.

    Example:
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.pipeline import make_pipeline
        >>> pipeline = make_pipeline(FeatureExtractor("mobilenetv2", weights="random", size=32), LogisticRegression())
    """

    def __init__(
        self,
        backbone: str = "vgg16",
        *,
        weights: str = "imagenet",
        layer: str | None = None,
        pooling: str = "avg",
        size: int | None = None,
        resize: str = "stretch",
        preprocess: str = "auto",
        dtype: str = "float32",
        max_pixels: int = MAX_PIXELS,
        random_state: int = 0,
        batch_size: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.layer = layer
        self.pooling = pooling
        self.size = size
        self.resize = resize
        self.preprocess = preprocess
        self.dtype = dtype
        self.max_pixels = max_pixels
        self.random_state = random_state
        self.batch_size = batch_size

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Check the settings and build the trunk."""
        self.feature_shape_ = self._recipe().trunk().feature_shape
        return self

    def transform(self, X: Sequence[str | Path] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features, float32 ``(n, c)``, or ``(n, h, w, c)`` with ``pooling="none"``.

        Raises:
            PictureError: one cannot be read; the message names it. Rows are never dropped, so as to fit ``y``.
        """
        recipe = self._recipe()
        trunk = recipe.trunk()
        if isinstance(X, np.ndarray) and X.dtype.kind not in "OU":  # else it holds paths
            if X.dtype != np.uint8 or X.ndim != 4 or X.shape[-1] != 3:
                raise ValueError(f"Pictures must be uint8 (n, h, w, 3). Got {X.dtype} {X.shape} instead.")
        pictures: list[Any] = list(X)
        keys = [_content(picture) for picture in pictures]
        found = _MEMORY.recall((*recipe.trunk_key(), repr(recipe)), keys)
        first = {key: number for number, key in reversed(list(enumerate(keys)))}
        missing = sorted(number for key, number in first.items() if key not in found)

        def load(number: int) -> NDArray[np.uint8]:
            picture = pictures[number]
            if isinstance(picture, np.ndarray):
                return fit_to_size(picture, trunk.size, recipe.resize)
            return load_file(picture, trunk.size, recipe)

        failures: dict[int, PictureError] = {}
        with quiet_pillow(recipe.max_pixels):
            for numbers, features in run_trunk(missing, load, trunk, self.batch_size, failures):
                stored, wrong = as_stored(features, recipe.dtype)
                for row, why in wrong.items():
                    raise ExtractionError(f"{_name(pictures[numbers[row]], numbers[row])}: {why}")
                found |= zip((keys[n] for n in numbers), stored, strict=True)
        for number, reason in sorted(failures.items()):
            raise PictureError(f"{pictures[number]}: {reason}")
        _MEMORY.keep((*recipe.trunk_key(), repr(recipe)), found)
        rows = [found[key] for key in keys]
        return np.array(rows, np.float32).reshape(len(pictures), *trunk.feature_shape)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def _recipe(self) -> Recipe:
        params = self.get_params()
        params.pop("batch_size")
        return Recipe(**params)


def _content(picture: Any) -> str:
    if isinstance(picture, np.ndarray):
        return content_id(repr(picture.shape).encode() + picture.tobytes())
    try:
        return content_id(read_file(picture))
    except PictureError as error:
        raise PictureError(f"{picture}: {error}") from None


def _name(picture: Any, number: int) -> str:
    return f"picture {number}" if isinstance(picture, np.ndarray) else str(picture)


class _Memory:
    """Features by recipe and content, the last used within a number of bytes."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._rows: OrderedDict[tuple[tuple[str, ...], str], NDArray[Any]] = OrderedDict()
        self._used = 0

    def recall(self, recipe: tuple[str, ...], keys: list[str]) -> dict[str, NDArray[Any]]:
        return {key: self._rows[recipe, key] for key in keys if (recipe, key) in self._rows}

    def keep(self, recipe: tuple[str, ...], rows: dict[str, NDArray[Any]]) -> None:
        for key, row in rows.items():
            if (recipe, key) not in self._rows:
                self._rows[recipe, key] = row.copy()  # a row of a batch would keep the whole batch
                self._used += row.nbytes
            self._rows.move_to_end((recipe, key))
        while self._used > self.nbytes:
            _, row = self._rows.popitem(last=False)
            self._used -= row.nbytes


_MEMORY = _Memory(2**30)  # as long as the process lives, like the trunk
