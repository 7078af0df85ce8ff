"""Where in a model a unit is taken out."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..graph.blocks import Cut, owner_of
from ..graph.program import ModuleCall, Program
from ..network import NotDroppableError, UnrolledNetwork
from ._body import Body, bodies


def places(net: UnrolledNetwork, indices: list[int]) -> list[Body]:
    """What to write again to drop units, inner modules before outer.

    Raises:
        NotDroppableError: a unit cannot be taken out.
    """
    plan = net.segments
    for index in indices:
        if plan.exporting[index]:
            raise NotDroppableError(
                f"expected a unit whose branch nothing else reads, got unit {index} ({net[index].name}), whose branch "
                "makes values that later operations (or hooks) need; delete it by a gate of 0, net(x, gates), instead"
            )
    return bodies(plan.program, [plan.cuts[index] for index in indices], place_finder(plan.program))


def place_finder(program: Program) -> Callable[[Cut], ModuleCall]:
    """For each unit the call to write again: its owner, or the nearest call around it whose module runs once."""
    runs: dict[int, int] = {}
    for call in calls_of(program):
        runs[id(call.module)] = runs.get(id(call.module), 0) + 1

    def find(cut: Cut) -> ModuleCall:
        for call in owner_of(cut).ancestors():
            if all(runs[id(around.module)] == 1 for around in call.ancestors()):
                return call
        return program.root

    return find


def calls_of(program: Program) -> list[ModuleCall]:
    """All module calls of a program, outer before inner."""
    found, todo = [], [program.root]
    while todo:
        call = todo.pop()
        found.append(call)
        todo.extend(call.children)
    return found


def replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in another's place under each name under which the model holds it."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
