"""The gradient by path length on any graph, from ordinary backward passes alone.

Nothing of a forward pass changes when a branch b is replaced by ``b.detach() + t (b - b.detach())``, but the gradient
that comes through it is multiplied by t. So the ordinary gradient is a polynomial in the branches' factors, and its
coefficients are the sums over paths: with one factor for all branches, those of each length (from backward passes at as
many points as there are lengths); with a separate factor for each branch, those of each set of branches (from all
vectors of zeros and ones).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch

from resnet_paths import UnrolledNetwork

Loss = Callable[[torch.Tensor], torch.Tensor]


def scaled_gradient(
    net: UnrolledNetwork, x: Any, leaf: torch.Tensor, loss: Loss, factors: Sequence[float], at: int | None = None
) -> list[torch.Tensor]:
    """The gradient at a leaf in x (or a block's entry), then at the parameters, that of each branch by its factor."""
    state, start = net.stem(x), leaf
    while state.index < len(net):
        if state.index == at:
            start = state.value
        branch, factor = net.branch(state), factors[state.index]
        total = net.shortcut(state) + branch.detach() + factor * (branch - branch.detach())
        state = net.join(state, total)
    return list(
        torch.autograd.grad(
            loss(state.value), [start, *net.model.parameters()], allow_unused=True, materialize_grads=True
        )
    )


def gradients_by_length(
    net: UnrolledNetwork, x: Any, leaf: torch.Tensor, loss: Loss, longest: int, at: int | None = None
) -> list[torch.Tensor]:
    """For the start and each parameter the coefficients of t^0, ..., t^longest, from Chebyshev points of t."""
    points = np.cos(np.pi * (np.arange(longest + 1) + 0.5) / (longest + 1))
    values = [scaled_gradient(net, x, leaf, loss, [float(t)] * len(net), at) for t in points]
    inverse = torch.from_numpy(np.linalg.inv(np.vander(points, increasing=True)))
    return [torch.tensordot(inverse, torch.stack(parts), dims=1) for parts in zip(*values, strict=True)]


def gradients_by_branches(
    net: UnrolledNetwork, x: Any, leaf: torch.Tensor, loss: Loss, at: int | None = None
) -> dict[tuple[int, ...], torch.Tensor]:
    """For each set of branches the sum over the paths that enter exactly these, by inclusion and exclusion."""
    n = len(net)
    value = {gates: scaled_gradient(net, x, leaf, loss, gates, at)[0] for gates in product((0.0, 1.0), repeat=n)}
    sums = {}
    for gates in value:
        inner = [other for other in value if all(a <= b for a, b in zip(other, gates, strict=True))]
        total = sum((-1) ** int(sum(gates) - sum(other)) * value[other] for other in inner)
        sums[tuple(index for index, gate in enumerate(gates) if gate)] = total
    return sums  # type: ignore[return-value]
