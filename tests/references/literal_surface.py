"""A loss surface literally: copy the model, add the directions to its weights, run it, average; cell by cell."""

import copy
from collections.abc import Sequence

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
