"""Paths: their lengths, the gradient and the logits that they carry, and which of them matter."""

# exact gradient by path length
from ._piecewise import curved_operations

# alignment of the branches across depth
from .alignment import ResidualAlignment, residual_alignment
from .attribution import BlockAttribution, GateForward, attribute_blocks, block_conductance
from .by_length import GradientByLength, gradient_by_length

# single paths: sampled, enumerated, their energy; which of them matter
from .effective import EffectivePaths, effective_paths
from .energy import PathEnergy, path_energy
from .enumeration import EnumeratedPathGradients, Path, enumerate_path_gradients
from .lengths import LengthDistribution, path_lengths, surviving_path_lengths

# logits by path length and by block; the logit lens
from .logits import (
    BlockContributions,
    LogitLens,
    LogitsByLength,
    block_contributions,
    logit_lens,
    logits_by_length,
)
from .parameters_by_length import ParameterGradientByLength, parameter_gradients_by_length
from .sampling import SampledPathGradients, sample_path_gradients

__all__ = [
    "BlockAttribution",
    "BlockContributions",
    "EffectivePaths",
    "EnumeratedPathGradients",
    "GateForward",
    "GradientByLength",
    "LengthDistribution",
    "LogitLens",
    "LogitsByLength",
    "ParameterGradientByLength",
    "Path",
    "PathEnergy",
    "ResidualAlignment",
    "SampledPathGradients",
    "attribute_blocks",
    "block_conductance",
    "block_contributions",
    "curved_operations",
    "effective_paths",
    "enumerate_path_gradients",
    "gradient_by_length",
    "logit_lens",
    "logits_by_length",
    "parameter_gradients_by_length",
    "path_energy",
    "path_lengths",
    "residual_alignment",
    "sample_path_gradients",
    "surviving_path_lengths",
]
