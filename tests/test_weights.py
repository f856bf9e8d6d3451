"""Weights: that cannot be had, from files, in a user's own model files."""

from __future__ import annotations

import http.client
import importlib
import logging
import re
import socket
import threading
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from shared_backbones import CLOSE, build_base, by_hand, off, pictures, random_trunk

import featx
from featx._internal.keras import load_keras
from featx.backbones import BACKBONES, Trunk, build_trunk, list_layers
from featx.backbones import download as download_module
from featx.errors import BackboneError, FeatxError, SettingError, WeightsError

# ------------------------------------------------------------------------------------------------ weights not to be had


@pytest.fixture
def download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Keras with an empty home and no network: each download raises ``error`` and is noted, with its place."""
    from keras.src.backend import config
    from keras.src.utils import file_utils

    home = tmp_path / "keras"
    home.mkdir()
    state: dict[str, Any] = {"error": urllib.error.URLError("no network"), "places": []}

    def refuse(url: str, place: Any, *_: Any) -> None:
        assert Path(place).is_relative_to(home), "Keras would use the real home"
        state["places"].append(Path(place))
        raise state["error"]

    monkeypatch.setenv("KERAS_HOME", str(home))
    monkeypatch.setattr(config, "_KERAS_DIR", str(home))
    monkeypatch.setattr(file_utils, "urlretrieve", refuse)
    return state


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("vgg16", "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"),
        ("mobilenetv2-0.35", "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"),
        ("mobilenetv3small-0.75", "weights_mobilenet_v3_small_224_0.75_float_no_top_v2.h5"),
        ("nasnetmobile", "NASNet-mobile-no-top.h5"),
    ],
)
def test_imagenet_without_network(
    name: str, file: str, download: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(WeightsError) as error:
        build_trunk(name, size=32)
    message = str(error.value)
    assert f"for {name} could not be downloaded" in message
    assert f"/{file}" in message  # the address
    (place,) = download["places"]  # one attempt: whoever has no network waits once
    assert f"at {place}," in message  # where Keras looks for it, whatever the address says
    assert "`weights=FILE`" in message and '`weights="random"`' in message and "\n" not in message
    assert capsys.readouterr().out == ""
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("no network"),
        urllib.error.HTTPError("https://example.org", 404, "Not Found", None, None),  # type: ignore[arg-type]
        TimeoutError("timed out"),
        ConnectionResetError("reset by peer"),
        http.client.RemoteDisconnected("closed"),
        http.client.IncompleteRead(b""),
    ],
    ids=lambda e: type(e).__name__,
)
def test_every_broken_download_names_the_file(error: Exception, download: dict[str, Any]) -> None:
    """A stalled one ends as TimeoutError, without the address that Keras puts into the others."""
    download["error"] = error
    with pytest.raises(WeightsError) as caught:
        build_trunk("mobilenetv2-0.35", size=32)
    (place,) = download["places"]
    assert str(place) in str(caught.value) and "`weights=FILE`" in str(caught.value)


def test_a_network_that_never_answers(
    download: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A firewall that drops packets, or names that are never found: sockets wait for each address in turn."""
    over = threading.Event()

    def hang(*_: Any) -> None:
        over.wait(60)

    monkeypatch.setattr(importlib.import_module("keras.src.utils.file_utils"), "urlretrieve", hang)
    monkeypatch.setattr(download_module, "DOWNLOAD_TIMEOUT", 0.3)
    with pytest.raises(WeightsError, match="could not be downloaded. Keras wants https://.*: put that file at"):
        build_trunk("mobilenetv2-0.35", size=32)
    assert not over.is_set() and capfd.readouterr() == ("", "")
    over.set()


def test_a_download_is_logged_by_tenths(caplog: pytest.LogCaptureFixture) -> None:
    log = download_module.DownloadLog("vgg16", [])
    with caplog.at_level(logging.INFO):
        log.write("Downloading data from https://example.org/vgg16.h5\n")
        assert log.connecting_since
        for done in range(0, 1001, 10):
            log.write(f"\r{done}/1000 [====]")
    assert not log.connecting_since
    assert [record.getMessage() for record in caplog.records][::5] == [
        f"downloading the weights of vgg16: {percent} % of 0 MB" for percent in (0, 50, 100)
    ]


