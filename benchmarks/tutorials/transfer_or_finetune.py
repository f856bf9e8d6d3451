"""ResNet50, transfer against fine-tuning: a dense layer on a frozen base, or all from layer 168 on.

Its advice is to transfer where classes are easy or like ImageNet's, and to fine-tune where they are not. `featx
compare` says which, with numbers.
"""

from __future__ import annotations

from typing import Any

import featx
from benchmarks.tutorials.lesson import Lesson

DATA = "hymenoptera"
HEAD: dict[str, Any] = {"head": "logreg", "head_params": {"input": "flat"}}  # Flatten-Dense(2)


def run(lesson: Lesson) -> None:
    """Both ways with ResNet50 (random weights, to see that they run) and with MobileNetV2's real ones."""
    data = lesson.pictures()
    random = {"backbone": "resnet50", "weights": "random"}
    for name, weights, layer in (("resnet50", "random", "168"), ("mobilenetv2", "imagenet", "block_16_expand")):
        network = random if name == "resnet50" else lesson.real()
        seeds = lesson.seeds if weights == "imagenet" else lesson.seeds[:1]

        def train(seed: int, unfreeze: str, network: dict[str, Any] = network) -> featx.Classifier:
            course: dict[str, Any] = {"epochs": lesson.epochs(10), "random_state": seed, "cache_dir": lesson.cache}
            return featx.finetune(data, unfreeze=unfreeze, **course, **HEAD, **network)

        lesson.measure(f"{name}, transfer", weights, lambda seed: train(seed, "none"), seeds=seeds)
        lesson.measure(
            f"{name} from {layer} on",
            weights,
            lambda seed, layer=layer: train(seed, layer),
            seeds=seeds,
            note=lambda classifier, features, layer=layer, name=name: trained(name, layer),
        )


def trained(backbone: str, layer: str) -> str:
    """Which layers train."""
    layers = [row.name for row in featx.list_layers(backbone, unfreeze=layer) if row.trains]
    return f"train: {', '.join(layers)}"
