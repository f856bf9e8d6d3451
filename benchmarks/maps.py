"""Activation maps from cached features, beside the same maps through the network.

    python -m benchmarks.maps [--shared DIR] [--pictures 500] [--networks vgg16 mobilenetv2]

Both sides explain the same pictures by Grad-CAM, with one `bn-mlp` head on flat maps. featx reads the features from the
feature file; the peer runs TensorFlow's gradient on the network and the head joined, on pictures that lie decoded in
memory, in batches of 32. How far the maps are apart, relative to the largest value, is shown.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import featx
from benchmarks.extract import as_table, recipe_of, web_photos
from featx._internal.keras import load_keras
from featx.explanation import activation_maps
from featx.pictures import decode, read_file, resize

BATCH = 32


def joined(trunk: Any, head: Any) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Grad-CAM of the joined network: pictures and classes in, float32 ``(n, h, w)`` out."""
    import tensorflow as tf

    keras = load_keras()
    logits = keras.models.clone_model(head.model_)
    logits.set_weights(head.model_.get_weights())
    logits.layers[-1].activation = keras.activations.linear
    network = trunk.model

    @tf.function
    def batch(pictures: Any, numbers: Any) -> Any:
        maps = network(pictures, training=False)
        with tf.GradientTape() as tape:
            tape.watch(maps)
            scores = tf.gather(logits(maps, training=False), numbers, axis=1, batch_dims=1)
        weights = tf.reduce_mean(tape.gradient(scores, maps), axis=(1, 2), keepdims=True)
        return tf.nn.relu(tf.reduce_sum(maps * weights, axis=-1))

    return lambda images, classes: np.asarray(batch(images, classes))


def row(backbone: str, shared: Path, n: int, work: Path) -> dict[str, Any]:
    """One network: seconds of both sides, and how far their maps are apart."""
    folder = web_photos(work, shared, n)
    recipe = recipe_of(backbone, shared, engine="keras", dtype="float32")
    features = featx.load_features(featx.extract(folder, cache_dir=work / backbone, **recipe).features_path)
    head = featx.fit(features, "bn-mlp", input="flat", hidden=64, epochs=2).head
    trunk = featx.Recipe(**recipe).trunk()
    images = np.stack(
        [resize(decode(read_file(Path(features.root) / path)), trunk.info.size) for path in features.paths]
    )
    classes = np.arange(n) % 2
    explain = joined(trunk, head)
    explain(images[:BATCH], classes[:BATCH])  # compiles it
    began = time.perf_counter()
    theirs = np.concatenate([explain(images[s : s + BATCH], classes[s : s + BATCH]) for s in range(0, n, BATCH)])
    peer = time.perf_counter() - began
    began = time.perf_counter()
    ours = np.concatenate([activation_maps(head, X, classes[numbers], "gradcam") for numbers, X in features.blocks()])
    seconds = time.perf_counter() - began
    return {
        "network": backbone,
        "maps": n,
        "from the cache, s": seconds,
        "maps/s": n / seconds,
        "through the network, s": peer,
        "times faster": peer / seconds,
        "largest difference": float(np.abs(ours - theirs).max() / theirs.max()),
    }


def main() -> None:
    """Measure the networks asked for and print them as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--networks", nargs="+", default=["vgg16", "mobilenetv2"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(as_table([row(name, given.shared.resolve(), given.pictures, Path(folder)) for name in given.networks]))


if __name__ == "__main__":
    main()
