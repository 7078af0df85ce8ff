"""Run the blocks in another order (Veit, Wilber and Belongie 2016, section 4.3 and figure 5b).

Deletions ask whether a block is needed; reorderings ask whether it depends on what runs before it. Only blocks of equal
shape trade places, so random orders of all blocks do not exist: orders are made by swaps, and their distance from the
original is measured by Kendall's tau, as in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import numpy as np
import torch
from torch import nn

from ..arguments import Range, checked
from ..choices import MetricName
from ..data import ImageSource
from ..data.fitting import data_for
from ..data.metrics import Metric, bound_of, metric_named
from ..graph.inputs import call_model, placed
from ..graph.prefix_tree import shared_walk
from ..imports import first_import
from ..network import Evaluations, State, UnrolledNetwork
from ..provenance import Provenance, provenance
from ..records import Record
from ..statistics import correlation_ranges, intervals, spearman
from ..surgery import reorder_blocks
from ..tables import data_frame
from ._exchange import Exchange, exchange
from .evaluate import per_image, quick
from .multiple import median_intervals
from .options import Running, StudyOptions

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Reorderings(Record):
    """The metric with the blocks in other orders.

    Attributes:
        orders: the blocks in the order in which they run, (m, n).
        swaps: number of random swaps behind each order, (m,).
        tau: Kendall's rank correlation of each order with the original one, (m,).
        values: the metric, averaged over images, (m,).
        per_image: the metric per image, (m + 1, images); row 0 is the original network.
        full: the metric of the original network.
        metric: name of the metric.
        groups: the names of the blocks that can be exchanged with each other.
        direct: whether blocks were run in another order as they are, sharing prefixes; otherwise a reordered copy of
            the model was made for each order.
        evaluations: number of network pieces run, over all batches of images (zero if not direct).
        source: model, data, seed and versions.
    """

    DIMENSIONS: ClassVar = {
        "orders": "order position",
        "swaps": "order",
        "tau": "order",
        "values": "order",
        "per_image": "network image",
    }

    orders: np.ndarray
    swaps: np.ndarray
    tau: np.ndarray
    values: np.ndarray
    per_image: np.ndarray
    full: float
    metric: str
    groups: tuple[tuple[str, ...], ...]
    direct: bool
    evaluations: Evaluations
    source: Provenance = field(repr=False)

    def intervals(self, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """The ends of intervals over images for each order's metric, (m,) each."""
        return intervals(self.per_image[1:], confidence, bound=bound_of(self.metric))

    def rank_correlation(self, *, seed: int = 0) -> tuple[float, float, float]:
        """Spearman's correlation of the metric with tau over the orders, and its plausible range.

        Near -1, the metric gets worse the further the order is from the original one, as Veit et al. found. The range
        is not a confidence interval (:func:`resnet_paths.statistics.correlation_ranges`).
        """
        low, high = correlation_ranges(self.per_image[1:], self.tau, seed=seed)[0]
        return float(spearman(self.values[None], self.tau[None])[0]), float(low), float(high)

    def by_swaps(self, confidence: float = 0.95) -> pd.DataFrame:
        """One row per number of swaps: mean tau, median and spread over orders, interval over images."""
        rows = []
        for count in np.unique(self.swaps):
            selected = self.swaps == count
            ends = median_intervals(self.per_image[1:][selected], self.values[selected][None], confidence)
            spread = np.quantile(self.values[selected], (0.1, 0.5, 0.9))
            named = dict(zip(("tenth", "median", "ninetieth"), spread.tolist(), strict=True))
            rows.append(
                {"swaps": int(count), "tau": self.tau[selected].mean(), **named, "low": ends[0][0], "high": ends[1][0]}
            )
        return data_frame(rows)

    def to_pandas(self) -> pd.DataFrame:
        """One row per order; 95 % intervals over images are NaN for a single image."""
        low, high = self.intervals() if self.per_image.shape[1] > 1 else (np.nan, np.nan)
        return data_frame({"swaps": self.swaps, "tau": self.tau, self.metric: self.values, "low": low, "high": high})


@checked
def order_distance(order: Sequence[int]) -> float:
    """Kendall's tau of an order with the original one, ``1 - 4 inversions / (n (n - 1))``: 1 if equal, -1 if reversed.

    Example:
        >>> order_distance([0, 1, 2, 3]), order_distance([3, 2, 1, 0])
        (1.0, -1.0)
    """
    with first_import("scipy.stats"):
        from scipy.stats import kendalltau  # imported late: it takes a second

    return float(kendalltau(np.arange(len(order)), np.asarray(order)).statistic)


