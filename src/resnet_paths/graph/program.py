"""The common result of both front ends: a graph of operations and a tree of module calls.

The graph alone would do for evaluation. The tree is what editing needs: a block is dropped by rewriting the forward of
a module, so each operation must know in whose forward it was made.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, is_dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from .held_values import HeldAttribute, HeldTensor, check_unchanged, same_numbers
from .trees import leaves, map_leaves


@dataclass(eq=False)
class ModuleCall:
    """One call of one module during the forward pass: its inputs and outputs, as graph nodes.

    Attributes:
        path: qualified name of the module (``""`` for the model itself).
        module: the module.
        parent: the call in whose forward this call stands; None for the model.
        args: positional arguments, with nodes in place of tensors.
        kwargs: keyword arguments, with nodes in place of tensors.
        output: what the call returned, with nodes in place of tensors.
        record: the class of the returned value if its fields are the items of `output`: one derived from dict (Hugging
            Face's outputs), or what the model itself returns as a dataclass; else None.
        leaf: whether the call is a single node of the graph, whose operations are not visible.
        children: the calls made by this call, in order.
        nodes: the graph nodes made by this call itself (including those of leaf children).

    """

    path: str
    module: nn.Module
    parent: ModuleCall | None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    output: Any = None
    record: type | None = None
    leaf: bool = False
    children: list[ModuleCall] = field(default_factory=list)
    nodes: list[fx.Node] = field(default_factory=list)

    def returns(self, value: Any, nodes: Any) -> None:
        """Record what the call returned, and the same with nodes in place of tensors."""
        self.output = nodes
        is_record = (isinstance(value, dict) and type(value) is not dict) or (
            isinstance(nodes, dict) and is_dataclass(value)
        )
        self.record = type(value) if is_record else None

    def walk(self) -> Iterator[ModuleCall]:
        """This call, then all calls made within it, in order."""
        yield self
        for child in self.children:
            yield from child.walk()

    def ancestors(self) -> Iterator[ModuleCall]:
        """This call, then the calls around it, innermost first."""
        call: ModuleCall | None = self
        while call is not None:
            yield call
            call = call.parent


@dataclass(eq=False)
class Program:
    """A model's forward pass as a functional graph.

    The graph is an ordinary ``torch.fx`` graph with these promises: no node changes a value that another
    node reads (in-place operations have been rewritten; modules with ``inplace=True`` are handled where
    they run); each node carries the call that made it in ``node.meta["call"]``; ``get_attr`` nodes are
    looked up in the model, or in `constants` where the model does not hold them under a name.

    Attributes:
        model: the model, as the user gave it.
        graph: placeholders, operations, one output node.
        root: the call of the model itself.
        placeholders: the nodes of the model's inputs, by argument name, in order.
        output: the node of the output that an evaluation returns (the logits).
        output_path: where it is in what the model returns.
        constants: tensors that the graph reads and that the model does not own by name.
        opaque: qualified names of modules closed because their forward could not be followed, with the reason.
        front_end: ``"trace"`` or ``"record"``.
        held_attributes: plain attributes of modules that were read and that the graph holds as constants.
        held_tensors: tensors of the model from which constants of the graph were computed.

    """

    model: nn.Module
    graph: fx.Graph
    root: ModuleCall
    placeholders: dict[str, fx.Node]
    output: fx.Node
    constants: dict[str, torch.Tensor] = field(default_factory=dict)
    opaque: dict[str, str] = field(default_factory=dict)
    front_end: str = "trace"
    held_attributes: tuple[HeldAttribute, ...] = ()
    output_path: tuple[int | str, ...] = ()
    held_tensors: tuple[HeldTensor, ...] = ()

    def check_unchanged(self) -> None:
        """Check that the constants of the graph still equal the model's attributes and tensors.

        Raises:
            UnrollError: one has changed.
        """
        check_unchanged(self.held_attributes)
        for tensor in self.held_tensors:
            tensor.check(self.attribute(tensor.name))

    def attribute(self, target: str) -> Any:
        """The value of a ``get_attr`` node, read from the model now."""
        return self.constants[target] if target in self.constants else attrgetter(target)(self.model)

    def module(self, path: str) -> nn.Module:
        """The module of a qualified name, read from the model now; several times as fast as ``get_submodule``."""
        module = self.model
        try:
            for name in path.split(".") if path else ():
                module = module._modules[name]  # type: ignore[assignment]
        except (AttributeError, KeyError):  # an attribute that is not a registered module
            return self.model.get_submodule(path)
        return module

    def tensors_read(self) -> set[int]:
        """The identities of the model's tensors that the graph reads itself, not within a call of a module."""
        names = {str(node.target) for node in self.graph.nodes if node.op == "get_attr"}
        return {id(self.attribute(name)) for name in names.union(held.name for held in self.held_tensors)}


def same_operation(one: fx.Node, other: fx.Node) -> bool:
    """Whether two nodes of two graphs of one model are the same operation, whatever their arguments."""
    same_hooks = type(one.target) is type(other.target) and hasattr(one.target, "module")
    return one.op == other.op and one.name == other.name and (one.target == other.target or same_hooks)


def first_difference(one: Program, other: Program, *, constants_only: bool = False) -> tuple[str, str] | None:
    """Where two programs of one model diverge: the module's qualified name, and how; None if they are the same."""
    for node, twin in () if constants_only else itertools.zip_longest(one.graph.nodes, other.graph.nodes):
        if node is None or twin is None or not same_operation(node, twin):
            present = node if node is not None and node.op != "output" else twin
            return where_they_part(node, twin), f"{present.name} in one run only"
        for value, again in itertools.zip_longest(leaves((node.args, node.kwargs)), leaves((twin.args, twin.kwargs))):
            if not _same_operand(value, again):
                return where_they_part(node, twin), f"{value!r} and {again!r} in {node.name}"
    for name, tensor in one.constants.items():
        if not equal_values(tensor, other.constants.get(name)):
            reader = next(node for node in one.graph.nodes if node.op == "get_attr" and node.target == name)
            return where_they_part(reader, reader), f"a tensor made there ({name})"
    return None


def _same_operand(one: Any, other: Any) -> bool:
    if isinstance(one, fx.Node) or isinstance(other, fx.Node):
        return isinstance(one, fx.Node) and isinstance(other, fx.Node) and one.name == other.name
    return equal_values(one, other)


def where_they_part(one: fx.Node | None, other: fx.Node | None) -> str:
    """The innermost module whose forward makes both nodes: it is the one that decides between them."""
    modules, other_modules = _modules_around(one), _modules_around(other)
    return next((path for path in modules if path in other_modules), "")


def _modules_around(node: fx.Node | None) -> list[str]:
    """The modules in whose forward a node was made, innermost first; for the output, those of the node before it."""
    while node is not None and "call" not in node.meta and node.prev.op != "root":
        node = node.prev
    if node is None or "call" not in node.meta:
        return [""]
    call = call_of(node)
    places = [outer.path for outer in call.ancestors() if not (outer is call and call.leaf)]
    return [node.meta["method"], *places] if node.meta.get("method") else places


def equal_values(one: Any, other: Any) -> bool:
    """Whether two constants of graphs are equal; NaN equals NaN in tensors."""
    if one is other:
        return True
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return same_numbers(one, other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return type(one) is type(other) and bool(one == other)


def call_of(node: fx.Node) -> ModuleCall:
    """The module call in whose forward a node was made."""
    call: ModuleCall = node.meta["call"]
    return call


def map_nodes(tree: Any, change: Callable[[fx.Node], Any]) -> Any:
    """A nest of tuples, lists, dicts and slices with every node replaced."""
    return map_leaves(tree, lambda leaf: change(leaf) if isinstance(leaf, fx.Node) else leaf)


def first_node(tree: Any) -> fx.Node | None:
    """The node of the main output: ``logits`` if there is one, else the first."""
    if isinstance(tree, fx.Node):
        return tree
    if isinstance(tree, dict):
        if isinstance(tree.get("logits"), fx.Node):
            logits: fx.Node = tree["logits"]
            return logits
        tree = list(tree.values())
    if isinstance(tree, (tuple, list)):
        for item in tree:
            node = first_node(item)
            if node is not None:
                return node
    return None
