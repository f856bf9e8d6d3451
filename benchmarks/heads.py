"""What cached features are for: heads in seconds. Each row of the table is measured beside its peer in one run.

    python -m benchmarks.heads [--rows logreg,wide,ridge,epoch,sweep,real] [--features FILE.h5 ...] [--json FILE]

- `logreg`: 9 values of C x 5 folds on 5,000 x 1,280, against GridSearchCV(LogisticRegression(max_iter=1000)).
- `wide`: the same on 2,000 x 20,480.
- `ridge`: 13 alphas x 5 folds on 2,000 x 20,480, against GridSearchCV(RidgeClassifier).
- `epoch`: one epoch of bn-mlp from the feature file, against the same Keras model's `fit` on float32 arrays in memory.
- `sweep`: 32 trials of bn-mlp, against 32 separate `featx fit` runs of the command line.
- `real`: the first row on the feature files named, averaged and flat.

Synthetic features are rectified and correlated, their spectrum falls like that of real ones, and classes overlap. The
peers standardise, search on the same folds, use both cores (`n_jobs=-1`), and fit once more at the end, as featx does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import featx
from featx._internal.keras import load_keras
from featx.cache import write_features
from featx.heads import solve_paths
from featx.rows import fold_numbers

C = np.logspace(-5, 1, 9)
ALPHAS = np.logspace(-1, 5, 13)
FOLDS = 5


def synthetic(n: int, d: int, n_classes: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Float32 features ``(n, d)`` and classes that a linear head gets about nine times in ten."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    directions = rng.normal(size=(300, d)) / np.sqrt(300)
    hidden = 6 * rng.normal(size=(n, 300)) * np.arange(1, 301) ** -0.6
    hidden[:, :60] += 0.35 * rng.normal(size=(n_classes, 60))[y]
    return np.maximum(hidden @ directions + 0.3 * rng.normal(size=(n, d)), 0).astype(np.float32), y


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what it gave."""
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


def search(name: str, X: np.ndarray, y: np.ndarray, ridge: bool = False) -> dict[str, Any]:
    """A whole path on all folds, against GridSearchCV on the same folds, with the final fit of both."""
    fold = fold_numbers(np.arange(len(y)).astype(str), y, FOLDS)
    strengths = 1 / (2 * ALPHAS) if ridge else C
    trainings = [np.flatnonzero(fold != number) for number in range(FOLDS)]

    def ours() -> tuple[np.ndarray, list[Any]]:
        paths = list(solve_paths(X, y, strengths, "squared" if ridge else "logistic", trainings=trainings))
        right = np.array(
            [
                [np.mean(_labels(scores) == y[fold == i]) for scores in path.decision(X[fold == i])]
                for i, path in enumerate(paths)
            ]
        ).mean(axis=0)
        best = strengths[np.argmax(right)]
        (featx.RidgeHead(best) if ridge else featx.LogisticHead(best)).fit(X, y)
        return right, paths

    def peer() -> Any:
        head = RidgeClassifier() if ridge else LogisticRegression(max_iter=1000)
        grid = {"ridgeclassifier__alpha": ALPHAS} if ridge else {"logisticregression__C": C}
        return GridSearchCV(make_pipeline(StandardScaler(), head), grid, cv=PredefinedSplit(fold), n_jobs=-1).fit(X, y)

    seconds, (right, paths) = timed(ours)
    peer_seconds, found = timed(peer)
    theirs = found.cv_results_["mean_test_score"]
    result = {
        "work": name,
        "ours": seconds,
        "peer": peer_seconds,
        "ratio": peer_seconds / seconds,
        "same_best": bool(np.argmax(right) == np.argmax(theirs)),
        "accuracy": [float(right.max()), float(theirs.max())],
        "largest_accuracy_difference": float(np.abs(right - theirs).max()),
        "largest_gap": float(max((path.gap / path.objective).max() for path in paths)),
    }
    if not ridge:
        result["objective_above_peer"] = objectives(X, y, paths[0], trainings[0])
    return result


def _labels(scores: np.ndarray) -> np.ndarray:
    return scores.argmax(axis=1) if scores.shape[1] > 1 else (scores[:, 0] > 0).astype(int)


def objectives(X: np.ndarray, y: np.ndarray, path: Any, rows: np.ndarray) -> list[float]:
    """Our objective divided by scikit-learn's, minus 1, for each C of one fold, both computed in float64."""
    scaler = StandardScaler().fit(X[rows])
    Z, above = scaler.transform(X[rows]).astype(np.float64), []
    for at, c in enumerate(path.C):
        peer = LogisticRegression(C=c, max_iter=1000).fit(scaler.transform(X[rows]), y[rows])
        ours = path.coef[at].astype(np.float64) * scaler.scale_
        shift = path.intercept[at] + (scaler.mean_ - path.mean) @ path.coef[at].T.astype(np.float64)
        above.append(
            _objective(Z, y[rows], ours, shift, c) / _objective(Z, y[rows], peer.coef_, peer.intercept_, c) - 1
        )
    return above


def _objective(Z: np.ndarray, y: np.ndarray, coef: np.ndarray, intercept: np.ndarray, c: float) -> float:
    scores = Z @ coef.T.astype(np.float64) + intercept
    if scores.shape[1] == 1:
        scores = np.column_stack([np.zeros(len(y)), scores[:, 0]])
    loss = logsumexp(scores, axis=1) - scores[np.arange(len(y)), y]
    return float(c * loss.sum() + (coef.astype(np.float64) ** 2).sum() / 2)


