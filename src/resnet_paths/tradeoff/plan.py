"""Which blocks to drop: the frontier of accuracy against latency."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..data import ImageData
from ..lesion import evaluate_gates, interval, metric_named
from ..surgery import drop_blocks
from ..unroll import UnrolledNetwork
from ..unroll.fingerprint import fingerprint
from .latency import count_parameters, measure_latency
from .recalibrate import recalibrate_batchnorm

Search = Literal["greedy", "beam", "exact"]
_MOST_EXACT = 16


@dataclass(frozen=True)
class PlanPoint:
    """One choice of blocks to drop.

    Attributes:
        dropped: their indices.
        names: their names.
        search_loss: cross-entropy on the images on which they were chosen, without recalibration.
        search_accuracy: accuracy there of the model as it would be used (recalibrated, where that was asked for).
        accuracy: on the images kept apart, without recalibration.
        accuracy_interval: its 95 % interval.
        recalibrated: accuracy with batch-norm statistics measured again; None where that was not asked for.
        recalibrated_interval: its 95 % interval.
        latency: seconds a forward pass, median.
        parameters: number of parameters left.
    """

    dropped: tuple[int, ...]
    names: tuple[str, ...]
    search_loss: float
    search_accuracy: float
    accuracy: float
    accuracy_interval: tuple[float, float]
    recalibrated: float | None
    recalibrated_interval: tuple[float, float] | None
    latency: float
    parameters: int


@dataclass(frozen=True)
class DropPlan:
    """The frontier, and the point chosen.

    Attributes:
        points: for each number of dropped blocks, from none on.
        chosen: index of the chosen point.
        search: how the blocks were searched.
        batch: images in the input on which latency was measured.
        model_fingerprint: of the whole model.
        data_fingerprint: of the images kept apart.
    """

    points: tuple[PlanPoint, ...]
    chosen: int
    search: Search
    batch: int
    model_fingerprint: str
    data_fingerprint: str

    @property
    def point(self) -> PlanPoint:
        """The chosen point."""
        return self.points[self.chosen]

    def apply(
        self, model: nn.Module | UnrolledNetwork, *, example_input: Any = None, recalibrate: ImageData | None = None
    ) -> nn.Module:
        """The smaller model of the chosen point; with images, its batch-norm statistics are measured again."""
        smaller = drop_blocks(model, list(self.point.names), example_input=example_input)
        if recalibrate is not None:
            recalibrate_batchnorm(smaller, _inputs(smaller, recalibrate))
        return smaller

    def to_pandas(self) -> pd.DataFrame:
        """One row a point."""
        table = pd.DataFrame([asdict(point) for point in self.points])
        table.insert(0, "count", [len(point.dropped) for point in self.points])
        table["chosen"] = [index == self.chosen for index in range(len(self.points))]
        return table

    def save(self, path: str | Path) -> Path:
        """Write the plan as JSON."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps({"format": 1, **asdict(self)}, indent=2))
        return target


