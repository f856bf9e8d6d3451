"""One trial: train the head with its parameters, tell the study how it did. Here, or in a worker process.

Keras promises nothing about threads, so workers are processes. Each maps the rows into memory from one file that all
share; the storage is theirs too, but only the first process hands trials out.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from joblib.externals.loky import ProcessPoolExecutor
from optuna.trial import TrialState

from featx._internal.parallel import share_of_cores, threads_in_environment, watch_parent
from featx.errors import SweepError, TrainingError, one_line
from featx.heads import make_head
from featx.rows import Rows
from featx.selection.sweep.space import Scale
from featx.selection.sweep.study import decoded

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

KILLED_AT_MOST = 3  # times in a row


@dataclass(frozen=True)
class Task:
    """What all trials have in common; ``rows`` may be the path of a folder, from which they are mapped into memory."""

    head: str
    fixed: dict[str, Any]
    space: dict[str, Scale]
    random_state: int
    rows: Rows | Path


def attempt(trial: optuna.Trial, task: Task) -> None:
    """Train once a repeat and tell the study: accuracies, log losses, epochs; or pruned; or why it cannot be."""
    epochs: list[int] = []
    try:
        figures = _train(trial, task, epochs)
        for name, values in zip(("accuracies", "log_losses"), zip(*figures, strict=True), strict=True):
            trial.set_user_attr(name, list(values))
        value, state = float(np.mean([accuracy for accuracy, _ in figures])), TrialState.COMPLETE
    except optuna.TrialPruned:
        value, state = None, TrialState.PRUNED
    except (TrainingError, MemoryError) as error:
        trial.set_user_attr("error", one_line(error))
        value, state = None, TrialState.PRUNED  # not FAIL, which the sampler would learn nothing from
    trial.set_user_attr("epochs", sum(epochs))
    trial.study.tell(trial, value, state)


def _train(trial: optuna.Trial, task: Task, epochs: list[int]) -> list[tuple[float, float]]:
    """Accuracy and log loss of each repeat; adds to ``epochs`` how many were trained."""
    rows = task.rows if isinstance(task.rows, Rows) else _mapped(task.rows)
    figures = []
    for repeat, (train, held_out) in enumerate(rows.parts):
        settings = task.fixed | decoded(trial.params, task.space) | {"random_state": task.random_state + repeat}
        head = make_head(task.head, **settings)
        epochs.append(0)
        X, y = rows.of(head.input, train)
        validation = rows.of(head.input, held_out)
        head.fit(X, y, validation, on_epoch=_watcher(trial, epochs, reports=repeat == 0))
        epochs[-1] = len(head.history_["loss"])
        figures.append(_measure(head.predict_proba(validation[0]), validation[1]))
    return figures


def _watcher(trial: optuna.Trial, epochs: list[int], reports: bool) -> Callable[[int, dict[str, float]], None]:
    """Counts epochs; in the first repeat also reports them, and ends the training if the pruner says so."""

    def on_epoch(_epoch: int, logs: dict[str, float]) -> None:
        epochs[-1] += 1
        if reports:
            trial.report(logs["val_accuracy"], epochs[-1])
            if trial.should_prune():
                raise optuna.TrialPruned

    return on_epoch


def _measure(probabilities: NDArray[Any], y: NDArray[Any]) -> tuple[float, float]:
    """Accuracy, and the mean of -log(probability of the true class); the same for any loss that was trained with."""
    true = probabilities[np.arange(len(y)), y].astype(np.float64)
    log_loss = -np.log(np.maximum(true, np.finfo(np.float32).eps)).mean()
    return float(np.mean(np.argmax(probabilities, axis=1) == y)), float(log_loss)


# ------------------------------------------------------------------------------------------------------------- workers


def attempt_in_workers(
    ask: Callable[[], optuna.Trial | None], task: Task, rows: Rows, workers: int, folder: Path
) -> Iterator[None]:
    """Attempt trials in processes, as many at a time as there are workers; yields after each.

    Args:
        ask: gives the next trial, or None if there is to be no other.
        task: what the trials have in common.
        workers: how many.
        rows: that they train on.
        folder: where the rows are while they work; what a killed sweep left there is replaced.

    Raises:
        BrokenProcessPool: a worker was killed, and the others with it; their trials are left as they were.
    """
    shared = replace(task, rows=folder.absolute())
    environment = threads_in_environment(share_of_cores(workers))
    pool = ProcessPoolExecutor(workers, initializer=_begin, initargs=(os.getpid(),), env=environment)
    under_way: set[Future[None]] = set()
    try:
        rows.write(folder)
        while True:
            while len(under_way) < workers and (trial := ask()) is not None:
                under_way.add(pool.submit(attempt, trial, shared))
            if not under_way:
                return
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                yield
    finally:
        pool.shutdown(wait=True, kill_workers=True)
        shutil.rmtree(folder, ignore_errors=True)


def patiently(attempts: Callable[[], Iterator[None]]) -> Iterator[None]:
    """Begin anew when a worker was killed, if not the third time without a trial finished in between.

    Raises:
        SweepError: workers are killed again and again.
    """
    killed = 0
    while True:
        try:
            for _ in attempts():
                killed = 0
                yield
            return
        except BrokenProcessPool as error:
            killed += 1
            if killed == KILLED_AT_MOST:
                raise SweepError(
                    f"workers were killed {killed} times before any finished a trial, perhaps for want of memory; the "
                    "same command with fewer `workers` goes on"
                ) from error
            logger.warning("a worker was killed; its trial is done again")


def _begin(parent: int) -> None:
    """Leave Ctrl-C to the first process, and end when it does: nobody would wait for this one's results."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch_parent(parent)


@cache
def _mapped(folder: Path) -> Rows:
    return Rows.mapped(folder)
