"""Models measured side by side on the same images.

Every difference is taken image by image before it is averaged: two models are wrong on much the same images, so the
interval of a paired difference is far narrower than two intervals side by side suggest. All that is measured of one
model is one point of a sweep. So a comparison of many checkpoints resumes where it was stopped, and workers divide the
models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import numpy as np
import torch
from torch import nn

from ..arguments import checked
from ..choices import MetricName
from ..data import ImageData, ImageSource, as_data
from ..data.metrics import Metric, bound_of, metric_named
from ..graph.errors import NoBlocksError
from ..graph.eval_mode import check_eval
from ..lesion import evaluate_gates
from ..lesion.evaluate import Network, deletion_gates, quick
from ..lesion.multiple import random_sets
from ..network import UnrolledNetwork, unroll
from ..network.unrolled import placed
from ..paths import gradient_by_length
from ..provenance import Provenance, provenance
from ..records import Record
from ..statistics import intervals, mean_intervals
from ..sweep import RunOptions, SweepError, sweep
from ..sweep.result import last_line
from ..tables import data_frame
from ..tradeoff import count_macs, count_parameters
from .matching import MatchedBy, match_blocks

if TYPE_CHECKING:
    import pandas as pd

_ALIGNED_IMAGES = 64
"""Images on which outputs of blocks are compared: the error of linear CKA is about the inverse of their number."""
_CURVE_POINTS = 8
"""Numbers of randomly deleted blocks, spaced geometrically: the curve bends where few are gone."""


@dataclass(frozen=True, eq=False)
class Comparison(Record):
    """Several models on the same images; the first is the reference of all differences.

    Attributes:
        models: their names, (m,).
        metric: name of the metric; lower is better for all that come with this package.
        values: the metric of each model, (m,).
        low: lower ends of the intervals of `values`.
        high: upper ends.
        difference: `values` less that of the reference, (m,), with intervals paired by image.
        difference_low: lower ends.
        difference_high: upper ends.
        parameters: number of parameters, (m,).
        macs: multiply-adds per image, (m,).
        blocks: rows of matched blocks, (b,), by the first model that has each.
        block_indices: index of each row's block in each model, (m, b); -1 where it has none.
        similarity: linear CKA of matched outputs, where blocks were matched by it, (m, b).
        matched_by: how each model's blocks were matched, see :class:`BlockMatches`.
        damage: rise of the metric when a block is deleted, (m, b); NaN where a model has none.
        damage_low: lower ends of its intervals.
        damage_high: upper ends.
        damage_difference: `damage` less that of the reference, (m, b), paired by image.
        damage_difference_low: lower ends.
        damage_difference_high: upper ends.
        counts: numbers of randomly deleted blocks, (c,).
        deletion: the metric after that, mean over draws, (m, c).
        deletion_low: lower ends of intervals over images.
        deletion_high: upper ends.
        frontier: the metric with the 0, 1, 2, ... least damaging blocks deleted, (m, most blocks + 1). Their order is
            taken from one half of the images and the metric from the other.
        frontier_low: lower ends of its intervals.
        frontier_high: upper ends.
        lengths: path lengths, (L,).
        gradient_share: share of each path length in the gradient, mean over `gradient_images`, (m, L); NaN for a
            plain network.
        gradient_share_low: lower ends of its intervals.
        gradient_share_high: upper ends.
        gradient_difference: `gradient_share` less that of the reference, (m, L), paired by image.
        gradient_difference_low: lower ends.
        gradient_difference_high: upper ends.
        confidence: coverage of each interval, one at a time.
        draws: random sets for each of `counts`.
        images: number of images.
        gradient_images: number of images of which gradients were taken.
        per_image: the metric of each model and image, (m, images).
        source: of the reference and its images.
        sources: of all models, in order.
    """

    DIMENSIONS: ClassVar = {
        **dict.fromkeys(
            ("values", "low", "high", "difference", "difference_low", "difference_high", "parameters", "macs"), "model"
        ),
        **dict.fromkeys(
            (
                *("block_indices", "similarity", "damage", "damage_low", "damage_high"),
                *("damage_difference", "damage_difference_low", "damage_difference_high"),
            ),
            "model block",
        ),
        **dict.fromkeys(("deletion", "deletion_low", "deletion_high"), "model count"),
        **dict.fromkeys(("frontier", "frontier_low", "frontier_high"), "model deleted"),
        **dict.fromkeys(
            (
                *("gradient_share", "gradient_share_low", "gradient_share_high"),
                *("gradient_difference", "gradient_difference_low", "gradient_difference_high"),
            ),
            "model length",
        ),
        "per_image": "model image",
    }
    COORDINATES: ClassVar = {"model": "models", "block": "blocks", "count": "counts", "length": "lengths"}

    models: tuple[str, ...]
    metric: str
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    difference: np.ndarray
    difference_low: np.ndarray
    difference_high: np.ndarray
    parameters: np.ndarray
    macs: np.ndarray
    blocks: tuple[str, ...]
    block_indices: np.ndarray
    similarity: np.ndarray
    matched_by: tuple[MatchedBy, ...]
    damage: np.ndarray
    damage_low: np.ndarray
    damage_high: np.ndarray
    damage_difference: np.ndarray
    damage_difference_low: np.ndarray
    damage_difference_high: np.ndarray
    counts: np.ndarray
    deletion: np.ndarray
    deletion_low: np.ndarray
    deletion_high: np.ndarray
    frontier: np.ndarray
    frontier_low: np.ndarray
    frontier_high: np.ndarray
    lengths: np.ndarray
    gradient_share: np.ndarray
    gradient_share_low: np.ndarray
    gradient_share_high: np.ndarray
    gradient_difference: np.ndarray
    gradient_difference_low: np.ndarray
    gradient_difference_high: np.ndarray
    confidence: float
    draws: int
    images: int
    gradient_images: int
    per_image: np.ndarray
    source: Provenance = field(repr=False)
    sources: tuple[Provenance, ...] = field(repr=False)

    @property
    def mean_length(self) -> np.ndarray:
        """The mean path length of the gradient, weighted by its shares, (m,)."""
        means: np.ndarray = self.gradient_share @ self.lengths
        return means

    def to_pandas(self) -> pd.DataFrame:
        """One row per model: the metric with its interval, the paired difference, and size."""
        return data_frame(
            {
                "model": self.models,
                self.metric: self.values,
                "low": self.low,
                "high": self.high,
                "difference": self.difference,
                "difference_low": self.difference_low,
                "difference_high": self.difference_high,
                "blocks": (self.block_indices >= 0).sum(1),
                "matched_by": self.matched_by,
                "mean_length": self.mean_length,
                "parameters": self.parameters,
                "macs": self.macs,
            }
        )

    def by_block(self) -> pd.DataFrame:
        """One row per model and matched block: the damage of deleting it, and the paired difference from the reference.

        Blocks that a model does not have are left out.
        """
        models, rows = np.nonzero(self.block_indices >= 0)
        names = ["damage", "damage_low", "damage_high"]
        names += ["damage_difference", "damage_difference_low", "damage_difference_high", "similarity"]
        columns: dict[str, Any] = {
            "model": [self.models[model] for model in models],
            "block": [self.blocks[row] for row in rows],
            "index": self.block_indices[models, rows],
        }
        return data_frame(columns | {name: getattr(self, name)[models, rows] for name in names})


@checked
@torch.inference_mode(False)
def compare(
    models: Mapping[str, nn.Module | Network] | Sequence[nn.Module | Network],
    data: ImageSource | Mapping[str, ImageSource],
    *,
    metric: MetricName | Metric = "error",
    gradient_images: int = 32,
    draws: int = 10,
    confidence: float = 0.95,
    seed: int = 0,
    **options: Unpack[RunOptions],
) -> Comparison:
    """Compare models on the same images: metric, blocks, deletions and gradients by path length.

    For each model: the metric; the rise when each block is deleted; the metric after random deletions, and after
    deleting the least damaging blocks; the share of each path length in the gradient. Blocks that correspond are found
    by :func:`match_blocks`. Differences from the first model are paired by image, so ``compare([model, model], data)``
    is exactly zero.

    Args:
        models: at least two, in eval mode: modules, unrolled networks, or plain networks
            (:func:`~resnet_paths.network.plain_layers`), by name. Without names they are called 1, 2, 3, ...
        data: labelled images; or, where models need different normalisation or sizes, a mapping from each model's name
            to the same images in the same order.
        metric: see :func:`~resnet_paths.lesion.single_deletions`.
        gradient_images: number of images (the first) of which gradients are taken.
        draws: random sets of blocks for each number of deleted blocks.
        confidence: coverage of each interval.
        seed: of the random sets, and of the halves of the images for `frontier`.
        **options: how to run, see :class:`~resnet_paths.sweep.RunOptions`; each model is a point.

    Raises:
        ValueError: fewer than two models, or images that differ in number or labels.
        NoBlocksError: a module has no residual blocks; pass ``plain_layers(model, x)`` for a plain network.
        SweepError: a model failed.
        UnrollError: a model is in training mode.

    Cost: for each model about ``1.5 n + 8 draws`` forward passes of the images for n blocks, and the exact split of the
    gradient of `gradient_images` images.

    Source: paired differences as in docs/explanation/intervals.md; deletions after Veit, Wilber and Belongie (2016),
    section 4.

    Example:
        >>> from resnet_paths import cifar_resnet, drop_blocks
        >>> from resnet_paths.data import digits
        >>> model = cifar_resnet(14, in_channels=1, widths=(4, 4, 4), seed=0).eval()
        >>> images = digits("test").subset(slice(0, 20))
        >>> record = compare({"full": model, "smaller": drop_blocks(model, [1])}, images, draws=2, progress=False)
        >>> record.matched_by, record.blocks[1], bool(np.isnan(record.damage[1, 1]))
        (('first', 'name'), 'layer1.1', True)
    """
    named = dict(models) if isinstance(models, Mapping) else {str(n + 1): model for n, model in enumerate(models)}
    if len(named) < 2:
        raise ValueError(f"expected at least two models, got {len(named)}")
    images = _images(data, tuple(named))
    networks = [_network(name, model, images[name]) for name, model in named.items()]
    matches = match_blocks(networks, [part.subset(slice(0, _ALIGNED_IMAGES)).x for part in images.values()])
    name, function = metric_named(metric)
    most, fewest = (pick(len(net) for net in networks) for pick in (max, min))
    plan = _Measuring(
        networks=tuple(networks),
        images=tuple(images.values()),
        metric=function,
        counts=tuple(sorted({round(float(count)) for count in np.geomspace(1, fewest, _CURVE_POINTS)})),
        most=most,
        gradient_images=min(gradient_images, min(map(len, images.values()))),
        draws=draws,
        seed=seed,
    )
    points = [{"model": number} for number in range(len(networks))]
    swept = sweep(comparing, points, context=plan, retry_failed=True, chunk=1, **options)
    if swept.errors:
        failed, error = next(iter(swept.errors.items()))
        raise SweepError(f"expected values for all models; {tuple(named)[failed]!r} failed: {last_line(error)}")
    sources = tuple(provenance(net.model, part, seed=seed) for net, part in zip(networks, images.values(), strict=True))
    return Comparison(
        models=tuple(named),
        metric=name,
        blocks=matches.names,
        block_indices=matches.indices,
        similarity=matches.similarity,
        matched_by=matches.matched_by,
        counts=np.array(plan.counts),
        lengths=np.arange(most + 1),
        confidence=confidence,
        draws=draws,
        images=len(plan.images[0]),
        gradient_images=plan.gradient_images,
        source=sources[0],
        sources=sources,
        **_statistics(
            {key: np.asarray(value) for key, value in swept.values.items()}, matches.indices, name, confidence
        ),
    )


def _images(data: Any, names: tuple[str, ...]) -> dict[str, ImageData]:
    """Each model's images; the same labels in the same order."""
    if not (isinstance(data, Mapping) and set(data) == set(names)):
        one = as_data(data)
        return dict.fromkeys(names, one)
    images = {name: as_data(data[name]) for name in names}
    first = images[names[0]]
    for name, other in images.items():
        if not torch.equal(first.labels, other.labels):
            raise ValueError(
                f"expected the same labels for all models, got others for {name!r} ({len(other)} images) than for "
                f"{names[0]!r} ({len(first)}); pass the same images in the same order"
            )
    return images


