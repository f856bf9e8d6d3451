"""Is end-to-end fine-tuning worth it, on these pictures? Measures frozen heads and fine-tuning side by side.

    python -m benchmarks --quick                       # two small data sets, a few minutes
    python -m benchmarks --data photos/ --backbones vgg16 --shots 5 20 all
    python -m benchmarks report                        # tables and plots of what is measured already

Each run (a data set, backbone, method, number of training pictures and seed) is a process of its own. Interrupt it as
you like: the same command computes only what is missing. Tables, plots and `results.json` go to --out.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.suite.grid import FINE_TUNED, METHODS, Grid, Network, Pictures, parse_shots
from benchmarks.suite.runner import ROOT, Results, run
from featx.backbones import canonical_name, is_model_file, resolve_size
from featx.errors import FeatxError

SHARED = Path(os.environ.get("FEATX_SHARED", ROOT.parent / "shared"))
WEIGHTS = {
    "mobilenetv2": SHARED / "weights" / "mobilenet_v2_1.0_224_imagenet_notop.weights.h5",
    "mobilenetv2-0.35": SHARED / "weights" / "mobilenet_v2_0.35_224_imagenet_notop.weights.h5",
}
TAILS = {
    "mobilenetv2": "block_16_expand",
    "vgg16": "block5_conv1",
    "vgg19": "block5_conv1",
    "resnet50": "conv5_block1_1_conv",
}
FULL: dict[str, Any] = {
    "data": [SHARED / "data" / name for name in ("hymenoptera", "flowers", "cats-dogs", "penguin-species")],
    "backbones": ["mobilenetv2"],
    "methods": list(METHODS),
    "shots": ["5", "20", "all"],
    "seeds": [0, 1, 2],
    "epochs": 20,
    "size": None,
}
QUICK = FULL | {
    "data": [SHARED / "data" / name for name in ("hymenoptera", "penguin-species")],
    "backbones": ["mobilenetv2-0.35"],
    "methods": ["majority", "logreg", "bn-mlp", "tail", "end-to-end", "scratch"],
    "shots": ["all"],
    "epochs": 3,
    "size": 96,
}


def main(words: list[str] | None = None) -> int:
    """Run the suite, or report on it. Returns 0; 1 if a cell failed or nothing could be done; 130 if interrupted."""
    parser = parser_of_all()
    asked = parser.parse_args(words)
    try:
        grid = grid_of(asked) if asked.action == "run" else None
    except (FeatxError, ValueError) as error:
        parser.error(str(error))
    results = Results(asked.out)
    try:
        failed = run(grid, results, tell) if grid else 0
        if asked.all and results.cells.is_dir():
            results.ask_all()
        report(results)
    except FeatxError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt as interrupted:
        say(f"\ninterrupted: {interrupted}")
        return 130
    if failed:
        say(f"failed cells: {failed}; {results.folder}/results.md says why, and the same command tries them again")
    return 1 if failed else 0


def parser_of_all() -> argparse.ArgumentParser:
    """The options of the suite, and what else there is to run."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description=__doc__,
        epilog=other_benchmarks(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "action", nargs="?", choices=["run", "report"], default="run", help="measure and report; or report"
    )
    parser.add_argument("--all", action="store_true", help="report on all runs that are kept, of earlier grids too")
    parser.add_argument("--quick", action="store_true", help="a small grid; further options change it")
    parser.add_argument("--data", nargs="+", metavar="DIR", help="data sets with a test split, or label files")
    parser.add_argument("--backbones", nargs="+", metavar="NAME", help="of `featx backbones`, or .keras files")
    weights = "of a backbone: a file, imagenet or random; by default ../shared/weights, else imagenet"
    parser.add_argument("--weights", nargs="+", default=[], metavar="NAME=FILE", help=weights)
    parser.add_argument("--preprocess", default="auto", help="as for `featx extract`; a .keras file has to be told")
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="METHOD", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--shots", nargs="+", metavar="K", help="training pictures a class, or `all`")
    parser.add_argument(
        "--seeds", nargs="+", type=int, metavar="SEED", help="three or more, for an interval worth having"
    )
    parser.add_argument("--epochs", type=int, help=f"of {', '.join(FINE_TUNED)}, at most")
    parser.add_argument("--size", type=int, help="side of the pictures in pixels, by default the backbone's own")
    parser.add_argument(
        "--tail", metavar="LAYER", help="first layer that `tail` trains, by default one that suits the backbone"
    )
    parser.add_argument("--validation", type=float, default=0.2, help="share held out of the training pictures (0.2)")
    out = ROOT / "benchmarks" / "results"
    parser.add_argument("--out", default=out, metavar="DIR", help="where results go, by default benchmarks/results")
    return parser


