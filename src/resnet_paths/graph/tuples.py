"""Read items of tuples that a forward builds directly from the values they were built of.

Many models return ``(hidden, *rest)`` from each layer and take ``[0]`` of it outside. In the graph that is a tuple
built from one value and a slice of another module's outputs, and reading its first item reads the slice too, so a value
that nothing needs would keep an attention's branch alive. Hence each item is traced back through the tuples to the
value.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from .program import Program, map_nodes


def read_items_directly(program: Program) -> None:
    """Replace, in place, items and slices of concatenated tuples by the values themselves."""
    replaced: dict[fx.Node, fx.Node] = {}
    for node in list(program.graph.nodes):
        while node.op == "call_function" and node.target is operator.getitem and _follow_back(node, replaced):
            pass
    if replaced:
        _replace_in_calls(program, replaced)


def _replace_in_calls(program: Program, replaced: dict[fx.Node, fx.Node]) -> None:
    """Make the same replacements in the arguments and outputs of the calls."""

    def value_of(node: fx.Node) -> fx.Node:
        while node in replaced:
            node = replaced[node]
        return node

    calls = [program.root]
    while calls:
        call = calls.pop()
        call.args, call.kwargs = map_nodes(call.args, value_of), map_nodes(call.kwargs, value_of)
        call.output = map_nodes(call.output, value_of)
        calls += call.children


def _follow_back(node: fx.Node, replaced: dict[fx.Node, fx.Node]) -> bool:
    """Follow an item back through one tuple; True if there may be another."""
    source, index = node.args
    if not isinstance(source, fx.Node) or source.target is not operator.add or source.kwargs:
        return False
    first, second = source.args
    if not isinstance(first, (tuple, list)):
        return False
    if isinstance(index, int) and 0 <= index < len(first):
        return _replace(node, replaced, first[index])
    if not isinstance(second, fx.Node):
        return False
    if isinstance(index, int) and index >= len(first):
        node.args = (second, index - len(first))
        return True
    if isinstance(index, slice) and index.step is None and index.stop is None and index.start == len(first):
        return _replace(node, replaced, second)
    return False


def _replace(node: fx.Node, replaced: dict[fx.Node, fx.Node], value: Any) -> bool:
    if isinstance(value, fx.Node):
        node.replace_all_uses_with(value)
        replaced[node] = value
    return False
