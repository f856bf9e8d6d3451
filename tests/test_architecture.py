"""The house: arrows between rooms, what an import costs, what is public."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import featx

PACKAGE = Path(featx.__file__).parent
HEAVY = ("tensorflow", "keras", "sklearn", "jax", "torch", "optuna", "sqlalchemy", "matplotlib")
# Rooms by floors. A room imports only from the floors under its own, and stands on the lowest floor that allows what it
# imports; everyone may import the ground floor.
FLOORS = [
    {"errors", "_internal"},
    {"pictures", "backbones", "cache", "heads"},
    {"extraction", "rows", "tail"},
    {"classifier", "inspection"},
    {"finetuning", "selection", "explanation", "demo"},
    {"reporting", "serving"},
    {"cli"},
]
MOST_ENTRIES = 22  # of the package's folder


def _rooms() -> dict[str, list[Path]]:
    """The files of each room."""
    rooms = {path.stem: [path] for path in PACKAGE.glob("[!_]*.py")}
    return rooms | {path.parent.name: sorted(path.parent.rglob("*.py")) for path in PACKAGE.glob("*/__init__.py")}


def _imports(path: Path) -> set[str]:
    """Modules and names that a file imports, anywhere in it; ``from featx import rows`` counts as ``featx.rows``."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _arrows() -> dict[str, set[str]]:
    """The other rooms that each room imports."""
    return {
        room: {name.split(".")[1] for file in files for name in _imports(file) if name.startswith("featx.")} - {room}
        for room, files in _rooms().items()
    }


def test_floors() -> None:
    """Arrows point downwards, and no room stands higher than it must."""
    arrows = _arrows()

    def floor(room: str, above: tuple[str, ...] = ()) -> int:
        assert room not in above, f"a circle: {' -> '.join([*above, room])}"
        return 0 if room in FLOORS[0] else 1 + max((floor(other, (*above, room)) for other in arrows[room]), default=0)

    floors = [{room for room in arrows if floor(room) == number} for number in range(len(FLOORS))]
    assert floors == FLOORS
    assert {"errors", "_internal"} >= arrows["_internal"]


def test_rooms_are_few() -> None:
    entries = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


@pytest.mark.parametrize("room", _rooms())
def test_walls(room: str) -> None:
    """No room uses what is private to another, TensorFlow, or a library that is another room's business."""
    names = {name for file in _rooms()[room] for name in _imports(file)}
    private = {n for n in names if n.startswith("featx.") and re.search(r"\._(?!_)", n.removeprefix("featx._internal"))}
    assert {name for name in private if name.split(".")[1] != room} == set()
    libraries = {name.split(".")[0] for name in names}
    assert "tensorflow" not in libraries
    assert room == "cache" or "h5py" not in libraries
    assert room == "_internal" or "keras" not in libraries
    assert "click" not in libraries


def test_the_page_of_the_house_counts_right() -> None:
    """What a change of the layout is measured by; the command line and the ground floor, which all touch, aside."""
    arrows = {room: others - FLOORS[0] for room, others in _arrows().items() if room not in FLOORS[0] | {"cli"}}
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    said = re.search(r"(\d+) rooms, (\d+) arrows between them, (\d+) floors", page)
    assert said
    assert [int(n) for n in said.groups()] == [len(arrows), sum(map(len, arrows.values())), len(FLOORS)]


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
            classifier = featx.fit(featx.load_features(done.features_path), head)
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
        "BACKBONES", "BNMLPHead", "CacheFolder", "Classifier", "Comparison", "CrossValidation", "Diagnosis",
        "Evaluation", "Explanation", "Extraction", "ExtractionPlan", "FeatureExtractor", "Features", "FeatxError",
        "Fitting", "Inspection", "KNNHead", "LogisticHead", "MLPHead", "Prediction", "Recipe", "RidgeHead", "SVMHead",
        "SettingError", "Shots", "Sweep", "Views", "__version__", "build_trunk", "clear_memory", "compare",
        "cross_validate", "explain", "extract", "few_shot", "finetune", "fit", "inspect", "list_dataset",
        "list_layers", "load_features", "make_head", "plan", "report", "serve", "sweep",
    ]  # fmt: skip
    assert all(getattr(featx, name) is not None for name in featx.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        featx.nope  # noqa: B018
