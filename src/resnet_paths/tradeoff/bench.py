"""Sets of blocks, repaired and measured: the functions that the sweep engine runs, point by point.

They are functions of plain points and one context, so that a sweep can journal them: a search takes minutes to hours,
and a plan that is started again continues with what was evaluated. The value of a set is determined by model, images,
repair and metric, which `Bench` collects in one fingerprint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..data import ExampleMetric, InMemory
from ..graph.inputs import placed
from ..graph.model_fingerprint import fingerprint
from ..lesion import Metric, evaluate_gates
from ..lesion.evaluate import deletion_gates
from ..network import UnrolledNetwork, for_inference
from ..sweep import SweepError, on_each_core, sweep
from ..sweep.fingerprints import deciding
from ..sweep.progress import Report, SweepProgress, tracked
from ..sweep.result import last_line
from .by_block import latency_by_block
from .counting import count_macs, count_parameters
from .measures import Answers, answers
from .repairs import Closed, Refits, Repairer, dropped_copy
from .search import Set

_TOGETHER = 512  # sets per point of a sweep: enough to share prefixes, few enough to lose little in a stop
_REPAIRED_TOGETHER = 8
"""Sets per point where each is repaired: enough for the cores, and a set takes seconds, so a stop loses a minute."""


@dataclass(frozen=True, eq=False)
class Workshop:
    """A network and the repair of its smaller versions; shared by all benches of a plan, so that both are set up once.

    Attributes:
        net: the full network.
        repair: the repair of dropped networks.
        images: the images for the repair.
    """

    net: UnrolledNetwork
    repair: Closed
    images: InMemory | None

    def __sweep_fingerprint__(self) -> dict[str, Any]:
        """Everything that determines the repaired networks, apart from this package's code."""
        net = fingerprint(self.net.model), self.net.output
        images = None if self.images is None else self.images.fingerprint
        return deciding(self, net=net, repair=repr(self.repair), images=images)

    @cached_property
    def repairer(self) -> Repairer:
        """The function that drops and repairs a set; a refit remembers targets and fits."""
        return self.repair.repairer(self.net, self.images)

    @cached_property
    def gated(self) -> UnrolledNetwork | None:
        """The network whose gates emulate repaired sets, norms folded if possible; None: each set must be repaired."""
        network = self.repair.gated(self.net)
        return None if network is None else for_inference(network)


@dataclass(frozen=True, eq=False)
class Bench:
    """A workshop and images: everything that determines the value of a set of blocks.

    Attributes:
        workshop: builds the repaired networks.
        data: images on which they are compared or measured.
        metric: the metric to compare by, or to measure beside the answers; None if only answers are measured.
        batch_size: images per batch.
    """

    workshop: Workshop
    data: InMemory
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

    def __sweep_fingerprint__(self) -> dict[str, Any]:
        """Everything that determines the values, apart from this package's code."""
        metric = self.metric.name if isinstance(self.metric, ExampleMetric) else self.metric
        dtype = str(getattr(self.data, "dtype", ""))
        return deciding(self, data=(self.data.fingerprint, dtype), metric=metric)


@dataclass(frozen=True)
class Running:
    """Where finished points are stored, and where progress is reported.

    Attributes:
        journal: a file; None: memory.
        report: called with the progress.
    """

    journal: Path | str | None
    report: Report

    def values(
        self, function: Callable[..., Any], points: Sequence[Any], context: Any, state: SweepProgress, size: int = 1
    ) -> Any:
        """Run a sweep and return its values by name; its progress is shown as part of a longer one.

        Args:
            function: evaluates one point.
            points: the points.
            context: what all points share.
            state: the progress of the longer sweep so far.
            size: how much of that sweep a point is.

        Raises:
            SweepError: a point failed.
        """

        def tell(now: SweepProgress) -> None:
            done, computed = state.finished + size * now.finished, state.computed + size * now.computed
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
    """Run the points without a journal, and so without the fingerprints that a journal needs."""
    rows = [function(point, context, 0) for point in tracked(points, len(points), "", tell)]
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _repaired_losses(point: dict[str, Any], bench: Bench, seed: int) -> dict[str, Any]:
    """The mean metric of some sets, each repaired; refits run on all cores, one set per core."""
    repairer, metric, full = bench.workshop.repairer, bench.metric, bench.full
    if metric is None:
        raise RuntimeError("expected a metric")

    def loss(dropped: Set) -> float:
        if isinstance(repairer, Refits):
            logits = repairer.logits(dropped, bench.data)
        else:
            logits = answers(repairer(dropped).model, bench.data, bench.net.followed, bench.batch_size).logits
        return float(Answers(logits, bench.data).values(metric, full).mean())

    sets = [tuple(dropped) for dropped in point["sets"]]
    together = isinstance(repairer, Refits) and repairer.on_cpu
    return {"losses": np.array(on_each_core(loss, sets) if together else [loss(dropped) for dropped in sets])}


