"""One forward pass through a graph of blocks, recorded so that gradients can be pulled back edge by edge.

Every vertex of the contracted graph (see `block_graph.py`) becomes an autograd leaf of its own when its value has been
computed. So the gradient of a term with respect to these leaves stops at the sums that the term reads *directly*: one
call of autograd gives all edges of a term, whatever operations lie between. (In a pass that is linked all through, the
gradient with respect to an early sum would hold what comes through later ones.) A chain needs none of this, since each
of its pieces reads one value: `_tape.py` follows it entry by entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import fx

from ..graph.compile_node import Step, Values, step_of
from ..graph.pieces import Segments
from ..graph.preserve import preserved
from ..network import UnitRef, UnrolledNetwork
from ._chain import HooksNoted
from ._objective import Loss, check_eval, scalar_loss
from ._tape import Puller, Tape, parameters_between, reduced
from .block_graph import Contraction, Term, Vertex, contract, run_nodes, start_node


class GraphTape(Puller):
    """A recorded pass from the start of a contracted graph to the loss.

    Args:
        net: the network, its model in eval mode.
        x: the model's input.
        target: what the loss takes.
        contraction: the graph, its vertices and their nodes.
        loss: the loss.
        max_bytes: memory for the values of one batched product.

    Attributes:
        graph: the contracted graph.
        leaves: the value of each vertex, a leaf (None: the output, and what is no floating tensor).
        output: the network's output.
        seed: gradient of the loss with respect to the output.
    """

    def __init__(
        self,
        net: UnrolledNetwork,
        x: Any,
        target: Any,
        contraction: Contraction,
        loss: Loss = "cross_entropy",
        max_bytes: int | None = None,
    ) -> None:
        super().__init__(max_bytes)
        check_eval(net)
        self.net, self.graph = net, contraction.graph
        self._input, self._target, self._loss = x, target, loss
        self._places = {node: place for place, node in enumerate(contraction.nodes[:-1])}
        self._starts = {contraction.nodes[place] for place in self.graph.starts}
        recording = _Recording(net.segments, contraction)
        with torch.enable_grad(), preserved(net.model), HooksNoted() as hooks:
            evaluate(net, x, recording.mark)
            leaf = recording.output.detach().requires_grad_()
            (self.seed,) = torch.autograd.grad(scalar_loss(leaf, target, loss), leaf)
        self._hooked = hooks.any
        self.output, self.leaves, self._terms = recording.output, recording.leaves, recording.terms
        if any(self.leaves[place] is None for place in self.graph.starts):
            raise ValueError(
                "expected an input with a floating tensor, with respect to which a gradient exists, got none; ask "
                "for the gradient at a unit's entry (wrt=0)"
            )

    def place(self, node: fx.Node) -> int | None:
        """The vertex that stands for a node."""
        return self._places.get(node)

    @property
    def n(self) -> int:
        """The number of blocks that paths choose among."""
        return self.graph.n

    @property
    def start(self) -> torch.Tensor:
        """The value at which paths begin."""
        return self.leaf(self.graph.starts[0])

    def leaf(self, place: int) -> torch.Tensor:
        """The value of a vertex."""
        value = self.leaves[place]
        assert value is not None
        return value

    def name(self, vertex: Vertex, term: Term) -> str:
        """What messages call a term."""
        owner = "what leads to an entry or the output" if vertex.block is None else self.net[vertex.block].name
        return f"{owner}: {term.kind}"

    def through(
        self, place: int, term: Term, rows: torch.Tensor, parameters: Sequence[torch.Tensor] = ()
    ) -> tuple[list[tuple[int, torch.Tensor]], list[torch.Tensor]]:
        """Rows at a vertex, by one of its terms, as rows at each of the term's sources (and at parameters).

        Sources from which no gradient comes in this pass are left out.
        """
        value = self._terms[place, term.kind]
        sources = [source for source in term.sources if self.leaves[source] is not None]
        inputs = [self.leaf(source) for source in sources]
        if len(inputs) == 1 and value is inputs[0] and not parameters:
            return [(sources[0], reduced(rows, value))], []
        if not value.requires_grad or not (inputs or parameters):
            return [], []
        self.vjps[term.kind] += len(rows)
        piece = self.name(self.graph.vertices[place], term)
        gathered: list[list[torch.Tensor]] = []
        for part in reversed(self.chunks(len(rows), value, *inputs)):
            gathered.append(self.pull(piece, value, [*inputs, *parameters], reduced(rows[part], value)))
        pulled = [parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*gathered, strict=True)]
        return list(zip(sources, pulled, strict=False)), pulled[len(sources) :]

    def inner(self, place: int, term: Term) -> list[torch.Tensor]:
        """The leaves on which a term depends: its sources, and parameters."""
        return parameters_between(self._terms[place, term.kind])

    def ordinary_gradient(self, wanted: Sequence[torch.Tensor] | None = None) -> list[torch.Tensor]:
        """The ordinary gradient with respect to the start, or to parameters: one more pass, not cut at the sums."""
        leaves: list[torch.Tensor] = []
        outputs: list[torch.Tensor] = []
        output = self.net.segments.program.output

        def mark(node: fx.Node, value: Any, _: Sequence[torch.Tensor] = ()) -> Any:
            if node in self._starts and wanted is None:
                value = value.detach().requires_grad_()
                leaves.append(value)
            if node is output:
                outputs.append(value)
            return value

        with torch.enable_grad(), preserved(self.net.model):
            evaluate(self.net, self._input, mark)
            loss = scalar_loss(outputs[0], self._target, self._loss)
            inputs = leaves if wanted is None else list(wanted)
            gradients: tuple[torch.Tensor, ...] = torch.autograd.grad(
                loss, inputs, allow_unused=True, materialize_grads=True
            )
            return list(gradients)


def open_tape(
    net: UnrolledNetwork, x: Any, target: Any, loss: Loss, wrt: UnitRef, max_bytes: int | None
) -> Tape | GraphTape:
    """The record of a pass for single paths: entry by entry along a chain, else cut at the sums alone.

    Args:
        net: the network.
        x: the model's input.
        target: what the loss takes.
        loss: the loss.
        wrt: ``"input"``, or a unit at whose entry paths begin.
        max_bytes: memory for the values of one batched product.
    """
    from_unit = None if wrt == "input" else net.index(wrt)
    contraction = contract(net.segments, [start_node(net.segments, from_unit)])
    if contraction.is_chain:
        return Tape(net, x, target, loss, from_unit, max_bytes)
    return GraphTape(net, x, target, contraction, loss, max_bytes)


class _Recording:
    """Notes terms and vertices while a pass runs, and hands on leaves in place of the vertices' values."""

    def __init__(self, plan: Segments, contraction: Contraction) -> None:
        self.plan, self.graph = plan, contraction.graph
        self._place = {node: place for place, node in enumerate(contraction.nodes[:-1])}
        self.leaves: list[torch.Tensor | None] = [None] * len(contraction.nodes)
        self.terms: dict[tuple[int, str], torch.Tensor] = {}

    def mark(self, node: fx.Node, value: Any, terms: Sequence[torch.Tensor] = ()) -> Any:
        """Called with each node's value (and a sum's shortcut and branch); gives what later nodes are to read."""
        place = self._place.get(node)
        if place is not None:
            vertex = self.graph.vertices[place]
            noted = terms or (value,)
            for term, part in zip(vertex.terms, noted, strict=False):
                self.terms[place, term.kind] = part
            if isinstance(value, torch.Tensor):
                value = _plain(value)
                if value.is_floating_point():
                    value = self.leaves[place] = value.requires_grad_()
        elif terms:
            value = _plain(value)  # a sum that no path passes
        if node is self.plan.program.output:
            last = len(self.graph.vertices) - 1
            self.output = self.terms[last, "join"] = value
        return value


