"""Is fine-tuning worth it, on one's own pictures? Frozen heads and fine-tuning on the same rows, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from featx._internal.intervals import normal_interval, within_shares
from featx._internal.progress import Progress, silent
from featx._internal.text import percent
from featx.backbones import divide
from featx.cache import load_features
from featx.classifier import Classifier, fit
from featx.errors import SettingError, require_choice
from featx.extraction import NetworkFields, Recipe, extract
from featx.finetuning.finetune import finetune
from featx.heads import HEADS
from featx.rows import training_split
from featx.tail import TailHead

EPOCHS = 10  # of fine-tuning
TAIL, END_TO_END = "tail", "end to end"
TIMED_PICTURES = 32  # of noise, by which the time of training end to end is foretold
NOTHING = 0.01  # of accuracy: a gain below it is not worth minutes


@dataclass(frozen=True)
class Method:
    """One way of training, and its measures on the rows held out.

    Attributes:
        name: name of a head; ``tail`` or ``end to end``.
        accuracy: mean accuracy over the repeats, ``ci95`` its interval (normal, over pictures), ``accuracies`` that of
            each repeat.
        log_loss: mean log loss over the repeats.
        seconds: median duration of one training; ``features_seconds`` that of the extraction before, this time.
        right: share of the repeats in which a picture was predicted right, by content id.
    """

    name: str
    accuracy: float
    ci95: tuple[float, float]
    accuracies: list[float]
    log_loss: float
    seconds: float
    features_seconds: float
    right: dict[str, float] = field(repr=False)


@dataclass(frozen=True)
class Comparison:
    """Comparison of frozen heads with fine-tuning, and what follows from it.

    Attributes:
        methods: ways of training, the best first.
        best_head, best_tuned: names of the best frozen head, and of the best of what was fine-tuned.
        difference: accuracy that fine-tuning adds to the best head, and its 95 % interval, paired by picture.
        worth_it: whether fine-tuning is worth it; None if these pictures cannot tell.
        validation_rows, repeats: rows on which each training was measured, and number of trainings.
        end_to_end_seconds: duration of training end to end: measured, else foretold from a few steps.
        recommendation: all of that in a sentence.

    Example:
        >>> import featx
        >>> settings = {"backbone": "vgg16", "weights": "random", "size": 32}
        >>> comparison = featx.compare("photos", heads=["knn"], repeats=2, epochs=1, **settings)
        >>> comparison.worth_it in (True, False, None), comparison.repeats
        (True, 2)
    """

    methods: list[Method] = field(repr=False)
    best_head: str
    best_tuned: str
    difference: float
    difference_ci95: tuple[float, float]
    worth_it: bool | None
    validation_rows: int
    repeats: int
    end_to_end_seconds: float
    recommendation: str


def compare(
    dataset: str | Path,
    *,
    recipe: Recipe | None = None,
    heads: Sequence[str] = tuple(HEADS),
    unfreeze: str = "auto",
    end_to_end: bool = False,
    repeats: int = 3,
    epochs: int = EPOCHS,
    validation: float = 0.2,
    random_state: int = 0,
    cache_dir: str | Path = "cache",
    progress: Progress | None = None,
    **fields: Unpack[NetworkFields],
) -> Comparison:
    """Train heads on frozen features, and fine-tune from the cache, on the same rows; measure on the same others.

    Test rows are not looked at. The rows to measure on are drawn anew in each repeat, unless the data set marks its
    own. Fine-tuning is measured after a fixed number of epochs. ``mlp`` and ``bn-mlp`` stop by the rows that they are
    measured on, which flatters them a little.

    Args:
        dataset: as :func:`featx.extract` takes it.
        recipe: network and pictures, whole.
        heads: names of heads.
        unfreeze: see :func:`featx.finetune`.
        end_to_end: also train the whole network; else its time is foretold only.
        repeats: trainings of each method, at least 2.
        epochs: of fine-tuning.
        validation: share to hold out if the data set does not say; above 0.
        random_state: seed of draws and trainings.
        cache_dir: the cache folder.
        progress: called with what is going on, how much is done, and of how much.
        **fields: fields of :class:`featx.Recipe`, which replace the recipe's own.

    Raises:
        SettingError: a setting out of its range. TrainingError: no rows to measure on.

    Example:
        >>> import featx
        >>> settings = {"backbone": "vgg16", "weights": "random", "size": 32}
        >>> result = featx.compare("photos", heads=["ridge"], repeats=2, epochs=1, **settings)
        >>> result.best_head, result.best_tuned, len(result.methods)
        ('ridge', 'tail', 2)
    """
    if repeats < 2:
        raise SettingError(f"`repeats` must be at least 2, got {repeats}", "repeats")
    if not heads:
        raise SettingError("`heads` must name one head at least", "heads")
    for name in heads:
        require_choice("heads", name, HEADS)
    if not 0 < validation < 1:
        raise SettingError(f"`validation` must be above 0 and below 1, got {validation:g}", "validation")
    asked = Recipe.of(recipe, {**fields, **({"random_state": random_state} if recipe is None else {})}, compare)
    tell = progress or silent
    done = extract(dataset, recipe=asked, cache_dir=cache_dir, progress=progress)
    features = load_features(done.features_path)

    def head(name: str) -> Callable[[int], Classifier]:
        return lambda seed: fit(features, name, validation=validation, random_state=seed)

    def tuned(layer: str) -> Callable[[int], Classifier]:
        course: dict[str, Any] = {"epochs": epochs, "keep": "last", "validation": validation, "cache_dir": cache_dir}
        course |= {"progress": progress, "weights_random_state": asked.random_state, **_without_seed(asked)}
        return lambda seed: finetune(dataset, unfreeze=layer, random_state=seed, **course)

    ways: list[tuple[str, Callable[[int], Classifier], float | None]]
    ways = [(name, head(name), done.seconds) for name in heads]
    ways += [(TAIL, tuned(unfreeze), None)] + ([(END_TO_END, tuned("all"), None)] if end_to_end else [])
    found = []
    for number, (name, train, seconds) in enumerate(ways):
        tell("comparing", number, len(ways))
        found.append(_measured(name, train, repeats, random_state, seconds))
    tell("comparing", len(ways), len(ways))
    rows = len(training_split(features, validation, random_state).validation)
    whole = next((m.seconds for m in found if m.name == END_TO_END), None)
    foretold = whole or _foretold(asked, len(features), epochs, len(features.class_names))
    return _concluded(found, rows, repeats, foretold, whole is not None)


def _without_seed(recipe: Recipe) -> dict[str, Any]:
    """The recipe's fields but for the seed of random weights, which fine-tuning takes under another name."""
    return {name: value for name, value in asdict(recipe).items() if name != "random_state"}


