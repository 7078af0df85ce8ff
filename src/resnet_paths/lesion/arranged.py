"""Run the layers of a network skipped, swapped, repeated or side by side.

Deletions and reorderings are two of many ways to run layers in arrangements in which they were not trained. Sun et al.
(2024) run the middle layers of language models in parallel and in loops, to ask whether layers share one
representation; the same lists of layers pose this question for any residual network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import numpy as np
import torch
from torch import nn

from ..arguments import checked
from ..arguments.ranges import COUNT, NONE_OR_MORE
from ..choices import MetricName
from ..data import ImageSource
from ..data.fitting import data_for
from ..data.metrics import Metric, bound_of, metric_named
from ..graph.inputs import placed
from ..graph.prefix_tree import shared_walk
from ..network import Evaluations, State, UnrolledNetwork
from ..provenance import Provenance, provenance
from ..records import Record
from ..statistics import intervals
from ..tables import data_frame
from ._exchange import Exchange, exchange
from .evaluate import per_image, quick
from .options import Running, StudyOptions

if TYPE_CHECKING:
    import pandas as pd

Arrangement = Sequence[int | Sequence[int]]
"""Layers in the order in which they run; those in an inner sequence run on the same input, and their sums are averaged.
"""
_Steps = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Arrangements(Record):
    """The metric with the layers run in other ways.

    Attributes:
        names: the arrangements.
        arrangements: their layers, as given.
        layers: the names of the layers' blocks, those of one module joined by ``+``.
        values: the metric, averaged over images, (arrangements,).
        per_image: the metric per image, (1 + arrangements, images); row 0 is the network itself.
        full: the metric of the network itself.
        metric: name of the metric.
        source: model, data and versions.
    """

    DIMENSIONS: ClassVar = {"values": "arrangement", "per_image": "network image"}
    COORDINATES: ClassVar = {"arrangement": "names"}

    names: tuple[str, ...]
    arrangements: tuple[_Steps, ...]
    layers: tuple[str, ...]
    values: np.ndarray
    per_image: np.ndarray
    full: float
    metric: str
    source: Provenance = field(repr=False)

    def damage_interval(self, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """The ends of intervals over images for how much each arrangement raises the metric, paired by image."""
        return intervals(self.per_image[1:], confidence, reference=self.per_image[0], bound=bound_of(self.metric))

    def to_pandas(self) -> pd.DataFrame:
        """One row per arrangement; 95 % intervals over images are NaN for a single image."""
        low, high = self.damage_interval() if self.per_image.shape[1] > 1 else (np.nan, np.nan)
        damage = self.values - self.full
        return data_frame(
            {"arrangement": self.names, self.metric: self.values, "damage": damage, "low": low, "high": high}
        )


@checked
def arrangements(
    net: UnrolledNetwork,
    data: ImageSource,
    arranged: Mapping[str, Arrangement],
    *,
    metric: MetricName | Metric = "error",
    **options: Unpack[StudyOptions],
) -> Arrangements:
    """The metric with the layers skipped, swapped, repeated or run in parallel.

    A layer is a module that consists of one or more blocks (attention and MLP of a transformer), or a single block;
    layers are counted from 0. ``[0, 2, 1, 3]`` swaps two, ``[0, 3]`` skips two, ``[0, 1, 1, 3]`` repeats one, ``[0, (1,
    2), 3]`` runs two on the same input and averages the sums of shortcut and branch with which they end (the outputs of
    transformer layers; an activation comes after the mean), ``[0, (1, 2), (1, 2), 3]`` does so twice. Only layers of
    equal shape may trade places: every other layer must stay in its position. See :func:`middle_arrangements`.

    Args:
        net: the network, in eval mode.
        data: images or any other examples with targets; anything that :func:`~resnet_paths.data.as_examples` reads.
        arranged: arrangements by name.
        metric: see :func:`single_deletions`.
        **options: how to run, see :class:`StudyOptions`.

    Raises:
        ValueError: a layer does not exist or cannot run there, or the operations between layers differ, so that
            layers cannot be run elsewhere as they are.

    Cost: one forward pass for each arrangement; arrangements share common prefixes.

    Source: Sun et al. (2024), Transformer Layers as Painters; Lad et al. (2024) for swaps of neighbours.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> first, middle, last = list(range(20)), [20, 21, 22], list(range(23, 27))
        >>> found = arrangements(net, digits("test").subset(slice(0, 20)), {"parallel": [*first, middle, *last]})
        >>> found.names, found.values.shape
        (('parallel',), (1,))
    """
    data = data_for(metric, data, net.model)
    if not arranged:
        raise ValueError("expected at least one arrangement, got none; middle_arrangements() makes the usual ones")
    name, function = metric_named(metric)
    run = Running(**options)
    runner = quick(net, run.fast)
    modules = exchange(runner, placed(data.subset(slice(0, 1)).x, net.model))
    if not modules.direct:
        raise ValueError(
            "expected a network with the same operations between all layers of a stage, got one where they differ, so "
            "that a layer computes something else at another position; reorderings() works on copies"
        )
    rows = tuple(_checked(name, steps, modules) for name, steps in arranged.items())
    original = tuple((layer,) for layer in range(len(modules.holders)))
    values = per_image(_Arranged(runner, (original, *rows), modules), data, function, run)
    return Arrangements(
        names=tuple(arranged),
        arrangements=rows,
        layers=tuple("+".join(net[block].name for block in holder) for holder in modules.holders),
        values=values[1:].mean(1),
        per_image=values,
        full=float(values[0].mean()),
        metric=name,
        source=provenance(net.model, data),
    )


@checked(layers=COUNT, first=NONE_OR_MORE, last=NONE_OR_MORE, loops=COUNT)
def middle_arrangements(layers: int, first: int, last: int, *, loops: int = 3, seed: int = 0) -> dict[str, Arrangement]:
    """The arrangements of Sun et al. (2024) of a network's layers from `first` to `last`.

    They are skipped, all replaced by the one in the middle, reversed, put in a random other order, run in parallel, and
    run in parallel `loops` times in a row.

    Args:
        layers: number of layers of the network.
        first: the first layer in the middle.
        last: the last layer in the middle.
        loops: number of times.
        seed: of the random order.

    Raises:
        ValueError: the middle is not within the layers, or has a single layer.

    Source: Sun et al. (2024), Transformer Layers as Painters, figure 1.

    Example:
        >>> middle_arrangements(5, 1, 3)["looped parallel"]
        [0, (1, 2, 3), (1, 2, 3), (1, 2, 3), 4]
    """
    if not 0 <= first < last < layers:
        raise ValueError(f"expected two or more layers among the {layers}, got those from {first} to {last}")
    before, middle, after = list(range(first)), list(range(first, last + 1)), list(range(last + 1, layers))
    generator, shuffled = np.random.default_rng(seed), middle
    while shuffled == middle:
        shuffled = generator.permutation(middle).tolist()
    ways: dict[str, Sequence[int | Sequence[int]]] = {
        "skipped": [],
        "middle repeated": [middle[len(middle) // 2]] * len(middle),
        "reversed": middle[::-1],
        "random order": shuffled,
        "parallel": [tuple(middle)],
        "looped parallel": [tuple(middle)] * loops,
    }
    return {name: [*before, *way, *after] for name, way in ways.items()}


def _checked(name: str, steps: Arrangement, modules: Exchange) -> _Steps:
    """The layers as tuples, where layers of a group may take each other's places and all others stay in theirs."""
    steps = steps.tolist() if isinstance(steps, np.ndarray | torch.Tensor) else steps
    row = tuple((int(step),) if isinstance(step, int | np.integer) else tuple(map(int, step)) for step in steps)
    given = [layer for step in row for layer in step]
    count = len(modules.holders)
    if not all(row) or any(not 0 <= layer < count for layer in given):
        raise ValueError(f"expected layers from 0 to {count - 1} in arrangement {name!r}, got {list(steps)}")
    group_of = _groups(modules)
    visited = [group_of[layer] for layer in given]
    singles = [layer for layer in range(count) if not isinstance(group_of[layer], tuple)]
    in_place = [layer for layer in given if layer in singles] == singles
    alike = all(len({group_of[layer] for layer in step}) == 1 for step in row)
    if not in_place or not alike or [_start(group) for group in visited] != sorted(map(_start, visited)):
        raise ValueError(
            f"expected only layers of one shape to trade places in arrangement {name!r}, got {list(steps)}; layers "
            f"that can are {[list(group) for group in modules.groups]}, all others stay in their places"
        )
    return row


