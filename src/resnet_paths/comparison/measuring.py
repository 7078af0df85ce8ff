"""What is measured of one model: one point of a comparison's sweep.

Everything is kept for each image, since differences between models are taken image by image. Rows of blocks and lengths
that a model does not have are NaN (a length that it does not have carries a share of zero), so that the arrays of all
models have one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from ..choices import ComparedPart
from ..data import InMemory
from ..data.fitting import target_kinds, usual_metric
from ..data.metrics import METRICS, Metric
from ..graph.inputs import placed
from ..graph.wrappers import unwrap
from ..landscape import Surface, curvature_operator, extreme_eigenvalues, random_direction, roughness
from ..landscape.cell_metrics import named_metrics
from ..landscape.cells import CellEvaluator
from ..landscape.surface_record import NOWHERE
from ..landscape.surface_roughness import curvatures
from ..landscape.working_copy import WeightSpace
from ..lesion import block_values, evaluate_gates
from ..lesion.evaluate import Network, deletion_gates, quick
from ..lesion.multiple import random_sets
from ..network import UnrolledNetwork
from ..paths import block_contributions, gradient_by_length, path_lengths, sample_path_gradients
from ..sweep.fingerprints import deciding, fingerprint
from ..tradeoff import Greedy, count_macs, count_parameters
from ..tradeoff.search import Scores, Set
from .settings import PartSettings

Values = dict[str, Any]


@dataclass(frozen=True)
class Measuring:
    """What determines the values of a comparison; the context of its sweep.

    A point names its network and its images by their fingerprints. They are left out of the context's own, so that the
    journal returns a model that was compared before, whatever others it is compared with now.

    Attributes:
        networks: the models.
        images: those of each model.
        metric: of the logits of each image.
        counts: numbers of randomly deleted blocks.
        most: blocks of the largest network.
        gradient_images: number of images for gradients and contributions.
        draws: random sets for each count.
        seed: of all draws.
        parts: what is measured beyond metric, blocks, deletions and gradients.
        settings: how much the parts measure.
    """

    networks: tuple[Network, ...]
    images: tuple[InMemory, ...]
    metric: Metric
    counts: tuple[int, ...]
    most: int
    gradient_images: int
    draws: int
    seed: int
    parts: tuple[ComparedPart, ...]
    settings: PartSettings

    @cached_property
    def points(self) -> list[dict[str, str]]:
        """The point of each model."""
        return [
            {"network": fingerprint(net), "images": fingerprint(images)}
            for net, images in zip(self.networks, self.images, strict=True)
        ]

    def __sweep_fingerprint__(self) -> Any:
        how = deciding(self.settings, aside={"latency_batch", "latency_seconds", "threads"})
        return deciding(self, aside={"networks", "images"}, settings=how)

    def images_of(self, model: int, count: int) -> InMemory:
        """The first images of a model."""
        return self.images[model].subset(slice(0, count))


def comparing(point: dict[str, str], plan: Measuring, seed: int) -> Values:
    """One model, image by image."""
    model = plan.points.index(point)
    net, images = plan.networks[model], plan.images[model]
    blocks, fast = len(net), quick(net)
    alone = [[block] for block in range(blocks)]
    random = [deleted for drawn in random_sets(range(blocks), plan.counts, plan.draws, plan.seed) for deleted in drawn]
    gates = deletion_gates([[], *alone, *random], blocks)
    values = evaluate_gates(fast, images, gates, plan.metric, progress=False, fast=False)
    drawn = values[1 + blocks :].reshape(len(plan.counts), plan.draws, len(images))
    x = placed(images.subset(slice(0, 1)).x, net.model)
    measured = {
        "full": values[0],
        "deleted": _padded(values[1 : blocks + 1], plan.most),
        "deletion": drawn.mean(1),
        "frontier": _padded(_frontier(fast, images, values[: blocks + 1], plan), plan.most + 1),
        "parameters": count_parameters(net.model),
        "macs": count_macs(net.model, x),
        **_lengths(fast, model, plan),
    }
    for part in plan.parts:
        measured |= PARTS[part](fast if part in _ON_FAST else net, model, plan)
    return measured


def _padded(rows: np.ndarray, count: int, value: float = np.nan) -> np.ndarray:
    return np.pad(rows, ((0, count - len(rows)), *[(0, 0)] * (rows.ndim - 1)), constant_values=value)


def _halves(images: InMemory, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The images by which blocks are chosen, and those on which the choice is measured."""
    order = images.random_order(seed).cpu().numpy()
    return np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])


