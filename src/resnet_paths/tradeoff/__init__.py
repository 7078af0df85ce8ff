"""Trading accuracy for latency."""

from ._search import Search
from .by_unit import LatencyByUnit, latency_by_unit
from .distil import Distillation, distil
from .gap import StatisticsGap, as_in_training, statistics_gap
from .latency import Latency, count_flops, count_parameters, latencies_in_turn, measure_latency
from .plan import DropPlan, PlanPoint, load_plan, plan_drop

__all__ = [
    "Distillation",
    "DropPlan",
    "Latency",
    "LatencyByUnit",
    "PlanPoint",
    "Search",
    "StatisticsGap",
    "as_in_training",
    "count_flops",
    "count_parameters",
    "distil",
    "latencies_in_turn",
    "latency_by_unit",
    "load_plan",
    "measure_latency",
    "plan_drop",
    "statistics_gap",
]
