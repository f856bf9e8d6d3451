"""Five published tutorials with featx alone, our figures beside theirs.

    python -m benchmarks.tutorials                       # all; hours with VGG16 on two cores are minutes from the cache
    python -m benchmarks.tutorials penguins --seeds 0
    python -m benchmarks.tutorials penguins --data my/penguins

Each reads as a script of its own in benchmarks/tutorials/. Rows that are measured are kept in --out and not measured
again; a tutorial whose pictures are not there is skipped, with the reason.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.tutorials.lesson import Absent, Lesson, Row, table
from featx.errors import FeatxError

NAMES = ("person_or_edamame", "transfer_or_finetune", "vgg16_meets_mnist", "labels_to_network", "penguins")
ROOT = Path(__file__).resolve().parents[2]


def main(words: list[str] | None = None) -> int:
    """Run the tutorials asked for and print their table. Returns 1 if one failed."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.tutorials", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; by default all")
    parser.add_argument("--data", type=Path, help="pictures of one's own, for one tutorial")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder of data/ and weights/")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "tutorials")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="one epoch and one seed, to see that all runs")
    asked = parser.parse_args(words)
    if unknown := set(asked.names) - set(NAMES):
        parser.error(f"no tutorial {sorted(unknown)[0]}; expected {', '.join(NAMES)}")
    if asked.data and len(asked.names) != 1:
        parser.error("--data goes with the name of one tutorial")
    rows: list[Row] = []
    failed = False
    for name in asked.names or NAMES:
        lesson = lesson_of(name, asked)
        try:
            import_module(f"benchmarks.tutorials.{name}").run(lesson)
        except Absent as absent:
            lesson.say(f"skipped: {absent}")
        except FeatxError as error:
            lesson.say(f"failed: {error}")
            failed = True
        rows += lesson.rows
    print(table(rows))
    return 1 if failed else 0


def lesson_of(name: str, asked: argparse.Namespace) -> Lesson:
    """The run of a tutorial that the options describe."""
    data = asked.data or asked.shared / "data" / import_module(f"benchmarks.tutorials.{name}").DATA
    seeds = tuple(asked.seeds[:1] if asked.quick else asked.seeds)
    out = asked.out / ("quick" if asked.quick else "")
    return Lesson(name, data, asked.shared / "weights", out, seeds, asked.quick)


if __name__ == "__main__":
    sys.exit(main())
