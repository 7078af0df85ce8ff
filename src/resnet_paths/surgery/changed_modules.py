"""Modules that run another forward for a while, so that contexts can be left in any order.

Each module that is changed is noted once with what it was; each context, with the class that it gives to each module
that it changes. A module has the class of the context that came last among those still open, and, when none is open,
what it was. Contexts on one unrolled network are written together, as one set of blocks: when one of them ends, the
forwards of the others are written again without its blocks, from the graph that was followed before any lesion.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from ..graph.locking import MODEL_LOCK
from ..graph.pieces import Segments
from ..network import UnrolledNetwork
from .edit import Edit, checked_graph, edits, show_compiled_models
from .written_class import written_class

_NUMBERS = itertools.count()
_OPEN: list[Changes] = []
_BEFORE: dict[int, _Before] = {}


@dataclass(eq=False)
class _Before:
    """What a module was, and the forwards that it has been given since, by context, oldest first."""

    module: nn.Module
    kind: type[nn.Module]
    forward: Any
    given: dict[Changes, Any] = field(default_factory=dict)

    def show(self) -> None:
        """Let the module run the forward that was given last, or its own."""
        last = next(reversed(self.given.values()), None)
        if isinstance(self.module, fx.GraphModule):
            graph = self.forward if last is None else last
            if self.module.graph is not graph:
                self.module.graph = graph
            return
        self.module.__class__ = self.kind if last is None else last
        if last is not None:
            self.module.__dict__.pop("forward", None)
        elif self.forward is not None:
            self.module.__dict__["forward"] = self.forward
        show_compiled_models(self.module)


class Changes:
    """One context: some blocks of a network taken out for a while.

    Args:
        net: the network.
        indices: its blocks.
    """

    def __init__(self, net: UnrolledNetwork, indices: Sequence[int]) -> None:
        self.net, self.indices = net, list(indices)
        self._number = next(_NUMBERS)
        self.plan: Segments | None = None
        self._flags: list[tuple[nn.Module, bool]] = []

    def enter(self) -> None:
        """Change the model.

        Raises:
            NotDroppableError: a block cannot be taken out; nothing is changed.
        """
        with MODEL_LOCK:
            others = self._others()
            self.plan = others[0].plan if others else self.net.segments
            self._flags = [(module, module.training) for module in self.net.model.modules()]
            try:
                _write_together([*others, self])
            except BaseException:
                _write_together(others)
                raise
            _OPEN.append(self)

    def leave(self) -> None:
        """Take this context's changes back."""
        with MODEL_LOCK:
            _OPEN.remove(self)
            _forget([self, *self._others()])
            _write_together(self._others())
            self._restore_flags()

    def _others(self) -> list[Changes]:
        return [other for other in _OPEN if other.net is self.net]

    def _restore_flags(self) -> None:
        """The train flags as they were when the context began; a context opened later on the model takes them over."""
        own = {id(module) for module, _ in self._flags}
        later = [other for other in _OPEN if other._number > self._number]
        after = next((other for other in later if any(id(module) in own for module, _ in other._flags)), None)
        if after is not None:
            after._flags = self._flags
            return
        for module, flag in self._flags:
            module.training = flag


def _write_together(contexts: list[Changes]) -> None:
    """Let the modules run without the blocks of all these contexts, which are on one network."""
    _forget(contexts)
    if not contexts:
        return
    last = contexts[-1]
    indices = sorted({index for context in contexts for index in context.indices})
    for written, blocks in edits(last.net, indices, last.plan):
        _give(last, written.plan.site.module, (written, blocks))


def _forget(contexts: list[Changes]) -> None:
    """Let the modules that some contexts changed be what they are without them."""
    for before in list(_BEFORE.values()):
        if [context for context in contexts if before.given.pop(context, None) is not None]:
            before.show()
        if not before.given:
            del _BEFORE[id(before.module)]


def _give(context: Changes, module: nn.Module, edit: Edit) -> None:
    if id(module) not in _BEFORE:
        own = module.graph if isinstance(module, fx.GraphModule) else module.__dict__.get("forward")
        _BEFORE[id(module)] = _Before(module, type(module), own)
    before, (written, blocks) = _BEFORE[id(module)], edit
    if isinstance(module, fx.GraphModule):
        before.given[context] = checked_graph(written)
    else:
        kind = written_class(written, blocks)
        for name, tensor in written.constants.items():
            setattr(kind, name, tensor)
        before.given[context] = kind
    before.show()


def active_lesions(model: nn.Module) -> list[Changes]:
    """The open contexts on a model, oldest first."""
    with MODEL_LOCK:
        return [changes for changes in _OPEN if changes.net.model is model]
