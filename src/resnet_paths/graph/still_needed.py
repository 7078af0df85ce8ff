"""What a graph still needs once the branches of some blocks are gone, and what nothing needs any more.

Each dropped addition gives its shortcut's value. A node is needed when a value that the model returns is computed from
it, or when it changes something (a counter). What a branch itself hands out (attention maps) and the model merely
returns does not hold the branch back: it is returned as None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import fx

from .blocks import Cut
from .dataflow import reachable
from .program import Program, call_of

StandIns = Mapping[fx.Node, fx.Node]
"""For each dropped addition the value that it gives instead: that of its shortcut."""


def nodes_in(tree: Any) -> list[fx.Node]:
    """The nodes in a nest of values, in order."""
    nodes: list[fx.Node] = []
    fx.node.map_arg(tree, nodes.append)
    return nodes


def inputs_of(node: fx.Node, stand_ins: StandIns) -> list[fx.Node]:
    """What a node reads once blocks are dropped."""
    return [stand_ins[node]] if node in stand_ins else list(node.all_input_nodes)


def returned_nodes(program: Program) -> list[fx.Node]:
    """The nodes that the model returns, the main output among them."""
    return [program.output, *nodes_in(program.root.output)]


def changes_something(node: fx.Node) -> bool:
    """Whether an operation writes into a tensor that the model holds (a counter, a running mean)."""
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    in_place = isinstance(name, str) and name.endswith("_") and not name.endswith("__")
    first = node.args[0] if node.args else None
    return in_place and node.op in ("call_function", "call_method") and isinstance(first, fx.Node) and (
        first.op == "get_attr"
    )  # fmt: skip


def needed_nodes(program: Program, cuts: Iterable[Cut] = ()) -> set[fx.Node]:
    """The nodes that are needed with the branches of some blocks gone (all of them by default).

    Cost: one walk of the graph.
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
    """The nodes, and all that they are computed from."""
    return reachable(nodes, lambda node: inputs_of(node, stand_ins))


def left_without(cut: Cut, needed: set[fx.Node], returned: set[fx.Node]) -> set[fx.Node]:
    """The nodes that nothing needs once one block's branch is gone.

    Args:
        cut: the block.
        needed: the nodes of the whole graph that are needed.
        returned: those that the model returns.

    Cost: a walk of the branch (and of what is computed for it alone), however large the graph.
    """
    left: set[fx.Node] = set()
    todo = list(cut.add.all_input_nodes)
    while todo:
        node = todo.pop()
        kept = node in left or node is cut.shortcut or node not in needed
        if kept or (node in returned and node not in cut.branch_nodes):
            continue
        if all(user is cut.add or user in left or user not in needed or changes_something(user) for user in node.users):
            left.add(node)
            todo.extend(node.all_input_nodes)
    return left


def reader_outside(cut: Cut, left: set[fx.Node], needed: set[fx.Node]) -> str:
    """Who reads a value from inside a block's branch besides the branch, in words; empty where nobody does."""
    for node in sorted(cut.branch_nodes & needed - left, key=lambda node: node.name):
        for user in node.users:
            if user in needed and user not in cut.branch_nodes and user is not cut.add:
                where = call_of(user).path or "the model's own forward"
                return f"{user.name} in {where} reads {node.name}"
    return ""
