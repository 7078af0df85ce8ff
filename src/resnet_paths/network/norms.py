"""The batch norms of a model, and those among them that keep running statistics."""

from __future__ import annotations

import torch
from torch import nn

BatchNorm = nn.modules.batchnorm._BatchNorm


def batch_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """The batch norms, by qualified name.

    Example:
        >>> list(batch_norms(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))))
        ['1']
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, BatchNorm)}


def tracking_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """The batch norms that keep running statistics, by qualified name.

    Example:
        >>> list(tracking_norms(nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False))))
        ['0']
    """
    return {name: norm for name, norm in batch_norms(model).items() if norm.track_running_stats}


def scale_and_shift(
    mean: torch.Tensor, variance: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a norm with running statistics does to each channel: ``scale * x + shift``.

    Example:
        >>> scale_and_shift(torch.ones(1), torch.ones(1), None, torch.ones(1), 3.0)
        (tensor([0.5000]), tensor([0.5000]))
    """
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias
