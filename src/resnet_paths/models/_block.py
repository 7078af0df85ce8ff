"""The residual block of He et al., post- or pre-activation, plain or grouped, and its shortcuts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..arguments import checked
from ..choices import BlockKind, Shortcut
from ._settings import EXPANSION, KERNELS, Settings
from .stochastic_depth import StochasticDepth


@checked
class ZeroPadShortcut(nn.Module):
    """Option A: subsample the pixels, and pad the channels with zeros on both sides (He et al. 2015, section 4.2).

    Raises:
        ValueError: there are fewer output than input channels, which padding cannot achieve.

    Example:
        >>> ZeroPadShortcut(4, 8, 2)(torch.ones(1, 4, 6, 6)).shape
        torch.Size([1, 8, 3, 3])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        extra = out_channels - in_channels
        if extra < 0:
            raise ValueError(
                f"expected at least as many output as input channels for shortcut 'A', got {in_channels} in and "
                f"{out_channels} out; use widths that do not decrease, or shortcut 'B'"
            )
        self.stride = stride
        self.before, self.after = extra // 2, extra - extra // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Subsample and pad: (batch, in, h, w) to (batch, out, ceil(h / stride), ceil(w / stride))."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        """The module's settings."""
        return f"stride={self.stride}, before={self.before}, after={self.after}"


class Block(nn.Module):
    """One residual block, or its plain twin with the same layers and no shortcut.

    Post-activation (He et al. 2015, section 3): ``relu(shortcut(x) + bn(conv(...relu(bn(conv(x))))))``.
    Pre-activation (He et al. 2016, section 4): ``shortcut(x) + conv(relu(bn(...conv(relu(bn(x))))))``, where
    the shortcut starts after the first ``relu(bn(x))`` if the block changes the shape, projects, or is the first.

    Args:
        in_channels: channels of the input.
        channels: channels of the output, before the expansion of a bottleneck.
        stride: stride of the first 3x3 convolution.
        settings: of the network: kind of block and shortcut, groups.
        first: the first block of the network.
        middle: channels of a bottleneck's 3x3 convolution.
        keep: probability that the branch survives a training step (Huang et al. 2016).
    """

    conv1: nn.Module
    bn1: nn.Module

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        settings: Settings,
        *,
        first: bool,
        middle: int,
        keep: float,
    ) -> None:
        super().__init__()
        block, option = settings.block, settings.shortcut
        out_channels = channels * EXPANSION[block]
        self.residual, self.preactivation = settings.residual, settings.preactivation
        widths = [in_channels, *[middle] * (len(KERNELS[block]) - 1), out_channels]
        self._add_layers(widths, stride, block, settings.groups)

        changes = stride != 1 or in_channels != out_channels
        self.shares_preactivation = self.preactivation and (changes or first or option == "C")
        self.survival = StochasticDepth(keep) if self.residual and keep < 1 else None
        self.shortcut: nn.Module = nn.Identity()
        if self.residual and (changes or option == "C"):
            self.shortcut = _shortcut(in_channels, out_channels, stride, option, self.preactivation)

    def _add_layers(self, widths: list[int], stride: int, block: BlockKind, groups: int) -> None:
        """``conv1 bn1 conv2 bn2 ...``; stride and groups are those of the first 3x3 convolution."""
        kernels = KERNELS[block]
        for layer, kernel in enumerate(kernels):
            spatial = layer == kernels.index(3)
            convolution = nn.Conv2d(
                widths[layer],
                widths[layer + 1],
                kernel,
                stride if spatial else 1,
                kernel // 2,
                groups=groups if spatial else 1,
                bias=False,
            )
            setattr(self, f"conv{layer + 1}", convolution)
            setattr(self, f"bn{layer + 1}", nn.BatchNorm2d(widths[layer if self.preactivation else layer + 1]))
        self.depth = len(kernels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in, h, w) to (batch, out, ceil(h / stride), ceil(w / stride))."""
        return self._pre(x) if self.preactivation else self._post(x)

    def _post(self, x: torch.Tensor) -> torch.Tensor:
        out = x
        for layer in range(1, self.depth + 1):
            out = getattr(self, f"bn{layer}")(getattr(self, f"conv{layer}")(out))
            if layer < self.depth:
                out = F.relu(out)
        if self.residual:
            out = self._surviving(out) + self.shortcut(x)
        return F.relu(out)

    def _pre(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = F.relu(self.bn1(x))
        entry = out if self.shares_preactivation else x
        out = self.conv1(out)
        for layer in range(2, self.depth + 1):
            out = getattr(self, f"conv{layer}")(F.relu(getattr(self, f"bn{layer}")(out)))
        if self.residual:
            out = self._surviving(out) + self.shortcut(entry)
        return out

    def _surviving(self, branch: torch.Tensor) -> torch.Tensor:
        return branch if self.survival is None else self.survival(branch)

    def silence(self) -> None:
        """Zero the end of the branch: its norm's scale, or in pre-activation its last convolution."""
        last = getattr(self, f"{'conv' if self.preactivation else 'bn'}{self.depth}")
        nn.init.zeros_(last.weight)

    def extra_repr(self) -> str:
        """The settings that the layers do not show."""
        return f"residual={self.residual}, preactivation={self.preactivation}"


def _shortcut(in_channels: int, out_channels: int, stride: int, option: Shortcut, preactivation: bool) -> nn.Module:
    if option == "A":
        return ZeroPadShortcut(in_channels, out_channels, stride)
    # in pre-activation, the input is already normalised, and the sum gets no norm (He et al. 2016, section 4.1)
    norms = [] if preactivation else [nn.BatchNorm2d(out_channels)]
    if option == "D":
        pool = nn.Identity() if stride == 1 else nn.AvgPool2d(stride, ceil_mode=True)
        return nn.Sequential(pool, nn.Conv2d(in_channels, out_channels, 1, bias=False), *norms)
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(convolution, *norms) if norms else convolution
