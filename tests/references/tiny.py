"""Residual networks small enough for dense Jacobians, in float64 with random norms."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from helpers import randomise_norms
from resnet_paths import UnrolledNetwork, unroll


class Block(nn.Module):
    """post(shortcut(x) + branch(x)) of vectors; with `before`, the norm and activation of pre-activation."""

    def __init__(self, width: int, out: int, post: nn.Module | None, smooth: bool) -> None:
        super().__init__()
        act: nn.Module = nn.GELU() if smooth else nn.ReLU()
        self.branch = nn.Sequential(nn.Linear(width, 5), nn.BatchNorm1d(5), act, nn.Linear(5, out))
        self.shortcut = nn.Identity() if width == out else nn.Linear(width, out)
        self.post = post

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = self.shortcut(x) + self.branch(x)
        return total if self.post is None else self.post(total)


def tiny_network(
    n: int, *, post: bool = True, project: bool = True, smooth: bool = False, inputs: int = 4
) -> UnrolledNetwork:
    """n blocks of width 3 (4 after the middle, with a projection), stem and head."""
    torch.manual_seed(n)
    widths = [3 if i <= n // 2 or not project else 4 for i in range(n + 1)]
    blocks = [Block(a, b, nn.ReLU() if post else None, smooth) for a, b in pairwise(widths)]
    model = nn.Sequential(nn.Linear(inputs, 3), nn.ReLU(), *blocks, nn.Linear(widths[-1], 3))
    return unroll(randomise_norms(model).double().eval())


def tiny_batch(batch: int = 3, inputs: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Random inputs and targets."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(batch, inputs, generator=generator, dtype=torch.float64)
    return x, torch.arange(batch) % 3
