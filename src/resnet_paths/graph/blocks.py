"""Which additions of a graph are residual blocks, and why the others are not.

An addition is a block when one of its terms, the shortcut, comes from a value e by a shallow path (e itself, or a
projection, pooling, padding) and the other term, the branch, is also computed from e, through strictly more weighted
layers. The block's entry e is the nearest such value. Nothing is required of the rest of the graph: the sum need not
lie on a chain from input to output, other operations may read it or the entry, the branch may read further values (its
side inputs), and it may contain other blocks. Requiring every addition to dominate the output, as in a chain of blocks,
would hide all blocks that a U-Net, a feature pyramid or an encoder reads from the side.

Depth is counted along the *deepest* path: a branch that contains blocks has an identity path through it, yet is deep.
The remaining rules keep other additions out. A shortcut may contain no block (two merging streams), no product of two
data-dependent values (highway gates) and no operation that derives new values instead of carrying the entry's (masks).
A branch must have weights (rotary embeddings and hand-written norms do not). A low-rank adapter beside a layer is part
of that layer.

Source: Veit, Wilber and Belongie (2016), section 3, for blocks as shortcut plus branch; the rule is ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn

from . import operations
from .dataflow import DataFlow, ancestors
from .errors import OutputError
from .outputs import Path, tensor_outputs
from .program import ModuleCall, Program, call_of


@dataclass(frozen=True, eq=False)
class Cut:
    """Where a block lies in the graph: ``post(shortcut(entry) + branch(entry))``.

    Attributes:
        entry: the node at which the shortcut and the branch diverge.
        shortcut: the shortcut's last node (`entry` itself for an identity).
        branch: the last node of each branch term (one, or several for parallel branches).
        add: the addition.
        post: the activation after the addition, or `add` itself.
        shortcut_nodes: the nodes on paths from the entry to the shortcut's end, without `entry`.
        branch_nodes: the nodes on paths from the entry to the branch's ends, without `entry`; they include those of
            nested blocks, but not those that compute side inputs.
    """

    entry: fx.Node
    shortcut: fx.Node
    branch: tuple[fx.Node, ...]
    add: fx.Node
    post: fx.Node
    shortcut_nodes: frozenset[fx.Node]
    branch_nodes: frozenset[fx.Node]

    def on_copy(self, nodes: Mapping[fx.Node, fx.Node]) -> Cut:
        """The same block in a copy of the graph, given the copy of each node."""
        return Cut(
            nodes[self.entry], nodes[self.shortcut], tuple(nodes[end] for end in self.branch),
            nodes[self.add], nodes[self.post],
            frozenset(nodes[node] for node in self.shortcut_nodes),
            frozenset(nodes[node] for node in self.branch_nodes),
        )  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """An addition that is not a block.

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


Depth = tuple[int, int]
"""Weighted layers on the deepest path, then all layers with parameters (a branch may be just a norm and a pooling)."""


@dataclass(frozen=True, eq=False)
class _Ways:
    """The two sets of paths from an entry to the terms of a sum."""

    entry: fx.Node
    shortcut: fx.Node
    branch: fx.Node
    shortcut_nodes: set[fx.Node]
    branch_nodes: set[fx.Node]
    shortcut_depth: Depth
    branch_depth: Depth


def find_blocks(program: Program, flow: DataFlow) -> tuple[list[Cut], list[Refusal]]:
    """The blocks that the model's outputs depend on, in the order of their additions, and the refused additions."""
    finder = _Finder(program, flow)
    refusals: list[Refusal] = []
    needed = ancestors(*(node for _, node in tensor_outputs(program.root.output)), program.output)
    for node in program.graph.nodes:
        if node not in flow.carries or node not in needed:
            continue
        try:
            if operations.is_gate(node) and len(flow.sources(node)) > 1:
                raise _Refused("it mixes its terms by a weight computed from the data (a gate, as in highway networks)")
            if operations.is_add(node) and len(_terms(node, flow)) == 2:
                finder.add(node)
        except _Refused as refused:
            refusals.append(Refusal(call_of(node).path, node.name, str(refused)))
    cuts = list(finder.cuts.values())
    main = main_input(flow, [cut for cut in cuts if is_entry(cut.shortcut, cut.entry, program)] or cuts)
    beside = [cut for cut in cuts if main is not None and _carries_another_input(cut, main, flow)]
    reason = "its shortcut carries a side input (a time step, a condition), not the stream that its branch transforms"
    refusals += [Refusal(call_of(cut.add).path, cut.add.name, reason) for cut in beside]
    return [cut for cut in cuts if cut not in beside], refusals


