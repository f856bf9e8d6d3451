"""Fine-tuning: train more than a head, from the cache where that is possible, end to end, or from nothing."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from featx._internal.hashing import digest
from featx._internal.keras import load_keras
from featx._internal.progress import Progress
from featx.cache import Features, load_features
from featx.classifier import Classifier, Fitting, assembled, fit
from featx.errors import SettingError, TrainingError
from featx.extraction import Recipe, extract
from featx.finetuning.live import Live
from featx.finetuning.plan import SCRATCH_LEARNING_RATE, Plan, plan_of
from featx.finetuning.settings import FinetuneFields, divided
from featx.heads import Head, HeadParams, OnEpoch, make_head
from featx.pictures import Views, checked, quiet_pillow
from featx.rows import Split, accuracy, groups_of, probabilities, training_split
from featx.tail import Checkpoints, Start, TailHead

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRAINING_ROWS_MEASURED = 1000  # at most, evenly spaced: a whole network may have to look at them


def finetune(
    dataset: str | Path,
    *,
    recipe: Recipe | None = None,
    unfreeze: str = "auto",
    from_scratch: str | None = None,
    init: Classifier | str | Path | None = None,
    head: str | None = None,
    head_params: HeadParams | dict[str, Any] | None = None,
    head_first: bool = True,
    live_augment: bool = False,
    views: Views | None = None,
    validation: float = 0.2,
    random_state: int = 0,
    weights_random_state: int | None = None,
    cache_dir: str | Path = "cache",
    checkpoints: str | Path | None = None,
    progress: Progress | None = None,
    on_epoch: OnEpoch | None = None,
    tensorboard: str | Path | None = None,
    **settings: Unpack[FinetuneFields],
) -> Classifier:
    """Train the last layers of a network and a head on them, all of it, or a small network from nothing.

    The layers before ``unfreeze`` run over the pictures once and their output is cached; the others and the head are
    then trained on it. The head alone is fitted first (Kumar et al. 2022, "Fine-tuning can distort pretrained
    features"). With ``unfreeze="all"`` or ``live_augment`` pictures are decoded, and augmented anew, in every epoch.

    Args:
        dataset: as :func:`featx.extract` takes it.
        recipe: network and pictures, whole; fields of it may be given besides, and replace its own.
        unfreeze: the first layer to train (or its index), ``all``, ``none`` for a plain head, or ``auto``: as many
            of the last layers as hold about half of the weights.
        from_scratch: ``cnn4`` or ``alexnet``, instead of a network with weights.
        init: a classifier, or its folder, whose head (and network) to start from.
        head: the head on the tail; ``logreg`` unless the network from nothing has its own.
        head_params: its settings.
        head_first: fit the head before the layers are unfrozen; else it starts at random.
        live_augment: augment each picture anew in every epoch, without a cache, as ``views`` says.
        views: augmentations to cache, how many and how they vary; live, how they vary.
        validation: share to hold out if the data set does not say; 0 trains on all rows for all epochs.
        random_state: seed of everything random.
        weights_random_state: seed of a network's random weights, by default ``random_state``.
        cache_dir: the cache folder.
        checkpoints: folder to keep the state of training in; one that is there is gone on from.
        progress: called with what is going on, how much is done, and of how much.
        on_epoch: called after each epoch with its number and its measures.
        tensorboard: folder to log each epoch's measures to, for TensorBoard.
        **settings: fields of :class:`featx.Recipe` (``backbone="vgg16"``; its ``layer`` is where the network ends), and
            of the training (``epochs=20``, ``optimizer="sgd"``).

    Returns:
        a classifier like any other. Its ``fitting`` also has ``seconds_per_epoch``, ``features_seconds``, ``history``
        and ``cut``, the layer behind which the network was cut.

    Raises:
        SettingError: a setting out of its range, or settings that do not go together.
        BackboneError: no such layer or network. TrainingError: rows that cannot be trained on.

    Example:
        >>> import featx
        >>> network = {"backbone": "mobilenetv2", "weights": "random", "size": 32}
        >>> classifier = featx.finetune("photos", unfreeze="block_16_expand", epochs=1, **network)
        >>> classifier.fitting.cut, classifier.fitting.epochs
        ('block_15_add', 1)
    """
    started = time.perf_counter()
    network, training = divided(settings)
    if recipe is not None:
        network = {**asdict(recipe), **network}
    if recipe is None or weights_random_state is not None:
        network["random_state"] = random_state if weights_random_state is None else weights_random_state
    plan = plan_of(unfreeze, from_scratch, init, network, head, head_params, live_augment, checked(views))
    if plan.division is None:
        return _plain_head(dataset, plan, validation, random_state, cache_dir, progress)
    if from_scratch:
        training = {"learning_rate": SCRATCH_LEARNING_RATE, **training}
    model = _tail_head(plan, random_state, training)
    model.check_settings()
    callback = None if tensorboard is None else _tensorboard(Path(tensorboard))
    features = _features(dataset, plan, cache_dir, progress)
    features_seconds = time.perf_counter() - started
    split = training_split(features, validation, random_state)
    decisive = {"params": model.get_params(), "features": features.path.name, "views": asdict(plan.views)}
    decisive |= {"live": plan.live, "validation": validation, "init": _identity(plan.start), "head_first": head_first}
    pictures = _pictures(features, split.train)
    start = Start(
        head=plan.start,
        rows=(features.rows(pictures), features.y[pictures]) if head_first and not from_scratch else None,
        checkpoints=None if checkpoints is None else Checkpoints(Path(checkpoints), decisive),
        callback=callback,
    )
    _train(model, plan, features, split, start, progress, on_epoch)
    held_out = probabilities(model, features, split.validation)
    record = replace(
        _record(model, plan, features, split, held_out),
        unfreeze="all" if from_scratch else unfreeze,
        features_seconds=features_seconds,
        seconds=time.perf_counter() - started - features_seconds,
    )
    return assembled(model, features, record, _pictures(features, split.train), split.validation, held_out[:0])


def _plain_head(
    dataset: str | Path,
    plan: Plan,
    validation: float,
    random_state: int,
    cache_dir: str | Path,
    progress: Progress | None,
) -> Classifier:
    """No tail at all: what ``featx extract`` and ``featx fit`` would do."""
    started = time.perf_counter()
    features = _features(dataset, plan, cache_dir, progress)
    features_seconds = time.perf_counter() - started
    params = {"random_state": random_state, **plan.head_params}
    classifier = fit(
        features, make_head(plan.head, **params), validation=validation, random_state=random_state, progress=progress
    )
    record = classifier.fitting
    classifier.fitting = replace(
        record,
        unfreeze="none",
        features_seconds=features_seconds,
        seconds_per_epoch=record.seconds / max(1, record.epochs or 1),
    )
    return classifier


def _train(
    model: TailHead,
    plan: Plan,
    features: Features,
    split: Split,
    start: Start,
    progress: Progress | None,
    on_epoch: OnEpoch | None,
) -> None:
    """Fit tail and head on the training rows of a split."""
    if plan.start is not None and plan.start_classes != tuple(features.class_names):
        raise TrainingError(
            f"`init` knows the classes {', '.join(plan.start_classes[:10])}, the data set has "
            f"{', '.join(features.class_names[:10])}; expected the same"
        )
    y = features.y
    train, held_out = split.train, split.validation
    try:
        with quiet_pillow(plan.recipe.max_pixels):
            model.fit_from(
                start,
                Live(features, train, plan.recipe, plan.views) if plan.live else features.rows(train),
                y[train],
                validation_data=(features.rows(held_out), y[held_out]) if len(held_out) else None,
                progress=progress,
                on_epoch=on_epoch,
                **groups_of(features, train),
            )
    except KeyboardInterrupt:
        kept = f": {start.checkpoints.summary()}; run the same command again to go on" if start.checkpoints else ""
        raise KeyboardInterrupt(f"training was interrupted{kept}") from None


def _record(model: TailHead, plan: Plan, features: Features, split: Split, held_out: NDArray[np.float32]) -> Fitting:
    """How training went, and how the classifier does; ``held_out`` are its probabilities of the validation rows."""
    pictures = _pictures(features, split.train)
    measured = pictures[:: -(-len(pictures) // TRAINING_ROWS_MEASURED)]
    y = features.y
    return Fitting(
        head=model.head,
        train_rows=len(pictures),
        train_views=len(split.train) - len(pictures),
        validation_rows=len(split.validation),
        train_accuracy=accuracy(probabilities(model, features, measured), y[measured]),
        validation_accuracy=accuracy(held_out, y[split.validation]) if len(split.validation) else None,
        left_out=len(split.left_out),
        epochs=len(model.epoch_seconds_),
        random_state=model.random_state,
        network=model.division["backbone"],
        cut=model.division["cut"],
        live_augment=plan.live,
        best_epoch=model.best_epoch_,
        stopped=model.stopped_,
        start_validation_accuracy=None if model.start_ is None else model.start_[1],
        seconds_per_epoch=float(np.median(model.epoch_seconds_[1:] or model.epoch_seconds_)),
        history=model.history_,
    )


def _pictures(features: Features, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of the rows that are the pictures themselves."""
    pictures: NDArray[np.int64] = rows[features.pictures[rows]]
    return pictures


def _features(dataset: str | Path, plan: Plan, cache_dir: str | Path, progress: Progress | None) -> Features:
    views = Views() if plan.live else plan.views
    done = extract(dataset, recipe=plan.recipe, cache_dir=cache_dir, views=views, progress=progress)
    return load_features(done.features_path)


def _tail_head(plan: Plan, random_state: int, training: dict[str, Any]) -> TailHead:
    division = {**asdict(plan.division), "trains": list(plan.division.trains)} if plan.division else {}
    return TailHead(
        division,
        weights=plan.weights,
        weights_random_state=plan.weights_random_state,
        head=plan.head,
        head_params=plan.head_params,
        random_state=random_state,
        **training,
    )


def _tensorboard(folder: Path) -> Any:
    if not importlib.util.find_spec("tensorboard"):
        raise SettingError("`tensorboard` needs TensorBoard: pip install '.[tensorboard]'", "tensorboard")
    return load_keras().callbacks.TensorBoard(str(folder), write_graph=False)


def _identity(head: Head | None) -> str:
    """What a head is known by in a checkpoint's settings: its values."""
    if head is None:
        return ""
    return digest([[name, value.tolist()] for name, value in sorted(head.get_state().items())])