def _measured(
    name: str,
    train: Callable[[int], Classifier],
    repeats: int,
    random_state: int,
    features_seconds: float | None,
) -> Method:
    """Train with so many seeds, and measure each on the rows that it held out."""
    right: dict[str, list[bool]] = {}
    accuracies, losses, seconds, waited = [], [], [], []
    for seed in range(random_state, random_state + repeats):
        classifier = train(seed)
        features = load_features(classifier.fitting.features_path)
        measured = classifier.measured(features, "validation")
        hits = measured.probabilities.argmax(axis=1) == measured.y
        for picture, hit in zip(features.ids[measured.rows].tolist(), hits.tolist(), strict=True):
            right.setdefault(picture, []).append(hit)
        accuracies.append(float(hits.mean()))
        losses.append(measured.evaluation.log_loss)
        seconds.append(classifier.fitting.seconds)
        waited.append(classifier.fitting.features_seconds or 0.0)
    shares = {picture: float(np.mean(hits)) for picture, hits in right.items()}
    by_picture = np.array(list(shares.values()))
    return Method(
        name,
        float(by_picture.mean()),
        within_shares(normal_interval(by_picture)),
        accuracies,
        float(np.mean(losses)),
        float(np.median(seconds)),
        max(waited) if features_seconds is None else features_seconds,
        shares,
    )


def _foretold(recipe: Recipe, pictures: int, epochs: int, classes: int) -> float:
    """Seconds of training end to end, from two epochs on a few pictures of noise; decoding is not counted."""
    parts = divide(recipe.backbone, "all", layer=recipe.layer, size=recipe.size, preprocess=recipe.preprocess)
    head = TailHead(
        {**asdict(parts), "trains": list(parts.trains)},
        weights=recipe.weights,
        epochs=2,
        batch_size=TIMED_PICTURES // 2,
    )
    noise = np.random.default_rng(0).integers(0, 256, (TIMED_PICTURES, parts.size, parts.size, 3)).astype(np.uint8)
    head.fit(noise, np.arange(TIMED_PICTURES) % max(2, min(classes, TIMED_PICTURES)))
    return head.epoch_seconds_[-1] / TIMED_PICTURES * pictures * epochs


def _concluded(found: list[Method], rows: int, repeats: int, seconds: float, measured: bool) -> Comparison:
    ranked = sorted(found, key=lambda m: (-m.accuracy, m.log_loss))
    head = next(m for m in ranked if m.name not in (TAIL, END_TO_END))
    tuned = next(m for m in ranked if m.name in (TAIL, END_TO_END))
    paired = np.array([tuned.right[picture] - share for picture, share in head.right.items()])
    gain, (low, high) = float(paired.mean()), normal_interval(paired)
    worth_it = True if low > 0 else False if high < NOTHING or gain <= 0 else None
    verdict = {
        True: f"Fine-tuning is worth it ({tuned.name})",
        False: f"Fine-tuning is not worth it: take {head.name} on frozen features",
        None: f"These pictures cannot tell if fine-tuning is worth it; {head.name} on frozen features is quick",
    }[worth_it]
    sentence = (
        f"{verdict}: {percent(head.accuracy)} with {head.name} in {_time(head.seconds)}, "
        f"{percent(tuned.accuracy)} with {tuned.name} in {_time(tuned.seconds)}, {100 * gain:+.1f} points (95 % "
        f"interval {100 * low:+.1f} to {100 * high:+.1f}; {len(paired)} pictures, {repeats} draws); training end to "
        f"end {'took' if measured else 'would take about'} {_time(seconds)}."
    )
    return Comparison(ranked, head.name, tuned.name, gain, (low, high), worth_it, rows, repeats, seconds, sentence)


def _time(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
