"""Two recordings at two batch sizes made into one that holds for any."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from .errors import TraceError
from .program import Program


def with_batch_size(program: Program, other: Program, batch: int) -> Program:
    """The program with each whole number that depends on the batch size computed from it.

    Args:
        program: recorded at `batch`; it is changed.
        other: recorded at ``batch + 1``.
        batch: the first batch size.

    Raises:
        TraceError: the two recordings differ in more than such numbers.
    """
    ones, others = list(program.graph.nodes), list(other.graph.nodes)
    alike = len(ones) == len(others) and all(_alike(a, b) for a, b in zip(ones, others, strict=True))
    if not alike:
        raise TraceError("the model's operations are not the same at two batch sizes")
    solver = _Solver(program, batch)
    for one, two in zip(ones, others, strict=True):
        args, kwargs = solver.merge(one.args, two.args), solver.merge(one.kwargs, two.kwargs)
        if solver.found:
            one.args, one.kwargs = args, kwargs
            solver.found = False
    return program


def _alike(one: fx.Node, other: fx.Node) -> bool:
    same_hooks = type(one.target) is type(other.target) and hasattr(one.target, "module")
    return one.op == other.op and one.name == other.name and (one.target == other.target or same_hooks)


class _Solver:
    def __init__(self, program: Program, batch: int) -> None:
        self.program, self.batch = program, batch
        self.size: fx.Node | None = None
        self.last: fx.Node | None = None
        self.made: dict[tuple[int, int], fx.Node] = {}
        self.found = False

    def merge(self, one: Any, two: Any) -> Any:
        """Two nests of arguments as one that holds at both batch sizes."""
        if isinstance(one, fx.Node):
            return one
        if isinstance(one, (tuple, list)) and isinstance(two, (tuple, list)) and len(one) == len(two):
            items = [self.merge(a, b) for a, b in zip(one, two, strict=True)]
            return items if isinstance(one, list) else tuple(items)
        if isinstance(one, dict) and isinstance(two, dict) and list(one) == list(two):
            return {key: self.merge(value, two[key]) for key, value in one.items()}
        if isinstance(one, slice) and isinstance(two, slice):
            parts = (self.merge(getattr(one, part), getattr(two, part)) for part in ("start", "stop", "step"))
            return slice(*parts)
        if type(one) is int and type(two) is int and one != two:
            return self.expression(two - one, one - (two - one) * self.batch)
        if one is not two and one != two:
            raise TraceError(f"a value depends on the batch size: {one!r} at {self.batch}, {two!r} at {self.batch + 1}")
        return one

    def expression(self, factor: int, offset: int) -> fx.Node:
        """The node of ``factor * batch + offset``."""
        self.found = True
        key = (factor, offset)
        if key not in self.made:
            node = self._batch()
            if factor != 1:
                node = self._add(operator.mul, node, factor)
            if offset:
                node = self._add(operator.add, node, offset)
            self.made[key] = node
        return self.made[key]

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
            made = self.program.graph.call_function(function, (node, number))
        self._note(made)
        return made

    def _note(self, node: fx.Node) -> None:
        node.meta["call"] = self.program.root
        self.program.root.nodes.append(node)
        self.last = node
