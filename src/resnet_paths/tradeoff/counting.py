"""Count a model's parameters and operations."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..arguments import checked
from ..graph.inputs import call_model
from ..graph.preserve import preserved
from ..imports import first_import
from ..network import UnrolledNetwork


@checked
def count_parameters(model: nn.Module) -> int:
    """The number of parameters, counting shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


@checked
def count_flops(model: nn.Module, x: Any) -> int:
    """Floating-point operations of one forward pass on x, by torch's own counter (a multiply-add counts as two).

    Example:
        >>> count_flops(torch.nn.Linear(4, 8), torch.randn(2, 4))
        128
    """
    with first_import("torch.utils.flop_counter"):
        from torch.utils.flop_counter import FlopCounterMode  # imported late: it imports triton

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


@checked
def macs_by_block(net: UnrolledNetwork, x: Any) -> tuple[int, ...]:
    """Multiply-adds of each block's branch on x: what a pass does without when the block is dropped.

    A block inside another's branch counts for itself alone.

    Example:
        >>> from resnet_paths.models import cifar_resnet
        >>> from resnet_paths.network import unroll
        >>> net = unroll(cifar_resnet(8, widths=(2, 2, 2)).eval())
        >>> macs_by_block(net, torch.randn(1, 3, 8, 8))[0] == 2 * (2 * 2 * 3 * 3) * 8 * 8
        True
    """
    with first_import("torch.utils.flop_counter"):
        from torch.utils.flop_counter import FlopCounterMode

    counts = []
    with preserved(net.model), torch.no_grad():
        state = net.stem(x)
        for _ in range(len(net)):
            shortcut = net.shortcut(state)
            with FlopCounterMode(display=False) as counter:
                branch = net.branch(state)
            counts.append(int(counter.get_total_flops()) // 2)
            state = net.join(state, shortcut + branch)
    return tuple(counts)
