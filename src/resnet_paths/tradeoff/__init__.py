"""Trading accuracy for latency."""

from .latency import Latency, count_flops, count_parameters, measure_latency
from .recalibrate import recalibrate_batchnorm

__all__ = ["Latency", "count_flops", "count_parameters", "measure_latency", "recalibrate_batchnorm"]
