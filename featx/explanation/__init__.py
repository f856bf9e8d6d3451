"""Explanations of pictures: which places spoke for a class, as arrays (``maps``) and as PNG files (``explanation``)."""

from featx.explanation.explanation import Explanation, explain
from featx.explanation.figure import shrink, to_png
from featx.explanation.maps import activation_maps, colour_bar, overlay

__all__ = ["Explanation", "activation_maps", "colour_bar", "explain", "overlay", "shrink", "to_png"]
