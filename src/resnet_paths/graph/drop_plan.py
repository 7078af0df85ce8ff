"""What has to be rewritten so that the branches of some blocks are gone: which module, and which of its parts.

A model is Python code, and the graph shows one run of it. To remove a branch, the forward of one module, the *site*, is
rewritten from the graph; all code around the site stays. The smaller the site, the more of the model stays as its
author wrote it. So we begin with the innermost module whose forward contains the addition and all of the branch, and
move to the enclosing module only where that forward lacks something (a value from outside that is not an argument, an
object created further out), or where the module runs several times and only one of its calls is meant.

Within the site, a call of a child stays a call: the child keeps its class, its hooks and its behaviour in training. A
child is *opened*, that is its operations are written out in its place, only where some of it goes: it makes a dropped
addition, or contains operations that nothing needs any more. (Left closed, a body that also returns its pre-activation
would be run for the sake of that value, dropped branch included.)

Planning writes nothing, and says why a block cannot be dropped. The table of blocks asks for the plan and `drop_blocks`
follows it, so the two cannot disagree.
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
BY_GATE = "delete such a block with a gate of 0 instead, net(x, gates)"


@dataclass(frozen=True, eq=False)
class SitePlan:
    """How one module's forward is written without the branches of some blocks.

    Attributes:
        program: the model's graph.
        site: the call of the module.
        cuts: the blocks that are dropped there.
        stand_ins: the value that replaces each dropped addition.
        operations: the operations that are written out.
        calls: the calls of submodules that stay calls.
        opened: the calls whose operations are written out.
        returned: what the module returns, with None for values that are gone.
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
        """The arguments of a written operation. The site's own hooks are skipped: they stay with the module."""
        instead = self.stand_ins.get(node) or past_hooks(node, self.site)
        return list(node.all_input_nodes) if instead is None else [instead]

    def reads(self) -> set[fx.Node]:
        """All values that the written forward reads."""
        read = set(nodes_in(self.returned))
        for node in self.operations:
            read.update(self.sources(node))
        for call in self.calls:
            read.update(nodes_in((call.args, call.kwargs)))
        return read


@dataclass(frozen=True)
class Obstacle:
    """Why a module's forward cannot be rewritten.

    Attributes:
        reason: the reason, as part of a sentence.
        around: whether the enclosing module may be rewritten instead.
    """

    reason: str
    around: bool = True


def plan_site(
    program: Program, site: ModuleCall, cuts: Iterable[Cut], unneeded: set[fx.Node], opened_for: Iterable[Cut] = ()
) -> SitePlan | Obstacle:
    """The plan for one module, or the obstacle to it.

    Args:
        program: the model's graph.
        site: the call of the module.
        cuts: the blocks that are dropped there.
        unneeded: the nodes that nothing needs any more.
        opened_for: further blocks for which calls are opened as if they were dropped.

    Cost: one traversal of the module's operations.
    """
    cuts = tuple(cuts)
    stand_ins = {cut.add: cut.shortcut for cut in cuts}
    gone = unneeded.union(*(cut.branch_nodes for cut in cuts))
    others = {node for cut in opened_for for node in (cut.add, *cut.branch_nodes)}
    opened = _opened(site, stand_ins, gone | others)
    given = set(nodes_in(list(arguments(program, site).values())))
    returned = _without(site.output, gone, stand_ins, given)
    # Nothing that is returned depends on a counter, so effects are starting points too.
    effects = [
        node for call in (site, *opened) for node in call.nodes if changes_something(node) and node not in unneeded
    ]

    while True:  # a value inside a closed call may be needed by itself: open that call and start over
        operations: set[fx.Node] = set()
        calls: set[ModuleCall] = set()
        todo, inner = [*nodes_in(returned), *effects], None
        while todo and inner is None:
            node = todo.pop()
            if node in given or node in operations:
                continue
            if not any(call is site for call in call_of(node).ancestors()):
                return Obstacle(f"its forward reads {node.name}, which is computed outside it and is not an argument")
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
    """The arguments of a call, by the names of its forward's parameters."""
    if site is program.root and program.front_end == "trace":  # whose other arguments have their defaults
        return dict(program.placeholders)
    return dict(signature_of(site.module).bind(*site.args, **site.kwargs).arguments)


