"""The plan of a fine-tuning: where the network is cut, what of it trains, and from where training starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from featx.backbones import PIXELS, SCRATCH, Division, divide
from featx.classifier import Classifier
from featx.errors import SettingError, require_choice
from featx.extraction import Recipe
from featx.heads import Head
from featx.pictures import Views

SCRATCH_LEARNING_RATE = 1e-3  # where nothing has been learned that could be spoiled


@dataclass(frozen=True)
class Plan:
    """Plan of a fine-tuning, all defaults resolved.

    Attributes:
        division: where the network is cut and what of it trains; None if only a head is trained.
        recipe: recipe of the features that are cached: the trunk's output at the cut, or pixels.
        weights: weights of the network; ``weights_random_state`` is their seed, if they are random.
        head, head_params: name and parameters of the head on the network's end.
        start: fitted head to start from; ``start_classes`` are its classes.
        live: whether pictures are decoded anew in each epoch.
        views: variation of the training pictures.
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


def plan_of(
    unfreeze: str,
    from_scratch: str | None,
    init: Classifier | str | Path | None,
    network: dict[str, Any],
    head: str | None,
    head_params: Mapping[str, Any] | None,
    live: bool,
    views: Views,
) -> Plan:
    """What the arguments of :func:`featx.finetune` come to; ``network`` are the fields of its recipe.

    Raises:
        SettingError: arguments that do not go together. BackboneError: no such layer or network.
    """
    if from_scratch:
        return _from_scratch(from_scratch, init, network, head, head_params, live, views)
    start: Head | None = None
    classes: tuple[str, ...] = ()
    if init is not None:
        fitted = Classifier.of(init)
        start = fitted.head
        network = _network_of(fitted, network)
        classes = tuple(fitted.class_names)
        head, head_params = _settings_of(fitted, head, head_params)
    recipe = Recipe(**network)
    if start is None and recipe.pooling != "none":
        raise SettingError(
            "fine-tuning needs maps; leave `pooling` out, and give the head's `input` as avg or max", "pooling"
        )
    chosen = head or "logreg", dict(head_params or {})
    if unfreeze == "none":
        return Plan(None, recipe, recipe.weights, *chosen, start, False, views)
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
    return Plan(parts, cached, recipe.weights, *chosen, start, live, views, classes, recipe.random_state)


def _from_scratch(
    name: str,
    init: Any,
    network: dict[str, Any],
    head: str | None,
    head_params: Mapping[str, Any] | None,
    live: bool,
    views: Views,
) -> Plan:
    require_choice("from_scratch", name, SCRATCH)
    if init is not None:
        raise SettingError("`init` starts from a fitted head, `from_scratch` from nothing; give one of the two", "init")
    scratch = SCRATCH[name]
    own, params = scratch.head
    size = network.get("size") or scratch.size
    scratch.build(size)  # which says what is wrong with it
    parts = Division(name, size, "none", PIXELS, "", ())
    recipe = _pixels(Recipe(**{k: v for k, v in network.items() if k in ("resize", "max_pixels")}), size)
    params = {**(params if head in (None, own) else {"input": "flat"}), **(head_params or {})}
    return Plan(parts, recipe, "none", head or own, params, None, live, views)


def _pixels(recipe: Recipe, size: int) -> Recipe:
    """The recipe of decoded pictures as they are."""
    return Recipe(PIXELS, size=size, resize=recipe.resize, max_pixels=recipe.max_pixels)


def _network_of(fitted: Classifier, network: dict[str, Any]) -> dict[str, Any]:
    """The recipe's fields of the network that a classifier's head was fitted on."""
    own, usual = asdict(fitted.recipe), asdict(Recipe())
    for name, value in network.items():
        if name != "random_state" and value not in (own[name], usual[name]):
            raise SettingError(
                f"`init` brings its own network, whose `{name}` is {own[name]}, not {value}; leave it out", name
            )
    return own


def _settings_of(
    fitted: Classifier, head: str | None, head_params: Mapping[str, Any] | None
) -> tuple[str, dict[str, Any]]:
    name = fitted.fitting.head
    if fitted.head.has_tail:
        raise SettingError(
            "`init` takes a classifier that is a plain head on a frozen network; this one has a tail", "init"
        )
    if head not in (None, name) or head_params:
        raise SettingError(f"`init` brings its own head, {name}; leave `head` and its settings out", "head")
    pooled = {} if fitted.recipe.pooling == "none" else {"input": fitted.recipe.pooling}
    return name, {**fitted.head.get_params(), **pooled}