def main_input(flow: DataFlow, cuts: list[Cut]) -> fx.Node | None:
    """The input that most blocks' entries depend on (the first one on a tie); None without blocks."""
    inputs = [node for node in flow.program.placeholders.values() if node in flow.carries]
    return max(inputs, key=lambda node: sum(flow.is_behind(cut.entry, node) for cut in cuts), default=None)


def _carries_another_input(cut: Cut, main: fx.Node, flow: DataFlow) -> bool:
    """Whether the shortcut is a part or projection of a side input, added to the main stream (as in FiLM)."""
    through_main = any(flow.is_behind(end, main) for end in cut.branch)
    is_identity = is_entry(cut.shortcut, cut.entry, flow.program)
    return not is_identity and through_main and not flow.is_behind(cut.entry, main)


def follow_output(
    program: Program, flow: DataFlow, cuts: list[Cut], requested: str | int | Path | None = None
) -> tuple[list[Cut], list[Refusal]]:
    """Choose the output that an evaluation returns, and keep the blocks that it depends on.

    By default this is the entry called ``logits``, else the output that depends on the most blocks (the first one on a
    tie). The program is modified: `output` and `output_path`.

    Raises:
        OutputError: the model returns nothing at `requested`.
    """
    returned = dict(tensor_outputs(program.root.output)) or {(): program.output}
    behind = {
        path: sum(flow.is_behind(node, cut.add) for cut in cuts) if node in flow.carries else -1
        for path, node in returned.items()
    }
    if requested is not None:
        path = requested if isinstance(requested, tuple) else (requested,)
        if path not in returned:
            names = ", ".join(repr(place[0] if len(place) == 1 else place) for place in returned if place)
            advice = f"choose one of {names}" if names else "the model returns one tensor, so leave output out"
            raise OutputError(f"expected an output that the model returns, got {requested!r}; {advice}")
    else:
        path = ("logits",) if ("logits",) in returned else max(behind, key=lambda place: behind[place])
    program.output, program.output_path = returned[path], path
    kept = [cut for cut in cuts if program.output in flow.carries and flow.is_behind(program.output, cut.add)]
    reason = f"the chosen output, {list(path)}, does not depend on it; choose another with output="
    return kept, [Refusal(call_of(cut.add).path, cut.add.name, reason) for cut in cuts if cut not in kept]


def learned_starts(program: Program, carries: set[fx.Node]) -> set[fx.Node]:
    """Learned values that a branch reads and is then added to: a class token and its first attention."""
    starts: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node not in carries or not operations.is_add(node):
            continue
        for constant in node.args:
            if isinstance(constant, fx.Node) and constant not in carries and not operations.asks_shape(constant):
                others = [term for term in node.args if isinstance(term, fx.Node) and term in carries]
                if others and constant in ancestors(*others) and _has_parameter_behind(constant, program):
                    starts.add(constant)
    return starts


def _has_parameter_behind(node: fx.Node, program: Program) -> bool:
    return any(parameters_of(source, program) for source in ancestors(node) if source.op == "get_attr")


def _terms(add: fx.Node, flow: DataFlow) -> list[fx.Node]:
    """The terms of a sum that carry data; a term that occurs twice is listed twice."""
    return [term for term in add.args if isinstance(term, fx.Node) and term in flow.carries]