def load_plan(path: str | Path) -> DropPlan:
    """Read a plan that was saved.

    Raises:
        ValueError: not a plan.
    """
    try:
        content = json.loads(Path(path).read_text())
        if content.pop("format") != 1:
            raise ValueError("another format")
        points = tuple(PlanPoint(**{key: _tupled(value) for key, value in p.items()}) for p in content.pop("points"))
        return DropPlan(points=points, **content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"expected a plan written by DropPlan.save, got {path}: {error}") from error


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def plan_drop(
    net: UnrolledNetwork,
    data: ImageData,
    *,
    latency: float | None = None,
    accuracy_drop: float | None = None,
    n_drop: int | None = None,
    search: Search = "greedy",
    beam: int = 4,
    most: int | None = None,
    recalibrate: ImageData | None = None,
    report: ImageData | None = None,
    batch: int = 32,
    seconds: float = 0.5,
    batch_size: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> DropPlan:
    """Choose blocks to drop, for a latency, an accuracy or a number.

    The blocks are searched by the cross-entropy of the gated network on some images and reported on others.
    Greedy drops at each step the block that hurts least; a beam keeps the `beam` best sets of each size, and never
    ends worse than greedy; exact tries every set of each size (at most 16 units).

    Args:
        net: the network, in eval mode.
        data: images to search on; without `report` one half of them, the other half to report on.
        latency: stop at the first point whose measured latency is at most this share of the whole model's.
        accuracy_drop: take the last point whose accuracy on the search images falls by at most this.
        n_drop: take the point with so many blocks dropped. Exactly one of the three.
        search: ``greedy``, ``beam`` or ``exact``.
        beam: sets kept.
        most: drop at most so many blocks (default: all but none with `n_drop`).
        recalibrate: images on which batch-norm statistics are measured again at each point.
        report: images to report on.
        batch: images in the input on which latency is measured.
        seconds: time for each latency measurement.
        batch_size: images at a time in the search.
        seed: of the halves.
        progress: show progress bars on a terminal.

    Raises:
        ValueError: not exactly one goal, a goal that no point reaches, exact search of more than 16 units.

    Cost: greedy, n(n+1)/2 gate vectors with shared prefixes; a beam, `beam` times as many; exact, 2^n.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> plan = plan_drop(net, digits("train").subset(slice(0, 60)), n_drop=1, seconds=0.01)
        >>> len(plan.point.dropped)
        1
    """
    goals = [goal for goal in (latency, accuracy_drop, n_drop) if goal is not None]
    if len(goals) != 1:
        raise ValueError(f"expected exactly one of latency, accuracy_drop and n_drop, got {len(goals)}")
    if search not in ("greedy", "beam", "exact"):
        raise ValueError(f"expected search 'greedy', 'beam' or 'exact', got {search!r}")
    if search == "exact" and len(net) > _MOST_EXACT:
        raise ValueError(f"expected at most {_MOST_EXACT} units for exact search, got {len(net)}; use search='beam'")
    limit = n_drop if n_drop is not None else len(net) if most is None else most
    if not 0 <= limit <= len(net):
        raise ValueError(f"expected from 0 to {len(net)} blocks to drop, got {limit}")
    chosen_on, reported_on = data.halves(seed) if report is None else (data, report)
    sets = _Searcher(net, chosen_on, batch_size, progress).frontier(search, beam, limit)
    whole = measured(net, (), chosen_on, reported_on, recalibrate, batch, seconds)
    points = [whole]
    for dropped in sets[1:]:
        points.append(measured(net, dropped, chosen_on, reported_on, recalibrate, batch, seconds))
        if latency is not None and points[-1].latency <= latency * whole.latency:
            break
    return DropPlan(
        tuple(points),
        _choose(points, latency, accuracy_drop, n_drop),
        search,
        min(batch, len(reported_on)),
        fingerprint(net.model),
        reported_on.fingerprint,
    )


def _choose(points: list[PlanPoint], latency: float | None, drop: float | None, count: int | None) -> int:
    if count is not None:
        return count
    if latency is not None:
        reached = [i for i, point in enumerate(points) if point.latency <= latency * points[0].latency]
        if not reached:
            least = min(point.latency for point in points) / points[0].latency
            raise ValueError(f"expected a latency that dropping can reach, got {latency}; the least is {least:.2f}")
        return reached[0]
    floor = points[0].search_accuracy - (drop or 0.0)
    return max(i for i, point in enumerate(points) if point.search_accuracy >= floor)


class _Searcher:
    def __init__(self, net: UnrolledNetwork, data: ImageData, batch_size: int, progress: bool) -> None:
        self.net, self.data, self.batch_size, self.progress = net, data, batch_size, progress
        self.known: dict[tuple[int, ...], float] = {}

    def score(self, sets: Sequence[tuple[int, ...]]) -> None:
        """Evaluate the loss of each set that is not known yet."""
        new = [dropped for dropped in dict.fromkeys(sets) if dropped not in self.known]
        if not new:
            return
        gates = torch.ones(len(new), len(self.net))
        for row, dropped in enumerate(new):
            gates[row, list(dropped)] = 0
        _, loss = metric_named("loss")
        values = evaluate_gates(
            self.net, self.data, gates, loss, batch_size=self.batch_size, progress=self.progress
        ).mean(1)
        self.known.update({dropped: float(value) for dropped, value in zip(new, values, strict=True)})

    def frontier(self, search: Search, beam: int, most: int) -> list[tuple[int, ...]]:
        """The best set found of each size from 0 to `most`."""
        if search == "exact":
            everything = [s for size in range(most + 1) for s in combinations(range(len(self.net)), size)]
            self.score(everything)
            return [self._best([s for s in everything if len(s) == size]) for size in range(most + 1)]
        path = self._beam(1, most)
        if search == "beam":
            wide = self._beam(beam, most)
            path = [self._best([one, other]) for one, other in zip(path, wide, strict=True)]
        return path

    def _best(self, sets: list[tuple[int, ...]]) -> tuple[int, ...]:
        return min(sets, key=self._rank)

    def _rank(self, dropped: tuple[int, ...]) -> tuple[bool, float]:
        loss = self.known[dropped]
        return (not np.isfinite(loss), loss)

    def _beam(self, width: int, most: int) -> list[tuple[int, ...]]:
        self.score([()])
        path: list[tuple[int, ...]] = [()]
        kept: list[tuple[int, ...]] = [()]
        for _ in range(most):
            grown = {
                tuple(sorted((*dropped, unit)))
                for dropped in kept
                for unit in range(len(self.net))
                if unit not in dropped
            }
            self.score(sorted(grown))
            kept = sorted(sorted(grown), key=self._rank)[:width]
            path.append(kept[0])
        return path


def measured(
    net: UnrolledNetwork,
    dropped: Sequence[int],
    chosen_on: ImageData,
    reported_on: ImageData,
    recalibrate: ImageData | None = None,
    batch: int = 32,
    seconds: float = 0.5,
) -> PlanPoint:
    """Everything about one choice of blocks, on the real smaller model."""
    smaller = drop_blocks(net, list(dropped)) if dropped else copy.deepcopy(net.model)
    loss, search_right = _per_image(smaller, chosen_on)
    _, right = _per_image(smaller, reported_on)
    x = next(iter(_inputs(smaller, reported_on.subset(slice(0, batch)))))
    latency = measure_latency(smaller, x, seconds=seconds).median
    recalibrated = None
    if recalibrate is not None:
        recalibrate_batchnorm(smaller, _inputs(smaller, recalibrate))
        _, recalibrated = _per_image(smaller, reported_on)
        _, search_right = _per_image(smaller, chosen_on)
    return PlanPoint(
        dropped=tuple(dropped),
        names=tuple(net[index].name for index in dropped),
        search_loss=float(loss.mean()),
        search_accuracy=float(search_right.mean()),
        accuracy=float(right.mean()),
        accuracy_interval=interval(right),
        recalibrated=None if recalibrated is None else float(recalibrated.mean()),
        recalibrated_interval=None if recalibrated is None else interval(recalibrated),
        latency=latency,
        parameters=count_parameters(smaller),
    )


def _inputs(model: nn.Module, data: ImageData, size: int = 100) -> list[torch.Tensor]:
    parameter = next(model.parameters())
    return [x.to(parameter.device, parameter.dtype) for x, _ in data.batches(size)]


def _per_image(model: nn.Module, data: ImageData) -> tuple[np.ndarray, np.ndarray]:
    """Loss and whether it is right, for each image."""
    with torch.inference_mode():
        outputs = [model(x) for x in _inputs(model, data)]
    logits = torch.cat([getattr(output, "logits", output) for output in outputs]).float().cpu()
    loss = torch.nn.functional.cross_entropy(logits, data.labels, reduction="none")
    return loss.numpy(), (logits.argmax(1) == data.labels).float().numpy()
