"""Count a model's parameters and operations.

The formulas are those of torch's own counter, but not its dispatch mode: torch wraps every mode so that compilers skip
it, and the wrapper imports the compiler at the first operation. That takes two to three seconds, for which every plan
and every report would wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..arguments import checked
from ..graph.attention import unfused_attention
from ..graph.inputs import call_model
from ..graph.preserve import preserved
from ..imports import first_import
from ..network import UnrolledNetwork

T = TypeVar("T")


class _Counting:
    """The dispatch of a mode, in a separate class, since torch wraps only what a mode defines itself."""

    formulas: Mapping[Any, Callable[..., int]]
    flops: int

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = self.formulas.get(operation._overloadpacket)
        if formula is None:
            with self:  # type: ignore[attr-defined]  # in inference mode, operations arrive that are made of others
                parts = operation.decompose(*args, **kwargs)
            return operation(*args, **kwargs) if parts is NotImplemented else parts
        result = operation(*args, **kwargs)
        self.flops += formula(*args, **kwargs, out_val=result)
        return result


class _Counter(_Counting, TorchDispatchMode):
    """Counts the floating-point operations inside its context."""

    def __init__(self, formulas: Mapping[Any, Callable[..., int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.formulas, self.flops = formulas, 0


def _counted(run: Callable[..., T], *args: Any) -> tuple[T, int]:
    """What a function returns, and the floating-point operations that it ran."""
    with first_import("torch.utils.flop_counter"):
        from torch.utils.flop_counter import FlopCounterMode  # imported late: it imports triton

    whole = FlopCounterMode(display=False)
    try:
        with _Counter(whole.flop_registry) as counter:
            result = run(*args)
        return result, counter.flops
    except Exception:
        pass  # an operation that runs functions (torch.cond), which only torch's own mode follows; or the model's error
    with whole:
        result = run(*args)
    return result, int(whole.get_total_flops())


@checked
def count_parameters(model: nn.Module) -> int:
    """The number of parameters, counting shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


@checked
def count_flops(model: nn.Module, x: Any) -> int:
    """Floating-point operations of one forward pass on x, by torch's own formulas (a multiply-add counts as two).

    Counted are convolutions, matrix products and attention by its matrix products, fused kernels included.
    Recurrent layers (``nn.LSTM``, ``nn.GRU``) and quantised ones, for which torch has no formula, count as none.

    Example:
        >>> count_flops(torch.nn.Linear(4, 8), torch.randn(2, 4))
        128
    """
    with preserved(model), unfused_attention(), torch.no_grad():
        return _counted(call_model, model, x)[1]


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
    counts = []
    with preserved(net.model), unfused_attention(), torch.no_grad():
        state = net.stem(x)
        for _ in range(len(net)):
            shortcut = net.shortcut(state)
            branch, flops = _counted(net.branch, state)
            counts.append(flops // 2)
            state = net.join(state, shortcut + branch)
    return tuple(counts)
