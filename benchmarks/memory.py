"""Heads on a feature file larger than memory: resident memory at its peak, and seconds.

    python -m benchmarks.memory [--rows 65536] [--folder FOLDER]

Makes a file of float16 maps of 7 x 7 x 1280 (65,536 rows: 8.2 GB), sorted by class, and fits heads on it from the
command line, each in a process of its own. The file is removed afterwards.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from featx.cache import write_features

SHAPE = (7, 7, 1280)
BLOCK = 512
FITS = [
    ["--head", "bn-mlp", "--input", "flat", "--hidden", "64", "--epochs", "1"],
    ["--head", "bn-mlp", "--epochs", "3"],
    ["--head", "logreg"],
]


def maps(n_rows: int, n_classes: int) -> Iterator[np.ndarray]:
    """Blocks of maps sorted by class, which a linear head can tell apart nearly always."""
    rng = np.random.default_rng(0)
    noise = rng.random((BLOCK, *SHAPE), np.float32)
    directions = rng.random((n_classes, SHAPE[-1]), np.float32)
    for start in range(0, n_rows, BLOCK):
        y = np.arange(start, min(start + BLOCK, n_rows)) * n_classes // n_rows
        shift = rng.integers(BLOCK)
        yield (np.roll(noise, shift, axis=0)[: len(y)] + 0.1 * directions[y][:, None, None]).astype(np.float16)


def write(path: Path, n_rows: int, n_classes: int = 5) -> None:
    """The feature file; every tenth row is a test row."""
    numbers = range(n_rows)
    tables = {
        "ids": [f"{i:032x}" for i in numbers],
        "views": [0] * n_rows,
        "labels": [i * n_classes // n_rows for i in numbers],
        "paths": [f"{i}.png" for i in numbers],
        "splits": ["test" if i % 10 == 0 else "validation" if i % 10 == 1 else "train" for i in numbers],
        "quarantine": [],
        "stat": [],
    }
    recipe = {"backbone": "mobilenetv2", "weights": "random"}
    about = {"class_names": [str(c) for c in range(n_classes)], "dataset": "large", "recipe": recipe}
    spec = {"backbone": "synthetic", "dtype": "float16"}
    write_features(path, maps(n_rows, n_classes), (n_rows, *SHAPE), spec=spec, tables=tables, attributes=about)


def main() -> None:
    """Write the file, fit, print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=65536)
    parser.add_argument("--folder", help="where the file goes meanwhile")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        file = Path(folder) / "large.h5"
        write(file, asked.rows)
        print(
            f"{file.stat().st_size / 1e9:.1f} GB, {asked.rows:,} rows\n\n| fit | seconds | peak resident, GB | result |"
        )
        print("| --- | --- | --- | --- |", flush=True)
        for options in FITS:
            started = time.perf_counter()
            words = [sys.executable, "-m", "featx", "fit", str(file), *options, "--out", f"{folder}/model"]
            process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            said = process.stdout.read().splitlines() if process.stdout else []
            _, status, usage = os.wait4(process.pid, 0)
            seconds, peak = time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e9
            result = said[0] if status == 0 else f"exit {status}"
            print(f"| `{' '.join(options)}` | {seconds:.0f} | {peak:.2f} | {result} |", flush=True)


if __name__ == "__main__":
    main()