def _frontier(net: Network, images: InMemory, single: np.ndarray, plan: Measuring) -> np.ndarray:
    """The metric of the second half of the images, (n + 1, half), blocks deleted in the order of the first half."""
    choosing, _ = _halves(images, plan.seed)
    damage = single[1:, choosing].mean(1) - single[0, choosing].mean() if len(choosing) else np.zeros(len(net))
    return _in_order(net, images, np.argsort(damage, kind="stable").tolist(), plan)


def _in_order(net: Network, images: InMemory, order: list[int], plan: Measuring) -> np.ndarray:
    """The metric of each image of the second half with the first 0, 1, 2, ... of the blocks deleted."""
    _, reporting = _halves(images, plan.seed)
    gates = deletion_gates([order[:size] for size in range(len(order) + 1)], len(net))
    rest = images.subset(torch.from_numpy(reporting))
    return evaluate_gates(net, rest, gates, plan.metric, progress=False, fast=False)


def _recommended(net: Network, model: int, plan: Measuring) -> Values:
    """The same in the order of a greedy search on the first half of the images, as `plan_drop` searches by default."""
    images, (choosing, _) = plan.images[model], _halves(plan.images[model], plan.seed)
    searched = images.subset(torch.from_numpy(choosing)) if len(choosing) else images
    blocks = [block.index for block in net if block.droppable or not isinstance(net, UnrolledNetwork)]

    def evaluate(sets: Sequence[Set]) -> list[float]:
        gates = deletion_gates([[blocks[place] for place in dropped] for dropped in sets], len(net))
        values = evaluate_gates(net, searched, gates, METRICS[usual_metric(images)], progress=False, fast=False)
        return values.mean(1).tolist()  # type: ignore[no-any-return]

    sets: list[Set] = [(), *Greedy().path(Scores(len(blocks), evaluate), len(blocks))]
    order = [blocks[(set(after) - set(before)).pop()] for before, after in pairwise(sets)]
    return {
        "recommended": _padded(_in_order(net, images, order, plan), plan.most + 1),
        "recommended_order": np.array([*order, *[-1] * (plan.most - len(order))]),
    }


def _batch(net: Network, model: int, plan: Measuring) -> tuple[torch.Tensor, torch.Tensor]:
    """The images of which gradients are taken, and their labels, beside the model."""
    images = plan.images_of(model, plan.gradient_images)
    if images.targets is None:
        raise ValueError(f"expected targets for gradients of a loss, got {images.nouns} without")
    return placed(images.x, net.model), images.targets.to(next(net.model.parameters()).device)


def one_class_each(data: InMemory) -> bool:
    """Whether there are gradients of the cross-entropy: of one class each, by an input that has a gradient."""
    x = data.x
    return "class" in target_kinds(data) and isinstance(x, torch.Tensor) and x.is_floating_point()


def _lengths(net: Network, model: int, plan: Measuring) -> Values:
    """The share of each path length among all paths, (n + 1,), and in the gradient of each image, (n + 1, images).

    A plain network has no paths: NaN for all of them. Gradients are those of the cross-entropy; where there is none
    (:func:`one_class_each`) they are NaN instead.
    """
    rows, share = plan.most + 1, np.full((plan.most + 1, plan.gradient_images), np.nan)
    if not isinstance(net, UnrolledNetwork):
        return {"paths": np.full(rows, np.nan), "share": share}
    if one_class_each(plan.images[model]):
        share = gradient_by_length(net, *_batch(net, model, plan)).share.double().cpu().numpy()
    return {
        "paths": _padded(path_lengths(net).probability, plan.most + 1, 0.0),
        "share": _padded(share, plan.most + 1, 0.0),
    }


def _contributions(net: Network, model: int, plan: Measuring) -> Values:
    """What each block adds directly to the logit of each image's class, (blocks, images)."""
    if not isinstance(net, UnrolledNetwork):
        return {"contribution": np.full((plan.most, plan.gradient_images), np.nan)}
    record = block_contributions(net, *_batch(net, model, plan))
    if record.of_target is None:
        raise RuntimeError("expected contributions to the targets")
    return {"contribution": _padded(record.of_target[-len(net) :].double().cpu().numpy(), plan.most)}


