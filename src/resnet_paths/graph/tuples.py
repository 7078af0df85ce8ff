"""Items of tuples that a forward puts together, read where they were made.

Many models return ``(hidden, *rest)`` from each layer and take ``[0]`` of it outside. In the graph that is a tuple made
of one value and a slice of another module's outputs, and reading its first item reads the slice too: a value that
nothing needs would keep an attention's branch alive. So an item is traced back through the tuples to the value itself.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx


def read_items_directly(graph: fx.Graph) -> None:
    """Replace, in place, items and slices of concatenated tuples by the values that they are."""
    for node in list(graph.nodes):
        while node.op == "call_function" and node.target is operator.getitem and _step(graph, node):
            pass


def _step(graph: fx.Graph, node: fx.Node) -> bool:
    """Follow one item one tuple back; whether that was possible."""
    source, index = node.args
    if not isinstance(source, fx.Node) or source.target is not operator.add or source.kwargs:
        return False
    first, second = source.args
    if not isinstance(first, (tuple, list)):
        return False
    if isinstance(index, int) and 0 <= index < len(first):
        return _is(graph, node, first[index])
    if not isinstance(second, fx.Node):
        return False
    if isinstance(index, int) and index >= len(first):
        node.args = (second, index - len(first))
        return True
    if isinstance(index, slice) and index.step is None and index.stop is None and index.start == len(first):
        return _is(graph, node, second)
    return False


def _is(graph: fx.Graph, node: fx.Node, value: Any) -> bool:
    if isinstance(value, fx.Node):
        node.replace_all_uses_with(value)
    return False
