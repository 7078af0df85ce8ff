"""Small networks whose operations a program without PyTorch can do, and all of those operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from graphs import Nested
from torch import nn

from helpers import randomise_norms
from resnet_paths.models import cifar_resnet
from resnet_paths.network import UnrolledNetwork, unroll


class Residual(nn.Module):
    """The sum of a shortcut and a branch."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.branch(x)


class Excited(nn.Module):
    """A convolution whose channels are scaled by what all pixels say (squeeze and excitation), and by a constant."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding="same", dilation=2)
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)
        self.gamma = nn.Parameter(torch.linspace(0.5, 1.5, channels).view(-1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.convolution(x)
        scale = F.relu6(self.down(F.adaptive_avg_pool2d(x, 1)))
        return self.gamma * (x * torch.sigmoid(self.up(scale))) / 2


class Everything(nn.Module):
    """Every operation once, and each activation."""

    def __init__(self) -> None:
        super().__init__()
        grouped = nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 1), groups=2)
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GELU(), nn.MaxPool2d(3, 2, 1))
        self.first = Residual(
            nn.Sequential(
                nn.SiLU(), nn.BatchNorm2d(4), nn.Hardswish(), nn.Conv2d(4, 4, 1), nn.Hardsigmoid(), nn.Dropout()
            )
        )
        self.second = Residual(Excited(4))
        self.third = Residual(
            nn.Sequential(grouped, nn.LeakyReLU(0.2), nn.ELU(), nn.Conv2d(6, 6, 1), nn.Tanh()),
            nn.Sequential(nn.AvgPool2d((2, 1), ceil_mode=True), nn.Conv2d(4, 6, (1, 2), padding=(0, 1))),
        )
        self.fourth = Residual(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.GELU("tanh")))
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.fifth = Residual(nn.Sequential(nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 24)))
        self.head = nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(F.pad(1 - x, (1, 0, 0, 2)))
        x = self.fourth(self.third(self.second(self.first(x))))
        x = torch.clamp(self.pool(x), -2, 2) - 0.25
        x = F.adaptive_avg_pool2d(F.max_pool2d(x, 2, 1, dilation=1, ceil_mode=True)[..., ::1], (2, 2))
        x = x + torch.tanh(x)  # no block: nothing in it is learned
        return self.head(self.fifth(-x.reshape(x.size(0), -1)))


def _cifar(depth: int, size: int = 6, **options: object) -> Callable[[], tuple[nn.Module, tuple[int, ...]]]:
    return lambda: (cifar_resnet(depth, widths=(2, 4, 4), seed=0, **options), (3, size, size))


MODELS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "basic, zero padding": _cifar(8, 5),
    "projections": _cifar(8, shortcut="B"),
    "projections everywhere, pre-activation": _cifar(8, shortcut="C", preactivation=True),
    "pooled shortcuts, bottlenecks": _cifar(11, 5, shortcut="D", block="bottleneck"),
    "groups": _cifar(11, shortcut="B", block="bottleneck", groups=2),
    "stochastic depth": _cifar(8, keep_last=0.5),
    "stem of ImageNet": _cifar(8, 16, stem="7x7"),
    "nested": lambda: (Nested(), (2, 4, 3)),
    "everything": lambda: (Everything(), (2, 7, 6)),
}


@cache
def network(name: str) -> tuple[UnrolledNetwork, torch.Tensor]:
    """The unrolled network in float64, and three images."""
    torch.manual_seed(0)
    model, shape = MODELS[name]()
    net = unroll(randomise_norms(model).double().eval())
    return net, torch.randn(3, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
