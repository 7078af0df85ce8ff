"""Deleting blocks literally: copy the model, put the shortcut in the block's place, run all of it."""

import copy

import torch
import torch.nn.functional as F
from torch import nn


class OnlyShortcut(nn.Module):
    """A CIFAR residual block without its branch."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.shortcut = block.shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.shortcut(x))


def without(model: nn.Module, names: list[str]) -> nn.Module:
    """A copy of a post-activation CIFAR ResNet without the branches of these blocks."""
    damaged = copy.deepcopy(model)
    for name in names:
        stage, _, place = name.partition(".")
        block = damaged.get_submodule(name)
        damaged.get_submodule(stage)[int(place)] = OnlyShortcut(block)
    return damaged


def single_deletion_logits(model: nn.Module, names: list[str], x: torch.Tensor) -> torch.Tensor:
    """(blocks, images, classes): the logits with each block deleted in turn."""
    with torch.inference_mode():
        return torch.stack([without(model, [name])(x) for name in names])


class OnlyBranch(nn.Module):
    """A CIFAR residual block without its shortcut."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        block = self.block
        return F.relu(block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x))))))


def without_shortcut(model: nn.Module, name: str) -> nn.Module:
    """A copy of a post-activation CIFAR ResNet in which one block has no shortcut."""
    damaged = copy.deepcopy(model)
    stage, _, place = name.partition(".")
    damaged.get_submodule(stage)[int(place)] = OnlyBranch(damaged.get_submodule(name))
    return damaged


def in_order(model: nn.Module, order: list[int], x: torch.Tensor) -> torch.Tensor:
    """A CIFAR ResNet's logits with its blocks called in another order."""
    blocks = [block for stage in (model.layer1, model.layer2, model.layer3) for block in stage]
    y = F.relu(model.bn1(model.conv1(x))) if hasattr(model, "bn1") else model.conv1(x)
    for source in order:
        y = blocks[source](y)
    if hasattr(model, "bn_last"):
        y = F.relu(model.bn_last(y))
    return model.linear(F.adaptive_avg_pool2d(y, 1).flatten(1))
