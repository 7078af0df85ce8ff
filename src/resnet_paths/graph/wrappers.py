"""The plain model inside the wrappers that PyTorch puts around one."""

from __future__ import annotations

import torch
from torch import nn

from .errors import UnrollError


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile``.

    Raises:
        TypeError: not a module.
        UnrollError: a scripted model, whose operations cannot be followed.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> unwrap(nn.DataParallel(layer)) is layer
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}; pass the model itself")
    while True:
        if isinstance(model, torch.jit.ScriptModule):
            raise UnrollError(
                "expected an ordinary nn.Module, got a scripted one (torch.jit), whose operations cannot be "
                "followed; unroll the model before scripting it, and script what drop_blocks returns"
            )
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
            continue
        inner = getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner
