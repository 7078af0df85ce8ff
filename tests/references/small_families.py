"""Models of the families in `families.py`, of the same operations and names, but of few and narrow blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch import nn
from torchvision.models import ConvNeXt, ResNet, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import BasicBlock, Bottleneck

from families import ALL, Family


def _timm(name: str, **options: Any) -> nn.Module:
    made: nn.Module = pytest.importorskip("timm").create_model(name, num_classes=10, **options)
    return made


def _convnext() -> nn.Module:
    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 2)], num_classes=10)


def _vit() -> nn.Module:
    return VisionTransformer(32, 16, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=10)


_CHANGES: dict[str, dict[str, Any]] = {
    "torchvision-resnet18": {"build": lambda: ResNet(BasicBlock, [2, 1, 1, 1], num_classes=10), "size": 32},
    "torchvision-resnet50": {
        "build": lambda: ResNet(Bottleneck, [2, 1, 1, 1], num_classes=10, width_per_group=8),
        "size": 32,
    },
    "torchvision-convnext_tiny": {"build": _convnext},
    "torchvision-vit_b_16": {"build": _vit},
    "timm-resnetv2_50": {
        "build": lambda: _timm("resnetv2_50", layers=(2, 1, 1, 1), channels=(16, 32, 48, 64), stem_chs=8),
        "size": 32,
    },
    "timm-seresnet18": {"build": lambda: _timm("seresnet18", layers=(2, 1, 1, 1)), "size": 32},
    "timm-swin_tiny_patch4_window7_224": {
        "build": lambda: _timm(
            "swin_tiny_patch4_window7_224", img_size=56, depths=(2, 1, 1, 1), embed_dim=12, num_heads=(1, 2, 2, 2)
        )
    },
}
SMALL: dict[str, Family] = {
    name: replace(family, options=(), **_CHANGES[name]) if name in _CHANGES else family
    for name, family in ((f"{family.library}-{family.name}", family) for family in ALL)
}
