"""Extraction beside its limit and beside the recipe a Keras user writes: pictures a second, memory, second runs.

    python -m benchmarks.extract [--shared DIR] [--tables speed precision batch workers again memory photos]
                                 [--networks vgg16 ...] [--pictures 1000] [--json FILE]

Every measurement is a process of its own, one after the other; repeats of what is compared alternate. Rates count
everything but building the network: listing, hashing, decoding, computing, writing, the finished file; `while
computing` leaves out what comes before and after. `limit` is the same engine on pictures that lie decoded in memory;
`bound` is what is left of it where decoding takes its share of the same cores: 1 / (1 / limit + 1 / decoding). The peer
is `image_dataset_from_directory`, `preprocess_input`, `predict` and `np.save`, as in Keras's own guide. Weights are
random but for MobileNetV2's: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SETS = ("flowers", "hymenoptera", "cats-dogs", "penguins-turtles")  # web photos of 250 to 500 pixels
NETWORKS = {"vgg16": 1, "resnet50": 2, "mobilenetv2": 3}  # and how often each is measured
WEIGHTS = "weights/mobilenet_v2_1.0_224_imagenet_notop.weights.h5"
BATCH = 32


# ------------------------------------------------------------------------------------------- what is measured, by name


def featx_extract(folder: str, recipe: dict[str, Any], **options: Any) -> dict[str, Any]:
    """One extraction into a cache of its own: the rate without building the network, and with it."""
    from featx.extraction import extract

    with tempfile.TemporaryDirectory(dir=Path(folder).parent) as cache:
        began = time.perf_counter()
        done = extract(folder, cache_dir=cache, **recipe, **options)
        whole = time.perf_counter() - began
        spent = done.profile
        busy = spent["trunk"] + spent["waiting"] + spent["list"] + spent["assemble"]
        if options.get("workers", 1) != 1:
            busy = done.computed / done.images_per_second + spent["list"] + spent["assemble"]
        computing = done.images_per_second
        rates = {"rate": done.computed / busy, "computing": computing, "rate with start": done.computed / whole}
        return {**rates, "engine": done.engine, **spent}


def forward(recipe: dict[str, Any], seconds: float = 20.0) -> dict[str, Any]:
    """The trunk's own rate, on random pixels in memory, batches of 32."""
    from featx.extraction import Recipe
    from featx.extraction.engine import trunk_for

    trunk = trunk_for(Recipe(**recipe), lambda n, size: np.empty((0, size, size, 3), np.uint8))
    images = np.random.default_rng(0).integers(0, 256, (BATCH, trunk.info.size, trunk.info.size, 3), np.uint8)
    trunk(images)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        trunk(images)
        done += BATCH
    return {"rate": done / (time.perf_counter() - began), "engine": trunk.info.engine}


