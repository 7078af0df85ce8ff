"""Deleting units literally: copy the model, put the shortcut in the block's place, run all of it."""

import copy

import torch
import torch.nn.functional as F
from torch import nn


class OnlyShortcut(nn.Module):
    """A CIFAR residual unit without its branch."""

    def __init__(self, unit: nn.Module) -> None:
        super().__init__()
        self.shortcut = unit.shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.shortcut(x))


def without(model: nn.Module, names: list[str]) -> nn.Module:
    """A copy of a post-activation CIFAR ResNet without the branches of these units."""
    damaged = copy.deepcopy(model)
    for name in names:
        stage, _, place = name.partition(".")
        block = damaged.get_submodule(name)
        damaged.get_submodule(stage)[int(place)] = OnlyShortcut(block)
    return damaged


def single_deletion_logits(model: nn.Module, names: list[str], x: torch.Tensor) -> torch.Tensor:
    """(units, images, classes): the logits with each unit deleted in turn."""
    with torch.inference_mode():
        return torch.stack([without(model, [name])(x) for name in names])
