"""A module's forward written again without the branches of some units, as a graph over its children.

Calls of children stay calls: a child keeps its class, its hooks and what it does in training. Only the module
whose forward makes the addition is written out (and a child that holds nothing but the addition).
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn

from ..unroll import NotDroppableError
from ..unroll._hooks import PostHooks, PreHooks
from ..unroll._program import ModuleCall, Program, call_of
from ..unroll._units import Cut, owner_of

_SIMPLE = (type(None), bool, int, float, str)


def calls_of(program: Program) -> list[ModuleCall]:
    """All module calls of a program, outer before inner."""
    found, todo = [], [program.root]
    while todo:
        call = todo.pop()
        found.append(call)
        todo.extend(call.children)
    return found


def place_of(cut: Cut, program: Program) -> ModuleCall:
    """The call to rewrite for a unit: its owner, or the nearest call around it whose module runs once."""
    runs: dict[int, int] = {}
    for call in calls_of(program):
        runs[id(call.module)] = runs.get(id(call.module), 0) + 1
    for call in owner_of(cut).ancestors():
        if all(runs[id(around.module)] == 1 for around in call.ancestors()):
            return call
    return program.root


class Body:
    """Writes the forward of one call without the branches of some units."""

    def __init__(self, program: Program, place: ModuleCall, cuts: Iterable[Cut]) -> None:
        self.program, self.place = program, place
        self.dropped = {cut.add: cut for cut in cuts}
        self.opened = {call for cut in self.dropped.values() for call in call_of(cut.add).ancestors()}
        self.prefix = f"{place.path}." if place.path else ""
        self.graph = fx.Graph()
        self.new: dict[fx.Node, fx.Node] = {}
        self.constants: dict[str, torch.Tensor] = {}

    def write(self) -> fx.Graph:
        """The graph, dead code gone; its targets are relative to the module of the place."""
        self._inputs()
        written: set[ModuleCall] = set()
        for node in self.program.graph.nodes:
            if node.op in ("placeholder", "output"):
                continue
            around = list(call_of(node).ancestors())
            if self.place not in around:
                continue
            closed = [call for call in around[: around.index(self.place)] if call not in self.opened]
            if not closed:
                self._operation(node)
            elif closed[-1] not in written:
                written.add(closed[-1])
                self._call(closed[-1])
        self.graph.output(self._mapped(self.place.output))
        for node in reversed(list(self.graph.nodes)):
            if not node.users and node.op not in ("placeholder", "output"):
                self.graph.erase_node(node)
        return self.graph

    def _inputs(self) -> None:
        signature = inspect.signature(self.place.module.forward)
        if self.place is self.program.root:
            given: dict[str, Any] = dict(self.program.placeholders)
        else:
            given = dict(signature.bind(*self.place.args, **self.place.kwargs).arguments)
        for name, parameter in signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                holder = self.graph.placeholder(f"*{name}")
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                holder = self.graph.placeholder(f"**{name}")
            elif parameter.default is inspect.Parameter.empty:
                holder = self.graph.placeholder(name)
            else:
                simple = parameter.default if isinstance(parameter.default, _SIMPLE) else None
                holder = self.graph.placeholder(name, default_value=simple)
            self._learn(given.get(name), holder)

    def _learn(self, tree: Any, holder: fx.Node) -> None:
        """The nodes of a value that now comes as `holder`, or as items of it."""
        if isinstance(tree, fx.Node):
            self.new.setdefault(tree, holder)
        elif isinstance(tree, dict):
            for key, item in tree.items():
                if _has_node(item):
                    self._learn(item, self.graph.call_function(operator.getitem, (holder, key)))
        elif isinstance(tree, (tuple, list)):
            for place, item in enumerate(tree):
                if _has_node(item):
                    self._learn(item, self.graph.call_function(operator.getitem, (holder, place)))

    def _mapped(self, tree: Any) -> Any:
        return fx.node.map_arg(tree, self._now)

    def _now(self, node: fx.Node) -> fx.Node:
        if node in self.new:
            return self.new[node]
        raise NotDroppableError(
            f"expected {self.place.path or 'the model'} to work from its own inputs, but it reads {node.name}, made "
            "outside it; such a unit can be deleted by a gate of 0, not taken out of the model"
        )

    def _relative(self, target: str) -> str:
        if target.startswith(self.prefix):
            return target.removeprefix(self.prefix)
        raise NotDroppableError(
            f"expected {self.place.path} to use its own parts, but it uses {target}; such a unit can be deleted by "
            "a gate of 0, not taken out of the model"
        )

    def _call(self, call: ModuleCall) -> None:
        if not _reachable((call.args, call.kwargs), self.new):
            return
        target = self._relative(call.path)
        args = self._mapped(call.args)
        if getattr(call.module, "inplace", False) and call.args and call.args[0] in self.dropped:
            args = (self._not_in_place(args[0]), *args[1:])
        made = self.graph.call_module(target, args, self._mapped(call.kwargs))
        self._learn(call.output, made)

    def _not_in_place(self, value: fx.Node) -> fx.Node:
        """A copy for an activation that would write over the unit's input, now that there is no sum."""
        return self.graph.call_function(torch.clone, (value,))

    def _operation(self, node: fx.Node) -> None:
        if node in self.dropped:
            self.new[node] = self._now(self.dropped[node].shortcut)
            return
        if node.op == "call_function" and isinstance(node.target, (PreHooks, PostHooks)):
            self._hook(node)
            return
        if node.op == "call_function" and node.target is operator.getitem:
            hooked = node.args[0]
            if isinstance(hooked, fx.Node) and isinstance(hooked.target, PreHooks):
                source = hooked.args[node.args[1]]  # type: ignore[index]
                if isinstance(source, fx.Node):
                    self.new[node] = self._now(source)
                return
        if node.op == "get_attr":
            self._attribute(node)
            return
        if not all(source in self.new for source in node.all_input_nodes):
            return
        made = self.graph.node_copy(node, self._now)
        if node.op == "call_module":
            made.target = self._relative(str(node.target))
        made.meta = {}
        self.new[node] = made

    def _hook(self, node: fx.Node) -> None:
        """Hooks of the place itself move to the module that replaces it; others would be lost."""
        hooks = node.target
        if getattr(hooks, "module", None) is not self.place.module:
            raise NotDroppableError(
                f"expected no hooks on the module inside {self.place.path or 'the model'} that makes the addition; "
                "remove them first, and register them again on the smaller model"
            )
        if isinstance(hooks, PostHooks) and isinstance(node.args[0], fx.Node):
            self.new[node] = self._now(node.args[0])

    def _attribute(self, node: fx.Node) -> None:
        target = str(node.target)
        if target in self.program.constants:
            name = f"constant_{len(self.constants)}"
            self.constants[name] = self.program.constants[target]
            self.new[node] = self.graph.get_attr(name)
        elif target.startswith(self.prefix):
            self.new[node] = self.graph.get_attr(self._relative(target))


def _has_node(tree: Any) -> bool:
    found: list[fx.Node] = []
    fx.node.map_arg(tree, found.append)
    return bool(found)


def _reachable(tree: Any, known: dict[fx.Node, fx.Node]) -> bool:
    """Whether all nodes of a tree are known; what reads unknown ones is needed by nothing that is kept."""
    found: list[fx.Node] = []
    fx.node.map_arg(tree, found.append)
    return all(node in known for node in found)


def rebuilt(module: nn.Module, body: Body) -> nn.Module:
    """The module that runs a body's graph on the children of `module`.

    ``nn.Identity`` where nothing is left to do; otherwise a ``torch.fx.GraphModule`` with the same names.
    """
    graph = body.write()
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    made: nn.Module
    if len(inputs) == 1 and result is inputs[0]:
        made = nn.Identity()
        made.training = module.training
    else:
        for name, value in body.constants.items():
            module.register_buffer(name, value, persistent=False)
        try:
            made = fx.GraphModule(module, graph, class_name=type(module).__name__)
        finally:
            for name in body.constants:
                delattr(module, name)
    for table in (
        "_forward_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks",
        "_forward_pre_hooks_with_kwargs",
    ):
        getattr(made, table).update(getattr(module, table))
    return made
