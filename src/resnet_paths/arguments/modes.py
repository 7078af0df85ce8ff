"""Running a call outside autocast.

Path decompositions compare sums of many branches with the network's own output; under bfloat16 the rounding error would
dwarf the differences that they report.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def no_autocast() -> AbstractContextManager[Any]:
    """A context outside autocast, in which the dtypes of the model and its input decide the precision.

    Example:
        >>> one = torch.ones(2, 2, device="cpu")
        >>> with torch.autocast("cpu", torch.bfloat16), no_autocast():
        ...     (one @ one).dtype
        torch.float32
    """
    active = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    if not active:
        return nullcontext()
    stack = ExitStack()
    for kind in active:
        stack.enter_context(torch.autocast(kind, enabled=False))
    return stack


def outside_autocast(function: F) -> F:
    """Make a function or method run in :func:`no_autocast`."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with no_autocast():
            return function(*args, **kwargs)

    return run  # type: ignore[return-value]
