"""What a graph still needs when the branch of a block is cut off.

A node belongs to a block's branch alone when every way from it to the model's outputs enters the block's addition
through its branch: in graph terms, when the branch's end *post-dominates* it. One pass from the outputs back gives the
tree of immediate post-dominators, with two extra vertices per block for the ways into its sum; all questions about
all blocks, nested ones too, are then questions about that tree. (Asking each block by a walk of its own is quadratic in
depth.) It serves both what can be dropped, where all outputs count, and which operations an evaluation runs only for a
block's branch or its shortcut, where the followed output counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import fx

from .blocks import Cut
from .dataflow import reachable

SHORTCUT, BRANCH = "shortcut", "branch"
Vertex = fx.Node | tuple[str, int]
"""A node, or the way into a block's sum: ``("branch", 3)``."""


class Liveness:
    """For each block, the nodes that nothing needs but its branch.

    Args:
        graph: the program's graph.
        cuts: its blocks, in the order of their additions.
        outputs: the nodes whose values count.

    Attributes:
        needed: the nodes from which an output is computed.
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
        self._children: dict[Vertex, list[fx.Node]] = {}
        for vertex, above in self._above.items():
            if above is not None and isinstance(vertex, fx.Node):
                self._children.setdefault(above, []).append(vertex)

    def inputs(self, node: fx.Node) -> list[fx.Node]:
        """What a node reads; a block's sum reads the ends of its shortcut and branches (parallel ones directly)."""
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
        """The one way into a sum that a node is computed for, no other sum in between; None where there is none."""
        return self._destinations.get(node)

    def _find_destinations(self, readers: dict[fx.Node, list[Vertex]]) -> dict[fx.Node, tuple[str, int] | None]:
        """A node in the branch of an outer block that an inner block reads too is computed for the inner one's sake."""
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

    def only_for_branch(self, index: int) -> set[fx.Node]:
        """The nodes that nothing needs once a block's branch is gone, those that compute its side inputs included."""
        inside: set[fx.Node] = set()
        todo: list[Vertex] = [(BRANCH, index)]
        while todo:
            vertex = todo.pop()
            for child in self._children.get(vertex, []):
                inside.add(child)
                todo.append(child)
                if child in self._index:
                    todo += [(SHORTCUT, self._index[child]), (BRANCH, self._index[child])]
        return inside

    def readers_outside(self, index: int) -> list[fx.Node]:
        """The nodes outside a block that read values from inside its branch, and are needed without it."""
        alone = self.only_for_branch(index)
        inside = (self._cuts[index].branch_nodes & self.needed) - alone
        outside = {
            user
            for node in inside
            for user in node.users
            if user in self.needed and user not in self._cuts[index].branch_nodes and user is not self._cuts[index].add
        }
        returned = inside & self._outputs
        return sorted(outside | returned, key=lambda node: node.name)

    def is_apart(self, index: int) -> bool:
        """Whether nothing inside a block's branch is read from outside."""
        return self._cuts[index].branch_nodes & self.needed <= self.only_for_branch(index)
