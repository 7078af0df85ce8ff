"""What has to be written again so that the branches of some blocks are gone: which module, and which of its parts.

A model is Python code, of which the graph shows one run. To take a branch out, the forward of one module, the *site*,
is written anew from the graph; all code around the site stays. The smaller the site, the more of the model stays as its
author wrote it, so we begin with the innermost module whose forward holds the addition and all of the branch, and go
to the module around it only where that one's forward lacks something (a value from outside that is not an argument, an
object that is made further out), or where the module runs several times and one of its calls is meant.

Within the site a call of a child stays a call: the child keeps its class, its hooks and what it does in training. A
child is *opened*, its operations written out in its place, only where something of it goes: it makes a dropped
addition, or holds operations that nothing needs any more. (Left closed, a body that hands out its pre-activation would
be run whole for the sake of that value, dropped branch and all.)

A plan is made without writing anything, and says why where a block cannot be dropped: the table of blocks asks it, and
`drop_blocks` follows it, so that the two cannot differ.
"""

from __future__ import annotations

import inspect
import itertools
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from .blocks import Cut
from .hooks import PostHooks, PreHooks
from .program import ModuleCall, Program, call_of
from .still_needed import changes_something, nodes_in

_WRITTEN = (
    bool, int, float, complex, str, slice, range, torch.dtype, torch.device, torch.layout, torch.memory_format, type,
)  # fmt: skip
BY_GATE = "such a block can be deleted by a gate of 0, net(x, gates), not taken out of the model"


@dataclass(frozen=True, eq=False)
class SitePlan:
    """How one module's forward is written without the branches of some blocks.

    Attributes:
        program: the model's graph.
        site: the call of the module.
        cuts: the blocks that are dropped there.
        stand_ins: for each dropped addition the value that it gives instead.
        operations: the operations that are written out.
        calls: the calls of parts that stay calls.
        opened: the calls whose operations are written out.
        returned: what the module returns, None for values that are gone.
    """

    program: Program
    site: ModuleCall
    cuts: tuple[Cut, ...]
    stand_ins: dict[fx.Node, fx.Node]
    operations: frozenset[fx.Node]
    calls: frozenset[ModuleCall]
    opened: frozenset[ModuleCall]
    returned: Any

    def sources(self, node: fx.Node) -> list[fx.Node]:
        """What a written operation reads; the site's own hooks are left out, they move with the module."""
        instead = self.stand_ins.get(node) or past_hooks(node, self.site)
        return list(node.all_input_nodes) if instead is None else [instead]

    def reads(self) -> set[fx.Node]:
        """All values that something that is written reads."""
        read = set(nodes_in(self.returned))
        for node in self.operations:
            read.update(self.sources(node))
        for call in self.calls:
            read.update(nodes_in((call.args, call.kwargs)))
        return read


@dataclass(frozen=True)
class Obstacle:
    """Why a module's forward cannot be written.

    Attributes:
        reason: in words.
        around: the module around it may do.
    """

    reason: str
    around: bool = True


def plan_site(
    program: Program, site: ModuleCall, cuts: Iterable[Cut], left: set[fx.Node], opened_for: Iterable[Cut] = ()
) -> SitePlan | Obstacle:
    """The plan for one module, or what is in the way.

    Args:
        program: the model's graph.
        site: the call of the module.
        cuts: the blocks that are dropped there.
        left: the nodes that nothing needs any more.
        opened_for: further blocks for which calls are opened as if they were dropped.

    Cost: one walk of what the module's forward does.
    """
    cuts = tuple(cuts)
    stand_ins = {cut.add: cut.shortcut for cut in cuts}
    gone = left.union(*(cut.branch_nodes for cut in cuts))
    others = {node for cut in opened_for for node in (cut.add, *cut.branch_nodes)}
    opened = _opened(site, stand_ins, gone | others)
    given = set(nodes_in(list(arguments(program, site).values())))
    returned = _without(site.output, gone, stand_ins, given)
    effects = [node for call in (site, *opened) for node in call.nodes if changes_something(node) and node not in left]

    while True:  # until no further call has to be opened
        operations: set[fx.Node] = set()
        calls: set[ModuleCall] = set()
        todo, inner = [*nodes_in(returned), *effects], None
        while todo and inner is None:
            node = todo.pop()
            if node in given or node in operations:
                continue
            if not any(call is site for call in call_of(node).ancestors()):
                return Obstacle(f"its forward reads {node.name}, which is made outside it and is not an argument")
            closed = _closed(node, site, opened)
            if closed is None:
                operations.add(node)
                instead = stand_ins.get(node) or past_hooks(node, site)
                todo.extend(node.all_input_nodes if instead is None else [instead])
            elif node not in nodes_in(closed.output):
                inner = closed
            elif closed not in calls:
                calls.add(closed)
                todo.extend(nodes_in((closed.args, closed.kwargs)))
        if inner is None:
            break
        opened.add(inner)

    plan = SitePlan(
        program, site, cuts, stand_ins, frozenset(operations), frozenset(calls), frozenset(opened), returned
    )
    return obstacle(plan) or plan


def arguments(program: Program, site: ModuleCall) -> dict[str, Any]:
    """What a call was given, by the names of its forward's parameters."""
    if site is program.root:
        return dict(program.placeholders)
    return dict(signature_of(site.module).bind(*site.args, **site.kwargs).arguments)


def signature_of(module: nn.Module) -> inspect.Signature:
    """The parameters of a module's forward."""
    return inspect.signature(module.forward)


