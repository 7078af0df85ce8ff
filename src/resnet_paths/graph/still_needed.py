"""What a graph still needs once the branches of some blocks are gone, and what nothing needs any more.

Each dropped addition yields its shortcut's value. A node is needed when a value that the model returns depends on it,
or when it has a side effect (a counter). What a branch provides besides its sum (attention maps) does not keep it alive
if nothing reads it, but does if the model returns it. (`liveness` asks a different question: what an *evaluation* runs
only for one way into a sum, where only the chosen output counts.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import fx

from .blocks import Cut
from .dataflow import reachable
from .program import Program, call_of

StandIns = Mapping[fx.Node, fx.Node]
"""For each dropped addition the value that replaces it: that of its shortcut."""


def nodes_in(tree: Any) -> list[fx.Node]:
    """The nodes in a nest of values, in order."""
    nodes: list[fx.Node] = []
    fx.node.map_arg(tree, nodes.append)
    return nodes


def inputs_of(node: fx.Node, stand_ins: StandIns) -> list[fx.Node]:
    """The arguments of a node once blocks are dropped."""
    return [stand_ins[node]] if node in stand_ins else list(node.all_input_nodes)


def returned_nodes(program: Program) -> list[fx.Node]:
    """The nodes that the model returns, the main output among them."""
    return [program.output, *nodes_in(program.root.output)]


def changes_something(node: fx.Node) -> bool:
    """Whether an operation writes to a tensor that the model holds (a counter, a running mean)."""
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    in_place = isinstance(name, str) and name.endswith("_") and not name.endswith("__")
    first = node.args[0] if node.args else None
    return in_place and node.op in ("call_function", "call_method") and isinstance(first, fx.Node) and (
        first.op == "get_attr"
    )  # fmt: skip


def needed_nodes(program: Program, cuts: Iterable[Cut] = ()) -> set[fx.Node]:
    """The nodes that are needed once the branches of `cuts` are gone (by default, with no branch gone).

    Cost: one traversal of the graph.
    """
    cuts = list(cuts)
    stand_ins = {cut.add: cut.shortcut for cut in cuts}
    inside = set().union(*(cut.branch_nodes for cut in cuts))
    needed = _behind([node for node in returned_nodes(program) if node not in inside], stand_ins)
    for node in program.graph.nodes:
        if changes_something(node) and node not in needed:
            read = _behind([node], stand_ins)
            needed |= set() if read & inside else read
    return needed


def _behind(nodes: Iterable[fx.Node], stand_ins: StandIns) -> set[fx.Node]:
    """The nodes, and all that they depend on."""
    return reachable(nodes, lambda node: inputs_of(node, stand_ins))


class Needs:
    """What the full model needs, and what nothing needs any more once one block's branch is gone.

    Cost: one traversal of the graph; then for each block one of its branch and of what is computed for it alone,
    however
    large the graph.

    Attributes:
        needed: the nodes that the full model needs.
    """

    def __init__(self, program: Program) -> None:
        self.needed = needed_nodes(program)
        self._returned = set(returned_nodes(program))

    def left_without(self, cut: Cut) -> set[fx.Node]:
        """The nodes that nothing needs once a block's branch is gone, including those that compute its side inputs."""
        unneeded: set[fx.Node] = set()
        todo = list(cut.add.all_input_nodes)
        while todo:
            node = todo.pop()
            kept = node in unneeded or node is cut.shortcut or node not in self.needed
            if kept or (node in self._returned and node not in cut.branch_nodes):
                continue
            if all(user is cut.add or user in unneeded or not self._counts(user) for user in node.users):
                unneeded.add(node)
                todo.extend(node.all_input_nodes)
        return unneeded

    def _counts(self, user: fx.Node) -> bool:
        """Whether a reader of a value is a reason to compute it."""
        return user in self.needed and not changes_something(user)

    def reader_outside(self, cut: Cut) -> str:
        """Who else reads a value from inside a block's branch, in words; empty if nobody does."""
        inside = self._returned & cut.branch_nodes
        return reader_outside(cut, self.left_without(cut), self.needed) or next(
            (f"the model returns {node.name}" for node in sorted(inside, key=lambda node: node.name)), ""
        )


def reader_outside(cut: Cut, unneeded: set[fx.Node], needed: set[fx.Node]) -> str:
    """Who else reads a value from inside a block's branch, in words; empty if nobody does."""
    for node in sorted(cut.branch_nodes & needed - unneeded, key=lambda node: node.name):
        for user in node.users:
            if user in needed and user not in cut.branch_nodes and user is not cut.add:
                where = call_of(user).path or "the model's own forward"
                return f"{user.name} in {where} reads {node.name}"
    return ""
