"""See inside residual networks as ensembles of 2^n paths, and make them cheaper."""

__version__ = "0.1.0"

from .data import ImageData, load_data
from .lesion import random_deletions, single_deletions
from .models import cifar_resnet, load_model
from .paths import gradient_by_length, path_lengths
from .surgery import drop_blocks, lesioned, reorder_blocks
from .tradeoff import measure_latency, recalibrate_batchnorm
from .unroll import Unit, UnrolledNetwork, for_inference, unroll

__all__ = [
    "ImageData",
    "Unit",
    "UnrolledNetwork",
    "cifar_resnet",
    "drop_blocks",
    "for_inference",
    "gradient_by_length",
    "lesioned",
    "load_data",
    "load_model",
    "measure_latency",
    "path_lengths",
    "random_deletions",
    "recalibrate_batchnorm",
    "reorder_blocks",
    "single_deletions",
    "unroll",
]