def _effective(net: Network, model: int, plan: Measuring) -> Values:
    """The number of paths of each length times the mean norm of one, as shares of each image's sum, (n + 1, images)."""
    rows = plan.most + 1
    if not isinstance(net, UnrolledNetwork):
        return {"effective": np.full((rows, plan.gradient_images), np.nan)}
    x, labels = _batch(net, model, plan)
    drawn = sample_path_gradients(net, x, labels, draws=plan.settings.path_draws, seed=plan.seed)
    norms = drawn.mean.double().cpu().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):  # an image without a gradient has no shares
        logs = path_lengths(net).log_probability[:, None] + np.log(norms)
        weights = np.exp(logs - logs.max(0))
        share = weights / weights.sum(0)
    return {"effective": _padded(share, rows, 0.0)}


def _shapley(net: Network, model: int, plan: Measuring) -> Values:
    """The Shapley value of each block for each image, (blocks, images), and its errors from sampled orders."""
    record = block_values(
        net,
        plan.images_of(model, plan.settings.images),
        metric=plan.metric,
        max_permutations=plan.settings.orders,
        seed=plan.seed,
        progress=False,
        fast=False,
    )
    return {
        "shapley": _padded(record.per_image, plan.most),
        "shapley_error": _padded(record.standard_errors, plan.most),
        "shapley_shared": _padded(record.shared_variances, plan.most),
        "orders": record.orders,
    }


def _surface(net: Network, model: int, plan: Measuring) -> Values:
    """The loss of each image over a plane of two random directions, (rows, columns, images).

    A tensor's draw follows from the seed, its name and its shape, so models share it wherever they share the tensor;
    each scales it to its own filters.
    """
    network = unwrap(net.model)
    plane = [random_direction(network, seed=2 * plan.seed + axis) for axis in (1, 2)]
    data = plan.images_of(model, plan.settings.images)
    evaluate = CellEvaluator(WeightSpace(network, plane), data, named_metrics(["loss"], data))
    steps = surface_steps(plan.settings)
    loss = np.array([[evaluate([x, y])["loss"] for x in steps] for y in steps])
    return {"surface": loss, "convex": _convex(network, steps, loss.mean(-1))}


def surface_steps(settings: PartSettings) -> np.ndarray:
    """The coordinates of a surface along both directions.

    Example:
        >>> surface_steps(PartSettings(surface_points=3))
        array([-1.,  0.,  1.])
    """
    return np.linspace(-settings.reach, settings.reach, settings.surface_points)


def _convex(network: nn.Module, steps: np.ndarray, loss: np.ndarray) -> float:
    """The share of the inner points at which the logarithm of the loss is convex; NaN if none has a finite loss."""
    with np.errstate(divide="ignore", invalid="ignore"):
        there = np.isfinite(curvatures(steps, steps, np.log(loss))).all(-1)
    if not there.any():
        return float("nan")
    source = replace(NOWHERE, dtype=str(next(network.parameters()).dtype).removeprefix("torch."))
    return roughness(replace(Surface.of(steps, steps, loss=loss), source=source), scale="log").convex


def _curvature(net: Network, model: int, plan: Measuring) -> Values:
    """The extreme eigenvalues of the Hessian of the loss."""
    operator = curvature_operator(unwrap(net.model), plan.images_of(model, plan.settings.images))
    extremes = extreme_eigenvalues(operator, seed=plan.seed)
    return {"largest_eigenvalue": extremes.largest, "smallest_eigenvalue": extremes.smallest}


PARTS: Mapping[ComparedPart, Callable[[Network, int, Measuring], Values]] = {
    "contributions": _contributions,
    "effective": _effective,
    "recommended": _recommended,
    "shapley": _shapley,
    "surface": _surface,
    "curvature": _curvature,
}
"""Latency is not among them: models are timed in turn, again at each comparison."""
OF_CLASSES: frozenset[ComparedPart] = frozenset({"contributions", "effective"})
"""Parts that need one class each, and inputs that have gradients."""
OF_LOSS: frozenset[ComparedPart] = frozenset({"surface", "curvature"})
"""Parts that need targets with one usual loss."""
_ON_FAST = {"contributions", "effective", "recommended", "shapley"}
"""Parts that only run the network, and so its fast copy; the others move its own weights."""
