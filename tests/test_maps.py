"""Activation maps: exact for linear heads, Grad-CAM's for networks, and where they lie on the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import picture

from featx._internal.keras import load_keras
from featx.backbones import build_trunk
from featx.errors import SettingError, TrainingError
from featx.explanation import activation_maps, overlay
from featx.explanation import maps as maps_
from featx.explanation.maps import on_picture
from featx.heads import Head, make_head
from featx.pictures import RESIZES, resize, square_on

HEADS = [
    (name, {"input": input, **more})
    for name, more in (
        ("logreg", {}),
        ("svm", {}),
        ("ridge", {}),
        ("mlp", {"hidden": 8, "epochs": 3}),
        ("bn-mlp", {"hidden": 8, "epochs": 3, "layers": 2}),
    )
    for input in ("flat", "avg", "max")
]


def fitted(name: str, classes: int = 3, shape: tuple[int, ...] = (4, 5, 6), **params: Any) -> tuple[Head, np.ndarray]:
    """A head, and the maps it was fitted on."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(60, *shape)) + np.arange(60)[:, None, None, None] % classes).astype(np.float32)
    return make_head(name, **params).fit(X, np.arange(60) % classes), X


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("name", "params"), HEADS)
def test_scores_are_those_of_the_head(name: str, params: dict[str, Any], classes: int) -> None:
    head, X = fitted(name, classes, **params)
    scores = head.scores(X.shape[1:])(X)
    exponential = np.exp(scores - scores.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        exponential / exponential.sum(axis=1, keepdims=True), head.predict_proba(X), rtol=2e-3, atol=2e-5
    )


@pytest.mark.parametrize("shape", [(4, 5, 6), (14, 15, 64)])  # the second is large enough to be halved
@pytest.mark.parametrize(("name", "params"), HEADS)
def test_the_gradient_is_what_scores_change_by(name: str, params: dict[str, Any], shape: tuple[int, ...]) -> None:
    head, X = fitted(name, 3, shape, **params)
    scores, rng = head.scores(shape), np.random.default_rng(1)
    maps, classes = X[:6], np.array([0, 1, 2, 2, 1, 0])
    gradient = scores.gradient(maps, classes)
    assert gradient.shape == maps.shape and gradient.dtype == np.float32
    step = 2e-4 * rng.normal(size=maps.shape).astype(np.float32)
    by_gradient = (gradient * step).sum(axis=(1, 2, 3))
    picked = np.arange(6), classes
    changed = (scores((maps + step).astype(np.float32)) - scores((maps - step).astype(np.float32)))[picked] / 2
    np.testing.assert_allclose(by_gradient, changed, rtol=0.1, atol=max(0.02 * np.abs(changed).max(), 2e-6))


def test_neighbours_have_no_gradient() -> None:
    head, X = fitted("knn")
    with pytest.raises(TrainingError, match="KNNHead has no gradient to explain it by; take logreg"):
        head.scores(X.shape[1:])


# ---------------------------------------------------------------------------------------------------------------- maps


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("input", ["flat", "avg", "max"])
@pytest.mark.parametrize("name", ["logreg", "svm", "ridge"])
def test_an_exact_map_adds_up_to_the_score(name: str, input: str, classes: int) -> None:
    head, X = fitted(name, classes, input=input)
    numbers = np.arange(len(X)) % classes
    maps = activation_maps(head, X, numbers)
    scores = head.scores(X.shape[1:])
    constant = scores(np.zeros_like(X[:1]))[0]
    np.testing.assert_allclose(
        maps.sum(axis=(1, 2)), (scores(X) - constant)[np.arange(len(X)), numbers], rtol=1e-3, atol=1e-4
    )
    assert maps.shape == X.shape[:3] and maps.dtype == np.float32 and (maps < 0).any()


def test_coefficients_times_features_summed_over_channels() -> None:
    """Zhou et al. (2016), by hand."""
    head, X = fitted("logreg", 3, input="avg")
    expected = np.einsum("nhwc,c->nhw", X, head.coef_[1]) / 20  # type: ignore[attr-defined]
    np.testing.assert_allclose(activation_maps(head, X, np.ones(len(X), int), "cam"), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "params"), [h for h in HEADS if h[1]["input"] == "avg"])
def test_grad_cam_of_averaged_maps_is_what_speaks_for_the_class(name: str, params: dict[str, Any]) -> None:
    head, X = fitted(name, 3, **params)
    numbers = np.arange(len(X)) % 3
    maps = activation_maps(head, X, numbers, "gradcam")
    gradient = head.scores(X.shape[1:]).gradient(X, numbers)
    np.testing.assert_allclose(maps, np.maximum((gradient * X).sum(axis=-1), 0), rtol=1e-4, atol=1e-5)


def test_maps_of_float16_and_of_many_rows_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    head, X = fitted("bn-mlp", 3, input="flat", hidden=8, epochs=2)
    numbers = np.arange(len(X)) % 3
    whole = activation_maps(head, X, numbers)
    monkeypatch.setattr(maps_, "BLOCK_BYTES", 1)
    np.testing.assert_allclose(activation_maps(head, X, numbers), whole, rtol=1e-4, atol=1e-6)
    half = activation_maps(head, X.astype(np.float16), numbers)
    np.testing.assert_allclose(half, whole, rtol=0.05, atol=0.02 * whole.max())


