"""Sets of blocks, repaired and measured: what the sweep engine runs, point by point."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data import ImageData
from ..graph.model_fingerprint import fingerprint
from ..lesion import METRICS, Metric, evaluate_gates
from ..network import UnrolledNetwork, for_inference
from ..network.unrolled import placed
from ..sweep import SweepError, sweep
from ..sweep.progress import Report, SweepProgress, tracked
from ..sweep.result import last_line
from .by_block import latency_by_block
from .counting import count_macs, count_parameters
from .measures import Answers, answers
from .repairs import Closed, Refits, Repairer, dropped_copy
from .search import Set

_TOGETHER = 512  # sets that are one point of a sweep, and lost together when it is stopped


@dataclass(frozen=True, eq=False)
class Workshop:
    """A network and how its smaller ones are repaired; what that takes is made once for all benches of a plan.

    Attributes:
        net: the full network.
        repair: of the dropped ones.
        images: for that.
    """

    net: UnrolledNetwork
    repair: Closed
    images: ImageData | None

    @cached_property
    def repairer(self) -> Repairer:
        """What repairs a set: a refit keeps targets and fits."""
        return self.repair.repairer(self.net, self.images)

    @cached_property
    def gated(self) -> UnrolledNetwork | None:
        """The network whose gates stand for repaired sets, norms folded where they can be; None: repair each."""
        found = self.repair.gated(self.net)
        return None if found is None else for_inference(found)


@dataclass(frozen=True, eq=False)
class Bench:
    """A workshop and images: all that decides what a set of blocks is worth.

    Attributes:
        workshop: makes the repaired networks.
        data: images on which they are compared or measured.
        metric: what is compared; None where answers are measured.
        batch_size: images per batch.
    """

    workshop: Workshop
    data: ImageData
    metric: Metric | None = None
    batch_size: int = 100

    @property
    def net(self) -> UnrolledNetwork:
        """The full network."""
        return self.workshop.net

    @cached_property
    def full(self) -> Answers:
        """The full network's answers."""
        return answers(self.net.model, self.data, self.net.followed, self.batch_size)

    def __sweep_fingerprint__(self) -> Any:
        """What decides the values, beside this package's code."""
        shop = self.workshop
        metric = getattr(self.metric, "__name__", "") if self.metric in METRICS.values() else self.metric
        images = [None if data is None else data.fingerprint for data in (shop.images, self.data)]
        dtype = str(self.data.dtype)
        return (fingerprint(self.net.model), self.net.output, repr(shop.repair), images, dtype, metric, self.batch_size)


@dataclass(frozen=True)
class Running:
    """Where finished points are kept, and who is told of progress.

    Attributes:
        journal: a file; None: memory.
        report: called with the state.
    """

    journal: Path | str | None
    report: Report

    def values(self, function: Callable[..., Any], points: Sequence[Any], context: Any, state: SweepProgress) -> Any:
        """The values of a sweep, by name, its progress shown as part of a longer one.

        Raises:
            SweepError: a point failed.
        """

        def tell(now: SweepProgress) -> None:
            done, computed = state.finished + now.finished, state.computed + now.computed
            total, elapsed = max(state.total, done), state.elapsed + now.elapsed
            self.report(SweepProgress(state.name, total, done, 0, computed, now.taken, elapsed))

        if self.journal is None:
            return _here(function, points, context, tell)
        result = sweep(
            function,
            points,
            context=context,
            journal=self.journal,
            progress=tell,
            retry_failed=True,
        )
        if result.errors:
            index, error = next(iter(result.errors.items()))
            raise SweepError(
                f"{len(result.errors)} of {len(points)} points failed; {points[index]}: {last_line(error)}"
            )
        return result.values


def _here(function: Callable[..., Any], points: Sequence[Any], context: Any, tell: Report) -> dict[str, list[Any]]:
    """The same without a journal: nothing needs to be told from what an earlier run computed."""
    rows = [function(point, context, 0) for point in tracked(points, len(points), "", tell)]
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _loss(point: dict[str, Any], bench: Bench, seed: int) -> dict[str, float]:
    """The mean metric of one set, repaired."""
    if bench.metric is None:
        raise RuntimeError("expected a metric")
    repairer, dropped = bench.workshop.repairer, tuple(point["dropped"])
    if isinstance(repairer, Refits):
        logits = repairer.logits(dropped, bench.data)
    else:
        logits = answers(repairer(dropped).model, bench.data, bench.net.followed, bench.batch_size).logits
    full = bench.full
    return {"loss": float(bench.metric(logits, full.labels, full.logits).double().mean())}


