"""Store weights that two copies of a model have in common only once."""

from __future__ import annotations

import torch
from torch import nn


def share_weights(copy: nn.Module, model: nn.Module) -> int:
    """Make a copy use the model's own parameters and buffers where they are equal.

    Args:
        copy: the copy; it is changed.
        model: the model; it is left unchanged.

    Returns:
        The number of values that the copy still stores itself.

    Example:
        >>> one, other = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> other.weight = nn.Parameter(one.weight.detach().clone())
        >>> share_weights(other, one), other.weight is one.weight
        (2, True)
    """
    unshared = 0
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    for path, module in copy.named_modules():
        for held, others in ((module._parameters, parameters), (module._buffers, buffers)):
            for name, value in held.items():
                other = others.get(f"{path}.{name}" if path else name)
                if value is None:
                    continue
                if other is not None and _alike(value, other):
                    held[name] = other
                else:
                    unshared += value.numel()
    return unshared


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    same_layout = one.shape == other.shape and one.dtype == other.dtype and one.stride() == other.stride()
    return same_layout and one.device == other.device and torch.equal(one, other)