def _plain(value: torch.Tensor) -> torch.Tensor:
    """A value without history, and one that autograd can keep."""
    return (value.clone() if value.is_inference() else value).detach()


def evaluate(net: UnrolledNetwork, x: Any, mark: Callable[..., Any]) -> Values:
    """Run a network's whole program node by node; what `mark` gives for a node is what later nodes read.

    For a sum `mark` is also given its shortcut and its branch.
    """
    plan, inputs = net.bind(x)
    if net.front_end == "record":
        with torch.no_grad():
            net.stem(x)  # refuses inputs for which the recording does not hold
    values: Values = {}
    for node, value in inputs.items():
        values[node] = mark(node, value)
    for node, step in steps(plan):
        if isinstance(step, int):
            cut = plan.cuts[step]
            shortcut, branch = values[cut.shortcut], values[cut.branch[0]]
            for other in cut.branch[1:]:
                branch = branch + values[other]
            values[node] = mark(node, shortcut + branch, (shortcut, branch))
        else:
            values[node] = mark(node, step(values))
    return values


def steps(plan: Segments) -> Iterable[tuple[fx.Node, Step | int]]:
    """How to compute each node, nothing overwritten; a sum by its block's index."""
    index_of = {cut.add: index for index, cut in enumerate(plan.cuts)}
    everywhere = frozenset(plan.program.graph.nodes)
    for node in run_nodes(plan):
        if node in index_of:
            yield node, index_of[node]
        elif node.op != "placeholder":
            yield node, step_of(node, plan.program, everywhere)