Group = tuple[int, ...] | int
"""The layers that can trade places with a layer, or its own number if there are none."""


def _groups(modules: Exchange) -> list[Group]:
    """The group of each layer: runs of neighbours of equal shape."""
    group_of: list[Group] = list(range(len(modules.holders)))
    for group in modules.groups:
        for run in _runs(group):
            if len(run) > 1:
                for layer in run:
                    group_of[layer] = run
    return group_of


def _runs(layers: Sequence[int]) -> list[tuple[int, ...]]:
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] + 1 == layer:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return [tuple(run) for run in runs]


def _start(group: Group) -> int:
    return group if isinstance(group, int) else group[0]


@dataclass(frozen=True, eq=False)
class _Arranged:
    """A network with its layers arranged in several ways, as a study for :func:`per_image`."""

    runner: UnrolledNetwork
    rows: tuple[_Steps, ...]
    modules: Exchange

    @property
    def model(self) -> nn.Module:
        """The model that runs."""
        return self.runner.model

    def __len__(self) -> int:
        return len(self.rows)

    def full(self, x: Any) -> torch.Tensor:
        """The logits of the network itself."""
        return self.runner(x)

    def outputs(self, x: Any, count: Evaluations) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (arrangement, logits) for each arrangement."""
        moves = [self._moves(row) for row in self.rows]
        longest = max(map(len, moves))
        padded = [[*row, *[((), -1)] * (longest - len(row))] for row in moves]
        for row, state in shared_walk(self.runner.stem(x), padded, self._step):
            yield row, state.value

    def _moves(self, row: _Steps) -> list[tuple[tuple[int, ...], int]]:
        """Each step's layers and the block whose join ends it: the last of its group leads out of the group.

        A group none of whose layers run is one step without layers, which applies what follows the group.
        """
        group_of, moves = _groups(self.modules), []
        order = list(dict.fromkeys(group_of))
        for group in order:
            members = (group,) if isinstance(group, int) else group
            steps = [step for step in row if step[0] in members] or [()]
            ends = [self.modules.holders[layer][-1] for layer in (members[0], members[-1])]
            moves += [(step, ends[position + 1 == len(steps)]) for position, step in enumerate(steps)]
        return moves

    def _step(self, state: State, _: int, move: tuple[tuple[int, ...], int]) -> State:
        layers, end = move
        if end < 0:
            return state
        if not layers:
            at_end = replace(state, index=end)
            return self.runner.join(at_end, self.runner.shortcut(at_end))
        ends = [self._layer(state, layer) for layer in layers]
        total = ends[0][1] if len(ends) == 1 else torch.stack([total for _, total in ends]).mean(0)
        return self.runner.join(replace(ends[0][0], index=end), total)

    def _layer(self, state: State, layer: int) -> tuple[State, torch.Tensor]:
        """The state before a layer's last sum, and that sum. Nothing is done in place: other layers read this state."""
        *inner, last = self.modules.holders[layer]
        for block in inner:
            here = replace(state, index=block)
            state = self.runner.join(here, self.runner.shortcut(here) + self.runner.branch(here))
        here = replace(state, index=last)
        return here, self.runner.shortcut(here) + self.runner.branch(here)
