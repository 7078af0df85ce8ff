"""A network in float64 with norms that do something, and images for it."""

import pytest
import torch
from torch import nn

from helpers import randomise_norms
from resnet_paths.models import cifar_resnet


@pytest.fixture(scope="session")
def model() -> nn.Module:
    return randomise_norms(cifar_resnet(20, in_channels=1, widths=(4, 4, 8), seed=0).double()).eval()


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    return torch.randn(60, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
