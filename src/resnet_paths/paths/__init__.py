"""Paths: their lengths, the gradient and the logits that they carry, and which of them matter."""

# the gradient by path length, exactly
from .by_length import GradientByLength, ParameterGradientByLength, gradient_by_length

# single paths: sampled, all of them, their energy; which of them matter
from .effective import EffectivePaths, effective_paths
from .energy import PathEnergy, path_energy
from .enumeration import EnumeratedPathGradients, enumerate_path_gradients
from .lengths import LengthDistribution, path_lengths, surviving_path_lengths
from .path import Path, Paths, paths
from .sampling import SampledPathGradients, sample_path_gradients

__all__ = [
    "EffectivePaths",
    "EnumeratedPathGradients",
    "GradientByLength",
    "LengthDistribution",
    "ParameterGradientByLength",
    "Path",
    "PathEnergy",
    "Paths",
    "SampledPathGradients",
    "effective_paths",
    "enumerate_path_gradients",
    "gradient_by_length",
    "path_energy",
    "path_lengths",
    "paths",
    "sample_path_gradients",
    "surviving_path_lengths",
]