def test_width_that_has_no_imagenet_weights(download: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match="no ImageNet weights for mobilenetv2-0.33: .*0.35.*1.4"):
        build_trunk("mobilenetv2-0.33", size=32)
    assert download["places"] == []


@pytest.fixture
def efficientnet() -> Any:
    """An EfficientNet whose first layers hold ImageNet's mean and variance, or nearly, as Keras's own file has them."""
    base = build_base("efficientnetb0")
    norm = next(layer for layer in base.layers if type(layer).__name__ == "Normalization")
    for variable, values in zip(norm.weights, ([0.485, 0.456, 0.406], [0.05, 0.04, 0.06]), strict=False):
        variable.assign(np.reshape(values, variable.shape))
    norm.finalize_state()
    return base


def test_keras_own_file_as_a_file_is_refused(efficientnet: Any, tmp_path: Path) -> None:
    """Keras adds a layer when it loads this file itself, so the same file would give other features."""
    efficientnet.save(tmp_path / "imagenet_notop.h5")
    with pytest.raises(WeightsError, match='efficientnetb0_notop.h5 and give `weights="imagenet"`'):
        build_trunk("efficientnetb0", size=32, weights=str(tmp_path / "imagenet_notop.h5"))


# -------------------------------------------------------------------------------------------------------- weights files


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one network, ``mobilenet-0.25``, in all three kinds of file, and its ``features.npy``."""
    folder = tmp_path_factory.mktemp("weights")
    base = build_base("mobilenet-0.25", random_state=7)
    base.save_weights(folder / "a.weights.h5")
    base.save(folder / "a.h5")
    base.save(folder / "a.keras")
    np.save(folder / "features.npy", by_hand(base, BACKBONES["mobilenet"], pictures(32)))
    return folder


KINDS = ["a.weights.h5", "a.h5", "a.keras"]


@pytest.fixture(scope="module")
def loaded(saved: Path) -> dict[str, Trunk]:
    return {file: build_trunk("mobilenet-0.25", weights=str(saved / file), size=32) for file in KINDS}


@pytest.mark.parametrize("file", KINDS)
def test_weights_file(saved: Path, loaded: dict[str, Trunk], file: str) -> None:
    assert off(loaded[file](pictures(32)), np.load(saved / "features.npy")) < CLOSE


def test_weights_hash_is_of_the_values(loaded: dict[str, Trunk], saved: Path) -> None:
    (digest,) = {trunk.info.weights for trunk in loaded.values()}
    assert re.fullmatch("[0-9a-f]{32}", digest)
    at_48 = build_trunk("mobilenet-0.25", weights=str(saved / "a.h5"), size=48)
    assert at_48.info.weights == digest


@pytest.mark.parametrize(
    ("file", "name", "layer"),
    [*((file, "mobilenet", "'conv1'") for file in KINDS), ("a.weights.h5", "vgg16", r"'block1_conv1'")],
)
def test_weights_of_another_network_name_the_layer(saved: Path, file: str, name: str, layer: str) -> None:
    with pytest.raises(WeightsError, match=rf"{re.escape(file)} does not fit {name}: .*layer {layer}") as error:
        build_trunk(name, weights=str(saved / file), size=32)
    assert "`alpha`" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["b.weights.h5", "b.h5", "b.keras"])
def test_weights_of_a_shorter_network(tmp_path: Path, file: str) -> None:
    """A chain that is the beginning of VGG16 fills its first layers only: nothing is left at random."""
    keras = load_keras()
    beginning = keras.Sequential([keras.Input((32, 32, 3))])
    for n in (1, 2):
        beginning.add(keras.layers.Conv2D(64, 3, padding="same", name=f"block1_conv{n}"))
    (beginning.save_weights if "weights" in file else beginning.save)(tmp_path / file)
    with pytest.raises(WeightsError, match="does not fit vgg16"):
        build_trunk("vgg16", weights=str(tmp_path / file), size=32)


def test_weights_of_the_network_with_its_classifier(tmp_path: Path) -> None:
    whole = build_base("mobilenet-0.25", include_top=True, classes=7)
    whole.save(tmp_path / "top.h5")
    trunk = build_trunk("mobilenet-0.25", weights=str(tmp_path / "top.h5"), size=32)
    assert off(trunk(pictures(32)), by_hand(whole, BACKBONES["mobilenet"], pictures(32))) < CLOSE


def test_normalization_of_the_input_comes_with_the_weights(efficientnet: Any, tmp_path: Path) -> None:
    """EfficientNet keeps ImageNet's mean and variance as weights; Keras uses a copy that it makes on loading."""
    norm = next(layer for layer in efficientnet.layers if type(layer).__name__ == "Normalization")
    norm.weights[0].assign(np.reshape([0.3, 0.4, 0.5], norm.weights[0].shape))  # a network of one's own
    norm.finalize_state()
    efficientnet.save_weights(tmp_path / "n.weights.h5")
    efficientnet.save(tmp_path / "n.keras")
    expected = by_hand(efficientnet, BACKBONES["efficientnetb0"], pictures(32), "stem_bn")
    for file in ("n.weights.h5", "n.keras"):
        trunk = build_trunk("efficientnetb0", weights=str(tmp_path / file), size=32, layer="stem_bn")
        assert off(trunk(pictures(32)), expected) < 1e-4, file


