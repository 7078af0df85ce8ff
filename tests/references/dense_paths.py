"""Every path's gradient as a literal product of dense Jacobians (Veit et al. 2016, section 3, eq. 6 on)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product

import torch

from resnet_paths import UnrolledNetwork


def _jacobian(function: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> torch.Tensor:
    return torch.autograd.functional.jacobian(function, at)


def path_gradients(
    net: UnrolledNetwork, x: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]
) -> dict[tuple[int, ...], torch.Tensor]:
    """For one example x (1, features): blocks taken by a path to the gradient that came along it, (features,)."""
    states = [net.stem(x)]
    for _ in range(len(net)):
        states.append(net.step(states[-1]))
    seed = _jacobian(loss, states[-1].value).flatten()

    factors = []
    for state, after in pairwise(states):
        total = net.shortcut(state) + net.branch(state)
        d = _jacobian(lambda v, s=state: net.join(s, v).value, total)
        s_ = _jacobian(lambda y, s=state: net.shortcut(replace(s, value=y)), state.value)
        j = _jacobian(lambda y, s=state: net.branch(replace(s, value=y)), state.value)
        sizes = (after.value.numel(), total.numel(), state.value.numel())
        d, s_, j = d.reshape(sizes[0], sizes[1]), s_.reshape(sizes[1:]), j.reshape(sizes[1:])
        factors.append((d @ s_, d @ j))
    stem = _jacobian(lambda v: net.stem(v).value, x).reshape(states[0].value.numel(), x.numel())

    gradients = {}
    for taken in product((0, 1), repeat=len(net)):
        row = seed
        for choice, pair in zip(reversed(taken), reversed(factors), strict=True):
            row = row @ pair[choice]
        gradients[tuple(i for i, t in enumerate(taken) if t)] = row @ stem
    return gradients


def by_length(gradients: dict[tuple[int, ...], torch.Tensor], n: int) -> torch.Tensor:
    """Sum over the paths of each length, (n + 1, features)."""
    size = next(iter(gradients.values())).numel()
    sums = torch.zeros(n + 1, size, dtype=torch.float64)
    for blocks, gradient in gradients.items():
        sums[len(blocks)] += gradient
    return sums
