"""The demo: scikit-learn's handwritten digits as pictures, VGG16 at 48 pixels, three heads."""

from __future__ import annotations

import time
from collections.abc import Iterator
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


def run(out: Path, *, weights: str | None, random_state: int, progress: Progress) -> Iterator[dict[str, Any]]:
    """The steps of the demo, each a dictionary with a ``text`` for a person; the last has the accuracies and paths.

    Args:
        out: folder to write pictures, features and classifiers to.
        weights: of VGG16; by default ImageNet's if they can be had, else random ones.
        random_state: seed of random weights and heads.
        progress: called with what is going on, how much is done, and of how much.
    """
    started = time.perf_counter()
    pictures = out / "digits"
    count = _write_digits(pictures)
    yield {"step": "pictures", "count": count, "text": f"{count} handwritten digits of 8 x 8 pixels in {pictures}"}
    extraction, used = _extract(pictures, out / "cache", weights, random_state, progress)
    text = (
        f"VGG16 ({used} weights) at {SIZE} x {SIZE} pixels: {extraction.listed} listed = {extraction.rows} rows + "
        f"{extraction.quarantined} quarantined; {extraction.computed} computed in {extraction.seconds:.1f} s"
    )
    yield {"step": "extract", "weights": used, "computed": extraction.computed, "text": text}
    features = load_features(extraction.features_path)
    heads = []
    for head, params in HEADS.items():
        classifier = fit(features, head, random_state=random_state, progress=progress, **params)
        accuracy = classifier.evaluate(features).accuracy
        model = classifier.save(out / "models" / head)
        heads.append(
            {"head": head, "test_accuracy": accuracy, "seconds": classifier.fitting.seconds, "model": str(model)}
        )
        yield {**heads[-1], "step": "fit", "text": f"{head}: {100 * accuracy:.1f} % of the test digits right"}
    yield {
        "step": "done",
        "weights": used,
        "heads": heads,
        "seconds": time.perf_counter() - started,
        "written": {"pictures": str(pictures), "features": extraction.features_path, "models": str(out / "models")},
        "text": f"done in {time.perf_counter() - started:.0f} s; VGG16 had {used} weights",
    }


def _write_digits(folder: Path) -> int:
    """The 1,797 digits as ``train`` and ``test`` folders of PNG files; every fifth is a test picture."""
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
    """The features, and which weights made them."""

    def made(weights: str) -> tuple[Extraction, str]:
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
        return made(weights)
    try:
        return made("imagenet")
    except WeightsError:  # no network: the demo still shows every step
        return made("random")
