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


class OnlyBranch(nn.Module):
    """A CIFAR residual unit without its shortcut."""

    def __init__(self, unit: nn.Module) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        unit = self.unit
        return F.relu(unit.bn2(unit.conv2(F.relu(unit.bn1(unit.conv1(x))))))


def without_shortcut(model: nn.Module, name: str) -> nn.Module:
    """A copy of a post-activation CIFAR ResNet in which one unit has no shortcut."""
    damaged = copy.deepcopy(model)
    stage, _, place = name.partition(".")
    damaged.get_submodule(stage)[int(place)] = OnlyBranch(damaged.get_submodule(name))
    return damaged


def in_order(model: nn.Module, order: list[int], x: torch.Tensor) -> torch.Tensor:
    """A CIFAR ResNet's logits with its units called in another order."""
    units = [unit for stage in (model.layer1, model.layer2, model.layer3) for unit in stage]
    y = F.relu(model.bn1(model.conv1(x))) if hasattr(model, "bn1") else model.conv1(x)
    for source in order:
        y = units[source](y)
    if hasattr(model, "bn_last"):
        y = F.relu(model.bn_last(y))
    return model.linear(F.adaptive_avg_pool2d(y, 1).flatten(1))
