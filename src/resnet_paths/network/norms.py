"""The batch norms of a model, and those among them that keep running statistics."""

from __future__ import annotations

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
