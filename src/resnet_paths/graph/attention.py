"""Attention as separate operations, where PyTorch's fused kernels would hide the intermediate values.

In eval mode ``nn.TransformerEncoderLayer`` calls one kernel for the whole layer, and scaled dot-product attention has
kernels of its own. They have no second derivative, and FLOP counters miss them on the CPU: a vision transformer would
seem to need no products of queries and keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Within the block, attention runs by plain matrix products.

    The switches are one for the whole process: enter under :func:`~resnet_paths.graph.preserve.preserved`, which lets
    one thread in at a time.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
