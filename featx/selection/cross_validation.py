"""Choosing settings on training rows: cross-validation over whole regularisation paths, and few-shot curves.

The test split is never looked at. Copies and views of a picture never lie on both sides of a fold.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, get_args

import numpy as np
from sklearn.base import clone
from sklearn.metrics import log_loss

from featx._internal.choices import Rule
from featx._internal.progress import Progress, silent
from featx.cache import Features, load_features
from featx.classifier import Classifier, Fitting, assembled, fit_temperature, head_name
from featx.errors import SettingError, require_choice
from featx.heads import Head, ParamsBesideC, check_C, make_head
from featx.rows import accuracy, fold_numbers, groups_of, inputs, out_of_fold, probabilities, training_split

if TYPE_CHECKING:
    from numpy.typing import NDArray

RULES: tuple[str, ...] = get_args(Rule)
C_VALUES = {"logreg": (1e-5, 10.0, 13), "svm": (1e-6, 0.1, 11), "ridge": (1e-6, 1.0, 13)}  # lo, hi, how many


@dataclass(frozen=True)
class Trial:
    """Settings of a head, and their measures over the folds.

    Attributes:
        params: the settings.
        mean_accuracy, std_accuracy: mean and standard deviation over the folds of the accuracy, 0 to 1.
        mean_log_loss: mean over the folds of the log loss.
    """

    params: dict[str, Any]
    mean_accuracy: float
    std_accuracy: float
    mean_log_loss: float


@dataclass(frozen=True)
class CrossValidation:
    """Result of a cross-validation.

    Attributes:
        best: settings chosen; the accuracy of the best of several flatters a little.
        trials: all settings, in the order of ``C``.
        classifier: classifier fitted with the settings chosen on all training rows. Its ``held_out`` are the
            probabilities of each training picture by a head that had not seen it.
        folds: number of folds.
        seconds: duration.

    Example:
        >>> import featx
        >>> features = featx.extract("photos", backbone="pixels", size=16).features_path
        >>> result = featx.cross_validate(features, "ridge", C=[0.01], folds=3)
        >>> result.best.params, result.folds, result.classifier
        ({'C': 0.01}, 3, <Classifier ridge on pixels: 2 classes>)
    """

    best: Trial
    trials: list[Trial] = field(repr=False)
    classifier: Classifier = field(repr=False)
    folds: int
    seconds: float


def cross_validate(
    features: Features | str | Path,
    head: str | Head = "logreg",
    *,
    C: Sequence[float] | None = None,
    folds: int = 5,
    rule: str = "best",
    random_state: int = 0,
    calibrate: bool = False,
    progress: Progress | None = None,
    **params: Unpack[ParamsBesideC],
) -> CrossValidation:
    """Measure a head by stratified folds of the training rows, a linear one for a whole path of C, and fit the best.

    Args:
        features: a feature file or its path.
        head: a name or an unfitted head.
        C: for ``logreg``, ``svm`` and ``ridge``; by default a range that suits the head.
        folds: how many; each picture is held out once.
        rule: ``best`` mean accuracy (among equals, the lowest log loss), or ``one-se``: the strongest penalty whose
            mean is within one standard error of the best (Breiman et al. 1984).
        random_state: seed of the folds and of the head.
        calibrate: choose a temperature by the held-out probabilities.
        progress: called with what is going on, how much is done, and of how much.
        **params: of a head given by name.

    Raises:
        SettingError: a setting out of its range, or one that the head does not have.
        TrainingError: too few pictures, or labels that cannot be trained on.

    Example:
        >>> import featx
        >>> features = featx.extract("photos", backbone="pixels", size=16).features_path
        >>> result = featx.cross_validate(features, "logreg", C=[0.001, 0.1], folds=3)
        >>> [trial.params for trial in result.trials]
        [{'C': 0.001}, {'C': 0.1}]
    """
    started = time.perf_counter()
    model = make_head(head, **{"random_state": random_state, **params}) if isinstance(head, str) else clone(head)
    require_choice("rule", rule, RULES)
    values = _path_of(model, C)
    model.check_settings()
    features = load_features(features)
    rows = training_split(features, 0, random_state).train
    fold = fold_numbers(features.ids[rows], features.y[rows], folds, random_state)
    pictures = features.pictures[rows]
    held_out = _out_of_fold(model, features, rows, fold, values, progress)
    measures = [_measured(p, features.y[rows], fold, pictures) for p in held_out]
    settings: list[dict[str, Any]] = [{"C": value} for value in values] if values else [{}]
    trials = [Trial(s, *m) for s, m in zip(settings, measures, strict=True)]
    at = _chosen(trials, rule, folds)
    _trained(model.set_params(**trials[at].params), features, rows)
    if model.uses_validation:
        model.fit_again(inputs(model, features, rows), features.y[rows], **groups_of(features, rows))
    before, y = held_out[at][pictures], features.y[rows[pictures]]
    record = Fitting(
        head=head_name(model),
        train_rows=int(pictures.sum()),
        train_views=int((~pictures).sum()),
        validation_rows=int(pictures.sum()),
        train_accuracy=accuracy(probabilities(model, features, rows[pictures]), y),
        validation_accuracy=accuracy(before, y),
        refitted=True,
        history=getattr(model, "history_", {}),
        folds=folds,
        params=trials[at].params,
        random_state=random_state,
        temperature=fit_temperature(before, y) if calibrate else 1.0,
        seconds=time.perf_counter() - started,
    )
    classifier = assembled(model, features, record, rows[pictures], rows[pictures], before)
    return CrossValidation(trials[at], trials, classifier, folds, record.seconds)


def _path_of(model: Head, C: Sequence[float] | None) -> list[float]:
    if not model.has_path:
        if C is not None:
            raise SettingError(f"the {head_name(model)} head has no `C`; leave it out", "C")
        return []
    if C is None:
        low, high, count = C_VALUES[head_name(model)]
        return [float(v) for v in np.geomspace(low, high, count)]
    if not len(C):
        raise SettingError("`C` needs one value at least", "C")
    for value in C:
        check_C(value)
    return [float(value) for value in C]


def _out_of_fold(
    model: Head,
    features: Features,
    rows: NDArray[np.int64],
    fold: NDArray[np.int64],
    values: list[float],
    progress: Progress | None,
) -> NDArray[np.float32]:
    """Probabilities of each row by a head that was fitted without its fold, ``(settings, rows, classes)``."""
    y = features.y[rows]
    if model.has_path:
        X, groups = inputs(model, features, rows), groups_of(features, rows)
        return model.path_probabilities(X, y, values, fold, progress=progress, **groups)

    def predict(train: NDArray[np.int64], held_out: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[Any]]:
        fitted = _trained(clone(model), features, rows[train])
        return fitted.classes_, probabilities(fitted, features, rows[held_out])

    found = out_of_fold(fold, len(features.class_names), predict, progress or silent, "folds")
    return np.nan_to_num(found, nan=0.0)[None]


def _trained(model: Head, features: Features, rows: NDArray[np.int64]) -> Head:
    """The head, fitted; one that stops early is stopped by some of the rows."""
    early = _early_stopping(model, features, rows)
    kept = rows[~np.isin(features.ids[rows], features.ids[early])]
    data = (inputs(model, features, early), features.y[early]) if len(early) else None
    X = inputs(model, features, kept)
    return model.fit(X, features.y[kept], validation_data=data, **groups_of(features, kept))


def _early_stopping(model: Head, features: Features, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Some pictures of a training set for heads that stop early, since the held-out fold must not stop them."""
    if not model.uses_validation:
        return rows[:0]
    y = features.y[rows]
    part = fold_numbers(features.ids[rows], y, min(5, len(np.unique(features.ids[rows]))))
    chosen: NDArray[np.int64] = rows[(part == 0) & np.isin(y, y[part > 0]) & (features.pictures[rows])]
    return chosen


def _measured(
    found: NDArray[np.float32], y: NDArray[np.int32], fold: NDArray[np.int64], pictures: NDArray[np.bool_]
) -> tuple[float, float, float]:
    folds = [pictures & (fold == number) for number in np.unique(fold)]
    right = [accuracy(found[mine], y[mine]) for mine in folds]
    sound = found.astype(np.float64)
    sound /= sound.sum(axis=1, keepdims=True)
    numbers = np.arange(found.shape[1])
    losses = [float(log_loss(y[mine], sound[mine], labels=numbers)) for mine in folds]
    return float(np.mean(right)), float(np.std(right, ddof=1)), float(np.mean(losses))


def _chosen(trials: list[Trial], rule: str, folds: int) -> int:
    """Number of the trial chosen by the rule; among equals by log loss, then the one of the strongest penalty."""
    order = sorted(range(len(trials)), key=lambda i: trials[i].params.get("C", 0.0))
    best = max(order, key=lambda i: (trials[i].mean_accuracy, -trials[i].mean_log_loss))  # the first of equals
    if rule == "best":
        return best
    floor = trials[best].mean_accuracy - trials[best].std_accuracy / math.sqrt(folds)
    return next(i for i in order if trials[i].mean_accuracy >= floor)
