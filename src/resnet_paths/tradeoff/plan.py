"""Which blocks to drop: the frontier of accuracy against latency."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from .._display import shown
from ..arguments import checked
from ..data import ImageData, ImageSource, as_data, right
from ..data.classes import numbered_alike
from ..files import existing_file, write_text
from ..graph.model_fingerprint import fingerprint
from ..graph.private_copy import private_copy
from ..lesion import Metric, fall_at_most, interval, metric_named
from ..lesion.metrics import cross_entropy
from ..network import UnrolledNetwork, for_inference, unroll
from ..network.norms import tracking_norms
from ..network.unrolled import placed
from ..statistics import share_interval
from ..surgery import batch_statistics, drop_blocks, norms_before, recalibrate_batchnorm
from ._search import MOST_EXACT, Search, Searcher
from .distil import Distillation, distil
from .latency import count_parameters, latencies_in_turn, measure_latency


@dataclass(frozen=True)
class PlanPoint:
    """One choice of blocks to drop.

    Attributes:
        dropped: their indices.
        names: their names.
        search_loss: cross-entropy on the images on which they were chosen, without recalibration.
        search_accuracy: accuracy there of the model as it would be used (recalibrated, where that was asked for).
        accuracy: on the images kept apart, without recalibration.
        accuracy_interval: its 95 % interval; where the point was chosen by these images (a plan with `confidence`), the
            intervals of all points hold together (Bonferroni), so that of the chosen one does.
        recalibrated: accuracy with batch-norm statistics measured again; None where that was not asked for.
        recalibrated_interval: likewise.
        latency: seconds a forward pass, median; of a smaller model its share of the whole model's, the two run in turn.
        parameters: number of parameters left.
        finetuned: accuracy after distillation; None but for the chosen point of a plan that was asked for it.
        finetuned_interval: likewise.
        fall: fall of accuracy from the whole model on the images kept apart, of the model as it would be used. Of a
            point chosen by these images it is a little too small: by 0.3 points in a simulation with 1000 images.
        fall_at_most: the upper bound of that fall (:func:`~resnet_paths.lesion.fall_at_most`, at the plan's
            confidence, 0.95 where it has none); None for the whole model.
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
    finetuned: float | None = None
    finetuned_interval: tuple[float, float] | None = None
    fall: float = 0.0
    fall_at_most: float | None = None


