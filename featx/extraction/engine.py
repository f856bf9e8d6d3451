"""The engine that computes, and the proof, on the user's pictures, that it may stand in for Keras in float32."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featx.backbones import PIXELS, Trunk, accelerated, fastest_engine, with_openvino
from featx.errors import BackboneError, ExtractionError
from featx.extraction.recipe import Recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

PROOF_PICTURES = 8  # that go through both networks
TOLERANCE = 1e-3  # of features in float32: the norm of the difference, relative to that of the features
LEAST_COSINE = 0.99  # of features in less precision with those in float32, the mean over the pictures


def trunk_for(
    recipe: Recipe,
    pictures: Callable[[int, int], NDArray[np.uint8]],
    folder: Path | None = None,
    threads: int | None = None,
) -> Trunk:
    """The trunk that computes a recipe's features, by the recipe's engine and in its precision.

    Unless that is Keras in float32, a few pictures go through that too, and their features are compared.

    Args:
        recipe: recipe of the features.
        pictures: function of a number and a size that gives about so many of the user's pictures, ``uint8 (n, size,
            size, 3)``.
        folder: folder for converted networks.
        threads: threads that compute, if OpenVINO does; by default as many as there are cores.

    Raises:
        BackboneError: the engine asked for is not installed, or cannot compute this.
        ExtractionError: the features differ too much, and it was not ``auto`` that chose the engine.
    """
    reference = recipe.in_float32().trunk()
    try:
        trunk = _by_engine(recipe, reference, folder, threads)
        if trunk is not reference:
            _prove(trunk, reference, pictures(PROOF_PICTURES, reference.info.size))
        return trunk
    except (BackboneError, ExtractionError) as error:
        if recipe.engine != "auto":
            raise
        logger.warning("Keras computes instead of OpenVINO: %s", error)
        return reference


def _by_engine(recipe: Recipe, reference: Trunk, folder: Path | None, threads: int | None) -> Trunk:
    engine = recipe.engine
    if recipe.backbone == PIXELS:  # nothing to compute, and no need to load a network library
        return reference
    if engine == "auto":  # in float32; a recipe in less precision has resolved it
        engine = "keras" if fastest_engine("float32") == "keras" or accelerated() else "openvino"
    if engine == "openvino":
        return with_openvino(reference, precision=recipe.precision, folder=folder, threads=threads)
    return reference if recipe.precision == "float32" else recipe.trunk()


def _prove(trunk: Trunk, reference: Trunk, images: NDArray[np.uint8]) -> None:
    """Raise :class:`ExtractionError` unless the trunk's features may stand for the reference's."""
    if not len(images):
        return
    features = trunk(images)
    expected = reference(images)
    info = trunk.info
    subject = f"the features of {info.backbone} by {info.engine} in {info.precision}"
    against = f"with those by {reference.info.engine} in float32, on {len(images)} of your pictures"
    if info.precision == "float32":
        error = relative_error(features, expected)
        if error > TOLERANCE:
            raise ExtractionError(
                f'{subject} differ by {error:.2g} {against}; at most {TOLERANCE:g} is allowed; `engine="keras"` is sure'
            )
        return
    cosine = mean_cosine(features, expected)
    if cosine < LEAST_COSINE:
        raise ExtractionError(
            f"{subject} have a mean cosine of {cosine:.3f} {against}; at least {LEAST_COSINE} is needed. Leave "
            "`precision` out"
        )


def relative_error(features: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Largest norm of the difference relative to the reference's norm, over pictures ``(n, ...)``."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.linalg.norm(_rows(features) - _rows(reference), axis=1)
    norm = np.maximum(np.linalg.norm(_rows(reference), axis=1), np.finfo(np.float32).tiny)
    return float(np.nan_to_num(difference / norm, nan=np.inf).max())


def mean_cosine(features: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Mean cosine of the angle between the two, over pictures ``(n, ...)``; 0 where they are not finite."""
    a = _rows(features)
    b = _rows(reference)
    with np.errstate(invalid="ignore", over="ignore"):
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines = np.where(norms > 0, (a * b).sum(axis=1) / np.where(norms > 0, norms, 1), (a == b).all(axis=1))
    return float(np.nan_to_num(cosines, nan=0.0, posinf=0.0, neginf=0.0).mean())


def _rows(features: NDArray[np.float32]) -> NDArray[np.float64]:
    return features.reshape(len(features), -1).astype(np.float64)
