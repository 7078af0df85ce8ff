"""Close modules whose forward cannot be followed: each becomes a single call, as do all others of its class."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from .errors import TraceError
from .program import Program


class CannotFollow(Exception):
    """The forward of a module cannot be turned into a graph.

    Args:
        path: the qualified name of the innermost such module (``""``: the model itself); with ``:name``, one of its
            methods.
        reason: why.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason


@dataclass(frozen=True)
class ClosedMethod:
    """A method of a module, other than its forward, as the target of a graph node."""

    module: nn.Module
    name: str

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The method's result."""
        return getattr(self.module, self.name)(*args, **kwargs)


def follow_with_opaque_modules(
    model: nn.Module, attempt: Callable[[dict[str, str]], Program], opaque: dict[str, str] | None = None
) -> Program:
    """The first program that an attempt returns; each failure closes one more class of modules.

    The whole class is closed because modules of one class share one forward: the next would stop the attempt at the
    same place, and a model with a hundred layers would need a hundred attempts.

    Args:
        model: the model.
        attempt: follows the model with the modules of the given names closed.
        opaque: the names of the closed modules with the reasons; extended in place.

    Raises:
        TraceError: the model's own forward cannot be followed.
    """
    opaque = {} if opaque is None else opaque
    while True:
        try:
            return attempt(opaque)
        except CannotFollow as stopped:
            if not stopped.path or stopped.path in opaque:
                where = stopped.path or type(model).__name__
                raise TraceError(f"the forward of {where} cannot be followed: {stopped.reason}") from stopped.__cause__
            path, colon, method = stopped.path.partition(":")
            kind = type(model.get_submodule(path))
            same_class = [
                f"{name}{colon}{method}"
                for name, module in model.named_modules()
                if (name or colon) and type(module) is kind
            ]
            opaque.update(dict.fromkeys(same_class, stopped.reason))


def opaque_modules(model: nn.Module, opaque: Iterable[str], most: int = 4) -> list[str]:
    """The outermost closed modules that have parameters; if there are many, the first ones and how many are left out.

    A closed module without parameters (drop-path) hides no blocks.
    """
    paths = [path for path in opaque if ":" in path or any(True for _ in model.get_submodule(path).parameters())]
    outer = [path for path in paths if not any(path.startswith(f"{other}.") for other in paths)]
    return outer if len(outer) <= most else [*outer[:most], f"{len(outer) - most} more"]
