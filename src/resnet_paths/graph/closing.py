"""Closing modules whose inside cannot be followed: each is kept as one call, with all of its class."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from .errors import TraceError
from .program import Program


class CannotFollow(Exception):
    """The forward of a module cannot be turned into a graph.

    Args:
        path: the module's qualified name, the innermost one (``""``: the model itself); with ``:name``, one of its
            methods.
        reason: why.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason


def closing_what_cannot_be_followed(
    model: nn.Module, attempt: Callable[[dict[str, str]], Program], opaque: dict[str, str] | None = None
) -> Program:
    """The first program that an attempt gives; after each failure one more class of modules is closed.

    Args:
        model: the model.
        attempt: follows the model with the modules of the given names kept whole.
        opaque: the closed modules' names with the reasons; it is added to.

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
            alike = [
                f"{name}{colon}{method}"
                for name, module in model.named_modules()
                if (name or colon) and type(module) is kind
            ]
            opaque.update(dict.fromkeys(alike, stopped.reason))


def closed_modules(model: nn.Module, opaque: Iterable[str], most: int = 4) -> list[str]:
    """The modules with parameters that were kept whole, the outermost by name; of many, the first and how many more.

    What is kept whole and has no parameters (drop-path) hides no blocks.
    """
    paths = [path for path in opaque if ":" in path or any(True for _ in model.get_submodule(path).parameters())]
    outer = [path for path in paths if not any(path.startswith(f"{other}.") for other in paths)]
    return outer if len(outer) <= most else [*outer[:most], f"{len(outer) - most} more"]