@shown
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
        search_losses: what the search minimised, for each point: the mean metric on the search images, with
            the statistics of each batch where the plan recalibrates.
        random_losses: the same of random sets of as many blocks, (points, draws).
        metric: the metric's name.
        greedy_losses: the same of the greedy search, whichever search was asked for.
        judge_losses: of each point on the images that judged the finalists; empty without them.
        accuracy_drop: the fall of accuracy that was allowed; None for other goals.
        confidence: with which the chosen point's fall was shown to be within it; None where that was not asked for.
    """

    points: tuple[PlanPoint, ...]
    chosen: int
    search: Search
    batch: int
    model_fingerprint: str
    data_fingerprint: str
    search_losses: tuple[float, ...] = ()
    random_losses: tuple[tuple[float, ...], ...] = ()
    metric: str = "loss"
    greedy_losses: tuple[float, ...] = ()
    judge_losses: tuple[float, ...] = ()
    accuracy_drop: float | None = None
    confidence: float | None = None

    @property
    def point(self) -> PlanPoint:
        """The chosen point."""
        return self.points[self.chosen]

    def apply(
        self,
        model: nn.Module | UnrolledNetwork,
        *,
        example_input: Any = None,
        recalibrate: ImageSource | None = None,
        finetune: ImageSource | None = None,
        distillation: Distillation | None = None,
    ) -> nn.Module:
        """The smaller model of the chosen point.

        With `recalibrate` the batch-norm statistics behind the first dropped block are measured again; with
        `finetune` the whole model then teaches the smaller one on those images.
        """
        recalibrate = None if recalibrate is None else as_data(recalibrate)
        finetune = None if finetune is None else as_data(finetune)
        net = model if isinstance(model, UnrolledNetwork) else unroll(model, example_input)
        smaller = _smaller(net, net.indices(list(self.point.names)))
        if recalibrate is not None:
            _recalibrate(smaller, net, net.indices(list(self.point.names)), recalibrate)
        if finetune is not None:
            distil(smaller, net, finetune, distillation)
        return smaller

    def to_pandas(self) -> pd.DataFrame:
        """One row a point."""
        table = pd.DataFrame([asdict(point) for point in self.points])
        table.insert(0, "count", [len(point.dropped) for point in self.points])
        table["chosen"] = [index == self.chosen for index in range(len(self.points))]
        return table

    def save(self, path: str | Path) -> Path:
        """Write the plan as JSON."""
        return write_text(path, json.dumps({"format": 1, **asdict(self)}, indent=2))


@checked
def load_plan(path: str | Path) -> DropPlan:
    """Read a plan that was saved.

    Raises:
        ValueError: not a plan.
    """
    source = existing_file(path, "a plan")
    try:
        content = json.loads(source.read_text())
        if content.pop("format") != 1:
            raise ValueError("another format")
        points = tuple(PlanPoint(**{key: _tupled(value) for key, value in p.items()}) for p in content.pop("points"))
        return DropPlan(points=points, **{key: _tupled(value) for key, value in content.items()})
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"expected a plan written by DropPlan.save, got {path}: {error}") from error


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value


@checked
def plan_drop(
    net: UnrolledNetwork,
    data: ImageSource,
    *,
    latency: float | None = None,
    accuracy_drop: float | None = None,
    confidence: float | None = None,
    n_drop: int | None = None,
    search: Search = "greedy",
    metric: str | Metric = "soft_error",
    beam: int = 4,
    judge: ImageSource | None = None,
    finalists: int = 10,
    search_dtype: torch.dtype | None = None,
    most: int | None = None,
    recalibrate: ImageSource | None = None,
    finetune: ImageSource | None = None,
    distillation: Distillation | None = None,
    report: ImageSource | None = None,
    random_draws: int = 0,
    batch: int = 32,
    seconds: float = 0.5,
    batch_size: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> DropPlan:
    """Choose blocks to drop, for a latency, an accuracy or a number.

    The blocks are searched by a metric of the gated network on some images and reported on others.
    Greedy drops at each step the block that hurts least; a beam keeps the `beam` best sets of each size, and never
    ends worse than greedy; exact tries every set of each size (at most 16 units).

    With `recalibrate` the search sees each set as it would be used: batch norms take the statistics of the batch that
    they normalise, which recalibration approaches. The norms before the first dropped block keep their own. So both
    the images to search on and those to recalibrate on should be as the model saw them in training: see
    :func:`~resnet_paths.tradeoff.as_in_training`. Images are taken in a random order, in batches as equal as can be.

    Args:
        net: the network, in eval mode.
        data: images to search on; without `report` one half of them, the other half to report on.
        latency: stop at the first point whose measured latency is at most this share of the whole model's.
        accuracy_drop: take the last point whose accuracy on the search images falls by at most this. Sets were chosen
            by these images, so on others accuracy falls by more, often by more than this; see `confidence`.
        confidence: with `accuracy_drop`: take instead the last point before the first whose fall on the images kept
            apart is not shown, with this probability, to be within it. No correction for the number of points is
            needed, because they are tested in an order that those images did not decide, up to the first failure.
        n_drop: take the point with so many blocks dropped. Exactly one of the three.
        search: ``greedy``, ``beam`` or ``exact``.
        metric: what the search minimises: ``soft_error``, 1 - p(label); ``soft_disagreement`` with the whole network,
            which needs no labels; any other of :func:`~resnet_paths.lesion.metric_named` or your own. Where much is
            dropped a few confident mistakes decide ``loss`` and ``divergence``; ``error`` cannot tell sets that
            change few answers from each other.
        beam: sets kept.
        judge: more images: of each size the `finalists` best sets of the search are compared on these. The best of
            hundreds of sets on few images looks better there than it is.
        finalists: how many.
        search_dtype: search (and judge) in this dtype, such as ``torch.bfloat16`` where that is faster; points are
            measured in the model's own.
        most: drop at most so many blocks (default: all but none with `n_drop`).
        recalibrate: images on which batch-norm statistics are measured again at each point.
        finetune: training images on which the chosen point's model is fine-tuned with the whole model as teacher.
        distillation: how (default :class:`Distillation`).
        report: images to report on.
        batch: images in the input on which latency is measured.
        seconds: time for each latency measurement.
        batch_size: images at a time in the search; with `recalibrate`, the batch of which norms take statistics.
        random_draws: score so many random sets of each size too, to compare the search with.
        seed: of the halves, the order of the images and the random sets.
        progress: show progress bars on a terminal.

    Raises:
        ValueError: not exactly one goal, a goal that no point reaches, exact search of more than 16 units, no
            finalists, a confidence without `accuracy_drop`, images of the `judge` among those reported on.

    Cost: greedy, n(n+1)/2 gate vectors with shared prefixes; a beam, `beam` times as many; exact, 2^n; with a judge
    `finalists` gate vectors for each size.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> plan = plan_drop(net, digits("train").subset(slice(0, 60)), n_drop=1, seconds=0.01)
        >>> len(plan.point.dropped)
        1
    """
    data = as_data(data)
    judge = None if judge is None else as_data(judge)
    recalibrate = None if recalibrate is None else as_data(recalibrate)
    finetune = None if finetune is None else as_data(finetune)
    report = None if report is None else as_data(report)
    others = (report, judge, finetune, recalibrate)
    data, *alike = numbered_alike(data, *others)
    report, judge, finetune, recalibrate = (
        None if other is None else one for other, one in zip(others, alike, strict=True)
    )
    goals = [goal for goal in (latency, accuracy_drop, n_drop) if goal is not None]
    if len(goals) != 1:
        raise ValueError(f"expected exactly one of latency, accuracy_drop and n_drop, got {len(goals)}")
    if confidence is not None and (accuracy_drop is None or not 0.5 < confidence < 1):
        raise ValueError(
            f"expected a confidence between 0.5 and 1, together with accuracy_drop, got {confidence} and "
            f"accuracy_drop={accuracy_drop}"
        )
    if search not in ("greedy", "beam", "exact"):
        raise ValueError(f"expected search 'greedy', 'beam' or 'exact', got {search!r}")
    if search == "exact" and len(net) > MOST_EXACT:
        raise ValueError(f"expected at most {MOST_EXACT} units for exact search, got {len(net)}; use search='beam'")
    limit = n_drop if n_drop is not None else len(net) if most is None else most
    if finalists < 1:
        raise ValueError(f"expected at least 1 finalist, got {finalists}")
    if not 0 <= limit <= len(net):
        raise ValueError(f"expected from 0 to {len(net)} blocks to drop, got {limit}")
    chosen_on, reported_on = data.halves(seed) if report is None else (data, report)
    if judge is not None:
        _check_apart(judge, reported_on)
    searched = batch_statistics(net) if recalibrate is not None and tracking_norms(net.model) else net
    if search_dtype is not None:
        searched = for_inference(searched, fold=False, channels_last=False, dtype=search_dtype)
    searcher = Searcher(searched, chosen_on.shuffled(seed), metric, batch_size, progress)
    sets = searcher.frontier(search, beam, limit)
    judging = None if judge is None else Searcher(searched, judge.shuffled(seed), metric, batch_size, progress)
    greedy = searcher.frontier("greedy", 1, limit)
    if judging is not None:
        sets = searcher.judged(sets, judging, finalists)
        judging.score([()])
    whole, before = _measured(net, (), chosen_on, reported_on, recalibrate, batch, seconds)
    level = confidence or 0.95
    points = [whole]
    for dropped in sets[1:]:
        point, now = _measured(net, dropped, chosen_on, reported_on, recalibrate, batch, seconds, whole.latency)
        fall = float(before.mean() - now.mean())
        points.append(replace(point, fall=fall, fall_at_most=fall_at_most(before, now, level)))
        if latency is not None and points[-1].latency <= latency * whole.latency:
            break
    chosen = _choose(points, latency, accuracy_drop, n_drop, confidence is not None)
    if confidence is not None:
        points = [_together(point, len(reported_on), len(points)) for point in points]
    plan = DropPlan(
        tuple(points),
        chosen,
        search,
        min(batch, len(reported_on)),
        fingerprint(net.model),
        reported_on.fingerprint,
        tuple(searcher.known[one] for one in sets[: len(points)]),
        tuple(searcher.at_random(len(points) - 1, random_draws, seed)) if random_draws else (),
        metric_named(metric)[0],
        tuple(searcher.known[one] for one in greedy[: len(points)]),
        () if judging is None else tuple(judging.known[one] for one in sets[: len(points)]),
        accuracy_drop,
        confidence,
    )
    if finetune is not None:
        taught = plan.apply(net, recalibrate=recalibrate, finetune=finetune, distillation=distillation)
        _, right = _per_image(taught, reported_on, net.followed)
        level = 0.95 if confidence is None else 1 - 0.05 / len(points)
        finetuned_interval = share_interval(float(right.mean()), len(right), level)
        points[chosen] = replace(points[chosen], finetuned=float(right.mean()), finetuned_interval=finetuned_interval)
        plan = replace(plan, points=tuple(points))
    return plan


def _together(point: PlanPoint, images: int, points: int) -> PlanPoint:
    """A point with intervals that hold together with those of all `points`, by Bonferroni's inequality."""
    level = 1 - 0.05 / points
    again = point.recalibrated
    return replace(
        point,
        accuracy_interval=share_interval(point.accuracy, images, level),
        recalibrated_interval=None if again is None else share_interval(again, images, level),
    )


