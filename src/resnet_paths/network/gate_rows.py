"""Many gate vectors on one input: rows that begin alike share the evaluation of what they share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..graph.pieces import gated_sum
from ..graph.prefix_tree import shared_walk

if TYPE_CHECKING:
    from .unrolled import State, UnrolledNetwork


@dataclass
class Evaluations:
    """How much was evaluated: the cost of a set of gate vectors, in pieces of the network.

    Attributes:
        stems: evaluations of the stem.
        shortcuts: of a unit's shortcut.
        branches: of a unit's branch.
        joins: of what follows a unit's sum.
    """

    stems: int = 0
    shortcuts: int = 0
    branches: int = 0
    joins: int = 0


class _Fork:
    """A state at which rows part: its shortcut and branch are computed once, when first asked for."""

    def __init__(self, net: UnrolledNetwork, state: State, count: Evaluations) -> None:
        self.net, self.state, self.count = net, state, count
        self._shortcut: torch.Tensor | None = None
        self._branch: torch.Tensor | None = None

    def next(self, gate: float) -> State:
        """The state after the unit at a gate."""
        if self._shortcut is None:
            self._shortcut = self.net.shortcut(self.state)
            self.count.shortcuts += 1
        needed = gate != 0.0 or (self.state.plan or self.net.segments).exporting[self.state.index]
        if needed and self._branch is None:
            self._branch = self.net.branch(self.state)
            self.count.branches += 1
        self.count.joins += 1
        if self._branch is None or gate == 0.0:
            return self.net.join(self.state, self._shortcut)
        total = gated_sum(self._shortcut, self._branch, gate)
        return self.net.join(self.state, total, overwrite=not torch.is_grad_enabled())


def evaluate_rows(
    net: UnrolledNetwork, x: Any, gates: torch.Tensor, count: Evaluations | None = None
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (row, output) for each row of gates (m, n), depth first over their common beginnings."""
    count = Evaluations() if count is None else count
    if gates.requires_grad:
        yield from _separately(net, x, gates, count)
        return
    count.stems += 1

    def step(fork: _Fork, _: int, gate: float) -> _Fork:
        return _Fork(net, fork.next(gate), count)

    for row, fork in shared_walk(_Fork(net, net.stem(x), count), gates.tolist(), step):
        yield row, fork.state.value


def _separately(
    net: UnrolledNetwork, x: Any, gates: torch.Tensor, count: Evaluations
) -> Iterator[tuple[int, torch.Tensor]]:
    stem = net.stem(x)
    count.stems += 1
    for row, gate in enumerate(gates):
        state = net.run(stem, gate)
        count.shortcuts, count.branches, count.joins = (
            number + len(net) for number in (count.shortcuts, count.branches, count.joins)
        )
        yield row, state.value
