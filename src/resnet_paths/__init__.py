"""See inside residual networks as ensembles of 2^n paths, and make them cheaper."""

__version__ = "0.1.0"

from .data import ImageData, load_data
from .lesion import block_values, random_deletions, single_deletions
from .models import cifar_resnet, load_model
from .network import Unit, UnrolledNetwork, for_inference, unroll
from .paths import (
    block_contributions,
    effective_paths,
    gradient_by_length,
    logits_by_length,
    path_energy,
    path_lengths,
    sample_path_gradients,
)
from .surgery import drop_blocks, lesioned, recalibrate_batchnorm, reorder_blocks
from .tradeoff import measure_latency, plan_drop

__all__ = [
    "ImageData",
    "Unit",
    "UnrolledNetwork",
    "block_contributions",
    "block_values",
    "cifar_resnet",
    "drop_blocks",
    "effective_paths",
    "for_inference",
    "gradient_by_length",
    "lesioned",
    "load_data",
    "load_model",
    "logits_by_length",
    "measure_latency",
    "path_energy",
    "path_lengths",
    "plan_drop",
    "random_deletions",
    "recalibrate_batchnorm",
    "reorder_blocks",
    "sample_path_gradients",
    "single_deletions",
    "unroll",
]
