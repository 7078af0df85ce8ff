"""Delete blocks of one stage at a time, to see where in the network the damage is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from ..arguments import checked
from ..choices import MetricName
from ..data import ImageSource
from ..data.fitting import data_for
from ..data.metrics import Metric
from ..graph.inputs import placed
from ..network import UnrolledNetwork
from ..records import Record
from ..surgery.reorder import block_shapes
from ..tables import stacked
from .evaluate import quick
from .multiple import RandomDeletions, random_deletions
from .options import StudyOptions

if TYPE_CHECKING:
    import pandas as pd


@checked
def stages(net: UnrolledNetwork, example_input: Any) -> tuple[tuple[int, ...], ...]:
    """The blocks grouped into stages: a stage starts where the output of a block has a new shape.

    Args:
        net: the network.
        example_input: an input, for the shapes.

    Cost: one forward pass.

    Example:
        >>> import torch
        >>> from resnet_paths.models import cifar_resnet
        >>> from resnet_paths.network import unroll
        >>> stages(unroll(cifar_resnet(14).eval()), torch.randn(1, 3, 8, 8))
        ((0, 1), (2, 3), (4, 5))
    """
    runs: list[list[int]] = []
    previous = None
    for index, (_, leaves) in enumerate(block_shapes(net, example_input)):
        if leaves != previous:
            runs.append([])
        runs[-1].append(index)
        previous = leaves
    return tuple(map(tuple, runs))


@dataclass(frozen=True, eq=False)
class StageDeletions(Record):
    """Random deletions within each stage.

    Attributes:
        stages: the blocks of each stage.
        results: the random deletions within each stage; the last count is the full stage.
    """

    stages: tuple[tuple[int, ...], ...]
    results: tuple[RandomDeletions, ...]

    @property
    def full_stage(self) -> np.ndarray:
        """The metric with all branches of a stage deleted, (stages,)."""
        return np.array([result.values[-1, 0] for result in self.results])

    def to_pandas(self) -> pd.DataFrame:
        """One row per stage, count and draw."""
        tables = [result.to_pandas().assign(stage=stage) for stage, result in enumerate(self.results)]
        return stacked(tables)


@checked
def stage_deletions(
    net: UnrolledNetwork,
    data: ImageSource,
    counts: Sequence[int] | None = None,
    *,
    draws: int = 10,
    seed: int = 0,
    metric: MetricName | Metric = "error",
    **options: Unpack[StudyOptions],
) -> StageDeletions:
    """The metric after deleting k random blocks of one stage, for each stage, and after deleting the full stage.

    Args:
        net: the network, in eval mode.
        data: images or any other examples with targets; what :func:`~resnet_paths.data.as_examples` reads.
        counts: numbers of blocks (default: 1 to the stage's size); a stage skips counts beyond its size.
        draws: number of random sets per count; a full stage is deleted once and repeated in the record.
        seed: seed of the draws.
        metric: see :func:`single_deletions`.
        **options: how to run, see :class:`StudyOptions`.

    Raises:
        ValueError: a count is below one, or there are no draws.

    Cost: at most `draws` forward passes per block of the network.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> result = stage_deletions(net, digits("test").subset(slice(0, 20)), [1], draws=2)
        >>> [len(stage) for stage in result.stages], result.full_stage.shape
        ([9, 9, 9], (3,))
    """
    data = data_for(metric, data, net.model)
    quick(net, False)
    stage_blocks = stages(net, placed(data.subset(slice(0, 1)).x, net.model))
    sizes = list(range(1, max(map(len, stage_blocks)) + 1)) if counts is None else [int(count) for count in counts]
    results = []
    for stage in stage_blocks:
        stage_sizes = sorted({count for count in sizes if count < len(stage)} | {len(stage)})
        results.append(
            random_deletions(
                net,
                data,
                stage_sizes,
                blocks=list(stage),
                draws=draws,
                seed=seed,
                metric=metric,
                **options,
            )
        )
    return StageDeletions(stages=stage_blocks, results=tuple(results))
