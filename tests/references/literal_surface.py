"""A loss surface literally: copy the model, add the directions to its weights, run it, average; cell by cell."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from resnet_paths.landscape import Direction


def moved(model: nn.Module, directions: Sequence[Direction], coefficients: Sequence[float]) -> nn.Module:
    """A copy of the model at a point of the plane."""
    there = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in there.named_parameters():
            for coefficient, direction in zip(coefficients, directions, strict=True):
                if name in direction.tensors:
                    parameter += coefficient * direction.tensors[name]
    return there


def losses(model: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return F.cross_entropy(model(x), labels, reduction="none")


def surface(
    model: nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor,
    directions: Sequence[Direction],
    columns: Sequence[float],
    rows: Sequence[float],
    batchnorm: str = "frozen",
) -> np.ndarray:
    """(rows, columns) mean losses; statistics of all images in one batch where they are not frozen."""
    values = np.empty((len(rows), len(columns)))
    for r, beta in enumerate(rows):
        for c, alpha in enumerate(columns):
            there = moved(model, directions, (alpha, beta)).eval()
            norms = [module for module in there.modules() if isinstance(module, nn.BatchNorm2d)]
            if batchnorm != "frozen":
                for norm in norms:
                    norm.train()
            if batchnorm == "recalibrated":
                for norm in norms:
                    norm.momentum = 1.0
                losses(there, x, labels)
                there.eval()
            values[r, c] = float(losses(there, x, labels).mean())
    return values


def gated(model: nn.Module, x: torch.Tensor, gates: Sequence[float]) -> torch.Tensor:
    """A CIFAR ResNet of basic blocks with every branch times its gate, written out."""
    out = F.relu(model.bn1(model.conv1(x)))
    blocks = [block for stage in (model.layer1, model.layer2, model.layer3) for block in stage]
    for block, gate in zip(blocks, gates, strict=True):
        hidden = F.relu(block.bn1(block.conv1(out)))
        out = F.relu(gate * block.bn2(block.conv2(hidden)) + block.shortcut(out))
    return model.linear(out.mean((2, 3)))


def pool(norms: Sequence[nn.Module], runs: Sequence[Callable[[], object]]) -> None:
    """Statistics of all values that reach each norm in these runs: kept, joined, and only then averaged."""
    values: dict[nn.Module, list[torch.Tensor]] = {norm: [] for norm in norms}
    handles = [n.register_forward_pre_hook(lambda m, args: values[m].append(args[0].transpose(0, 1))) for n in norms]
    for run in runs:
        run()
    for handle in handles:
        handle.remove()
    for norm, parts in values.items():
        if parts:
            together = torch.cat([part.flatten(1) for part in parts], 1)
            norm.running_mean.copy_(together.mean(1))
            norm.running_var.copy_(together.var(1))


def gated_loss(
    model: nn.Module,
    batches: Sequence[tuple[torch.Tensor, torch.Tensor]],
    gates: Sequence[float],
    batchnorm: str,
    measured: Sequence[torch.Tensor],
) -> float:
    """The mean loss of a copy at gates; statistics of all `measured` batches together, or of each batch, or its own."""
    there = copy.deepcopy(model).eval()
    norms = [module for module in there.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        if batchnorm != "frozen":
            for norm in norms:
                norm.train()
        if batchnorm == "recalibrated":
            pool(norms, [lambda x=x: gated(there, x, gates) for x in measured])
            there.eval()
        return float(
            torch.cat([F.cross_entropy(gated(there, x, gates), y, reduction="none") for x, y in batches]).mean()
        )
