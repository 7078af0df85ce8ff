"""Delete several blocks at once (Veit, Wilber and Belongie 2016, section 4.2 and figure 5a).

The blocks are drawn at random, as in the paper: the spread over draws shows how much the choice of blocks matters, and
thus whether a search for good sets (`tradeoff`) can gain anything over a number of blocks alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Unpack

import numpy as np

from ..arguments import checked
from ..choices import MetricName
from ..data import ImageSource
from ..data.fitting import data_for
from ..data.metrics import Metric, metric_named
from ..network import BlockRef
from ..provenance import Provenance, provenance
from ..records import Record
from ..statistics import bootstrap_means, design_interval
from ..statistics.proportions import is_share
from ..tables import data_frame
from .evaluate import Network, deletion_gates, evaluate_gates
from .options import StudyOptions

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class RandomDeletions(Record):
    """The metric after deleting k random blocks, for several k and draws.

    Attributes:
        counts: the numbers of deleted blocks, (c,).
        deleted: the deleted blocks for each count, (draws, k).
        values: the metric, averaged over images, (c, draws).
        full: the metric of the full network.
        metric: name of the metric.
        source: model, data, seed and versions.
        blocks: the blocks drawn from.
        per_image: the metric per image, (1 + c * draws, images); row 0 is the full network, followed by the draws of
            each count.
    """

    DIMENSIONS: ClassVar = {"values": "count draw", "per_image": "network image"}
    COORDINATES: ClassVar = {"count": "counts"}

    counts: np.ndarray
    deleted: tuple[np.ndarray, ...]
    values: np.ndarray
    full: float
    metric: str
    source: Provenance = field(repr=False)
    blocks: tuple[int, ...]
    per_image: np.ndarray

    def quantiles(self, levels: Sequence[float] = (0.1, 0.5, 0.9)) -> np.ndarray:
        """Quantiles over the draws, (levels, c): how much it matters which blocks are deleted."""
        quantiles: np.ndarray = np.quantile(self.values, levels, axis=1)
        return quantiles

    def median_interval(
        self, confidence: float = 0.95, *, draws: int = 1000, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ends of intervals over images for the median over the draws, (c,) each: how certain it is.

        See :func:`resnet_paths.statistics.design_interval`.
        """
        return median_intervals(self.per_image[1:], self.values, confidence, draws, seed)

    def to_pandas(self) -> pd.DataFrame:
        """One row per draw."""
        rows = [
            {"deleted": int(count), "draw": draw, self.metric: value}
            for count, values in zip(self.counts, self.values, strict=True)
            for draw, value in enumerate(values)
        ]
        return data_frame(rows)


@checked
def random_deletions(
    net: Network,
    data: ImageSource,
    counts: Sequence[int] | None = None,
    *,
    blocks: Sequence[BlockRef] | None = None,
    draws: int = 20,
    seed: int = 0,
    metric: MetricName | Metric = "error",
    **options: Unpack[StudyOptions],
) -> RandomDeletions:
    """The metric after deleting k blocks drawn at random without replacement, with `draws` draws for each k.

    Veit, Wilber and Belongie (2016), section 4.2: the error of a ResNet rises smoothly with the number of deleted
    blocks, like that of an ensemble that loses members.

    Args:
        net: the network, in eval mode; for a plain network, layers are deleted.
        data: images or any other examples with targets; what :func:`~resnet_paths.data.as_examples` reads.
        counts: the numbers of blocks to delete (default: 1 to all of `blocks`).
        blocks: the blocks to draw from (default: all).
        draws: number of random sets per count.
        seed: seed of the draws.
        metric: see :func:`single_deletions`.
        **options: how to run, see :class:`StudyOptions`.

    Raises:
        ValueError: a count is not between 1 and the number of blocks, or there are no draws.

    Cost: at most ``len(counts) * draws`` forward passes.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> result = random_deletions(net, digits("test").subset(slice(0, 20)), [1, 5], draws=2)
        >>> result.values.shape
        (2, 2)
    """
    data = data_for(metric, data, net.model)
    players = list(range(len(net))) if blocks is None else net.indices(list(blocks))
    sizes = list(range(1, len(players) + 1)) if counts is None else [int(count) for count in counts]
    if not sizes or min(sizes) < 1 or max(sizes) > len(players) or draws < 1:
        raise ValueError(f"expected counts from 1 to {len(players)} and at least one draw, got {sizes} and {draws}")
    name, function = metric_named(metric)
    deleted = random_sets(players, sizes, draws, seed)
    gates = deletion_gates([[], *(indices for drawn in deleted for indices in drawn)], len(net))
    values = evaluate_gates(net, data, gates, function, **options)
    means = values.mean(1)
    return RandomDeletions(
        counts=np.array(sizes),
        deleted=tuple(deleted),
        values=means[1:].reshape(len(sizes), draws),
        full=float(means[0]),
        metric=name,
        source=provenance(net.model, data, seed=seed),
        blocks=tuple(players),
        per_image=values,
    )


def random_sets(blocks: Sequence[int], counts: Sequence[int], draws: int, seed: int) -> list[np.ndarray]:
    """For each count k, (draws, k) random blocks in ascending order, drawn without replacement.

    Example:
        >>> [drawn.shape for drawn in random_sets(range(5), [1, 3], draws=4, seed=0)]
        [(4, 1), (4, 3)]
    """
    generator = np.random.default_rng(seed)
    return [
        np.stack([np.sort(generator.choice(blocks, count, replace=False)) for _ in range(draws)]) for count in counts
    ]


def median_intervals(
    per_image: np.ndarray, values: np.ndarray, confidence: float = 0.95, draws: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Intervals over images for the median of each row of means, (rows,) each.

    Args:
        per_image: values per image, (rows * draws, images).
        values: their means over images, (rows, draws).
        confidence: coverage of the intervals.
        draws: number of bootstrap draws that estimate the error of the medians.
        seed: seed of the bootstrap.
    """
    medians = np.median(bootstrap_means(per_image, draws, seed).reshape(draws, *values.shape), axis=2)
    share, images = is_share(per_image), per_image.shape[1]
    ends = [
        design_interval(float(np.median(row)), bootstrap_medians, images, share=share, confidence=confidence)
        for row, bootstrap_medians in zip(values, medians.T, strict=True)
    ]
    low, high = np.array(ends).reshape(-1, 2).T
    return low, high