def test_weights_that_are_not_numbers(saved: Path, tmp_path: Path) -> None:
    base = build_base("mobilenet-0.25")
    base.get_layer("conv_pw_3").set_weights([np.full(base.get_layer("conv_pw_3").kernel.shape, np.nan)])
    base.save_weights(tmp_path / "nan.weights.h5")
    with pytest.raises(WeightsError, match="layer 'conv_pw_3'"):
        build_trunk("mobilenet-0.25", weights=str(tmp_path / "nan.weights.h5"), size=32)


@pytest.mark.parametrize(
    ("name", "text"),
    [("text.h5", "these are no weights\n"), ("text.weights.h5", "no"), ("text.keras", "PK"), ("empty.h5", "")],
)
def test_text_named_like_weights(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(WeightsError, match=re.escape(str(tmp_path / name))) as error:
        build_trunk("vgg16", weights=str(tmp_path / name), size=32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", KINDS)
def test_truncated_weights(saved: Path, tmp_path: Path, file: str) -> None:
    data = (saved / file).read_bytes()
    (tmp_path / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match=re.escape(file)):
        build_trunk("mobilenet-0.25", weights=str(tmp_path / file), size=32)


@pytest.mark.parametrize("weights", ["gone.h5", "gone.weights.h5", "gone.keras"])
def test_no_such_weights(tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="no weights file .*`weights` takes imagenet, random, or a"):
        build_trunk("vgg16", weights=weights, size=32)


def test_weights_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"PK")
    with pytest.raises(SettingError, match=r"w.pt'; expected imagenet, random, or a .weights.h5, .h5 or .keras file"):
        build_trunk("vgg16", weights=str(tmp_path / "w.pt"), size=32)
    for name, hint in {"ImageNet": "did you mean imagenet", ".": "expected imagenet", "none": "expected"}.items():
        with pytest.raises(SettingError, match=f"unknown `weights` '{re.escape(name)}'; {hint}"):
            featx.Recipe("vgg16", weights=name)


def test_real_weights(real_weights: Path) -> None:
    trunk = build_trunk("mobilenetv2", weights=str(real_weights), size=64)
    images = pictures(64)
    features = trunk(images)
    assert trunk.info.feature_shape == (2, 2, 1280) and re.fullmatch("[0-9a-f]{32}", trunk.info.weights)
    assert np.isfinite(features).all() and 0 <= features.min() and features.max() <= 6
    assert off(features, random_trunk("mobilenetv2")(images)) > 0.1
    # two pictures of lying stripes are nearer to each other than either is to standing ones
    kinds = np.stack([np.asarray(picture(k, n, (64, 64))) for k, n in ((0, 1), (0, 2), (1, 1), (1, 2))])
    pooled = trunk(kinds).mean(axis=(1, 2))
    a, b, c, d = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    assert min(a @ b, c @ d) > max(a @ c, a @ d, b @ c, b @ d)


def test_real_weights_of_another_width(real_weights: Path) -> None:
    with pytest.raises(WeightsError, match="layer 'Conv1'.*`alpha`"):
        build_trunk("mobilenetv2-0.35", weights=str(real_weights), size=96)


# ------------------------------------------------------------------------------------------------------ own model files


def save_model(model: Any, file: Path) -> str:
    model.save(file)
    return str(file)


def test_own_model(tiny_backbone: str) -> None:
    trunk = build_trunk(tiny_backbone, preprocess="rescale")
    images = pictures(32)
    expected = load_keras().saving.load_model(tiny_backbone).predict_on_batch(images.astype(np.float32) / 255)
    assert (trunk.info.backbone, trunk.info.layer, trunk.info.size) == ("tiny.keras", "last", 32)
    assert (trunk.info.preprocess, trunk.info.feature_shape) == ("rescale", (4, 4, 8))
    assert off(trunk(images), expected) < 1e-5
    assert off(build_trunk(tiny_backbone, preprocess="tf")(images), expected) > 0.1


def test_own_model_at_a_layer(tiny_backbone: str) -> None:
    assert build_trunk(tiny_backbone, preprocess="none", layer="edges").info.feature_shape == (8, 8, 8)
    assert [row.name for row in list_layers(tiny_backbone)] == ["input_layer", "edges", "pool", "last"]
    with pytest.raises(BackboneError, match="has no layer 'edge'; did you mean edges"):
        build_trunk(tiny_backbone, preprocess="none", layer="edge")


def test_own_model_is_known_by_its_weights(tiny_backbone: str, tmp_path: Path) -> None:
    model = load_keras().saving.load_model(tiny_backbone)
    first = build_trunk(tiny_backbone, preprocess="none").info.weights
    assert build_trunk(save_model(model, tmp_path / "tiny.keras"), preprocess="none").info.weights == first
    model.get_layer("last").bias.assign_add(np.eye(8, dtype=np.float32)[3] * 1e-3)
    changed = save_model(model, tmp_path / "tiny.keras")
    assert build_trunk(changed, preprocess="none").info.weights != first


def test_own_model_with_random_weights_and_a_weights_file(tiny_backbone: str, tmp_path: Path) -> None:
    own = build_trunk(tiny_backbone, preprocess="none")
    drawn = build_trunk(tiny_backbone, preprocess="none", weights="random", random_state=2)
    assert drawn.info.weights != own.info.weights and off(drawn(pictures(32)), own(pictures(32))) > 0.1
    load_keras().saving.load_model(tiny_backbone).save_weights(tmp_path / "own.weights.h5")
    given = build_trunk(tiny_backbone, preprocess="none", weights=str(tmp_path / "own.weights.h5"))
    assert given.info.weights == own.info.weights


def test_own_models_that_differ_in_what_is_not_drawn_differ_in_their_spec(tiny_backbone: str, tmp_path: Path) -> None:
    """Random weights are kernels; biases stay the file's."""
    model = load_keras().saving.load_model(tiny_backbone)
    model.get_layer("edges").bias.assign(model.get_layer("edges").bias + 100)
    model.save(tmp_path / "tiny.keras")
    one, other = (
        build_trunk(str(f), preprocess="none", weights="random") for f in (tiny_backbone, tmp_path / "tiny.keras")
    )
    assert off(one(pictures(32)), other(pictures(32))) > 0.01 and one.info.weights != other.info.weights


def test_a_network_in_a_network_is_cut_in_the_outer_one(tmp_path: Path) -> None:
    """As most transfer-learning tutorials build theirs: a base called like a layer."""
    keras = load_keras()
    base = keras.applications.MobileNetV2((32, 32, 3), 0.35, include_top=False, weights=None)
    pictures_in = keras.Input((32, 32, 3))
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(base(pictures_in))
    model = keras.Model(pictures_in, keras.layers.Dense(2, name="top")(pooled))
    model.save(tmp_path / "nested.keras")
    trunk = build_trunk(str(tmp_path / "nested.keras"), preprocess="rescale")
    assert trunk.info.layer == base.name and trunk.info.feature_shape == (1, 1, 1280)
    expected = np.asarray(model.layers[1](pictures(32).astype(np.float32) / 255))
    assert off(trunk(pictures(32)), expected) < CLOSE
    assert [row.cut for row in list_layers(str(tmp_path / "nested.keras"))] == [False, True, True, True]


def test_integers_are_not_rounded_to_nothing(tmp_path: Path) -> None:
    keras = load_keras()
    pictures_in = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Conv2D(2, 3, name="conv")(keras.layers.Rescaling(1 / 255)(pictures_in))
    keras.Model(pictures_in, x).save(tmp_path / "uint8.keras")
    with pytest.raises(SettingError, match='takes uint8, which `preprocess="rescale"` would round to nothing'):
        build_trunk(str(tmp_path / "uint8.keras"), preprocess="rescale")
    trunk = build_trunk(str(tmp_path / "uint8.keras"), preprocess="none")
    model = keras.saving.load_model(tmp_path / "uint8.keras")
    images = pictures(8)
    assert off(trunk(images), np.asarray(model(images))) < CLOSE


def test_tokens_are_no_features(tmp_path: Path) -> None:
    """No head knows what to do with (n, t, c)."""
    keras = load_keras()
    pictures_in = keras.Input((8, 8, 3))
    x = keras.layers.Reshape((64, 3), name="tokens")(pictures_in)
    keras.Model(pictures_in, keras.layers.Flatten(name="flat")(x)).save(tmp_path / "tokens.keras")
    with pytest.raises(BackboneError, match=r"layer tokens of tokens.keras cannot be a cut: it gives \(64, 3\)"):
        build_trunk(str(tmp_path / "tokens.keras"), preprocess="none", layer="tokens")
    with pytest.raises(BackboneError, match="cannot be a cut: it is the input itself"):
        build_trunk(str(tmp_path / "tokens.keras"), preprocess="none", layer="input_layer")
    assert [row.cut for row in list_layers(str(tmp_path / "tokens.keras"))] == [False, False, True]


def test_a_picture_too_small_for_a_network_of_open_size(tmp_path: Path) -> None:
    keras = load_keras()
    pictures_in = keras.Input((None, None, 3))
    keras.Model(pictures_in, keras.layers.Conv2D(2, 7)(pictures_in)).save(tmp_path / "open.keras")
    with pytest.raises(BackboneError, match="open.keras cannot take pictures of 4 x 4"):
        build_trunk(str(tmp_path / "open.keras"), preprocess="none", size=4)


@pytest.mark.parametrize("rule", ["auto", "imagenet"])
def test_own_model_needs_to_be_told_its_preprocessing(tiny_backbone: str, rule: str) -> None:
    with pytest.raises(SettingError, match="give `preprocess` as one of caffe, tf, torch, none, rescale"):
        build_trunk(tiny_backbone, preprocess=rule)


def test_own_model_of_another_size(tiny_backbone: str) -> None:
    assert build_trunk(tiny_backbone, preprocess="none", size=32).info.size == 32
    with pytest.raises(SettingError, match="tiny.keras takes pictures of 32 x 32 pixels, asked for 64 x 64"):
        build_trunk(tiny_backbone, preprocess="none", size=64)


@pytest.fixture(scope="module")
def open_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    keras = load_keras()
    start = keras.Input((None, None, 3))
    model = keras.Model(start, keras.layers.Conv2D(4, 3, name="conv")(start))
    return save_model(model, tmp_path_factory.mktemp("open") / "open.keras")


def test_own_model_of_an_open_size(open_model: str) -> None:
    with pytest.raises(SettingError, match="open.keras leaves the size of its input open; give `size`"):
        build_trunk(open_model, preprocess="none")
    trunk = build_trunk(open_model, preprocess="none", size=20)
    assert (trunk.info.size, trunk.info.feature_shape) == (20, (18, 18, 4))
    assert trunk(pictures(20)).shape == (4, 18, 18, 4)


def test_layers_of_an_open_size_are_listed_at_the_size_given(open_model: str) -> None:
    assert [row.output_shape for row in list_layers(open_model, 20)] == [(20, 20, 3), (18, 18, 4)]


def test_input_layer_of_an_own_model_is_no_cut(open_model: str) -> None:
    with pytest.raises(BackboneError):
        build_trunk(open_model, preprocess="none", size=20, layer="input_layer")


@pytest.mark.parametrize("shape", [(32, 32, 1), (32, 32, 4), (32, 3)])
def test_own_model_that_takes_no_pictures(tmp_path: Path, shape: tuple[int, ...]) -> None:
    keras = load_keras()
    start = keras.Input(shape)
    file = save_model(keras.Model(start, keras.layers.Dense(2)(start)), tmp_path / "odd.keras")
    with pytest.raises(BackboneError, match=r"odd.keras takes input of shape .*; expected pictures"):
        build_trunk(file, preprocess="none")


def test_own_model_that_takes_no_squares(tmp_path: Path) -> None:
    keras = load_keras()
    start = keras.Input((32, 48, 3))
    file = save_model(keras.Model(start, keras.layers.Conv2D(2, 3)(start)), tmp_path / "wide.keras")
    with pytest.raises(BackboneError, match="wide.keras takes pictures of 32 x 48 pixels") as error:
        build_trunk(file, preprocess="none")
    assert "None" not in str(error.value)


@pytest.mark.parametrize("chain", [True, False])
def test_own_model_without_a_map(tmp_path: Path, chain: bool) -> None:
    """No convolution, no last convolutional output: to be said, and a named layer is still a cut."""
    keras = load_keras()
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3, name="dense")])
    file = save_model(model if chain else keras.Model(model.inputs, model.outputs), tmp_path / "flat.keras")
    named = build_trunk(file, preprocess="none", layer="dense")
    assert named.info.feature_shape == (3,) and named(pictures(8)).shape == (4, 3)
    with pytest.raises(SettingError, match="needs a map"):
        build_trunk(file, preprocess="none", layer="dense", pooling="avg")
    with pytest.raises(BackboneError):  # rather than the pixels themselves
        build_trunk(file, preprocess="none")


