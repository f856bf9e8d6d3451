"""The backbones: the table, preprocessing, trunks, cuts, names and sizes."""

from __future__ import annotations

import collections
import gc
import inspect
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_backbones import CLOSE, SLOW, SMALL, build_base, by_hand, keras_preprocess, off, pictures, random_trunk

from featx._internal.keras import backend_asked, load_keras
from featx.backbones import (
    BACKBONES,
    POOLINGS,
    PREPROCESSINGS,
    Backbone,
    build_trunk,
    canonical_name,
    fastest_engine,
    find_backbone,
    is_model_file,
    list_layers,
    openvino,
    resolve_size,
)
from featx.backbones.layers import layers_by_name
from featx.backbones.preprocessing import preprocess_pictures
from featx.errors import BackboneError, SettingError


@contextmanager
def as_in_a_fresh_process() -> Iterator[None]:
    """Keras numbers unnamed layers from the start again."""
    from keras.src.backend.common import global_state

    before = global_state.get_global_attribute("object_name_uids")
    global_state.set_global_attribute("object_name_uids", collections.defaultdict(int))
    try:
        yield
    finally:
        global_state.set_global_attribute("object_name_uids", before)


# ------------------------------------------------------------------------------------------------------------ the table


def test_table_holds_every_network_of_keras() -> None:
    applications = load_keras().applications
    theirs = {name for name in dir(applications) if name[0].isupper() and callable(getattr(applications, name))}
    assert {row.constructor for row in BACKBONES.values()} == theirs
    assert len(BACKBONES) == len(theirs)


@pytest.mark.parametrize("row", BACKBONES.values(), ids=BACKBONES)
def test_row_is_sane(row: Backbone) -> None:
    assert BACKBONES[row.name] is row and row.name == row.constructor.lower()
    assert re.fullmatch(r"[a-z0-9]+", row.name)
    assert row.size >= row.min_size >= 32
    assert row.preprocess in PREPROCESSINGS
    assert all(n > 0 for n in (*row.shape, row.parameters)) and row.shape[0] == row.shape[1]
    assert row.size / 40 < row.shape[0] <= row.size / 16 + 1
    build = getattr(load_keras().applications, row.constructor)
    assert row.has_widths == ("alpha" in inspect.signature(build).parameters)


@pytest.mark.parametrize("row", BACKBONES.values(), ids=BACKBONES)
def test_min_size_is_that_of_keras(row: Backbone) -> None:
    side = row.min_size - 1
    with pytest.raises(ValueError, match=f"at least {row.min_size}x{row.min_size}"):
        getattr(load_keras().applications, row.constructor)(
            include_top=False, weights=None, input_shape=(side, side, 3)
        )


def check_shape_and_parameters(name: str) -> None:
    row = BACKBONES[name]
    rows = list_layers(name)
    cut = rows[-1] if row.layer == "output" else next(r for r in rows if r.name == row.layer)
    assert cut.output_shape == row.shape
    assert cut.cut
    assert sum(r.parameters for r in rows) == row.parameters


FAST = ["mobilenet", "mobilenetv2", "mobilenetv3small", "mobilenetv3large", "vgg16", "efficientnetb0", "convnexttiny"]


@pytest.mark.parametrize("name", FAST)
def test_shape_and_parameters(name: str) -> None:
    check_shape_and_parameters(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(BACKBONES) - set(FAST)))
def test_shape_and_parameters_of_all(name: str) -> None:
    check_shape_and_parameters(name)
    gc.collect()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_smallest_size_leaves_something(name: str) -> None:
    row = BACKBONES[name]
    rows = list_layers(name, row.min_size)
    cut = rows[-1] if row.layer == "output" else next(r for r in rows if r.name == row.layer)
    assert cut.output_shape[2] == row.shape[2] and min(cut.output_shape[:2]) >= 1  # type: ignore[type-var]
    gc.collect()


# -------------------------------------------------------------------------------------------------------- preprocessing


@pytest.mark.parametrize("rule", PREPROCESSINGS)
def test_rule_is_that_of_keras(rule: str) -> None:
    from keras.src.applications.imagenet_utils import preprocess_input

    x = np.random.default_rng(0).uniform(0, 255, (3, 5, 4, 3)).astype(np.float32)
    before = x.copy()
    expected = {"none": x, "rescale": x / 255}.get(rule)
    if expected is None:
        expected = preprocess_input(x.copy(), mode=rule)
    assert np.allclose(np.asarray(preprocess_pictures(x, rule)), expected, rtol=1e-5, atol=1e-4)
    assert np.array_equal(x, before)


