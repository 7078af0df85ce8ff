"""Which operations an evaluation runs only for a block's branch, or only for its shortcut.

An operation belongs to one way into a block's sum when every path from it to the chosen outputs goes that way: in graph
terms, when that way *post-dominates* it. One backward pass from the outputs gives the tree of immediate
post-dominators, with two extra vertices per block for the ways into its sum, for all blocks at once, including nested
ones. (A separate traversal per block would be quadratic in depth.) What a model can do without once a branch is gone,
where counters and everything that it returns count too, is the question of :mod:`still_needed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import fx

from .blocks import Cut
from .dataflow import reachable

SHORTCUT, BRANCH = "shortcut", "branch"
Vertex = fx.Node | tuple[str, int]
"""A node, or one of the two ways into a block's sum: ``("branch", 3)``."""


class Liveness:
    """For each node that an output depends on, the way into a sum that it is computed for.

    Args:
        graph: the program's graph.
        cuts: its blocks, in the order of their additions.
        outputs: the nodes whose values are needed.

    Attributes:
        needed: the nodes that an output depends on.
    """

    def __init__(self, graph: fx.Graph, cuts: Sequence[Cut], outputs: Iterable[fx.Node]) -> None:
        self._graph, self._cuts = graph, cuts
        self._index = {cut.add: index for index, cut in enumerate(cuts)}
        self._outputs = set(outputs)
        self.needed = reachable(self._outputs, self.inputs)
        self._above: dict[Vertex, Vertex | None] = {}
        self._depth: dict[Vertex | None, int] = {None: 0}
        readers = self._readers()
        self._post_dominators(readers)
        self._destinations = self._find_destinations(readers)

    def inputs(self, node: fx.Node) -> list[fx.Node]:
        """What a node reads; a block's sum reads the ends of its shortcut and of its branches (also parallel ones)."""
        index = self._index.get(node)
        if index is None:
            return list(node.all_input_nodes)
        cut = self._cuts[index]
        return list(dict.fromkeys([cut.shortcut, *cut.branch]))

    def _readers(self) -> dict[fx.Node, list[Vertex]]:
        readers: dict[fx.Node, list[Vertex]] = {}
        for node in self._graph.nodes:
            if node not in self.needed:
                continue
            index = self._index.get(node)
            if index is None:
                for source in node.all_input_nodes:
                    readers.setdefault(source, []).append(node)
                continue
            cut = self._cuts[index]
            readers.setdefault(cut.shortcut, []).append((SHORTCUT, index))
            for end in cut.branch:
                readers.setdefault(end, []).append((BRANCH, index))
        return readers

    def _post_dominators(self, readers: dict[fx.Node, list[Vertex]]) -> None:
        for node in reversed(self._graph.nodes):
            if node not in self.needed:
                continue
            self._place(node, None if node in self._outputs else self._meet(readers[node]))
            index = self._index.get(node)
            if index is not None:
                self._place((SHORTCUT, index), node)
                self._place((BRANCH, index), node)

    def _place(self, vertex: Vertex, above: Vertex | None) -> None:
        self._above[vertex] = above
        self._depth[vertex] = self._depth[above] + 1

    def _meet(self, vertices: list[Vertex]) -> Vertex | None:
        meeting: Vertex | None = vertices[0]
        for vertex in vertices[1:]:
            other: Vertex | None = vertex
            while meeting != other:
                if self._depth[meeting] >= self._depth[other]:
                    meeting = self._above[meeting] if meeting is not None else None
                else:
                    other = self._above[other] if other is not None else None
        return meeting

    def destination(self, node: fx.Node) -> tuple[str, int] | None:
        """The way into a sum that a node is computed for, with no other sum in between; None if there is none."""
        return self._destinations.get(node)

    def _find_destinations(self, readers: dict[fx.Node, list[Vertex]]) -> dict[fx.Node, tuple[str, int] | None]:
        """A node in an outer block's branch that an inner block also reads is computed for the inner one."""
        first: dict[Vertex, int] = {}
        destinations: dict[fx.Node, tuple[str, int] | None] = {}
        none = len(self._cuts)
        for node in reversed(self._graph.nodes):
            if node not in self.needed:
                continue
            read_by = readers.get(node, [])
            first[node] = min((v[1] if isinstance(v, tuple) else first[v] for v in read_by), default=none)
            above = self._above[node]
            way = above if isinstance(above, tuple) else None
            if isinstance(above, fx.Node) and above not in self._index:
                way = destinations[above]
            destinations[node] = way if way is not None and way[1] == first[node] else None
            if node in self._index:
                first[node] = self._index[node]
        return destinations
