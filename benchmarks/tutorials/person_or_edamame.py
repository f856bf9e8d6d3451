"""Person or edamame (2019): VGG16 on 120 pictures, its last convolutions trained with a tiny head.

224 pixels, x/255 instead of VGG's own preprocessing, zoom 0.2 and flips, batches of 10, Flatten-Dense(4)-Dropout(0.5)-
softmax, the first 13 layers frozen, SGD 1e-3 with momentum 0.9, 12 epochs; then a folder of pictures is predicted. Its
warning, that predictions are nonsense without the x/255, has no counterpart here: the rule is part of the classifier.
"""

from __future__ import annotations

from typing import Any

import featx
from benchmarks.tutorials.lesson import Lesson

DATA = "person-edamame"
VGG16 = {"backbone": "vgg16", "weights": "random", "preprocess": "rescale", "unfreeze": "13"}
TRAINING: dict[str, Any] = {
    "head": "mlp",
    "head_params": {"input": "flat", "hidden": 4, "dropout": 0.5},
    "head_first": False,
    "optimizer": "sgd",
    "learning_rate": 1e-3,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "schedule": "constant",
    "batch_size": 10,
    "views": featx.Views(4, flip=True, zoom=0.2),
}


def run(lesson: Lesson) -> None:
    """Train as the article does, with real weights too; then with the head first, as is accepted since."""
    data, epochs = lesson.pictures(), lesson.epochs(12)

    def train(seed: int, **settings: Any) -> featx.Classifier:
        return featx.finetune(
            data, epochs=epochs, random_state=seed, cache_dir=lesson.cache, **{**TRAINING, **settings}
        )

    lesson.measure("vgg16 from layer 13 on", "random", lambda seed: train(seed, **VGG16), seeds=lesson.seeds[:1])
    real: dict[str, Any] = {**lesson.real(), "unfreeze": "auto"}
    gentle = {**real, "head_first": True, "head_params": {"hidden": 64}}
    lesson.measure("mobilenetv2", "imagenet", lambda seed: train(seed, **real))
    lesson.measure(
        "mobilenetv2, the head first", "imagenet", lambda seed: train(seed, **gentle), note=prediction_of(lesson)
    )


def prediction_of(lesson: Lesson) -> Any:
    """Predicts the folder of test pictures with the saved classifier, and says a picture's percentages."""

    def note(classifier: featx.Classifier, features: featx.Features) -> str:
        folder = classifier.save(lesson.out / "models" / lesson.name)
        predictions, bad = featx.Classifier.load(folder).predict([lesson.data / "test"])
        shares = ", ".join(f"{name} {100 * p:.0f} %" for name, p in predictions[0].probabilities.items())
        lesson.say(f"{predictions[0].path}: {shares}")
        apart = classifier.doctor(features)["max_abs_difference"]
        return f"{len(predictions)} pictures predicted, {len(bad)} unreadable; cached and live differ by {apart:.1g}"

    return note
