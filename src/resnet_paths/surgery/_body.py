"""A module's forward written again without the branches of some units, as a graph over its children.

Calls of children stay calls: a child keeps its class, its hooks and what it does in training. Written out is only
the module whose forward makes the addition, with those of its children whose inside is needed: a child that holds
nothing but the addition, or the value from which the shortcut leaves.
"""

from __future__ import annotations

import inspect
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import fx

from ..graph.blocks import Cut
from ..graph.hooks import PostHooks, PreHooks
from ..graph.overwrite import NEW_OUTPUT
from ..graph.program import ModuleCall, Program, call_of
from ..network import NotDroppableError

_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
_WRITTEN = (
    bool, int, float, complex, str, slice, range, torch.dtype, torch.device, torch.layout, torch.memory_format, type,
)  # fmt: skip
_BY_GATE = "such a unit can be deleted by a gate of 0, not taken out of the model"


class NeedsAroundError(Exception):
    """The forward of a place reads what only the calls around it have."""


class Body:
    """The forward of one call without the branches of some units.

    Attributes:
        place: the call that is written again.
        cuts: the units that are dropped.
        opened: the calls inside it that are written out; other calls stay calls.
        constants: tensors that the graph reads and the module does not own, by their name in the graph.
    """

    def __init__(self, program: Program, place: ModuleCall, cuts: Iterable[Cut]) -> None:
        self.program, self.place, self.cuts = program, place, list(cuts)
        self.dropped = {cut.add: cut for cut in self.cuts}
        around = set(place.ancestors())
        self.opened = {call for add in self.dropped for call in call_of(add).ancestors()} - around
        self.constants: dict[str, torch.Tensor] = {}
        self._prefix = f"{place.path}." if place.path else ""
        self._returned = without(place.output, self._is_lost)
        self._given = set(_nodes(list(self._arguments().values())))
        while not self._choose():
            pass

    # which operations and calls are needed

    def _arguments(self) -> dict[str, Any]:
        if self.place is self.program.root:
            return dict(self.program.placeholders)
        signature = inspect.signature(self.place.module.forward)
        return dict(signature.bind(*self.place.args, **self.place.kwargs).arguments)

    def _is_lost(self, node: fx.Node) -> bool:
        """Whether a value that the place returns beside its main one is computed from a dropped branch."""
        branches = set().union(*(cut.branch_nodes for cut in self.cuts))
        todo, seen = [node], set()
        while todo:
            current = todo.pop()
            if current in branches:
                return True
            if current not in seen:
                seen.add(current)
                todo.extend(self._sources(current))
        return False

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        """The values that an operation reads once the units are dropped and the place's hooks are left out."""
        if node in self.dropped:
            return [self.dropped[node].shortcut]
        instead = self._past_hooks(node)
        return list(node.all_input_nodes) if instead is None else [instead]

    def _past_hooks(self, node: fx.Node) -> fx.Node | None:
        """The value that stands for a node of the place's own hooks: they move to the new module."""
        if isinstance(node.target, PostHooks) and node.target.module is self.place.module:
            return _node_or_none(node.args[0])
        hooked = node.args[0] if node.op == "call_function" and node.target is operator.getitem else None
        hooks = getattr(hooked, "target", None)
        if isinstance(hooked, fx.Node) and isinstance(hooks, PreHooks) and hooks.module is self.place.module:
            return _node_or_none(hooked.args[node.args[1]])  # type: ignore[index]
        return None

    def _closed(self, node: fx.Node) -> ModuleCall | None:
        """The outermost call within the place that makes the node and stays a call."""
        closed = None
        for call in call_of(node).ancestors():
            if call is self.place:
                return closed
            if call not in self.opened:
                closed = call
        raise NeedsAroundError

    def _choose(self) -> bool:
        """Find the operations and calls that the returned values need; False after opening one more call."""
        self._operations: set[fx.Node] = set()
        self._calls: set[ModuleCall] = set()
        todo = _nodes(self._returned)
        while todo:
            node = todo.pop()
            if node in self._given or node in self._operations:
                continue
            closed = self._closed(node)
            if closed is None:
                self._operations.add(node)
                todo.extend(self._sources(node))
            elif node not in _nodes(closed.output):
                self.opened.add(closed)
                return False
            elif closed not in self._calls:
                self._calls.add(closed)
                todo.extend(_nodes((closed.args, closed.kwargs)))
        return True

    def _reads(self) -> set[fx.Node]:
        """All values that something that is kept reads."""
        read = set(_nodes(self._returned))
        for node in self._operations:
            read.update(self._sources(node))
        for call in self._calls:
            read.update(_nodes((call.args, call.kwargs)))
        return read

    # writing them down

    def write(self) -> fx.Graph:
        """The graph; its targets are relative to the module of the place."""
        self.graph = fx.Graph()
        self.new: dict[fx.Node, fx.Node] = {}
        self._objects: dict[int, fx.Node] = {}
        self.constants = {}
        self._read = self._reads()
        self._inputs()
        written: set[ModuleCall] = set()
        for node in self.program.graph.nodes:
            if node in self._operations:
                self._operation(node)
            elif self._calls and node.op != "output":
                call = next((call for call in call_of(node).ancestors() if call in self._calls), None)
                if call is not None and call not in written:
                    written.add(call)
                    self._call(call)
        returned = self._mapped(self._returned)
        if self.place.record is not None:
            returned = self.graph.call_function(self.place.record, (), returned)
        self.graph.output(returned)
        self.graph.lint()
        return self.graph

    def _inputs(self) -> None:
        given, optional = self._arguments(), False
        holders = {}
        for name, parameter in inspect.signature(self.place.module.forward).parameters.items():
            star = _STARS.get(parameter.kind, "")
            required = parameter.default is parameter.empty
            if star or (required and not optional):
                holders[name] = self.graph.placeholder(star + name)
            else:  # Python wants defaults after the first one, also for names that follow a star
                optional = True
                holders[name] = self.graph.placeholder(name, default_value=None if required else _plain(parameter))
        for name, holder in holders.items():
            self._learn(given.get(name), holder)

    def _learn(self, tree: Any, holder: fx.Node) -> None:
        """The nodes of a value that now comes as `holder`, or as items of it."""
        if isinstance(tree, fx.Node):
            self.new.setdefault(tree, holder)
        elif not _is_written(tree) and not isinstance(tree, (dict, tuple, list)):
            self._objects.setdefault(id(tree), holder)
        for key, item in _items(tree):
            if any(node in self._read for node in _nodes(item)):
                self._learn(item, self.graph.call_function(operator.getitem, (holder, key)))

    def _mapped(self, tree: Any) -> Any:
        return self._passed(fx.node.map_arg(tree, self.new.__getitem__))

    def _passed(self, tree: Any) -> Any:
        """Objects that came with the arguments (a cache, say) as those arguments; they are not made again."""
        if isinstance(tree, dict):
            return {key: self._passed(item) for key, item in tree.items()}
        if isinstance(tree, (tuple, list)):
            items = [self._passed(item) for item in tree]
            named: Any = type(tree)
            return named(*items) if hasattr(tree, "_fields") else items if isinstance(tree, list) else tuple(items)
        if isinstance(tree, fx.Node) or _is_written(tree):
            return tree
        if id(tree) not in self._objects:
            raise NotDroppableError(
                f"expected {self.place.path or 'the model'} to pass on values, got an object of class "
                f"{type(tree).__name__} that is made while it runs; run the model without it (a Hugging Face model's "
                f"cache: model.config.use_cache = False); {_BY_GATE}"
            )
        return self._objects[id(tree)]

    def _relative(self, target: str) -> str:
        """The name of a part from the place; also of a part that the model holds elsewhere under another name."""
        if target.startswith(self._prefix):
            return target.removeprefix(self._prefix)
        wanted = self.program.attribute(target)
        module = self.place.module
        named = itertools.chain(
            module.named_modules(remove_duplicate=False),
            module.named_parameters(remove_duplicate=False),
            module.named_buffers(remove_duplicate=False),
        )
        name = next((name for name, part in named if part is wanted and name), None)
        if name is None:
            raise NeedsAroundError
        return name

    def _call(self, call: ModuleCall) -> None:
        args = self._mapped(call.args)
        first = call.args[0] if call.args else None
        if getattr(call.module, "inplace", False) and first in self.dropped and not self._is_fresh(first):
            args = (self.graph.call_function(torch.clone, (args[0],)), *args[1:])
        made = self.graph.call_module(self._relative(call.path), args, self._mapped(call.kwargs))
        self._learn(call.output, made)

    def _is_fresh(self, add: fx.Node) -> bool:
        """Whether an activation may write over what stands in the sum's place: nobody else holds it."""
        shortcut = self.dropped[add].shortcut
        if shortcut.op != "call_module":
            return False
        module = self.program.model.get_submodule(str(shortcut.target))
        return isinstance(module, NEW_OUTPUT) and not module._forward_hooks

    def _operation(self, node: fx.Node) -> None:
        instead = self._past_hooks(node)
        if node in self.dropped:
            self.new[node] = self.new[self.dropped[node].shortcut]
        elif instead is not None:
            self.new[node] = self.new[instead]
        elif isinstance(node.target, (PreHooks, PostHooks)):
            raise NotDroppableError(
                f"expected no hooks on {type(node.target.module).__name__} inside {self.place.path or 'the model'}, "
                "which makes the addition and is written out; remove them first, and register them again on the "
                "smaller model"
            )
        elif node.op == "get_attr":
            self.new[node] = self.graph.get_attr(self._attribute(str(node.target)))
        else:
            op, target = _as_written(node)
            made = self.graph.create_node(
                op, target, self._mapped(node.args), self._mapped(node.kwargs), node.name, node.type
            )
            self.new[node] = made

    def _attribute(self, target: str) -> str:
        if target not in self.program.constants:
            return self._relative(target)
        name = f"constant_{len(self.constants)}"
        self.constants[name] = self.program.constants[target]
        return name


