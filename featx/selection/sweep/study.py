"""The storage of a sweep: an Optuna study in an SQLite file (Akiba et al. 2019, "Optuna").

Each trial has a *draw*, counted from 0, which seeds its parameters. A trial that was under way when its process was
killed is marked failed and put in the queue again with its draw and its parameters, so that a sweep of one worker finds
the same trials, however often it is interrupted.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from featx.cache import spec_difference
from featx.errors import SweepError, one_line
from featx.selection.sweep.result import Trial
from featx.selection.sweep.space import Scale

NAME = "featx"  # of the one study in a storage
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
WAIT = 60  # seconds for another process's transaction to end


@contextlib.contextmanager
def opened(path: Path, about: dict[str, Any], pruner: optuna.pruners.BasePruner) -> Iterator[optuna.Study]:
    """The study in a storage, which nobody else uses meanwhile; a new one if there is no such file.

    Args:
        path: the file.
        about: what makes two sweeps the same one, as JSON values.
        pruner: Optuna's.

    Raises:
        SweepError: the storage is another sweep's, in use, or no storage; or it can no longer be written.
    """
    if path.is_dir():
        raise SweepError(f"{path} is a folder; `storage` names a file in it, such as {path / 'sweep.db'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f".{path.name}.lock"), timeout=0), _quiet_optuna():
            study = optuna.create_study(
                storage=_storage(path), pruner=pruner, study_name=NAME, direction="maximize", load_if_exists=True
            )
            _require_same(study, about, path)
            yield study
    except filelock.Timeout:
        raise SweepError(f"{path} is in use by another sweep; wait for its end, or give another `storage`") from None
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = one_line(Exception(getattr(error.__cause__ or error, "orig", error)))
        raise SweepError(f"{path} cannot be used as the storage of a sweep: {cause}; give another `storage`") from error


def make_pruner(name: str, epochs: int) -> optuna.pruners.BasePruner:
    """Which trials end early: those below the median of the others after as many epochs, or those that lose in rounds.

    Args:
        name: ``median``, ``hyperband`` (Li et al. 2018, "Hyperband") or ``none``.
        epochs: at most, of a trial.
    """
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=5)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=max(1, epochs // 27), max_resource=epochs)
    return optuna.pruners.NopPruner()


def begin(study: optuna.Study, first: dict[str, Any]) -> None:
    """Put the first trial in the queue; in a study that was begun before, what was under way when it ended."""
    trials = study.get_trials(deepcopy=False)
    if not trials:
        study.enqueue_trial(first, user_attrs={"draw": 0})
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
            params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            if "draw" in trial.user_attrs:
                study.enqueue_trial(params, user_attrs={"draw": trial.user_attrs["draw"]})


def ask(study: optuna.Study, space: dict[str, Scale], random_state: int) -> optuna.Trial:
    """The next trial, its parameters drawn: one from the queue, or a new one by TPE (Bergstra et al. 2011)."""
    draws = [trial.user_attrs.get("draw", -1) for trial in study.get_trials(deepcopy=False)]
    draw = max(draws, default=-1) + 1
    seed = int(np.random.SeedSequence([random_state, draw]).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    trial = study.ask({name: scale.distribution for name, scale in space.items()})
    if "draw" not in trial.user_attrs:
        trial.set_user_attr("draw", draw)
    return trial


def finished(study: optuna.Study) -> int:
    """How many trials are done: trained to their end, pruned, or found impossible."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def results(study: optuna.Study, space: dict[str, Scale], fixed: Mapping[str, Any]) -> list[Trial]:
    """The finished trials by their number."""
    found = [_result(trial, space, fixed) for trial in study.get_trials(deepcopy=False, states=FINISHED)]
    return sorted(found, key=lambda trial: trial.number)


def _result(trial: FrozenTrial, space: dict[str, Scale], fixed: Mapping[str, Any]) -> Trial:
    attrs = trial.user_attrs
    accuracies = attrs.get("accuracies") or list(trial.intermediate_values.values())
    error = attrs.get("error")
    complete = trial.state == TrialState.COMPLETE
    best = float(np.mean(accuracies)) if complete else max(accuracies, default=None)
    return Trial(
        number=attrs["draw"],
        state="failed" if error else trial.state.name.lower(),
        params={**fixed, **decoded(trial.params, space)},
        mean_accuracy=None if error else best,
        std_accuracy=float(np.std(accuracies)) if complete else 0.0,
        log_loss=float(np.mean(attrs["log_losses"])) if complete else None,
        seconds=trial.duration.total_seconds() if trial.duration else 0.0,
        epochs=attrs.get("epochs", 0),
        error=error,
    )


def decoded(places: dict[str, Any], space: dict[str, Scale]) -> dict[str, Any]:
    """A head's parameters from places on the axes, in the order of the space."""
    return {name: scale.decode(places[name]) for name, scale in space.items() if name in places}


def _storage(path: Path) -> optuna.storages.RDBStorage:
    url = sqlalchemy.engine.URL.create("sqlite", database=str(path)).render_as_string()
    return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": WAIT}})


def _require_same(study: optuna.Study, about: dict[str, Any], path: Path) -> None:
    known = study.user_attrs.get("about")
    if known is None:
        study.set_user_attr("about", about)
    elif different := spec_difference(known, about):
        raise SweepError(f"{path} holds another sweep: {'; '.join(different)}. Give another `storage`, or remove it")


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
