"""Time smaller networks in turn with the full one, in the runtime that will be deployed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from ..network import UnrolledNetwork
from .points import PlanPoint
from .repairs import dropped_copy
from .runtimes import Clock, in_runtime
from .timing import Timing, latencies_in_turn

_LONGER = 4  # how much longer a timing takes that decides something, for about half the standard error
_IN_TURN = 4  # smaller networks timed in the same rounds as the full one: as many are held in memory
_UNLIKE = 0.1  # a share of the time is doubtful if it differs by more from the estimates by operations and by blocks


@dataclass(eq=False)
class Stopwatch:
    """The full network, ready to be timed in turn with others.

    Attributes:
        net: the full network.
        clock: how to measure.
        x: the input, on the network's device.
        costs: each block's share of the time; None if they were not timed.
    """

    net: UnrolledNetwork
    clock: Clock
    x: Any
    costs: tuple[float, ...] | None = None
    _full: Any = field(default=None, init=False)
    seconds: float = field(default=float("nan"), init=False)

    def first(self) -> Timing:
        """Time the full network alone; later shares refer to it."""
        self._full = self._run_by_clock(self.net.model)
        measured = self._turn([self._full], 1)[0]
        self.seconds = measured.median
        return measured

    def time(self, point: PlanPoint, confidence: float = 0.95, longer: bool = False, call: Any = None) -> PlanPoint:
        """The point with its share of the time.

        Args:
            point: the point, timed before or not.
            confidence: confidence of the interval.
            longer: whether to measure four times as long, in twice as many rounds.
            call: the smaller network in this runtime, if it exists already.
        """
        full, other = self._turn([self._full, self._call(point) if call is None else call], _LONGER if longer else 1)
        return self._timed(point, full, other, confidence)

    def time_all(self, points: Sequence[PlanPoint]) -> list[PlanPoint]:
        """The points with their shares of the time, several timed in the same rounds as the full network.

        The full network has its turn once for four of them: five turns per round, where :meth:`time` takes eight.
        """
        timed = []
        for start in range(0, len(points), _IN_TURN):
            group = points[start : start + _IN_TURN]
            full, *others = self._turn([self._full, *map(self._call, group)], 1)
            timed += [self._timed(point, full, other) for point, other in zip(group, others, strict=True)]
        return timed

    def _call(self, point: PlanPoint) -> Any:
        return self._run_by_clock(dropped_copy(self.net, point.dropped))

    def _run_by_clock(self, model: nn.Module) -> Any:
        return in_runtime(model, self.x, self.clock.runtime, self.clock.threads, batch=self.clock.batch)

    def _timed(self, point: PlanPoint, full: Timing, other: Timing, confidence: float = 0.95) -> PlanPoint:
        share, interval = other.share_of(full, confidence)
        costs = self.costs
        estimated = None if costs is None else 1 - sum(costs[block] for block in point.dropped)
        return replace(point, latency=share * self.seconds, share=share, share_interval=interval, estimated=estimated)

    def _turn(self, calls: list[Any], longer: int) -> list[Timing]:
        clock = self.clock
        rounds = clock.rounds * (2 if longer > 1 else 1)
        return latencies_in_turn(calls, self.x, seconds=longer * clock.seconds, threads=clock.threads, rounds=rounds)


def doubt(point: PlanPoint, full: PlanPoint) -> str | None:
    """One line if the time saved disagrees with the operations and the blocks' own times; otherwise None."""
    by_macs = point.macs / full.macs if full.macs else 1.0
    estimates = [by_macs] if point.estimated is None else [by_macs, point.estimated]
    if min(estimates) - _UNLIKE <= point.share <= max(estimates) + _UNLIKE:
        return None
    blocks = "" if point.estimated is None else f" and {point.estimated:.2f} by the times of its blocks"
    return (
        f"{len(point.dropped)} dropped: measured at {point.share:.2f} of the time, but {by_macs:.2f} by multiply-adds"
        f"{blocks}; time it again on a quiet machine, or with a longer Clock(seconds=)"
    )


def doubts(points: Sequence[PlanPoint], full: PlanPoint) -> list[str]:
    """The doubts about all points in at most one line: that about the first, and the numbers of the others."""
    lines = {len(point.dropped): words for point in points if (words := doubt(point, full)) is not None}
    if not lines:
        return []
    first, *others = lines
    also = f"; the same holds for {', '.join(map(str, others))} dropped" if others else ""
    return [lines[first] + also]
