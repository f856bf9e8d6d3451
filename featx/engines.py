"""The engine that computes, and the proof, on the user's own pictures, that it may stand in for Keras in float32."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featx.backbones import PIXELS, Trunk, accelerated, fastest_engine, with_openvino
from featx.errors import BackboneError, ExtractionError
from featx.recipe import Recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

HANDFUL = 8  # pictures that go through both networks
TOLERANCE = 1e-3  # of features in float32: the norm of what differs, relative to that of the features
LEAST_COSINE = 0.99  # of features in less precision with those in float32, the mean over the handful


def trunk_for(recipe: Recipe, folder: Path | None = None, threads: int | None = None) -> Trunk:
    """The trunk that computes a recipe's features, by the recipe's engine and in its precision.

    Unless that is Keras in float32, its first call compares it with that, and raises or falls back.

    Args:
        recipe: what to compute.
        folder: where converted networks are kept.
        threads: that compute, if OpenVINO does; by default as many as there are cores.

    Raises:
        BackboneError: the engine asked for is not there, or cannot compute this.
    """
    reference = recipe.in_float32().trunk()
    if recipe.precision == "float32":
        return _in_full(recipe, reference, folder, threads)
    if recipe.engine == "openvino":
        reduced = with_openvino(reference, precision=recipe.precision, folder=folder, threads=threads)
    else:
        reduced = recipe.trunk()
    return _Proved(reduced, reference, falls_back=False)


def _in_full(recipe: Recipe, keras: Trunk, folder: Path | None, threads: int | None) -> Trunk:
    if recipe.backbone == PIXELS or recipe.engine == "keras":
        return keras
    if recipe.engine == "auto" and (fastest_engine("float32") == "keras" or accelerated()):
        return keras
    try:
        return _Proved(with_openvino(keras, folder=folder, threads=threads), keras, recipe.engine == "auto")
    except BackboneError as error:
        if recipe.engine != "auto":
            raise
        logger.warning("Keras computes instead of OpenVINO: %s", error)
        return keras


class _Proved(Trunk):
    """A trunk that is compared with Keras in float32 on its first pictures.

    Args:
        trunk: to be proved.
        reference: the same network, computed by Keras in float32.
        falls_back: whether the reference is used, with a warning, if their features differ; else that is an error.
    """

    def __init__(self, trunk: Trunk, reference: Trunk, falls_back: bool) -> None:
        self._trunk, self._reference, self._falls_back = trunk, reference, falls_back
        self._proved = False

    def __getattr__(self, name: str) -> object:
        return getattr(self.__dict__["_trunk"], name)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        features = self._trunk(images)
        if self._proved:
            return features
        shown = np.flatnonzero(images.any(axis=(1, 2, 3)))[:HANDFUL]  # what fills up a batch is black
        wrong = self._objection(features[shown], self._reference(images[shown])) if len(shown) else ""
        self._proved = len(shown) > 0
        if not wrong:
            return features
        if not self._falls_back:
            raise ExtractionError(f"{wrong}. {self._way_on()}")
        logger.warning("Keras computes instead of OpenVINO: %s", wrong)
        self._trunk = self._reference
        return self._trunk(images)

    def _objection(self, features: NDArray[np.float32], reference: NDArray[np.float32]) -> str:
        """Why the features may not stand for the reference's; empty if they may."""
        who = f"{self._trunk.backbone} by {self._trunk.engine} in {self._trunk.precision}"
        against = f"with those by {self._reference.engine} in float32, on {len(features)} of your pictures"
        if self._trunk.precision == "float32":
            error = relative_error(features, reference)
            if error <= TOLERANCE:
                return ""
            return f"the features of {who} differ by {error:.2g} {against}; at most {TOLERANCE:g} is allowed"
        cosine = mean_cosine(features, reference)
        if cosine >= LEAST_COSINE:
            return ""
        return f"the features of {who} have a mean cosine of {cosine:.3f} {against}; at least {LEAST_COSINE} is needed"

    def _way_on(self) -> str:
        return "Give --engine keras" if self._trunk.precision == "float32" else "Leave --precision out"


def relative_error(features: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """The largest, over pictures ``(n, ...)``, of the norm of the difference relative to the reference's norm."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.linalg.norm(_rows(features) - _rows(reference), axis=1)
    size = np.maximum(np.linalg.norm(_rows(reference), axis=1), np.finfo(np.float32).tiny)
    return float(np.nan_to_num(difference / size, nan=np.inf).max())


def mean_cosine(features: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """The mean, over pictures ``(n, ...)``, of the cosine of the angle between the two; 0 for what is not finite."""
    a, b = _rows(features), _rows(reference)
    with np.errstate(invalid="ignore", over="ignore"):
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines = np.where(norms > 0, (a * b).sum(axis=1) / np.where(norms > 0, norms, 1), (a == b).all(axis=1))
    return float(np.nan_to_num(cosines, nan=0.0, posinf=0.0, neginf=0.0).mean())


def _rows(features: NDArray[np.float32]) -> NDArray[np.float64]:
    return features.reshape(len(features), -1).astype(np.float64)
