"""Engines and precision: OpenVINO in Keras's place, less precision, and the proof on the user's own pictures."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture

import featx
from featx._internal.keras import backend_asked
from featx.backbones import BACKBONES, build_trunk, fastest_engine, with_openvino
from featx.backbones import devices as devices_
from featx.backbones import openvino as openvino_
from featx.cache import load_features
from featx.errors import BackboneError, ExtractionError, SettingError
from featx.extraction import Extraction, Recipe, extract
from featx.extraction import engine as engine_module
from featx.extraction import share as share_module

Make = Callable[..., Path]
Run = Callable[..., Extraction]
LARGE = ["resnet50v2", "efficientnetb0", "convnexttiny", "densenet121", "xception"]
SOME = ["vgg16", "mobilenetv2", "mobilenetv3small", *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]

needs_openvino = pytest.mark.skipif(
    not openvino_.installed() or backend_asked() == "jax",
    reason="OpenVINO is not installed, or JAX computes, whose networks it cannot convert",
)


@pytest.fixture(autouse=True)
def no_choice_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a user's machine; and no trunk left of the test before."""
    monkeypatch.delenv("FEATX_ENGINE", raising=False)
    share_module.PROCESS.release()


@pytest.fixture
def run(tmp_path: Path, tiny_backbone: str) -> Run:
    def extract_(dataset: Path, **options: Any) -> Extraction:
        usual = {"cache_dir": tmp_path / "cache", "backbone": tiny_backbone, "preprocess": "rescale", "batch_size": 4}
        return extract(dataset, **{**usual, **options})

    return extract_


def pictures(n: int, size: int) -> np.ndarray:
    return np.stack([np.asarray(picture(number % 3, number, (size, size))) for number in range(n)])


def values(done: Extraction) -> np.ndarray:
    return load_features(done.features_path).X()


# ------------------------------------------------------------------------------------------------------------ OpenVINO


@needs_openvino
@pytest.mark.parametrize("name", SOME)
def test_openvino_gives_keras_features(name: str, tmp_path: Path) -> None:
    size = max(64, BACKBONES[name].min_size)
    trunk = build_trunk(name, weights="random", size=size)
    other = with_openvino(trunk, folder=tmp_path)
    images = pictures(3, size)
    assert engine_module.relative_error(other(images), trunk(images)) < 1e-4
    assert (other.info.engine, other.info.weights) == ("openvino", trunk.info.weights)
    assert other.info.feature_shape == trunk.info.feature_shape


