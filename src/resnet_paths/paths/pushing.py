"""Push rows of tangents forward through a function's Jacobian: batched, in chunks that fit the cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..graph.locking import MODEL_LOCK
from ..imports import load_forward_derivatives
from .pulling import CACHE_BYTES


def push(
    function: Callable[..., torch.Tensor], at: tuple[torch.Tensor, ...], rows: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    """Push rows (rows, batch, ...) at each argument to the result, whose row j comes from row j of all arguments."""
    # Forward mode does not accept expanded tensors.
    at = tuple(value.clone() if 0 in value.stride() else value for value in at)

    def one(*row: torch.Tensor) -> torch.Tensor:
        tangent: torch.Tensor = torch.func.jvp(function, at, row)[1]
        return tangent

    size = max(1, CACHE_BYTES // max(1, *(value.numel() * value.element_size() for value in at)))
    # With autograd on, modules avoid their fused inference kernels, and the math backend computes attention in plain
    # operations: neither kind of fused kernel has a forward derivative.
    with MODEL_LOCK, torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # torch has one forward level per process
        load_forward_derivatives()
        pushed: torch.Tensor = torch.func.vmap(one, chunk_size=size)(*rows)
    return pushed.detach()
