"""The sweep: a search for the hyperparameters of the heads that Keras trains, on features that were cached once."""

from featx.selection.sweep.result import Sweep, Trial
from featx.selection.sweep.search import PRUNERS, sweep
from featx.selection.sweep.space import SWEPT_HEADS, search_space

__all__ = ["PRUNERS", "SWEPT_HEADS", "Sweep", "Trial", "search_space", "sweep"]
