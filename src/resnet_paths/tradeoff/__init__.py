"""Trading accuracy for latency."""

from .latency import Latency, count_flops, count_parameters, measure_latency
from .plan import DropPlan, PlanPoint, load_plan, plan_drop
from .recalibrate import recalibrate_batchnorm

__all__ = [
    "DropPlan",
    "Latency",
    "PlanPoint",
    "count_flops",
    "count_parameters",
    "load_plan",
    "measure_latency",
    "plan_drop",
    "recalibrate_batchnorm",
]
