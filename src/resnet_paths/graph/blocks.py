"""Which additions of a graph are residual units, and why the others are not.

An addition is a unit when its terms rejoin at one node e, the unit's entry (its immediate dominator): the
term that is e itself, or the shallowest unbranched way from e with at most one weighted layer, is the
shortcut; the other terms are the branch. Source: Veit, Wilber and Belongie (2016), section 3, for the view;
the rule by dominators is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from . import operations
from .dataflow import DataFlow
from .program import ModuleCall, Program, call_of


@dataclass(frozen=True, eq=False)
class Cut:
    """Where a unit lies in the graph: ``post(shortcut(entry) + branch(entry))``.

    Attributes:
        entry: the node whose value the unit reads.
        shortcut: the shortcut's last node (`entry` itself for an identity).
        branch: the last node of each branch term (one, or several for parallel branches).
        add: the addition.
        post: the activation after the addition, or `add` itself.
        shortcut_nodes: the nodes of the shortcut, without `entry`.
        branch_nodes: the nodes of the branch, without `entry`.
    """

    entry: fx.Node
    shortcut: fx.Node
    branch: tuple[fx.Node, ...]
    add: fx.Node
    post: fx.Node
    shortcut_nodes: frozenset[fx.Node]
    branch_nodes: frozenset[fx.Node]


@dataclass(frozen=True)
class Refusal:
    """An addition that is not a unit.

    Attributes:
        where: qualified name of the module in whose forward it stands.
        operation: the node's name in the graph.
        reason: why it was refused.
    """

    where: str
    operation: str
    reason: str

    def __str__(self) -> str:
        return f"{self.operation} in {self.where or 'the model'}: {self.reason}"


class _Refused(Exception):
    pass


def find_cuts(program: Program, flow: DataFlow) -> tuple[list[Cut], list[Refusal]]:
    """The residual units on the way from input to output, first to last, and the additions refused."""
    chain = flow.chain(program.output)
    on_chain = set(chain)
    cuts: list[Cut] = []
    refusals: list[Refusal] = []
    for node in program.graph.nodes:
        if node not in flow.follows or not operations.is_add(node) or len(_terms(node, flow)) < 2:
            continue
        try:
            if node in on_chain:
                cuts.append(_cut(node, program, flow))
            else:
                refusals.append(_refusal(node, "not all data passes through it on the way to the output"))
        except _Refused as refused:
            refusals.append(_refusal(node, str(refused)))
    inside = {inner for cut in cuts for inner in cut.branch_nodes | cut.shortcut_nodes}
    named = {node.name for node in inside} | {node.name for cut in cuts for node in _sum_nodes(cut, flow)}
    return cuts, [refusal for refusal in refusals if refusal.operation not in named]


def _refusal(node: fx.Node, reason: str) -> Refusal:
    return Refusal(call_of(node).path, node.name, reason)


def _sum_nodes(cut: Cut, flow: DataFlow) -> set[fx.Node]:
    return flow.between(cut.entry, cut.add) - cut.branch_nodes - cut.shortcut_nodes


def _terms(add: fx.Node, flow: DataFlow) -> list[fx.Node]:
    """The terms of a sum that follow the main input, a term that stands twice listed twice."""
    return [term for term in add.args if isinstance(term, fx.Node) and term in flow.follows]


def _flat_terms(add: fx.Node, entry: fx.Node, flow: DataFlow) -> list[fx.Node]:
    """The terms of a sum and of the sums nested in it that nothing else reads."""
    terms: list[fx.Node] = []
    for term in _terms(add, flow):
        nested = term is not entry and operations.is_add(term) and len(term.users) == 1
        if nested and len(_terms(term, flow)) > 1 and flow.idom[term] is entry:
            terms.extend(_flat_terms(term, entry, flow))
        else:
            terms.append(term)
    return terms


def _module(node: fx.Node, program: Program) -> nn.Module | None:
    return program.model.get_submodule(str(node.target)) if node.op == "call_module" else None


def _cut(add: fx.Node, program: Program, flow: DataFlow) -> Cut:
    entry = flow.idom[add]
    if entry is None:
        raise _Refused("its terms come from different inputs of the model")
    terms = _flat_terms(add, entry, flow)
    shortcut = _choose_shortcut(terms, entry, program, flow)
    branch = tuple(term for term in terms if term is not shortcut)
    shortcut_nodes = flow.between(entry, shortcut)
    branch_nodes = set().union(*(flow.between(entry, term) for term in branch))
    if shortcut_nodes & branch_nodes:
        raise _Refused("its shortcut and its branch share operations after they parted")
    return Cut(
        entry,
        shortcut,
        branch,
        add,
        _post(add, program),
        frozenset(shortcut_nodes),
        frozenset(branch_nodes),
    )


def _choose_shortcut(terms: list[fx.Node], entry: fx.Node, program: Program, flow: DataFlow) -> fx.Node:
    direct = [term for term in terms if is_entry(term, entry, program)]
    if len(direct) > 1:
        raise _Refused("it adds a value to itself")
    if direct:
        return direct[0]
    depths = {term: _least_depth(term, entry, program, flow) for term in terms}
    simple = [term for term in terms if _is_unbranched(term, entry, flow) and depths[term] <= 1]
    if not simple:
        raise _Refused(
            "none of its terms is its entry, or comes from it unbranched through at most one weighted layer "
            f"(weighted layers on the shortest ways: {sorted(depths.values())})"
        )
    shortcut = min(simple, key=lambda term: depths[term])
    rivals = [term for term in terms if term is not shortcut and depths[term] <= depths[shortcut]]
    if rivals:
        raise _Refused(
            f"ambiguous: two of its terms have {depths[shortcut]} weighted layers each, so which is the "
            "shortcut cannot be told"
        )
    return shortcut


def is_entry(term: fx.Node, entry: fx.Node, program: Program) -> bool:
    """Whether a term is the entry itself, or comes from it through nothing but ``nn.Identity`` and ``0 +``."""
    while term is not entry:
        others = [value for value in term.args if not isinstance(value, fx.Node)]
        plus_nothing = operations.is_add(term) and others == [0]
        if not plus_nothing and type(_module(term, program)) is not nn.Identity:
            return False
        term = term.all_input_nodes[0]
    return True


def _is_unbranched(term: fx.Node, entry: fx.Node, flow: DataFlow) -> bool:
    node = term
    while node is not entry:
        sources = flow.inputs(node)
        if len(sources) != 1:
            return False
        node = sources[0]
    return True


def _least_depth(term: fx.Node, entry: fx.Node, program: Program, flow: DataFlow) -> int:
    """The number of weighted layers on the way from entry to term that has the fewest."""
    depth: dict[fx.Node, int] = {entry: 0}
    for node in sorted(flow.between(entry, term), key=flow.order.__getitem__):
        own = int(operations.is_weighted(node, _module(node, program)))
        depth[node] = own + min(depth[source] for source in flow.inputs(node))
    return depth[term]


def _post(add: fx.Node, program: Program) -> fx.Node:
    """The activation that follows in the same module and is the sum's only reader; else the sum."""
    readers = list(add.users)
    if len(readers) != 1 or readers[0].op == "output":
        return add
    reader = readers[0]
    alone = len([value for value in reader.all_input_nodes if value is add]) == 1
    same = _body(reader) is _body(add)
    return reader if alone and same and operations.is_activation(reader, _module(reader, program)) else add


