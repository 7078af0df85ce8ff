"""What decides a network's values, as one short string."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's class, structure, train flags, parameters and buffers.

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
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            digest.update(f"{name}={tensor!r}".encode())
            continue
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