def feature_file(folder: Path, X: np.ndarray, y: np.ndarray) -> Path:
    """A feature file of synthetic rows, float16."""
    path = folder / "synthetic.h5"
    tables = {
        "ids": [f"{i:032x}" for i in range(len(y))],
        "views": [0] * len(y),
        "labels": y,
        "paths": [f"{i}.png" for i in range(len(y))],
        "splits": [""] * len(y),
        "quarantine": [],
        "stat": [],
    }
    about = {"class_names": [str(c) for c in range(int(y.max()) + 1)], "dataset": "synthetic", "recipe": RECIPE}
    spec = {"backbone": "synthetic", "dtype": "float16"}
    write_features(path, [X.astype(np.float16)], X.shape, spec=spec, tables=tables, attributes=about)
    return path


RECIPE = {"backbone": "mobilenetv2", "weights": "random"}


def epoch(repeats: int = 5, epochs: int = 4) -> dict[str, Any]:
    """Seconds an epoch of bn-mlp from the file, and of its own Keras model by `fit`; alternating, the medians."""
    keras = load_keras()
    X, y = synthetic(5000, 1280)
    ours, peer = [], []
    with tempfile.TemporaryDirectory() as folder:
        features = featx.load_features(feature_file(Path(folder), X, y))
        rows = features.rows(np.arange(len(features)))
        head = featx.BNMLPHead(epochs=1).fit(rows, y)
        model = head.model_
        model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(X, y, batch_size=64, epochs=1, verbose=0)
        for _ in range(repeats):
            ours.append(timed(lambda: featx.BNMLPHead(epochs=epochs).fit(rows, y))[0] / epochs)
            peer.append(timed(lambda: model.fit(X, y, batch_size=64, epochs=epochs, verbose=0))[0] / epochs)
    return {
        "work": "bn-mlp, one epoch of 5,000 x 1,280 from the file",
        "ours": float(np.median(ours)),
        "peer": float(np.median(peer)),
        "ratio": float(np.median(peer) / np.median(ours)),
        "ratios": [p / o for o, p in zip(ours, peer, strict=True)],
    }


def sweeping(trials: int = 32) -> dict[str, Any]:
    """A sweep on 2,000 x 1,280, from the command line, against as many fits from the command line (three are timed)."""
    X, y = synthetic(2000, 1280)
    with tempfile.TemporaryDirectory() as folder:
        file = feature_file(Path(folder), X, y)
        words = [sys.executable, "-m", "featx"]
        quiet: dict[str, Any] = {"cwd": folder, "check": True, "capture_output": True}
        fits = [timed(lambda: subprocess.run([*words, "fit", file], **quiet))[0] for _ in range(3)]
        seconds, _ = timed(lambda: subprocess.run([*words, "sweep", file, "--trials", str(trials)], **quiet))
    peer = trials * float(np.median(fits))
    return {
        "work": f"bn-mlp sweep of {trials} trials on 2,000 x 1,280",
        "ours": seconds,
        "peer": peer,
        "ratio": peer / seconds,
    }


def real(files: list[str]) -> list[dict[str, Any]]:
    """The path of logreg on training rows of real features, averaged and flat."""
    found = []
    for file in files:
        features = featx.load_features(file)
        rows = np.flatnonzero((features.splits != "test") & features.pictures & (features.y >= 0))
        maps, y = features.X(rows), features.y[rows].astype(int)
        for input, X in (("averaged", maps.mean(axis=(1, 2))), ("flat", maps.reshape(len(maps), -1))):
            name = f"logreg, {features.dataset} {input}, {X.shape[0]:,} x {X.shape[1]:,}"
            found.append(search(name, np.ascontiguousarray(X), y))
    return found


def main() -> None:
    """Measure the rows asked for; print Markdown, and write everything as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="logreg,wide,ridge,epoch,sweep,real")
    parser.add_argument("--features", nargs="*", default=[], help="feature files of maps, for `real`")
    parser.add_argument("--json", help="also write everything that was measured here")
    asked = parser.parse_args()
    work: dict[str, Callable[[], Any]] = {
        "logreg": lambda: search("logreg, 9 C x 5 folds, 5,000 x 1,280", *synthetic(5000, 1280)),
        "wide": lambda: search("logreg, 9 C x 5 folds, 2,000 x 20,480", *synthetic(2000, 20480)),
        "ridge": lambda: search("ridge, 13 alphas x 5 folds, 2,000 x 20,480", *synthetic(2000, 20480), ridge=True),
        "epoch": epoch,
        "sweep": sweeping,
        "real": lambda: real(asked.features),
    }
    solve_paths(*synthetic(100, 20), C)
    measured: list[dict[str, Any]] = []
    print("| work | featx, s | peer, s | times faster | notes |\n| --- | --- | --- | --- | --- |")
    for name in asked.rows.split(","):
        found = work[name]()
        for result in found if isinstance(found, list) else [found]:
            measured.append(result)
            print(_line(result), flush=True)
    if asked.json:
        Path(asked.json).write_text(json.dumps(measured, indent=1))


def _line(result: dict[str, Any]) -> str:
    notes = ""
    if "accuracy" in result:
        ours, theirs = result["accuracy"]
        notes = f"best {'the same' if result['same_best'] else 'another'}, accuracy {ours:.4f} and {theirs:.4f}"
        notes += f", gap at most {result['largest_gap']:.1e} of the objective"
    if "objective_above_peer" in result:
        low, high = min(result["objective_above_peer"]), max(result["objective_above_peer"])
        notes += f", objective {low:+.1e} to {high:+.1e} of the peer's"
    shown = " | ".join(f"{result[key]:.3g}" for key in ("ours", "peer", "ratio"))
    return f"| {result['work']} | {shown} | {notes} |"


if __name__ == "__main__":
    main()
