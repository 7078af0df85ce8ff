"""Parts of a forward that run without gradients or under autocast.

Both are switches of the thread that no operation of a graph reads, so a graph would lose them. Under
``torch.no_grad()`` (or inference mode) operations do the same but the gradient stops: whoever reads such a value
outside the region reads it through ``detach``, which is an ordinary operation. Under ``torch.autocast`` operations may
compute in another dtype, which no operation can express: the node carries the region and runs within it.
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
    """A region under ``torch.autocast``: the arguments it was entered with."""

    device_type: str
    dtype: torch.dtype | None
    enabled: bool

    def run(self, step: Callable[..., Any], *args: Any) -> Any:
        """Compute a step within the region."""
        with torch.autocast(self.device_type, self.dtype, self.enabled):
            return step(*args)


class Regions(TorchFunctionMode):
    """Tracks which region a forward is in."""

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
        """Inspect a torch function that is about to run."""
        if func is not torch._C._set_grad_enabled:
            return
        if self._blind:
            raise TraceError("it switches gradients off, and fails with gradients on")
        self._gradients = bool(args[0])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.notice(func, args)
        return func(*args, **(kwargs or {}))

    @contextmanager
    def followed(self, *, gradients: bool = True) -> Iterator[None]:
        """Within the block, regions are tracked.

        Args:
            gradients: whether gradients are on; if not, a region that switches them off cannot be told apart from the
                rest, so it is refused.
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
        """Mark a new node with its regions."""
        if node.op in ("call_function", "call_method", "call_module"):
            if self.autocast is not None:
                node.meta["autocast"] = self.autocast
            if _is_size(node):
                node.meta["size"] = True
            elif self.frozen:
                node.meta["frozen"] = True

    def read(self, node: fx.Node, detach: Callable[[fx.Node], fx.Node]) -> fx.Node:
        """The node through which to read a value: itself, or its ``detach`` outside a region without gradients.

        Args:
            node: the node.
            detach: creates the node of ``node.detach()``; called once per node.
        """
        if self.frozen or not node.meta.get("frozen"):
            return node
        if "detached" not in node.meta:
            node.meta["detached"] = detach(node)
        detached: fx.Node = node.meta["detached"]
        return detached


def _is_size(node: fx.Node) -> bool:
    """Whether a node's value is a number or a size, which has no gradient."""
    sources = node.all_input_nodes
    return operations.asks_shape(node) or (bool(sources) and all(source.meta.get("size") for source in sources))
