"""The network linearised at the activations of one pass, evaluated at gates: literally, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from resnet_paths import UnrolledNetwork
from resnet_paths.network import State

Values = dict[Any, torch.Tensor]


def _floats(state: State) -> Values:
    side = {node: value for node, value in state.side.items() if isinstance(value, torch.Tensor)}
    return {None: state.value, **{node: value for node, value in side.items() if value.is_floating_point()}}


def _at(state: State, values: Values) -> State:
    side = {**state.side, **{node: value for node, value in values.items() if node is not None}}
    return replace(state, value=values[None], side=side)


def _moved(function: Callable[[Values], Any], at: Values, by: Values) -> tuple[Any, Any]:
    cloned = {node: value.clone() for node, value in at.items()}  # an expanded one cannot be moved
    return torch.func.jvp(function, (cloned,), (by,))


@torch.no_grad()
def linearised(net: UnrolledNetwork, x: Any, gates: Sequence[float], constant: bool = False) -> torch.Tensor:
    """The output when each branch is multiplied by a gate; with `constant` each branch keeps its recorded value."""
    state = net.stem(x)
    moved = {node: torch.zeros_like(value) for node, value in _floats(state).items()}
    for gate in gates:
        at, after = _floats(state), net.step(state)
        shortcut, by_shortcut = _moved(lambda v, s=state: net.shortcut(_at(s, v)), at, moved)
        branch, by_branch = _moved(lambda v, s=state: net.branch(_at(s, v)), at, moved)
        total = shortcut + branch
        shift = shortcut + by_shortcut + gate * (branch if constant else branch + by_branch) - total
        join = lambda v, s=state: _floats(net.join(_at(s, {k: w for k, w in v.items() if k != "sum"}), v["sum"]))  # noqa: E731
        _, moved = _moved(join, {**at, "sum": total}, {**moved, "sum": shift})
        state = after
    return state.value + moved[None]


def logits_at_points(net: UnrolledNetwork, x: Any) -> torch.Tensor:
    """The coefficients of t^0, ..., t^n of the linearised network with all branches multiplied by t."""
    n = len(net)
    points = np.cos(np.pi * (np.arange(n + 1) + 0.5) / (n + 1))
    values = torch.stack([linearised(net, x, [float(t)] * n) for t in points])
    return torch.tensordot(torch.from_numpy(np.linalg.inv(np.vander(points, increasing=True))), values, dims=1)
