"""Runs the cells that are missing, one after the other, each in a process of its own; any end leaves what is done."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import featx
from benchmarks.suite.cell import Job
from benchmarks.suite.grid import FEATURES, Cell, Grid
from featx._internal.files import write_whole
from featx.errors import FeatxError

ROOT = Path(__file__).resolve().parents[2]

Record = dict[str, Any]  # {"cell", "measured" or "error", "process_seconds", "environment"}
Say = Callable[[str], None]  # takes parts of lines


class Results:
    """The folder of results: a record a cell, what the last grid was, and the work files that cells share."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.cells = self.folder / "cells"

    def record(self, cell: Cell) -> Record | None:
        """What is known of a cell."""
        return self._read(cell.key)

    def keep(self, cell: Cell, record: Record) -> Record:
        """Write a cell's record, whole or not at all."""
        record = {"cell": asdict(cell), **record}
        write_whole(self.cells / f"{cell.key}.json", json.dumps(record, indent=1).encode())
        return record

    def done(self, cell: Cell) -> bool:
        """Whether a cell need not be run: it was, without an error, and what it made is there."""
        record = self.record(cell)
        made = cell.method != FEATURES or self.cache(cell).is_dir()
        return record is not None and "measured" in record and made

    def ask(self, cells: Iterable[Cell]) -> None:
        """Note which cells are wanted, for whoever reports on them."""
        self.cells.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "grid.json", json.dumps([cell.key for cell in cells], indent=1).encode())

    def ask_all(self) -> None:
        """Let all cells that are kept be wanted: those of several grids, with settings of their own, in one report."""
        keys = sorted(path.stem for path in self.cells.glob("*.json"))
        write_whole(self.folder / "grid.json", json.dumps(keys, indent=1).encode())

    def asked(self) -> list[Record]:
        """The records of the cells that were wanted last, as far as there are any."""
        try:
            keys = json.loads((self.folder / "grid.json").read_text())
        except FileNotFoundError:
            raise FeatxError(f"nothing was measured yet in {self.folder}") from None
        return [record for record in map(self._read, keys) if record is not None]

    def cache(self, features: Cell) -> Path:
        """The cache folder that a cell extracts into."""
        return self.folder / "cache" / features.key

    def lock(self) -> FileLock:
        """Held while cells are run: two runs at once would each spoil the other's times."""
        return FileLock(self.folder / "lock", timeout=0)

    def _read(self, key: str) -> Record | None:
        try:
            record: Record = json.loads((self.cells / f"{key}.json").read_text())
        except FileNotFoundError:
            return None
        return record


def run(grid: Grid, results: Results, say: Say) -> int:
    """Run what is missing of a grid. Returns how many of its cells have failed.

    Raises:
        FeatxError: another run is under way in the folder.
        KeyboardInterrupt: with what is done, and how to go on.
    """
    cells = grid.cells()
    results.ask(cells)
    missing = [cell for cell in cells if not results.done(cell)]
    try:
        with results.lock():
            _run_all(grid, results, cells, missing, say)
    except Timeout:
        raise FeatxError(f"another run is under way in {results.folder}; wait for it, or give another --out") from None
    except KeyboardInterrupt:
        done = sum(map(results.done, cells))
        raise KeyboardInterrupt(f"{done} of {len(cells)} cells are done; run the same command again to go on") from None
    return sum("error" in (results.record(cell) or {}) for cell in cells)


def _run_all(grid: Grid, results: Results, cells: list[Cell], missing: list[Cell], say: Say) -> None:
    known = {cell: results.record(cell) or {} for cell in cells if results.done(cell)}
    for number, cell in enumerate(missing, 1):
        say(f"[{len(cells) - len(missing) + number}/{len(cells)}] {cell} ... ")
        record = results.keep(cell, _run_one(grid, results, cell))
        if "measured" in record:
            known[cell] = record
        left = sum(expected_seconds(other, known) for other in missing[number:])
        say(f"{_told(record)}; about {_clock(left)} left\n")


def _run_one(grid: Grid, results: Results, cell: Cell) -> Record:
    """A cell's record, without the cell."""
    if cell.features and not results.done(cell.features):
        why = (results.record(cell.features) or {}).get("error", "they are not there")
        return {"error": f"no features to train on: {why}", "process_seconds": 0.0, "environment": environment()}
    started = time.perf_counter()
    told = _in_a_process(_job(grid, results, cell))
    measured = {"error": told["error"]} if "error" in told else {"measured": told}
    return {**measured, "process_seconds": time.perf_counter() - started, "environment": environment()}


def _job(grid: Grid, results: Results, cell: Cell) -> Job:
    dataset, folder = grid.dataset(cell), results.folder / "work" / f"{cell.dataset}-{cell.pictures}"
    name = "all" if cell.shots is None else f"{cell.shots}-shots-seed-{cell.seed}"
    labels = dataset.write_labels(folder, name, dataset.drawn(cell.shots, cell.seed or 0))
    cache = results.cache(cell.features or cell)
    if cell.method == FEATURES:
        shutil.rmtree(cache, ignore_errors=True)  # what an interrupted extraction left would make this one too quick
    return Job(cell, str(labels), str(cache), grid.recipe(cell))


def _in_a_process(job: Job) -> dict[str, Any]:
    """What `python -m benchmarks.suite.cell` says about a job, or the error that ended it."""
    words = [sys.executable, "-m", "benchmarks.suite.cell", json.dumps(asdict(job))]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    lifeline, held = os.pipe()  # closed when this process ends, however that may be
    try:
        environ = {**os.environ, "PYTHONPATH": path}
        ended = subprocess.run(words, stdin=lifeline, capture_output=True, text=True, env=environ)
    finally:
        os.close(lifeline)
        os.close(held)
    try:
        told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": _why(ended)}
    return told


def _why(ended: subprocess.CompletedProcess[str]) -> str:
    """Why a process said nothing, in one line."""
    if ended.returncode < 0:
        return f"its process was ended by signal {-ended.returncode}; is there enough memory?"
    return (ended.stderr.strip().splitlines() or [f"its process ended with {ended.returncode}"])[-1]


def expected_seconds(cell: Cell, known: dict[Cell, Record]) -> float:
    """How long a cell's process will take, by those that were most like it."""
    alike: tuple[Callable[[Cell], object], ...] = (
        lambda c: (c.dataset, c.backbone, c.method, c.trains, c.shots, c.epochs),
        lambda c: (c.backbone, c.method, c.trains),
        lambda c: c.method,
        lambda c: None,
    )
    for kind in alike:
        found = [record["process_seconds"] for other, record in known.items() if kind(other) == kind(cell)]
        if found:
            return statistics.fmean(found)
    return 0.0


def environment() -> dict[str, Any]:
    """Where something was measured."""
    versions = {name: version(name) for name in ("keras", "tensorflow", "scikit-learn", "numpy")}
    machine = {"system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count()}
    return {"featx": featx.__version__, "python": platform.python_version(), **versions, **machine}


def _told(record: Record) -> str:
    if "error" in record:
        return f"FAILED, {record['error']}"
    measured = record["measured"]
    if "accuracy" in measured:
        return f"accuracy {measured['accuracy']:.3f}, {record['process_seconds']:.1f} s"
    return f"{measured['pictures']} pictures in {measured['features_seconds']:.1f} s"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes}:{seconds:02}"
