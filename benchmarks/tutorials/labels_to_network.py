"""From gathered pictures to a trained network (Chainer's AlexNet, 2016): label file, bad pictures, mean image, AlexNet.

A label file `path<TAB>label` is written from folders and read back; pictures that cannot be read are set aside with the
reason, gray ones and those with alpha made RGB; the mean image is saved as a picture; AlexNet is trained from nothing,
with loss and accuracy logged each epoch and checkpoints kept; and support vectors are put on AlexNet's own features.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import featx
from benchmarks.tutorials.lesson import Lesson
from featx.tail import discard_checkpoints

DATA = "penguins-turtles"
SIZE = 99  # where all of AlexNet's layers have whole numbers of outputs, and two cores suffice
ALEXNET: dict[str, Any] = {"from_scratch": "alexnet", "size": SIZE, "batch_size": 16, "learning_rate": 3e-4}


def run(lesson: Lesson) -> None:
    """The whole way, on two kinds of animals."""
    labels = label_file(lesson.pictures(), lesson.out / "labels")

    def alexnet(seed: int) -> featx.Classifier:
        folder = lesson.out / "models" / f"alexnet-{lesson.data.name}-{seed}"
        if not folder.is_dir():
            kept, epochs = folder.with_name(f"{folder.name}.partial"), lesson.epochs(30)
            options: dict[str, Any] = {
                "head_params": {"hidden": 512},
                "epochs": epochs,
                "cache_dir": lesson.cache,
                "checkpoints": kept,
            }
            featx.finetune(labels, random_state=seed, **ALEXNET, **options).save(folder)
            discard_checkpoints(kept)
        return featx.Classifier.load(folder)

    def svm_on_alexnet(seed: int) -> featx.Classifier:
        file = lesson.out / "models" / f"alexnet-{lesson.data.name}-{seed}.keras"
        alexnet(seed).head.model_.tail.save(file)
        done = featx.extract(labels, backbone=str(file), preprocess="none", cache_dir=lesson.cache)
        return featx.fit(done.features_path, "svm", input="flat", random_state=seed)

    lesson.measure(
        f"alexnet from nothing, {SIZE} pixels",
        "none",
        alexnet,
        published="50 to 60 % (other pictures), two to three hours on a GPU",
        note=lambda classifier, features: told_of(lesson, classifier, features),
    )
    lesson.measure("svm on alexnet's features", "none", svm_on_alexnet)
    real = featx.extract(labels, cache_dir=lesson.cache, **lesson.real())
    lesson.measure("svm on mobilenetv2's features", "imagenet", lambda seed: featx.fit(real.features_path, "svm"))


def label_file(data: Path, folder: Path) -> Path:
    """Label files of all pictures and a few odd ones, below one folder: `labels.tsv`, and `labels.csv` with splits."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "pictures").is_symlink():
        (folder / "pictures").symlink_to(data.resolve(), target_is_directory=True)
    listed = featx.list_dataset(data).pictures
    rows = [(f"pictures/{p.path}", str(p.label), p.split) for p in listed] + odd_pictures(data / listed[0].path, folder)
    lines = [f"{path}\t{label}\n" for path, label, _ in rows]
    (folder / "labels.tsv").write_text("".join(lines))
    read = featx.list_dataset(folder / "labels.tsv").pictures
    if sorted((p.path, p.label) for p in read) != sorted((path, label) for path, label, _ in rows):
        raise AssertionError("the label file was not read back as it was written")
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return folder / "labels.csv"


def odd_pictures(source: Path, folder: Path) -> list[tuple[str, str, str]]:
    """A picture in gray and with alpha, half of it, and a page of HTML that calls itself one."""
    label = source.parent.name
    with Image.open(source) as picture:
        picture.convert("L").save(folder / "gray.png")
        picture.convert("RGBA").save(folder / "alpha.png")
    (folder / "half.jpg").write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    (folder / "page.jpg").write_text("<html>not found</html>")
    return [(name, label, "train") for name in ("alpha.png", "gray.png", "half.jpg", "page.jpg")]


def told_of(lesson: Lesson, classifier: featx.Classifier, features: featx.Features) -> str:
    """What happened on the way: what was set aside, the mean image, the losses on the disk."""
    train = np.flatnonzero(np.isin(features.ids, classifier.train_ids))
    total = sum(features.X(rows).sum(axis=0) for rows in np.array_split(train, 8))
    Image.fromarray((total / len(train)).round().astype(np.uint8)).save(lesson.out / "mean-image.png")
    seed = classifier.fitting.random_state
    folder = lesson.out / "models" / f"alexnet-{lesson.data.name}-{seed}"
    history = (folder / "history.csv").read_text().splitlines()
    first, last = (line.split(",")[1] for line in (history[1], history[-1]))
    aside = ", ".join(f"{path}: {reason}" for path, reason in features.quarantine)
    return f"set aside: {aside}; loss from {float(first):.2f} to {float(last):.2f}; mean-image.png"
