"""The Keras model of a tail and a head. Importing this module loads Keras: only a :class:`TailHead` does so, late."""

from __future__ import annotations

from typing import Any

from featx._internal.keras import load_keras


class Joined(load_keras().Model):  # type: ignore[misc]
    """A tail, whose batch norms stay in inference mode in training too, and what is on top of it.

    Not a functional model: those pass ``training=True`` on to a network that was called with ``training=False``.

    Args:
        tail: Keras model from what the trunk gives, or pixels, to the features that the head sees.
        top: Keras model from these to logits.
    """

    def __init__(self, tail: Any, top: Any) -> None:
        super().__init__()
        self.tail = tail
        self.top = top

    def call(self, features: Any, training: bool = False) -> Any:
        return self.top(self.tail(features, training=False), training=training)