def decoding(folder: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """Reading, decoding and resizing alone, by as many threads as there are cores."""
    from featx._internal.parallel import in_threads
    from featx.extraction import Recipe, load_file
    from featx.pictures import list_dataset

    listing, settings = list_dataset(folder), Recipe(**recipe)
    began = time.perf_counter()
    for _, image in in_threads(
        [p.path for p in listing.pictures], lambda p: load_file(listing.root / p, 224, settings)
    ):
        if isinstance(image, Exception):
            raise image
    return {"rate": len(listing.pictures) / (time.perf_counter() - began)}


def keras_recipe(folder: str, backbone: str) -> dict[str, Any]:
    """What Keras's guide does."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras

    module = {"vgg16": "vgg16", "resnet50": "resnet50", "mobilenetv2": "mobilenet_v2"}[backbone]
    build = getattr(
        keras.applications, {"vgg16": "VGG16", "resnet50": "ResNet50", "mobilenetv2": "MobileNetV2"}[backbone]
    )
    preprocess = getattr(keras.applications, module).preprocess_input
    model = build(include_top=False, weights=None, input_shape=(224, 224, 3))
    began = time.perf_counter()
    dataset = keras.utils.image_dataset_from_directory(
        folder, image_size=(224, 224), batch_size=BATCH, shuffle=False, verbose=False
    )
    features = model.predict(dataset.map(lambda images, _: preprocess(images)).prefetch(2), verbose=0)
    with tempfile.TemporaryDirectory(dir=Path(folder).parent) as out:
        np.save(Path(out) / "features.npy", features)
        return {"rate": len(features) / (time.perf_counter() - began)}


def peak(folder: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """Resident memory of an extraction at its highest, in MB."""
    told = featx_extract(folder, recipe)
    return {"MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "rate": told["rate"]}


JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    f.__name__: f for f in (featx_extract, forward, decoding, keras_recipe, peak)
}


def measured(name: str, **arguments: Any) -> dict[str, Any]:
    """What a job tells, done in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.extract", "--job", json.dumps([name, arguments])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} {arguments} failed:\n{done.stderr[-3000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps({"job": name, **arguments, **told}), file=sys.stderr, flush=True)
    return told


def alternately(jobs: dict[str, tuple[str, dict[str, Any]]], repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Several jobs, each so often, in turns."""
    found: dict[str, list[dict[str, Any]]] = {label: [] for label in jobs}
    for _ in range(repeats):
        for label, (name, arguments) in jobs.items():
            found[label].append(measured(name, **arguments))
    return found


# ---------------------------------------------------------------------------------------------------------- the tables


def speed(work: Path, shared: Path, n: int, repeats: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Keras and OpenVINO beside their limits, their bounds and the peer."""
    folder = web_photos(work, shared, n)
    for backbone in repeats:
        recipes = {engine: recipe_of(backbone, shared, engine=engine) for engine in ("keras", "openvino")}
        jobs: dict[str, tuple[str, dict[str, Any]]] = {
            "peer": ("keras_recipe", {"folder": folder, "backbone": backbone}),
            "decoding": ("decoding", {"folder": folder, "recipe": recipes["keras"]}),
        }
        for engine, recipe in recipes.items():
            jobs[f"{engine} limit"] = ("forward", {"recipe": recipe})
            jobs[engine] = ("featx_extract", {"folder": folder, "recipe": recipe})
        told = alternately(jobs, repeats[backbone])
        rates = {label: [t["rate"] for t in runs] for label, runs in told.items()}
        middle = {label: statistics.median(values) for label, values in rates.items()}
        for engine in recipes:
            limit = middle[f"{engine} limit"]
            bound = 1 / (1 / limit + 1 / middle["decoding"])
            computing = statistics.median(t["computing"] for t in told[engine])
            yield {
                "network": backbone,
                "engine": engine,
                "pictures": n,
                "featx, pictures/s": spread(rates[engine]),
                "limit": spread(rates[f"{engine} limit"]),
                "while computing": computing,
                "of the limit": computing / limit,
                "bound": bound,
                "of the bound": computing / bound,
                "peer, pictures/s": spread(rates["peer"]),
                "times the peer": middle[engine] / middle["peer"],
            }


def precision(work: Path, shared: Path, n: int, repeats: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Less precision: how much faster, and whether its features pass."""
    folder = web_photos(work, shared, n)
    for backbone in repeats:
        full = measured("featx_extract", folder=folder, recipe=recipe_of(backbone, shared, engine="openvino"))
        asked = recipe_of(backbone, shared, engine="openvino", precision="bfloat16")
        try:
            reduced = measured("featx_extract", folder=folder, recipe=asked)
        except SystemExit as error:
            said = str(error).strip().splitlines()[-1]
            yield {"network": backbone, "float32": full["rate"], "bfloat16": f"refused: {said}"}
            continue
        yield {
            "network": backbone,
            "float32": full["rate"],
            "bfloat16": reduced["rate"],
            "times faster": reduced["rate"] / full["rate"],
        }


def batch(work: Path, shared: Path, n: int, repeats: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Batches of several sizes, MobileNetV2."""
    folder = web_photos(work, shared, n)
    for size in (1, 8, 32, 128):
        row: dict[str, Any] = {"batch size": size}
        for engine in ("keras", "openvino"):
            recipe = recipe_of("mobilenetv2", shared, engine=engine)
            row[engine] = measured("featx_extract", folder=folder, recipe=recipe, batch_size=size)["rate"]
        yield row


def workers(work: Path, shared: Path, n: int, repeats: dict[str, int]) -> Iterator[dict[str, Any]]:
    """One process of two threads, two processes of one, two Dask workers of one: rates with their starts."""
    folder = web_photos(work, shared, n)
    for backbone in repeats:
        recipe = recipe_of(backbone, shared)
        with dask(work) as address:
            jobs: dict[str, tuple[str, dict[str, Any]]] = {
                str(count): ("featx_extract", {"folder": folder, "recipe": recipe, "workers": count})
                for count in (1, 2, address)
            }
            found = alternately(jobs, max(2, repeats[backbone]))  # Dask's workers have their network from the second on
        for label, told in found.items():
            yield {
                "network": backbone,
                "workers": "dask, 2" if "dask" in label else label,
                "first time": told[0]["rate with start"],
                "again": told[-1]["rate with start"],
                "against one process": told[-1]["rate with start"] / found["1"][-1]["rate with start"],
            }


def again(work: Path, shared: Path, n: int, repeats: dict[str, int]) -> Iterator[dict[str, Any]]:
    """A run with nothing to do, by number of files, beyond the start of Python."""
    for count in (1_000, 10_000, 100_000):
        folder = tiny_files(work, count)
        words = ["-m", "featx", "extract", folder, "--backbone", "pixels", "--size", "16", "--quiet"]
        words += ["--cache-dir", str(work / "again")]
        first = seconds(words)
        time.sleep(2.5)  # until the files are not so fresh that they have to be read again
        seconds(words)
        runs = [(seconds(words), seconds(["-c", "pass"])) for _ in range(5)]
        yield {
            "files": count,
            "first run, s": first,
            "unchanged, s": spread([run for run, _ in runs]),
            "beyond Python's start, s": statistics.median(run - start for run, start in runs),
        }
        shutil.rmtree(work / "again")


def memory(work: Path, shared: Path, n: int, repeats: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Resident memory by number of pictures; a small network stands in for VGG16, with VGG16's maps, 7 x 7 x 512."""
    network = stand_in(work)
    found = {}
    for count in (1_000, 3_000, 10_000):
        recipe = {"backbone": network, "preprocess": "rescale", "engine": "keras"}
        found[count] = measured("peak", folder=many(work, shared, count), recipe=recipe)["MB"]
        yield {"pictures": count, "peak, MB": found[count], "against 1,000": found[count] / found[1_000]}


def photos(work: Path, shared: Path, n: int, repeats: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Photographs of 12 megapixels, with and without drafts, MobileNetV2."""
    folder = large_photos(work, shared, 60)
    recipes = {draft: recipe_of("mobilenetv2", shared, draft=draft) for draft in (False, True)}
    jobs: dict[str, tuple[str, dict[str, Any]]] = {
        str(draft): ("featx_extract", {"folder": folder, "recipe": recipe}) for draft, recipe in recipes.items()
    }
    found = alternately(jobs, 3)
    plain = statistics.median(t["rate"] for t in found["False"])
    for label, told in found.items():
        rates = [t["rate"] for t in told]
        yield {
            "draft": "yes" if label == "True" else "no",
            "pictures/s": spread(rates),
            "times as fast": statistics.median(rates) / plain,
        }


TABLES = {f.__name__: f for f in (speed, precision, batch, workers, again, memory, photos)}


# ----------------------------------------------------------------------------------------------------- what they need


def recipe_of(backbone: str, shared: Path, **more: Any) -> dict[str, Any]:
    """A recipe; MobileNetV2's weights are ImageNet's."""
    weights = str(shared / WEIGHTS) if backbone == "mobilenetv2" else "random"
    return {"backbone": backbone, "weights": weights, **more}


def web_photos(work: Path, shared: Path, n: int) -> str:
    """A folder of ``n`` photographs in two classes."""
    sources = [p for name in SETS for p in sorted((shared / "data" / name / "train").rglob("*.jp*g"))]
    return linked(work / f"photos-{n}", sources[:n])


def many(work: Path, shared: Path, n: int) -> str:
    """``n`` pictures that differ: real ones, each repeated with other bytes behind its end."""
    sources = [p for name in SETS for p in sorted((shared / "data" / name / "train").rglob("*.jp*g"))][:500]
    folder = work / f"many-{n}"
    for number in range(n):
        (folder / str(number % 2)).mkdir(parents=True, exist_ok=True)
        data = sources[number % len(sources)].read_bytes()
        (folder / str(number % 2) / f"{number:05}.jpg").write_bytes(data + str(number).encode())
    return str(folder)


def linked(folder: Path, sources: Iterable[Path]) -> str:
    """A folder of links, half of them in each of two classes."""
    for number, source in enumerate(sources):
        (folder / str(number % 2)).mkdir(parents=True, exist_ok=True)
        link = folder / str(number % 2) / f"{number:05}{source.suffix}"
        if not link.exists():
            link.symlink_to(source.resolve())
    return str(folder)


def large_photos(work: Path, shared: Path, n: int) -> str:
    """Photographs magnified to 4000 x 3000 pixels."""
    from PIL import Image

    folder = work / "large"
    sources = sorted((shared / "data" / "flowers" / "train").rglob("*.jp*g"))[::8][:n]
    for number, source in enumerate(sources):
        (folder / str(number % 2)).mkdir(parents=True, exist_ok=True)
        with Image.open(source) as image:
            large = image.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC)
            large.save(folder / str(number % 2) / f"{number}.jpg", quality=90)
    return str(folder)


def tiny_files(work: Path, n: int) -> str:
    """``n`` files of 500 contents."""
    from PIL import Image

    folder = work / f"tiny-{n}"
    rng = np.random.default_rng(0)
    for number in range(n):
        (folder / str(number % 2)).mkdir(parents=True, exist_ok=True)
        file = folder / str(number % 2) / f"{number:06}.png"
        if number < 500:
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(file)
        else:
            os.link(folder / str(number % 500 % 2) / f"{number % 500:06}.png", file)
    return str(folder)


def stand_in(work: Path) -> str:
    """A network that costs little and whose map is VGG16's."""
    from featx._internal.keras import load_keras

    keras = load_keras()
    inputs = keras.Input((224, 224, 3))
    x = keras.layers.AveragePooling2D(16)(inputs)
    x = keras.layers.Conv2D(512, 2, strides=2, activation="relu", name="map")(x)
    keras.Model(inputs, x).save(work / "stand-in.keras")
    return str(work / "stand-in.keras")


class dask:
    """A scheduler and two workers of one thread on this machine."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> str:
        scheduler = self._start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        address = next(w for line in scheduler.stderr or () for w in line.split() if w.startswith("tcp://127.0.0.1"))
        for _ in range(2):
            options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
            self._start(
                "dask_worker", address, *options, "--local-directory", str(self.work), stderr=subprocess.DEVNULL
            )
        time.sleep(5)
        return address.replace("tcp", "dask")

    def _start(self, module: str, *words: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", f"distributed.cli.{module}", *words]
        self.processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, text=True))
        return self.processes[-1]

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


def seconds(words: list[str]) -> float:
    """How long Python takes for a command line."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - began


def spread(values: list[float]) -> str:
    """The median, and the smallest and the largest where there are several."""
    middle = f"{statistics.median(values):.3g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g} to {max(values):.3g})"


def as_table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for row in rows:
        cells = (f"{v:.3g}" if isinstance(v := row.get(name, ""), float) else str(v) for name in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure the tables asked for and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        name, arguments = json.loads(given.job)
        print(json.dumps(JOBS[name](**arguments)))
        return
    if not (given.shared / "data").is_dir():
        sys.exit(f"no pictures at {given.shared}/data; --shared says where they are")
    repeats = {name: NETWORKS[name] for name in given.networks}
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for table in given.tables:
            found[table] = list(TABLES[table](Path(folder), given.shared.resolve(), given.pictures, repeats))
            print(f"### {table}\n\n{as_table(found[table])}\n", flush=True)
            if given.json:
                given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