class _Finder:
    """The blocks found so far, by their addition, and the rules that decide on the next one."""

    def __init__(self, program: Program, flow: DataFlow) -> None:
        self.program, self.flow = program, flow
        self.cuts: dict[fx.Node, Cut] = {}
        self._sizes: dict[fx.Node, Depth] = {}

    def add(self, node: fx.Node) -> None:
        """Accept an addition as a block.

        Raises:
            _Refused: it is not one.
        """
        one, other = _terms(node, self.flow)
        if one is other:
            raise _Refused("it adds a value to itself")
        if self._parallel(node, one, other) or self._parallel(node, other, one):
            return
        ways = self._ways(one, other)
        branch = self._flattened(ways)
        nodes = frozenset(ways.shortcut_nodes), frozenset(ways.branch_nodes - {ways.branch} | {*branch})
        self.cuts[node] = Cut(ways.entry, ways.shortcut, branch, node, post_activation(node, self.program), *nodes)

    def _flattened(self, ways: _Ways) -> tuple[fx.Node, ...]:
        """The branch terms: both of ``f(x) + g(x)``, which by itself looked like a block, if x is the shortcut."""
        inner = self.cuts.get(ways.branch)
        if inner is None or inner.post is not inner.add or len(inner.add.users) != 1:
            return (ways.branch,)
        if not self.flow.is_behind(inner.entry, ways.entry):
            return (ways.branch,)
        before = self.flow.between(ways.entry, inner.entry)
        separated = any(node in self.cuts for node in before) or self._depth(ways.entry, inner.entry, before)[0]
        if separated or not self._depth(inner.entry, inner.shortcut, set(inner.shortcut_nodes))[0]:
            return (ways.branch,)
        del self.cuts[ways.branch]
        return (inner.shortcut, *inner.branch)

    def _parallel(self, node: fx.Node, inner: fx.Node, other: fx.Node) -> bool:
        """Accept ``(x + f(x)) + g(x)`` as one block with two branches; False if the sum does not have this form."""
        cut = self.cuts.get(inner)
        if cut is None or cut.post is not inner or len(inner.users) != 1:
            return False
        if not self.flow.is_behind(other, cut.entry):
            return False
        ways = self._measured(cut.entry, cut.shortcut, other)
        if ways.shortcut_depth >= ways.branch_depth or ways.shortcut_nodes & ways.branch_nodes:
            return False
        del self.cuts[inner]
        branch_nodes = cut.branch_nodes | ways.branch_nodes
        post = post_activation(node, self.program)
        self.cuts[node] = Cut(
            cut.entry, cut.shortcut, (*cut.branch, other), node, post, cut.shortcut_nodes, branch_nodes
        )
        return True

    def _ways(self, one: fx.Node, other: fx.Node) -> _Ways:
        """The shortcut and the branch of a sum.

        Raises:
            _Refused: neither term is a shortcut around the other.
        """
        if all(self._is_product(term) for term in (one, other)) and not self._nested(one, other):
            raise _Refused(
                "both of its terms are multiplied by values computed from the data (gates, as in highway networks)"
            )
        measured = [
            self._measured(entry, shortcut, branch)
            for shortcut, branch in ((one, other), (other, one))
            if (entry := self._nearest(shortcut, branch)) is not None
        ]
        if not measured:
            raise _Refused("its terms come from different inputs of the model")
        strict = [ways for ways in measured if ways.shortcut_depth < ways.branch_depth]
        if not strict:
            raise _Refused(_why_level(measured))
        # The shallowest shortcut wins; among equals, the one with the latest entry (the smallest block).
        strict.sort(key=lambda ways: (ways.shortcut_depth, -self.flow.order[ways.entry]))
        reasons = [self._objection(ways) for ways in strict]
        if all(reasons):
            raise _Refused(reasons[0])
        return strict[reasons.index("")]

    def _nested(self, one: fx.Node, other: fx.Node) -> bool:
        return self.flow.is_behind(one, other) or self.flow.is_behind(other, one)

    def _nearest(self, shortcut: fx.Node, branch: fx.Node) -> fx.Node | None:
        """The last value on all paths to the shortcut's end that the branch depends on too."""
        node: fx.Node | None = shortcut
        while node is not None and not self.flow.is_behind(branch, node):
            node = self.flow.idom[node]
        return node

    def _measured(self, entry: fx.Node, shortcut: fx.Node, branch: fx.Node) -> _Ways:
        nodes = self.flow.between(entry, shortcut), self.flow.between(entry, branch)
        depths = self._depth(entry, shortcut, nodes[0]), self._depth(entry, branch, nodes[1])
        return _Ways(entry, shortcut, branch, *nodes, *depths)

    def _depth(self, entry: fx.Node, end: fx.Node, inside: set[fx.Node]) -> Depth:
        """The depth of the deepest path from entry to end."""
        depth: dict[fx.Node, Depth] = {entry: (0, 0)}
        for node in sorted(inside, key=self.flow.order.__getitem__):
            behind = max(depth[source] for source in self.flow.sources(node) if source in depth)
            size = self._size(node)
            depth[node] = (behind[0] + size[0], behind[1] + size[1])
        return depth[end]

    def _size(self, node: fx.Node) -> Depth:
        if node not in self._sizes:
            layers = operations.weighted_layers(node, module_of(node, self.program))
            self._sizes[node] = layers, int(self._is_layer(node))
        return self._sizes[node]

    def _is_product(self, node: fx.Node) -> bool:
        factors: list[fx.Node] = []
        fx.node.map_arg(node.args, factors.append)
        return operations.is_product(node) and len([f for f in factors if f in self.flow.carries]) > 1

    def _objection(self, ways: _Ways) -> str:
        """Why a sum with these paths is not a block; empty if it is one."""
        if any(node in self.cuts for node in ways.shortcut_nodes):
            return "it merges two streams: both of its terms pass through blocks"
        if any(self._is_product(node) for node in ways.shortcut_nodes):
            return "its shortcut is multiplied by a value computed from the data (a gate, as in highway networks)"
        if operations.splits(ways.entry) or self._reads_other_part(ways):
            return "its terms are computed from different parts of one value"
        if ways.shortcut_nodes & ways.branch_nodes:
            return "its shortcut and its branch share operations after they diverge"
        for node in sorted(ways.shortcut_nodes, key=self.flow.order.__getitem__):
            if operations.reads_off(node, module_of(node, self.program)):
                return f"its shortcut does not carry the entry's values: it goes through {node.name}"
        if not any(self._is_layer(node, ways.entry) for node in ways.branch_nodes):
            return (
                "its branch has no weights registered with the model (keep blocks in an nn.ModuleList, not in a plain "
                "list)"
            )
        if self._is_adapter(ways):
            return (
                "its branch is a low-rank adapter: a linear map through fewer channels, beside the layer that it adapts"
            )
        return ""

    def _is_adapter(self, ways: _Ways) -> bool:
        """Whether the branch is linear and narrower than the shortcut's layer, so that together they are one layer."""
        beside, within = self._widths(ways.shortcut_nodes), self._widths(ways.branch_nodes)
        narrow = len(beside) == 1 and len(within) > 1 and min(within) < min(beside)
        return narrow and all(
            operations.is_linear(node, module_of(node, self.program), self.flow.carries)
            for node in ways.branch_nodes
            if node in self.flow.carries and not operations.asks_shape(node)
        )

    def _widths(self, nodes: Iterable[fx.Node]) -> list[int]:
        """The number of output channels of each layer among the nodes; of a bare weight, its shorter side."""
        widths = []
        for node in nodes:
            weight = getattr(module_of(node, self.program), "weight", None)
            if isinstance(weight, torch.Tensor) and weight.ndim > 1:
                widths.append(len(weight))
            elif operations.weighted_layers(node, None):
                widths += [min(p.shape[:2]) for p in self._parameters_of_function(node) if p.ndim > 1]
        return widths

    def _reads_other_part(self, ways: _Ways) -> bool:
        """Whether the shortcut takes a slice of the entry, and the branch only other slices."""
        readers = [
            [n for n in nodes if ways.entry in n.all_input_nodes] for nodes in (ways.shortcut_nodes, ways.branch_nodes)
        ]
        if not readers[0] or not all(operations.takes_part(node) for nodes in readers for node in nodes):
            return False
        parts = [{str(node.args[1:]) for node in nodes} for nodes in readers]
        return parts[0].isdisjoint(parts[1])

    def _is_layer(self, node: fx.Node, entry: fx.Node | None = None) -> bool:
        """Whether an operation is a layer with parameters: a module or a known function that has some.

        Weights may also be computed from a side input, which does not depend on the `entry` (a hypernetwork).

        A product with a learned scale is not enough: hand-written norms end in one.
        """
        if node.op == "call_module":
            return any(True for _ in self.program.module(str(node.target)).parameters())
        if not operations.is_layer_function(node):
            return False
        return bool(self._parameters_of_function(node, entry))

    def _parameters_of_function(self, node: fx.Node, entry: fx.Node | None = None) -> list[nn.Parameter]:
        """The parameters behind the arguments of a function that carry no data, or none of the entry's."""
        given = [
            source
            for source in node.all_input_nodes
            if source not in self.flow.carries or (entry is not None and not self.flow.is_behind(source, entry))
        ]
        return [parameter for source in ancestors(*given) for parameter in parameters_of(source, self.program)]


