"""One forward pass through a graph of blocks, kept so that rows can be pushed forward along its edges.

The counterpart of `_graph_tape.py`: a term is a function of the vertices that it reads, evaluated from its own nodes at
their recorded values. Paths start at all values that the stem makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..graph.compile_node import Values
from ..network import UnrolledNetwork
from ._frozen import push_together
from ._graph_tape import evaluate, steps
from ._objective import check_eval
from ._piecewise import is_piecewise_linear
from .block_graph import BRANCH, JOIN, PathGraph, Term, contract


class FrozenGraph:
    """The activations of one pass, and the terms of its contracted graph as functions.

    Attributes:
        graph: the contracted graph, from what the stem makes.
        output: the network's output.
    """

    def __init__(self, net: UnrolledNetwork, x: Any) -> None:
        check_eval(net)
        plan = self.plan = net.segments
        self.net = net
        self._branches: Values = {}
        with torch.no_grad():
            self._values = evaluate(net, x, self._note)
        made = {plan.cuts[0].entry, *plan.carried[0]} & plan.flow.carries
        starts = [node for node in made if _floats(self._values[node])]
        contraction = contract(plan, starts, through=[cut.entry for cut in plan.cuts])
        self.graph: PathGraph = contraction.graph
        self._nodes, self._live = contraction.nodes, contraction.live
        self._place = {node: place for place, node in enumerate(self._nodes[:-1])}
        self._steps = dict(steps(plan))
        self.output: torch.Tensor = self._values[plan.program.output]

    def _note(self, node: fx.Node, value: Any, terms: Sequence[torch.Tensor] = ()) -> Any:
        if terms:
            self._branches[node] = terms[1]
        return value

    def value(self, place: int) -> torch.Tensor:
        """The value of a vertex."""
        value: torch.Tensor = self._values[self._nodes[place]]
        return value

    def term_value(self, place: int, term: Term) -> torch.Tensor:
        """The value of a term."""
        node = self._nodes[place]
        if term.kind == BRANCH:
            branch: torch.Tensor = self._branches[node]
            return branch
        value: torch.Tensor = self._values[self._ends(place, term)[0]]
        return value

    def is_curved(self, place: int, term: Term) -> bool:
        """Whether a term holds an operation that is not piecewise linear."""
        inside = self._inside(place, term)
        return not all(is_piecewise_linear(node, self.net, self._live) for node in inside)

    def push(self, place: int, term: Term, rows: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """Rows (rows, batch, ...) at each source of a term, as many at each, as rows at the term; None: no sources."""
        if not term.sources:
            return None
        ends, inside = self._ends(place, term), self._inside(place, term)
        sources = [self._nodes[source] for source in term.sources]
        if not inside and list(ends) == sources:
            return rows[0]

        def function(*given: torch.Tensor) -> torch.Tensor:
            values: Values = dict(zip(sources, given, strict=True))
            for node in inside:
                for read in node.all_input_nodes:
                    values.setdefault(read, self._values.get(read))
                values[node] = self._steps[node](values)  # type: ignore[operator]
            for end in ends:
                values.setdefault(end, self._values.get(end))
            total: torch.Tensor = values[ends[0]]
            for end in ends[1:]:
                total = total + values[end]
            return total

        return push_together(function, tuple(self.value(source) for source in term.sources), tuple(rows))

    def _ends(self, place: int, term: Term) -> tuple[fx.Node, ...]:
        node = self._nodes[place]
        if term.kind == JOIN:
            return (node,)
        block = self.graph.vertices[place].block
        assert block is not None
        cut = self.plan.cuts[block]
        return cut.branch if term.kind == BRANCH else (cut.shortcut,)

    def _inside(self, place: int, term: Term) -> list[fx.Node]:
        """The nodes between a term and its sources, in order."""
        own = self._nodes[place] if term.kind == JOIN and place + 1 < len(self._nodes) else None
        reached: set[fx.Node] = set()
        todo = list(self._ends(place, term))
        while todo:
            node = todo.pop()
            stops = node in self._place and node is not own
            if node not in reached and node in self._live and not stops:
                reached.add(node)
                todo.extend(node.all_input_nodes)
        return [node for node in self._steps if node in reached]


def _floats(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()
