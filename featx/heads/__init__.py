"""Heads: small classifiers on features, all scikit-learn estimators with ``predict_proba``."""

from __future__ import annotations

from typing import Any

from featx.errors import require_choice, unknown_setting
from featx.heads.base import Head, as_rows, group_weights, is_lazy
from featx.heads.layers import head_layers, layer_weights
from featx.heads.linear import LinearHead, LogisticHead, RidgeHead, SVMHead, check_C
from featx.heads.mlp import BNMLPHead, MLPHead
from featx.heads.neighbors import KNNHead
from featx.heads.network.rows import Groups
from featx.heads.params import HeadParams, ParamsBesideC
from featx.heads.scores import Scores
from featx.heads.solver.paths import Path, solve_paths

__all__ = [
    "HEADS",
    "BNMLPHead",
    "Groups",
    "Head",
    "HeadParams",
    "KNNHead",
    "LinearHead",
    "LogisticHead",
    "MLPHead",
    "ParamsBesideC",
    "Path",
    "RidgeHead",
    "SVMHead",
    "Scores",
    "as_rows",
    "check_C",
    "group_weights",
    "head_layers",
    "is_lazy",
    "layer_weights",
    "make_head",
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
    """An unfitted head by its name on the command line, such as ``make_head("logreg", C=0.1)``.

    Raises:
        SettingError: no such head, or a parameter that it does not have.
    """
    require_choice("head", name, HEADS)
    known = HEADS[name]._get_param_names()
    for parameter in params:
        if parameter not in known:
            raise unknown_setting(parameter, known, f"the {name} head")
    return HEADS[name](**params)
