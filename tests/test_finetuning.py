"""Fine-tuning: what trains and what does not, from the cache as from pixels, interrupted as in one go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import disk_of, picture

import featx
from featx._internal.keras import load_keras
from featx.backbones import PIXELS, SCRATCH, Division, build_tail, divide
from featx.backbones.scratch import build_scratch
from featx.classifier import Classifier
from featx.errors import BackboneError, SettingError, TrainingError
from featx.heads import make_head
from featx.tail import Checkpoints, TailHead, checkpoints
from featx.tail.training import TailTraining

Make = Callable[..., Path]
FAST: dict[str, Any] = {"learning_rate": 1e-2, "batch_size": 8}


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A user's own model file with batch norm and a residual block. Input 32 x 32, map 4 x 4 x 8."""
    keras = load_keras()
    layers, rng = keras.layers, np.random.default_rng(1)
    pictures = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 5, strides=4, padding="same", name="edges")(pictures)
    x = start = layers.MaxPooling2D(2, name="pool")(layers.ReLU(name="relu")(x))
    x = layers.Conv2D(8, 1, name="block_a")(x)
    x = layers.ReLU(name="block_a_relu")(layers.BatchNormalization(name="block_a_norm")(x))
    x = layers.Conv2D(8, 3, padding="same", name="block_b")(x)
    x = layers.Add(name="add")([start, layers.BatchNormalization(name="block_b_norm")(x)])
    model = keras.Model(pictures, layers.ReLU(name="last")(layers.Conv2D(8, 1, name="mix")(x)))
    for variable in model.weights:
        values = rng.normal(0, 0.4, variable.shape)
        variable.assign(np.abs(values) + 0.5 if "variance" in variable.path else values)
    path = tmp_path_factory.mktemp("backbone") / "residual.keras"
    model.save(path)
    return str(path)


@pytest.fixture
def tune(make_dataset: Make, residual: str, tmp_path: Path) -> Callable[..., Classifier]:
    """``tune(unfreeze="block_b", epochs=3)``: fine-tuning of the residual network on stripes."""

    def run(dataset: Path | None = None, **given: Any) -> Classifier:
        network = {} if "from_scratch" in given else {"backbone": residual, "preprocess": "rescale"}
        cache = given.pop("cache_dir", tmp_path / "cache")
        return featx.finetune(
            dataset or make_dataset(classes=3, each=16), cache_dir=cache, **{**network, **FAST, "epochs": 3, **given}
        )

    return run


def weights_by_layer(residual: str, classifier: Classifier) -> dict[str, tuple[list[Any], list[Any]]]:
    """Before and after training, by layer of the tail."""
    head = classifier.head
    assert isinstance(head, TailHead)
    before = build_tail(Division(**head.division), weights="imagenet")
    after = build_tail(Division(**head.division), weights=None)
    after.set_weights(head.model_.get_weights()[: len(after.weights)])

    def layers(model: Any) -> dict[str, Any]:
        inner = [layer for layer in model.layers if hasattr(layer, "layers")]
        return {layer.name: layer for layer in (inner[0] if inner else model).layers}

    return {
        name: (layer.get_weights(), layers(after)[name].get_weights())
        for name, layer in layers(before).items()
        if layer.weights
    }


# ---------------------------------------------------------------------------------------------------------- what trains


@pytest.mark.parametrize(
    ("unfreeze", "cut", "trains"),
    [
        ("mix", "add", {"mix"}),
        ("block_b", "pool", {"block_b", "block_b_norm", "mix"}),
        ("block_a", "pool", {"block_a", "block_a_norm", "block_b", "block_b_norm", "mix"}),
        ("all", PIXELS, {"edges", "block_a", "block_a_norm", "block_b", "block_b_norm", "mix"}),
        ("4", "pool", {"block_a", "block_a_norm", "block_b", "block_b_norm", "mix"}),
    ],
)
def test_the_gradient_flows_where_it_should(
    tune: Any, residual: str, unfreeze: str, cut: str, trains: set[str]
) -> None:
    classifier = tune(unfreeze=unfreeze, optimizer="sgd", patience=99, validation=0)
    assert classifier.fitting.cut == cut
    for name, (before, after) in weights_by_layer(residual, classifier).items():
        same = [np.array_equal(b, a) for b, a in zip(before, after, strict=True)]
        if name not in trains:
            assert all(same), f"{name} is frozen"
        elif name.endswith("_norm"):  # gamma and beta train; the statistics stay
            assert same == [False, False, True, True], name
        else:
            assert not any(same), f"{name} trains"