def test_own_model_around_a_network_of_keras(tmp_path: Path) -> None:
    """What transfer learning leaves behind, the network as one layer: its features, or a word that it cannot be."""
    keras = load_keras()
    start = keras.Input((32, 32, 3))
    inner = keras.Model(start, keras.layers.Conv2D(4, 3, name="conv")(start), name="network")
    parts = [keras.layers.Rescaling(1 / 127.5, offset=-1), inner, keras.layers.GlobalAveragePooling2D()]
    file = save_model(keras.Sequential([keras.Input((32, 32, 3)), *parts]), tmp_path / "transfer.keras")
    try:
        features = build_trunk(file, preprocess="none")(pictures(32))
    except BackboneError:
        return
    assert off(features, inner.predict_on_batch(pictures(32) / np.float32(127.5) - 1)) < 1e-4


def test_own_model_that_uses_a_layer_twice(tmp_path: Path) -> None:
    """The cut is what comes out at the end, not what the first use gave."""
    keras = load_keras()
    start = keras.Input((8, 8, 3))
    shared = keras.layers.Conv2D(3, 3, padding="same", name="shared")
    model = keras.Model(start, shared(shared(start)))
    file = save_model(model, tmp_path / "shared.keras")
    images = pictures(8)
    try:
        features = build_trunk(file, preprocess="none")(images)
    except BackboneError:
        return
    assert off(features, model.predict_on_batch(images.astype(np.float32))) < 1e-4