def _check_apart(judge: ImageData, reported: ImageData) -> None:
    """Refuse to judge finalists by images that are reported on: the best of many looks better there than it is."""
    seen = {image.numpy().tobytes() for image in judge.images.cpu()}
    common = sum(image.numpy().tobytes() in seen for image in reported.images.cpu())
    if common > len(reported) // 100:  # data sets hold a few images twice
        raise ValueError(
            f"expected a judge apart from the images that are reported on, got {common} of {len(reported)} in common; "
            "give other images as judge or report"
        )


def _choose(
    points: list[PlanPoint], latency: float | None, drop: float | None, count: int | None, shown_apart: bool
) -> int:
    if count is not None:
        return count
    if latency is not None:
        reached = [i for i, point in enumerate(points) if point.latency <= latency * points[0].latency]
        if not reached:
            least = min(point.latency for point in points) / points[0].latency
            raise ValueError(f"expected a latency that dropping can reach, got {latency}; the least is {least:.2f}")
        return reached[0]
    if shown_apart:
        shown = [point.fall_at_most is not None and point.fall_at_most <= (drop or 0.0) for point in points[1:]]
        return [*shown, False].index(False)
    allowed = (drop or 0.0) + 1e-9  # 4 images of 200 may round to a little more than 0.02
    whole = points[0].search_accuracy
    return max(i for i, point in enumerate(points) if whole - point.search_accuracy <= allowed)


