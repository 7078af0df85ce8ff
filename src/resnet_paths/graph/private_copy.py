"""A second set of a model's modules over the same tensors, which can be changed without anybody noticing.

Exchanging parameters, setting train flags and registering hooks change a model for every thread that runs it. A copy of
its modules over the *same* tensors takes such changes instead. It costs milliseconds and no memory, and parameters that
an optimizer updates in place change in the copy too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .copying import copied
from .locking import MODEL_LOCK
from .preserve import preserved


def private_copy(model: nn.Module) -> nn.Module:
    """A copy of a model including its weights, taken while no other thread is in the middle of a change.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> private_copy(layer).weight is layer.weight
        False
    """
    return copied(model)


def private_modules(model: nn.Module) -> nn.Module | None:
    """A copy of a model's modules over its own parameters and buffers; None if something in it cannot be copied.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> other = private_modules(layer)
        >>> other is layer, other.weight is layer.weight
        (False, True)
    """
    with MODEL_LOCK:
        shared = {id(tensor): tensor for module in model.modules() for tensor in _tensors(vars(module), set())}
        try:
            return copied(model, dict(shared))
        except Exception:  # locks, files, generators and others that forbid copying raise all kinds of errors
            return None


@contextmanager
def private_use(model: nn.Module) -> Iterator[nn.Module]:
    """Within the block, a model whose flags and hooks may be changed: private modules over the same tensors.

    If they cannot be copied, it is the model itself, locked against other threads and restored afterwards.

    Yields:
        The private model, or the model itself.

    Example:
        >>> layer = nn.Dropout()
        >>> with private_use(layer) as own:
        ...     _ = own.eval()
        >>> layer.training
        True
    """
    private = private_modules(model)
    if private is not None:
        yield private
        return
    with preserved(model):
        yield model


def _tensors(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    """The tensors in plain containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple, set)) and id(value) not in seen:
        seen.add(id(value))
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item, seen)