@pytest.mark.parametrize("text", [None, "no model", ""])
def test_own_model_that_is_no_model(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "m.keras").write_text(text)
    with pytest.raises(WeightsError, match=r"(no such model file: .*m.keras|m.keras was refused)") as error:
        build_trunk(str(tmp_path / "m.keras"), preprocess="none")
    assert "\n" not in str(error.value)


def test_code_in_a_model_file_is_refused_and_not_run(tmp_path: Path) -> None:
    keras = load_keras()
    mark = str(tmp_path / "mark")
    start = keras.Input((8, 8, 3))
    made = keras.layers.Lambda(lambda x: (open(mark, "w").close(), x * 1.0)[1], name="trap")(start)
    file = save_model(keras.Model(start, made), tmp_path / "trap.keras")
    Path(mark).unlink()  # building the model ran it
    keras.saving.load_model(file, safe_mode=False)
    assert Path(mark).exists()  # and so would loading it
    Path(mark).unlink()
    for call in (
        lambda: build_trunk(file, preprocess="none"),
        lambda: list_layers(file),
        lambda: build_trunk("vgg16", size=32, weights=file),
    ):
        with pytest.raises(WeightsError, match="trap.keras was refused as a model of layers and weights only"):
            call()
        assert not Path(mark).exists()


def test_errors_are_one_tree() -> None:
    assert issubclass(WeightsError, BackboneError) and issubclass(BackboneError, FeatxError)
