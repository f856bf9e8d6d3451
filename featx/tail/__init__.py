"""Training more than a head: the tail of a network and the head on it, together."""

from featx.tail.checkpoints import Checkpoints
from featx.tail.course import OnEpoch
from featx.tail.head import OPTIMIZERS, SCHEDULES, TailHead

__all__ = ["OPTIMIZERS", "SCHEDULES", "Checkpoints", "OnEpoch", "TailHead"]
