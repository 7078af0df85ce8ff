"""The ResNets of He et al. for small images: one definition, plain or residual, of any depth."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

Shortcut = Literal["A", "B", "C"]
BlockKind = Literal["basic", "bottleneck"]


class ZeroPadShortcut(nn.Module):
    """Option A: every second pixel, and zero channels on both sides (He et al. 2015, section 4.2).

    Example:
        >>> ZeroPadShortcut(4, 8, 2)(torch.ones(1, 4, 6, 6)).shape
        torch.Size([1, 8, 3, 3])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        extra = out_channels - in_channels
        self.before, self.after = extra // 2, extra - extra // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sub-sample and pad; (batch, in, h, w) to (batch, out, ceil(h / stride), ceil(w / stride))."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        """The module's settings."""
        return f"stride={self.stride}, before={self.before}, after={self.after}"


class Unit(nn.Module):
    """One residual unit, or its plain twin with the same layers and no shortcut.

    Post-activation (He et al. 2015): ``relu(shortcut(x) + bn(conv(...relu(bn(conv(x))))))``. Pre-activation
    (He et al. 2016): ``shortcut(x) + conv(relu(bn(...conv(relu(bn(x))))))``, where a projection leaves after
    the first ``relu(bn(x))``.
    """

    conv1: nn.Module
    bn1: nn.Module

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        block: BlockKind,
        residual: bool,
        preactivation: bool,
        option: Shortcut,
    ) -> None:
        super().__init__()
        kernels = [3, 3] if block == "basic" else [1, 3, 1]
        out_channels = channels * (1 if block == "basic" else 4)
        widths = [in_channels, *[channels] * (len(kernels) - 1), out_channels]
        strided = 0 if block == "basic" else 1
        for layer, kernel in enumerate(kernels):
            step = stride if layer == strided else 1
            convolution = nn.Conv2d(widths[layer], widths[layer + 1], kernel, step, kernel // 2, bias=False)
            setattr(self, f"conv{layer + 1}", convolution)
            setattr(self, f"bn{layer + 1}", nn.BatchNorm2d(widths[layer if preactivation else layer + 1]))
        self.depth = len(kernels)
        self.residual, self.preactivation = residual, preactivation
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = _shortcut(in_channels, out_channels, stride, option, changes, preactivation)
        if not residual:
            self.shortcut = nn.Identity()
        self.shares_preactivation = preactivation and changes and option != "A"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in, h, w) to (batch, out, h / stride, w / stride)."""
        return self._pre(x) if self.preactivation else self._post(x)

    def _post(self, x: torch.Tensor) -> torch.Tensor:
        out = x
        for layer in range(1, self.depth + 1):
            out = getattr(self, f"bn{layer}")(getattr(self, f"conv{layer}")(out))
            if layer < self.depth:
                out = F.relu(out)
        if self.residual:
            out = out + self.shortcut(x)
        return F.relu(out)

    def _pre(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(x))
        entry = out if self.shares_preactivation else x
        out = self.conv1(out)
        for layer in range(2, self.depth + 1):
            out = getattr(self, f"conv{layer}")(F.relu(getattr(self, f"bn{layer}")(out)))
        return out + self.shortcut(entry) if self.residual else out


def _shortcut(
    in_channels: int, out_channels: int, stride: int, option: Shortcut, changes: bool, preactivation: bool
) -> nn.Module:
    if not changes and option != "C":
        return nn.Identity()
    if option == "A":
        return ZeroPadShortcut(in_channels, out_channels, stride)
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    if preactivation:
        return convolution
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


class CifarResNet(nn.Module):
    """A ResNet for small images; build it with :func:`cifar_resnet`."""

    def __init__(self, depth: int, arguments: dict[str, object], units: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.depth, self.arguments = depth, arguments
        block: BlockKind = arguments["block"]  # type: ignore[assignment]
        preactivation = bool(arguments["preactivation"])
        channels = widths[0]
        self.conv1 = nn.Conv2d(int(str(arguments["in_channels"])), channels, 3, 1, 1, bias=False)
        self.bn1 = nn.Identity() if preactivation else nn.BatchNorm2d(channels)
        for stage, width in enumerate(widths):
            stack = []
            for position in range(units):
                stride = 2 if stage and not position else 1
                stack.append(
                    Unit(
                        channels,
                        width,
                        stride,
                        block,
                        bool(arguments["residual"]),
                        preactivation,
                        arguments["shortcut"],  # type: ignore[arg-type]
                    )
                )
                channels = width * (1 if block == "basic" else 4)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*stack))
        self.stages = len(widths)
        self.preactivation = preactivation
        if preactivation:
            self.bn_last = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, int(str(arguments["num_classes"])))
        self._initialise(int(str(arguments["seed"])) if arguments["seed"] is not None else None)

    def _initialise(self, seed: int | None) -> None:
        """Normal weights of variance 2 / fan_out (He et al. 2015), drawn in an order that twins share."""
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        shared = [(n, m) for n, m in self.named_modules() if ".shortcut" not in n]
        apart = [(n, m) for n, m in self.named_modules() if ".shortcut" in n]
        for _, module in [*shared, *apart]:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=generator)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01, generator=generator)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes) of images (batch, channels, h, w) of any size from 4 x 4."""
        out = self.conv1(x)
        if not self.preactivation:
            out = F.relu(self.bn1(out))
        for stage in range(self.stages):
            out = getattr(self, f"layer{stage + 1}")(out)
        if self.preactivation:
            out = F.relu(self.bn_last(out))
        return self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))


