"""The demo: scikit-learn's handwritten digits as pictures, VGG16 at 48 pixels, three heads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featx._internal.progress import Progress
from featx.cache import load_features
from featx.classifier import fit
from featx.errors import DatasetError, WeightsError
from featx.extraction import Extraction, extract

SIZE = 48  # the published experiment's; VGG16 takes 32 or more, and the digits have 8
HEADS: dict[str, dict[str, Any]] = {
    "bn-mlp": {"input": "flat", "hidden": 128, "dropout": 0.8},  # the published experiment's
    "logreg": {"input": "flat"},
    "svm": {"input": "flat"},
}


@dataclass(frozen=True)
class DemoStep:
    """Step of the demo: what was done, in a line for a person and as JSON fields."""

    text: str
    fields: dict[str, Any]


def demo_steps(out: Path, *, weights: str | None, random_state: int, progress: Progress) -> Iterator[DemoStep]:
    """Steps of the demo, one after the other as they are done; the last has the accuracies and paths.

    Args:
        out: folder to write pictures, features and classifiers to.
        weights: weights of VGG16; by default ImageNet's if they can be had, else random ones.
        random_state: seed of random weights and heads.
        progress: called with the stage, how much of it is done, and of how much.
    """
    started = time.perf_counter()
    pictures = out / "digits"
    count = _write_digits(pictures)
    text = f"{count} handwritten digits of 8 x 8 pixels in {pictures}"
    yield DemoStep(text, {"step": "pictures", "count": count})
    extraction, used = _extract(pictures, out / "cache", weights, random_state, progress)
    text = (
        f"VGG16 ({used} weights) at {SIZE} x {SIZE} pixels: {extraction.listed} listed = {extraction.rows} rows + "
        f"{extraction.quarantined} quarantined; {extraction.computed} computed in {extraction.seconds:.1f} s"
    )
    yield DemoStep(text, {"step": "extract", "weights": used, "computed": extraction.computed})
    features = load_features(extraction.features_path)
    heads = []
    for head, params in HEADS.items():
        classifier = fit(features, head, random_state=random_state, progress=progress, **params)
        accuracy = classifier.evaluate(features).accuracy
        model = classifier.save(out / "models" / head)
        seconds = classifier.fitting.seconds
        heads.append({"head": head, "test_accuracy": accuracy, "seconds": seconds, "model": str(model)})
        yield DemoStep(f"{head}: {100 * accuracy:.1f} % of the test digits right", {**heads[-1], "step": "fit"})
    seconds = time.perf_counter() - started
    written = {"pictures": str(pictures), "features": extraction.features_path, "models": str(out / "models")}
    fields = {"step": "done", "weights": used, "heads": heads, "seconds": seconds, "written": written}
    yield DemoStep(f"done in {seconds:.0f} s; VGG16 had {used} weights", fields)


def _write_digits(folder: Path) -> int:
    """Write the 1,797 digits as ``train`` and ``test`` folders of PNG files; every fifth is a test picture."""
    from sklearn.datasets import load_digits

    if folder.exists() and not (folder / "train" / "0").is_dir():
        raise DatasetError(f"{folder} exists and is not the demo's; give another `out`")
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / ("test" if number % 5 == 4 else "train") / str(label) / f"{number:04}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 255 / 16).astype(np.uint8)).save(path)
    return len(digits.target)


def _extract(
    pictures: Path, cache: Path, weights: str | None, random_state: int, progress: Progress
) -> tuple[Extraction, str]:
    """Extract features; the extraction, and the weights by which it was made."""

    def extract_with(weights: str) -> tuple[Extraction, str]:
        """Extract features by VGG16 with these weights."""
        extraction = extract(
            pictures,
            cache_dir=cache,
            progress=progress,
            backbone="vgg16",
            size=SIZE,
            weights=weights,
            random_state=random_state,
        )
        return extraction, weights

    if weights is not None:
        return extract_with(weights)
    try:
        return extract_with("imagenet")
    except WeightsError:  # no network: the demo still shows every step
        return extract_with("random")