def _gate_losses(point: dict[str, Any], bench: Bench, seed: int) -> dict[str, Any]:
    """The mean metric of many sets, by gates: sets that begin alike share what they begin with."""
    gated, sets = bench.workshop.gated, point["sets"]
    if gated is None or bench.metric is None:
        raise RuntimeError("expected gates and a metric")
    gates = torch.ones(len(sets), len(gated), device="cpu")
    for row, dropped in enumerate(sets):
        gates[row, list(dropped)] = 0
    size, metric = bench.batch_size, bench.metric
    values = evaluate_gates(gated, bench.data, gates, metric, batch_size=size, fast=False, progress=False)
    return {"losses": values.mean(1)}


def _measured(point: dict[str, Any], bench: Bench, seed: int) -> dict[str, Any]:
    """Answers of one set, plain and repaired, and its size."""
    dropped = tuple(point["dropped"])
    repaired = bench.workshop.repairer(dropped)
    found = answers(repaired.model, bench.data, bench.net.followed, bench.batch_size)
    plain = found
    if repaired.repair != "none":
        plain = answers(dropped_copy(bench.net, dropped), bench.data, bench.net.followed, bench.batch_size)
    x = placed(bench.data.subset(slice(0, 1)).x, repaired.model)
    return {
        "right": found.right,
        "plain_right": plain.right,
        "agrees": found.agree(bench.full),
        "parameters": count_parameters(repaired.model),
        "macs": count_macs(repaired.model, x),
        "repair": repaired.repair,
        "reason": repaired.reason,
    }


def _costs(point: dict[str, Any], context: tuple[UnrolledNetwork, torch.Tensor, float], seed: int) -> dict[str, Any]:
    """Each block's share of the time of all pieces."""
    net, x, seconds = context
    return {"share": np.array(latency_by_block(net, x, seconds=seconds).share)}


def block_costs(net: UnrolledNetwork, x: torch.Tensor, seconds: float, running: Running) -> tuple[float, ...]:
    """Each block's share of the time, kept in the journal: a plan that goes on searches with the same costs."""
    values = running.values(_costs, [{"what": "costs"}], (net, x, seconds), SweepProgress("timing blocks", 1))
    return tuple(np.asarray(values["share"][0], dtype=float).tolist())


class Evaluator:
    """Losses of sets as they would be used: by gates where that is the same, or else each repaired for real."""

    def __init__(self, bench: Bench, running: Running, name: str, total: int) -> None:
        self.bench, self.running = bench, running
        self.state, self.start = SweepProgress(name, total), time.monotonic()

    def __call__(self, sets: Sequence[Set]) -> list[float]:
        """The losses, in their order."""
        before = self.state
        losses = self._by_gates(sets) if self.bench.workshop.gated is not None else self._repaired(sets)
        done = before.finished + len(sets)
        elapsed = time.monotonic() - self.start
        self.state = SweepProgress(before.name, max(before.total, done), done, computed=done, elapsed=elapsed)
        self.running.report(self.state)
        return losses

    def _by_gates(self, sets: Sequence[Set]) -> list[float]:
        points = [{"sets": sets[start : start + _TOGETHER]} for start in range(0, len(sets), _TOGETHER)]
        values = self.running.values(_gate_losses, points, self.bench, self.state)
        return [float(value) for chunk in values["losses"] for value in np.ravel(chunk)]

    def _repaired(self, sets: Sequence[Set]) -> list[float]:
        points = [{"dropped": dropped} for dropped in sets]
        values = self.running.values(_loss, points, self.bench, self.state)
        return [float(value) for value in values["loss"]]


def measure_set(bench: Bench, dropped: Set, running: Running, state: SweepProgress) -> dict[str, Any]:
    """What :func:`_measured` returns, for one set, from the journal where it is there."""
    values = running.values(_measured, [{"dropped": dropped}], bench, state)
    return {name: column[0] for name, column in values.items()}
