"""Evaluate many gate vectors on one input, so that rows with a common prefix share its evaluation.

Rows also share the work at the block where they diverge: shortcut and branch do not depend on the block's own gate, so
they are computed once and only the join runs per gate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..graph.pieces import gated_sum
from ..graph.prefix_tree import shared_walk

if TYPE_CHECKING:
    from .unrolled import State, UnrolledNetwork


SKIPPED = float("-inf")  # a float, so that rows can be sorted; no gate is infinite


@dataclass
class Evaluations:
    """The cost of evaluating gate vectors, as the number of pieces of the network that were run.

    Attributes:
        stems: runs of the stem.
        shortcuts: runs of a block's shortcut.
        branches: runs of a block's branch.
        joins: runs of what follows a block's sum.
    """

    stems: int = 0
    shortcuts: int = 0
    branches: int = 0
    joins: int = 0


class _Fork:
    """A state from which rows may diverge: its shortcut and branch are computed once, when first needed."""

    def __init__(self, net: UnrolledNetwork, state: State, count: Evaluations, partial: bool) -> None:
        self.net, self.state, self.count, self.partial = net, state, count, partial
        self.overwrite = net.overwrites and not torch.is_grad_enabled()
        self._shortcut: torch.Tensor | None = None
        self._branch: torch.Tensor | None = None

    def next(self, gate: float) -> State:
        """The state after the block at the given gate."""
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
    """Yield (row, output) for each row of gates (m, n), depth first over the tree of their prefixes."""
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
    """Set gates that the output does not depend on to one value: rows that differ only there are evaluated once."""
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
