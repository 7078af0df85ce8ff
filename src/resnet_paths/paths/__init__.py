"""Paths: their lengths, the gradient and the logits that they carry, and which of them matter."""

from .by_length import GradientByLength, ParameterGradientByLength, gradient_by_length
from .lengths import LengthDistribution, path_lengths, surviving_path_lengths
from .path import Path, Paths, paths

__all__ = [
    "GradientByLength",
    "LengthDistribution",
    "ParameterGradientByLength",
    "Path",
    "Paths",
    "gradient_by_length",
    "path_lengths",
    "paths",
    "surviving_path_lengths",
]
