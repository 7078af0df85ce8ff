"""Which modules of a network can change places, and whether its blocks can simply be run in another order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from ..graph.drop_sites import site_finder
from ..graph.pieces import Piece
from ..graph.program import ModuleCall, Program, call_of
from ..network import UnrolledNetwork
from ..surgery.reorder import block_shapes

Holder = tuple[int, ...]
"""The blocks of one module, which move together."""


@dataclass(frozen=True, eq=False)
class Exchange:
    """The modules that can change places.

    Attributes:
        holders: the modules that hold the blocks, input side first; together all blocks.
        groups: for each group of at least two of equal shape, their places among the holders.
        direct: the blocks may be run in another order as they are: what stands between two blocks reads nothing else
            and does the same in each place.
    """

    holders: tuple[Holder, ...]
    groups: tuple[tuple[int, ...], ...]
    direct: bool

    def blocks(self, order: tuple[int, ...]) -> tuple[int, ...]:
        """The order of the blocks for an order of the holders."""
        return tuple(block for holder in order for block in self.holders[holder])


def exchange(net: UnrolledNetwork, example: Any) -> Exchange:
    """The modules that hold the blocks of a network, and which of them have equal shapes where blocks enter and leave.

    Raises:
        ValueError: no two blocks have equal shapes.
    """
    plan = net.segments
    find, shapes = site_finder(plan.program), block_shapes(net, example)
    places = [find(cut) for cut in plan.cuts]
    holders = _holders(places)
    alike: dict[Any, list[int]] = {}
    for number, holder in enumerate(holders):
        if places[holder[0]].path and sum(place is places[holder[0]] for place in places) == len(holder):
            key = (shapes[holder[0]][0], shapes[holder[-1]][1], len(holder))
            alike.setdefault(key, []).append(number)
    groups = tuple(tuple(group) for group in alike.values() if len(group) > 1)
    if not groups:
        raise ValueError(
            f"expected at least two blocks of equal shape that are modules of their own, got none among the "
            f"{len(net)} blocks of {type(net.model).__name__}; there is nothing to reorder"
        )
    return Exchange(holders, groups, _direct(net, holders, groups, places))


def _holders(places: list[ModuleCall]) -> tuple[Holder, ...]:
    """Blocks that follow each other in one module; where the model itself adds, each block by itself."""
    holders: list[list[int]] = []
    for index, place in enumerate(places):
        if index and place.path and place is places[index - 1]:
            holders[-1].append(index)
        else:
            holders.append([index])
    return tuple(map(tuple, holders))


def _direct(
    net: UnrolledNetwork, holders: tuple[Holder, ...], groups: tuple[tuple[int, ...], ...], places: list[ModuleCall]
) -> bool:
    plan = net.segments
    if any(plan.carried) or any(plan.exporting):
        return False
    before = [plan.stem, *plan.joins]
    for group in groups:
        signatures = set()
        for number in group:
            first, last = holders[number][0], holders[number][-1]
            mine = places[first]
            ends = (_own(before[first], mine), _own(plan.joins[last], mine))
            if any(_has_state(node, plan.program) for nodes in ends for node in nodes):
                return False
            signatures.add(tuple(tuple(_signature(node, plan.program) for node in nodes) for nodes in ends))
        if len(signatures) > 1:
            return False
    return True


def _own(piece: Piece, place: ModuleCall) -> list[fx.Node]:
    """The operations of a piece that stand in a module."""
    return [node for node, _, _ in piece.steps if any(call is place for call in call_of(node).ancestors())]


def _has_state(node: fx.Node, program: Program) -> bool:
    if node.op == "get_attr":
        return True
    if node.op != "call_module":
        return False
    module = program.model.get_submodule(str(node.target))
    hooks = module._forward_hooks or module._forward_pre_hooks
    return bool(hooks) or any(True for _ in (*module.parameters(), *module.buffers()))


def _signature(node: fx.Node, program: Program) -> str:
    """What an operation does, whatever it reads."""
    args = fx.node.map_arg((node.args, node.kwargs), lambda _: None)
    target = str(node.target)
    if node.op == "call_module":
        target = repr(program.model.get_submodule(target))
    return f"{node.op} {target} {args}"
