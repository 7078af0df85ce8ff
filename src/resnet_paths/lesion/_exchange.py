"""Which modules of a network can be exchanged, and whether its blocks can simply be run in another order.

Running the blocks of the network itself in another order shares prefixes between orders, so it is far cheaper than a
reordered copy per order. But it is right only where the operations between two blocks are the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from ..graph.drop_sites import site_finder
from ..graph.hooks import is_hooked
from ..graph.pieces import Piece
from ..graph.program import ModuleCall, Program, call_of
from ..network import UnrolledNetwork
from ..surgery.reorder import block_shapes

Holder = tuple[int, ...]
"""The blocks of one module, which move together."""


@dataclass(frozen=True, eq=False)
class Exchange:
    """The modules that can be exchanged.

    Attributes:
        holders: the modules that contain the blocks, input side first; together they contain all blocks.
        groups: the positions among the holders of each group of at least two modules of equal shape.
        direct: whether the blocks can be run in another order as they are, because the operations between two blocks
            read nothing else and are the same at each position.
    """

    holders: tuple[Holder, ...]
    groups: tuple[tuple[int, ...], ...]
    direct: bool

    def blocks(self, order: tuple[int, ...]) -> tuple[int, ...]:
        """The order of the blocks that results from an order of the holders."""
        return tuple(block for holder in order for block in self.holders[holder])


def exchange(net: UnrolledNetwork, example: Any) -> Exchange:
    """The modules that contain the blocks of a network, and which of them have equal input and output shapes.

    Raises:
        ValueError: no two blocks have equal shapes.
    """
    plan = net.segments
    find, shapes = site_finder(plan.program), block_shapes(net, example)
    calls = [find(cut) for cut in plan.cuts]
    holders = _holders(calls)
    by_shape: dict[Any, list[int]] = {}
    for number, holder in enumerate(holders):
        if calls[holder[0]].path and sum(call is calls[holder[0]] for call in calls) == len(holder):
            key = (shapes[holder[0]][0], shapes[holder[-1]][1], len(holder))
            by_shape.setdefault(key, []).append(number)
    groups = tuple(tuple(group) for group in by_shape.values() if len(group) > 1)
    if not groups:
        raise ValueError(
            f"expected at least two blocks of equal shape that are modules of their own, got none among the "
            f"{len(net)} blocks of {type(net.model).__name__}, so there is nothing to reorder"
        )
    return Exchange(holders, groups, _can_run_directly(net, holders, groups, calls))


def _holders(calls: list[ModuleCall]) -> tuple[Holder, ...]:
    """Consecutive blocks of one module; a block whose addition is in the model's own forward is a group by itself."""
    holders: list[list[int]] = []
    for index, call in enumerate(calls):
        if index and call.path and call is calls[index - 1]:
            holders[-1].append(index)
        else:
            holders.append([index])
    return tuple(map(tuple, holders))


def _can_run_directly(
    net: UnrolledNetwork, holders: tuple[Holder, ...], groups: tuple[tuple[int, ...], ...], calls: list[ModuleCall]
) -> bool:
    plan = net.segments
    if any(plan.carried) or any(plan.exporting):
        return False
    before = [plan.stem, *plan.joins]
    for group in groups:
        signatures = set()
        for number in group:
            first, last = holders[number][0], holders[number][-1]
            module_call = calls[first]
            ends = (_operations_in(before[first], module_call), _operations_in(plan.joins[last], module_call))
            if any(_has_state(node, plan.program) for nodes in ends for node in nodes):
                return False
            signatures.add(tuple(tuple(_signature(node, plan.program) for node in nodes) for nodes in ends))
        if len(signatures) > 1:
            return False
    return True


def _operations_in(piece: Piece, module_call: ModuleCall) -> list[fx.Node]:
    """The operations of a piece that belong to a module call."""
    return [node for node, _, _ in piece.steps if any(call is module_call for call in call_of(node).ancestors())]


def _has_state(node: fx.Node, program: Program) -> bool:
    if node.op == "get_attr":
        return True
    if node.op != "call_module":
        return False
    module = program.model.get_submodule(str(node.target))
    hooks = is_hooked(module)
    return bool(hooks) or any(True for _ in (*module.parameters(), *module.buffers()))


def _signature(node: fx.Node, program: Program) -> str:
    """What an operation does, regardless of its inputs."""
    args = fx.node.map_arg((node.args, node.kwargs), lambda _: None)
    target = str(node.target)
    if node.op == "call_module":
        target = repr(program.model.get_submodule(target))
    return f"{node.op} {target} {args}"
