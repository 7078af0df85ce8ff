"""Models of many families at small sizes: (name, how to build it, input size, expected blocks).

The expected numbers come from the architectures' definitions: one block for each residual addition of the
main stream (two for each transformer or mixer layer).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn


@dataclass(frozen=True)
class Family:
    """One model to unroll."""

    library: str
    name: str
    blocks: int
    size: int = 64
    options: tuple[tuple[str, Any], ...] = ()
    needs_example: bool = False
    build: Callable[..., nn.Module] | None = None

    def make(self) -> nn.Module:
        """The model in eval mode, float64, with random weights."""
        torch.manual_seed(0)
        model = self._build().eval().double()
        for parameter in model.parameters():
            if not parameter.detach().any():  # zero-initialised heads make every output equal
                torch.nn.init.normal_(parameter, std=0.1)
        return model

    def _build(self) -> nn.Module:
        if self.build is not None:
            return self.build(**dict(self.options))
        if self.library == "torchvision":
            from torchvision.models import get_model

            return get_model(self.name, **dict(self.options))
        timm = pytest.importorskip("timm")
        made: nn.Module = timm.create_model(self.name, **dict(self.options))
        return made

    def example(self, batch: int = 2) -> torch.Tensor:
        """A random batch of images that the model takes."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(batch, 3, self.size, self.size, generator=generator, dtype=torch.float64)


def _options(**options: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(options.items())


def _narrow(module: str, kind: str, *arguments: Any) -> Callable[..., nn.Module]:
    """The same class and depths as a model of torchvision, with few channels: blocks are found by structure."""

    def build(**more: Any) -> nn.Module:
        home = importlib.import_module(f"torchvision.models.{module}")
        made: nn.Module = getattr(home, kind)(*arguments, **more)
        return made

    return build


def _swin(block: str, downsample: str) -> Callable[..., nn.Module]:
    def build() -> nn.Module:
        home = importlib.import_module("torchvision.models.swin_transformer")
        made: nn.Module = home.SwinTransformer(
            [4, 4], 16, [2, 2, 6, 2], [1, 2, 4, 8], [7, 7], block=getattr(home, block),
            downsample_layer=getattr(home, downsample),
        )  # fmt: skip
        return made

    return build


def _vgg() -> nn.Module:
    from torchvision.models.vgg import make_layers

    features = make_layers([8, "M", 16, "M", 24, 24, "M", 32, 32, "M", 32, 32, "M"])
    return nn.Sequential(features, nn.Flatten(), nn.Linear(128, 16), nn.ReLU(True), nn.Linear(16, 10))


def _hugging_face(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        transformers = pytest.importorskip("transformers")
        made: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**options))
        return made

    return build


def _convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    widths, depths = (8, 16, 24, 32), (3, 3, 9, 3)
    after = (*widths[1:], None)
    return ConvNeXt([CNBlockConfig(*config) for config in zip(widths, after, depths, strict=True)])


def _resnet(*depths: int, groups: int = 1, width: int = 8) -> Callable[..., nn.Module]:
    """Bottlenecks that are narrow between their outer layers."""

    def build(**more: Any) -> nn.Module:
        from torchvision.models.resnet import Bottleneck, ResNet

        return ResNet(Bottleneck, [*depths], groups=groups, width_per_group=width, **more)

    return build


def _efficientnet_v2() -> nn.Module:
    from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig

    fused = [(1, 3, 1, 8, 8, 2), (4, 3, 2, 8, 16, 4), (4, 3, 2, 16, 24, 4)]
    others = [(4, 3, 2, 24, 32, 6), (6, 3, 1, 32, 40, 9), (6, 3, 2, 40, 64, 15)]
    settings = [*(FusedMBConvConfig(*layers) for layers in fused), *(MBConvConfig(*layers) for layers in others)]
    return EfficientNet(settings, 0.2, last_channel=64)


TORCHVISION = [
    Family("torchvision", "resnet18", 8),
    Family("torchvision", "resnet34", 16),
    Family("torchvision", "resnet50", 16, build=_resnet(3, 4, 6, 3)),
    Family("torchvision", "resnet101", 33, build=_resnet(3, 4, 23, 3)),
    Family("torchvision", "resnext50_32x4d", 16, build=_resnet(3, 4, 6, 3, groups=32, width=1)),
    Family("torchvision", "regnet_x_400mf", 22),
    Family("torchvision", "regnet_y_400mf", 16),
    Family("torchvision", "convnext_tiny", 18, build=_convnext),
    Family("torchvision", "mobilenet_v2", 10),
    Family("torchvision", "mobilenet_v3_small", 6),
    Family("torchvision", "mobilenet_v3_large", 10),
    Family("torchvision", "efficientnet_b0", 9),
    Family("torchvision", "efficientnet_v2_s", 35, build=_efficientnet_v2),
    Family("torchvision", "mnasnet1_0", 10),
    Family("torchvision", "vit_b_16", 24, 32, build=_narrow(
        "vision_transformer", "VisionTransformer", 32, 16, 12, 4, 32, 64)),
    Family("torchvision", "swin_t", 24, build=_swin("SwinTransformerBlock", "PatchMerging")),
    Family("torchvision", "swin_v2_t", 24, build=_swin("SwinTransformerBlockV2", "PatchMergingV2")),
    Family("torchvision", "maxvit_t", 55, build=_narrow(
        "maxvit", "MaxVit", (64, 64), 8, 2, [8, 16, 24, 32], [2, 2, 5, 2], 8, 0.2)),
]  # fmt: skip

