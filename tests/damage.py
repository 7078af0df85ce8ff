"""What the tests of damaged models share."""

import torch
from torch import nn

from helpers import randomise_norms
from resnet_paths.models import cifar_resnet
from resnet_paths.network import UnrolledNetwork


def gated(net: UnrolledNetwork, x: torch.Tensor, dropped: list[int]) -> torch.Tensor:
    gates = torch.ones(len(net))
    gates[dropped] = 0
    return net(x, gates)


def output(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    value = model(x)
    return getattr(value, "logits", value)


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def tiny(**options) -> nn.Module:
    return randomise_norms(cifar_resnet(20, widths=(4, 6, 8), seed=0, **options)).eval().double()
