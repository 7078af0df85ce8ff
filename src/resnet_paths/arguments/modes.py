"""Modes of torch around a call that would change its numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def no_autocast() -> AbstractContextManager[Any]:
    """Within, the types of the model and of what it is given decide.

    Example:
        >>> one = torch.ones(2, 2, device="cpu")
        >>> with torch.autocast("cpu", torch.bfloat16), no_autocast():
        ...     (one @ one).dtype
        torch.float32
    """
    running = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    if not running:
        return nullcontext()
    stack = ExitStack()
    for kind in running:
        stack.enter_context(torch.autocast(kind, enabled=False))
    return stack


def outside_autocast(function: F) -> F:
    """Let a function or method run in :func:`no_autocast`."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with no_autocast():
            return function(*args, **kwargs)

    return run  # type: ignore[return-value]
