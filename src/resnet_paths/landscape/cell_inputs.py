"""Inputs as the cells of a surface read them, and their batch size.

A surface runs the same inputs hundreds of times, so images are normalised once. The batch size depends on the
processor's cache: a value that fits is still there when the next operation reads it. On a ResNet-56 of CIFAR (64 KiB
per value and image), one core needs 1.56 s for 256 images in batches of 4, 0.92 s in batches of 32 (the choice here)
and 2.63 s in a single batch; on the embedded one (2 KiB), 1.26 s for 512 in batches of 4 and 0.07 s from 256 on. Hence
2 MiB, and never below 16 images, where the cost of calling operations takes over, nor above 512, where nothing is left
to gain. On an H100 batches of 512 to 8192 take the same time (analysis/benchmarks/landscape_cuda.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..data import InMemory
from ..graph.inputs import call_model, is_batched
from ..graph.private_copy import private_use
from ..graph.trees import leaves, map_leaves

_CACHE_BYTES = 2 << 20
HELD_BYTES = 1 << 30
"""Inputs, states or outputs of at most this many bytes are held: the 10,000 test images of CIFAR-10 are 123 MB."""


class CellInputs:
    """Examples as a model reads them: prepared once if they fit in memory, otherwise at each reading."""

    def __init__(self, data: InMemory, device: torch.device, dtype: torch.dtype, channels_last: bool) -> None:
        self._data = data.to(dtype=dtype)
        self._device = device
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        one = self._data.subset(slice(0, 1)).x
        size = len(data) * sum(leaf.nbytes for leaf in leaves(one) if isinstance(leaf, torch.Tensor))
        self._held = self._ready(slice(None)) if size <= HELD_BYTES else None

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, chosen: slice) -> Any:
        if self._held is None:
            return self._ready(chosen)
        return map_leaves(self._held, lambda leaf: leaf[chosen] if is_batched(leaf, len(self)) else leaf)

    def _ready(self, chosen: slice) -> Any:
        return map_leaves(self._data.subset(chosen).x, self._moved)

    def _moved(self, leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        images = leaf.ndim == 4 and leaf.is_floating_point()
        return leaf.to(self._device).contiguous(memory_format=self._format if images else torch.contiguous_format)


def micro_batch(model: nn.Module, example: Any) -> int:
    """The batch size at which the largest intermediate value fits the cache; 1024 on a GPU.

    Args:
        model: it runs once, as a private copy.
        example: one example.
    """
    if any(leaf.device.type != "cpu" for leaf in leaves(example) if isinstance(leaf, torch.Tensor)):
        return 1024
    # The largest value that any module returns is representative: within blocks, all are about as large.
    return int(min(512, max(16, _CACHE_BYTES // _largest_output(model, example))))


def _largest_output(model: nn.Module, example: Any) -> int:
    """Bytes of the largest value that a module returns for one example, or of the example itself."""
    largest = [max(leaf.nbytes for leaf in leaves(example) if isinstance(leaf, torch.Tensor))]

    def note(module: nn.Module, arguments: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            largest[0] = max(largest[0], output.nbytes)

    with private_use(model) as own:
        handles = [module.register_forward_hook(note) for module in own.modules() if not list(module.children())]
        try:
            with torch.inference_mode():
                call_model(own, example)
        finally:
            for handle in handles:
                handle.remove()
    return largest[0]
