"""Fitting: from the training rows of a feature file to a classifier."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from featx._internal.progress import Progress
from featx.cache import Features, load_features
from featx.classifier.classifier import Classifier, head_name
from featx.classifier.evaluation import fit_temperature
from featx.classifier.record import Fitting
from featx.errors import SettingError
from featx.extraction import Recipe
from featx.heads import Head, HeadParams, make_head
from featx.rows import accuracy, groups_of, inputs, probabilities, split_of, training_split

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)


TRAINING_ROWS_MEASURED = 10_000  # at most, evenly spaced: more would cost time and tell nothing


def fit(
    features: Features | str | Path,
    head: str | Head = "bn-mlp",
    *,
    validation: float = 0.2,
    random_state: int = 0,
    calibrate: bool = False,
    progress: Progress | None = None,
    **params: Unpack[HeadParams],
) -> Classifier:
    """Fit a head on the training rows of a feature file, on all views of each picture that it holds.

    The validation rows are the data set's own, or drawn: a share of each class's pictures. Every head is measured on
    them (heads that stop early look at them) and then, if the rows were drawn, fitted again on all training rows: heads
    that stop early for as many epochs as were best.

    Args:
        features: a feature file or its path.
        head: a name (``bn-mlp``, ``mlp``, ``logreg``, ``svm``, ``ridge``, ``knn``) or an unfitted head.
        validation: share of each class's pictures to hold out if the data set has no validation split; 0 to below 1.
        random_state: seed of the draw and of the head.
        calibrate: choose a temperature by the validation rows (Guo et al. 2017), so that probabilities mean what they
            say.
        progress: called with what is going on, how much is done, and of how much.
        **params: of a head given by name, such as ``C=0.1`` or ``dropout=0.8``.

    Returns:
        the fitted classifier; its ``fitting`` says how it did.

    Raises:
        SettingError: a setting out of its range, or one that the head does not have.
        TrainingError: one class only, a class without training pictures, or labels that cannot be trained on.

    Example:
        >>> import featx
        >>> features = featx.extract("photos", backbone="pixels", size=16).features_path
        >>> record = featx.fit(features, "logreg", C=0.1).fitting
        >>> record.head, record.train_rows, record.validation_rows
        ('logreg', 24, 4)
    """
    started = time.perf_counter()
    model = _unfitted(head, {"random_state": random_state}, params)
    model.check_settings()
    features = load_features(features)
    split = training_split(features, validation, random_state)
    train, held_out, y = split.train, split.validation, features.y
    if calibrate and not len(held_out):
        raise SettingError("`calibrate` needs validation rows; expected a `validation` above 0", "calibrate")
    refit = bool(len(held_out)) and split.drawn
    early = model.uses_validation and len(held_out)
    validation_data = (inputs(model, features, held_out), y[held_out]) if early else None
    X, groups = inputs(model, features, train), groups_of(features, train)
    model.fit(X, y[train], validation_data=validation_data, progress=progress, **groups)
    before = probabilities(model, features, held_out)
    if refit:
        train = split_of(features, 0).train
        del X
        model.fit_again(inputs(model, features, train), y[train], **groups_of(features, train))
    pictures = train[features.pictures[train]]
    some = pictures[:: -(-len(pictures) // TRAINING_ROWS_MEASURED)]
    train_accuracy = accuracy(probabilities(model, features, some), y[some])
    history = getattr(model, "history_", {})
    record = Fitting(
        head=head_name(model),
        train_rows=len(pictures),
        train_views=len(train) - len(pictures),
        validation_rows=len(held_out),
        train_accuracy=train_accuracy,
        validation_accuracy=accuracy(before, y[held_out]) if len(held_out) else None,
        refitted=refit,
        left_out=len(split.left_out),
        epochs=len(history.get("loss", [])) or None,
        history=history,
        gradient_norm=getattr(model, "gradient_norm_", None),
        random_state=random_state,
        temperature=fit_temperature(before, y[held_out]) if calibrate else 1.0,
        seconds=time.perf_counter() - started,
    )
    return assembled(model, features, record, pictures, held_out, before if refit else before[:0])


def assembled(
    head: Head,
    features: Features,
    record: Fitting,
    train: NDArray[np.int64],
    held_out: NDArray[np.int64],
    before: NDArray[np.float32],
) -> Classifier:
    """A classifier from a fitted head and the rows of ``features`` that it was fitted and measured on."""
    return Classifier(
        head=head,
        class_names=features.class_names,
        spec=features.spec,
        recipe=Recipe(**features.recipe),
        fitting=replace(record, dataset=features.dataset, features_path=str(features.path.resolve())),
        train_ids=features.ids[train],
        validation_ids=features.ids[held_out],
        held_out=before,
    )


def _unfitted(head: str | Head, usual: dict[str, Any], params: Mapping[str, Any]) -> Head:
    if isinstance(head, str):
        return make_head(head, **{**usual, **params})
    if params:
        raise SettingError(
            f"give {', '.join(params)} to the head itself; parameters go with a head given by name", next(iter(params))
        )
    return head
