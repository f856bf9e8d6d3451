"""Fine-tuning from the cache, an epoch, beside ordinary partly frozen training in Keras of the same layers.

    python -m benchmarks.finetuning [--data DIR] [--pictures 64] [--epochs 4] [--rows vgg16/block5_conv1 ...]

Each row takes the same pictures, weights, batches of 16, head (averaged maps, softmax) and SGD for both sides, in one
process, one after the other. The peer decodes its pictures in every epoch with featx's decoder, in two threads ahead
of the network (`PyDataset`); given `--decoded` it finds them decoded in memory, so that only multiplications are
saved. How far the probabilities of the two are apart afterwards is shown. An epoch is the median of all but the first,
in which everything is compiled. `allowed` is what the count of multiplications allows: frozen layers cost
one pass, the others three (forwards, for their input, for their weights); `at most` counts two for the first layer that
trains, whose input needs no gradient.

The last row times an epoch of `bn-mlp` on cached features of as many pictures, and an epoch of the whole VGG16.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import featx
from featx._internal.keras import load_keras
from featx.backbones import divide
from featx.heads import Groups
from featx.pictures import decode, read_file, resize

ROWS = ("vgg16/block5_conv1", "vgg16/block5_conv3", "resnet50/conv5_block3_1_conv", "mobilenetv2/block_16_expand")
BATCH = 16
TRAINING = {"optimizer": "sgd", "learning_rate": 1e-5, "schedule": "constant", "weight_decay": 0.0, "batch_size": BATCH}


def main() -> None:
    """Measure the rows asked for and print them as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/hymenoptera/train"))
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rows", nargs="+", default=[*ROWS, "head"], help="NETWORK/LAYER, or head")
    parser.add_argument("--decoded", action="store_true", help="the peer's pictures are decoded before")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not given.data.is_dir():
        sys.exit(f"no pictures at {given.data}; name a folder of CLASS/* with --data")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = some_pictures(given.data, given.pictures, Path(folder))
        for row in given.rows:
            told = head_row(dataset, folder) if row == "head" else tail_row(row, dataset, folder, given)
            found.append(told)
            print(json.dumps(told), file=sys.stderr, flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
    columns = list(dict.fromkeys(name for told in found for name in told))
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    for told in found:
        print("| " + " | ".join(_text(told.get(name, "")) for name in columns) + " |")


def some_pictures(data: Path, n: int, folder: Path) -> Path:
    """A label file of ``n`` pictures, as many of each class."""
    classes = sorted(path for path in data.iterdir() if path.is_dir())
    lines = [
        f"{path.resolve()}\t{label.name}" for label in classes for path in sorted(label.iterdir())[: n // len(classes)]
    ]
    for number, line in enumerate(lines):  # a label file names pictures below its own folder
        source, label = line.split("\t")
        (folder / f"{number:04}{Path(source).suffix}").symlink_to(source)
        lines[number] = f"{number:04}{Path(source).suffix}\t{label}"
    (folder / "labels.tsv").write_text("\n".join(lines) + "\n")
    return folder / "labels.tsv"


def tail_row(row: str, dataset: Path, folder: str, given: argparse.Namespace) -> dict[str, Any]:
    """One network and layer: seconds an epoch of both, and how far their weights are apart."""
    backbone, layer = row.split("/")
    recipe = {"backbone": backbone, "weights": "random", "dtype": "float32"}
    ours = featx.finetune(
        dataset, unfreeze=layer, epochs=given.epochs, head_first=False, validation=0, cache_dir=Path(folder) / "cache",
        **recipe, **TRAINING,
    )  # fmt: skip
    features = ours.features_of()
    peer = Peer(backbone, layer, features, given.decoded)
    seconds = peer.fit(given.epochs)
    expected = peer.probabilities()
    trained = divide(backbone, layer)
    frozen, tail, first = multiplications(backbone, trained.trains, trained.cut)
    return {
        "row": row,
        "featx, s an epoch": float(np.median(ours.head.epoch_seconds_[1:])),  # type: ignore[attr-defined]
        "Keras, s an epoch": seconds,
        "times faster": seconds / float(np.median(ours.head.epoch_seconds_[1:])),  # type: ignore[attr-defined]
        "allowed": (frozen + 3 * tail) / (3 * tail),
        "allowed, at most": (frozen + 3 * tail - first) / (3 * tail - first),
        "features, s": ours.fitting.features_seconds,
        "largest difference of probability": float(np.abs(ours.predict_proba(features) - expected).max()),
    }


class Peer:
    """The network as a Keras user would fine-tune it: frozen layers, a dense layer, `fit` on a `PyDataset`."""

    def __init__(self, backbone: str, layer: str, features: featx.Features, decoded: bool) -> None:
        keras = load_keras()
        from featx.backbones.network import build_network

        built = build_network(backbone, "random", None, "auto", 0)
        names = divide(backbone, layer).trains
        for one in built.base.layers:
            one.trainable = one.name in names
        self._paths = [Path(features.root) / path for path in features.paths]
        self._y, self._size = np.asarray(features.y), built.size
        self._pictures = np.stack([self.load(i) for i in range(len(self._paths))]) if decoded else None
        end = built.base.get_layer(built.layer).output if built.layer != "output" else built.base.output
        base = keras.Model(built.base.inputs, end)
        from featx.backbones.preprocessing import preprocess_pictures

        rule, dense = built.preprocess, keras.layers.Dense(len(features.class_names), kernel_initializer="zeros")

        class Network(keras.Model):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.base, self.pool, self.dense = base, keras.layers.GlobalAveragePooling2D(), dense

            def call(self, pictures: Any, training: bool = False) -> Any:
                x = preprocess_pictures(keras.ops.cast(pictures, "float32"), rule)
                return self.dense(self.pool(self.base(x, training=False)))

        self._model = Network()
        self._model.compile(
            keras.optimizers.SGD(TRAINING["learning_rate"], momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )

    def load(self, row: int) -> np.ndarray:
        """One picture, ``uint8 (size, size, 3)``."""
        return resize(decode(read_file(self._paths[row])), self._size, "stretch")

    def fit(self, epochs: int) -> float:
        """Train in the order in which featx does; median seconds of the epochs but the first."""
        keras, n = load_keras(), len(self._y)
        peer, ends = self, [time.perf_counter()]

        steps = n // BATCH
        orders = []
        for epoch in range(1, epochs + 1):  # the draws of featx.tail.course
            rng = np.random.default_rng([0, epoch])
            orders.append(rng.permutation(Groups(None, n).draw(rng))[: steps * BATCH])
        batches = np.concatenate(orders).reshape(-1, BATCH)

        class Pictures(keras.utils.PyDataset):  # type: ignore[misc,name-defined]
            """All epochs' batches as one long epoch: what is read ahead then comes in the right order."""

            def __len__(self) -> int:
                return len(batches)

            def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
                rows = batches[number]
                if peer._pictures is not None:
                    return peer._pictures[rows], peer._y[rows]
                return np.stack([peer.load(row) for row in rows]), peer._y[rows]

        told = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter()))
        given = Pictures(workers=2, use_multiprocessing=False, max_queue_size=4)
        self._model.fit(given, epochs=1, verbose=0, shuffle=False, callbacks=[told])
        return float(np.median(np.diff(ends[::steps])[1:]))

    def probabilities(self) -> np.ndarray:
        """Of all pictures, ``(n, classes)``."""
        keras, found = load_keras(), []
        for start in range(0, len(self._y), BATCH):
            pictures = np.stack([self.load(row) for row in range(start, min(start + BATCH, len(self._y)))])
            found.append(np.asarray(keras.ops.softmax(self._model.predict_on_batch(pictures))))
        return np.concatenate(found)


def multiplications(backbone: str, trains: tuple[str, ...], cut: str) -> tuple[float, float, float]:
    """Billions a picture of the layers before the cut, of those behind it, and of the first that trains."""
    from featx.backbones.layers import layers_by_name
    from featx.backbones.network import build_network

    layers = layers_by_name(build_network(backbone, "none", None).base)
    names, counts = list(layers), {}
    for name, layer in layers.items():
        kernels = [w for w in layer.weights if len(w.shape) > 1]
        places = np.prod(layer.output.shape[1:3]) if kernels else 0
        counts[name] = sum(float(np.prod(w.shape)) for w in kernels) * float(places) / 1e9
    at = names.index(cut)
    return (
        sum(counts[name] for name in names[: at + 1]),
        sum(counts[name] for name in names[at + 1 :]),
        counts[trains[0]],
    )


def head_row(dataset: Path, folder: str) -> dict[str, Any]:
    """An epoch of bn-mlp on cached features, and one of the whole network on pictures, both of VGG16 at 224 pixels."""
    recipe = {"backbone": "vgg16", "weights": "random", "cache_dir": Path(folder) / "cache"}
    whole = featx.finetune(dataset, unfreeze="all", epochs=2, head_first=False, validation=0, **recipe, **TRAINING)
    done = featx.extract(dataset, **recipe)
    ends: list[float] = []
    features = featx.load_features(done.features_path)
    head = featx.BNMLPHead(epochs=50, batch_size=BATCH)
    head.fit(features.X(), features.y, on_epoch=_append_to(ends))
    ours, theirs = float(np.median(np.diff(ends))), whole.fitting.seconds_per_epoch
    row = "head epoch against end-to-end epoch, vgg16"
    return {"row": row, "featx, s an epoch": ours, "Keras, s an epoch": theirs, "times faster": theirs / ours}


def _append_to(ends: list[float]) -> Callable[[int, dict[str, float]], None]:
    return lambda epoch, told: ends.append(time.perf_counter())


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