def cifar_resnet(
    depth: int,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    residual: bool = True,
    preactivation: bool = False,
    shortcut: Shortcut = "A",
    block: BlockKind = "basic",
    widths: tuple[int, ...] = (16, 32, 64),
    seed: int | None = None,
) -> CifarResNet:
    """A ResNet for small images: a 3x3 convolution, stages of equal units, global pooling, a linear layer.

    The CIFAR networks of He et al. (2015), section 4.2; pre-activation of He et al. (2016), section 4. With
    ``residual=False`` the same layers without shortcuts (the plain twin): same parameter names in the branches
    and, from the same seed, the same initial values.

    Args:
        depth: number of weighted layers: 6k + 2 (basic) or 9k + 2 (bottleneck), for three stages.
        num_classes: number of logits.
        in_channels: channels of the images.
        residual: with shortcuts.
        preactivation: norm and activation before each convolution.
        shortcut: where shapes change A pads with zeros, B projects; C projects everywhere.
        block: two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times the width at the end.
        widths: channels of each stage; the resolution halves between stages.
        seed: of the initial values; None draws from the global generator.

    Raises:
        ValueError: the depth does not fit the block, or an option is unknown.

    Example:
        >>> sum(p.numel() for p in cifar_resnet(56).parameters())
        853018
    """
    layers = {"basic": 2, "bottleneck": 3}.get(block)
    if layers is None:
        raise ValueError(f"expected block 'basic' or 'bottleneck', got {block!r}")
    if shortcut not in ("A", "B", "C"):
        raise ValueError(f"expected shortcut 'A', 'B' or 'C', got {shortcut!r}")
    per_stage = layers * len(widths)
    if depth < per_stage + 2 or (depth - 2) % per_stage:
        near = [
            per_stage * k + 2 for k in range(max(1, (depth - 2) // per_stage), max(1, (depth - 2) // per_stage) + 2)
        ]
        raise ValueError(
            f"expected a depth of {per_stage} k + 2 for {block} blocks in {len(widths)} stages, got {depth}; "
            f"the nearest are {near[0]} and {near[1]}"
        )
    arguments: dict[str, object] = {
        "num_classes": num_classes,
        "in_channels": in_channels,
        "residual": residual,
        "preactivation": preactivation,
        "shortcut": shortcut,
        "block": block,
        "widths": tuple(widths),
        "seed": seed,
    }
    return CifarResNet(depth, arguments, (depth - 2) // per_stage, tuple(widths))
