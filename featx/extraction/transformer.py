"""Feature extraction as a scikit-learn transformer, for pipelines and grid searches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from featx._internal.hashing import content_id
from featx._internal.memory import released_by_clear_memory
from featx.backbones import Trunk
from featx.errors import PictureError, require_whole
from featx.extraction.pipeline import features_of, load_file
from featx.extraction.recipe import Recipe
from featx.pictures import MAX_PIXELS, quiet_pillow, read_file
from featx.pictures import resize as resize_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FeatureExtractor(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Pictures in, features of a frozen base out. Nothing is learned: ``fit`` only checks the settings.

    ``X`` is a list of paths, or an array of pictures, ``uint8 (n, h, w, 3)`` RGB. Clones share one trunk, and features
    once computed are remembered by the picture's content (a gigabyte of them, until :func:`featx.clear_memory`), so a
    grid search computes each picture once. For more, extract to a feature file.

    Args:
        backbone: see :class:`featx.Recipe`, as for all that follow.
        weights: ``imagenet``, ``random``, or a file.
        layer: the cut.
        pooling: here ``avg`` by default, since most estimators want rows; ``none`` gives maps.
        size: side in pixels.
        resize: ``stretch``, ``crop`` or ``pad``.
        preprocess: rule of preprocessing.
        dtype: features are rounded to it, as if they had been stored, and given as float32.
        max_pixels: pictures with more pixels are an error.
        random_state: seed of ``random`` weights.
        precision: in which the backbone computes.
        engine: what computes in less precision than float32; in float32 Keras does.
        draft: decode large JPEG files at a fraction of their size.
        batch_size: pictures per call of the trunk; by default as many as suit the device.

    Attributes:
        feature_shape_: ``(c,)``, or ``(h, w, c)`` with ``pooling="none"``.

    Raises:
        SettingError: by ``fit`` and ``transform``, as :class:`featx.Recipe` raises it.

    Example:
        >>> import numpy as np
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.pipeline import make_pipeline
        >>> import featx
        >>> extractor = featx.FeatureExtractor("mobilenet-0.25", weights="random", size=32)
        >>> pipeline = make_pipeline(extractor, LogisticRegression())
        >>> pictures = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
        >>> pipeline.fit(pictures, [0, 1, 0, 1]).predict(pictures).shape
        (4,)
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
        precision: str = "float32",
        engine: str = "auto",
        draft: bool = False,
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
        self.precision = precision
        self.engine = engine
        self.draft = draft
        self.batch_size = batch_size

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Check the settings and build the trunk."""
        self.feature_shape_ = self._recipe().trunk().info.feature_shape
        return self

    def transform(self, X: Sequence[str | Path] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features, float32 ``(n, c)``, or ``(n, h, w, c)`` with ``pooling="none"``.

        Raises:
            PictureError: one cannot be read, or its features not be stored; the message names it. Rows are never
                dropped, so as to fit ``y``.
        """
        recipe = self._recipe()
        trunk = recipe.trunk()
        _require_pictures(X)
        pictures: list[Any] = list(X)
        ids = [_content_of(picture) for picture in pictures]
        settings = (*recipe.trunk_key(), repr(recipe))
        rows = _MEMORY.recall(settings, ids)
        first = {content: number for number, content in reversed(list(enumerate(ids)))}
        missing = sorted(number for content, number in first.items() if content not in rows)
        for number, features in self._computed(pictures, missing, recipe, trunk).items():
            rows[ids[number]] = features
        _MEMORY.keep(settings, rows)
        features = np.array([rows[content] for content in ids], np.float32)
        return features.reshape(len(pictures), *trunk.info.feature_shape)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def _computed(
        self, pictures: list[Any], numbers: list[int], recipe: Recipe, trunk: Trunk
    ) -> dict[int, NDArray[Any]]:
        """Features of the pictures with the given numbers, by number."""

        def load(number: int) -> NDArray[np.uint8]:
            picture = pictures[number]
            size = trunk.info.size
            if isinstance(picture, np.ndarray):
                return resize_picture(picture, size, recipe.resize)[None]
            return load_file(picture, size, recipe)[None]

        computed: dict[int, NDArray[Any]] = {}
        failures: dict[int, PictureError] = {}
        with quiet_pillow(recipe.max_pixels):
            for batch in features_of(numbers, load, trunk, recipe.dtype, failures, batch_size=self.batch_size):
                computed |= zip(batch.jobs, batch.features, strict=True)
        for number, error in sorted(failures.items()):
            raise PictureError(f"{_name_of(pictures[number], number)}: {error}")
        return computed

    def _recipe(self) -> Recipe:
        params = self.get_params()
        batch_size = params.pop("batch_size")
        if batch_size is not None:
            require_whole("batch_size", batch_size, 1)
        return Recipe(**params)


def _require_pictures(X: Any) -> None:
    """Raise ``ValueError`` for an array that holds neither paths nor pictures."""
    if not isinstance(X, np.ndarray) or X.dtype.kind in "OU":
        return
    if X.dtype != np.uint8 or X.ndim != 4 or X.shape[-1] != 3:
        raise ValueError(f"Pictures must be uint8 (n, h, w, 3). Got {X.dtype} {X.shape} instead.")


def _content_of(picture: Any) -> str:
    if isinstance(picture, np.ndarray):
        return content_id(repr(picture.shape).encode() + picture.tobytes())
    try:
        return content_id(read_file(picture))
    except PictureError as error:
        raise PictureError(f"{picture}: {error}") from None


def _name_of(picture: Any, number: int) -> str:
    return f"picture {number}" if isinstance(picture, np.ndarray) else str(picture)


class _FeatureMemory:
    """Features by settings and content, the last used within a number of bytes."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._rows: OrderedDict[tuple[tuple[str, ...], str], NDArray[Any]] = OrderedDict()
        self._used = 0

    def recall(self, settings: tuple[str, ...], ids: list[str]) -> dict[str, NDArray[Any]]:
        """Features of the pictures that are remembered, by content id."""
        return {content: self._rows[settings, content] for content in ids if (settings, content) in self._rows}

    def keep(self, settings: tuple[str, ...], rows: dict[str, NDArray[Any]]) -> None:
        """Remember features by content id, and forget those unused for longest if they become too many."""
        for content, row in rows.items():
            if (settings, content) not in self._rows:
                self._rows[settings, content] = row.copy()  # a row of a batch would keep the whole batch
                self._used += row.nbytes
            self._rows.move_to_end((settings, content))
        while self._used > self.nbytes:
            _, row = self._rows.popitem(last=False)
            self._used -= row.nbytes

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()
        self._used = 0


_MEMORY = _FeatureMemory(2**30)
released_by_clear_memory(_MEMORY.clear)