def _network(name: str, model: nn.Module | Network, images: ImageData) -> Network:
    """The network of a model, refused now rather than after hours on those before it."""
    if isinstance(model, nn.Module):
        try:
            model = unroll(model, placed(images.subset(slice(0, 2)).x, model))
        except NoBlocksError as error:
            hint = "For a network without shortcuts, pass plain_layers(model, x)."
            raise NoBlocksError(f"{name!r}: {error}\n{hint}") from None
    check_eval(model.model)
    return model


@dataclass(frozen=True)
class _Measuring:
    """What decides the values of a comparison; the context of its sweep."""

    networks: tuple[Network, ...]
    images: tuple[ImageData, ...]
    metric: Metric
    counts: tuple[int, ...]
    most: int
    gradient_images: int
    draws: int
    seed: int


def comparing(point: dict[str, int], plan: _Measuring, seed: int) -> dict[str, Any]:
    """One model, image by image; rows of blocks that it does not have are NaN."""
    net, images = plan.networks[point["model"]], plan.images[point["model"]]
    blocks, fast = len(net), quick(net)
    alone = [[block] for block in range(blocks)]
    random = [deleted for drawn in random_sets(range(blocks), plan.counts, plan.draws, plan.seed) for deleted in drawn]
    gates = deletion_gates([[], *alone, *random], blocks)
    values = evaluate_gates(fast, images, gates, plan.metric, progress=False, fast=False)
    drawn = values[1 + blocks :].reshape(len(plan.counts), plan.draws, len(images))
    x = placed(images.subset(slice(0, 1)).x, net.model)
    return {
        "full": values[0],
        "deleted": _padded(values[1 : blocks + 1], plan.most),
        "deletion": drawn.mean(1),
        "frontier": _padded(_frontier(fast, images, values[: blocks + 1], plan), plan.most + 1),
        "share": _padded(_shares(fast, images.subset(slice(0, plan.gradient_images)), plan.most), plan.most + 1, 0.0),
        "parameters": count_parameters(net.model),
        "macs": count_macs(net.model, x),
    }