def measured(
    net: UnrolledNetwork,
    dropped: Sequence[int],
    chosen_on: ImageSource,
    reported_on: ImageSource,
    recalibrate: ImageSource | None = None,
    batch: int = 32,
    seconds: float = 0.5,
) -> PlanPoint:
    """Everything about one choice of blocks, on the real smaller model."""
    chosen_on = as_data(chosen_on)
    reported_on = as_data(reported_on)
    recalibrate = None if recalibrate is None else as_data(recalibrate)
    return _measured(net, dropped, chosen_on, reported_on, recalibrate, batch, seconds)[0]


def _measured(
    net: UnrolledNetwork,
    dropped: Sequence[int],
    chosen_on: ImageData,
    reported_on: ImageData,
    recalibrate: ImageData | None,
    batch: int,
    seconds: float,
    whole: float | None = None,
) -> tuple[PlanPoint, np.ndarray]:
    """The same, and whether the model as it would be used is right on each image kept apart.

    With the `whole` model's latency given, the smaller one's is its share of it, measured in turn.
    """
    smaller = _smaller(net, dropped)
    loss, search_right = _per_image(smaller, chosen_on, net.followed)
    _, right = _per_image(smaller, reported_on, net.followed)
    x = next(iter(_inputs(smaller, reported_on.subset(slice(0, batch)))))
    if whole is None:
        latency = measure_latency(smaller, x, seconds=seconds).median
    else:
        before, after = latencies_in_turn([net.model, smaller], x, seconds=seconds)
        latency = whole * after.median / before.median
    recalibrated = None
    if recalibrate is not None:
        _recalibrate(smaller, net, dropped, recalibrate)
        _, recalibrated = _per_image(smaller, reported_on, net.followed)
        _, search_right = _per_image(smaller, chosen_on, net.followed)
    point = PlanPoint(
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
    return point, right if recalibrated is None else recalibrated


def _smaller(net: UnrolledNetwork, dropped: Sequence[int]) -> nn.Module:
    return drop_blocks(net, list(dropped)) if dropped else private_copy(net.model)


def _recalibrate(smaller: nn.Module, net: UnrolledNetwork, dropped: Sequence[int], images: ImageData) -> None:
    """Measure the statistics again behind the first dropped block; none dropped, none measured."""
    if tracking_norms(smaller):
        recalibrate_batchnorm(smaller, images, keep=norms_before(net, dropped))


def _inputs(model: nn.Module, data: ImageData, size: int = 100) -> list[torch.Tensor]:
    return [placed(x, model) for x, _ in data.batches(size)]


def _per_image(
    model: nn.Module, data: ImageData, followed: Callable[[Any], torch.Tensor]
) -> tuple[np.ndarray, np.ndarray]:
    """Loss and whether it is right, for each image."""
    with torch.inference_mode():
        outputs = [model(x) for x in _inputs(model, data)]
    logits, labels = torch.cat([followed(output) for output in outputs]).cpu(), data.labels.cpu()
    return cross_entropy(logits, labels).numpy(), right(logits, labels).double().numpy()
