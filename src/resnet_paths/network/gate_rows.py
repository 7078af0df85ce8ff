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


SKIPPED = float("-inf")  # sorts before every gate, and no gate is infinite


@dataclass
class Evaluations:
    """How much was evaluated: the cost of a set of gate vectors, in pieces of the network.

    Attributes:
        stems: evaluations of the stem.
        shortcuts: of a block's shortcut.
        branches: of a block's branch.
        joins: of what follows a block's sum.
    """

    stems: int = 0
    shortcuts: int = 0
    branches: int = 0
    joins: int = 0


class _Fork:
    """A state at which rows part: its shortcut and branch are computed once, when first asked for."""

    def __init__(self, net: UnrolledNetwork, state: State, count: Evaluations, partial: bool) -> None:
        self.net, self.state, self.count, self.partial = net, state, count, partial
        self.overwrite = net.overwrites and not torch.is_grad_enabled()
        self._shortcut: torch.Tensor | None = None
        self._branch: torch.Tensor | None = None

    def next(self, gate: float) -> State:
        """The state after the block at a gate."""
        if gate == SKIPPED:
            return self.net.skip(self.state)
        if self._shortcut is None:
            self._shortcut = self.net.shortcut(self.state)
            self.count.shortcuts += 1
        if gate != 0.0 and self._branch is None:
            self._branch = self.net.branch(self.state)
            self.count.branches += 1
        self.count.joins += 1
        partial = self.partial
        if self._branch is None or gate == 0.0:
            return self.net.join(self.state, self._shortcut, partial=partial)
        plan = self.state.plan or self.net.segments
        total = gated_sum(self._shortcut, self._branch, gate, branch_first=plan.branch_first[self.state.index])
        return self.net.join(self.state, total, overwrite=self.overwrite, partial=partial)


def evaluate_rows(
    net: UnrolledNetwork, x: Any, gates: torch.Tensor, count: Evaluations | None = None
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (row, output) for each row of gates (m, n), depth first over their common beginnings."""
    count = Evaluations() if count is None else count
    if gates.requires_grad:
        yield from _separately(net, x, gates, count)
        return
    count.stems += 1

    plan = net.segments
    rows = gates.tolist()
    if plan.skippable:
        rows = [_without_superfluous(row, plan.superfluous(row)) for row in rows]
    partial = any(SKIPPED in row for row in rows)

    def step(fork: _Fork, _: int, gate: float) -> _Fork:
        return _Fork(net, fork.next(gate), count, partial)

    for row, fork in shared_walk(_Fork(net, net.stem(x), count, partial), rows, step):
        yield row, fork.state.value


def _without_superfluous(row: list[float], superfluous: list[bool]) -> list[float]:
    """Gates on which the output does not depend, all alike: rows that differ in them only are one evaluation."""
    return [SKIPPED if skipped else gate for gate, skipped in zip(row, superfluous, strict=True)]


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
