"""Fine-tuning: train more than a head, from the cache where that is possible, end to end, or from nothing."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featx._internal.hashing import digest
from featx._internal.keras import load_keras
from featx._internal.progress import Progress
from featx.backbones import PIXELS, SCRATCH, Division, divide
from featx.cache import Features, load_features
from featx.classifier import Classifier, assembled, fit
from featx.errors import SettingError, TrainingError, require_choice, unknown_setting
from featx.extraction import Recipe, extract
from featx.finetuning.live import Live
from featx.heads import Head, OnEpoch, make_head
from featx.pictures import Views, checked, quiet_pillow
from featx.rows import Split, accuracy, groups_of, probabilities, training_split
from featx.tail import Checkpoints, Start, TailHead

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRAINING_ROWS_MEASURED = 1000  # at most, evenly spaced: a whole network may have to look at them
SCRATCH_LEARNING_RATE = 1e-3  # where nothing has been learned that could be spoiled


def finetune(
    dataset: str | Path,
    *,
    unfreeze: str = "auto",
    from_scratch: str | None = None,
    init: Classifier | str | Path | None = None,
    head: str | None = None,
    head_params: dict[str, Any] | None = None,
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
    **settings: Any,
) -> Classifier:
    """Train the last layers of a network and a head on them, all of it, or a small network from nothing.

    The layers before ``unfreeze`` run over the pictures once and their output is cached; the others and the head are
    then trained on it. The head alone is fitted first (Kumar et al. 2022, "Fine-tuning can distort pretrained
    features"). With ``unfreeze="all"`` or ``live_augment`` pictures are decoded, and augmented anew, in every epoch.

    Args:
        dataset: as :func:`featx.extract` takes it.
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
            of :class:`featx.tail.TailHead` (``epochs=20``, ``optimizer="sgd"``).

    Returns:
        a classifier like any other. Its report also has ``seconds_per_epoch``, ``features_seconds``, ``history`` and
        ``cut``, behind which layer the network was cut.

    Raises:
        SettingError: a setting is not what it may be.
        BackboneError: no such layer or network.
        TrainingError: rows that cannot be trained on.
    """
    started = time.perf_counter()
    recipe, training = _of_recipe_and_training(settings)
    recipe["random_state"] = random_state if weights_random_state is None else weights_random_state
    plan = _plan(unfreeze, from_scratch, init, recipe, head, head_params, live_augment, checked(views))
    if plan.division is None:
        return _plain_head(dataset, plan, validation, random_state, cache_dir, progress)
    model = _tail_head(plan, random_state, {**_usual(from_scratch), **training})
    model.check_settings()
    features = _features(dataset, plan, cache_dir, progress)
    features_seconds = time.perf_counter() - started
    split = training_split(features, validation, random_state)
    course = {"params": model.get_params(), "features": features.path.name, "views": asdict(plan.views)}
    course |= {"live": plan.live, "validation": validation, "init": _identity(plan.start), "head_first": head_first}
    pictures = _pictures(features, split.train)
    first = head_first and not from_scratch
    start = Start(
        head=plan.start,
        rows=(features.rows(pictures), features.y[pictures]) if first else None,
        checkpoints=None if checkpoints is None else Checkpoints(Path(checkpoints), course),
        callback=None if tensorboard is None else _tensorboard(Path(tensorboard)),
    )
    _train(model, plan, features, split, start, progress, on_epoch)
    held_out = probabilities(model, features, split.validation)
    report = _report(model, plan, features, split, held_out)
    report |= {"unfreeze": "all" if from_scratch else unfreeze, "features_seconds": features_seconds}
    report |= {"seconds": time.perf_counter() - started - features_seconds}
    return assembled(model, features, report, _pictures(features, split.train), split.validation, held_out[:0])


@dataclass(frozen=True)
class _Plan:
    """What is to be done, resolved.

    Attributes:
        division: where the network is cut and what of it trains; None if only a head is trained.
        recipe: of the features that are cached: what the trunk gives at the cut, or pixels.
        weights: of the network.
        head, head_params: on the network's end.
        weights_random_state: seed of them, if they are random.
        start: a fitted head to start from; ``start_classes`` are its classes.
        live: whether pictures are decoded anew in each epoch.
        views: how training pictures vary.
    """

    division: Division | None
    recipe: Recipe
    weights: str
    head: str
    head_params: dict[str, Any]
    start: Head | None
    live: bool
    views: Views
    start_classes: tuple[str, ...] = ()
    weights_random_state: int = 0


def _plan(
    unfreeze: str,
    from_scratch: str | None,
    init: Classifier | str | Path | None,
    asked: dict[str, Any],
    head: str | None,
    head_params: dict[str, Any] | None,
    live: bool,
    views: Views,
) -> _Plan:
    if from_scratch:
        return _from_scratch(from_scratch, init, asked, head, head_params, live, views)
    start: Head | None = None
    classes: tuple[str, ...] = ()
    if init is not None:
        fitted = init if isinstance(init, Classifier) else Classifier.load(init)
        start, asked, classes = fitted.head, _network_of(fitted, asked), tuple(fitted.class_names)
        head, head_params = _settings_of(fitted, head, head_params)
    recipe = Recipe(**asked)
    if start is None and recipe.pooling != "none":
        raise SettingError(
            'fine-tuning needs maps; leave `pooling` out, and give `input="avg"` or `input="max"` for the head',
            "pooling",
        )
    chosen = head or "logreg", head_params or {}
    if unfreeze == "none":
        return _Plan(None, recipe, recipe.weights, *chosen, start, False, views)
    live = live or (unfreeze == "all" and views.n == 1)
    from_pixels = live or unfreeze == "all"
    parts = divide(
        recipe.backbone,
        unfreeze,
        layer=recipe.layer,
        size=recipe.size,
        preprocess=recipe.preprocess,
        from_pixels=from_pixels,
    )
    cached = replace(recipe, layer=parts.cut, pooling="none") if parts.cut != PIXELS else _pixels(recipe, parts.size)
    return _Plan(parts, cached, recipe.weights, *chosen, start, live, views, classes, recipe.random_state)


def _from_scratch(
    name: str,
    init: Any,
    asked: dict[str, Any],
    head: str | None,
    head_params: dict[str, Any] | None,
    live: bool,
    views: Views,
) -> _Plan:
    require_choice("from_scratch", name, SCRATCH)
    if init is not None:
        raise SettingError("`init` starts from a fitted head, `from_scratch` from nothing; give one of the two", "init")
    network = SCRATCH[name]
    own, params = network.head
    size = asked.get("size") or network.size
    network.build(size)  # which says what is wrong with it
    parts = Division(name, size, "none", PIXELS, "", ())
    recipe = _pixels(Recipe(**{k: v for k, v in asked.items() if k in ("resize", "max_pixels")}), size)
    params = {**(params if head in (None, own) else {"input": "flat"}), **(head_params or {})}
    return _Plan(parts, recipe, "none", head or own, params, None, live, views)


def _pixels(recipe: Recipe, size: int) -> Recipe:
    """The recipe of decoded pictures as they are."""
    return Recipe(PIXELS, size=size, resize=recipe.resize, max_pixels=recipe.max_pixels)


def _network_of(fitted: Classifier, asked: dict[str, Any]) -> dict[str, Any]:
    """The recipe's fields of the network that a classifier's head was fitted on."""
    own, usual = asdict(fitted.recipe), asdict(Recipe())
    for name, value in asked.items():
        if name != "random_state" and value not in (own[name], usual[name]):
            raise SettingError(
                f"`init` brings its own network, whose {name} is {own[name]}, not {value}; leave it out", name
            )
    return own


def _settings_of(
    fitted: Classifier, head: str | None, head_params: dict[str, Any] | None
) -> tuple[str, dict[str, Any]]:
    name = str(fitted.report["head"])
    if fitted.head.has_tail:
        raise SettingError(
            "`init` takes a classifier that is a plain head on a frozen network; this one has a tail", "init"
        )
    if head not in (None, name) or head_params:
        raise SettingError(f"`init` brings its own head, {name}; leave `head` and its settings out", "init")
    pooled = {} if fitted.recipe.pooling == "none" else {"input": fitted.recipe.pooling}
    return name, {**fitted.head.get_params(), **pooled}


def _plain_head(
    dataset: str | Path,
    plan: _Plan,
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
    history = getattr(classifier.head, "history_", {})
    classifier.report |= {"unfreeze": "none", "features_seconds": features_seconds, "history": history}
    classifier.report["seconds_per_epoch"] = classifier.report["seconds"] / max(1, classifier.report["epochs"] or 1)
    return classifier


def _train(
    model: TailHead,
    plan: _Plan,
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
        kept = f": {start.checkpoints.said()}; run the same command again to go on" if start.checkpoints else ""
        raise KeyboardInterrupt(f"training was interrupted{kept}") from None


def _report(
    model: TailHead, plan: _Plan, features: Features, split: Split, held_out: NDArray[np.float32]
) -> dict[str, Any]:
    """How training went, and how the classifier does; ``held_out`` are its probabilities of the validation rows."""
    pictures = _pictures(features, split.train)
    some = pictures[:: -(-len(pictures) // TRAINING_ROWS_MEASURED)]
    y = features.y
    return {
        "head": model.head,
        "train_rows": len(pictures),
        "train_views": len(split.train) - len(pictures),
        "validation_rows": len(split.validation),
        "train_accuracy": accuracy(probabilities(model, features, some), y[some]),
        "validation_accuracy": accuracy(held_out, y[split.validation]) if len(split.validation) else None,
        "refitted": False,
        "left_out": len(split.left_out),
        "epochs": len(model.epoch_seconds_),
        "random_state": model.random_state,
        "temperature": 1.0,
        "network": model.division["backbone"],
        "cut": model.division["cut"],
        "live_augment": plan.live,
        "best_epoch": model.best_epoch_,
        "stopped": model.stopped_,
        "start_validation_accuracy": None if model.start_ is None else model.start_[1],
        "seconds_per_epoch": float(np.median(model.epoch_seconds_[1:] or model.epoch_seconds_)),
        "history": model.history_,
    }


def _pictures(features: Features, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of the rows that are the pictures themselves."""
    pictures: NDArray[np.int64] = rows[features.views[rows] == 0]
    return pictures


def _usual(from_scratch: str | None) -> dict[str, Any]:
    return {"learning_rate": SCRATCH_LEARNING_RATE} if from_scratch else {}


def _features(dataset: str | Path, plan: _Plan, cache_dir: str | Path, progress: Progress | None) -> Features:
    views = Views() if plan.live else plan.views
    done = extract(dataset, cache_dir=cache_dir, views=views, progress=progress, **asdict(plan.recipe))
    return load_features(done.features)


def _of_recipe_and_training(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the network and its pictures, and those of training."""
    of_recipe = {field.name for field in fields(Recipe)}
    not_given = ("division", "head", "head_params", "weights_random_state")
    of_training = [name for name in TailHead._get_param_names() if name not in not_given]
    for name in settings:
        if name not in of_recipe and name not in of_training:
            raise unknown_setting(name, [*of_recipe, *of_training], "fine-tuning")
    recipe = {name: value for name, value in settings.items() if name in of_recipe}
    return recipe, {name: value for name, value in settings.items() if name not in of_recipe}


def _tail_head(plan: _Plan, random_state: int, training: dict[str, Any]) -> TailHead:
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
        raise SettingError("`tensorboard` needs TensorBoard: pip install 'featx[tensorboard]'", "tensorboard")
    return load_keras().callbacks.TensorBoard(str(folder), write_graph=False)


def _identity(head: Head | None) -> str:
    """What a head is known by in a checkpoint's settings: its values."""
    if head is None:
        return ""
    return digest([[name, value.tolist()] for name, value in sorted(head.get_state().items())])
