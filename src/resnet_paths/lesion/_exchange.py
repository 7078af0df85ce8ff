"""Which blocks of a network can change places, and whether its units can simply be run in another order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from ..graph.drop_sites import site_finder
from ..graph.pieces import Piece
from ..graph.program import ModuleCall, Program, call_of
from ..network import UnrolledNetwork
from ..surgery.reorder import unit_shapes

Block = tuple[int, ...]
"""The units of one module, which move together."""


@dataclass(frozen=True, eq=False)
class Exchange:
    """The blocks that can change places.

    Attributes:
        blocks: all blocks of the network, input side first; together all units.
        groups: for each group of at least two blocks of equal shape, their places among the blocks.
        direct: the units may be run in another order as they are: what stands between two units reads nothing else
            and does the same in each place.
    """

    blocks: tuple[Block, ...]
    groups: tuple[tuple[int, ...], ...]
    direct: bool

    def units(self, order: tuple[int, ...]) -> tuple[int, ...]:
        """The order of the units for an order of the blocks."""
        return tuple(unit for block in order for unit in self.blocks[block])


def exchange(net: UnrolledNetwork, example: Any) -> Exchange:
    """The blocks of a network, by the modules that hold them and by the shapes that enter and leave them.

    Raises:
        ValueError: no two blocks have equal shapes.
    """
    plan = net.segments
    find, shapes = site_finder(plan.program), unit_shapes(net, example)
    places = [find(cut) for cut in plan.cuts]
    blocks = _blocks(places)
    alike: dict[Any, list[int]] = {}
    for number, block in enumerate(blocks):
        if places[block[0]].path and sum(place is places[block[0]] for place in places) == len(block):
            key = (shapes[block[0]][0], shapes[block[-1]][1], len(block))
            alike.setdefault(key, []).append(number)
    groups = tuple(tuple(group) for group in alike.values() if len(group) > 1)
    if not groups:
        raise ValueError(
            f"expected at least two blocks of equal shape that are modules of their own, got none among the "
            f"{len(net)} units of {type(net.model).__name__}; there is nothing to reorder"
        )
    return Exchange(blocks, groups, _direct(net, blocks, groups, places))


def _blocks(places: list[ModuleCall]) -> tuple[Block, ...]:
    """Units that follow each other in one module; where the model itself adds, each unit by itself."""
    blocks: list[list[int]] = []
    for index, place in enumerate(places):
        if index and place.path and place is places[index - 1]:
            blocks[-1].append(index)
        else:
            blocks.append([index])
    return tuple(map(tuple, blocks))


def _direct(
    net: UnrolledNetwork, blocks: tuple[Block, ...], groups: tuple[tuple[int, ...], ...], places: list[ModuleCall]
) -> bool:
    plan = net.segments
    if any(plan.carried) or any(plan.exporting):
        return False
    before = [plan.stem, *plan.joins]
    for group in groups:
        signatures = set()
        for number in group:
            first, last = blocks[number][0], blocks[number][-1]
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
