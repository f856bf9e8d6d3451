"""The recipe: what to compute from a picture, and the trunk that computes it."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import PIL

from featx._internal.hashing import content_id
from featx.backbones import (
    ENGINES,
    PIXELS,
    POOLINGS,
    PRECISIONS,
    Trunk,
    build_trunk,
    canonical_name,
    fastest_engine,
    is_model_file,
    resolve_size,
    with_openvino,
)
from featx.errors import BackboneError, WeightsError
from featx.pictures import DECODER, DRAFT_DECODER, MAX_PIXELS, RESIZES


@dataclass(frozen=True)
class Recipe:
    """What to compute. What that turns out to be, with everything resolved, is the spec.

    Attributes:
        backbone: a name of the table (``vgg16``, ``mobilenetv2-0.35``), the path of a ``.keras`` file, or ``pixels``:
            no network, the decoded pictures themselves.
        weights: ``imagenet``, ``random``, or a ``.weights.h5``, ``.h5`` or ``.keras`` file.
        layer: where the backbone is cut; by default at its last convolutional output.
        pooling: ``none``, ``avg`` or ``max`` over the map.
        size: side in pixels to which pictures are resized; by default the backbone's own.
        resize: ``stretch``, ``crop`` or ``pad``.
        preprocess: ``auto`` (the backbone's own), ``rescale`` (x/255), ``caffe``, ``tf``, ``torch`` or ``none``.
        dtype: ``float16`` or ``float32``, as which features are stored; ``uint8`` if they are pixels.
        max_pixels: pictures with more pixels are quarantined, unless the cache has their features already.
        random_state: seed of ``random`` weights; 0 for any others.
        precision: ``float32``, ``bfloat16`` or ``float16``: in which the backbone computes.
        engine: ``auto``, ``keras`` or ``openvino``. In float32 they give the same features within 1e-3, so that it is
            no part of the spec, and only an extraction takes another engine than Keras. In less precision they do not:
            then ``auto`` is resolved here, and whoever uses the features computes with the same engine.
        draft: let large JPEG files be decoded at a half, a quarter or an eighth of their size, if that is still at
            least twice the size wanted. Several times faster, and slightly other pixels.
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
                raise BackboneError("pixels are cached as they are: --layer, --pooling and --preprocess do not apply")
            object.__setattr__(self, "dtype", "uint8")
        dtypes = ("float16", "float32") if self.backbone != PIXELS else ("uint8",)
        choices = {"pooling": POOLINGS, "resize": RESIZES, "dtype": dtypes, "precision": PRECISIONS, "engine": ENGINES}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise BackboneError(f"unknown {name} {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        if self.max_pixels < 1:
            raise BackboneError(f"--max-pixels must be at least 1, got {self.max_pixels}")
        object.__setattr__(self, "backbone", canonical_name(self.backbone))
        for name, file in self.files.items():  # so that a recipe means the same from any working directory
            object.__setattr__(self, name, os.path.abspath(file))
        if self.weights != "random":
            object.__setattr__(self, "random_state", 0)
        if self.precision != "float32" and self.engine == "auto":
            object.__setattr__(self, "engine", fastest_engine(self.precision))
        resolve_size(self.backbone, self.size)

    def trunk(self) -> Trunk:
        """The trunk, built or as built before in this process: by Keras if in float32, else by the recipe's engine."""
        return _build(self._of_the_trunk(), self._fingerprint())

    def in_any_engine(self) -> Recipe:
        """The same, but for an engine that does not matter to whoever uses the features."""
        return replace(self, engine="auto") if self.precision == "float32" else self

    def in_float32(self) -> Recipe:
        """The same in full precision."""
        return replace(self, precision="float32", engine="auto")

    def trunk_key(self) -> list[str]:
        """What a trunk depends on, to be known without building it: settings, files, Keras and its backend."""
        return [repr(self._of_the_trunk()), *self._fingerprint(), os.environ.get("KERAS_BACKEND", "")]

    def spec(self, trunk: Trunk) -> dict[str, Any]:
        """Everything that decides a feature's value."""
        return {
            "backbone": trunk.backbone,
            "weights": trunk.weights,
            "layer": trunk.layer,
            "pooling": trunk.pooling,
            "size": trunk.size,
            "preprocess": trunk.preprocess,
            "precision": self.precision,
            **({} if self.precision == "float32" else {"engine": self.engine}),
            **self.own_spec,
        }

    @property
    def own_spec(self) -> dict[str, str]:
        """The part of the spec that does not depend on the trunk."""
        return {"resize": self.resize, "decoder": self._decoder, "dtype": self.dtype}

    @property
    def decoded_by(self) -> str:
        """What decides whether a picture can be read."""
        return f"{self._decoder}, pillow {PIL.__version__}, max_pixels {self.max_pixels}"

    @property
    def files(self) -> dict[str, str]:
        """The fields that name a file, and the file."""
        named = ["weights"] if self.weights not in ("imagenet", "random") else []
        named += ["backbone"] if is_model_file(self.backbone) else []
        return {name: getattr(self, name) for name in named}

    @property
    def _decoder(self) -> str:
        return DRAFT_DECODER if self.draft else DECODER

    def _of_the_trunk(self) -> Recipe:
        plain = replace(self, resize="stretch", dtype="float16", max_pixels=MAX_PIXELS, draft=False)
        return plain.in_any_engine()

    def _fingerprint(self) -> tuple[str, ...]:
        """The Keras that builds the trunk, and the content of the files it is built from."""
        try:
            return version("keras"), *(content_id(Path(file).read_bytes()) for file in self.files.values())
        except OSError as error:
            why = (error.strerror or "").lower()
            raise WeightsError(
                f"{error.filename} cannot be read: {why}. If the weights (or your own .keras file) have moved, "
                "--weights FILE says where they are"
            ) from None


@functools.lru_cache(maxsize=2)  # the second is the one in float32 that one in less precision is compared with
def _build(recipe: Recipe, _fingerprint: tuple[str, ...]) -> Trunk:
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
