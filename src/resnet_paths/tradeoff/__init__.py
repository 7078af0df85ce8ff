"""Trade accuracy for latency: plans of which blocks to drop, repairs, certificates, timing, cascades."""

from ..choices import Runtime
from .by_block import LatencyByBlock, latency_by_block
from .cascading import Cascade, Threshold, cascade, cascade_threshold
from .counting import count_flops, count_macs, count_parameters, macs_by_block
from .distillation import BestState, Distillation, distil, distil_best
from .gap import StatisticsGap, as_in_training, statistics_gap
from .goals import AccuracyDrop, Count, Disagreement, Goal, Latency, Rise
from .plan import DropPlan, load_plan
from .planner import plan_drop
from .points import PlanPoint
from .repairs import Closed, Distil, NoRepair, Recalibrate, Refit, Repair
from .runtimes import Clock, in_runtime
from .search import Beam, Exact, Greedy, Search
from .several_sizes import Elastic, elastic
from .split import ImageSplit
from .timing import Timing, latencies_in_turn, measure_latency

__all__ = [
    "AccuracyDrop",
    "Beam",
    "BestState",
    "Cascade",
    "Clock",
    "Closed",
    "Count",
    "Disagreement",
    "Distil",
    "Distillation",
    "DropPlan",
    "Elastic",
    "Exact",
    "Goal",
    "Greedy",
    "ImageSplit",
    "Latency",
    "LatencyByBlock",
    "NoRepair",
    "PlanPoint",
    "Recalibrate",
    "Refit",
    "Repair",
    "Rise",
    "Runtime",
    "Search",
    "StatisticsGap",
    "Threshold",
    "Timing",
    "as_in_training",
    "cascade",
    "cascade_threshold",
    "count_flops",
    "count_macs",
    "count_parameters",
    "distil",
    "distil_best",
    "elastic",
    "in_runtime",
    "latencies_in_turn",
    "latency_by_block",
    "load_plan",
    "macs_by_block",
    "measure_latency",
    "plan_drop",
    "statistics_gap",
]
