"""The recipe: handed over whole or by fields, its settings checked before any work, misspelt ones answered."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

import numpy as np
import pytest

import featx
from featx.errors import SettingError
from featx.extraction import Recipe, RecipeFields

FRONTS = [featx.extract, featx.plan]


def test_the_keyword_arguments_are_the_fields() -> None:
    """With the same types, but that keywords name the texts to choose from."""

    def plain(hint: Any) -> Any:
        return str if get_origin(hint) is Literal else hint

    keywords = {name: plain(hint) for name, hint in get_type_hints(RecipeFields).items()}
    assert keywords == get_type_hints(Recipe)
    assert keywords.keys() == {field.name for field in dataclasses.fields(Recipe)}


def test_one_setting_has_one_spelling() -> None:
    """NumPy's numbers are no JSON."""
    spelled = Recipe(
        "MobileNet_V2", size=np.int64(64), max_pixels=np.int32(9), weights="random", random_state=np.uint8(3)
    )  # type: ignore[arg-type]
    plain = Recipe("mobilenetv2", size=64, max_pixels=9, weights="random", random_state=3)
    assert json.dumps(dataclasses.asdict(spelled)) == json.dumps(dataclasses.asdict(plain)) and spelled == plain


def test_the_transformer_has_all_fields() -> None:
    defaults = dataclasses.asdict(Recipe()) | {"pooling": "avg", "dtype": "float32", "batch_size": None}
    assert featx.FeatureExtractor().get_params() == defaults


def test_a_recipe_is_handed_over_whole_or_by_fields(
    make_dataset: Callable[..., Path], tiny_backbone: str, tmp_path: Path, counted: list[int]
) -> None:
    root, cache = make_dataset(each=2), tmp_path / "cache"
    recipe = Recipe(tiny_backbone, preprocess="rescale", pooling="avg")
    whole = featx.extract(root, recipe=recipe, cache_dir=cache)
    by_fields = featx.extract(root, cache_dir=cache, backbone=tiny_backbone, preprocess="rescale", pooling="avg")
    assert by_fields.features_path == whole.features_path and len(counted) == 1
    replaced = featx.extract(root, recipe=recipe, cache_dir=cache, pooling="max")
    assert replaced.spec == {**whole.spec, "pooling": "max"} and recipe.pooling == "avg"
    planned = featx.plan(root, recipe=recipe, cache_dir=cache, pooling="max")
    assert (planned.features_path, planned.would_compute) == (replaced.features_path, 0)


@pytest.mark.parametrize("front", FRONTS, ids=lambda front: front.__name__)
@pytest.mark.parametrize(
    ("name", "hint"),
    [("poling", "did you mean `pooling`?"), ("cach_dir", "did you mean `cache_dir`?"), ("qqq", "it takes backbone, ")],
)
def test_a_misspelt_keyword_gets_the_nearest_name(front: Callable[..., Any], name: str, hint: str) -> None:
    with pytest.raises(SettingError) as caught:
        front("no such data set", **{name: "avg"})
    assert str(caught.value).startswith(f"{front.__name__} has no setting '{name}'; {hint}")
    assert caught.value.setting == name


@pytest.mark.parametrize("front", FRONTS, ids=lambda front: front.__name__)
@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"pooling": "sum"}, "pooling"),
        ({"resize": "squash"}, "resize"),
        ({"preprocess": "imagenet"}, "preprocess"),
        ({"dtype": "int8"}, "dtype"),
        ({"precision": "int8"}, "precision"),
        ({"engine": "onnx"}, "engine"),
        ({"weights": "imagnet"}, "weights"),
        ({"size": 31}, "size"),
        ({"size": 64.5}, "size"),
        ({"size": np.int64(-3), "backbone": "pixels"}, "size"),
        ({"backbone": "pixels"}, "size"),
        ({"max_pixels": 0}, "max_pixels"),
        ({"random_state": -1}, "random_state"),
        ({"views": 5}, "views"),
        ({"recipe": {"backbone": "vgg16"}}, "recipe"),
    ],
    ids=str,
)
def test_settings_are_checked_before_any_work(front: Callable[..., Any], settings: Any, setting: str) -> None:
    """The data set, which is not there, is not looked at."""
    with pytest.raises(SettingError) as caught:
        front("no such data set", **settings)
    assert caught.value.setting == setting and isinstance(caught.value, ValueError)
    message = str(caught.value)
    assert f"`{setting}" in message and "--" not in message and "\n" not in message


@pytest.mark.parametrize(
    ("settings", "setting"),
    [({"batch_size": 0}, "batch_size"), ({"batch_size": 1.5}, "batch_size"), ({"workers": "x"}, "workers")],
)
def test_settings_of_the_run_are_checked_before_any_work(settings: Any, setting: str) -> None:
    with pytest.raises(SettingError) as caught:
        featx.extract("no such data set", **settings)
    assert caught.value.setting == setting and f"`{setting}" in str(caught.value)


def test_results_are_told_in_one_line(make_dataset: Callable[..., Path], tiny_backbone: str, tmp_path: Path) -> None:
    options = {"cache_dir": tmp_path / "cache", "backbone": tiny_backbone, "preprocess": "rescale"}
    root = make_dataset(each=30)
    planned = featx.plan(root, **options)
    done = featx.extract(root, **options)
    assert len(planned.new) == 60
    for result in (planned, done):
        assert "\n" not in repr(result) and len(repr(result)) < 400 and done.features_path in repr(result)
