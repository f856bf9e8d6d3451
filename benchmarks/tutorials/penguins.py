"""Penguins, six kinds (2018): a network of four convolutions against VGG16, with and without augmentation.

128 pixels, padded with black; a fifth of the training pictures validates. cnn4 from nothing; VGG16's head alone, then
block 5 unfrozen. How often emperor and king are confused, and mixup, are what its author wished for.
"""

from __future__ import annotations

from typing import Any

import featx
from benchmarks.tutorials.lesson import Lesson

DATA = "penguin-species"
PICTURES: dict[str, Any] = {"size": 128, "resize": "pad"}
VARIED = featx.Views(6, flip=True, zoom=0.2, rotate=15, shift=0.1)
HEAD: dict[str, Any] = {"head": "mlp", "head_params": {"input": "flat", "hidden": 512, "epochs": 30}}


def run(lesson: Lesson) -> None:
    """cnn4, VGG16 with random weights, MobileNetV2 with real ones."""
    data = lesson.pictures()

    def tuned(seed: int, epochs: int, **settings: Any) -> featx.Classifier:
        return featx.finetune(
            data, random_state=seed, epochs=lesson.epochs(epochs), cache_dir=lesson.cache, **PICTURES, **settings
        )

    def mixed(seed: int) -> featx.Classifier:
        done = featx.extract(data, cache_dir=lesson.cache, views=VARIED, **PICTURES, **lesson.real())
        return featx.fit(done.features_path, "bn-mlp", mixup=0.2, random_state=seed)

    one, confusion = lesson.seeds[:1], confused("emperor", "king")
    lesson.measure(
        "cnn4", "none", lambda seed: tuned(seed, 60, from_scratch="cnn4"), published="63.6 %", note=confusion
    )
    lesson.measure(
        "cnn4, augmented",
        "none",
        lambda seed: tuned(seed, 80, from_scratch="cnn4", views=VARIED, patience=25),
        published="87.5 % (500 pictures a class, 200 epochs)",
        note=confusion,
    )
    random = {"backbone": "vgg16", "weights": "random"}
    networks = [("vgg16", "random", "block5_conv1", one), ("mobilenetv2", "imagenet", "block_16_expand", lesson.seeds)]
    for name, weights, layer, seeds in networks:
        network = random if weights == "random" else lesson.real()
        ways: list[tuple[str, dict[str, Any], str]] = [
            ("head alone", {"unfreeze": "none"}, "a little over 80 % (validation)"),
            (f"{layer} on", {"unfreeze": layer}, "82.2 %"),
            (f"{layer} on, augmented", {"unfreeze": layer, "views": VARIED}, "86.9 %"),
        ]
        for way, settings, published in ways:
            lesson.measure(
                f"{name}, {way}",
                weights,
                lambda seed, settings=settings, network=network: tuned(seed, 20, **settings, **HEAD, **network),
                published=published if name == "vgg16" else "",
                seeds=seeds,
                note=confusion,
            )
    lesson.measure("mobilenetv2, bn-mlp with mixup, augmented", "imagenet", mixed, note=confusion)
    larger = featx.extract(data, cache_dir=lesson.cache, resize="pad", **lesson.real())
    lesson.measure(
        "mobilenetv2 at 224 pixels, logreg",
        "imagenet",
        lambda seed: featx.fit(larger.features_path, "logreg"),
        note=confusion,
    )


def confused(one: str, other: str) -> Any:
    """Says how often two classes were taken for each other."""

    def note(classifier: featx.Classifier, features: featx.Features) -> str:
        found = classifier.evaluate(features, "test")
        a, b = found.class_names.index(one), found.class_names.index(other)
        matrix = found.confusion_matrix
        wrong, back = f"{matrix[a][b]} of {sum(matrix[a])}", f"{matrix[b][a]} of {sum(matrix[b])}"
        return f"{one} taken for {other}: {wrong}; the reverse: {back}"

    return note
