"""What the tests share: pictures made on the spot, a tiny backbone, and the real data where it is at hand."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("FEATX_ENGINE", "keras")  # what Keras computes is patched and counted; others have their tests
pytest.register_assert_rewrite(*(file.stem for file in Path(__file__).parent.glob("shared_*.py")))
SHARED = Path(os.environ.get("FEATX_SHARED", Path(__file__).resolve().parents[2] / "shared"))


OPTIONAL = ("slow", "stress")  # markers, and the options that let their tests run


def pytest_addoption(parser: pytest.Parser) -> None:
    for name in OPTIONAL:
        parser.addoption(f"--{name}", action="store_true", help=f"also run the tests marked {name}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for name in OPTIONAL:
        if not config.getoption(f"--{name}"):
            for item in items:
                if item.get_closest_marker(name):
                    item.add_marker(pytest.mark.skip(reason=f"{name}; run with --{name}"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real pictures and real weights."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real pictures and weights are not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def real_weights(shared: Path) -> Path:
    return shared / "weights" / "mobilenet_v2_1.0_224_imagenet_notop.weights.h5"


def picture(kind: int, number: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A picture of stripes: kind 0 lying, kind 1 standing, kind 2 slanted; each number another colour and phase."""
    rng = np.random.default_rng([kind, number])
    width, height = size
    y, x = np.mgrid[:height, :width]
    along = [y, x, x + y][kind % 3]
    stripes = np.sin(along * 0.9 + rng.uniform(0, 6))[..., None] * rng.uniform(40, 100, 3) + rng.uniform(100, 150, 3)
    return Image.fromarray(np.clip(stripes + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8))


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """``make_dataset(classes=3, each=8, name="stripes", split="")``: a folder of pictures, CLASS/NUMBER.png."""

    def make(classes: int = 2, each: int = 8, name: str = "stripes", split: str = "", first: int = 0) -> Path:
        root = tmp_path / name
        for kind in range(classes):
            folder = root / split / ["lying", "standing", "slanted"][kind]
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(first, first + each):
                picture(kind, number).save(folder / f"{number:03}.png")
        return root

    return make


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A user's own model file: three layers that tell stripes apart, built in no time. Input 32 x 32, map 4 x 4 x 8."""
    from featx._internal.keras import load_keras

    keras = load_keras()
    pictures = keras.Input((32, 32, 3))
    rng = np.random.default_rng(0)
    x = keras.layers.Conv2D(8, 5, strides=4, padding="same", activation="relu", name="edges")(pictures)
    x = keras.layers.MaxPooling2D(2, name="pool")(x)
    x = keras.layers.Conv2D(8, 1, activation="relu", name="last")(x)
    model = keras.Model(pictures, x)
    for variable in model.weights:
        variable.assign(rng.normal(0, 0.5, variable.shape))
    path = tmp_path_factory.mktemp("backbone") / "tiny.keras"
    model.save(path)
    return str(path)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one number per call of a trunk of any kind: pictures in the batch.

    With ``batch_size=1`` its length is the number of pictures.
    """
    from featx.backbones import KerasTrunk, OpenVINOTrunk, PixelTrunk

    calls: list[int] = []

    def counting(kind: type) -> Callable[[Any, Any], Any]:
        real = kind.__call__

        def call(self: Any, images: Any) -> Any:
            calls.append(len(images))
            return real(self, images)

        return call

    for kind in (KerasTrunk, OpenVINOTrunk, PixelTrunk):
        monkeypatch.setattr(kind, "__call__", counting(kind))
    return calls


@pytest.fixture
def eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training without compiling, which takes longer than a few steps on a few rows."""
    from featx._internal.keras import load_keras

    model = load_keras().Model
    compiled = model.compile
    monkeypatch.setattr(model, "compile", lambda self, **options: compiled(self, **{**options, "run_eagerly": True}))


@contextmanager
def at_most(seconds: float = 60) -> Iterator[None]:
    """Fail instead of hanging."""

    def out_of_time(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"still busy after {seconds} s")

    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def until(true: Callable[[], object], seconds: float = 60) -> None:
    """Wait for something that has to come to pass; fail if it does not."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"it did not come to pass in {seconds} s"
        time.sleep(0.01)


@contextmanager
def disk_of(size: str, folder: Path) -> Iterator[Path]:
    """A disk of its own, of ``size`` such as ``256k``."""
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk can only be mounted by root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True, capture_output=True)


def commands() -> list[tuple[str, ...]]:
    """All commands of featx, such as ``("cache", "ls")``."""
    import typer

    from featx.cli import app

    def names(of: typer.Typer) -> list[str]:
        return [str(c.name or getattr(c.callback, "__name__", "")) for c in of.registered_commands]

    groups = [(str(group.name), group.typer_instance) for group in app.registered_groups]
    return [(n,) for n in names(app)] + [(g, n) for g, within in groups if within for n in names(within)]