def _padded(rows: np.ndarray, count: int, value: float = np.nan) -> np.ndarray:
    return np.pad(rows, ((0, count - len(rows)), (0, 0)), constant_values=value)


def _frontier(net: Network, images: ImageData, single: np.ndarray, plan: _Measuring) -> np.ndarray:
    """The metric of the second half of the images, (n + 1, half), blocks deleted in the order of the first half."""
    order = images.random_order(plan.seed).cpu().numpy()
    choosing, reporting = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    damage = single[1:, choosing].mean(1) - single[0, choosing].mean() if len(choosing) else np.zeros(len(net))
    least = np.argsort(damage, kind="stable")
    gates = deletion_gates([least[:size] for size in range(len(net) + 1)], len(net))
    rest = images.subset(torch.from_numpy(reporting))
    return evaluate_gates(net, rest, gates, plan.metric, progress=False, fast=False)


def _shares(net: Network, images: ImageData, most: int) -> np.ndarray:
    """The share of each path length in the gradient of each image, (n + 1, images).

    Lengths that a network does not have are then padded with shares of zero; a plain network has no paths at all, and
    NaN for all of them.
    """
    if not isinstance(net, UnrolledNetwork):
        return np.full((most + 1, len(images)), np.nan)
    x, labels = placed(images.x, net.model), images.labels.to(next(net.model.parameters()).device)
    return gradient_by_length(net, x, labels).share.double().cpu().numpy()


