"""What a model is made of: parameters and operations."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..arguments import checked
from ..graph.inputs import call_model
from ..graph.preserve import preserved
from ..imports import first_import


@checked
def count_parameters(model: nn.Module) -> int:
    """The number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


@checked
def count_flops(model: nn.Module, x: Any) -> int:
    """Floating-point operations of one forward pass on x, by torch's own counter (a multiply-add counts two).

    Example:
        >>> count_flops(torch.nn.Linear(4, 8), torch.randn(2, 4))
        128
    """
    with first_import("torch.utils.flop_counter"):
        from torch.utils.flop_counter import FlopCounterMode  # here: it imports triton

    with preserved(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        call_model(model, x)
    return int(counter.get_total_flops())


@checked
def count_macs(model: nn.Module, x: Any) -> int:
    """Multiply-adds of one forward pass on x: half of :func:`count_flops`.

    Example:
        >>> count_macs(torch.nn.Linear(4, 8), torch.randn(2, 4))
        64
    """
    return count_flops(model, x) // 2