def _why_level(measured: list[_Ways]) -> str:
    """Why neither term is the shortcut: both are equally deep, or the shallower has no entry that the other shares."""
    level = [ways for ways in measured if ways.shortcut_depth == ways.branch_depth]
    if not level:
        return (
            "its shallower term is computed from another input too (a mask, a condition), so its terms do not start "
            "from one value"
        )
    layers, parameters = level[0].shortcut_depth
    if layers == parameters == 0:
        return "no layer with weights lies between its terms"
    return (
        f"ambiguous: both of its terms have {layers} weighted layers on their deepest paths from where they diverge, "
        "so neither is clearly the shortcut"
    )


def module_of(node: fx.Node, program: Program) -> nn.Module | None:
    """The module that a node calls; None for other operations."""
    return program.module(str(node.target)) if node.op == "call_module" else None


def parameters_of(node: fx.Node, program: Program) -> list[nn.Parameter]:
    """The parameters that a node itself reads."""
    if node.op == "call_module":
        return list(program.module(str(node.target)).parameters())
    value = program.attribute(str(node.target)) if node.op == "get_attr" else None
    return [value] if isinstance(value, nn.Parameter) else []


def is_entry(term: fx.Node, entry: fx.Node, program: Program) -> bool:
    """Whether a term is the entry itself, or the entry after only ``nn.Identity`` and ``0 +``."""
    while term is not entry:
        others = [value for value in term.args if not isinstance(value, fx.Node)]
        plus_nothing = operations.is_add(term) and others == [0]
        if not plus_nothing and type(module_of(term, program)) is not nn.Identity:
            return False
        term = term.all_input_nodes[0]
    return True