@needs_openvino
def test_auto_takes_openvino_and_the_file_is_the_same(
    make_dataset: Make, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featx.extraction.census.RACY_NS", 0)  # else a later run notes times that the first leaves out
    root = make_dataset(each=5)
    done = {
        engine: run(root, engine=engine, cache_dir=tmp_path / engine, dtype="float32")
        for engine in ("auto", "openvino", "keras")
    }
    assert [done[e].engine for e in done] == ["openvino", "openvino", f"keras-{_backend()}"]
    assert len({str(d.spec) for d in done.values()}) == 1, "in float32 the engine is no part of the spec"
    assert Path(done["auto"].features_path).read_bytes() == Path(done["openvino"].features_path).read_bytes()
    np.testing.assert_allclose(values(done["auto"]), values(done["keras"]), rtol=1e-4, atol=1e-5)


@needs_openvino
def test_rows_by_one_engine_serve_a_run_by_another(make_dataset: Make, run: Run) -> None:
    root = make_dataset(each=3)
    assert run(root, engine="openvino").computed == 6
    again = run(root, engine="keras")
    assert (again.computed, again.engine) == (0, "openvino"), "it tells by which engine the rows were computed"


@needs_openvino
def test_any_batch_size_gives_the_same_features(tmp_path: Path) -> None:
    trunk = with_openvino(build_trunk("mobilenetv2", weights="random", size=32), folder=tmp_path)
    images = pictures(6, 32)
    for size in (1, 2, 3):
        parts = np.concatenate([trunk(images[start : start + size]) for start in range(0, 6, size)])
        np.testing.assert_allclose(parts, trunk(images), rtol=1e-4, atol=1e-5)


@needs_openvino
def test_a_network_is_converted_once(make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_dataset(each=2)
    converted: list[str] = []
    real = openvino_._convert
    monkeypatch.setattr(openvino_, "_convert", lambda t, f: (converted.append(t.info.layer), real(t, f))[1])
    run(root)
    share_module.PROCESS.release()
    picture(0, 9).save(root / "lying" / "new.png")
    assert run(root).computed == 1 and converted == ["last"]
    share_module.PROCESS.release()
    assert run(root, layer="edges", pooling="avg").computed == 5 and converted == ["last", "edges"]


@needs_openvino
@pytest.mark.parametrize("name", openvino_.FILES)
def test_a_damaged_converted_network_is_converted_again(make_dataset: Make, run: Run, name: str) -> None:
    root = make_dataset(each=2)
    first = run(root)
    expected = values(first)
    (network,) = Path(first.features_path).parent.glob(f"networks/*/{name}")
    data = bytearray(network.read_bytes())
    data[len(data) // 2] ^= 255
    network.write_bytes(data)
    Path(first.features_path).unlink()
    share_module.PROCESS.release()
    again = run(root)
    assert again.computed == 4 and np.array_equal(values(again), expected) and again.engine == "openvino"
    assert network.read_bytes() != bytes(data)


@needs_openvino
def test_no_telemetry_is_loaded(make_dataset: Make, run: Run) -> None:
    run(make_dataset(each=2))
    assert sys.modules["openvino_telemetry"] is None


# --------------------------------------------------------------------------------------------------------------- proof


def falsified(monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """An OpenVINO that gives other features."""
    real = openvino_.OpenVINOTrunk.__call__
    monkeypatch.setattr(openvino_.OpenVINOTrunk, "__call__", lambda self, images: change(real(self, images)))


@needs_openvino
def test_auto_falls_back_and_says_so(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    root = make_dataset(each=5)
    expected = values(run(root, engine="keras", cache_dir=tmp_path / "keras"))
    falsified(monkeypatch, lambda features: features * 1.002)
    with caplog.at_level(logging.WARNING):
        done = run(root)
    assert done.engine == f"keras-{_backend()}" and np.array_equal(values(done), expected)
    assert "differ by 0.002" in caplog.text and "on 8 of your pictures; at most 0.001" in caplog.text


@needs_openvino
def test_openvino_asked_for_and_wrong_is_an_error(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    falsified(monkeypatch, lambda features: features + np.nan)
    with pytest.raises(ExtractionError, match="differ by inf .* `engine=.keras.` is sure"):
        run(make_dataset(each=2), engine="openvino")
    assert not list((tmp_path / "cache").rglob("*.h5"))


@needs_openvino
def test_a_network_that_cannot_be_converted_falls_back(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operation\nas that")

    monkeypatch.setattr(type(build_trunk("mobilenetv2", weights="random", size=32).model), "export", fails)
    root = make_dataset(each=2)
    assert run(root).engine == f"keras-{_backend()}"
    assert "cannot be converted to OpenVINO: no such operation as that" in caplog.text
    with pytest.raises(BackboneError, match="cannot be converted"):
        run(root, engine="openvino", layer="edges")


def test_without_openvino_keras_computes(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openvino_, "installed", lambda: False)
    root = make_dataset(each=2)
    assert run(root).engine == f"keras-{_backend()}" and not caplog.records
    with pytest.raises(BackboneError, match=r"pip install '\.\[openvino\]'"):
        run(root, engine="openvino", layer="edges")


def test_unreadable_pictures_prove_nothing_and_do_no_harm(make_dataset: Make, run: Run) -> None:
    root = make_dataset(each=3)
    for number in range(9):
        (root / "aaa").mkdir(exist_ok=True)
        (root / "aaa" / f"{number}.png").write_bytes(b"bad")
    done = run(root)
    assert (done.rows, done.quarantined) == (6, 9)


def test_relative_error_and_cosine() -> None:
    a = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    assert engine_module.relative_error(a, a) == 0 and engine_module.mean_cosine(a, a) == 1
    assert engine_module.relative_error(a * [[1.1], [1]], a) == pytest.approx(0.1)
    assert engine_module.mean_cosine(a * [[-1], [1]], a) == 0, "one turned round, one the same"
    assert engine_module.mean_cosine(a + np.inf, a) == 0 and engine_module.relative_error(a + np.nan, a) == np.inf


# ----------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", SOME)
def test_keras_computes_in_less_precision(name: str, precision: str) -> None:
    size = max(32, BACKBONES[name].min_size)
    full = build_trunk(name, weights="random", size=size)
    reduced = build_trunk(name, weights="random", size=size, precision=precision)
    images = pictures(3, size)
    assert reduced.info.weights == full.info.weights and reduced(images).dtype == np.float32
    error = engine_module.relative_error(reduced(images), full(images))
    assert 1e-5 < error < 0.5, "it is another computation, of the same thing"


def test_precision_is_part_of_the_spec(make_dataset: Make, run: Run) -> None:
    root = make_dataset(each=3)
    full = run(root, engine="keras")
    reduced = run(root, precision="bfloat16", engine="keras")
    assert (reduced.computed, reduced.reused) == (6, 0)
    assert full.spec["precision"] == "float32" and "engine" not in full.spec
    assert (reduced.spec["precision"], reduced.spec["engine"]) == ("bfloat16", "keras")
    assert engine_module.mean_cosine(values(reduced), values(full)) > 0.99


def test_features_spoilt_by_precision_are_an_error(
    make_dataset: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(engine_module, "LEAST_COSINE", 0.9999999)
    with pytest.raises(
        ExtractionError, match=r"in bfloat16 have a mean cosine of [01]\.\d{3} .* Leave `precision` out"
    ):
        run(make_dataset(each=5), precision="bfloat16", engine="keras")
    assert not list((tmp_path / "cache").rglob("*.h5"))


def test_values_beyond_float16_are_found_out(make_dataset: Make, run: Run, tmp_path: Path) -> None:
    keras = featx._internal.keras.load_keras()
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1e5, name="huge")(inputs)
    x = keras.layers.Conv2D(2, 1, name="last")(x)
    keras.Model(inputs, x).save(tmp_path / "huge.keras")
    with pytest.raises(ExtractionError, match="mean cosine of 0.000"):
        run(make_dataset(each=2), backbone=str(tmp_path / "huge.keras"), precision="float16", engine="keras")


@needs_openvino
def test_openvino_does_not_do_float16(make_dataset: Make, run: Run) -> None:
    assert Recipe(precision="float16").engine == "keras"
    with pytest.raises(SettingError, match="OpenVINO does not compute in float16"):
        run(make_dataset(each=2), precision="float16", engine="openvino")


def test_unknown_engines_and_precisions_are_named() -> None:
    with pytest.raises(SettingError, match="unknown `precision` 'int8'; expected one of float32, bfloat16, float16"):
        Recipe(precision="int8")
    with pytest.raises(SettingError, match="unknown `engine` 'onnx'; expected one of auto, keras, openvino"):
        Recipe(engine="onnx")


@pytest.mark.parametrize("engine", ["keras", pytest.param("openvino", marks=needs_openvino)])
def test_a_classifier_predicts_in_the_precision_of_its_features(
    make_dataset: Make, run: Run, tmp_path: Path, engine: str
) -> None:
    if engine == "openvino" and not openvino_._has_bfloat16():
        pytest.skip("this processor has no bfloat16 arithmetic")
    root = make_dataset(each=12)
    done = run(root, precision="bfloat16", engine=engine)
    featx.fit(done.features_path, "logreg", input="flat").save(tmp_path / "model")
    classifier = featx.Classifier.load(tmp_path / "model")
    assert classifier.trunk().info.precision == "bfloat16" and classifier.recipe.engine == engine
    found = classifier.doctor(load_features(done.features_path), 24)
    assert found.ok and found.rows == 24
    assert classifier.trunk().info.engine.startswith(engine)


def test_the_environment_decides_what_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATX_ENGINE", "keras")
    assert fastest_engine("float32") == "keras"
    monkeypatch.setenv("FEATX_ENGINE", "auto")
    monkeypatch.setattr(openvino_, "installed", lambda: True)
    monkeypatch.setattr(openvino_, "gpus", lambda: [])
    assert fastest_engine("float32") == "openvino"
    monkeypatch.setattr(openvino_, "gpus", lambda: ["0"])
    assert fastest_engine("float32") == "keras"


@pytest.mark.parametrize(("visible", "found"), [("", []), ("-1", []), ("0,2", ["0", "2"]), ("GPU-ab12", ["GPU-ab12"])])
def test_the_gpus_that_may_be_used(monkeypatch: pytest.MonkeyPatch, visible: str, found: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices_.gpus() == found


# --------------------------------------------------------------------------------------------------------------- batch


def test_the_batch_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    keras = featx._internal.keras.load_keras()
    model = keras.applications.VGG16(include_top=False, weights=None, input_shape=(64, 64, 3))
    largest = 64 * 64 * 64 * 4  # the first map, float32
    for pictures_, batch in {1: 1, 5: 4, 1000: 32}.items():
        monkeypatch.setattr(devices_, "_free_memory", lambda n=pictures_: 4 * 4 * largest * n)
        assert devices_.fitting_batch_size(model) == batch
    monkeypatch.setattr(devices_, "accelerated", lambda: True)
    assert devices_.fitting_batch_size(model) == 256


def _backend() -> str:
    return str(featx._internal.keras.load_keras().backend.backend())


def test_real_features_by_openvino_are_keras_features(shared: Path, real_weights: Path, tmp_path: Path) -> None:
    if not openvino_.installed():
        pytest.skip("OpenVINO is not installed")
    some = tmp_path / "some"
    for path in sorted((shared / "data" / "hymenoptera").rglob("*.jpg"))[:24]:
        (some / path.parent.name).mkdir(parents=True, exist_ok=True)
        os.symlink(path, some / path.parent.name / path.name)
    options = {"backbone": "mobilenetv2", "weights": str(real_weights), "dtype": "float32"}
    done = {e: extract(some, cache_dir=tmp_path / e, engine=e, **options) for e in ("keras", "openvino")}
    assert engine_module.relative_error(values(done["openvino"]), values(done["keras"])) < 1e-4
