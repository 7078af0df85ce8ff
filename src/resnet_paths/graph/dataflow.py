"""Where the input's values flow in a graph.

Finding and cutting blocks comes down to three questions: does this node carry values of the input (not just its shape),
does that value depend on this one, and through which values must everything on the way to a node pass? Ancestors are
kept as bit masks in Python integers, one bit per node. A union costs one word per 64 nodes, so all ancestors of a graph
with thousands of nodes take milliseconds, and "does y depend on x" is one shift.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable

from torch import fx

from . import operations
from .hooks import PostHooks
from .program import Program


def data_nodes(program: Program, starts: Iterable[fx.Node] = ()) -> set[fx.Node]:
    """The nodes that depend on the values of an input (or of one of `starts`), not only on its shape."""
    inputs = {*program.placeholders.values(), *starts}
    carries: set[fx.Node] = set()
    for node in program.graph.nodes:
        reads_values = node.op != "output" and not operations.asks_shape(node)
        if node in inputs or (reads_values and any(source in carries for source in data_arguments(node))):
            carries.add(node)
    return carries


class DataFlow:
    """The part of a program's graph that carries values of the inputs, with ancestors and immediate dominators.

    Node d dominates node v if every path from the inputs to v passes through d.

    Args:
        program: the graph.
        starts: further values that count as inputs: learned tokens that become part of the stream.

    Attributes:
        starts: those further values.
        order: position of each node in the program.
        carries: the nodes that carry data.
        idom: the immediate dominator of each of them (None: no single node dominates it).
    """

    def __init__(self, program: Program, starts: Iterable[fx.Node] = ()) -> None:
        self.program = program
        self.starts = frozenset(starts)
        inputs = {*program.placeholders.values(), *self.starts}
        self.order = {node: position for position, node in enumerate(program.graph.nodes)}
        self.carries = data_nodes(program, inputs)
        self.idom: dict[fx.Node, fx.Node | None] = {}
        self._behind: dict[fx.Node, int] = {}
        self._depth: dict[fx.Node | None, int] = {None: 0}
        for node in program.graph.nodes:
            if node in self.carries:
                sources = [] if node in inputs else self.sources(node)
                behind = 1 << self.order[node]
                for source in sources:
                    behind |= self._behind[source]
                self._behind[node] = behind
                self.idom[node] = self._meet(sources) if sources else None
                self._depth[node] = self._depth[self.idom[node]] + 1

    def sources(self, node: fx.Node) -> list[fx.Node]:
        """The data nodes that a node reads, each once, in argument order."""
        return [source for source in dict.fromkeys(data_arguments(node)) if source in self.carries]

    def is_behind(self, node: fx.Node, other: fx.Node) -> bool:
        """Whether `node` depends on `other`, or is the same node."""
        return bool(self._behind[node] >> self.order[other] & 1)

    def _meet(self, nodes: list[fx.Node]) -> fx.Node | None:
        """The last node through which all paths to all these nodes pass."""
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
        """The nodes on paths from `entry` to `end`, including `end` but not `entry`.

        Cost: linear in the number of these nodes and their arguments.
        """
        inside: set[fx.Node] = set()
        todo = [end] if end is not entry and self.is_behind(end, entry) else []
        while todo:
            node = todo.pop()
            if node not in inside:
                inside.add(node)
                todo += [s for s in self.sources(node) if s is not entry and self.is_behind(s, entry)]
        return inside


def data_arguments(node: fx.Node) -> list[fx.Node]:
    """The arguments through which values flow (for hooks: the output that they may change)."""
    if node.op == "call_function" and isinstance(node.target, PostHooks):
        arguments: list[fx.Node] = []
        fx.node.map_arg(node.args[0], arguments.append)
        return arguments
    if (node.op == "call_function" and node.target is operator.getitem) or operations.like_another(node):
        return [argument for argument in node.args[:1] if isinstance(argument, fx.Node)]
    return list(node.all_input_nodes)


def reachable(nodes: Iterable[fx.Node], following: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    """The nodes, and all that can be reached from them by steps of `following`."""
    reached: set[fx.Node] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if node not in reached:
            reached.add(node)
            todo.extend(following(node))
    return reached


def ancestors(*nodes: fx.Node) -> set[fx.Node]:
    """The nodes, and all that they depend on."""
    return reachable(nodes, lambda node: node.all_input_nodes)


def descendants(*nodes: fx.Node) -> set[fx.Node]:
    """The nodes, and all that depend on them."""
    return reachable(nodes, lambda node: node.users)