def test_training_on_the_cache_is_training_end_to_end_with_frozen_layers(tune: Any, residual: str) -> None:
    """The same batches through the same layers: the weights agree but for rounding."""
    options = {"unfreeze": "block_b", "validation": 0, "dtype": "float32", "optimizer": "sgd"}
    cached, live = tune(**options), tune(**options, live_augment=True)
    assert (cached.fitting.cut, live.fitting.cut) == ("pool", PIXELS)
    ours, theirs = weights_by_layer(residual, cached), weights_by_layer(residual, live)
    for name, (_, after) in ours.items():
        for a, b in zip(after, theirs[name][1], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(cached.fitting.history["loss"], live.fitting.history["loss"], rtol=1e-3)


def test_it_is_what_keras_would_do(tune: Any, residual: str, make_dataset: Make) -> None:
    """One epoch of one batch of all rows, against Keras's own training of the partly frozen network."""
    keras = load_keras()
    dataset = make_dataset(classes=2, each=8)
    options: dict[str, Any] = {"dtype": "float32", "validation": 0, "schedule": "constant"}
    given = tune(
        dataset, unfreeze="block_b", epochs=1, batch_size=16, optimizer="sgd", weight_decay=0.0, head_first=False,
        **options,
    )  # fmt: skip
    base = keras.saving.load_model(residual)
    for layer in base.layers:
        layer.trainable = layer.name in ("block_b", "block_b_norm", "mix")
    pictures = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(base(pictures / 255, training=False))
    model = keras.Model(pictures, keras.layers.Dense(2, kernel_initializer="zeros")(x))
    model.compile(keras.optimizers.SGD(1e-2, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(True))
    features = given.features_of()
    X = np.stack([np.asarray(picture(kind, n).resize((32, 32), 2)) for kind in (0, 1) for n in range(8)])
    model.fit(X.astype(np.float32), np.repeat([0, 1], 8), batch_size=16, epochs=1, verbose=0)
    expected = keras.ops.softmax(model.predict_on_batch(X.astype(np.float32)))
    assert features.paths[0].startswith("lying/")
    np.testing.assert_allclose(given.predict_proba(features), expected, atol=2e-4)


def test_no_tail_at_all_is_a_plain_head(tune: Any, make_dataset: Make, residual: str, tmp_path: Path) -> None:
    dataset = make_dataset(classes=3, each=16)
    tuned = tune(dataset, unfreeze="none", head_params={"C": 0.1})
    done = featx.extract(dataset, cache_dir=tmp_path / "cache", backbone=residual, preprocess="rescale")
    plain = featx.fit(done.features_path, "logreg", C=0.1)
    features = plain.features_of()
    np.testing.assert_array_equal(tuned.predict_proba(features), plain.predict_proba(features))


@pytest.mark.parametrize("head", ["logreg", "svm", "ridge", "mlp", "bn-mlp"])
@pytest.mark.parametrize("input", ["flat", "avg", "max"])
@pytest.mark.parametrize("classes", [2, 3])
def test_layers_compute_what_the_fitted_head_does(head: str, input: str, classes: int) -> None:
    rng = np.random.default_rng(0)
    X = (3 * rng.normal(size=(30, 3, 3, 5)) + 1).astype(np.float32)
    y = np.arange(30) % classes
    fitted = make_head(head, input=input, **({"epochs": 2} if "mlp" in head else {})).fit(X, y)
    layers = fitted.keras_layers(X.shape[1:], classes)
    layers.set_weights(fitted.keras_weights())
    probabilities = load_keras().ops.softmax(layers.predict_on_batch(X))
    np.testing.assert_allclose(probabilities, fitted.predict_proba(X), atol=1e-5)


def test_the_head_comes_first(tune: Any, make_dataset: Make, residual: str, tmp_path: Path) -> None:
    """Training starts from the head alone, so the best epoch is never worse than that on the rows held out."""
    dataset = make_dataset(classes=3, each=16)
    plain = tune(dataset, unfreeze="none")
    tuned = tune(dataset, unfreeze="mix", learning_rate=1e-9, epochs=1)
    assert tuned.fitting.start_validation_accuracy == plain.fitting.validation_accuracy
    assert tuned.fitting.validation_accuracy >= plain.fitting.validation_accuracy
    spoiled = tune(dataset, unfreeze="mix", learning_rate=30.0, epochs=2)  # whatever this does, the start is kept
    assert spoiled.fitting.validation_accuracy >= plain.fitting.validation_accuracy


def test_random_weights_are_one_network_before_and_behind_the_cut(make_dataset: Make, tmp_path: Path) -> None:
    """Whatever the seed of training: with nothing trained yet, cutting changes nothing."""
    dataset, cache = make_dataset(classes=2, each=6), tmp_path / "cache"
    network: dict[str, Any] = {"backbone": "mobilenetv2-0.35", "weights": "random", "size": 32, "cache_dir": cache}
    plain = featx.finetune(dataset, unfreeze="none", random_state=3, head_params={"C": 0.1}, **network)
    course: dict[str, Any] = {"unfreeze": "block_16_project", "epochs": 1, "learning_rate": 1e-12, "dtype": "float32"}
    for seed, weights_seed in ((3, None), (5, 3)):
        tuned = featx.finetune(
            dataset, random_state=seed, weights_random_state=weights_seed, validation=0, **course, **network
        )
        assert tuned.spec["weights"] == "random-3"
        tail = tuned.head.model_.tail  # type: ignore[attr-defined]
        trunk = featx.build_trunk("mobilenetv2-0.35", weights="random", size=32, random_state=3)
        features = tuned.features_of()
        pictures = np.stack([np.asarray(picture(0, n).resize((32, 32), 2)) for n in range(6)])
        np.testing.assert_allclose(
            tail.predict_on_batch(features.X(slice(0, 6))), trunk(pictures), rtol=1e-3, atol=1e-3
        )
    assert plain.spec["weights"] == "random-3"


def test_the_last_epoch_is_kept_if_asked_for(tune: Any, make_dataset: Make) -> None:
    """Then the validation rows choose nothing, not even when to stop."""
    dataset = make_dataset(classes=3, each=16)
    options = {"unfreeze": "mix", "epochs": 4, "patience": 1, "learning_rate": 3.0}  # which does no good
    best, last = tune(dataset, **options), tune(dataset, **options, keep="last")
    assert (best.fitting.stopped, best.fitting.best_epoch) == ("patience", 0)
    assert (last.fitting.stopped, last.fitting.epochs, last.fitting.best_epoch) == ("epochs", 4, 4)


def test_init_starts_from_a_fitted_head(tune: Any, make_dataset: Make, tmp_path: Path) -> None:
    dataset = make_dataset(classes=3, each=16)
    first = tune(dataset, unfreeze="none", head="mlp", head_params={"epochs": 3, "hidden": 8, "input": "flat"})
    first.save(tmp_path / "head")
    tuned = featx.finetune(
        dataset, unfreeze="mix", init=tmp_path / "head", epochs=1, learning_rate=1e-12, cache_dir=tmp_path / "cache"
    )
    plain, tail = first.features_of(), tuned.features_of()
    assert tuned.fitting.head == "mlp"
    np.testing.assert_allclose(tuned.predict_proba(tail), first.predict_proba(plain), atol=5e-3)  # float16


# ------------------------------------------------------------------------------------------------- classifiers like any


@pytest.mark.parametrize(
    "given",
    [
        {"unfreeze": "block_b"},
        {"unfreeze": "all"},
        {"unfreeze": "mix", "head": "mlp", "head_params": {"hidden": 8, "epochs": 3}},
        {"from_scratch": "cnn4", "size": 48, "head_params": {"hidden": 16}},
    ],
    ids=["tail", "all", "mlp", "cnn4"],
)
def test_a_saved_tail_predicts_the_same(tune: Any, make_dataset: Make, tmp_path: Path, given: dict[str, Any]) -> None:
    dataset = make_dataset(classes=3, each=16)
    make_dataset(classes=3, each=4, name="new", first=100)
    classifier = tune(dataset, **given)
    classifier.save(tmp_path / "model")
    again = Classifier.load(tmp_path / "model")
    features = again.features_of()
    np.testing.assert_array_equal(again.predict_proba(features), classifier.predict_proba(features))
    assert again.doctor(features).max_abs_difference < 1e-6
    predictions, bad = again.predict([tmp_path / "new"])
    assert (len(predictions), bad) == (12, [])
    assert again.evaluate(features, "validation").accuracy == classifier.fitting.validation_accuracy
    lines = (tmp_path / "model" / "history.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,accuracy,val_loss,val_accuracy"
    assert len(lines) == 1 + classifier.fitting.epochs


def test_a_moved_network_is_found_again(tune: Any, residual: str, make_dataset: Make, tmp_path: Path) -> None:
    classifier = tune(unfreeze="all", epochs=1)
    classifier.head.set_params(division={**classifier.head.division, "backbone": str(tmp_path / "gone.keras")})
    classifier.save(tmp_path / "model")
    with pytest.raises(BackboneError, match="no such model file"):
        Classifier.load(tmp_path / "model").predict([make_dataset(name="new")])
    moved = Classifier.load(tmp_path / "model", weights=residual)
    assert len(moved.predict([make_dataset(name="new")])[0]) == 16


def test_another_network_in_the_same_file_is_refused(
    tune: Any, residual: str, tiny_backbone: str, tmp_path: Path
) -> None:
    own = tmp_path / "own.keras"
    own.write_bytes(Path(residual).read_bytes())
    tune(unfreeze="all", epochs=1, backbone=str(own)).save(tmp_path / "model")
    own.write_bytes(Path(tiny_backbone).read_bytes())
    with pytest.raises(BackboneError, match="holds another network than the one that was trained"):
        Classifier.load(tmp_path / "model").predict([tmp_path / "stripes"])


def test_scratch_networks_learn(make_dataset: Make, tmp_path: Path) -> None:
    dataset = make_dataset(classes=2, each=30)
    for name, size in (("cnn4", 48), ("alexnet", 67)):
        classifier = featx.finetune(
            dataset, from_scratch=name, size=size, epochs=12, head_params={"hidden": 32}, batch_size=8,
            cache_dir=tmp_path / "cache",
        )  # fmt: skip
        assert classifier.fitting.validation_accuracy >= 0.9, name


# ----------------------------------------------------------------------------------------------------- the two networks


def test_alexnet_is_the_papers() -> None:
    model = build_scratch("alexnet", 227, 0)
    shapes = {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers}
    assert shapes["conv1"] == (55, 55, 96)
    assert (shapes["pool1"], shapes["pool2"], shapes["pool5"]) == ((27, 27, 96), (13, 13, 256), (6, 6, 256))
    assert np.prod(shapes["pool5"]) == 9216
    head, params = SCRATCH["alexnet"].head
    top = make_head(head, **params).keras_layers((6, 6, 256), 10)
    assert [w.shape for w in top.weights if len(w.shape) == 2] == [(9216, 4096), (4096, 4096), (4096, 10)]


def test_local_response_normalisation_is_the_papers() -> None:
    model = build_scratch("alexnet", 67, 0)
    keras = load_keras()
    places = [layer.name for layer in model.layers]
    before = keras.Model(model.inputs, model.get_layer("conv1").output)
    after = keras.Model(model.inputs, model.layers[places.index("pool1")].input)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 67, 67, 3)).astype(np.float32)
    a = np.asarray(before.predict_on_batch(pixels), np.float64)
    padded = np.pad(a**2, ((0, 0), (0, 0), (0, 0), (2, 2)))
    sums = sum(padded[..., i : i + a.shape[-1]] for i in range(5))
    np.testing.assert_allclose(after.predict_on_batch(pixels), a / (2 + 1e-4 * sums) ** 0.75, rtol=1e-4)


@pytest.mark.parametrize(("size", "near"), [(224, 227), (100, 99), (20, 67)])
def test_a_size_that_does_not_go_through_alexnet_is_explained(size: int, near: int) -> None:
    with pytest.raises(SettingError, match=rf"\({size} \+ 2 x 0 - 11\) / 4 \+ 1 = .* `size=227` or {near}$") as caught:
        build_scratch("alexnet", size, 0)
    assert caught.value.setting == "size"


def test_the_mean_image_is_that_of_the_training_rows(tune: Any, make_dataset: Make, tmp_path: Path) -> None:
    classifier = tune(
        make_dataset(classes=2, each=10), from_scratch="alexnet", size=67, epochs=1, head_params={"hidden": 4}
    )
    features = classifier.features_of()
    train = np.isin(features.ids, classifier.train_ids)
    layer = classifier.head.model_.get_layer("alexnet").get_layer("mean_image")
    np.testing.assert_allclose(-64 * layer.get_weights()[1], features.X(train).mean(axis=0), atol=1e-3)


# ----------------------------------------------------------------------------------------------------------- dividing


@pytest.mark.parametrize(
    ("backbone", "unfreeze", "cut", "first"),
    [
        ("vgg16", "block5_conv1", "block4_pool", "block5_conv1"),
        ("vgg16", "block5_conv3", "block5_conv2", "block5_conv3"),
        ("vgg16", "auto", "block4_pool", "block5_conv1"),
        ("vgg16", "all", PIXELS, "block1_conv1"),
        ("resnet50", "168", "conv5_block2_out", "conv5_block3_2_conv"),
        ("mobilenetv2", "auto", "block_14_add", "block_15_expand"),
    ],
)
def test_where_networks_are_cut(backbone: str, unfreeze: str, cut: str, first: str) -> None:
    parts = divide(backbone, unfreeze)
    assert (parts.cut, parts.trains[0]) == (cut, first)


@pytest.mark.parametrize(
    ("unfreeze", "message"),
    [
        ("blok_b", r"no layer 'blok_b' to train from; did you mean block_b.*`featx backbones"),
        ("last", r"no layer of residual.keras from last to its end, last, has weights"),
        ("99", "no layer '99' to train from"),
    ],
)
def test_a_layer_that_cannot_be_unfrozen_is_said(tune: Any, unfreeze: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        tune(unfreeze=unfreeze)


# ------------------------------------------------------------------------------------------------------------- views


def test_live_augmentation_depends_on_picture_and_epoch_alone(tune: Any, make_dataset: Make) -> None:
    dataset = make_dataset(classes=2, each=8)
    options = {"unfreeze": "all", "live_augment": True, "views": featx.Views(2, flip=True, zoom=0.2), "validation": 0}
    a, b = tune(dataset, **options), tune(dataset, **options, cache_dir=dataset.parent / "other")
    assert a.fitting.history == b.fitting.history
    plain = tune(dataset, unfreeze="all", validation=0)
    assert a.fitting.history != plain.fitting.history


def test_views_are_drawn_one_a_picture(tune: Any, make_dataset: Make) -> None:
    classifier = tune(make_dataset(classes=2, each=8), unfreeze="mix", views=featx.Views(3, flip=True, zoom=0.3))
    assert classifier.fitting.train_views == 2 * classifier.fitting.train_rows
    assert set(classifier.features_of().views.tolist()) <= {0, 1, 2}


# ------------------------------------------------------------------------------------------------- interrupted and full


def test_interrupted_training_ends_with_the_same_weights(
    tune: Any, make_dataset: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout, order and the schedule go on where they were."""
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    dataset = make_dataset(classes=3, each=16)
    options = {"unfreeze": "block_b", "epochs": 4, "head": "mlp", "head_params": {"hidden": 8, "epochs": 2}}
    whole = tune(dataset, **options)

    def stop(epoch: int, told: dict[str, float]) -> None:
        if epoch == 3:  # after its weights were trained, before its state was kept
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"epochs 1 to 2 are kept in .*run the same command again"):
        tune(dataset, **options, checkpoints=tmp_path / "kept", on_epoch=stop)
    assert (tmp_path / "kept" / "history.csv").read_text().count("\n") == 3
    seen: list[int] = []
    again = tune(dataset, **options, checkpoints=tmp_path / "kept", on_epoch=lambda epoch, told: seen.append(epoch))
    assert seen == [3, 4]
    assert again.fitting.history == whole.fitting.history
    for a, b in zip(again.head.get_state().values(), whole.head.get_state().values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(
    tune: Any, make_dataset: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    dataset = make_dataset(classes=2, each=8)
    tune(dataset, unfreeze="mix", epochs=3, checkpoints=tmp_path / "kept")
    seen: list[int] = []
    tune(
        dataset, unfreeze="mix", epochs=3, learning_rate=1e-3, checkpoints=tmp_path / "kept",
        on_epoch=lambda epoch, told: seen.append(epoch),
    )  # fmt: skip
    assert seen == [1, 2, 3]
    assert "other settings" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 nothing", None])
def test_a_damaged_checkpoint_is_said_and_begun_anew(
    damage: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Checkpoints(tmp_path / "kept", {"a": 1})
    kept.save(checkpoints.State(epoch=1, variables=[np.arange(1000.0)]))
    file = tmp_path / "kept" / "checkpoint.npz"
    file.write_bytes(file.read_bytes()[:-200] if damage is None else damage)
    assert kept.newest() is None
    assert "begun anew" in caplog.text


def test_killed_training_goes_on(make_dataset: Make, residual: str, tmp_path: Path) -> None:
    """kill -9 in the middle; the same command then ends as one that was never killed."""
    settings: dict[str, Any] = {
        "unfreeze": "block_b", "backbone": residual, "preprocess": "rescale", "epochs": 12, "learning_rate": 1e-3,
        "batch_size": 8, "patience": 99, "cache_dir": str(tmp_path / "cache"), "checkpoints": str(tmp_path / "kept"),
    }  # fmt: skip
    code = (
        "import featx, json, sys, time; from featx.tail import checkpoints; checkpoints.SECONDS = 0.0\n"
        "def on_epoch(epoch, measures):\n    print(epoch, flush=True)\n    epoch == 8 and time.sleep(600)\n"
        "featx.finetune(sys.argv[1], on_epoch=on_epoch, **json.loads(sys.argv[2]))"
    )
    dataset = make_dataset(classes=3, each=16)
    environment = {**os.environ, "PYTHONPATH": str(Path(featx.__file__).parents[1])}
    command = [sys.executable, "-c", code, str(dataset), json.dumps(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as killed:
        assert killed.stdout is not None and "8\n" in iter(killed.stdout.readline, "")
        killed.send_signal(signal.SIGKILL)
    epochs: list[int] = []
    again = featx.finetune(dataset, on_epoch=lambda epoch, _: epochs.append(epoch), **settings)
    assert epochs == list(range(epochs[0], 13)) and epochs[0] in (8, 9)
    whole = featx.finetune(dataset, **{**settings, "checkpoints": str(tmp_path / "other")})
    assert again.fitting.history == whole.fitting.history


def test_no_room_for_a_checkpoint_is_said(
    tune: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_dataset: Make
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    dataset = make_dataset(classes=2, each=8)
    with disk_of("8k", tmp_path / "small") as small:
        with pytest.raises(TrainingError, match=r"cannot hold a checkpoint: no space left.*run the same command again"):
            tune(dataset, unfreeze="all", checkpoints=small / "kept")


def test_a_loss_that_is_no_number_stops_training(
    tune: Any, make_dataset: Make, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(classes=2, each=8)
    with pytest.raises(TrainingError, match=r"not a number in epoch 1; try a lower `learning_rate`"):
        tune(dataset, unfreeze="mix", learning_rate=1e38, optimizer="sgd", schedule="constant", epochs=5, batch_size=4)
    healthy = TailTraining.train

    def spoilt(training: TailTraining, epoch: int) -> dict[str, float]:
        logs = healthy(training, epoch)
        return {**logs, "loss": np.nan} if epoch == 3 else logs

    monkeypatch.setattr(TailTraining, "train", spoilt)
    for validation in (0, 0.2):
        late = tune(dataset, unfreeze="mix", epochs=9, validation=validation)
        assert (late.fitting.stopped, late.fitting.epochs) == ("nan", 2)
        assert "in epoch 3: training stopped" in caplog.text
        assert np.isfinite(late.predict_proba(late.features_of())).all()


# ------------------------------------------------------------------------------------------------------------ bad input


def test_more_classes_in_test_than_in_train_are_said(tune: Any, make_dataset: Make) -> None:
    make_dataset(classes=2, each=8, split="train")
    with pytest.raises(TrainingError, match="class 'slanted' has no picture to train on"):
        tune(make_dataset(classes=3, each=4, split="test"), unfreeze="mix")


def test_one_class_is_said(tune: Any, make_dataset: Make) -> None:
    with pytest.raises(TrainingError, match="one class only"):
        tune(make_dataset(classes=1, each=8), unfreeze="mix")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": "lion"}, "unknown `optimizer` 'lion'; expected one of adamw, adam, sgd"),
        ({"schedule": "steps"}, "unknown `schedule` 'steps'"),
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"learning_rate": -1.0}, "`learning_rate` must be above 0, got -1.0"),
        ({"label_smoothing": 1.0}, "`label_smoothing` must be at least 0 and below 1, got 1.0"),
        ({"head": "knn"}, "the knn head has no weights that could be trained further; take another `head`"),
        ({"unfreeze": "mix", "head_params": {"C": -1}}, "`C` must be from 1e-10 to 1e.06, got -1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_of_training_that_do_not_fit_are_said(tune: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        tune(**{"unfreeze": "mix", **given})


@pytest.mark.parametrize(
    ("given", "setting", "message"),
    [
        ({"rate": 1.0}, "rate", "fine-tuning has no setting 'rate'; "),
        ({"learning_rat": 1.0}, "learning_rat", "fine-tuning has no setting 'learning_rat'; did you mean `learning_ra"),
        ({"head": "forest"}, "head", "unknown `head` 'forest'; expected one of bn-mlp, "),
        ({"head_params": {"C": 1, "hidden": 3}}, "hidden", "the logreg head has no setting 'hidden'; it takes C, inp"),
        ({"pooling": "avg"}, "pooling", "fine-tuning needs maps; leave `pooling` out, and give the head's `input` as "),
        ({"pooling": "sum"}, "pooling", "unknown `pooling` 'sum'; expected one of none, avg, max"),
        ({"from_scratch": "cnn5"}, "from_scratch", "unknown `from_scratch` 'cnn5' (did you mean 'cnn4'?); expected"),
        ({"from_scratch": "cnn4", "size": 40}, "size", "cnn4 needs pictures of at least 46 x 46 pixels, got `size=40`"),
        ({"validation": 1.0}, "validation", "`validation` must be at least 0 and below 1, got 1"),
        ({"live_augment": True, "views": 3}, "views", "`views` must be a featx.Views, such as Views(5, flip=True, z"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_do_not_fit_are_said(tune: Any, given: dict[str, Any], setting: str, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        tune(**{"unfreeze": "mix", **given})
    assert str(caught.value).startswith(message) and caught.value.setting == setting


def test_settings_are_checked_before_any_picture_is_read(tune: Any, tmp_path: Path) -> None:
    for given in ({"optimizer": "lion"}, {"head": "knn"}, {"head_params": {"C": -1}}):
        with pytest.raises(SettingError):
            tune(unfreeze="mix", **given)
    assert not list((tmp_path / "cache").glob("*"))


def test_training_ends_when_it_is_told_to(tune: Any) -> None:
    tuned = tune(unfreeze="mix", epochs=5, on_epoch=lambda epoch, logs: epoch == 2)
    assert (tuned.fitting.stopped, tuned.fitting.epochs) == ("on_epoch", 2)


def test_init_brings_its_own_network_and_head(tune: Any, make_dataset: Make, tmp_path: Path) -> None:
    dataset = make_dataset(classes=2, each=8)
    plain, tuned = tune(dataset, unfreeze="none"), tune(dataset, unfreeze="mix", epochs=1)
    for init, given, setting, message in (
        (plain, {"backbone": "resnet50"}, "backbone", "^`init` brings its own network, whose `backbone` is .*resnet50"),
        (plain, {"head": "svm"}, "head", "^`init` brings its own head, logreg; leave `head` and its settings out$"),
        (tuned, {}, "init", "^`init` takes a classifier that is a plain head on a frozen network; this one has a t"),
        (plain, {"from_scratch": "cnn4"}, "init", "`from_scratch` from nothing; give one of the two$"),
    ):
        with pytest.raises(SettingError, match=message) as caught:
            featx.finetune(dataset, init=init, cache_dir=tmp_path / "cache", **given)
        assert caught.value.setting == setting
    more = make_dataset(classes=3, each=8, name="more")
    with pytest.raises(TrainingError, match="knows the classes lying, standing, the data set has lying, slanted"):
        featx.finetune(more, unfreeze="mix", init=plain, cache_dir=tmp_path / "cache")


def test_a_picture_that_changes_during_training_is_said(tune: Any, make_dataset: Make) -> None:
    dataset = make_dataset(classes=2, each=8)

    def change(epoch: int, told: dict[str, float]) -> None:
        picture(1, 99).save(dataset / "lying" / "003.png")

    with pytest.raises(TrainingError, match="not what it was when training began: was changed"):
        tune(dataset, unfreeze="all", epochs=3, validation=0, on_epoch=change)


def test_tensorboard_hears_of_each_epoch(tune: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    tune(unfreeze="mix", epochs=2, tensorboard=tmp_path / "logs")
    files = sorted(path.parent.name for path in (tmp_path / "logs").rglob("events*"))
    assert files == ["train", "validation"]


# --------------------------------------------------------------------------------------------------------------- pixels


def test_pixels_are_cached_as_they_are(make_dataset: Make, tmp_path: Path) -> None:
    dataset = make_dataset(classes=2, each=4)
    done = featx.extract(dataset, backbone="pixels", size=24, cache_dir=tmp_path / "cache")
    features = featx.load_features(done.features_path)
    assert (features.shape, str(features.dtype)) == ((8, 24, 24, 3), "uint8")
    expected = np.asarray(picture(0, 0).resize((24, 24), 2))
    np.testing.assert_array_equal(features.stored([0])[0], expected)
    with pytest.raises(SettingError, match="^pixels have no size of their own; give `size`, such as `size=") as missing:
        featx.extract(dataset, backbone="pixels", cache_dir=tmp_path / "cache")
    assert missing.value.setting == "size"
    with pytest.raises(SettingError, match="`layer`, `pooling` and `preprocess` do not apply$"):
        featx.extract(dataset, backbone="pixels", size=24, pooling="avg", cache_dir=tmp_path / "cache")