def _body(node: fx.Node) -> ModuleCall | None:
    """The call in whose forward the operation is written: for a leaf module, the one that calls it."""
    call = call_of(node)
    return call.parent if call.leaf else call


# names


def owner_of(cut: Cut) -> ModuleCall:
    """The innermost module call whose forward holds the addition and all of the branch."""
    inside = cut.branch_nodes | cut.shortcut_nodes
    for call in call_of(cut.add).ancestors():
        if all(call in call_of(node).ancestors() for node in inside):
            return call
    return list(call_of(cut.add).ancestors())[-1]


def unit_names(cuts: list[Cut], program: Program) -> list[str]:
    """A name for each unit: its module's qualified name, with its part where one module holds several."""
    owners = [owner_of(cut) for cut in cuts]
    names = []
    for cut, owner in zip(cuts, owners, strict=True):
        alone = owner.path and sum(other is owner for other in owners) == 1
        names.append(owner.path if alone else _part_name(cut, owner, program))
    seen: dict[str, int] = {}
    for position, name in enumerate(names):
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1 or names.count(name) > 1:
            names[position] = f"{name}#{seen[name]}"
    return names


def _part_name(cut: Cut, owner: ModuleCall, program: Program) -> str:
    """The owner's name and the child that holds most of the branch's parameters."""
    sizes: dict[str, int] = {}
    for node in sorted(cut.branch_nodes, key=lambda node: node.name):
        path = _child_path(node, owner)
        if path is not None:
            module = program.model.get_submodule(path)
            sizes[path] = sum(parameter.numel() for parameter in module.parameters())
    if not sizes:
        return f"{owner.path}.{cut.add.name}".lstrip(".")
    return max(sizes, key=lambda path: sizes[path])


def _child_path(node: fx.Node, owner: ModuleCall) -> str | None:
    child: ModuleCall | None = None
    for call in call_of(node).ancestors():
        if call is owner:
            break
        child = call
    if child is not None:
        return child.path
    return str(node.target) if node.op == "call_module" else None
