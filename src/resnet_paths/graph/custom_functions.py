"""Custom ``torch.autograd.Function``s as one operation of a graph.

Their backward is what they are for (straight-through signs, reversed gradients), and it is lost when their forward is
followed operation by operation. ``Sign.apply`` is a method in C that is often kept under another name
(``sign = Sign.apply``), so it cannot be replaced; but it looks up the class's ``forward``, so that is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .own_thread import replaced_here

Function = type[torch.autograd.Function]
Whole = Callable[[Function, Callable[..., Any], tuple[Any, ...]], Any]
"""Given the class, its forward as a function of the arguments alone, and the arguments: what the call returns."""


@dataclass(frozen=True)
class CustomFunction:
    """``function.apply`` as the target of a graph node; equal for the same class.

    Example:
        >>> class Reverse(torch.autograd.Function):
        ...     @staticmethod
        ...     def forward(ctx, x):
        ...         return x.view_as(x)
        ...     @staticmethod
        ...     def backward(ctx, grad):
        ...         return -grad
        >>> x = torch.ones(2, requires_grad=True)
        >>> CustomFunction(Reverse)(x).sum().backward()
        >>> x.grad
        tensor([-1., -1.])
    """

    function: Function

    @property
    def __name__(self) -> str:
        return self.function.__name__

    def __call__(self, *args: Any) -> Any:
        """What the function gives."""
        return self.function.apply(*args)


@contextmanager
def kept_whole(wanted: Callable[[tuple[Any, ...]], bool], whole: Whole) -> Iterator[None]:
    """Within the block, calls of custom functions in this thread go to `whole` where their arguments are `wanted`.

    PyTorch's own functions are left alone: they belong to operations, which are followed as such.
    """
    with ExitStack() as stack:
        for function in _subclasses(torch.autograd.Function):
            if not function.__module__.startswith("torch.") and callable(getattr(function, "forward", None)):
                _replace(function, wanted, whole, stack)
        yield


def _replace(function: Function, wanted: Callable[..., bool], whole: Whole, stack: ExitStack) -> None:
    with_context = function.setup_context is torch.autograd.Function.setup_context

    def forward(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            context, given = (args[:1], args[1:]) if with_context else ((), args)
            if not wanted(given):
                return original(*args)
            return whole(function, lambda *values: original(*context, *values), given)

        return call

    def setup_context(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(context: Any, inputs: Any, output: Any) -> Any:
            return None if wanted(inputs) else original(context, inputs, output)

        return call

    stack.enter_context(replaced_here(function, "forward", forward))
    if not with_context:
        stack.enter_context(replaced_here(function, "setup_context", setup_context))


def _subclasses(kind: Any) -> Iterator[Any]:
    for inner in kind.__subclasses__():
        yield inner
        yield from _subclasses(inner)
