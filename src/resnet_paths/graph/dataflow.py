"""Where the input's values flow in a graph, and through which nodes all of them must pass."""

from __future__ import annotations

import operator

from torch import fx

from . import operations
from .hooks import PostHooks
from .program import Program


class DataFlow:
    """The part of a program's graph that carries values of the input, with immediate dominators.

    A node carries data when it depends on the values of an input, not only on its shape. It follows when that
    input is the main one; the other inputs (a mask, a time step) and what is computed from them alone are taken as
    given. Node d dominates node v when every way from the main input to v passes through d.

    Args:
        program: the graph.
        main: the main input, a placeholder (None: all of them together).

    Attributes:
        order: position of each node in the program.
        carries: the nodes that carry data.
        follows: those that carry data of the main input.
        main: the main input.
        idom: the immediate dominator of each following node (None: only the input's start itself).

    """

    def __init__(self, program: Program, main: fx.Node | None = None) -> None:
        self.program, self.main = program, main
        self.order = {node: position for position, node in enumerate(program.graph.nodes)}
        self.carries: set[fx.Node] = set()
        self.follows: set[fx.Node] = set()
        self.idom: dict[fx.Node, fx.Node | None] = {}
        self._depth: dict[fx.Node | None, int] = {None: 0}
        inputs = set(program.placeholders.values())
        starts = inputs if main is None else {main}
        for node in program.graph.nodes:
            if node.op == "output":
                continue
            if node in inputs or (not operations.asks_shape(node) and self.sources(node)):
                self.carries.add(node)
            if node in starts or (node in self.carries and self.inputs(node)):
                self.follows.add(node)
                self.idom[node] = None if node in starts else self._meet(self.inputs(node))
                self._depth[node] = self._depth[self.idom[node]] + 1

    def sources(self, node: fx.Node) -> list[fx.Node]:
        """The data nodes that a node reads, each once, in the order in which it reads them."""
        return [source for source in dict.fromkeys(data_arguments(node)) if source in self.carries]

    def inputs(self, node: fx.Node) -> list[fx.Node]:
        """Those of them that follow the main input."""
        return [source for source in self.sources(node) if source in self.follows]

    def _meet(self, nodes: list[fx.Node]) -> fx.Node | None:
        meeting: fx.Node | None = nodes[0]
        for node in nodes[1:]:
            other: fx.Node | None = node
            while meeting is not other:
                if self._depth[meeting] >= self._depth[other]:
                    meeting = self.idom[meeting] if meeting is not None else None
                else:
                    other = self.idom[other] if other is not None else None
        return meeting

    def chain(self, node: fx.Node) -> list[fx.Node]:
        """The nodes through which all data on the way to `node` passes, first to last, `node` included."""
        nodes = []
        current: fx.Node | None = node
        while current is not None:
            nodes.append(current)
            current = self.idom.get(current)
        return nodes[::-1]

    def between(self, entry: fx.Node, end: fx.Node) -> set[fx.Node]:
        """The following nodes on ways from `entry` to `end`; `end` included, `entry` not."""
        found: set[fx.Node] = set()
        todo = [] if end is entry else [end]
        while todo:
            node = todo.pop()
            if node in found:
                continue
            found.add(node)
            todo.extend(source for source in self.inputs(node) if source is not entry)
        return found


def data_arguments(node: fx.Node) -> list[fx.Node]:
    """The arguments through which values flow (of hooks: the output that they may change)."""
    if node.op == "call_function" and isinstance(node.target, PostHooks):
        found: list[fx.Node] = []
        fx.node.map_arg(node.args[0], found.append)
        return found
    if node.op == "call_function" and node.target is operator.getitem:
        return [argument for argument in node.args[:1] if isinstance(argument, fx.Node)]
    return list(node.all_input_nodes)