def past_hooks(node: fx.Node, site: ModuleCall) -> fx.Node | None:
    """The value that stands for a node of the site's own hooks."""
    if isinstance(node.target, PostHooks) and node.target.module is site.module:
        return _node_or_none(node.args[0])
    hooked = node.args[0] if node.op == "call_function" and node.target is operator.getitem else None
    hooks = getattr(hooked, "target", None)
    if isinstance(hooked, fx.Node) and isinstance(hooks, PreHooks) and hooks.module is site.module:
        return _node_or_none(hooked.args[node.args[1]])  # type: ignore[index]
    return None


def _node_or_none(value: Any) -> fx.Node | None:
    return value if isinstance(value, fx.Node) else None


def _opened(site: ModuleCall, stand_ins: dict[fx.Node, fx.Node], gone: set[fx.Node]) -> set[ModuleCall]:
    """The calls within the site that make a dropped addition, or of whose operations some go."""
    opened: set[ModuleCall] = set()
    for node in (*stand_ins, *gone):
        inner: set[ModuleCall] = set()
        for call in call_of(node).ancestors():
            if call is site:
                opened |= inner
                break
            if call in opened:
                opened |= inner
                break
            if not call.leaf:
                inner.add(call)
    return opened


def _closed(node: fx.Node, site: ModuleCall, opened: set[ModuleCall]) -> ModuleCall | None:
    """The outermost call within the site that makes the node and stays a call."""
    closed = None
    for call in call_of(node).ancestors():
        if call is site:
            break
        if call not in opened:
            closed = call
    return closed


def _without(tree: Any, gone: set[fx.Node], stand_ins: dict[fx.Node, fx.Node], given: set[fx.Node]) -> Any:
    """What the site returns, with None in place of values that are computed from what is gone."""
    if isinstance(tree, fx.Node):
        return tree
    return fx.node.map_arg(tree, lambda node: None if _is_lost(node, gone, stand_ins, given) else node)


def _is_lost(node: fx.Node, gone: set[fx.Node], stand_ins: dict[fx.Node, fx.Node], given: set[fx.Node]) -> bool:
    todo, seen = [node], set(given)
    while todo:
        current = todo.pop()
        if current in gone:
            return True
        if current not in seen:
            seen.add(current)
            todo.extend([stand_ins[current]] if current in stand_ins else current.all_input_nodes)
    return False


# what may be in the way


def obstacle(plan: SitePlan) -> Obstacle | None:
    """The first thing that cannot be written."""
    where = plan.site.path or "the model"
    for node in plan.operations:
        if isinstance(node.target, (PreHooks, PostHooks)) and past_hooks(node, plan.site) is None:
            kind = type(node.target.module).__name__
            return Obstacle(
                f"{kind} inside {where} has hooks and makes the addition, so it is written out; remove the hooks "
                "first, and register them again on the smaller model",
                around=False,
            )
        target = str(node.target)
        if node.op == "get_attr" and target not in plan.program.constants and local_name(plan, target) is None:
            return Obstacle(f"its forward reads {target}, which it does not hold")
    for call in plan.calls:
        if local_name(plan, call.path) is None:
            return Obstacle(f"its forward runs {call.path}, which it does not hold")
    return _strange_object(plan)


def _strange_object(plan: SitePlan) -> Obstacle | None:
    """An object that is handed on and that code can neither write nor find among the arguments or attributes."""
    known = known_objects(plan)
    handed = [(call.args, call.kwargs) for call in plan.calls]
    handed += [
        (node.args, node.kwargs)
        for node in plan.operations
        if node not in plan.stand_ins and past_hooks(node, plan.site) is None
    ]
    if plan.site is not plan.program.root:
        handed.append((plan.returned, {}))
    for value in itertools.chain.from_iterable(map(leaves, handed)):
        if not is_written(value) and id(value) not in known:
            return Obstacle(
                f"{plan.site.path or 'the model'} passes on an object of class {type(value).__name__} that is made "
                "while it runs; run the model without it (a Hugging Face model's cache: model.config.use_cache = False)"
            )
    return None


def known_objects(plan: SitePlan) -> set[int]:
    """The objects, by identity, that the written forward can get hold of."""
    given = leaves(list(arguments(plan.program, plan.site).values()))
    made = itertools.chain.from_iterable(leaves(call.output) for call in plan.calls)
    held = plan.site.module.__dict__.values()
    return {id(value) for value in itertools.chain(given, made, held) if not is_written(value)}


def leaves(tree: Any) -> Iterator[Any]:
    """What a nest of values holds besides nodes: constants and objects."""
    held: list[Any] = []
    fx.node.map_aggregate(tree, lambda leaf: None if isinstance(leaf, fx.Node) else held.append(leaf))
    return iter(held)


def is_written(value: Any) -> bool:
    """Whether generated code can hold a value as it is."""
    return value is None or value is ... or isinstance(value, _WRITTEN)


def local_name(plan: SitePlan, target: str) -> str | None:
    """The name of a part from the site; also of a part that the model holds elsewhere under another name."""
    prefix = f"{plan.site.path}." if plan.site.path else ""
    if target.startswith(prefix):
        return target.removeprefix(prefix)
    if target.endswith(".training"):
        holder = target.removesuffix(".training")
        if plan.program.model.get_submodule(holder) is plan.site.module:
            return "training"
        name = local_name(plan, holder)
        return None if name is None else f"{name}.training"
    wanted = plan.program.attribute(target)
    module = plan.site.module
    named = itertools.chain(
        module.named_modules(remove_duplicate=False),
        module.named_parameters(remove_duplicate=False),
        module.named_buffers(remove_duplicate=False),
    )
    return next((name for name, part in named if part is wanted and name), None)
