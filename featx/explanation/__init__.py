"""Explanations: which places of a picture spoke for a class, as arrays (``maps``) and as pictures (``explanation``)."""

from featx.explanation.explanation import Explanation, smaller
from featx.explanation.maps import activation_maps, colour_bar, overlay

__all__ = ["Explanation", "activation_maps", "colour_bar", "overlay", "smaller"]
