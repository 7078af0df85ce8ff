"""Parts of a forward that run without gradients or under autocast.

Both are switches of the thread that no operation of a graph reads, so the graph would lose them. Under
``torch.no_grad()`` (or inference mode) operations do the same and the gradient stops: whoever reads such a value
outside of the region reads it through ``detach``, which is an ordinary operation. Under ``torch.autocast`` operations
may compute in another type, which no operation can express: the node notes the region, and runs within it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.overrides import TorchFunctionMode

from . import operations
from .errors import TraceError
from .own_thread import replaced_here


class Autocast(NamedTuple):
    """A region under ``torch.autocast``: the arguments with which it was entered."""

    device_type: str
    dtype: torch.dtype | None
    enabled: bool

    def run(self, step: Callable[..., Any], *args: Any) -> Any:
        """Compute a step within the region."""
        with torch.autocast(self.device_type, self.dtype, self.enabled):
            return step(*args)


class Regions(TorchFunctionMode):
    """Follows which region a forward is in."""

    def __init__(self) -> None:
        super().__init__()
        self._gradients, self._blind = True, False
        self._casts: list[Autocast] = []

    @property
    def frozen(self) -> bool:
        """Whether gradients are off."""
        return not self._gradients or torch.is_inference_mode_enabled()

    @property
    def autocast(self) -> Autocast | None:
        """The innermost region under autocast."""
        return self._casts[-1] if self._casts else None

    def notice(self, func: Any, args: tuple[Any, ...]) -> None:
        """Look at a torch function that is about to run."""
        if func is not torch._C._set_grad_enabled:
            return
        if self._blind:
            raise TraceError("it switches gradients off, and does not run with gradients on")
        self._gradients = bool(args[0])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.notice(func, args)
        return func(*args, **(kwargs or {}))

    @contextmanager
    def followed(self, *, gradients: bool = True) -> Iterator[None]:
        """Within the block the regions are followed.

        Args:
            gradients: whether they are on; without them a region without them is not seen, so it is refused.
        """
        self._blind = not gradients

        def enter(original: Any) -> Any:
            def call(region: Any) -> Any:
                self._casts.append(Autocast(region.device, region.fast_dtype, region._enabled))
                return original(region)

            return call

        def leave(original: Any) -> Any:
            def call(region: Any, *error: Any) -> Any:
                self._casts.pop()
                return original(region, *error)

            return call

        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(gradients),
            replaced_here(torch.autocast, "__enter__", enter),
            replaced_here(torch.autocast, "__exit__", leave),
            self,
        ):
            yield

    def note(self, node: fx.Node) -> None:
        """Mark a new node with its region."""
        if node.op in ("call_function", "call_method", "call_module"):
            if self.autocast is not None:
                node.meta["autocast"] = self.autocast
            if _is_size(node):
                node.meta["size"] = True
            elif self.frozen:
                node.meta["frozen"] = True

    def read(self, node: fx.Node, detach: Callable[[fx.Node], fx.Node]) -> fx.Node:
        """The node to read for a node: itself, or its value without a gradient.

        Args:
            node: the node.
            detach: makes the node of ``node.detach()``; called once a node.
        """
        if self.frozen or not node.meta.get("frozen"):
            return node
        if "detached" not in node.meta:
            node.meta["detached"] = detach(node)
        made: fx.Node = node.meta["detached"]
        return made


def _is_size(node: fx.Node) -> bool:
    """Whether a node's value is a number or size, of which there is no gradient."""
    sources = node.all_input_nodes
    return operations.asks_shape(node) or (bool(sources) and all(source.meta.get("size") for source in sources))