def test_what_has_no_map_says_why() -> None:
    head, X = fitted("mlp", 3, input="avg", hidden=4, epochs=1)
    with pytest.raises(SettingError, match='only linear heads have an exact map; `method="gradcam"`'):
        activation_maps(head, X, np.zeros(len(X), int), "cam")
    with pytest.raises(SettingError, match="unknown `method` 'lime'; expected one of cam, gradcam"):
        activation_maps(head, X, np.zeros(len(X), int), "lime")
    pooled = make_head("logreg").fit(X.mean(axis=(1, 2)), np.arange(len(X)) % 3)
    with pytest.raises(TrainingError, match='have no places; extract with `pooling="none"`'):
        activation_maps(pooled, X.mean(axis=(1, 2)), np.zeros(len(X), int))


def through_the_network(trunk: Any, head: Head, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Grad-CAM computed by TensorFlow through the joined network, normalised to a largest value of 1."""
    tf = pytest.importorskip("tensorflow")
    if load_keras().backend.backend() != "tensorflow":
        pytest.skip("gradients are asked of TensorFlow")
    found = []
    probabilities = head.model_  # type: ignore[attr-defined]
    logits = load_keras().models.clone_model(probabilities)
    logits.set_weights(probabilities.get_weights())
    logits.layers[-1].activation = load_keras().activations.linear
    for image, k in zip(images, classes, strict=True):
        maps = tf.convert_to_tensor(trunk.model(image[None]))
        with tf.GradientTape() as tape:
            tape.watch(maps)
            score = logits(maps, training=False)[0, int(k)]
        weights = tf.reduce_mean(tape.gradient(score, maps), axis=(1, 2))
        found.append(np.maximum((np.asarray(maps) * np.asarray(weights)[:, None, None]).sum(-1)[0], 0))
    return np.stack(found)


@pytest.fixture(scope="module")
def seen() -> tuple[Any, np.ndarray, np.ndarray]:
    """A network, pictures of three classes in turn, and what it gives for them: maps of 3 x 3."""
    trunk = build_trunk("mobilenetv2", weights="random", size=96)
    images = np.stack([np.asarray(picture(n % 3, n, (96, 96))) for n in range(12)])
    return trunk, images, trunk(images)


@pytest.mark.parametrize("name", ["mlp", "bn-mlp"])
def test_grad_cam_from_features_is_that_through_the_network(
    name: str, seen: tuple[Any, np.ndarray, np.ndarray]
) -> None:
    trunk, images, X = seen
    y = np.arange(12) % 3
    head = make_head(name, input="flat", hidden=16, epochs=5).fit(X, y)
    ours = activation_maps(head, X, y)
    theirs = through_the_network(trunk, head, images, y)
    assert theirs.max() > 0
    np.testing.assert_allclose(ours / theirs.max(), theirs / theirs.max(), atol=1e-3)


# ---------------------------------------------------------------------------------------------------- on the picture


@pytest.mark.parametrize("how", RESIZES)
@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (33, 33), (200, 7)])
def test_the_square_is_where_resizing_takes_it_from(how: str, height: int, width: int) -> None:
    """A white pixel of the picture is found again, through the square, where the network sees it."""
    size = 32
    left, top, right, bottom = square_on(height, width, size, how)
    for y, x in ((height // 2, width // 2), (height // 3, width // 2), (height // 2, width // 4)):
        image = np.zeros((height, width, 3), np.uint8)
        image[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = 255
        seen = resize(image, size, how)[..., 0].astype(float)
        if not left <= x <= right or not top <= y <= bottom or seen.sum() < 50:
            continue
        rows, columns = np.mgrid[:size, :size] + 0.5
        middle = [(seen * at).sum() / seen.sum() for at in (rows, columns)]
        down, right_ = (bottom - top) / size, (right - left) / size  # pixels of the picture in one of the network's
        assert top + middle[0] * down == pytest.approx(y + 0.5, abs=max(down, 1))
        assert left + middle[1] * right_ == pytest.approx(x + 0.5, abs=max(right_, 1))


def test_padding_and_cropping_are_undone() -> None:
    map = np.arange(16, dtype=np.float32).reshape(4, 4)
    whole, seen = on_picture(map, 100, 100, 32, "stretch")
    assert seen.all() and whole[-1, -1] == 15 == whole.max() and whole[0, 0] == 0 == whole.min()
    padded, seen = on_picture(map, 50, 100, 32, "pad")
    assert seen.all() and 2 < padded[0, 0] < padded[-1, -1] < 13, (
        "only the middle two rows of the map are of the picture"
    )
    cropped, seen = on_picture(map, 50, 100, 32, "crop")
    assert seen[:, 25:75].all() and not seen[:, :25].any() and not seen[:, 75:].any()
    assert cropped[0, 25] == 0 and cropped[-1, 74] == 15 and not cropped[:, :25].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (40, 30)])
@pytest.mark.parametrize("cells", [(1, 1), (1, 3), (7, 7)])
@pytest.mark.parametrize("how", RESIZES)
def test_any_picture_and_any_map_go_together(size: tuple[int, int], cells: tuple[int, int], how: str) -> None:
    image = np.full((*size, 3), 128, np.uint8)
    laid = overlay(image, np.ones(cells, np.float32), 32, how)
    assert laid.shape == image.shape and laid.dtype == np.uint8


def test_red_speaks_for_and_blue_against() -> None:
    image = np.full((40, 40, 3), 128, np.uint8)
    laid = overlay(image, np.array([[1, -1], [0, 0]], np.float32), 32, "stretch").astype(int)
    red, blue, none = laid[0, 0], laid[0, -1], laid[-1, 0]
    assert red[0] > red[2] + 50 and blue[2] > blue[0] + 50 and np.ptp(none) <= 2
    assert (overlay(image, np.zeros((2, 2), np.float32), 32, "stretch") == none).all()
