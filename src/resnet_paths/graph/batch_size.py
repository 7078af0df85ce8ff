"""Merge two recordings of one model into a program that is valid for any batch size.

A recorded forward contains integers where the model computed with its batch size. One recording cannot tell which they
are; two, at batch sizes b and b + 1, can: an integer that is p in one and q in the other is
``(q - p) * batch + p - (q - p) * b``. Two sizes suffice because only affine dependence is supported. Anything else that
differs depends on the values of the input, so the module whose forward computes it cannot be followed.
"""

from __future__ import annotations

import itertools
import operator
from typing import Any

from torch import fx

from .opaque_modules import CannotFollow
from .program import Program, first_difference, same_operation, where_they_part
from .trees import leaves, map_leaves


def with_batch_size(program: Program, other: Program, batch: int) -> Program:
    """The program with each integer that depends on the batch size computed from the input's size.

    Args:
        program: recorded at `batch`; it is modified.
        other: recorded at ``batch + 1``.
        batch: the first batch size.

    Raises:
        CannotFollow: the two recordings differ in anything else.
    """
    ones, others = list(program.graph.nodes), list(other.graph.nodes)
    for one, two in itertools.zip_longest(ones, others):
        if one is None or two is None or not same_operation(one, two):
            raise CannotFollow(where_they_part(one, two), "its operations differ between two batch sizes")
    solver = _Solver(program, batch)
    for one, two in zip(ones, others, strict=True):
        solver.merge(one, two)
    difference = first_difference(program, other, constants_only=True)
    if difference is not None:
        where, what = difference
        raise CannotFollow(where, f"a value depends on the batch size: {what}")
    return program


class _Solver:
    """Inserts the expressions that replace integers depending on the batch size.

    Args:
        program: the program.
        batch: the batch size at which it was recorded.
    """

    def __init__(self, program: Program, batch: int) -> None:
        self.program, self.batch = program, batch
        self.size: fx.Node | None = None
        self.last: fx.Node | None = None
        self.expressions: dict[tuple[int, int], fx.Node] = {}

    def merge(self, one: fx.Node, two: fx.Node) -> None:
        """Make a node's arguments valid at both batch sizes, given the same node of the other recording."""
        numbers = list(leaves((one.args, one.kwargs))), list(leaves((two.args, two.kwargs)))
        if len(numbers[0]) != len(numbers[1]):
            raise CannotFollow(
                where_they_part(one, two), f"a value depends on the batch size: the arguments of {one.name}"
            )
        merged = [self.value(one, *pair) for pair in zip(*numbers, strict=True)]
        if all(new is old for new, old in zip(merged, numbers[0], strict=True)):
            return
        values = iter(merged)
        one.args, one.kwargs = map_leaves((one.args, one.kwargs), lambda _: next(values))

    def value(self, node: fx.Node, one: Any, two: Any) -> Any:
        """One argument, valid at both batch sizes."""
        if isinstance(one, fx.Node) or one is two:
            return one
        if type(one) is int and type(two) is int and one != two:
            return self.expression(two - one, one - (two - one) * self.batch)
        if type(one) is not type(two) or one != two:
            raise CannotFollow(
                where_they_part(node, node),
                f"a value depends on the batch size: {one!r} at {self.batch}, {two!r} at {self.batch + 1} "
                f"(in {node.name})",
            )
        return one

    def expression(self, factor: int, offset: int) -> fx.Node:
        """The node of ``factor * batch + offset``."""
        key = (factor, offset)
        if key not in self.expressions:
            node = self._batch()
            if factor != 1:
                node = self._add(operator.mul, node, factor)
            if offset:
                node = self._add(operator.add, node, offset)
            self.expressions[key] = node
        return self.expressions[key]

    def _batch(self) -> fx.Node:
        if self.size is None:
            inputs = list(self.program.placeholders.values())
            self.last = inputs[-1]
            graph = self.program.graph
            with graph.inserting_after(self.last):
                self.size = graph.call_method("size", (inputs[0], 0))
            self._note(self.size)
        return self.size

    def _add(self, function: Any, node: fx.Node, number: int) -> fx.Node:
        with self.program.graph.inserting_after(self.last):
            result = self.program.graph.call_function(function, (node, number))
        self._note(result)
        return result

    def _note(self, node: fx.Node) -> None:
        node.meta["call"] = self.program.root
        self.program.root.nodes.append(node)
        self.last = node
