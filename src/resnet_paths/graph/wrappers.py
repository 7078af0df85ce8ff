"""The plain model inside the wrappers of PyTorch."""

from __future__ import annotations

import torch
from torch import nn

from .errors import UnrollError


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile``.

    Raises:
        TypeError: the model is not a module.
        UnrollError: the model is scripted, so its operations cannot be followed.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> unwrap(nn.DataParallel(layer)) is layer
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}; pass the model itself")
    model = inner_model(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise UnrollError(
            "expected an ordinary nn.Module, got a scripted one (torch.jit), whose operations cannot be "
            "followed; unroll the model before scripting it, and script what drop_blocks returns"
        )
    return model


def inner_model(model: nn.Module) -> nn.Module:
    """The module inside the wrappers; a scripted model is returned as it is."""
    while not isinstance(model, torch.jit.ScriptModule):
        parallel = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        inner = model.module if parallel else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
    return model