@checked(swaps=Range(0, 10**9))
def random_swaps(groups: Sequence[Sequence[int]], size: int, swaps: int, generator: np.random.Generator) -> np.ndarray:
    """An order of `size` blocks after random swaps of two positions in one group, all such pairs being equally likely.

    Raises:
        ValueError: no group has two positions.

    Example:
        >>> random_swaps([[1, 2]], 4, 1, np.random.default_rng(0))
        array([0, 2, 1, 3])
    """
    pairs = [(one, other) for group in groups for i, one in enumerate(group) for other in group[i + 1 :]]
    if not pairs and swaps:
        raise ValueError("expected a group with at least two positions to swap, got none")
    order = np.arange(size)
    for choice in generator.integers(len(pairs), size=swaps):
        one, other = pairs[choice]
        order[[one, other]] = order[[other, one]]
    return order


@checked
def reorderings(
    net: UnrolledNetwork,
    data: ImageSource,
    swaps: Sequence[int] = (1, 2, 4, 8, 16, 32),
    *,
    draws: int = 10,
    seed: int = 0,
    metric: MetricName | Metric = "error",
    **options: Unpack[StudyOptions],
) -> Reorderings:
    """The metric after random swaps of blocks of equal shape, against how far the order is from the original one.

    Veit, Wilber and Belongie (2016), section 4.3: k pairs of blocks of identical dimensions are swapped at random;
    Kendall's tau between the new and the original order measures the corruption, and the error rises smoothly as it
    falls. Unlike deletion, reordering also puts long paths into an order that was never trained.

    Args:
        net: the network, in eval mode; its model is not changed.
        data: images or any other examples with targets; what :func:`~resnet_paths.data.as_examples` reads.
        swaps: the numbers of swaps to try.
        draws: number of random orders per number of swaps.
        seed: seed of the orders.
        metric: see :func:`single_deletions`.
        **options: how to run, see :class:`StudyOptions`.

    Raises:
        ValueError: no two blocks have equal shapes, a number of swaps is below one, or there are no draws.

    Cost: at most ``len(swaps) * draws + 1`` forward passes; orders share common prefixes. If operations between the
    blocks differ (a norm of the next block), a copy of the model per order and batch of images.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> result = reorderings(net, digits("test").subset(slice(0, 20)), [1, 8], draws=2)
        >>> bool(result.tau[:2].min() > result.tau[2:].max())
        True
    """
    data = data_for(metric, data, net.model)
    swap_counts = [int(count) for count in swaps]
    if not swap_counts or min(swap_counts) < 1 or draws < 1:
        raise ValueError(f"expected at least 1 swap and at least one draw, got {swap_counts} and {draws}")
    name, function = metric_named(metric)
    run = Running(**options)
    runner = quick(net, run.fast)
    modules = exchange(runner, placed(data.subset(slice(0, 1)).x, net.model))

    generator = np.random.default_rng(seed)
    swapped = [
        random_swaps(modules.groups, len(modules.holders), count, generator)
        for count in swap_counts
        for _ in range(draws)
    ]
    orders = [modules.blocks(tuple(order)) for order in swapped]
    study, pieces = Orders(runner, (tuple(range(len(net))), *orders), modules), Evaluations()
    values = per_image(study, data, function, run, pieces)
    return Reorderings(
        orders=np.array(orders),
        swaps=np.repeat(swap_counts, draws),
        tau=np.array([order_distance(order) for order in orders]),
        values=values[1:].mean(1),
        per_image=values,
        full=float(values[0].mean()),
        metric=name,
        groups=tuple(tuple(net[modules.holders[holder][0]].name for holder in group) for group in modules.groups),
        direct=modules.direct,
        evaluations=pieces,
        source=provenance(net.model, data, seed=seed),
    )


@dataclass(frozen=True, eq=False)
class Orders:
    """A network with its blocks in several orders, as a study for :func:`per_image`."""

    runner: UnrolledNetwork
    orders: tuple[tuple[int, ...], ...]
    modules: Exchange

    @property
    def model(self) -> nn.Module:
        """The model that runs."""
        return self.runner.model

    def __len__(self) -> int:
        return len(self.orders)

    def full(self, x: Any) -> torch.Tensor:
        """The outputs in the original order."""
        return self.runner(x)

    def outputs(self, x: Any, count: Evaluations) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (order, outputs) for each order."""
        if not self.modules.direct:
            first = x[:1] if isinstance(x, torch.Tensor) else x
            for row, order in enumerate(self.orders):
                reordered = reorder_blocks(self.runner, order, example_input=first)
                yield row, self.runner.followed(call_model(reordered, x))
            return
        inner = {block for holder in self.modules.holders for block in holder[:-1]}

        def step(state: State, position: int, source: int) -> State:
            count.shortcuts += 1
            count.branches += 1
            count.joins += 1
            here = replace(state, index=source)
            total = self.runner.shortcut(here) + self.runner.branch(here)
            after = self.runner.join(here if source in inner else state, total)
            return replace(after, index=position + 1)

        count.stems += 1
        for row, state in shared_walk(self.runner.stem(x), self.orders, step):
            yield row, state.value
