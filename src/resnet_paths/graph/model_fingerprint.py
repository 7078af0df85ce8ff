"""Everything that determines a network's values, as one short string."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's class, structure, train flags, parameters and buffers (also the non-persistent ones).

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = fingerprint(layer)
        >>> _ = layer.weight.data.mul_(2)
        >>> fingerprint(layer) == before
        False
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        digest.update(f"{name}|{type(module).__qualname__}|{module.training}|{module.extra_repr()}\n".encode())
    state = model.state_dict()
    passing = {name: buffer for name, buffer in model.named_buffers(remove_duplicate=False) if name not in state}
    for name, value in [*sorted(state.items()), *sorted(passing.items())]:
        if not isinstance(value, torch.Tensor):
            digest.update(f"{name}={value!r}".encode())
            continue
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}".encode())
        digest.update(tensor_bytes(value))
    return digest.hexdigest()


def tensor_bytes(value: torch.Tensor) -> bytes:
    """A tensor's bytes in row-major order, whatever its device and memory layout.

    Example:
        >>> list(tensor_bytes(torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).T))
        [1, 3, 2, 4]
    """
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy().tobytes()  # one element may have any stride