def post_activation(add: fx.Node, program: Program) -> fx.Node:
    """The activation that follows in the same module and is the sum's only reader; otherwise the sum."""
    readers = list(add.users)
    if len(readers) != 1 or readers[0].op == "output":
        return add
    reader = readers[0]
    alone = len([value for value in reader.all_input_nodes if value is add]) == 1
    same = _body(reader) is _body(add)
    return reader if alone and same and operations.is_activation(reader, module_of(reader, program)) else add


def _body(node: fx.Node) -> ModuleCall | None:
    """The call in whose forward the operation is written: for a leaf module, the one that calls it."""
    call = call_of(node)
    return call.parent if call.leaf else call


# naming blocks


def common_call(nodes: Iterable[fx.Node], start: ModuleCall) -> ModuleCall:
    """The innermost call around `start` (or that call itself) that contains all the nodes."""
    holders = [set(call.ancestors()) for call in {call_of(node) for node in nodes}]
    around = list(start.ancestors())
    return next((call for call in around if all(call in holder for holder in holders)), around[-1])


def owner_of(cut: Cut) -> ModuleCall:
    """The innermost module call whose forward contains the addition and all of the branch and the shortcut."""
    return common_call(cut.branch_nodes | cut.shortcut_nodes, call_of(cut.add))


def block_names(cuts: list[Cut], program: Program) -> list[str]:
    """A name for each block: its module's qualified name, or that of a child where one module has several blocks.

    A block that contains others is named after the module that is its entire branch, or its first and last child.
    """
    owners = [owner_of(cut) for cut in cuts]
    shared = Counter(owners)
    adds = {cut.add for cut in cuts}
    names = []
    for cut, owner in zip(cuts, owners, strict=True):
        if not adds.isdisjoint(cut.branch_nodes):
            names.append(_outer_name(cut, owner))
            continue
        alone = owner.path and shared[owner] == 1
        names.append(owner.path if alone else _part_name(cut, owner, program))
    return _numbered(names)


def _numbered(names: list[str]) -> list[str]:
    """The names with ``#1``, ``#2``, ... after those that occur more than once."""
    total, seen = Counter(names), Counter[str]()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name}#{seen[name]}" if total[name] > 1 else name)
    return numbered


def _outer_name(cut: Cut, owner: ModuleCall) -> str:
    """A name for a skip connection around other blocks."""
    inside = sorted(cut.branch_nodes, key=lambda node: node.name)
    branch_call = common_call(inside, call_of(inside[0]))
    if branch_call is not owner and owner in branch_call.ancestors():
        return branch_call.path
    ordered = [path for node in _in_order(cut) if (path := _child_path(node, owner)) is not None]
    prefix = f"{owner.path}." if owner.path else ""
    last = ordered[-1].removeprefix(prefix) if ordered else cut.add.name
    return f"{ordered[0]}..{last}" if ordered and ordered[0] != ordered[-1] else f"{prefix}{last}"


def _in_order(cut: Cut) -> list[fx.Node]:
    inside = cut.branch_nodes
    return [node for node in cut.add.graph.nodes if node in inside]


def _part_name(cut: Cut, owner: ModuleCall, program: Program) -> str:
    """The owner's name and the child that holds most of the branch's parameters."""
    sizes: dict[str, int] = {}
    for node in sorted(cut.branch_nodes, key=lambda node: node.name):
        path = _child_path(node, owner)
        if path is not None:
            module = program.module(path)
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
