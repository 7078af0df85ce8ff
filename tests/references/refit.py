"""A refit written out: every position a row of one tall matrix, solved by least squares, in the model as it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def sums(model: nn.Module, blocks: list[nn.Module], x: torch.Tensor) -> list[torch.Tensor]:
    """The sum of each basic block ``relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x))))))`` before its ReLU."""
    with torch.no_grad():
        return [pieces(block, entered(model, block, x))[1] for block in blocks]


def entered(model: nn.Module, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What enters a block."""
    found: list[torch.Tensor] = []
    handle = block.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    with torch.no_grad():
        model(x)
    handle.remove()
    return found[0]


def pieces(block: nn.Module, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the second convolution reads, and the block's sum."""
    h = F.relu(block.bn1(block.conv1(y)))
    return h, block.shortcut(y) + block.bn2(block.conv2(h))


def refitted(
    full: nn.Module,
    model: nn.Module,
    blocks: list[tuple[nn.Module, int]],
    all_blocks: list[nn.Module],
    x: torch.Tensor,
    ridge: float,
) -> None:
    """Fit the second convolution and norm of some blocks of a dropped model, in place and in order.

    Args:
        full: the full model.
        model: the dropped one, of the same class.
        blocks: the blocks to fit in order, each with the index of the full model's block whose sum is its target.
        all_blocks: the full model's blocks.
        x: all images.
        ridge: as a share of the mean of the Gram matrix's diagonal.
    """
    goals = sums(full, all_blocks, x)
    for block, target in blocks:
        with torch.no_grad():
            y = entered(model, block, x)
            h, _ = pieces(block, y)
            conv, norm = block.conv2, block.bn2
            patches = F.unfold(h, 3, padding=1, stride=conv.stride).transpose(1, 2).flatten(0, 1)
            rows = torch.cat([patches, torch.ones(len(patches), 1, dtype=x.dtype)], 1)
            left = (goals[target] - block.shortcut(y)).movedim(1, -1).flatten(0, -2)
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            old = torch.cat(
                [(conv.weight.flatten(1) * scale[:, None]).T, (norm.bias - norm.running_mean * scale)[None]]
            )
            pull = (ridge * rows.square().sum(0).mean()).sqrt()
            tall = torch.cat([rows, pull * torch.eye(rows.shape[1], dtype=x.dtype)])
            aims = torch.cat([left, pull * old])
            new = torch.linalg.lstsq(tall, aims).solution
            conv.weight.copy_((new[:-1] / scale).T.view_as(conv.weight))
            norm.bias.copy_(new[-1] + norm.running_mean * scale)
