"""A graph cut at its blocks into pieces that run on their own: a stem, then each block's shortcut, branch and join.

Blocks are numbered in the order of their additions, and so are gates. The *level* of a value is the last block whose
sum it depends on (-1: none), so the value is determined by the gates up to that block. Everything else follows:

- what is needed only for one way into one sum belongs to that block's shortcut or branch piece, and is computed when it
  is that block's turn (so a gate of 0 skips it);
- everything else of level i belongs to join i, which runs as soon as block i has its sum: once for each choice of the
  gates up to i, and never for later ones;
- the state before block i is the set of values of lower levels that later pieces read.

In a chain of blocks that set is just the block's entry. Constants (which depend on no input, not even on its shape) are
recomputed in each piece that reads them and never carried, so that pieces see the model's weights as they are when they
run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from . import operations
from .blocks import Cut, main_input
from .compile_node import Step, Values, step_of
from .dataflow import DataFlow, ancestors
from .liveness import SHORTCUT, Liveness
from .overwrite import Watchers, watchers
from .program import Program
from .program_of_copy import program_of_copy
from .still_needed import Needs


@dataclass(frozen=True, eq=False)
class Piece:
    """Part of a graph: run it on the values that it reads, and it adds the values that it gives.

    Attributes:
        steps: for each node in program order, the node, how to compute it, and the values to free after it.
        reads: the values from outside that it needs.
        gives: the nodes whose values remain after a run.
    """

    steps: tuple[tuple[fx.Node, Step, tuple[fx.Node, ...]], ...]
    reads: frozenset[fx.Node]
    gives: frozenset[fx.Node]

    def run(self, values: Values) -> None:
        """Compute the piece; values from inside it are freed after their last use."""
        for node, step, done in self.steps:
            values[node] = step(values)
            for old in done:
                del values[old]

    def run_all(self, values: Values) -> None:
        """Compute the piece and keep the values from inside it too."""
        for node, step, _ in self.steps:
            values[node] = step(values)

    @staticmethod
    def of(nodes: Sequence[fx.Node], program: Program, pinned: frozenset[fx.Node], gives: frozenset[fx.Node]) -> Piece:
        """The piece that runs some nodes, in program order.

        Args:
            nodes: what to run, in order.
            program: the graph.
            pinned: nodes whose values must not be overwritten.
            gives: the nodes whose values are kept.
        """
        members = set(nodes)
        last: dict[fx.Node, int] = {}
        for position, node in enumerate(nodes):
            for source in (*node.all_input_nodes, node):
                if source in members and source not in gives:
                    last[source] = position
        done: list[list[fx.Node]] = [[] for _ in nodes]
        for node, position in last.items():
            done[position].append(node)
        steps = tuple(
            (node, step_of(node, program, pinned), tuple(freed)) for node, freed in zip(nodes, done, strict=True)
        )
        reads = {source for node in nodes for source in node.all_input_nodes} - members
        return Piece(steps, frozenset(reads), gives)

    def run_what_can(self, values: Values) -> None:
        """Compute the nodes whose arguments exist: the others are needed only by blocks that are skipped."""
        for node, step, done in self.steps:
            if all(source in values for source in node.all_input_nodes):
                values[node] = step(values)
            for old in done:
                values.pop(old, None)


@dataclass(frozen=True)
class _Layout:
    """Which nodes belong to which piece.

    Attributes:
        shortcuts: the nodes of each block's shortcut piece.
        branches: those of its branch piece.
        joins: those of each join, the stem first.
        level: the last block whose sum each needed node depends on.
        last_read: the last block whose pieces read each value (the number of blocks stands for the output).
    """

    shortcuts: list[list[fx.Node]]
    branches: list[list[fx.Node]]
    joins: list[list[fx.Node]]
    level: dict[fx.Node, int]
    last_read: dict[fx.Node, int] = field(default_factory=dict)


class Segments:
    """The pieces of a program: everything that an evaluation at gates runs.

    Args:
        program: the graph.
        flow: its data flow.
        cuts: its blocks.
        overwrite: whether pieces may overwrite values that nobody else reads (in copies made for inference).

    Attributes:
        cuts: the blocks.
        inputs: the placeholders on which the output depends, by argument name.
        main: the input that most blocks depend on.
        stem: from the inputs to what the first blocks read.
        shortcuts: each block's shortcut (None for an identity).
        branches: each block's branch.
        joins: from each block's sum to what later blocks, or the output, read from it.
        fresh_joins: the same, allowed to overwrite the sum.
        branch_first: for each block, whether the model writes its sum as branch plus shortcut.
        branch_watchers: for each block whose sum may overwrite the branch's value, the modules whose hooks forbid it.
        carried: for each block (and the output), what evaluation from its entry on needs besides the entry.
        needs: what the model needs, and what goes when a block is dropped.
        exporting: for each block, whether values inside its branch are read from outside.
        skippable: whether a gate of 0 can make other blocks unnecessary (those inside its branch).
    """

    def __init__(self, program: Program, flow: DataFlow, cuts: list[Cut], *, overwrite: bool = False) -> None:
        self.program, self.flow, self.cuts, self.overwrite = program, flow, cuts, overwrite
        checks = _checks_outside_blocks(program, flow, cuts)
        live = Liveness(program.graph, cuts, [program.output, *checks])
        self.needs = Needs(program)
        self.exporting = [bool(self.needs.reader_outside(cut)) for cut in cuts]
        self.inputs = {name: node for name, node in program.placeholders.items() if node in live.needed}
        self.main = main_input(flow, cuts)
        self._constants = _constants(program) - {cut.entry for cut in cuts}  # an entry is part of the state
        self._layout = self._assign(live, checks)
        self._carry(live, checks)
        self._compile()
        self._reaches = _Reaches(live, cuts, program.output)
        self.skippable = not self._reaches.all_always()

    def on_copy(self, model: nn.Module, exchanged: Collection[str] = (), *, overwrite: bool) -> Segments | None:
        """The same pieces of a copy of the model; None where its graph may differ (`program_of_copy`).

        Args:
            model: the copy.
            exchanged: names of modules that may have another class or other tensors.
            overwrite: as above.
        """
        copied = program_of_copy(self.program, model, exchanged)
        if copied is None:
            return None
        program, nodes = copied
        flow = DataFlow(program, [nodes[start] for start in self.flow.starts])
        return Segments(program, flow, [cut.on_copy(nodes) for cut in self.cuts], overwrite=overwrite)

    # assigning nodes to pieces

    def _assign(self, live: Liveness, checks: list[fx.Node]) -> _Layout:
        n = len(self.cuts)
        index_of = {cut.add: index for index, cut in enumerate(self.cuts)}
        layout = _Layout([[] for _ in range(n)], [[] for _ in range(n)], [[] for _ in range(n + 1)], {})
        for node in self.program.graph.nodes:
            if node not in live.needed:
                continue
            below = max((layout.level[source] for source in live.inputs(node)), default=-1)
            layout.level[node] = index_of.get(node, below)
            if node in index_of or node in self._constants or node.op == "placeholder":
                continue
            way = live.destination(node)
            if way is None:
                # Offset by one: the first join is the stem, with the values of level -1.
                layout.joins[layout.level[node] + 1].append(node)
            else:
                (layout.shortcuts if way[0] == SHORTCUT else layout.branches)[way[1]].append(node)
        self._place_checks(live, layout)
        return layout

    def _place_checks(self, live: Liveness, layout: _Layout) -> None:
        """Put each check inside a block into the piece that computes the last of the values that it checks.

        A check (`operations.same_answer`) has no reader, so liveness alone would leave it out. It may run only where
        all its arguments exist; one whose arguments lie in two different pieces of skippable code is left out.
        """
        turns = [*enumerate(layout.shortcuts), *enumerate(layout.branches)]
        inside = {node: (index, nodes) for index, nodes in turns for node in nodes}
        piece_of = {node: (index - 1, nodes) for index, nodes in enumerate(layout.joins) for node in nodes} | inside
        piece_of |= {cut.add: (index, layout.joins[index + 1]) for index, cut in enumerate(self.cuts)}
        for check in _all_checks(self.program, self.flow):
            if check in live.needed:
                continue
            behind = ancestors(check) - self._constants
            added = {node for node in behind if node not in live.needed and node.op != "placeholder"}
            sources = {source for node in added for source in node.all_input_nodes} - added - self._constants
            pieces = [piece_of[source] for source in sources if source in piece_of]
            skippable = {id(nodes) for source, (_, nodes) in inside.items() if source in sources}
            if not pieces or len(skippable) > 1 or not sources <= live.needed:
                continue
            nodes = max(pieces, key=lambda piece: (piece[0], id(piece[1]) not in skippable))[1]
            nodes[:] = sorted({*nodes, *added}, key=self.flow.order.__getitem__)

    def _carry(self, live: Liveness, checks: list[fx.Node]) -> None:
        """Find the values that each state must hold."""
        layout, n = self._layout, len(self.cuts)
        turn: dict[fx.Node, int] = {}
        for pieces in (layout.shortcuts, layout.branches):
            turn |= {node: index for index, nodes in enumerate(pieces) for node in nodes}
        turn |= {node: index - 1 for index, nodes in enumerate(layout.joins) for node in nodes}
        reads = [(node, index) for node, index in turn.items()]
        last = layout.last_read
        for node, index in reads:
            for source in self._real_sources(node):
                last[source] = max(last.get(source, -1), index)
        for index, cut in enumerate(self.cuts):
            for source in (cut.shortcut, *cut.branch, cut.entry):
                last[source] = max(last.get(source, -1), index)
        last[self.program.output] = n
        self._inside = {node for nodes in (*layout.shortcuts, *layout.branches) for node in nodes}
        computed_at = {
            node: layout.level.get(node, -1)
            for node in last
            if node not in self._inside and node not in self._constants
        }
        alive: list[set[fx.Node]] = [set() for _ in range(n + 1)]
        for node, level in computed_at.items():
            for index in range(level + 1, last[node] + 1):
                alive[index].add(node)
        self._alive = [frozenset(nodes) for nodes in alive]
        ends = [*(cut.entry for cut in self.cuts), self.program.output]
        self.carried = [nodes - {end} for nodes, end in zip(self._alive, ends, strict=True)]

    def _real_sources(self, node: fx.Node) -> set[fx.Node]:
        """What a node reads, without constants: each piece computes those itself."""
        return {source for source in node.all_input_nodes if source not in self._constants}

    # compiling pieces

    def _compile(self) -> None:
        layout, cuts = self._layout, self.cuts
        everywhere = frozenset(self.program.graph.nodes)
        boundary = (
            frozenset()
            .union(*self._alive)
            .union(self.inputs.values(), *([cut.add, cut.shortcut, *cut.branch, cut.post] for cut in cuts))
        )
        # Values at the boundary outlive their piece, because other gate rows continue from the same state.
        pinned = boundary if self.overwrite else everywhere
        after = [*self._alive, frozenset([self.program.output])]
        self.stem = self._piece(layout.joins[0], after[0], pinned)
        self.shortcuts = [
            None if cut.shortcut is cut.entry else self._piece(nodes, frozenset([cut.shortcut]), pinned)
            for cut, nodes in zip(cuts, layout.shortcuts, strict=True)
        ]
        self.branches = [
            self._piece(nodes, frozenset(cut.branch), pinned) for cut, nodes in zip(cuts, layout.branches, strict=True)
        ]
        joins = list(zip(layout.joins[1:], after[1:], cuts, strict=False))
        self.joins = [self._piece(nodes, gives, pinned) for nodes, gives, _ in joins]
        self.fresh_joins = self.joins
        self.branch_first = [cut.add.args[0] is cut.branch[0] for cut in cuts]
        self.branch_watchers: list[Watchers | None] = [None for _ in cuts]
        if self.overwrite:
            self.fresh_joins = [self._piece(nodes, gives, pinned - {cut.add}) for nodes, gives, cut in joins]
            self.branch_watchers = [
                watchers(cut.branch[0], self.program, pinned - {cut.branch[0]})
                if len(cut.branch) == 1 and cut.branch[0] in layout.branches[index]
                else None
                for index, cut in enumerate(cuts)
            ]

    def _piece(self, nodes: list[fx.Node], gives: frozenset[fx.Node], pinned: frozenset[fx.Node]) -> Piece:
        return Piece.of(self._with_constants(nodes, gives), self.program, pinned, gives)

    def _with_constants(self, nodes: list[fx.Node], gives: frozenset[fx.Node]) -> list[fx.Node]:
        read = {source for node in nodes for source in node.all_input_nodes} | gives
        constants = read & self._constants
        if not constants:
            return nodes
        return sorted({*nodes, *ancestors(*constants)}, key=self.flow.order.__getitem__)

    @property
    def is_chain(self) -> bool:
        """Whether each block reads the one before it and nothing else, so that there are 2^n paths."""
        return self._reaches.is_chain()

    # blocks that a gate of 0 makes unnecessary

    def superfluous(self, gates: list[float]) -> list[bool]:
        """For each block, whether the output at these gates does not depend on its sum at all."""
        return self._reaches.unreached(gates)


class _Reaches:
    """Which sums are read directly by each way into a sum, and by the output: sets of blocks as bit masks."""

    def __init__(self, live: Liveness, cuts: list[Cut], output: fx.Node) -> None:
        index_of = {cut.add: index for index, cut in enumerate(cuts)}
        self._memo: dict[fx.Node, int] = {}
        for node in cuts[0].add.graph.nodes:
            if node in live.needed:
                index = index_of.get(node)
                masks = [self._memo[source] for source in live.inputs(node)] if index is None else []
                self._memo[node] = 0 if index is None else 1 << index
                for mask in masks:
                    self._memo[node] |= mask
        self.output = self._memo[output]
        self.shortcuts = [self._memo.get(cut.shortcut, 0) for cut in cuts]
        self.branches = [self._union(cut.branch) for cut in cuts]

    def _union(self, nodes: Iterable[fx.Node]) -> int:
        mask = 0
        for node in nodes:
            mask |= self._memo.get(node, 0)
        return mask

    def unreached(self, gates: list[float]) -> list[bool]:
        reached = self.output
        for index in reversed(range(len(gates))):
            if reached >> index & 1:
                reached |= self.shortcuts[index]
                if gates[index] != 0.0:
                    reached |= self.branches[index]
        return [not reached >> index & 1 for index in range(len(gates))]

    def is_chain(self) -> bool:
        """Whether each way into a sum, and the output, reads the sum before it alone."""
        before = [1 << index - 1 if index else 0 for index in range(len(self.shortcuts))]
        return self.shortcuts == self.branches == before and self.output == 1 << len(before) - 1

    def all_always(self) -> bool:
        return not any(self.unreached([0.0] * len(self.shortcuts)))


def _constants(program: Program) -> set[fx.Node]:
    """The nodes that depend on no input, not even on a shape."""
    constants: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node.op not in ("placeholder", "output") and all(s in constants for s in node.all_input_nodes):
            constants.add(node)
    return constants


def _checks_outside_blocks(program: Program, flow: DataFlow, cuts: list[Cut]) -> list[fx.Node]:
    """The checks of the input's values (`operations.same_answer`) outside all blocks, which every evaluation runs."""
    nodes = _all_checks(program, flow)
    if not nodes:
        return []
    inside = set().union(*(cut.branch_nodes | cut.shortcut_nodes | {cut.add} for cut in cuts))
    return [node for node in nodes if not ancestors(node) & inside]


def _all_checks(program: Program, flow: DataFlow) -> list[fx.Node]:
    return [node for node in program.graph.nodes if node.target is operations.same_answer and node in flow.carries]


def gated_sum(
    shortcut: torch.Tensor, branch: torch.Tensor, gate: Any, overwrite: bool = False, *, branch_first: bool = False
) -> torch.Tensor:
    """``shortcut + gate * branch``, exactly the plain sum at gate one; written into `branch` where allowed.

    With `branch_first` it is computed as ``gate * branch + shortcut``: the same numbers, but in the branch's memory
    layout, like the model's own sum. (The backward pass of torch 2.14's instance norm is wrong for one image and a
    gradient in another layout, so our own choice of layout would give wrong gradients where the model's are right.)
    """
    is_plain = not isinstance(gate, torch.Tensor) and gate == 1.0
    same_kind = branch.shape == shortcut.shape and branch.dtype == shortcut.dtype
    if overwrite and same_kind and not isinstance(gate, torch.Tensor):
        return (branch if is_plain else branch.mul_(gate)).add_(shortcut)
    scaled = branch if is_plain else gate * branch
    return scaled + shortcut if branch_first else shortcut + scaled
