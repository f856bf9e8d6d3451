"""What the tests of the command line share."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import picture
from typer.testing import CliRunner, Result

from featx.cli import app

NOT_A_PICTURE = "not a picture in a format that can be read"


def run(*words: Any, code: int = 0) -> Result:
    """Run a command in this process."""
    result = CliRunner().invoke(app, [*map(str, words)])
    assert result.exit_code == code, result.output
    return result


def parsed(stdout: str) -> Any:
    """The JSON object of a --json run, which is one line and nothing else."""
    assert stdout.count("\n") == 1 and stdout.endswith("\n")
    return json.loads(stdout)


def answer(*words: Any, code: int = 0) -> Any:
    """What a command says with --json."""
    return parsed(run(*words, "--json", code=code).stdout)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the cache folder that no environment variable has moved."""
    monkeypatch.delenv("FEATX_CACHE", raising=False)
    folder = tmp_path / "workshop"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def own(tiny_backbone: str) -> tuple[str, ...]:
    """The options of the tiny backbone."""
    return "--backbone", tiny_backbone, "--preprocess", "rescale"


@dataclass(frozen=True)
class Made:
    """What a whole run has made: to be read, not changed."""

    backbone: str
    data: str
    bad: str
    cache: str
    features: str
    model: str

    def words(self, text: str) -> list[str]:
        """Words of a command line in which ``{data}`` and the like stand for what was made."""
        return [word.format(**asdict(self)) for word in text.split()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: str) -> Made:
    """24 training pictures, 8 test pictures, a file that is no picture; their features, and a classifier."""
    folder = tmp_path_factory.mktemp("made")
    for split, numbers in {"train": range(12), "test": range(50, 54)}.items():
        for kind, name in enumerate(["lying", "standing"]):
            (folder / "data" / split / name).mkdir(parents=True)
            for number in numbers:
                picture(kind, number).save(folder / "data" / split / name / f"{number:03}.png")
    bad = folder / "data/train/lying/text.jpg"
    bad.write_text("text")
    own = ("--backbone", tiny_backbone, "--preprocess", "rescale", "--cache-dir", folder / "cache")
    done = answer("extract", folder / "data", *own)
    model = answer("fit", done["features"], "--head", "logreg", "--input", "flat", "--out", folder / "model")
    return Made(tiny_backbone, str(folder / "data"), str(bad), str(folder / "cache"), done["features"], model["model"])


EXTRACT = "{data} --backbone {backbone} --preprocess rescale --cache-dir {cache}"
FIELDS: dict[str, dict[str, type]] = {
    f"extract {EXTRACT}": {
        "features": str,
        "listed": int,
        "rows": int,
        "quarantined": int,
        "computed": int,
        "reused": int,
        "shape": list,
        "dtype": str,
        "seconds": float,
        "images_per_second": float,
        "engine": str,
        "spec": dict,
        "views": int,
        "view_rows": int,
        "profile": dict,
    },
    f"extract {EXTRACT} --profile --draft --engine keras --precision bfloat16 --workers 1": {"engine": str},
    "fit {features} --head ridge": {
        "model": str,
        "head": str,
        "train_rows": int,
        "validation_rows": int,
        "train_accuracy": float,
        "validation_accuracy": float,
        "seconds": float,
    },
    "fit {features} --head mlp --epochs 1 --mixup 0.2 --weight-decay 0.01 --label-smoothing 0.1 --calibrate": {
        "model": str,
        "temperature": float,
    },
    "cv {features} --head ridge --folds 3 --C 1e-3:1:3": {
        "best": dict,
        "trials": list,
        "seconds": float,
        "model": str,
        "folds": int,
        "train_rows": int,
    },
    "cv {features} --shots 1,all --repeats 2": {"head": str, "repeats": int, "shots": list},
    "sweep {features} --head mlp --trials 1 --epochs 1": {
        "best": dict,
        "trials": list,
        "seconds": float,
        "model": str,
        "storage": str,
    },
    "finetune {data} --backbone {backbone} --preprocess rescale --unfreeze last --epochs 2 --cache-dir {cache}": {
        "model": str,
        "head": str,
        "train_rows": int,
        "validation_rows": int,
        "train_accuracy": float,
        "validation_accuracy": float,
        "seconds": float,
        "seconds_per_epoch": float,
        "history": dict,
    },
    "compare {data} --backbone {backbone} --preprocess rescale --heads ridge,knn --epochs 1 --cache-dir {cache}": {
        "methods": list,
        "best_head": str,
        "best_tuned": str,
        "difference": float,
        "difference_ci95": list,
        "validation_rows": int,
        "repeats": int,
        "end_to_end_seconds": float,
        "recommendation": str,
    },
    "inspect {data} --cache-dir {cache} --similarity 0.9999 --neighbors 5": {
        "listed": int,
        "readable": int,
        "quarantined": list,
        "empty_classes": list,
        "counts": dict,
        "unlabelled": dict,
        "imbalance": float,
        "formats": dict,
        "sizes": dict,
        "mean_image": dict,
        "mean_image_of_all": str,
        "duplicates": list,
        "features": str,
        "near_duplicates": list,
        "leaks": list,
        "outliers": list,
        "suspects": list,
        "thresholds": dict,
        "notes": list,
    },
    "evaluate {model}": {
        "accuracy": float,
        "ci95": list,
        "log_loss": float,
        "rows": int,
        "quarantined": int,
        "class_names": list,
        "confusion_matrix": list,
        "per_class": dict,
    },
    "predict {model} {data}/test": {"predictions": list, "quarantined": list},
    "backbones": {"backbones": list},
    "backbones {backbone}": {"name": str, "layers": list},
    "cache ls --cache-dir {cache}": {"files": list},
    "cache show {features}": {
        "features": str,
        "dataset": str,
        "root": str,
        "shape": list,
        "dtype": str,
        "spec": dict,
        "classes": dict,
        "splits": dict,
        "views": int,
        "augmentation": dict,
        "quarantined": list,
        "featx_version": str,
    },
    "cache verify {features}": {"files": list, "ok": bool},
    f"cache explain {EXTRACT}": {
        "features": str,
        "views": int,
        "would_compute": int,
        "would_reuse": int,
        "new": list,
        "other_specs": list,
    },
    "cache prune --dry-run --cache-dir {cache}": {"removed": list, "bytes": int, "dry_run": bool},
    "report {model} --out page.html": {
        "report": str,
        "bytes": int,
        "accuracy": float,
        "ci95": list,
        "majority_accuracy": float,
        "rows": int,
        "split": str,
        "quarantined": int,
        "calibration_error": float,
        "mistakes": int,
    },
    "doctor {model}": {"max_abs_difference": float, "ok": bool, "rows": int},
    "explain {model} {data}/test --out {cache}/maps": {"maps": list, "quarantined": list},
}


def require_fields(result: dict[str, Any], fields: dict[str, type]) -> None:
    assert set(fields) <= set(result)
    assert {name: type(result[name]) for name in fields} == fields


FEW = ("--epochs", "1", "--batch-size", "16")
