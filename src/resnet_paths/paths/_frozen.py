"""One forward pass, kept so that rows of values can be pushed forward through each piece's Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..graph.locking import MODEL_LOCK
from ..network import State, UnrolledNetwork
from ._objective import check_eval

Function = Callable[..., torch.Tensor]


@dataclass(frozen=True, eq=False)
class FrozenUnit:
    """A unit at the activations of the pass: its values, and its pieces as functions."""

    name: str
    entry: torch.Tensor
    shortcut: torch.Tensor
    branch: torch.Tensor
    total: torch.Tensor
    exit: torch.Tensor
    state: State
    net: UnrolledNetwork

    def push_shortcut(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (rows, batch, ...) at the entry, times S."""
        if self.shortcut is self.entry:
            return rows
        return push(lambda y: self.net.shortcut(self._at(y)), self.entry, rows)

    def push_branch(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows at the entry, times J."""
        return push(lambda y: self.net.branch(self._at(y)), self.entry, rows)

    def push_join(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows at the sum, times D."""
        if self.exit is self.total:
            return rows
        return push(lambda v: self.net.join(self._at(self.entry), v).value, self.total, rows)

    def _at(self, value: torch.Tensor) -> State:
        return replace(self.state, value=value, side=dict(self.state.side))


def freeze(net: UnrolledNetwork, x: Any) -> tuple[torch.Tensor, list[FrozenUnit]]:
    """The first unit's entry and all units at the activations of one forward pass."""
    check_eval(net)
    with torch.no_grad():
        state = net.stem(x)
        entry, units = state.value, []
        while state.index < len(net):
            shortcut, branch = net.shortcut(state), net.branch(state)
            total = shortcut + branch
            after = net.join(state, total)
            name = net[state.index].name
            units.append(FrozenUnit(name, state.value, shortcut, branch, total, after.value, state, net))
            state = after
    return entry, units


def push(function: Function, at: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows times a function's Jacobian: one batched Jacobian-vector product, in chunks that fit the cache."""
    return push_together(function, (at,), (rows,))


def push_together(function: Function, at: tuple[torch.Tensor, ...], rows: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The same of a function of several values: row j of each moves with row j of the others."""
    at = tuple(value.clone() if 0 in value.stride() else value for value in at)  # expanded ones cannot be moved

    def one(*row: torch.Tensor) -> torch.Tensor:
        tangent: torch.Tensor = torch.func.jvp(function, at, row)[1]
        return tangent

    size = max(1, 2**20 // max(1, *(value.numel() * value.element_size() for value in at)))
    # autograd on keeps modules off their fused inference kernels, attention in plain operations: both have no
    # forward derivative
    with MODEL_LOCK, torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # torch's forward level is one a process
        pushed: torch.Tensor = torch.func.vmap(one, chunk_size=size)(*rows)
    return pushed.detach()


def source_of_constant(curved: dict[str, tuple[str, ...]], unit: FrozenUnit, kind: str) -> str:
    """Whether what a piece adds beyond its Jacobian is a bias or also a remainder of linearisation."""
    return "remainder" if f"{unit.name}: {kind}" in curved else "bias"