def _statistics(
    measured: dict[str, np.ndarray], indices: np.ndarray, metric: str, confidence: float
) -> dict[str, np.ndarray]:
    """Means with intervals over images, and differences from the first model paired by image."""
    full, bound = measured["full"], bound_of(metric)
    deleted = np.full((*indices.shape, full.shape[1]), np.nan)
    models, rows = np.nonzero(indices >= 0)
    deleted[models, rows] = measured["deleted"][models, indices[models, rows]]
    damage, share = deleted - full[:, None], measured["share"]
    twice = None if bound is None else 2 * bound  # a difference of two damages
    of_metric = partial(intervals, confidence=confidence, bound=bound)
    of_mean = partial(mean_intervals, confidence=confidence)
    per_image = {
        "values": full,
        "difference": full - full[:1],
        "damage": damage,
        "damage_difference": damage - damage[:1],
        "deletion": measured["deletion"],
        "frontier": measured["frontier"],
        "gradient_share": share,
        "gradient_difference": share - share[:1],
    }
    alone = [_ends(rows, partial(of_metric, reference=own)) for rows, own in zip(deleted, full, strict=True)]
    ends = {
        "": _ends(full, of_metric),
        "difference_": _ends(full, partial(of_metric, reference=full[0])),
        "damage_": tuple(np.stack(side) for side in zip(*alone, strict=True)),
        "damage_difference_": _ends(per_image["damage_difference"], partial(of_mean, bound=twice)),
        "deletion_": _ends(per_image["deletion"], partial(of_mean, bound=bound)),
        "frontier_": _ends(per_image["frontier"], partial(of_mean, bound=bound)),
        "gradient_share_": _ends(share, of_mean),
        "gradient_difference_": _ends(per_image["gradient_difference"], of_mean),
    }
    made = {"per_image": full, "parameters": measured["parameters"], "macs": measured["macs"]}
    made |= {name: values.mean(-1) for name, values in per_image.items()}
    for name, (low, high) in ends.items():
        made |= {f"{name}low": low, f"{name}high": high}
    for name in ("difference", "damage_difference", "gradient_difference"):  # the reference's own are zero for certain
        made[f"{name}_low"][0] = made[f"{name}_high"][0] = made[name][0]
    return made


def _ends(
    values: np.ndarray, interval: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """The ends of each row's interval over images; NaN for rows without values."""
    rows = values.reshape(-1, values.shape[-1])
    there = ~np.isnan(rows).any(1)
    low, high = np.full((2, len(rows)), np.nan)
    if there.any():
        low[there], high[there] = interval(rows[there])
    return low.reshape(values.shape[:-1]), high.reshape(values.shape[:-1])
