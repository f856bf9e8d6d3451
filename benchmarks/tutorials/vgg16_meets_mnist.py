"""VGG16 with batch norm, on MNIST (fast.ai's lessons 4 and 5): a new top on cached features of the last convolution.

The top is MaxPooling, Flatten, Dropout(p/2), Dense(128), BatchNorm, Dropout(p/2), Dense(128), BatchNorm, Dropout(p),
softmax with p = 0.8 and Adam 1e-3, which is featx's `bn-mlp`. The second form has layers of 256; its dropouts are 0.8
throughout, where `bn-mlp` has 0.4, 0.4 and 0.8. The article failed on
MNIST's 28 pixels; featx enlarges them, and says why when it is told to take 28.
"""

from __future__ import annotations

from typing import Any

import featx
from benchmarks.tutorials.lesson import Lesson

DATA = "mnist"
FORMS: dict[str, dict[str, Any]] = {
    "bn-mlp of 128, p 0.8": {"input": "flat", "hidden": 128, "dropout": 0.8},
    "bn-mlp of 256, p 0.8": {"input": "flat", "hidden": 256, "dropout": 0.8},
}


def run(lesson: Lesson) -> None:
    """Both forms, on VGG16 at 48 pixels with random weights and on MobileNetV2 with real ones."""
    data = lesson.pictures()
    random = {"backbone": "vgg16", "weights": "random", "size": 48}
    for name, weights in (("vgg16, 48 pixels", "random"), ("mobilenetv2, 96 pixels", "imagenet")):
        network = random if weights == "random" else {**lesson.real(), "size": 96}
        done = featx.extract(data, cache_dir=lesson.cache, **network)
        for form, params in FORMS.items():
            course = {**params, "epochs": lesson.epochs(60)}
            lesson.measure(
                f"{name}, {form}",
                weights,
                lambda seed, done=done, course=course: featx.fit(
                    done.features_path, "bn-mlp", random_state=seed, **course
                ),
                note=lambda classifier, features: "" if "vgg16" not in features.recipe["backbone"] else too_small(data),
            )


def too_small(data: Any) -> str:
    """What featx says when VGG16 is to take pictures of 28 pixels."""
    try:
        featx.extract(data, backbone="vgg16", weights="random", size=28)
    except featx.FeatxError as error:
        return f"--size 28: {error}"
    raise AssertionError("28 pixels were taken")
