"""A plan to drop blocks, carried out: the graph of the module's new forward.

Writing makes no decisions and cannot fail, since the plan (`drop_plan.py`) has checked for everything that could stand
in the way. So a refusal always comes before anything of the model has been touched.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast

from .drop_plan import SitePlan, arguments, is_written, known_objects, leaves, local_name, past_hooks, signature_of
from .forwarded_arguments import Place, forwarded_arguments
from .overwrite import NEW_OUTPUT
from .program import ModuleCall, Program, call_of
from .still_needed import nodes_in

STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


@dataclass(frozen=True, eq=False)
class WrittenForward:
    """A module's new forward.

    Attributes:
        plan: the plan that it carries out.
        graph: the operations; targets are relative to the module, placeholders are its forward's parameters.
        constants: tensors that the graph reads and the module does not own, by their name in the graph.
        fixed: the arguments whose value in the traced run is part of the operations, with that value: the forward is
            valid for no other.
    """

    plan: SitePlan
    graph: fx.Graph
    constants: dict[str, torch.Tensor]
    fixed: dict[str, Any]


def written_forward(plan: SitePlan) -> WrittenForward:
    """The forward of a module according to its plan."""
    writer = _Writer(plan)
    graph = writer.write()
    return WrittenForward(plan, graph, writer.constants, writer.fixed)


class _Writer:
    def __init__(self, plan: SitePlan) -> None:
        self.plan = plan
        self.graph = fx.Graph()
        self.new: dict[fx.Node, fx.Node] = {}
        self.objects: dict[int, fx.Node] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.read = plan.reads()
        self.known = known_objects(plan)
        self.given = arguments(plan.program, plan.site)
        self.holders: dict[str, fx.Node] = {}
        self.fixed: dict[str, Any] = {}
        self.forwarded: dict[ModuleCall, dict[int | str, Place]] = {}

    def write(self) -> fx.Graph:
        self._inputs()
        # After the inputs: an object that is an argument too must come from there, where it may be another in the next
        # call.
        self._attributes()
        written: set[ModuleCall] = set()
        # In the order of the run, in which a call that stays takes the position of its first node.
        for node in self.plan.program.graph.nodes:
            if node in self.plan.operations:
                self._operation(node)
                continue
            call = self._kept_call(node)
            if call is not None and call not in written:
                written.add(call)
                self._call(call)
        returned = self._constructed(self._mapped(self.plan.returned))
        if self.plan.site.record is not None:
            returned = self.graph.call_function(self.plan.site.record, (), returned)
        self.graph.output(returned)
        self.graph.lint()
        return self.graph

    def _constructed(self, tree: Any) -> Any:
        """A nest whose named tuples are calls of their classes: older PyTorch writes the name without its class."""
        if isinstance(tree, tuple) and hasattr(tree, "_fields"):
            return self.graph.call_function(type(tree), tuple(map(self._constructed, tree)))
        if isinstance(tree, (tuple, list)):
            return type(tree)(map(self._constructed, tree))
        return {key: self._constructed(item) for key, item in tree.items()} if isinstance(tree, dict) else tree

    # inputs

    def _inputs(self) -> None:
        for name, parameter in signature_of(self.plan.site.module).parameters.items():
            star = STARS.get(parameter.kind, "")
            self.holders[name] = self.graph.placeholder(star + name)
        for name, holder in self.holders.items():
            self._learn(self.given.get(name), holder)
        self.fixed, self.forwarded = forwarded_arguments(self.plan)

    def _attributes(self) -> None:
        """Read the objects that the module holds as attributes and passes to something."""
        trees: list[Any] = [(call.args, call.kwargs) for call in self.plan.calls]
        trees += [(node.args, node.kwargs) for node in self.plan.operations]
        forwarded = {id(leaf) for tree in trees for leaf in leaves(tree)} & self.known
        for name, value in self.plan.site.module.__dict__.items():
            if id(value) in forwarded and id(value) not in self.objects:
                self.objects[id(value)] = self.graph.get_attr(name)

    def _learn(self, tree: Any, holder: fx.Node) -> None:
        """Associate the nodes of a value with `holder`, which now provides it, or with items of `holder`."""
        if isinstance(tree, fx.Node):
            self.new.setdefault(tree, holder)
        elif not is_written(tree) and not isinstance(tree, (dict, tuple, list)):
            self.objects.setdefault(id(tree), holder)
        for key, item in _items(tree):
            if any(node in self.read for node in nodes_in(item)) or any(
                id(leaf) in self.known for leaf in leaves(item)
            ):
                self._learn(item, self.graph.call_function(operator.getitem, (holder, key)))

    # operations

    def _mapped(self, tree: Any) -> Any:
        def counterpart(leaf: Any) -> Any:
            if isinstance(leaf, fx.Node):
                return self.new[leaf]
            return leaf if is_written(leaf) else self.objects.get(id(leaf))  # None: an object that the model returns

        return fx.node.map_aggregate(tree, counterpart)

    def _kept_call(self, node: fx.Node) -> ModuleCall | None:
        if not self.plan.calls or node.op == "output":
            return None
        return next((call for call in call_of(node).ancestors() if call in self.plan.calls), None)

    def _call(self, call: ModuleCall) -> None:
        args, kwargs = list(self._mapped(call.args)), dict(self._mapped(call.kwargs))
        for key, argument in self.forwarded.get(call, {}).items():
            if isinstance(key, int):
                args[key] = self._argument(argument)
            else:
                kwargs[key] = self._argument(argument)
        first = _past_identities(call.args[0] if call.args else None, self.plan.program)
        if getattr(call.module, "inplace", False) and first in self.plan.stand_ins and not self._is_fresh(first):
            args[0] = self.graph.call_function(torch.clone, (args[0],))
        name = local_name(self.plan, call.path) or ""
        with self._region(_operations_of(call)):
            result = self.graph.call_module(name, tuple(args), kwargs)
        self._learn(call.output, result)

    def _argument(self, argument: Place) -> fx.Node:
        name, key = argument
        holder = self.holders[name]
        return holder if key is None else self.graph.call_function(operator.getitem, (holder, key))

    def _is_fresh(self, add: fx.Node) -> bool:
        """Whether an activation may overwrite the value that replaces the sum, because nobody else reads it."""
        shortcut = self.plan.stand_ins[add]
        if shortcut.op != "call_module" or len(shortcut.users) > 1:
            return False
        module = self.plan.program.module(str(shortcut.target))
        return isinstance(module, NEW_OUTPUT) and not module._forward_hooks

    def _is_overwritten_outside(self, add: fx.Node) -> bool:
        """Whether an unchanged forward overwrites a dropped sum, whose shortcut others may read."""
        writer = add.meta.get("overwritten_by")
        if add not in self.plan.stand_ins or writer is None or self._is_fresh(add):
            return False
        return self.plan.site not in call_of(writer).ancestors()

    def _operation(self, node: fx.Node) -> None:
        instead = self.plan.stand_ins.get(node) or past_hooks(node, self.plan.site)
        if instead is not None:
            self.new[node] = self.new[instead]
            if self._is_overwritten_outside(node):
                self.new[node] = self.graph.call_function(torch.clone, (self.new[node],))
        elif node.op == "get_attr":
            self.new[node] = self.graph.get_attr(self._attribute(str(node.target)))
        else:
            op, target = _as_written(node)
            args, kwargs = self._mapped(node.args), self._mapped(node.kwargs)
            with self._region([node]):
                self.new[node] = self.graph.create_node(op, target, args, kwargs, node.name, node.type)

    @contextmanager
    def _region(self, nodes: list[fx.Node]) -> Iterator[None]:
        """Within the block, operations are written inside the ``torch.autocast`` in which all these nodes ran."""
        regions = {node.meta.get("autocast") for node in nodes}
        region = next(iter(regions)) if len(regions) == 1 else None
        if region is None:
            yield
            return
        entered = self.graph.call_function(_enter_autocast, (*region, None))
        yield
        self.graph.call_function(_exit_autocast, (entered,))

    def _attribute(self, target: str) -> str:
        constants = self.plan.program.constants
        if target not in constants:
            return local_name(self.plan, target) or ""
        name = f"constant_{len(self.constants)}"
        while hasattr(self.plan.site.module, name):
            name += "_"
        self.constants[name] = constants[target]
        return name


def _items(tree: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(tree, dict):
        yield from tree.items()
    elif isinstance(tree, (tuple, list)):
        yield from enumerate(tree)


def _operations_of(call: ModuleCall) -> list[fx.Node]:
    """The operations of a call and of the calls within it."""
    nodes = [node for node in call.nodes if node.op.startswith("call_")]
    for child in call.children:
        nodes += _operations_of(child)
    return nodes


def _past_identities(node: Any, program: Program) -> Any:
    """The value behind layers that may return their input itself."""
    while isinstance(node, fx.Node) and node.op == "call_module" and node.args:
        module = program.module(str(node.target))
        if not isinstance(module, (nn.Identity, nn.modules.dropout._DropoutNd)):
            break
        node = node.args[0]
    return node


def _as_written(node: fx.Node) -> tuple[str, Any]:
    """A node's operation and target; a recorded ``torch.Tensor.view`` becomes a method: code could not import it."""
    name = getattr(node.target, "__name__", "")
    if node.op != "call_function" or getattr(torch.Tensor, name, None) is not node.target:
        return node.op, node.target
    return ("call_method", name) if node.args and isinstance(node.args[0], fx.Node) else (node.op, node.target)