def grid_of(asked: argparse.Namespace) -> Grid:
    """The grid that the options describe.

    Raises:
        FeatxError: a data set, backbone or layer that cannot be used. ValueError: an option that cannot be.
    """
    usual = QUICK if asked.quick else FULL
    option = {name: usual[name] if getattr(asked, name) is None else getattr(asked, name) for name in usual}
    found = [Path(path) for path in option["data"] if asked.data or Path(path).exists()]
    for path in sorted(set(map(Path, option["data"])) - set(found)):
        say(f"left out: {path.name}, which is not in {os.path.relpath(path.parent)}")
    if not found:
        raise ValueError("no data set; --data DIR says where pictures are, as {train,test}/CLASS/*")
    datasets = tuple(Pictures.of(path) for path in found)
    if len({dataset.name for dataset in datasets}) < len(datasets):
        raise ValueError("two data sets have the same name; give another --out to each")
    if min(option["seeds"]) < 0:
        raise ValueError("--seeds takes numbers from 0")
    return Grid(
        datasets=datasets,
        networks=tuple(network_of(name, option, asked) for name in option["backbones"]),
        methods=tuple(dict.fromkeys(option["methods"])),
        shots=tuple(dict.fromkeys(parse_shots(option["shots"]))),
        seeds=tuple(dict.fromkeys(option["seeds"])),
        epochs=option["epochs"],
        validation=asked.validation,
    )


def network_of(backbone: str, option: dict[str, Any], asked: argparse.Namespace) -> Network:
    """A backbone with its weights and its tail."""
    backbone = canonical_name(backbone)
    given: dict[str, str] = dict(pair.rpartition("=")[::2] for pair in asked.weights)  # without a name, of all
    name = Path(backbone).stem if is_model_file(backbone) else backbone
    usual = WEIGHTS.get(name, Path())
    weights = given.get(name) or given.get("") or (str(usual) if usual.is_file() else "imagenet")
    tail = asked.tail or TAILS.get(name.split("-")[0])
    if tail is None and "tail" in option["methods"]:
        raise ValueError(
            f"--tail LAYER: which layer of {name} is the first to train? `featx backbones {name}` lists them"
        )
    size = resolve_size(backbone, option["size"])
    if size is None:
        raise ValueError(f"--size PIXELS: which side have the pictures that {name} takes?")
    recipe = {"backbone": backbone, "weights": weights, "preprocess": asked.preprocess, "size": size}
    made_of = [identity(file) for file in (weights, backbone) if Path(file).suffix in (".h5", ".keras")]
    return Network(name, recipe, ", ".join(made_of) or weights, tail)


def identity(file: str) -> str:
    """A file's name and a digest of its content: other weights under the same name are another network."""
    try:
        content = hashlib.blake2b(Path(file).read_bytes(), digest_size=4).hexdigest()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
    return f"{Path(file).name} ({content})"


def other_benchmarks() -> str:
    """What the other modules of this folder measure, by the first line of each."""
    lines = ["other benchmarks, each with a --help of its own:"]
    for file in sorted((ROOT / "benchmarks").glob("[a-z]*.py")):
        about = ast.get_docstring(ast.parse(file.read_text())) or ""
        lines.append(f"  python -m benchmarks.{file.stem:<10} {about.splitlines()[0]}")
    return "\n".join(lines)


def report(results: Results) -> None:
    """Write tables and plots, and print the tables."""
    from benchmarks.suite.report import rows_of, write_report  # scipy and more, which the small parent can do without

    print(write_report(results))
    of_set = rows_of(results.asked())
    if find_spec("matplotlib") is None:
        say("no plots: they need matplotlib (pip install '.[plot]')")
    elif of_set:
        from benchmarks.suite.plots import draw_all

        draw_all(of_set, results.folder)
    say(f"written to {results.folder}")


def say(text: str) -> None:
    """A line, on stderr."""
    tell(f"{text}\n")


def tell(text: str) -> None:
    """Part of a line, on stderr."""
    print(text, file=sys.stderr, end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
