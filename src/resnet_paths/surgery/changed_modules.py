"""Modules that temporarily run another forward, so that contexts can be left in any order.

The first change of a module records what it was; each context records the class that it gives to each module. A module
has the class of the most recently opened context that is still open, and its original one when none is. Contexts on one
unrolled network are written together, as one set of blocks: when one of them ends, the forwards of the others are
written again without its blocks, from the graph that was traced before any lesion. (A stack would not do: two threads,
or two generators, may leave their contexts in another order than they entered them.)
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
    """What a module was, and the forwards given to it since, by context, oldest first."""

    module: nn.Module
    kind: type[nn.Module]
    forward: Any
    given: dict[Changes, Any] = field(default_factory=dict)

    def show(self) -> None:
        """Make the module run the most recently given forward, or its own if there is none."""
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
    """One context: some blocks of a network temporarily removed.

    Args:
        net: the network.
        indices: the blocks to remove.
    """

    def __init__(self, net: UnrolledNetwork, indices: Sequence[int]) -> None:
        self.net, self.indices = net, list(indices)
        self._number = next(_NUMBERS)
        self.plan: Segments | None = None
        self._flags: list[tuple[nn.Module, bool]] = []

    def enter(self) -> None:
        """Change the model.

        Raises:
            NotDroppableError: a block cannot be dropped; nothing is changed.
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
        """Undo this context's changes."""
        with MODEL_LOCK:
            _OPEN.remove(self)
            _forget([self, *self._others()])
            _write_together(self._others())
            self._restore_flags()

    def _others(self) -> list[Changes]:
        return [other for other in _OPEN if other.net is self.net]

    def _restore_flags(self) -> None:
        """Restore the train flags from the start of the context, or hand them to a context opened later."""
        module_ids = {id(module) for module, _ in self._flags}
        later = [other for other in _OPEN if other._number > self._number]
        after = next((other for other in later if any(id(module) in module_ids for module, _ in other._flags)), None)
        if after is not None:
            after._flags = self._flags
            return
        for module, flag in self._flags:
            module.training = flag


def _write_together(contexts: list[Changes]) -> None:
    """Make the modules run without the blocks of all these contexts, which belong to one network."""
    _forget(contexts)
    if not contexts:
        return
    last = contexts[-1]
    indices = sorted({index for context in contexts for index in context.indices})
    for written, blocks in edits(last.net, indices, last.plan):
        _give_forward(last, written.plan.site.module, (written, blocks))


def _forget(contexts: list[Changes]) -> None:
    """Remove the changes of these contexts from the modules."""
    for before in list(_BEFORE.values()):
        if [context for context in contexts if before.given.pop(context, None) is not None]:
            before.show()
        if not before.given:
            del _BEFORE[id(before.module)]


def _give_forward(context: Changes, module: nn.Module, edit: Edit) -> None:
    if id(module) not in _BEFORE:
        forward = module.graph if isinstance(module, fx.GraphModule) else module.__dict__.get("forward")
        _BEFORE[id(module)] = _Before(module, type(module), forward)
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