TIMM = [
    Family("timm", "resnet26d", 8, options=_options(channels=(16, 32, 64, 96), stem_width=8)),
    Family("timm", "resnet50", 16, options=_options(channels=(8, 16, 24, 32), stem_width=8)),
    Family("timm", "resnetv2_50", 16, options=_options(channels=(32, 64, 96, 128), stem_chs=8)),
    Family("timm", "resnetv2_50d", 16, options=_options(channels=(32, 64, 96, 128), stem_chs=8)),
    Family("timm", "seresnet18", 8, options=_options(channels=(16, 32, 64, 96))),
    Family("timm", "resnest14d", 4),
    Family("timm", "res2net50_26w_4s", 16, options=_options(channels=(16, 32, 48, 64))),
    Family("timm", "skresnet18", 8, options=_options(channels=(16, 32, 64, 96))),
    Family("timm", "ecaresnet26t", 8, options=_options(channels=(16, 32, 64, 96), stem_width=8)),
    Family("timm", "resnetaa34d", 16, options=_options(channels=(8, 16, 24, 32))),
    Family("timm", "nf_resnet26", 8, options=_options(channels=(32, 64, 128, 192), stem_chs=16)),
    Family(
        "timm",
        "dm_nfnet_f0",
        12,
        options=_options(channels=(32, 64, 128, 128), stem_chs=32, group_size=16, num_features=256),
    ),
    Family("timm", "convnextv2_atto", 12),
    Family("timm", "deit_tiny_patch16_224", 24, 32, _options(img_size=32)),
    Family("timm", "vit_tiny_patch16_224", 24, 32, _options(img_size=32)),
    Family("timm", "beit_base_patch16_224", 6, 32, _options(img_size=32, depth=3, embed_dim=48, num_heads=3)),
    Family("timm", "swin_tiny_patch4_window7_224", 24, 56, _options(img_size=56, embed_dim=16, num_heads=(1, 2, 4, 8))),
    Family("timm", "mixer_s32_224", 16, 64, _options(img_size=64)),
    Family("timm", "poolformer_s12", 24),
    Family("timm", "inception_resnet_v2", 40, 96),
    Family("timm", "legacy_xception", 12, 96),
    Family("timm", "regnetx_002", 13),
    Family("timm", "mobilenetv3_small_050", 7),
]

HUGGING_FACE = [
    Family("hf", "ResNetForImageClassification", 8, 64, needs_example=True, build=_hugging_face(
        "ResNetForImageClassification", "ResNetConfig", embedding_size=8, hidden_sizes=[8, 16, 24, 32],
        depths=[2, 2, 2, 2], layer_type="basic")),
    Family("hf", "ResNetForImageClassification (50)", 16, 64, needs_example=True, build=_hugging_face(
        "ResNetForImageClassification", "ResNetConfig", embedding_size=8, hidden_sizes=[16, 32, 64, 96],
        depths=[3, 4, 6, 3])),
    Family("hf", "ConvNextForImageClassification", 18, 64, needs_example=True, build=_hugging_face(
        "ConvNextForImageClassification", "ConvNextConfig", hidden_sizes=[8, 16, 24, 32], depths=[3, 3, 9, 3])),
    Family("hf", "ViTForImageClassification", 24, 32, needs_example=True, build=_hugging_face(
        "ViTForImageClassification", "ViTConfig", hidden_size=24, num_attention_heads=2, intermediate_size=48,
        image_size=32, patch_size=16)),
]  # fmt: skip

WITHOUT_BLOCKS = [
    Family("torchvision", "densenet121", 0),
    Family("torchvision", "vgg11", 0, build=_vgg),
    Family("torchvision", "alexnet", 0),
    Family("torchvision", "googlenet", 0, 64, _options(init_weights=False)),
    Family("torchvision", "squeezenet1_0", 0),
    Family("torchvision", "shufflenet_v2_x0_5", 0),
]

ALL = [*TORCHVISION, *TIMM, *HUGGING_FACE]
