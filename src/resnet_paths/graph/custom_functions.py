"""A custom ``torch.autograd.Function`` as a single operation of a graph.

Such a function exists for its backward (straight-through signs, reversed gradients), and following its forward
operation by operation would lose it. ``Sign.apply`` is a C method that is often bound to another name (``sign =
Sign.apply``), so it cannot be replaced. But it looks up the class's ``forward``, so that is replaced instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .own_thread import replaced_here

Function = type[torch.autograd.Function]
Handler = Callable[[Function, Callable[..., Any], tuple[Any, ...]], Any]
"""From the class, its forward as a function of the arguments only, and the arguments, to what the call returns."""


@dataclass(frozen=True)
class CustomFunction:
    """``function.apply`` as the target of a graph node; two are equal if their class is the same.

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
        """The function's result."""
        return self.function.apply(*args)


@contextmanager
def kept_whole(is_followed: Callable[[tuple[Any, ...]], bool], handler: Handler) -> Iterator[None]:
    """Within the block, `handler` gets this thread's calls of custom functions whose arguments `is_followed` accepts.

    PyTorch's own functions are left alone: they belong to operations that are followed as such.
    """
    with ExitStack() as stack:
        for function in _subclasses(torch.autograd.Function):
            if not function.__module__.startswith("torch.") and callable(getattr(function, "forward", None)):
                _replace(function, is_followed, handler, stack)
        yield


def _replace(function: Function, is_followed: Callable[..., bool], handler: Handler, stack: ExitStack) -> None:
    with_context = function.setup_context is torch.autograd.Function.setup_context

    def forward(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            context, given = (args[:1], args[1:]) if with_context else ((), args)
            if not is_followed(given):
                return original(*args)
            return handler(function, lambda *values: original(*context, *values), given)

        return call

    def setup_context(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(context: Any, inputs: Any, output: Any) -> Any:
            return None if is_followed(inputs) else original(context, inputs, output)

        return call

    stack.enter_context(replaced_here(function, "forward", forward))
    if not with_context:
        stack.enter_context(replaced_here(function, "setup_context", setup_context))


def _subclasses(kind: Any) -> Iterator[Any]:
    for inner in kind.__subclasses__():
        yield inner
        yield from _subclasses(inner)
