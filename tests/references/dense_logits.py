"""The frozen network's logits by path length, by literal enumeration of gates on dense affine maps."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import torch

from resnet_paths import UnrolledNetwork

Affine = tuple[torch.Tensor, torch.Tensor]


def _affine(function, at: torch.Tensor) -> Affine:
    """The dense Jacobian and the constant of a piece at one example (1, features)."""
    value = function(at)
    jacobian = torch.autograd.functional.jacobian(function, at).reshape(value.numel(), at.numel())
    return jacobian, value.flatten() - jacobian @ at.flatten()


def frozen_logits_by_length(net: UnrolledNetwork, x: torch.Tensor) -> torch.Tensor:
    """(n + 1, classes) for one example: the sum over all gate vectors' inclusion-exclusion terms.

    The frozen network F(g) at 0/1 gates is multilinear in g, so the paths through exactly the branches P sum to
    ``sum_{Q in P} (-1)^{|P|-|Q|} F(1_Q)``.
    """
    pieces, state = [], net.stem(x)
    start = state.value.flatten()
    while state.index < len(net):
        total = net.shortcut(state) + net.branch(state)
        pieces.append(
            (
                _affine(lambda y, s=state: net.shortcut(replace(s, value=y)), state.value),
                _affine(lambda y, s=state: net.branch(replace(s, value=y)), state.value),
                _affine(lambda v, s=state: net.join(s, v).value, total),
            )
        )
        state = net.step(state)

    def frozen(gates: tuple[int, ...]) -> torch.Tensor:
        value = start
        for gate, ((s, cs), (j, cj), (d, cd)) in zip(gates, pieces, strict=True):
            value = d @ (s @ value + cs + gate * (j @ value + cj)) + cd
        return value

    values = {gates: frozen(gates) for gates in product((0, 1), repeat=len(net))}
    sums = torch.zeros(len(net) + 1, values[(1,) * len(net)].numel(), dtype=x.dtype)
    for path in values:
        for inner, value in values.items():
            if all(a <= b for a, b in zip(inner, path, strict=True)):
                sums[sum(path)] += (-1) ** (sum(path) - sum(inner)) * value
    return sums
