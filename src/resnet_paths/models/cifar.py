"""The ResNets of He et al. for small images: one definition, plain or residual, of any depth."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from ._unit import EXPANSION, KERNELS, BlockKind, Shortcut, Unit

Stem = Literal["3x3", "7x7"]


@dataclass(frozen=True)
class _Settings:
    """What :func:`cifar_resnet` was asked for, checked."""

    depth: int
    num_classes: int
    in_channels: int
    residual: bool
    preactivation: bool
    shortcut: Shortcut
    block: BlockKind
    widths: tuple[int, ...]
    stem: Stem
    zero_init_residual: bool
    seed: int | None

    def __post_init__(self) -> None:
        choices = {"block": tuple(KERNELS), "shortcut": ("A", "B", "C"), "stem": ("3x3", "7x7")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                head = ", ".join(repr(choice) for choice in known[:-1])
                raise ValueError(f"expected {name} {head} or {known[-1]!r}, got {getattr(self, name)!r}")
        numbers = {"num_classes": self.num_classes, "in_channels": self.in_channels}
        numbers |= {f"widths[{place}]": width for place, width in enumerate(self.widths)}
        for name, number in numbers.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"expected a whole number of at least 1 for {name}, got {number!r}")
        if not self.widths:
            raise ValueError("expected the width of at least one stage, got widths=()")
        if self.zero_init_residual and not self.residual:
            raise ValueError("expected residual=True with zero_init_residual: without shortcuts its output is constant")
        self._check_depth()

    def _check_depth(self) -> None:
        step = len(KERNELS[self.block]) * len(self.widths)
        if isinstance(self.depth, int) and self.depth >= step + 2 and (self.depth - 2) % step == 0:
            return
        below = max(1, int(self.depth - 2) // step)
        raise ValueError(
            f"expected a depth of {step} k + 2 for {self.block} blocks in {len(self.widths)} stages, got "
            f"{self.depth}; the nearest are {step * below + 2} and {step * (below + 1) + 2}"
        )

    @property
    def units(self) -> int:
        """Units of each stage."""
        return (self.depth - 2) // (len(KERNELS[self.block]) * len(self.widths))


class CifarResNet(nn.Module):
    """A ResNet for small images; build it with :func:`cifar_resnet`.

    Attributes:
        depth: number of weighted layers.
        arguments: the other arguments of :func:`cifar_resnet` that build this network again.
    """

    def __init__(self, settings: _Settings) -> None:
        super().__init__()
        self.depth = settings.depth
        self.arguments: dict[str, Any] = {name: value for name, value in asdict(settings).items() if name != "depth"}
        self.stages, self.preactivation = len(settings.widths), settings.preactivation
        seed = _drawn_seed() if settings.seed is None else settings.seed

        channels = settings.widths[0]
        small = settings.stem == "3x3"
        kernel, stride = (3, 1) if small else (7, 2)
        self.conv1 = nn.Conv2d(settings.in_channels, channels, kernel, stride, kernel // 2, bias=False)
        if not settings.preactivation:
            self.bn1 = nn.BatchNorm2d(channels)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        for stage in range(self.stages):
            setattr(self, f"layer{stage + 1}", _stage(settings, stage))
        channels = settings.widths[-1] * EXPANSION[settings.block]
        if settings.preactivation:
            self.bn_last = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, settings.num_classes)

        self._initialise(seed)
        for unit in self.modules():
            if isinstance(unit, Unit) and settings.zero_init_residual:
                unit.silence()

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Normal weights of variance 2 / fan_out (He et al. 2015), drawn in an order that twins share.

        Shortcuts come last, so that networks that differ in them alone agree in all else. The values are drawn
        on the CPU in float32 whatever the default device and dtype, so that they are the same everywhere.
        """
        generator = torch.Generator("cpu").manual_seed(seed)
        modules = sorted(self.named_modules(), key=lambda item: ".shortcut" in item[0])
        for _, module in modules:
            if isinstance(module, nn.Conv2d | nn.Linear):
                drawn = torch.empty(module.weight.shape, device="cpu", dtype=torch.float32)
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(drawn, mode="fan_out", generator=generator)
                else:
                    nn.init.normal_(drawn, std=0.01, generator=generator)
                    nn.init.zeros_(module.bias)
                module.weight.copy_(drawn)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes) of images (batch, channels, h, w) of any size."""
        out = self.conv1(x)
        if not self.preactivation:
            out = F.relu(self.bn1(out))
        out = self.pool(out)
        for stage in range(self.stages):
            out = getattr(self, f"layer{stage + 1}")(out)
        if self.preactivation:
            out = F.relu(self.bn_last(out))
        return self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))


def _stage(settings: _Settings, stage: int) -> nn.Sequential:
    width = settings.widths[stage]
    expanded = EXPANSION[settings.block]
    entering = settings.widths[0] if stage == 0 else settings.widths[stage - 1] * expanded
    return nn.Sequential(
        *(
            Unit(
                entering if position == 0 else width * expanded,
                width,
                2 if stage and position == 0 else 1,
                block=settings.block,
                option=settings.shortcut,
                residual=settings.residual,
                preactivation=settings.preactivation,
                first=stage == 0 and position == 0,
            )
            for position in range(settings.units)
        )
    )


def _drawn_seed() -> int:
    """A seed from the global generator: after ``torch.manual_seed`` twins agree."""
    return int(torch.randint(0, 2**63 - 1, (), device="cpu", dtype=torch.int64))


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
    stem: Stem = "3x3",
    zero_init_residual: bool = False,
    seed: int | None = None,
) -> CifarResNet:
    """A ResNet for small images: a 3x3 convolution, stages of equal units, global pooling, a linear layer.

    The CIFAR networks of He et al. (2015), section 4.2; pre-activation of He et al. (2016), section 4, where
    the first unit and those that change the shape or project send the activation through their shortcut. With
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
        stem: a 3x3 convolution (section 4.2), or 7x7 of stride 2 and max pooling as for ImageNet (section 3.3).
        zero_init_residual: branches start at zero: the scale of their last norm (Goyal et al. 2017, section 5.1),
            in pre-activation their last convolution.
        seed: of the initial values; None draws one from the global generator.

    Raises:
        ValueError: the depth does not fit the block, or an option is unknown.

    Example:
        >>> sum(p.numel() for p in cifar_resnet(56).parameters())
        853018
    """
    return CifarResNet(
        _Settings(
            depth=depth,
            num_classes=num_classes,
            in_channels=in_channels,
            residual=residual,
            preactivation=preactivation,
            shortcut=shortcut,
            block=block,
            widths=tuple(widths),
            stem=stem,
            zero_init_residual=zero_init_residual,
            seed=seed,
        )
    )
