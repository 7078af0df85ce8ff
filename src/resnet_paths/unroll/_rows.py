"""Many gate vectors on one input: rows that begin alike share the evaluation of what they share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ._segments import gated_sum

if TYPE_CHECKING:
    from .network import State, UnrolledNetwork


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
    rows = gates.tolist()
    order = sorted(range(len(rows)), key=rows.__getitem__)
    count.stems += 1
    path: list[_Fork | None] = [_Fork(net, net.stem(x), count)]
    output: torch.Tensor | None = None
    for place, row in enumerate(order):
        start = _common(rows[order[place - 1]], rows[row]) if place else 0
        following = _common(rows[row], rows[order[place + 1]]) if place + 1 < len(order) else -1
        if start < len(net) or output is None:
            output = _walk(path, rows[row], start, following, net, count)
        yield row, output


def _walk(
    path: list[_Fork | None],
    row: list[float],
    start: int,
    following: int,
    net: UnrolledNetwork,
    count: Evaluations,
) -> torch.Tensor:
    """Go down one row from where it parts from the last one, keeping only the forks still wanted."""
    del path[start + 1 :]
    fork = path[start]
    if fork is None:
        raise RuntimeError(f"the state at unit {start} was let go too early")
    for index in range(start, len(net)):
        state = fork.next(row[index])
        if index > following and index < len(path):
            path[index] = None
        if state.index == len(net):
            return state.value
        fork = _Fork(net, state, count)
        path.append(fork)
    raise RuntimeError("a network without units has no rows")


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


def _common(one: list[float], other: list[float]) -> int:
    """The number of gates with which both begin."""
    length = 0
    for a, b in zip(one, other, strict=True):
        if a != b:
            break
        length += 1
    return length
