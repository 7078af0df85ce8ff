"""Rewrite every spelling of a sum as one: ``add(first term, second term)`` of two nodes.

This comes before everything else because the search for blocks, gates, lesions and smaller models all work on an
addition and its two terms. The spellings are unified once, here, in the graph, and nothing else handles them. A
coefficient becomes a separate operation on the term that it multiplies (``x - y`` is ``x + (-y)``, bit for bit), so
that a gate multiplies the term including its coefficient. Sums with data-dependent weights (``lerp`` with a computed
weight) are gates, not sums, and stay as they are. Fused operations (``addcmul``, ``lerp``, the sum of a stack) round
otherwise than the sum of their terms; those that turn out not to be blocks are restored, so that the numbers stay the
model's, bit for bit.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from . import operations
from .operations import spellings
from .program import call_of

_Rewrite = Callable[[fx.Graph, fx.Node, set[fx.Node]], None]


@dataclass(frozen=True, eq=False)
class Fused:
    """A fused operation that was expanded, in its original form; `added` is the addition in its expanded form."""

    node: fx.Node
    added: fx.Node
    op: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def put_back(self) -> None:
        """Make it a single operation again."""
        self.node.op, self.node.target, self.node.args, self.node.kwargs = self.op, self.target, self.args, self.kwargs


_SUBTRACTIONS = spellings("sub", "subtract")
_REVERSED = spellings("rsub") | {torch.Tensor.__rsub__, "__rsub__"}
_LERPS = spellings("lerp")
_ADDCMULS = spellings("addcmul")
_SUMS, _MEANS = spellings("sum"), spellings("mean")


def unify_sums(graph: fx.Graph, data: set[fx.Node]) -> list[Fused]:
    """Rewrite, in place, each sum of two values of the data as an addition of two nodes.

    Args:
        graph: a program's graph.
        data: the nodes that carry values of the input; new nodes are added.

    Returns:
        The fused operations among those rewritten.
    """
    fused: list[Fused] = []
    for node in list(graph.nodes):
        rewrite = _rewriting(node)
        if rewrite is None:
            continue
        before = node.op, node.target, node.args, dict(node.kwargs)
        rewrite(graph, node, data)
        if rewrite in (_interpolation, _product_added, _stacked) and node.target is not before[1]:
            added = node if node.target is operator.add else node.all_input_nodes[0]  # a mean divides it
            fused.append(Fused(node, added, *before))
    return fused


def put_back(graph: fx.Graph, fused: list[Fused]) -> None:
    """Restore fused operations, and erase nodes that only the expanded form read."""
    for operation in fused:
        inputs = list(operation.node.all_input_nodes)
        operation.put_back()
        while inputs:
            node = inputs.pop()
            if not node.users and node.op == "call_function" and node not in operation.args:
                inputs += node.all_input_nodes
                graph.erase_node(node)
                call_of(node).nodes.remove(node)


def _rewriting(node: fx.Node) -> _Rewrite | None:
    if node.op not in ("call_function", "call_method"):
        return None
    if operations.is_addition(node):
        return _addition if node.kwargs else None
    target = operations.target_of(node)
    return next((rewrite for spelt, rewrite in _REWRITES if target in spelt), None)


def _operands(node: fx.Node, *names: str) -> dict[str, Any]:
    """The arguments by name; the first may be called `input` or `self`."""
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    for alias in ("input", "self"):
        if alias in given:
            given[names[0]] = given.pop(alias)
    return given


def _are_data(data: set[fx.Node], *values: Any) -> bool:
    return all(isinstance(value, fx.Node) and value in data for value in values)


def _insert(graph: fx.Graph, before: fx.Node, data: set[fx.Node], target: Any, *args: Any) -> fx.Node:
    with graph.inserting_before(before):
        node = graph.call_function(target, args)
    call_of(before).nodes.append(node)
    node.meta["call"] = call_of(before)
    if any(isinstance(value, fx.Node) and value in data for value in args):
        data.add(node)
    return node


def _times(graph: fx.Graph, before: fx.Node, data: set[fx.Node], value: fx.Node, factor: Any) -> fx.Node:
    """The value times a number or a node; no new node for 1, a negation for -1."""
    if not isinstance(factor, fx.Node):
        if factor == 1:
            return value
        if factor == -1:
            return _insert(graph, before, data, operator.neg, value)
    return _insert(graph, before, data, operator.mul, value, factor)


def _becomes_sum(node: fx.Node, first: fx.Node, second: fx.Node) -> None:
    node.op, node.target = "call_function", operator.add
    node.args, node.kwargs = (first, second), {}


def _addition(graph: fx.Graph, node: fx.Node, data: set[fx.Node]) -> None:
    """``add(x, other=y, alpha=a)`` as ``x + a y``."""
    given = _operands(node, "x", "other")
    is_supported = {"x", "other"} <= given.keys() <= {"x", "other", "alpha"}
    if is_supported and _are_data(data, given["x"], given["other"]):
        second = _times(graph, node, data, given["other"], given.get("alpha", 1))
        _becomes_sum(node, given["x"], second)


def _subtraction(graph: fx.Graph, node: fx.Node, data: set[fx.Node]) -> None:
    """``x - a y`` as ``x + (-a) y``."""
    given = _operands(node, "x", "other")
    is_supported = {"x", "other"} <= given.keys() <= {"x", "other", "alpha"}
    alpha = given.get("alpha", 1)
    if is_supported and _are_data(data, given["x"], given["other"]) and not isinstance(alpha, fx.Node):
        _becomes_sum(node, given["x"], _times(graph, node, data, given["other"], -alpha))


def _reversed_subtraction(graph: fx.Graph, node: fx.Node, data: set[fx.Node]) -> None:
    """``rsub(x, y, alpha=a) = y - a x`` as ``y + (-a) x``."""
    given = _operands(node, "x", "other")
    alpha = given.get("alpha", 1)
    if "other" in given and _are_data(data, given.get("x"), given["other"]) and not isinstance(alpha, fx.Node):
        _becomes_sum(node, given["other"], _times(graph, node, data, given["x"], -alpha))


def _interpolation(graph: fx.Graph, node: fx.Node, data: set[fx.Node]) -> None:
    """``lerp(x, y, w)`` as ``(1 - w) x + w y``, if the weight does not depend on the data."""
    given = _operands(node, "x", "end", "weight")
    weight = given.get("weight")
    if not _are_data(data, given.get("x"), given.get("end")) or weight is None or _are_data(data, weight):
        return
    rest = _insert(graph, node, data, operator.sub, 1, weight) if isinstance(weight, fx.Node) else 1 - weight
    first = _times(graph, node, data, given["x"], rest)
    _becomes_sum(node, first, _times(graph, node, data, given["end"], weight))


def _product_added(graph: fx.Graph, node: fx.Node, data: set[fx.Node]) -> None:
    """``addcmul(x, a, b, value=v)`` as ``x + v a b``."""
    given = _operands(node, "x", "tensor1", "tensor2")
    one, two = given.get("tensor1"), given.get("tensor2")
    if not isinstance(one, fx.Node) or not isinstance(two, fx.Node) or not _are_data(data, given.get("x")):
        return
    if not (_are_data(data, one) or _are_data(data, two)):
        return
    product = _insert(graph, node, data, operator.mul, one, two)
    _becomes_sum(node, given["x"], _times(graph, node, data, product, given.get("value", 1)))


def _stacked(graph: fx.Graph, node: fx.Node, data: set[fx.Node]) -> None:
    """``stack([x, y, ...], d).sum(d)`` as ``x + y + ...``, and ``mean(d)`` as that over their number."""
    given = _operands(node, "x", "dim")
    stack = given.get("x")
    if not isinstance(stack, fx.Node) or not operations.is_stack(stack) or len(stack.users) != 1:
        return
    parts = _operands(stack, "tensors", "dim")
    terms, along = parts.get("tensors", ()), given.get("dim")
    along = along[0] if isinstance(along, (list, tuple)) and len(along) == 1 else along
    several = isinstance(terms, (list, tuple)) and len(terms) > 1 and _are_data(data, *terms)
    if not several or along != parts.get("dim", 0) or not given.keys() <= {"x", "dim"}:
        return
    *first, last = terms
    total = functools.reduce(functools.partial(_insert, graph, node, data, operator.add), first)
    if operations.target_of(node) in _SUMS:
        _becomes_sum(node, total, last)
        return
    total = _insert(graph, node, data, operator.add, total, last)
    node.op, node.target, node.args, node.kwargs = "call_function", operator.truediv, (total, len(terms)), {}


_REWRITES: list[tuple[set[Any], _Rewrite]] = [
    (_SUBTRACTIONS, _subtraction),
    (_REVERSED, _reversed_subtraction),
    (_LERPS, _interpolation),
    (_ADDCMULS, _product_added),
    (_SUMS | _MEANS, _stacked),
]