def _gate_losses(point: dict[str, Any], bench: Bench, seed: int) -> dict[str, Any]:
    """The mean metric of many sets, computed at gates, so that sets share the network's prefixes."""
    gated, sets = bench.workshop.gated, point["sets"]
    if gated is None or bench.metric is None:
        raise RuntimeError("expected gates and a metric")
    gates = deletion_gates(sets, len(gated))
    size, metric = bench.batch_size, bench.metric
    values = evaluate_gates(gated, bench.data, gates, metric, batch_size=size, fast=False, progress=False)
    return {"losses": values.mean(1)}


def _measured(point: dict[str, Any], bench: Bench, seed: int) -> dict[str, Any]:
    """The answers of one set, plain and repaired, and its size."""
    dropped = tuple(point["dropped"])
    smaller = dropped_copy(bench.net, dropped)
    plain = answers(smaller, bench.data, bench.net.followed, bench.batch_size)
    repaired, after_repair = bench.workshop.repairer.after(smaller, dropped), plain  # from here on, not the plain copy
    if repaired.repair != "none":
        after_repair = answers(repaired.model, bench.data, bench.net.followed, bench.batch_size)
    x = placed(bench.data.subset(slice(0, 1)).x, repaired.model)

    def values_of(one: Answers) -> np.ndarray:
        return one.right if bench.metric is None else one.values(bench.metric, bench.full)

    values = values_of(after_repair)
    return {
        "right": after_repair.right,
        "plain_right": plain.right,
        "agrees": after_repair.agree(bench.full),
        "values": values,
        "plain_values": values if plain is after_repair else values_of(plain),
        "parameters": count_parameters(repaired.model),
        "macs": count_macs(repaired.model, x),
        "repair": repaired.repair,
        "reason": repaired.reason,
    }


def _costs(point: dict[str, Any], context: tuple[UnrolledNetwork, Any, float], seed: int) -> dict[str, Any]:
    """Each block's share of the time of all pieces."""
    net, x, seconds = context
    return {"share": np.array(latency_by_block(net, x, seconds=seconds).share)}


def block_costs(net: UnrolledNetwork, x: Any, seconds: float, running: Running) -> tuple[float, ...]:
    """Each block's share of the time, stored in the journal so that a resumed plan searches with the same costs."""
    values = running.values(_costs, [{"what": "costs"}], (net, x, seconds), SweepProgress("timing blocks", 1))
    return tuple(np.asarray(values["share"][0], dtype=float).tolist())


class Evaluator:
    """Losses of sets as deployed: computed at gates if that is equivalent, otherwise by repairing each set."""

    def __init__(self, bench: Bench, running: Running, name: str, total: int) -> None:
        self.bench, self.running = bench, running
        self.state, self.start = SweepProgress(name, total), time.monotonic()

    def __call__(self, sets: Sequence[Set]) -> list[float]:
        """The losses of the sets, in order."""
        before = self.state
        losses = self._by_gates(sets) if self.bench.workshop.gated is not None else self._repaired(sets)
        done = before.finished + len(sets)
        elapsed = time.monotonic() - self.start
        self.state = SweepProgress(before.name, max(before.total, done), done, computed=done, elapsed=elapsed)
        self.running.report(self.state)
        return losses

    def _by_gates(self, sets: Sequence[Set]) -> list[float]:
        return self._chunks(_gate_losses, sets, _TOGETHER)

    def _repaired(self, sets: Sequence[Set]) -> list[float]:
        return self._chunks(_repaired_losses, sets, _REPAIRED_TOGETHER)

    def _chunks(self, function: Callable[..., Any], sets: Sequence[Set], size: int) -> list[float]:
        points = [{"sets": sets[start : start + size]} for start in range(0, len(sets), size)]
        values = self.running.values(function, points, self.bench, self.state, size)
        return [float(value) for chunk in values["losses"] for value in np.ravel(chunk)]


def measure_set(bench: Bench, dropped: Set, running: Running, state: SweepProgress) -> dict[str, Any]:
    """The result of :func:`_measured` for one set, from the journal if available."""
    values = running.values(_measured, [{"dropped": dropped}], bench, state)
    return {name: column[0] for name, column in values.items()}
