"""Where blocks are dropped: the plans for several blocks together, and whether each block can be dropped at all.

`drop_plan` plans one module. Here the blocks are grouped by the module to rewrite, and a group whose module cannot be
rewritten is merged into that of the enclosing module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from torch import fx

from .blocks import Cut, owner_of
from .drop_plan import BY_GATE, Obstacle, SitePlan, obstacle, plan_site
from .program import ModuleCall, Program
from .still_needed import Needs, needed_nodes, reader_outside


def calls_of(program: Program) -> list[ModuleCall]:
    """All module calls of a program, outer before inner."""
    calls, todo = [], [program.root]
    while todo:
        call = todo.pop()
        calls.append(call)
        todo.extend(call.children)
    return calls


def site_finder(program: Program) -> Callable[[Cut], ModuleCall]:
    """A function from a block to the call to rewrite: its owner, or the nearest one around it that runs once."""
    runs: dict[int, int] = {}
    for call in calls_of(program):
        runs[id(call.module)] = runs.get(id(call.module), 0) + 1

    def find(cut: Cut) -> ModuleCall:
        site: ModuleCall | None = None
        for call in owner_of(cut).ancestors():
            if runs[id(call.module)] > 1:
                site = None
            elif site is None:
                site = call
        return site or program.root

    return find


def plan_sites(program: Program, cuts: Sequence[Cut]) -> list[SitePlan] | str:
    """The plans to drop some blocks, inner modules before outer, or why they cannot be dropped.

    Blocks in the branch of another dropped block disappear with it.

    Cost: two traversals of the graph, and one of each module that is rewritten.
    """
    needed = needed_nodes(program, cuts)
    for cut in cuts:
        reader = reader_outside(cut, set(), needed)
        if reader:
            return _is_read_outside(reader)
    unneeded = needed_nodes(program) - needed
    find = site_finder(program)
    groups: dict[ModuleCall, list[Cut]] = {}
    for cut in cuts:
        if cut.add in needed:
            groups.setdefault(find(cut), []).append(cut)
    return _plans(program, groups, unneeded)


def _plans(program: Program, groups: dict[ModuleCall, list[Cut]], unneeded: set[fx.Node]) -> list[SitePlan] | str:
    """A plan for each group; a group without one joins that of the enclosing module."""
    while True:
        plans: dict[ModuleCall, SitePlan] = {}
        move: tuple[ModuleCall, ModuleCall] | None = None
        for site, members in groups.items():
            plan = plan_site(program, site, members, unneeded)
            if isinstance(plan, SitePlan):
                plans[site] = plan
            elif not plan.around or site.parent is None:
                return plan.reason
            else:
                move = site, site.parent
        for plan in plans.values():
            move = next(((inner, plan.site) for inner in plan.opened & set(groups)), move)
        if move is None:
            return sorted(plans.values(), key=lambda plan: -len(list(plan.site.ancestors())))
        groups.setdefault(move[1], []).extend(groups.pop(move[0]))


def _is_read_outside(reader: str) -> str:
    return f"later operations read a value from inside its branch ({reader})"


_MANY = 24
"""Forwards with more blocks than this are planned once for all of them: one plan per block costs quadratic time."""


class Droppable:
    """Whether each block of a program can be dropped by itself, and what goes with it.

    Cost: one traversal of the graph, and for each block one of its branch and of the module that is rewritten.
    """

    def __init__(self, program: Program, cuts: Sequence[Cut], needs: Needs) -> None:
        self.program, self.needs = program, needs
        find = site_finder(program)
        self._sites = {cut.add: find(cut) for cut in cuts}
        members: dict[ModuleCall, list[Cut]] = {}
        for cut in cuts:
            members.setdefault(self._sites[cut.add], []).append(cut)
        self._all_can = {site for site, inside in members.items() if len(inside) > _MANY and self._writes(site, inside)}

    def _writes(self, site: ModuleCall, cuts: list[Cut]) -> bool:
        """Whether a forward with all its blocks written out can be written; if so, it can be without any of them."""
        plan = plan_site(self.program, site, (), set(), opened_for=cuts)
        if isinstance(plan, Obstacle):
            return False
        closed = replace(plan, calls=plan.calls | {call for call in plan.opened if not call.leaf})
        return obstacle(closed) is None

    def plan(self, cut: Cut) -> SitePlan | str | None:
        """The plan to drop one block, or why it cannot be dropped; None if it can and was not planned by itself."""
        reader = self.needs.reader_outside(cut)
        if reader:
            return _is_read_outside(reader)
        if self._sites[cut.add] in self._all_can:
            return None
        plans = _plans(self.program, {self._sites[cut.add]: [cut]}, self.needs.left_without(cut))
        return plans if isinstance(plans, str) else plans[0]


def not_droppable(reason: str, blocks: Iterable[str]) -> str:
    """The message of the error for blocks that cannot be dropped."""
    return f"expected blocks that can be dropped, got {', '.join(blocks)}: {reason}; {BY_GATE}"