def test_rules_differ() -> None:
    """One preprocessing for every backbone is silent but catastrophic (thingsvision#183)."""
    x = np.random.default_rng(0).uniform(0, 255, (3, 5, 4, 3)).astype(np.float32)
    values = [np.asarray(preprocess_pictures(x, rule)) for rule in PREPROCESSINGS]
    for i, one in enumerate(values):
        assert not any(np.allclose(one, other, atol=0.05) for other in values[:i])


@pytest.mark.parametrize("row", BACKBONES.values(), ids=BACKBONES)
def test_rule_of_each_network_is_that_of_its_keras_module(row: Backbone) -> None:
    x = np.random.default_rng(1).uniform(0, 255, (2, 4, 4, 3)).astype(np.float32)
    expected = np.asarray(keras_preprocess(row)(x.copy()))
    assert np.allclose(np.asarray(preprocess_pictures(x, row.preprocess)), expected, rtol=1e-5, atol=1e-4)


def test_other_rule_on_request() -> None:
    scaled = random_trunk("vgg16", preprocess="rescale")
    assert (scaled.info.preprocess, random_trunk("vgg16").info.preprocess) == ("rescale", "caffe")
    assert off(scaled(pictures(32)), random_trunk("vgg16")(pictures(32))) > 0.1


@pytest.mark.parametrize("rule", ["caffe", "tf", "torch", "rescale"])
def test_network_that_rescales_by_itself_refuses_a_second_time(rule: str) -> None:
    with pytest.raises(SettingError, match=f'efficientnetb0 rescales .*`preprocess="{rule}"` would do it twice'):
        build_trunk("efficientnetb0", weights="random", size=32, preprocess=rule)


@pytest.mark.parametrize("backbone", ["vgg16", "efficientnetb0"])
def test_unknown_rule(backbone: str) -> None:
    with pytest.raises(
        SettingError, match="unknown `preprocess` 'imagenet'; expected one of auto, caffe, tf, torch, none"
    ):
        build_trunk(backbone, weights="random", size=32, preprocess="imagenet")


# ----------------------------------------------------------------------------------------------------------- the trunks


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_trunk(name: str) -> None:
    row, _ = find_backbone(name)
    trunk = random_trunk(name)
    images = pictures(trunk.info.size)
    before = images.copy()
    images.flags.writeable = False
    features = trunk(images)
    assert isinstance(features, np.ndarray) and features.dtype == np.float32
    assert features.shape == (4, *trunk.info.feature_shape) and len(trunk.info.feature_shape) == 3
    assert np.array_equal(images, before)
    with np.errstate(over="ignore"):
        assert np.isfinite(features.astype(np.float16)).all()
    assert features.std() > 1e-3 and off(features[0], features[2]) > 1e-2
    assert (trunk.info.backbone, trunk.info.layer, trunk.info.pooling) == (name, row.layer, "none")
    assert (trunk.info.size, trunk.info.preprocess, trunk.info.weights) == (
        (SMALL | SLOW)[name],
        row.preprocess,
        "random-0",
    )
    assert trunk.info.engine.startswith("keras-")
    if "-" not in name:
        assert trunk.info.feature_shape[2] == row.shape[2]


