"""The recipe: settings by which features are computed from a picture, and the trunk that computes them."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

import PIL

from featx._internal.choices import Dtype, Engine, Pooling, Precision, Preprocessing, Resize
from featx._internal.hashing import content_id
from featx._internal.memory import released_by_clear_memory
from featx.backbones import (
    ENGINES,
    PIXELS,
    POOLINGS,
    PRECISIONS,
    PREPROCESSINGS,
    Trunk,
    build_trunk,
    canonical_name,
    fastest_engine,
    is_model_file,
    require_weights,
    resolve_size,
    with_openvino,
)
from featx.errors import SettingError, WeightsError, require_choice, require_whole, unknown_setting
from featx.pictures import DECODER, DRAFT_DECODER, MAX_PIXELS, RESIZES


class NetworkFields(TypedDict, total=False):
    """Fields of a :class:`Recipe` but for its seed, for functions that have a seed of their own."""

    backbone: str
    weights: str
    layer: str | None
    pooling: Pooling
    size: int | None
    resize: Resize
    preprocess: Preprocessing
    dtype: Dtype
    max_pixels: int
    precision: Precision
    engine: Engine
    draft: bool


class RecipeFields(NetworkFields, total=False):
    """Fields of a :class:`Recipe`, as keyword arguments of the functions that compute features."""

    random_state: int


@dataclass(frozen=True)
class Recipe:
    """Settings by which features are computed from a picture, as a user gives them; resolved, they are the spec.

    Attributes:
        backbone: a name of ``BACKBONES`` (``vgg16``, ``mobilenetv2-0.35``), the path of a ``.keras`` file, or
            ``pixels``: no network, the decoded pictures themselves.
        weights: ``imagenet``, ``random``, or a ``.weights.h5``, ``.h5`` or ``.keras`` file.
        layer: cut of the backbone; by default its last convolutional output.
        pooling: ``none``, ``avg`` or ``max`` over the map.
        size: side in pixels to which pictures are resized; by default the backbone's own.
        resize: ``stretch``, ``crop`` or ``pad``.
        preprocess: ``auto`` (the backbone's own), ``rescale`` (x/255), ``caffe``, ``tf``, ``torch`` or ``none``.
        dtype: ``float16`` or ``float32``, in which features are stored; ``uint8`` if they are pixels.
        max_pixels: pictures with more pixels are quarantined, unless the cache has their features already.
        random_state: seed of ``random`` weights; 0 for any others.
        precision: ``float32``, ``bfloat16`` or ``float16``: in which the backbone computes.
        engine: ``auto``, ``keras`` or ``openvino``. In float32 they give the same features within 1e-3, so that it is
            no part of the spec, and only an extraction takes another engine than Keras. In less precision they do not:
            then ``auto`` is resolved here, and whoever uses the features computes with the same engine.
        draft: let large JPEG files be decoded at a half, a quarter or an eighth of their size, if that is still at
            least twice the size wanted. Several times faster, and slightly other pixels.

    Raises:
        SettingError: a value out of its range, or settings that do not go together.
        BackboneError: no such backbone.

    Example:
        >>> import featx
        >>> recipe = featx.Recipe("MobileNet-V2", weights="random", size=96, pooling="avg")
        >>> recipe.backbone
        'mobilenetv2'
        >>> featx.Recipe(pooling="mean")
        Traceback (most recent call last):
        featx.errors.SettingError: unknown `pooling` 'mean'; expected one of none, avg, max
    """

    backbone: str = "vgg16"
    weights: str = "imagenet"
    layer: str | None = None
    pooling: str = "none"
    size: int | None = None
    resize: str = "stretch"
    preprocess: str = "auto"
    dtype: str = "float16"
    max_pixels: int = MAX_PIXELS
    random_state: int = 0
    precision: str = "float32"
    engine: str = "auto"
    draft: bool = False

    def __post_init__(self) -> None:
        if self.backbone == PIXELS:
            if (self.layer or PIXELS, self.pooling, self.preprocess) != (PIXELS, "none", "auto"):
                raise SettingError("pixels are cached as they are: `layer`, `pooling` and `preprocess` do not apply")
            object.__setattr__(self, "dtype", "uint8")
        self._require_choices()
        object.__setattr__(self, "max_pixels", require_whole("max_pixels", self.max_pixels, 1))  # NumPy's are no JSON
        object.__setattr__(self, "random_state", require_whole("random_state", self.random_state, 0))
        object.__setattr__(self, "backbone", canonical_name(self.backbone))
        for name, file in self.files.items():  # so that a recipe means the same from any working directory
            object.__setattr__(self, name, os.path.abspath(file))
        if self.weights != "random":
            object.__setattr__(self, "random_state", 0)
        if self.precision != "float32" and self.engine == "auto":
            object.__setattr__(self, "engine", fastest_engine(self.precision))
        resolve_size(self.backbone, self.size)
        object.__setattr__(self, "size", self.size if self.size is None else int(self.size))

    def _require_choices(self) -> None:
        require_choice("pooling", self.pooling, POOLINGS)
        require_choice("resize", self.resize, RESIZES)
        require_choice("preprocess", self.preprocess, ("auto", *PREPROCESSINGS))
        require_choice("dtype", self.dtype, ("uint8",) if self.backbone == PIXELS else ("float16", "float32"))
        require_choice("precision", self.precision, PRECISIONS)
        require_choice("engine", self.engine, ENGINES)
        require_weights(self.weights)

    @classmethod
    def of(cls, recipe: Recipe | None, fields: Mapping[str, Any], front: Callable[..., Any]) -> Recipe:
        """Recipe that a function got whole, by fields, or whole with fields that replace those of it.

        Args:
            recipe: the whole one, if any.
            fields: keyword arguments, as :class:`RecipeFields` names them.
            front: the function: for a misspelt keyword the nearest name of its arguments is offered.

        Raises:
            SettingError: no such field, or a value that does not do.
        """
        known = set(RecipeFields.__annotations__)
        for name in fields:
            if name not in known:
                arguments = {p.name for p in inspect.signature(front).parameters.values() if p.kind != p.VAR_KEYWORD}
                raise unknown_setting(name, known | arguments, front.__name__)
        if not isinstance(recipe, Recipe | None):
            raise SettingError(f"`recipe` must be a featx.Recipe, got {recipe!r}", "recipe")
        return cls(**fields) if recipe is None else replace(recipe, **fields)

    def trunk(self) -> Trunk:
        """The trunk, built or as built before in this process: by Keras if in float32, else by the recipe's engine.

        Raises:
            BackboneError: no such layer, or an engine that is not installed. WeightsError: weights that cannot be had.
        """
        return _build(self._trunk_settings(), self._origins())

    def trunk_key(self) -> list[str]:
        """All that a trunk depends on, known without building it: settings, files, Keras and its backend."""
        return [repr(self._trunk_settings()), *self._origins(), os.environ.get("KERAS_BACKEND", "")]

    def spec(self, trunk: Trunk) -> dict[str, Any]:
        """Everything that decides a feature's value."""
        info = trunk.info
        return {
            "backbone": info.backbone,
            "weights": info.weights,
            "layer": info.layer,
            "pooling": info.pooling,
            "size": info.size,
            "preprocess": info.preprocess,
            "precision": self.precision,
            **({} if self.precision == "float32" else {"engine": self.engine}),
            **self.pictures_spec,
        }

    @property
    def pictures_spec(self) -> dict[str, str]:
        """The part of the spec that does not depend on the trunk."""
        return {"resize": self.resize, "decoder": self._decoder, "dtype": self.dtype}

    @property
    def decoded_by(self) -> str:
        """Everything that decides whether a picture can be read."""
        return f"{self._decoder}, pillow {PIL.__version__}, max_pixels {self.max_pixels}"

    @property
    def files(self) -> dict[str, str]:
        """The fields that name a file, and the file."""
        named = ["weights"] if self.weights not in ("imagenet", "random") else []
        named += ["backbone"] if is_model_file(self.backbone) else []
        return {name: getattr(self, name) for name in named}

    def without_engine(self) -> Recipe:
        """The same recipe, its engine left open if it is of no matter to whoever uses the features."""
        return replace(self, engine="auto") if self.precision == "float32" else self

    def in_float32(self) -> Recipe:
        """The same recipe in full precision."""
        return replace(self, precision="float32", engine="auto")

    @property
    def _decoder(self) -> str:
        return DRAFT_DECODER if self.draft else DECODER

    def _trunk_settings(self) -> Recipe:
        """The recipe, all that does not concern the trunk as by default."""
        plain = replace(self, resize="stretch", dtype="float16", max_pixels=MAX_PIXELS, draft=False)
        return plain.without_engine()

    def _origins(self) -> tuple[str, ...]:
        """Version of the Keras that builds the trunk, and content ids of the files it is built from."""
        try:
            return version("keras"), *(content_id(Path(file).read_bytes()) for file in self.files.values())
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise WeightsError(
                f"{error.filename} cannot be read: {reason}. If the weights (or your own .keras file) have moved, "
                "`weights=FILE` says where they are"
            ) from None


@functools.lru_cache(maxsize=2)  # the second is the one in float32 that one in less precision is compared with
def _build(recipe: Recipe, _origins: tuple[str, ...]) -> Trunk:
    if recipe.engine == "openvino":
        return with_openvino(recipe.in_float32().trunk(), precision=recipe.precision)
    return build_trunk(
        recipe.backbone,
        weights=recipe.weights,
        layer=recipe.layer,
        pooling=recipe.pooling,
        size=recipe.size,
        preprocess=recipe.preprocess,
        precision=recipe.precision,
        random_state=recipe.random_state,
    )


released_by_clear_memory(_build.cache_clear)
