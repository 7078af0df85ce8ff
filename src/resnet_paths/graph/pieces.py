"""A graph cut at its units into pieces that run on their own: stem, shortcut, branch, join."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from . import operations
from .blocks import Cut
from .compile_node import Step, Values, step_of
from .dataflow import DataFlow
from .overwrite import watchers
from .program import Program


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
        branch_watchers: for each unit whose branch's value the sum may overwrite, the modules whose hooks forbid it.
        exporting: for each unit, whether its branch makes values that later operations read.
        carried: for each unit (and the output), what evaluation from its entry on needs besides the entry.
    """

    def __init__(self, program: Program, flow: DataFlow, cuts: list[Cut]) -> None:
        self.program, self.flow, self.cuts = program, flow, cuts
        asked = _asked(program, flow, cuts)
        needed_at_all = ancestors(program.output).union(*map(ancestors, asked))
        self.inputs = {name: node for name, node in program.placeholders.items() if node in needed_at_all}
        entries = [cut.entry for cut in cuts]
        ends = [*entries[1:], program.output]
        inputs = list(self.inputs.values())

        demands: list[tuple[list[fx.Node], list[fx.Node]]] = [([entries[0], *asked], inputs)]
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
        self.branch_watchers = [
            watchers(cut.branch[0], program, pinned - {cut.branch[0]}) if len(cut.branch) == 1 else None for cut in cuts
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
            (node, step_of(node, self.program, pinned), tuple(done[position])) for position, node in enumerate(run)
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


def _asked(program: Program, flow: DataFlow, cuts: list[Cut]) -> list[fx.Node]:
    """Questions about the input's values that a recorded forward asked before its first unit, or beside its units."""
    inside = set().union(*(cut.branch_nodes | cut.shortcut_nodes | {cut.add} for cut in cuts))
    nodes = [node for node in program.graph.nodes if node.target is operations.same_answer and node in flow.carries]
    return [node for node in nodes if not ancestors(node) & inside]


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
