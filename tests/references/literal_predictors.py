"""What predictors of damage are made of, taken literally from a CIFAR ResNet, and from dense Jacobians."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from resnet_paths import UnrolledNetwork


def literal_stream(model: nn.Module, x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Shortcut and branch of each block of a post-activation CIFAR ResNet."""
    found = []
    with torch.no_grad():
        y = F.relu(model.bn1(model.conv1(x)))
        for block in (block for stage in (model.layer1, model.layer2, model.layer3) for block in stage):
            branch = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(y)))))
            found.append((block.shortcut(y), branch))
            y = F.relu(block.shortcut(y) + branch)
    return found


def literal_gradient_share(net: UnrolledNetwork, x: torch.Tensor, label: torch.Tensor) -> list[float]:
    """For one image and each block, the gradient at its entry once without and once with only its branch's Jacobian."""
    shares = []
    for index in range(len(net)):
        with torch.no_grad():
            state = net.prefix(x, index)
            fixed = net.shortcut(state), net.branch(state)
        norms = []
        for part in (0, 1):
            value = state.value.clone().requires_grad_()
            here = replace(state, value=value)
            total = net.shortcut(here) + fixed[1] if part == 0 else fixed[0] + net.branch(here)
            output = net.run(net.join(state, total)).value
            loss = F.cross_entropy(output, label)
            norms.append(float(torch.autograd.grad(loss, value)[0].norm()))
        shares.append(norms[1] / (norms[0] + norms[1]))
    return shares