def test_random_features_fit_float16_at_the_smallest_size() -> None:
    """float16 is how features are stored by default; a map of 1 x 1 leaves four values a channel for batch norm."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    features = random_trunk("efficientnetb0", size=32)(np.concatenate([noise, pictures(32)]))
    assert np.abs(features).max() < np.finfo(np.float16).max


@pytest.mark.parametrize(("name", "file"), [("vgg16", "w.weights.h5"), ("mobilenetv3small", "w.keras")])
def test_trunk_is_the_keras_network_with_its_preprocessing(name: str, file: str, tmp_path: Path) -> None:
    """94 % in validation, useless at predict (keras#8114); features that do not match the live network
    (deep-learning-models#21). And layers saved as conv_57, built as conv_93, find their weights.
    """
    base = build_base(name)
    (base.save_weights if "weights" in file else base.save)(tmp_path / file)
    trunk = build_trunk(name, weights=str(tmp_path / file), size=32)
    assert off(trunk(pictures(32)), by_hand(base, BACKBONES[name], pictures(32))) < CLOSE


def test_features_do_not_depend_on_the_other_pictures() -> None:
    """Frozen batch norm in training mode (keras#9214); features change with batch size (tensorflow#33104)."""
    trunk = random_trunk("mobilenetv2")
    images = pictures(64, 6)
    together = trunk(images)
    for rows in ([0, 5], [3], [5, 4, 3, 2, 1, 0], [2] * 6):
        assert off(trunk(images[rows]), together[rows]) < 1e-4
    assert off(trunk(images), together) == 0


def test_on_jax_a_size_of_batch_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    keras = load_keras()
    if keras.backend.backend() != "jax":
        pytest.skip("Keras's own predict is what is called, and compiles for itself")
    traced: list[int] = []
    real = keras.Model.stateless_call

    def counted(self: Any, trained: Any, other: Any, images: Any, **options: Any) -> Any:
        traced.append(len(images))
        return real(self, trained, other, images, **options)

    monkeypatch.setattr(keras.Model, "stateless_call", counted)
    trunk = build_trunk("mobilenet-0.25", weights="random", size=32)
    for images in (pictures(32), pictures(32)[::-1], pictures(32, 6), pictures(32)):
        trunk(images)
    assert traced == [4, 6]


def test_features_belong_to_the_caller() -> None:
    trunk, images = random_trunk("vgg16"), pictures(32)
    features, expected = trunk(images), trunk(images)
    features[:] = 0
    assert np.array_equal(trunk(images), expected) and expected.any()


def test_threads_may_share_a_trunk() -> None:
    trunk = build_trunk("mobilenet-0.25", weights="random", size=32)
    batches = [pictures(32, 4 + number // 4) for number in range(8)]  # of two sizes, new ones
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(trunk, batches))
    assert all(np.array_equal(found, trunk(images)) for found, images in zip(together, batches, strict=True))


def test_auto_means_keras_on_jax(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What Keras exports from there, OpenVINO cannot read."""
    monkeypatch.setattr(openvino.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(openvino, "gpus", lambda: [])
    monkeypatch.delenv("FEATX_ENGINE", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    engines = {}
    for backend in ("tensorflow", "jax"):
        monkeypatch.setenv("KERAS_BACKEND", backend)
        engines[backend] = fastest_engine("float32")
    assert engines == {"tensorflow": "openvino", "jax": "keras"}
    monkeypatch.delenv("KERAS_BACKEND")
    for file, expected in {"": "tensorflow", "[]": "tensorflow", '{"backend": "jax"}': "jax"}.items():
        (tmp_path / "keras.json").write_text(file)
        assert backend_asked() == expected


def test_random_weights_follow_the_seed() -> None:
    images = pictures(64)
    first = random_trunk("mobilenet")
    again = build_trunk("mobilenet", weights="random", size=64, random_state=0)
    other = build_trunk("mobilenet", weights="random", size=64, random_state=1)
    assert np.array_equal(first(images), again(images))
    assert off(first(images), other(images)) > 0.1
    assert (first.info.weights, again.info.weights, other.info.weights) == ("random-0", "random-0", "random-1")


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_pooling_is_over_height_and_width(pooling: str) -> None:
    images = pictures(32)
    maps = random_trunk("vgg16")(images)
    pooled = random_trunk("vgg16", pooling=pooling)
    assert pooled.info.pooling == pooling and pooled.info.feature_shape == maps.shape[-1:]
    expected = maps.mean(axis=(1, 2)) if pooling == "avg" else maps.max(axis=(1, 2))
    assert off(pooled(images), expected) < 1e-5


def test_unknown_pooling() -> None:
    with pytest.raises(SettingError, match=f"unknown `pooling` 'mean'; expected one of {', '.join(POOLINGS)}"):
        build_trunk("vgg16", weights="random", size=32, pooling="mean")


def test_layer_cut() -> None:
    trunk = random_trunk("vgg16", layer="block4_pool")
    assert (trunk.info.layer, trunk.info.feature_shape) == ("block4_pool", (2, 2, 512))
    before = random_trunk("vgg16", layer="block4_conv3")(pictures(32))
    assert before.shape == (4, 4, 4, 512)
    assert np.allclose(trunk(pictures(32)), before.reshape(4, 2, 2, 2, 2, 512).max(axis=(2, 4)))


def test_layer_inside_a_branch_can_be_a_cut() -> None:
    assert random_trunk("resnet50", layer="conv2_block1_1_relu", size=32).info.feature_shape == (8, 8, 64)


def test_unknown_layer_suggests() -> None:
    with pytest.raises(
        BackboneError, match=r"vgg16 has no layer 'block5_con3'; did you mean block5_conv3.*\?"
    ) as error:
        build_trunk("vgg16", weights="random", size=32, layer="block5_con3")
    assert "featx backbones vgg16" in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "mobilenetv3small",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("xception", "inceptionv3", "nasnetmobile")),
    ],
)
def test_layer_names_do_not_depend_on_what_was_built_before(name: str) -> None:
    size = BACKBONES[name].min_size
    with as_in_a_fresh_process():
        fresh = [row.name for row in list_layers(name, size)]
    later = build_base(name, size)
    assert [layer.name for layer in later.layers] != fresh  # or this test shows nothing
    assert [row.name for row in list_layers(name, size)] == list(layers_by_name(later)) == fresh
    assert len(set(fresh)) == len(fresh)


def test_default_cut_does_not_depend_on_what_was_built_before() -> None:
    first = random_trunk("mobilenetv3small")
    again = build_trunk("mobilenetv3small", weights="random", size=64)
    assert (again.info.layer, again.info.feature_shape) == (first.info.layer, first.info.feature_shape)


# ------------------------------------------------------------------------------------------------------ lists of layers


def test_list_layers() -> None:
    rows = list_layers("vgg16", 64)
    assert [row.index for row in rows] == list(range(len(rows))) and len(rows) == 19
    assert [row.name for row in rows[:4]] == ["input_layer", "block1_conv1", "block1_conv2", "block1_pool"]
    assert [row.type for row in rows[:4]] == ["InputLayer", "Conv2D", "Conv2D", "MaxPooling2D"]
    assert [row.output_shape for row in rows[:4]] == [(64, 64, 3), (64, 64, 64), (64, 64, 64), (32, 32, 64)]
    assert [row.parameters for row in rows[:4]] == [0, 3 * 3 * 3 * 64 + 64, 3 * 3 * 64 * 64 + 64, 0]
    assert sum(row.parameters for row in rows) == BACKBONES["vgg16"].parameters
    assert not rows[0].cut and not rows[0].tail
    assert all(row.cut and row.tail for row in rows[1:])


def test_branches_are_cuts_but_no_tails() -> None:
    rows = {row.name: row for row in list_layers("resnet50", 32)}
    for inner in ("conv2_block1_1_relu", "conv4_block3_2_bn", "conv5_block3_1_conv", "conv2_block1_0_bn"):
        assert rows[inner].cut and not rows[inner].tail
    for outer in ("conv1_relu", "pool1_pool", "conv2_block3_out", "conv4_block6_out", "conv5_block3_add"):
        assert rows[outer].cut and rows[outer].tail
    assert rows["conv5_block3_out"].tail


def test_branches_of_a_dense_network() -> None:
    rows = {row.name: row for row in list_layers("densenet121", 32)}
    assert rows["conv3_block2_1_relu"].cut and not rows["conv3_block2_1_relu"].tail
    assert rows["conv3_block2_concat"].tail and rows["pool3_pool"].tail


def test_cuts_of_a_list_can_be_built(tiny_backbone: str, tmp_path: Path) -> None:
    """What the list calls a cut is one, and what it does not is refused in featx's own words."""
    layers = load_keras().layers
    chain = load_keras().Sequential([layers.Input((8, 8, 3)), layers.Conv2D(4, 3, name="a"), layers.Conv2D(5, 3)])
    chain.save(tmp_path / "chain.keras")
    for file in (tiny_backbone, str(tmp_path / "chain.keras")):
        for row in list_layers(file):
            try:
                shape = build_trunk(file, preprocess="none", layer=row.name).info.feature_shape
            except BackboneError:
                shape = None
            assert shape == (row.output_shape if row.cut else None), (Path(file).name, row.name)


# ------------------------------------------------------------------------------------------------------ names and sizes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vgg16", "vgg16"),
        ("VGG16", "vgg16"),
        (" vgg-16 ", "vgg16"),
        ("ResNet-50", "resnet50"),
        ("ResNet 50 V2", "resnet50v2"),
        ("efficientnet_b0", "efficientnetb0"),
        ("EfficientNetV2-B0", "efficientnetv2b0"),
        ("MobileNet_V2", "mobilenetv2"),
        ("mobilenetv2-0.35", "mobilenetv2-0.35"),
        ("MobileNet-V2-.350", "mobilenetv2-0.35"),
        ("mobilenetv2-1", "mobilenetv2"),
        ("mobilenetv2-1.0", "mobilenetv2"),
        ("mobilenet-0.25", "mobilenet-0.25"),
        ("Mobile-Net-V3-Small-0.75", "mobilenetv3small-0.75"),
        ("my/Model V1.keras", "my/Model V1.keras"),
        ("/data/VGG16.keras", "/data/VGG16.keras"),
    ],
)
def test_one_spelling_a_network(name: str, expected: str) -> None:
    assert canonical_name(name) == expected
    assert canonical_name(expected) == expected


@pytest.mark.parametrize("name", BACKBONES)
def test_names_of_the_table_and_of_keras_are_found(name: str) -> None:
    row = BACKBONES[name]
    assert find_backbone(name) == find_backbone(row.constructor) == (row, 1.0)


@pytest.mark.parametrize("alpha", [0.35, 0.5, 0.75, 1.0, 1.3, 1.4, 2.0])
def test_alpha_is_part_of_the_name(alpha: float) -> None:
    assert find_backbone(canonical_name("MobileNet_V2", alpha)) == (BACKBONES["mobilenetv2"], alpha)
    assert canonical_name(canonical_name("mobilenetv2", alpha), alpha) == canonical_name("mobilenetv2", alpha)


@pytest.mark.parametrize(
    ("name", "alpha"), [("mobilenetv2-0.35", 0.5), ("mobilenetv2-0.35", 1), ("mobilenetv2-1", 0.5)]
)
def test_two_widths_are_refused(name: str, alpha: float) -> None:
    with pytest.raises(SettingError, match="name two widths; give one"):
        canonical_name(name, alpha)


@pytest.mark.parametrize("alpha", [0, 0.0, -1, -0.5])
def test_width_must_be_positive(alpha: float) -> None:
    with pytest.raises(SettingError, match="`alpha`. is positive"):
        find_backbone(canonical_name("mobilenetv2", alpha))


@pytest.mark.parametrize("name", ["mobilenet-0.01", "mobilenet-0.0"])
def test_width_that_leaves_no_channels(name: str) -> None:
    with pytest.raises(BackboneError):
        build_trunk(name, weights="random", size=32)


def test_widths_belong_to_mobilenets() -> None:
    with pytest.raises(BackboneError, match="vgg16 comes in one width only; widths belong to MobileNets"):
        find_backbone("vgg16-0.5")
    with pytest.raises(SettingError, match="resnet50 comes in one width only; `alpha` belongs to MobileNets"):
        canonical_name("resnet50", 0.5)


def test_width_is_built() -> None:
    narrow, wide = (sum(row.parameters for row in list_layers(name, 32)) for name in ("mobilenet-0.25", "mobilenet"))
    assert wide == BACKBONES["mobilenet"].parameters and 12 < wide / narrow < 16


@pytest.mark.parametrize(
    ("name", "near"), [("vgg17", "vgg16"), ("resnet", "resnet50"), ("EfficientNet-B9", "efficientnetb")]
)
def test_unknown_backbone_suggests(name: str, near: str) -> None:
    for call in (find_backbone, canonical_name, build_trunk, list_layers):
        with pytest.raises(BackboneError, match=f"unknown backbone '{name}'; did you mean .*{near}") as error:
            call(name)
        assert "featx backbones" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "?", "qqqqqqqqqqqqq", "vgg16.h5"])
def test_unknown_backbone_without_a_likeness(name: str) -> None:
    with pytest.raises(BackboneError, match="unknown backbone"):
        find_backbone(name)


def test_model_files_are_told_by_their_suffix() -> None:
    assert is_model_file("a/b.keras") and not is_model_file("vgg16") and not is_model_file("keras")


@pytest.mark.parametrize(
    ("name", "size", "smallest"),
    [("vgg16", 31, 32), ("vgg16", 0, 32), ("vgg16", -5, 32), ("xception", 70, 71), ("inceptionv3", 74, 75)],
)
def test_size_below_the_smallest_names_it(name: str, size: int, smallest: int) -> None:
    message = rf"{name} needs pictures of at least {smallest} x {smallest} pixels, got `size={size}`"
    for call in (lambda: resolve_size(name, size), lambda: build_trunk(name, weights="random", size=size)):
        with pytest.raises(SettingError, match=message) as error:
            call()
        assert error.value.setting == "size"


def test_resolve_size() -> None:
    assert [resolve_size("vgg16", size) for size in (None, 32, 500)] == [224, 32, 500]
    assert [resolve_size("inceptionv3", size) for size in (None, 75)] == [299, 75]
    assert [resolve_size("own.keras", size) for size in (None, 7)] == [None, 7]
