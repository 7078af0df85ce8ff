"""A graph cut at its units into pieces that run on their own: stem, shortcut, branch, join."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from . import _ops
from ._dataflow import DataFlow
from ._program import Program
from ._units import Cut

Values = dict[fx.Node, Any]
Step = Callable[[Values], Any]

_FRESH = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.modules.batchnorm._BatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
)


@dataclass(frozen=True, eq=False)
class Piece:
    """Part of a graph: run it on the values that it reads and it adds the values that it is asked for.

    Attributes:
        steps: for each node in program order, the node, how to compute it, and what is done with after it.
        reads: data from outside that it needs.
        gives: the nodes whose values it is asked for.
    """

    steps: tuple[tuple[fx.Node, Step, tuple[fx.Node, ...]], ...]
    reads: frozenset[fx.Node]
    gives: frozenset[fx.Node]

    def run(self, values: Values) -> None:
        """Compute; intermediate values are let go after their last use."""
        for node, step, done in self.steps:
            values[node] = step(values)
            for old in done:
                del values[old]


def _is_fresh(node: Any, program: Program, pinned: frozenset[fx.Node]) -> bool:
    """Whether a node's value may be overwritten by its one reader: nobody else can see it.

    So for what comes from a layer that never returns its own input, and for a sum, unless it is pinned.
    """
    while isinstance(node, fx.Node) and node not in pinned and len(node.users) == 1:
        if _ops.is_add(node):
            return True
        maker = program.model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(maker, _FRESH):
            return not maker._forward_hooks
        if not isinstance(maker, nn.Identity) or maker._forward_hooks:
            return False
        node = node.args[0]
    return False


def _is_plain_relu(node: fx.Node, program: Program) -> bool:
    if len(node.args) != 1 or any(node.kwargs.values()):
        return False
    if node.op == "call_module":
        module = program.model.get_submodule(str(node.target))
        hooked = module._forward_hooks or module._forward_pre_hooks
        return type(module) is nn.ReLU and not module.inplace and not hooked
    return node.op == "call_function" and node.target in (nn.functional.relu, torch.relu)


def _relu(source: fx.Node) -> Step:
    def call(values: Values) -> torch.Tensor:
        value: torch.Tensor = values[source]
        return value.relu() if torch.is_grad_enabled() else value.relu_()

    return call


def _step(node: fx.Node, program: Program, pinned: frozenset[fx.Node]) -> Step:
    if node.op == "get_attr":
        target = str(node.target)
        return lambda values: program.attribute(target)
    if node.op == "call_method":
        return _method(node)
    if _is_plain_relu(node, program) and _is_fresh(node.args[0], program, pinned):
        return _relu(node.args[0])  # type: ignore[arg-type]
    function: Callable[..., Any]
    if node.op == "call_module":
        function = module = program.model.get_submodule(str(node.target))
        if getattr(module, "inplace", False) and not (node.args and _is_fresh(node.args[0], program, pinned)):
            return _with_copy(node, module)
    else:
        function = node.target  # type: ignore[assignment]
    if len(node.args) == 1 and not node.kwargs and isinstance(node.args[0], fx.Node):
        only = node.args[0]
        return lambda values: function(values[only])
    args, kwargs = node.args, node.kwargs

    def general(values: Values) -> Any:
        return function(*_filled(args, values), **_filled(kwargs, values))

    return general


def _method(node: fx.Node) -> Step:
    name, args, kwargs = str(node.target), node.args, node.kwargs

    def call(values: Values) -> Any:
        receiver, *rest = _filled(args, values)
        return getattr(receiver, name)(*rest, **_filled(kwargs, values))

    return call


def _with_copy(node: fx.Node, module: nn.Module) -> Step:
    args, kwargs = node.args, node.kwargs

    def call(values: Values) -> Any:
        first, *rest = _filled(args, values)
        copied = first.clone() if isinstance(first, torch.Tensor) else first
        return module(copied, *rest, **_filled(kwargs, values))

    return call


def _filled(tree: Any, values: Values) -> Any:
    return fx.node.map_arg(tree, values.__getitem__)


class Segments:
    """The pieces of a program with units: everything an evaluation at gates runs.

    Attributes:
        cuts: the units.
        inputs: the placeholders on which the output depends, by argument name.
        stem: from the inputs to the first unit's entry.
        shortcuts: from each unit's entry to its shortcut's end (None for an identity).
        branches: from each unit's entry to its branch's ends.
        joins: from each unit's sum to the next unit's entry (the output, for the last).
        fresh_joins: the same, free to overwrite the sum.
        fresh_branches: for each unit, whether its branch's value may be overwritten by the sum.
        exporting: for each unit, whether its branch makes values that later operations read.
        carried: for each unit (and the output), what evaluation from its entry on needs besides the entry.
    """

    def __init__(self, program: Program, flow: DataFlow, cuts: list[Cut]) -> None:
        self.program, self.flow, self.cuts = program, flow, cuts
        needed_at_all = ancestors(program.output)
        self.inputs = {name: node for name, node in program.placeholders.items() if node in needed_at_all}
        entries = [cut.entry for cut in cuts]
        ends = [*entries[1:], program.output]
        inputs = list(self.inputs.values())

        demands: list[tuple[list[fx.Node], list[fx.Node]]] = [([entries[0]], inputs)]
        for cut, end in zip(cuts, ends, strict=True):
            demands.append(([cut.shortcut], [cut.entry]))
            demands.append((list(cut.branch), [cut.entry]))
            demands.append(([end], [cut.add]))
        nodes = [self._needed(targets, given) for targets, given in demands]
        extra = self._exports(nodes, demands)

        pinned = frozenset([*inputs, *entries, program.output]).union(
            *([cut.add, cut.shortcut, *cut.branch, cut.post] for cut in cuts), *extra
        )
        pieces = [
            self._piece(needed[0], frozenset(targets) | kept, frozenset(given), pinned)
            for needed, (targets, given), kept in zip(nodes, demands, extra, strict=True)
        ]
        self.stem = pieces[0]
        self.shortcuts = [
            None if cut.shortcut is cut.entry else piece for cut, piece in zip(cuts, pieces[1::3], strict=True)
        ]
        self.branches = pieces[2::3]
        self.joins = pieces[3::3]
        self.fresh_joins = [
            self._piece(needed[0], frozenset(targets) | kept, frozenset(given), pinned - {cut.add})
            for cut, needed, (targets, given), kept in zip(cuts, nodes[3::3], demands[3::3], extra[3::3], strict=True)
        ]
        reads = [piece.reads | kept_outside for piece, kept_outside in zip(pieces, self._outside, strict=True)]
        self.carried = self._carried(reads, extra)
        self.fresh_branches = [
            len(cut.branch) == 1 and _is_fresh(cut.branch[0], program, pinned - {cut.branch[0]}) for cut in cuts
        ]
        self.exporting = [bool(extra[2 + 3 * index]) for index in range(len(cuts))]

    def _needed(self, targets: list[fx.Node], given: list[fx.Node]) -> tuple[list[fx.Node], set[fx.Node]]:
        """The nodes to run for the targets, in order, and the values from outside that they read.

        Going back from the targets we stop at what is given. Data that does not come from it, and whatever
        is computed from such data, is read from outside.
        """
        given_set = set(given)
        reachable = set(given)
        for node in self.program.graph.nodes:
            if node in self.flow.carries and any(source in reachable for source in self.flow.sources(node)):
                reachable.add(node)
        inside: set[fx.Node] = set()
        outside: set[fx.Node] = set()
        todo = [target for target in targets if target not in given_set]
        while todo:
            node = todo.pop()
            if node in inside or node in outside:
                continue
            if self._is_foreign(node, reachable):
                outside.add(node)
                continue
            inside.add(node)
            todo.extend(source for source in node.all_input_nodes if source not in given_set)
        return sorted(inside, key=self.flow.order.__getitem__), outside

    def _is_foreign(self, node: fx.Node, reachable: set[fx.Node]) -> bool:
        if node in self.flow.carries:
            return node not in reachable
        data = self._data_behind(node)
        return bool(data) and not data <= reachable

    def _data_behind(self, node: fx.Node) -> set[fx.Node]:
        """The data nodes whose shape a node that carries no data asks for."""
        found: set[fx.Node] = set()
        todo, seen = [node], set()
        while todo:
            current = todo.pop()
            for source in current.all_input_nodes:
                if source in self.flow.carries:
                    found.add(source)
                elif source not in seen:
                    seen.add(source)
                    todo.append(source)
        return found

    def _exports(
        self,
        nodes: list[tuple[list[fx.Node], set[fx.Node]]],
        demands: list[tuple[list[fx.Node], list[fx.Node]]],
    ) -> list[frozenset[fx.Node]]:
        """What each piece must keep for later pieces; also notes what each piece reads from outside."""
        wanted = set().union(*(outside for _, outside in nodes))
        self._outside = [frozenset(outside) for _, outside in nodes]
        exports: list[frozenset[fx.Node]] = []
        aside = self.flow.carries - self.flow.follows  # from other inputs than the main one: the stem makes it
        for position, (inside, _) in enumerate(nodes):
            made_here = set(inside) | set(demands[position][1]) | (aside if position == 0 else set())
            mine = {node for node in wanted if node in made_here}
            for node in wanted - mine:
                data = self._data_behind(node) if node not in self.flow.carries else set()
                if data and data <= made_here:
                    mine.add(node)
            wanted -= mine
            exports.append(frozenset(mine))
        if wanted:
            names = ", ".join(sorted(node.name for node in wanted))
            raise ValueError(f"values that no piece of the graph makes: {names}")
        return exports

    def _piece(
        self,
        nodes: list[fx.Node],
        gives: frozenset[fx.Node],
        given: frozenset[fx.Node],
        pinned: frozenset[fx.Node],
    ) -> Piece:
        run = list(nodes)
        missing = [node for node in gives if node not in given and node not in set(run)]
        for node in missing:
            more, _ = self._needed([node], list(given | set(run)))
            run = sorted({*run, *more}, key=self.flow.order.__getitem__)
        members = set(run)
        last: dict[fx.Node, int] = {}
        for position, node in enumerate(run):
            for source in (*node.all_input_nodes, node):
                if source in members and source not in gives:
                    last[source] = position
        done: list[list[fx.Node]] = [[] for _ in run]
        for node, position in last.items():
            done[position].append(node)
        steps = tuple(
            (node, _step(node, self.program, pinned), tuple(done[position])) for position, node in enumerate(run)
        )
        reads = {source for node in run for source in node.all_input_nodes} - members
        return Piece(steps, frozenset(reads), gives)

    def _carried(self, reads: list[frozenset[fx.Node]], extra: list[frozenset[fx.Node]]) -> list[frozenset[fx.Node]]:
        exported = frozenset().union(*extra)
        carried: list[frozenset[fx.Node]] = []
        for index in range(len(self.cuts) + 1):
            later = frozenset().union(*reads[1 + 3 * index :]) if 1 + 3 * index < len(reads) else frozenset()
            before = frozenset().union(*extra[: 1 + 3 * index])
            carried.append(exported & later & before)
        return carried


def ancestors(node: fx.Node) -> set[fx.Node]:
    """A node and all that its value is computed from."""
    found: set[fx.Node] = set()
    todo = [node]
    while todo:
        current = todo.pop()
        if current not in found:
            found.add(current)
            todo.extend(current.all_input_nodes)
    return found


def gated_sum(shortcut: torch.Tensor, branch: torch.Tensor, gate: Any, overwrite: bool = False) -> torch.Tensor:
    """``shortcut + gate * branch``, exactly the plain sum at gate one; into `branch` where allowed."""
    if isinstance(gate, torch.Tensor):
        return shortcut + gate * branch
    if overwrite and branch.shape == shortcut.shape and branch.dtype == shortcut.dtype:
        return (branch if gate == 1.0 else branch.mul_(gate)).add_(shortcut)
    return shortcut + (branch if gate == 1.0 else gate * branch)
