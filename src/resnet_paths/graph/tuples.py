"""Items of tuples that a forward puts together, read where they were made.

Many models return ``(hidden, *rest)`` from each layer and take ``[0]`` of it outside. In the graph that is a tuple made
of one value and a slice of another module's outputs, and reading its first item reads the slice too: a value that
nothing needs would keep an attention's branch alive. So an item is traced back through the tuples to the value itself.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from .program import Program, map_nodes


def read_items_directly(program: Program) -> None:
    """Replace, in place, items and slices of concatenated tuples by the values that they are."""
    replaced: dict[fx.Node, fx.Node] = {}
    for node in list(program.graph.nodes):
        while node.op == "call_function" and node.target is operator.getitem and _step(node, replaced):
            pass
    if replaced:
        _note(program, replaced)


def _note(program: Program, replaced: dict[fx.Node, fx.Node]) -> None:
    """The same values in what the calls were given and what they returned."""

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


def _step(node: fx.Node, replaced: dict[fx.Node, fx.Node]) -> bool:
    """Follow one item one tuple back; whether that was possible."""
    source, index = node.args
    if not isinstance(source, fx.Node) or source.target is not operator.add or source.kwargs:
        return False
    first, second = source.args
    if not isinstance(first, (tuple, list)):
        return False
    if isinstance(index, int) and 0 <= index < len(first):
        return _is(node, replaced, first[index])
    if not isinstance(second, fx.Node):
        return False
    if isinstance(index, int) and index >= len(first):
        node.args = (second, index - len(first))
        return True
    if isinstance(index, slice) and index.step is None and index.stop is None and index.start == len(first):
        return _is(node, replaced, second)
    return False


def _is(node: fx.Node, replaced: dict[fx.Node, fx.Node], value: Any) -> bool:
    if isinstance(value, fx.Node):
        node.replace_all_uses_with(value)
        replaced[node] = value
    return False
