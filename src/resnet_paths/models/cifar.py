"""The ResNets of He et al. for small images: one definition for plain and residual networks of any depth.

torchvision has only the ImageNet networks. Plain networks are built by the same code, because a comparison with and
without shortcuts must not differ in anything else; the later refinements (stem, pooled shortcuts, zero scales) are
options for the same reason.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..arguments import checked
from ..choices import BlockKind, Shortcut, Stem
from ._block import Block
from ._settings import EXPANSION, Settings
from .stochastic_depth import linear_decay


class CifarResNet(nn.Module):
    """A ResNet for small images; build it with :func:`cifar_resnet`.

    Attributes:
        depth: number of weighted layers.
        arguments: the other arguments of :func:`cifar_resnet` that rebuild this network.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.depth = settings.depth
        self.arguments: dict[str, Any] = {name: value for name, value in asdict(settings).items() if name != "depth"}
        self.stages, self.preactivation = len(settings.widths), settings.preactivation
        seed = _drawn_seed() if settings.seed is None else settings.seed

        channels = settings.widths[0]
        self.conv1 = _stem(settings.stem, settings.in_channels, channels)
        if not settings.preactivation:
            self.bn1 = nn.BatchNorm2d(channels)
        self.pool = nn.Identity() if settings.stem == "3x3" else nn.MaxPool2d(3, 2, 1)
        keeps = linear_decay(self.stages * settings.blocks, settings.keep_last)
        for stage in range(self.stages):
            stage_keeps = keeps[stage * settings.blocks : (stage + 1) * settings.blocks]
            setattr(self, f"layer{stage + 1}", _stage(settings, stage, stage_keeps))
        channels = settings.widths[-1] * EXPANSION[settings.block]
        if settings.preactivation:
            self.bn_last = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, settings.num_classes)

        self._initialise(seed)
        for block in self.modules():
            if isinstance(block, Block) and settings.zero_init_residual:
                block.silence()

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Draw normal weights of variance 2 / fan_out (He et al. 2015), in an order shared by plain and residual twins.

        Shortcuts come last, so that networks that differ only in them agree everywhere else. The values are drawn on
        the CPU in float32, whatever the default device and dtype, so that they are the same everywhere.
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
        logits: torch.Tensor = self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def _stem(kind: Stem, in_channels: int, channels: int) -> nn.Module:
    """The layers before the first norm; the three 3x3 convolutions are those of He et al. (2019), section 4.2."""
    if kind != "deep":
        kernel, stride = (3, 1) if kind == "3x3" else (7, 2)
        return nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
    narrow = max(1, channels // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, narrow, 3, 2, 1, bias=False),
        nn.BatchNorm2d(narrow),
        nn.ReLU(),
        nn.Conv2d(narrow, narrow, 3, 1, 1, bias=False),
        nn.BatchNorm2d(narrow),
        nn.ReLU(),
        nn.Conv2d(narrow, channels, 3, 1, 1, bias=False),
    )


def _stage(settings: Settings, stage: int, keeps: tuple[float, ...]) -> nn.Sequential:
    width = settings.widths[stage]
    expanded = EXPANSION[settings.block]
    entering = settings.widths[0] if stage == 0 else settings.widths[stage - 1] * expanded
    return nn.Sequential(
        *(
            Block(
                entering if position == 0 else width * expanded,
                width,
                2 if stage and position == 0 else 1,
                settings,
                first=stage == 0 and position == 0,
                middle=settings.middle(stage),
                keep=keeps[position],
            )
            for position in range(settings.blocks)
        )
    )


def _drawn_seed() -> int:
    """A seed from the global generator, so that twins agree after ``torch.manual_seed``."""
    return int(torch.randint(0, 2**63 - 1, (), device="cpu", dtype=torch.int64))


# Fourteen parameters, the fields of `Settings`: they are what the papers vary, with the values of He et al. (2015) as
# defaults. Written out for completion, for type checkers and for the command line, which takes its defaults from here.
@checked
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
    groups: int = 1,
    group_width: int | None = None,
    keep_last: float = 1.0,
    seed: int | None = None,
) -> CifarResNet:
    """A ResNet for small images: a 3x3 convolution, stages of equal blocks, global pooling, a linear layer.

    These are the CIFAR networks of He et al. (2015), section 4.2; with pre-activation as in He et al. (2016), section
    4, where the first block and those that change the shape or project pass the activation to their shortcut; ResNeXt
    (Xie et al. 2017) through ``groups``; and the shortcut and stem of ResNet-D (He et al. 2019, section 4.2). With
    ``residual=False`` the network has the same layers without shortcuts (the plain twin): the same parameter names in
    the branches and, for the same seed, the same initial values.

    Args:
        depth: number of weighted layers: 6k + 2 (basic) or 9k + 2 (bottleneck), for three stages.
        num_classes: number of logits.
        in_channels: channels of the images.
        residual: whether blocks have shortcuts.
        preactivation: whether norm and activation come before each convolution.
        shortcut: where shapes change, A pads with zeros, B projects, D pools (2x2 means) and projects; C projects
            everywhere.
        block: two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times the width at the end.
        widths: channels of each stage; the resolution halves between stages.
        stem: a 3x3 convolution (section 4.2); or, as for ImageNet, 7x7 with stride 2 and max pooling (section 3.3); or
            "deep": three 3x3, the first with stride 2 and the first two with half the width, and max pooling.
        zero_init_residual: whether branches start at zero, through the scale of their last norm (Goyal et al. 2017,
            section 5.1), or in pre-activation through their last convolution.
        groups: number of groups of the 3x3 convolution in bottlenecks (the cardinality of ResNeXt).
        group_width: channels per group in the first stage, scaled with the widths in later stages. None: the 3x3
            convolution is as wide as the stage.
        keep_last: probability that the last branch survives a training step (Huang et al. 2016); those of earlier ones
            rise linearly to 1 (:func:`linear_decay`), and in eval mode each branch is scaled by its probability.
        seed: seed of the initial values; None draws one from the global generator.

    Raises:
        ValueError: the depth does not fit the block, the groups do not divide the widths, or an option is unknown.

    Example:
        >>> sum(p.numel() for p in cifar_resnet(56).parameters())
        853018
        >>> wide = {"block": "bottleneck", "widths": (64, 128, 256), "shortcut": "B", "groups": 8, "group_width": 64}
        >>> with torch.device("meta"):  # ResNeXt-29, 8x64d: 34.4 million (Xie et al. 2017, table 7)
        ...     round(sum(p.numel() for p in cifar_resnet(29, **wide).parameters()) / 1e6, 1)
        34.4
    """
    return CifarResNet(
        Settings(
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
            groups=groups,
            group_width=group_width,
            keep_last=keep_last,
            seed=seed,
        )
    )
