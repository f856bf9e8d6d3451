"""Training more than a head: the tail of a network and the head on it, together."""

from featx.tail.checkpoints import Checkpoints, discard_checkpoints
from featx.tail.head import EPOCHS, KEPT, Start, TailHead
from featx.tail.optimizers import OPTIMIZERS, SCHEDULES

__all__ = ["EPOCHS", "KEPT", "OPTIMIZERS", "SCHEDULES", "Checkpoints", "Start", "TailHead", "discard_checkpoints"]
