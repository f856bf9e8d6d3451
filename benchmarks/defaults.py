"""The table from which the defaults of the heads were chosen: accuracy on validation rows, never on test rows.

    python -m benchmarks.defaults FEATURES.h5 [FEATURES.h5 ...]

Each setting is fitted with seeds 0, 1 and 2, which also draw the validation rows. Prints Markdown.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import numpy as np

import featx
from featx.rows import split_rows

SEEDS = (0, 1, 2)
SHORT = {"patience": 8, "epochs": 50}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *(("bn-mlp", {"input": "avg", "hidden": 512, "dropout": p, **SHORT}) for p in (0.3, 0.5, 0.8)),
    *(("bn-mlp", {"input": "avg", "hidden": h, "dropout": 0.5, **SHORT}) for h in (64, 128, 256)),
    *(("bn-mlp", {"input": "flat", "hidden": 128, "dropout": p, **SHORT}) for p in (0.5, 0.8)),
    ("bn-mlp", {"input": "avg", "hidden": 512, "dropout": 0.5, "patience": 20, "epochs": 100}),
    ("bn-mlp", {"input": "avg", "hidden": 512, "dropout": 0.5, "batch_size": 32, "patience": 20, "epochs": 100}),
    *(("mlp", {"input": i, "hidden": 64, "learning_rate": 3e-4}) for i in ("avg", "flat")),
    ("mlp", {"input": "avg", "hidden": 64, "learning_rate": 1e-3}),
    *((head, {"C": c}) for head, c in itertools.product(("logreg", "svm", "ridge"), (1e-4, 1e-3, 1e-2, 1e-1))),
    *(("knn", {"n_neighbors": k}) for k in (5, 20)),
]


def validation_accuracy(features: featx.Features, head: str, params: dict[str, Any], seed: int) -> float:
    """Accuracy on rows drawn by ``seed`` of a head fitted on the other training rows."""
    split = split_rows(features.ids, features.y, features.splits, random_state=seed)
    model = featx.make_head(head, random_state=seed, **params)
    held_out = (features.stored(split.validation), features.y[split.validation])
    model.fit(features.stored(split.train), features.y[split.train], validation_data=held_out)
    return float(model.score(*held_out))


def main() -> None:
    """Print the table for the feature files named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", nargs="+", help="feature files of maps, as `featx extract` writes them")
    files = [featx.load_features(path) for path in parser.parse_args().features]
    print("| head | settings |", " | ".join(f.dataset for f in files), "| mean |")
    print("| --- | --- |", " | ".join("---" for _ in files), "| --- |")
    for head, params in SETTINGS:
        found = [[validation_accuracy(f, head, params, seed) for seed in SEEDS] for f in files]
        cells = [f"{np.mean(a):.3f} ± {np.std(a, ddof=1):.3f}" for a in found]
        shown = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in params.items())
        print(f"| {head} | {shown} |", " | ".join(cells), f"| {np.mean(found):.3f} |", flush=True)


if __name__ == "__main__":
    main()