def bodies(program: Program, cuts: list[Cut], start: Callable[[Cut], ModuleCall]) -> list[Body]:
    """What has to be written again to drop units, inner calls before the calls around them.

    Args:
        program: the model's graph.
        cuts: the units.
        start: the innermost call that may be written again for a unit. Where that does not suffice, the call around
            it is written.

    Raises:
        NotDroppableError: the model's own forward does not suffice either.
    """
    groups: dict[ModuleCall, list[Cut]] = {}
    for cut in cuts:
        groups.setdefault(start(cut), []).append(cut)
    while True:
        made, moved = {}, None
        for place, members in groups.items():
            try:
                made[place] = Body(program, place, members)
                made[place].write()
            except NeedsAroundError:
                moved = place, place.parent
        for outer in made.values():
            moved = next(((place, outer.place) for place in outer.opened & set(groups)), moved)
        if moved is None:
            depth = {place: len(list(place.ancestors())) for place in made}
            return [made[place] for place in sorted(made, key=lambda place: -depth[place])]
        place, around = moved
        if around is None:
            raise NotDroppableError(f"expected the model to work from its own inputs and parts; {_BY_GATE}")
        groups.setdefault(around, []).extend(groups.pop(place))


def without(tree: Any, lost: Callable[[fx.Node], bool]) -> Any:
    """A nest of values with None for those that are lost (a single value is never lost)."""

    def kept(item: Any) -> Any:
        return None if isinstance(item, fx.Node) and lost(item) else without(item, lost)

    if isinstance(tree, (tuple, list)):
        items = [kept(item) for item in tree]
        named: Any = type(tree)
        return named(*items) if hasattr(tree, "_fields") else named(items)
    if isinstance(tree, dict):
        return {key: kept(item) for key, item in tree.items()}
    return tree


def _items(tree: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(tree, dict):
        yield from tree.items()
    elif isinstance(tree, (tuple, list)):
        yield from enumerate(tree)


def _nodes(tree: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(tree, found.append)
    return found


def _is_written(value: Any) -> bool:
    """Whether generated code can hold a value as it is."""
    return value is None or value is ... or isinstance(value, _WRITTEN)


def _node_or_none(value: Any) -> fx.Node | None:
    return value if isinstance(value, fx.Node) else None


def _plain(parameter: inspect.Parameter) -> Any:
    """A default as it can stand in generated code; None for an object, of which the graph holds what it needs."""
    value = parameter.default
    simple = (bool, int, float, str, torch.dtype)
    if isinstance(value, simple) or (isinstance(value, tuple) and all(isinstance(item, simple) for item in value)):
        return value
    return None


def _as_written(node: fx.Node) -> tuple[str, Any]:
    """A node's operation and target; a recorded ``torch.Tensor.view`` as a method: code could not import it."""
    name = getattr(node.target, "__name__", "")
    if node.op != "call_function" or getattr(torch.Tensor, name, None) is not node.target:
        return node.op, node.target
    return ("call_method", name) if node.args and isinstance(node.args[0], fx.Node) else (node.op, node.target)
