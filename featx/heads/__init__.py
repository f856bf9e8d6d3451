"""Heads: small classifiers on features, all scikit-learn estimators with ``predict_proba``."""

from __future__ import annotations

from typing import Any

from featx.errors import require_choice, unknown_setting
from featx.heads.base import Head, OnEpoch
from featx.heads.linear import LogisticHead, RidgeHead, SVMHead, check_C
from featx.heads.mlp import BNMLPHead, MLPHead
from featx.heads.neighbors import KNNHead
from featx.heads.network.rows import Groups
from featx.heads.params import HeadParams, ParamsBesideC
from featx.heads.pooling import as_rows
from featx.heads.scores import Scores
from featx.heads.settings import Choice, Constraint, Number, Whole
from featx.heads.solver.paths import solve_paths
from featx.heads.training_loop import Stopping, TrainingRecord, run_epochs

__all__ = [
    "HEADS",
    "BNMLPHead",
    "Choice",
    "Constraint",
    "Groups",
    "Head",
    "HeadParams",
    "KNNHead",
    "LogisticHead",
    "MLPHead",
    "Number",
    "OnEpoch",
    "ParamsBesideC",
    "RidgeHead",
    "SVMHead",
    "Stopping",
    "Scores",
    "TrainingRecord",
    "Whole",
    "as_rows",
    "check_C",
    "make_head",
    "run_epochs",
    "solve_paths",
]

HEADS: dict[str, type[Head]] = {
    "bn-mlp": BNMLPHead,
    "mlp": MLPHead,
    "logreg": LogisticHead,
    "svm": SVMHead,
    "ridge": RidgeHead,
    "knn": KNNHead,
}


def make_head(name: str, **params: Any) -> Head:
    """An unfitted head by its name on the command line.

    Args:
        name: ``bn-mlp``, ``mlp``, ``logreg``, ``svm``, ``ridge`` or ``knn``.
        **params: its settings, such as ``C=0.1`` or ``dropout=0.8``; they are checked when it is fitted.

    Returns:
        a :class:`Head`.

    Raises:
        SettingError: no such head, or a setting that it does not have; it names the nearest.

    Example:
        >>> from featx.heads import make_head
        >>> make_head("logreg", C=0.1)
        LogisticHead(C=0.1)
    """
    require_choice("head", name, HEADS)
    known = HEADS[name]._get_param_names()
    for parameter in params:
        if parameter not in known:
            raise unknown_setting(parameter, known, f"the {name} head")
    return HEADS[name](**params)