def signature_of(module: nn.Module) -> inspect.Signature:
    """The parameters of a module's forward."""
    return inspect.signature(module.forward)


def past_hooks(node: fx.Node, site: ModuleCall) -> fx.Node | None:
    """The value that replaces a node of the site's own hooks; None for any other node."""
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
    """The calls within the site that make a dropped addition, or that lose some of their operations."""
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
    """The outermost call within the site that computes the node and stays a call."""
    closed = None
    for call in call_of(node).ancestors():
        if call is site:
            break
        if call not in opened:
            closed = call
    return closed


def _without(tree: Any, gone: set[fx.Node], stand_ins: dict[fx.Node, fx.Node], given: set[fx.Node]) -> Any:
    """What the site returns, with None in place of values that depend on what is gone."""
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


# obstacles


def obstacle(plan: SitePlan) -> Obstacle | None:
    """The first part of a plan that code cannot express; None if there is none."""
    where = plan.site.path or "the model"
    for node in plan.operations:
        if isinstance(node.target, (PreHooks, PostHooks)) and past_hooks(node, plan.site) is None:
            kind = type(node.target.module).__name__
            return Obstacle(
                f"{kind} inside {where} has hooks and makes the addition, so its code must be rewritten; remove the "
                "hooks first, and register them again on the smaller model",
                around=False,
            )
        target = str(node.target)
        if node.op == "get_attr" and target not in plan.program.constants and local_name(plan, target) is None:
            return Obstacle(f"its forward reads {target}, which it does not contain")
    for call in plan.calls:
        if local_name(plan, call.path) is None:
            return Obstacle(f"its forward runs {call.path}, which it does not contain")
    return _strange_object(plan)


def _strange_object(plan: SitePlan) -> Obstacle | None:
    """An object passed on that code can neither write as a literal nor find among the arguments or attributes."""
    accessible = known_objects(plan)
    passed = [(call.args, call.kwargs) for call in plan.calls]
    passed += [
        (node.args, node.kwargs)
        for node in plan.operations
        if node not in plan.stand_ins and past_hooks(node, plan.site) is None
    ]
    if plan.site is not plan.program.root:
        passed.append((plan.returned, {}))
    for value in itertools.chain.from_iterable(map(leaves, passed)):
        if not is_written(value) and id(value) not in accessible:
            return Obstacle(
                f"{plan.site.path or 'the model'} passes on an object of class {type(value).__name__} that it creates "
                "while it runs; run the model without it (a Hugging Face model's cache: model.config.use_cache = False)"
            )
    return None


def known_objects(plan: SitePlan) -> set[int]:
    """The objects, by identity, that the written forward can access."""
    given = leaves(list(arguments(plan.program, plan.site).values()))
    returned = itertools.chain.from_iterable(leaves(call.output) for call in plan.calls)
    held = plan.site.module.__dict__.values()
    return {id(value) for value in itertools.chain(given, returned, held) if not is_written(value)}


def leaves(tree: Any) -> Iterator[Any]:
    """The leaves of a nest of values that are not nodes: constants and objects."""
    held: list[Any] = []
    fx.node.map_aggregate(tree, lambda leaf: None if isinstance(leaf, fx.Node) else held.append(leaf))
    return iter(held)


def is_written(value: Any) -> bool:
    """Whether generated code can contain a value as a literal."""
    return value is None or value is ... or isinstance(value, _WRITTEN)


def local_name(plan: SitePlan, target: str) -> str | None:
    """The name of a part relative to the site, also if the model holds the same part elsewhere under another name."""
    prefix = f"{plan.site.path}." if plan.site.path else ""
    if target.startswith(prefix):
        return target.removeprefix(prefix)
    if target.endswith(".training"):
        holder = target.removesuffix(".training")
        if plan.program.module(holder) is plan.site.module:
            return "training"
        name = local_name(plan, holder)
        return None if name is None else f"{name}.training"
    attribute = plan.program.attribute(target)
    module = plan.site.module
    named = itertools.chain(
        module.named_modules(remove_duplicate=False),
        module.named_parameters(remove_duplicate=False),
        module.named_buffers(remove_duplicate=False),
    )
    return next((name for name, part in named if part is attribute and name), None)
