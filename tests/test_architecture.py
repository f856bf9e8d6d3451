"""The house: arrows between rooms, what an import costs, what is public."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import featx

PACKAGE = Path(featx.__file__).parent
HEAVY = ("tensorflow", "keras", "sklearn", "jax", "torch", "optuna", "sqlalchemy", "matplotlib")
FLOOR = ("errors", "_files", "_keras", "_processes")  # which everyone may import
# Each room and the other rooms it may import.
ARROWS: dict[str, set[str]] = {
    **{room: set() for room in FLOOR},
    "images": set(),
    "augmentation": set(),
    "backbones": set(),
    "cache": set(),
    "splits": set(),
    "evaluation": set(),
    "heads": set(),
    "recipe": {"images", "backbones"},
    "pipeline": {"images", "backbones", "recipe"},
    "engines": {"backbones", "recipe"},
    "computing": {"images", "augmentation", "backbones", "cache", "recipe", "pipeline", "engines"},
    "spreading": {"backbones", "computing"},
    "census": {"images", "cache", "pipeline"},
    "extraction": {"images", "augmentation", "cache", "recipe", "census", "computing", "spreading"},
    "inspecting": {"images", "cache", "pipeline", "census", "heads", "splits"},
    "transformer": {"images", "recipe", "pipeline"},
    "model_folder": {"images"},
    "training": {"cache", "heads", "splits"},
    "selection": {"cache", "classifier", "evaluation", "extraction", "heads", "splits", "training"},
    "classifier": {
        "images",
        "backbones",
        "cache",
        "recipe",
        "pipeline",
        "extraction",
        "heads",
        "tail",
        "training",
        "evaluation",
        "model_folder",
    },
    "tail": {"backbones", "heads", "pipeline"},
    "finetuning": {
        "images",
        "augmentation",
        "backbones",
        "cache",
        "recipe",
        "pipeline",
        "extraction",
        "heads",
        "splits",
        "tail",
        "training",
        "classifier",
    },
    "comparison": {
        "backbones",
        "cache",
        "recipe",
        "extraction",
        "heads",
        "tail",
        "training",
        "classifier",
        "finetuning",
    },
    "sweeping": {"cache", "classifier", "heads", "training"},
    "reporting": {
        "backbones",
        "cache",
        "classifier",
        "evaluation",
        "extraction",
        "images",
        "inspecting",
        "maps",
        "pipeline",
        "selection",
    },
    "maps": {"images", "heads", "tail"},
    "explanation": {"images", "cache", "classifier", "maps", "pipeline"},
    "serving": {"images", "classifier", "explanation", "maps"},
    "demo": {"cache", "classifier", "extraction"},
}


def _imports(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it; ``from featx import images`` counts as ``featx.images``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", ARROWS)
def test_arrows_point_one_way(room: str) -> None:
    files = sorted((PACKAGE / room).rglob("*.py")) or [PACKAGE / f"{room}.py"]
    names = {name for file in files for name in _imports(file)}
    rooms = {name.split(".")[1] for name in names if name.startswith("featx.")} - {"__version__"}
    assert rooms - {room, *FLOOR} <= ARROWS[room]
    assert not any(name.split(".")[0] == "tensorflow" for name in names)
    assert room == "cache" or not any(name.split(".")[0] == "h5py" for name in names)


def test_every_room_has_arrows() -> None:
    rooms = {p.stem for p in PACKAGE.iterdir() if (p.suffix == ".py" or p.is_dir()) and not p.name.startswith("__")}
    assert rooms - {"cli", "py"} == set(ARROWS)


@pytest.mark.parametrize("words", [None, ["--help"], ["extract", "--help"], ["--version"], ["cache", "ls"]])
def test_importing_is_light(words: list[str] | None, tmp_path: Path) -> None:
    """What need not compute loads no network library and not scikit-learn."""
    work = "import featx" if words is None else f"import featx.cli; sys.argv = {['featx', *words]}; featx.cli.main()"
    code = (
        f"import atexit, sys\natexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr))"
        f"\n{work}"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")


def test_jax_needs_no_tensorflow(make_dataset: Callable[..., Path], tiny_backbone: str, tmp_path: Path) -> None:
    pytest.importorskip("jax")
    code = """if True:
        import importlib.abc, sys

        class Hidden(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name.split(".")[0] == "tensorflow":
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Hidden())
        import featx

        done = featx.extract(sys.argv[1], cache_dir="cache", backbone=sys.argv[2], preprocess="rescale")
        for head in ("logreg", "mlp"):
            classifier = featx.fit(featx.load_features(done.features), head)
        classifier.predict([sys.argv[1] + "/lying/000.png"])
        featx.finetune(sys.argv[1], cache_dir="cache", from_scratch="cnn4", size=48, epochs=1)
        print(done.engine, "tensorflow" in sys.modules)
    """
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(make_dataset()), tiny_backbone],
        capture_output=True, text=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert (done.stdout.split(), done.stderr) == (["keras-jax", "False"], "")


def test_public_names() -> None:
    assert sorted(featx.__all__) == [
        "BACKBONES", "BNMLPHead", "Classifier", "Explanation", "Extraction", "FeatureExtractor", "Features",
        "FeatxError", "Inspection", "KNNHead", "LogisticHead", "MLPHead", "Recipe", "RidgeHead", "SVMHead", "Views",
        "__version__", "build_trunk", "compare", "cross_validate", "explain", "extract", "few_shot", "finetune", "fit",
        "inspect", "list_dataset", "list_layers", "load_features", "make_head", "report", "sweep",
    ]  # fmt: skip
    assert all(getattr(featx, name) is not None for name in featx.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        featx.nope  # noqa: B018
