"""The search: trials drawn, attempted and compared, until there are enough of them."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack, get_args

import optuna

from featx._internal.choices import Pruner
from featx._internal.hashing import digest
from featx._internal.progress import Progress
from featx.cache import Features, load_features
from featx.classifier import fit
from featx.errors import SettingError, TrainingError, require_choice
from featx.heads import HeadParams, make_head
from featx.rows import Rows, inputs_of, read_rows
from featx.selection.sweep import study as studies
from featx.selection.sweep.result import Sweep, Trial
from featx.selection.sweep.space import SWEPT_HEADS, Scale, defaults, search_space
from featx.selection.sweep.training import Task, attempt, attempt_in_workers, patiently

logger = logging.getLogger(__name__)

PRUNERS: tuple[str, ...] = get_args(Pruner)
PATIENCE = 8  # epochs that a trial waits for a better one: a search can afford less than the final fit


def sweep(
    features: Features | str | Path,
    head: str = "bn-mlp",
    *,
    trials: int = 32,
    timeout: float | None = None,
    storage: str | Path | None = None,
    pruner: str = "median",
    workers: int = 1,
    validation: float = 0.2,
    repeats: int = 1,
    random_state: int = 0,
    progress: Progress | None = None,
    **fixed: Unpack[HeadParams],
) -> Sweep:
    """Search for a head's best parameters on the validation rows, and fit it with them by :func:`featx.fit`.

    The first trial has the head's defaults; the others are drawn by a tree of Parzen estimators (TPE, Bergstra et al.
    2011, as in Optuna, Akiba et al. 2019). The best has the highest validation accuracy in its best epoch, among equals
    the lowest log loss. Test rows are not looked at. The best of many flatters: measure it on the test rows.

    Args:
        features: a feature file or its path. Of views, only the pictures themselves are taken.
        head: ``bn-mlp`` or ``mlp``.
        trials: how many finished ones there shall be, those that the storage holds already among them.
        timeout: seconds after which no other trial begins; one is finished in any case.
        storage: an SQLite file from which an interrupted sweep goes on; None: nothing is kept.
        pruner: ``median``, ``hyperband`` or ``none``: which trials end before their last epoch.
        workers: processes that train at the same time. One gives the same trials for the same seed.
        validation: share to draw if the data set has no validation split.
        repeats: draws and seeds over which a trial is averaged, the pruner looking at the first.
        random_state: seed of the draw of rows (the next repeat has the next), of the heads, and of the search.
        progress: called with "sweeping", the trials finished and how many there shall be; then as by ``fit``.
        **fixed: parameters of the head that are not searched, such as ``epochs=50`` or ``input="avg"``. Trials have a
            patience of 8 unless it is given; the final fit has the head's own.

    Raises:
        SettingError: a setting out of its range, or one that the head does not have.
        TrainingError: rows on which no head can be trained.
        SweepError: the storage is another sweep's, in use, or cannot be written; or workers are killed.

    Example:
        >>> import featx
        >>> features = featx.extract("photos", backbone="pixels", size=16).features_path
        >>> result = featx.sweep(features, "mlp", trials=2, epochs=2, hidden=8, input="avg")
        >>> len(result.trials), result.best.params["hidden"]
        (2, 8)
    """
    started = time.monotonic()
    _check(head, pruner, trials=trials, workers=workers, repeats=repeats, timeout=timeout)
    model = make_head(head, **fixed)
    model.check_settings()
    epochs = model.get_params()["epochs"]
    features = load_features(features)
    inputs = inputs_of(features, fixed)
    space = search_space(head, inputs, list(fixed))
    rows = read_rows(features, inputs, validation, random_state, repeats)
    task = Task(head, {"patience": PATIENCE, **fixed}, space, random_state, rows)
    about = _about(features, task, validation, repeats)
    with (
        _place(storage) as path,
        studies.opened(path, about, studies.make_pruner(pruner, epochs)) as study,
    ):
        deadline = started + (float("inf") if timeout is None else timeout)
        try:
            _run(study, task, rows, trials, deadline, workers, path, progress)
            found = studies.results(study, space, fixed)
            best = _best(found)
            classifier = fit(
                features, head, validation=validation, random_state=random_state, progress=progress, **best.params
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_kept(studies.finished(study), trials, storage)) from None
    return Sweep(best, found, classifier, time.monotonic() - started, Path(storage) if storage else None)


def _check(head: str, pruner: str, timeout: float | None, **counts: int) -> None:
    if head not in SWEPT_HEADS:
        only = " and ".join(SWEPT_HEADS)
        raise SettingError(f"only {only} are swept, got `head={head}`; `featx fit` fits the others", "head")
    require_choice("pruner", pruner, PRUNERS)
    for name, count in counts.items():
        if count < 1:
            raise SettingError(f"`{name}` must be at least 1, got {count}", name)
    if timeout is not None and not timeout > 0:
        raise SettingError(f"`timeout` must be more than 0 seconds, got {timeout:g}", "timeout")


def _about(features: Features, task: Task, validation: float, repeats: int) -> dict[str, Any]:
    """What makes two sweeps the same one."""
    names, pictures = [*features.class_names, ""], features.pictures
    labels = [names[label] for label in features.y[pictures]]
    listing = [features.ids[pictures].tolist(), labels, features.splits[pictures].tolist()]
    return {
        "spec of the features": digest(features.spec),
        "content (pictures, labels, splits)": digest(listing),
        "head": task.head,
        "validation": validation,
        "repeats": repeats,
        "seed": task.random_state,
        "parameters held fixed": digest(task.fixed) if task.fixed else "none",
        "search space": digest({name: repr(scale) for name, scale in task.space.items()}),
    }


@contextlib.contextmanager
def _place(storage: str | Path | None) -> Iterator[Path]:
    if storage is not None:
        yield Path(storage)
        return
    with TemporaryDirectory(prefix="featx-sweep-") as folder:
        yield Path(folder) / "sweep.db"


def _run(
    study: optuna.Study,
    task: Task,
    rows: Rows,
    trials: int,
    deadline: float,
    workers: int,
    storage: Path,
    progress: Progress | None,
) -> None:
    """Attempt trials until enough are finished or time is up."""
    ask = _asker(study, task, trials, deadline)
    first = defaults(task.head, task.space)
    workers = min(workers, trials - studies.finished(study))

    def attempts() -> Iterator[None]:
        studies.begin(study, first)
        if workers > 1:
            yield from attempt_in_workers(ask, task, rows, workers, storage.with_name(f".{storage.name}.rows"))
            return
        while (trial := ask()) is not None:
            attempt(trial, task)
            yield

    tell = _teller(study, task.space, trials, progress)
    tell()
    for _ in patiently(attempts):
        tell()


def _asker(study: optuna.Study, task: Task, trials: int, deadline: float) -> Callable[[], optuna.Trial | None]:
    states = (*studies.FINISHED, optuna.trial.TrialState.RUNNING)

    def ask() -> optuna.Trial | None:
        begun = len(study.get_trials(deepcopy=False, states=states))
        if begun >= trials or (begun and time.monotonic() > deadline):
            return None
        return studies.ask(study, task.space, task.random_state)

    return ask


def _teller(study: optuna.Study, space: dict[str, Scale], trials: int, progress: Progress | None) -> Callable[[], None]:
    """A function that says how far the sweep is, and which trial is the best since it last said so."""
    known: list[Trial] = []

    def tell() -> None:
        found = studies.results(study, space, {})
        best = max(found, key=lambda trial: trial.rank, default=None)
        if best is not None and best.state == "complete" and best not in known:
            known.append(best)
            settings = ", ".join(f"{name} {value}" for name, value in best.params.items())
            logger.info("best so far: trial %d, accuracy %.4f: %s", best.number, best.mean_accuracy, settings)
        if progress:
            progress("sweeping", len(found), trials)

    return tell


def _best(found: list[Trial]) -> Trial:
    best = max(found, key=lambda trial: trial.rank)
    if best.state != "complete":
        why = next((trial.error for trial in found if trial.error), "all were pruned")
        raise TrainingError(f"none of {len(found)} trials could be trained: {why}")
    return best


def _kept(done: int, trials: int, storage: str | Path | None) -> str:
    if storage is None:
        return f"{done} of {trials} trials were finished and are lost; a sweep with a storage could go on"
    return f"{done} of {trials} trials are kept in {os.fspath(storage)}; run the same command again to go on"
