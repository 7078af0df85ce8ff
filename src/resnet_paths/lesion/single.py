"""Delete each block in turn, or only its shortcut (Veit, Wilber and Belongie 2016, section 4.1 and figure 3).

The study on which others build: its damage is the standard by which predictors are judged, and its order is the start
of every search. Deleting the shortcut is the paper's control; it shows that the branch alone cannot carry the signal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import numpy as np
import torch
from torch import nn

from ..arguments import checked
from ..choices import MetricName
from ..data import ImageSource, InMemory
from ..data.fitting import data_for
from ..data.metrics import Metric, bound_of, metric_named
from ..graph.prefix_tree import shared_walk
from ..network import Evaluations, State, UnrolledNetwork
from ..provenance import Provenance, provenance
from ..records import Record
from ..statistics import intervals
from ..tables import data_frame
from .evaluate import Network, deletion_gates, evaluate_gates, per_image, quick
from .options import Running, StudyOptions

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class SingleDeletions(Record):
    """The metric with each block deleted in turn.

    Attributes:
        names: the blocks.
        shortcuts: kind of each block's shortcut.
        metric: name of the metric.
        full: the metric of the full network.
        full_interval: its 95 % interval over images.
        values: the metric with each block deleted, (n,).
        low: lower ends of the 95 % intervals of `values`, (n,).
        high: upper ends, (n,).
        per_image: the metric per image, (n + 1, images); row 0 is the full network, row i + 1 that without block i.
        source: model, data and versions.
        deleted: ``"branch"`` (in a plain network, the layer), or ``"shortcut"``.
    """

    DIMENSIONS: ClassVar = {"values": "block", "low": "block", "high": "block", "per_image": "network image"}
    COORDINATES: ClassVar = {"block": "names"}

    names: tuple[str, ...]
    shortcuts: tuple[str, ...]
    metric: str
    full: float
    full_interval: tuple[float, float]
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    per_image: np.ndarray
    source: Provenance = field(repr=False)
    deleted: str = "branch"

    @property
    def damage(self) -> np.ndarray:
        """How much the metric rises when each block is deleted."""
        return self.values - self.full

    def damage_interval(self, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """The ends of intervals of the damage over images, paired with the full network, (n,) each.

        They are Tango's score intervals for metrics that are 0 or 1 on each image, otherwise those of
        :func:`resnet_paths.statistics.mean_intervals`.
        """
        return intervals(self.per_image[1:], confidence, reference=self.per_image[0], bound=bound_of(self.metric))

    def least(self, count: int) -> list[int]:
        """The `count` blocks that do the least damage when deleted alone.

        Raises:
            ValueError: `count` is negative or exceeds the number of blocks.
        """
        if not 0 <= count <= len(self.names):
            raise ValueError(f"expected a count from 0 to {len(self.names)}, the number of blocks, got {count}")
        return [int(index) for index in np.argsort(self.values, kind="stable")[:count]]

    def to_pandas(self) -> pd.DataFrame:
        """One row per block; the damage with its paired 95 % interval over images (NaN for a single image)."""
        ends = self.damage_interval() if self.per_image.shape[1] > 1 else (np.nan, np.nan)
        return data_frame(
            {
                "block": range(len(self.names)),
                "name": self.names,
                "shortcut": self.shortcuts,
                self.metric: self.values,
                "low": self.low,
                "high": self.high,
                "damage": self.damage,
                "damage_low": ends[0],
                "damage_high": ends[1],
            }
        )


@checked
def single_deletions(
    net: Network,
    data: ImageSource,
    *,
    metric: MetricName | Metric = "error",
    **options: Unpack[StudyOptions],
) -> SingleDeletions:
    """The metric of a network with each of its blocks deleted in turn.

    Veit, Wilber and Belongie (2016), section 4.1: deleting a block of a ResNet has little effect, while deleting a
    layer of a plain network destroys it; deleting blocks that change the shape of the stream does the most damage.

    Args:
        net: the network, in eval mode; its model is not changed. For a plain network
            (:func:`resnet_paths.network.plain_layers`), layers are deleted.
        data: images or any other examples with targets; what :func:`~resnet_paths.data.as_examples` reads.
        metric: ``error``, ``loss``, ``perplexity`` or another of :func:`metric_named`; or a function of outputs,
            targets and the full network's outputs that returns one value per example.
        **options: how to run, see :class:`StudyOptions`.

    Returns:
        The record, with intervals over images.

    Cost: about n/2 + 1 forward passes for n blocks.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> result = single_deletions(net, digits("test").subset(slice(0, 40)))
        >>> result.values.shape
        (27,)
    """
    data = data_for(metric, data, net.model)
    name, function = metric_named(metric)
    gates = deletion_gates([[], *([block] for block in range(len(net)))], len(net))
    values = evaluate_gates(net, data, gates, function, **options)
    return _record(net, data, name, values, "branch")


@checked
def shortcut_deletions(
    net: UnrolledNetwork,
    data: ImageSource,
    *,
    metric: MetricName | Metric = "error",
    **options: Unpack[StudyOptions],
) -> SingleDeletions:
    """The metric with each block's shortcut deleted in turn and its branch kept: ``y = post(branch(x))``.

    This is the complementary lesion: paths that skip the block are gone and those through its branch stay, 2^(n-1) of
    each. A network that is an ensemble of mostly short paths suffers far more from it than from losing the branch.

    Args:
        net: the network, in eval mode; its model is not changed.
        data: images or any other examples with targets; what :func:`~resnet_paths.data.as_examples` reads.
        metric: see :func:`single_deletions`.
        **options: how to run, see :class:`StudyOptions`.

    Returns:
        The record; ``deleted`` is ``"shortcut"``.

    Cost: about n/2 + 1 forward passes for n blocks.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> result = shortcut_deletions(net, digits("test").subset(slice(0, 40)))
        >>> result.deleted, result.values.shape
        ('shortcut', (27,))
    """
    data = data_for(metric, data, net.model)
    name, function = metric_named(metric)
    run = Running(**options)
    values = per_image(_WithoutShortcut(quick(net, run.fast)), data, function, run)
    return _record(net, data, name, values, "shortcut")


@dataclass(frozen=True, eq=False)
class _WithoutShortcut:
    """The full network, then each block in turn without its shortcut."""

    runner: UnrolledNetwork

    @property
    def model(self) -> nn.Module:
        return self.runner.model

    def __len__(self) -> int:
        return len(self.runner) + 1

    def full(self, x: Any) -> torch.Tensor:
        return self.runner(x)

    def outputs(self, x: Any, count: Evaluations) -> Iterator[tuple[int, torch.Tensor]]:
        def step(state: State, position: int, cut: bool) -> State:
            count.shortcuts += 1
            count.branches += 1
            count.joins += 1
            if not cut:
                return self.runner.step(state)
            self.runner.shortcut(state)  # for its side effect: later operations may read sizes that it records
            return self.runner.join(state, self.runner.branch(state))

        n = len(self.runner)
        rows = [[False] * n, *[[position == block for position in range(n)] for block in range(n)]]
        count.stems += 1
        for row, state in shared_walk(self.runner.stem(x), rows, step):
            yield row, state.value


def _record(net: Network, data: InMemory, metric: str, values: np.ndarray, deleted: str) -> SingleDeletions:
    low, high = intervals(values, bound=bound_of(metric))
    means = values.mean(1)
    return SingleDeletions(
        names=tuple(block.name for block in net),
        shortcuts=tuple(block.shortcut for block in net),
        metric=metric,
        full=float(means[0]),
        full_interval=(float(low[0]), float(high[0])),
        values=means[1:],
        low=low[1:],
        high=high[1:],
        per_image=values,
        source=provenance(net.model, data),
        deleted=deleted,
    )
