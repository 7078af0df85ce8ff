"""How to compute one node of a graph from the values of others.

Each node is compiled once into a function of the values computed so far, so that running a piece is a plain loop
without looking at node types. This is also the one place where an operation may become an in-place one: only where
`overwrite` shows that no other reader, hook or caller can see the value, and never under autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from .errors import UnrollError
from .overwrite import Watchers, is_plain_relu, unwatched, watchers
from .program import Program, map_nodes

Values = dict[fx.Node, Any]
Step = Callable[[Values], Any]


def step_of(node: fx.Node, program: Program, pinned: frozenset[fx.Node]) -> Step:
    """The function that computes a node. It never overwrites a pinned value, nor any value under autograd.

    Args:
        node: an operation, or an attribute of the model.
        program: the graph it belongs to.
        pinned: nodes whose values are read by more than their readers in the graph.
    """
    region = node.meta.get("autocast")
    if region is None:
        return _step(node, program, pinned)
    step = _step(node, program, pinned)
    return lambda values: region.run(step, values)


def _step(node: fx.Node, program: Program, pinned: frozenset[fx.Node]) -> Step:
    if node.op == "get_attr":
        target = str(node.target)
        return lambda values: program.attribute(target)
    if is_plain_relu(node, program) and (seen_by := watchers(node.args[0], program, pinned)) is not None:
        return _relu(node, program, seen_by)
    if node.op == "call_method":
        return _method(node)
    if node.op == "call_module":
        module = program.module(str(node.target))
        if getattr(module, "inplace", False):
            return _in_place_module(node, module, watchers(node.args[0], program, pinned) if node.args else None)
        return _closed(node, module) if str(node.target) in program.opaque else _function(node, module)
    return _function(node, node.target)  # type: ignore[arg-type]


def _relu(node: fx.Node, program: Program, seen_by: Watchers) -> Step:
    source: fx.Node = node.args[0]  # type: ignore[assignment]
    module = program.module(str(node.target)) if node.op == "call_module" else None
    seen_by = seen_by if module is None else (*seen_by, module)

    def call(values: Values) -> torch.Tensor:
        value: torch.Tensor = values[source]
        if not torch.is_grad_enabled() and unwatched(seen_by):
            return value.relu_()
        return value.relu() if module is None else module(value)

    return call


def _function(node: fx.Node, function: Callable[..., Any]) -> Step:
    if len(node.args) == 1 and not node.kwargs and isinstance(node.args[0], fx.Node):
        only = node.args[0]
        return lambda values: function(values[only])
    args, kwargs = _filling(node.args), _filling(node.kwargs)

    def call(values: Values) -> Any:
        return function(*args(values), **kwargs(values))

    return call


def _closed(node: fx.Node, module: nn.Module) -> Step:
    """A closed module. It must not write over what others read; this is checked except in inference mode."""
    compute = _function(node, module)

    def call(values: Values) -> Any:
        given = [values[other] for other in node.all_input_nodes]
        read = [value for value in given if isinstance(value, torch.Tensor) and not value.is_inference()]
        before = [value._version for value in read]
        result = compute(values)
        if [value._version for value in read] != before:
            raise UnrollError(
                f"expected {node.target}, whose forward cannot be traced, to leave its input unchanged, got an "
                "in-place write to a value that others read; clone the input there, or remove inplace=True"
            )
        return result

    return call


def _method(node: fx.Node) -> Step:
    name, args, kwargs = str(node.target), _filling(node.args), _filling(node.kwargs)

    def call(values: Values) -> Any:
        receiver, *rest = args(values)
        return getattr(receiver, name)(*rest, **kwargs(values))

    return call


def _in_place_module(node: fx.Node, module: nn.Module, seen_by: Watchers | None) -> Step:
    """A module that overwrites its argument; it receives a copy where the argument may be read elsewhere."""
    args, kwargs = _filling(node.args), _filling(node.kwargs)

    def call(values: Values) -> Any:
        first, *rest = args(values)
        if isinstance(first, torch.Tensor) and not unwatched(seen_by):
            if type(module) is nn.ReLU and unwatched((module,)):
                return first.relu()  # the same numbers without a copy first
            first = first.clone()
        return module(first, *rest, **kwargs(values))

    return call


def _filling(tree: Any) -> Callable[[Values], Any]:
    """A function that substitutes values for the nodes of a nest, in new lists and dicts that the callee may change."""
    if isinstance(tree, tuple) and not any(isinstance(item, (tuple, list, dict, slice)) for item in tree):
        items = [(isinstance(item, fx.Node), item) for item in tree]
        return lambda values: tuple([values[item] if is_node else item for is_node, item in items])
    if not tree:
        return lambda values: tree
    return lambda values: map_nodes(tree, values.__getitem__)
