"""Helpers for tests of damaged models."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
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


@contextmanager
def without_this_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the block this library cannot be imported, as on a machine where only a smaller model's file is used."""
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] == "resnet_paths"]:
            patch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError):
            importlib.import_module("resnet_paths")
        yield


def tiny(**options) -> nn.Module:
    return randomise_norms(cifar_resnet(20, widths=(4, 6, 8), seed=0, **options)).eval().double()
