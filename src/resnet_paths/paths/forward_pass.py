"""One forward pass, recorded once for everything that is asked of it: rows pulled back, and rows pushed forward.

A record is one run of a network's program, node by node, and keeps the value of every vertex of the contracted graph
(`block_graph.py`) and of every term. A term is a linear map at these values, from the vertices that it reads to the
sum, and all analyses of paths are recursions that apply these maps to rows: backwards with ``pull``, its transpose, or
forwards with ``push``. Each stops at the vertices that the term reads *directly*, whatever operations lie between.

How a pull stops there. In general every vertex becomes an autograd leaf of its own when its value has been computed:
in a pass that is linked all through, the gradient with respect to an early sum would hold what comes through later
ones. Where every term reads the vertex before it alone, as in a chain of blocks, there is nothing else for it to hold.
There the pass stays linked, and the ordinary gradient, by which splits are checked, costs one backward pass through the
same record; elsewhere it takes a pass of its own, uncut, so that the check does not share the cuts.

Why chains are nevertheless quick. Of the analyses that carry many rows, most of the time goes to blocks whose rows
come from one vertex and go to one vertex (``PathGraph.steps``), in chains and in graphs. For these there are pulls that
write into memory given to them, or add onto it while they convolve: going through sum, shortcut and branch a chunk at a
time keeps rows in the cache, and storing them in the order that convolutions read saves a copy each. Term by term, the
exact split of ResNet-56 takes 1.45 times as long (8 images, one thread).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import fx

from ..graph.compile_node import Step, Values, step_of
from ..graph.pieces import Segments
from ..graph.preserve import preserved
from ..network import BlockRef, UnrolledNetwork
from ._objective import Loss, check_eval, scalar_loss
from ._piecewise import is_piecewise_linear
from .block_graph import BRANCH, JOIN, Contraction, PathGraph, Term, contract, run_nodes, start_node
from .chain import HooksNoted, share_memory
from .pulling import Puller, gradients, reduced, row_zeros
from .pushing import push


class ForwardPass:
    """The values of one pass, and the terms of its contracted graph as linear maps.

    Args:
        net: the network, its model in eval mode.
        x: the model's input.
        contraction: the graph, its vertices and their nodes.
        loss: a scalar function of the output; None: rows can only be pushed, and autograd keeps nothing.
        max_bytes: memory for the values of one batched pull; None chooses it.

    Attributes:
        graph: the contracted graph.
        output: the network's output.
        seed: gradient of the loss with respect to the output (with a loss).
    """

    def __init__(
        self,
        net: UnrolledNetwork,
        x: Any,
        contraction: Contraction,
        loss: Callable[[torch.Tensor], torch.Tensor] | None = None,
        max_bytes: int | None = None,
    ) -> None:
        check_eval(net)
        self.net, self.graph = net, contraction.graph
        self._plan, self._input = net.segments, x
        self._nodes, self._live = contraction.nodes, contraction.live
        self._place = {node: place for place, node in enumerate(self._nodes[:-1])}
        self._starts = frozenset(self._nodes[place] for place in self.graph.starts)
        self._differentiates, self._linked = loss is not None, self.graph.is_chain
        self._everything = contraction.everything
        self._steps = dict(_steps(self._plan))
        self._terms: dict[tuple[int, str], torch.Tensor] = {}
        with preserved(net.model), HooksNoted() if self._differentiates else nullcontext() as hooks:
            self._values = evaluate(net, x, self._steps, self._keep, self._kept(), self._history())
        self.output: torch.Tensor = self._terms[len(self.graph.vertices) - 1, JOIN]
        self._puller = Puller(max_bytes, hooks is not None and hooks.any)
        if loss is not None:
            with torch.enable_grad():
                leaf = self.output.detach().requires_grad_()
                (seed,) = gradients(loss(leaf), [leaf], None)
            self.seed = torch.zeros_like(leaf) if seed is None else seed

    # while the pass runs

    def _history(self) -> Collection[fx.Node]:
        """The nodes whose values autograd is to follow."""
        if not self._differentiates:
            return ()
        return self._steps if self._everything else self._live

    def _kept(self) -> set[fx.Node]:
        """What is needed after the pass: vertices, and what pieces read from beside them (sizes, masks, constants)."""
        reads = _reads(self._plan, self._steps)
        beside = {source for node in self._live for source in reads.get(node, ()) if source not in self._live}
        return {*self._place, *beside}

    def _keep(self, node: fx.Node, value: Any, terms: Sequence[torch.Tensor] = ()) -> Any:
        """Note a node's value (and a sum's shortcut and branch); gives what later nodes are to read."""
        place = self._place.get(node)
        if place is not None:
            for term, part in zip(self.graph.vertices[place].terms, terms or (value,), strict=False):
                self._terms[place, term.kind] = part
            if self._differentiates and isinstance(value, torch.Tensor):
                value = self._vertex(node, value)
        if node is self._nodes[-1]:
            self._terms[len(self.graph.vertices) - 1, JOIN] = value
        return value

    def _vertex(self, node: fx.Node, value: torch.Tensor) -> torch.Tensor:
        if node in self._starts and not value.is_floating_point():
            raise ValueError(
                "expected an input with a floating tensor, with respect to which a gradient exists, got none; ask "
                "for the gradient at a block's entry (at=0)"
            )
        if not self._linked or node in self._starts:
            return _leaf(value) if value.is_floating_point() else value
        if not value.requires_grad:
            raise ValueError(
                f"expected {self._name(self._place[node])} to be differentiable, got a value without gradient; take "
                "out detach() or no_grad in the model, or ask for the gradient at a later block's entry"
            )
        return value

    # what it holds

    @property
    def n(self) -> int:
        """The number of blocks that paths choose among."""
        return self.graph.n

    @property
    def counted_names(self) -> tuple[str, ...]:
        """The names of the blocks whose branches count for the length."""
        counted = self.graph.blocks if self.graph.counted is None else self.graph.counted
        return tuple(self.net[index].name for index in sorted(counted))

    @property
    def start(self) -> torch.Tensor:
        """The value at which paths begin."""
        return self.value(self.graph.starts[0])

    @property
    def vjps(self) -> Mapping[str, int]:
        """How many rows were pulled back through which kind of term."""
        return dict(self._puller.vjps)

    @property
    def looped(self) -> Mapping[str, str]:
        """Terms whose rows were pulled back one by one for lack of a batching rule, with the reason."""
        return dict(self._puller.looped)

    def place(self, node: fx.Node) -> int | None:
        """The vertex that stands for a node."""
        return self._place.get(node)

    def value(self, place: int) -> torch.Tensor:
        """The value of a vertex."""
        value: torch.Tensor = self.output if place == len(self._nodes) - 1 else self._values[self._nodes[place]]
        return value

    def term(self, place: int, term: Term) -> torch.Tensor:
        """The value of a term."""
        return self._terms[place, term.kind]

    def is_curved(self, place: int, term: Term) -> bool:
        """Whether a term holds an operation that is not piecewise linear."""
        inside = self._inside(place, term)
        return not all(is_piecewise_linear(node, self.net, self._live) for node in inside)

    def _name(self, place: int) -> str:
        """What messages call a vertex's owner."""
        vertex = self.graph.vertices[place]
        sources = {source for term in vertex.terms for source in term.sources}
        blocks = [self.graph.vertices[source].block for source in sources]
        block = blocks[0] if vertex.block is None and len(blocks) == 1 else vertex.block
        return "what leads to an entry or the output" if block is None else self.net[block].name

    # rows of cotangents, (rows, batch, ...), back through one term

    def chunks(self, rows: int, *places: int) -> list[slice]:
        """Slices of rows at some vertices that one batched pull takes at a time, the last ones first."""
        return self._puller.chunks(rows, *(self.value(place) for place in places))

    def pull(
        self, place: int, term: Term, rows: torch.Tensor, parameters: Sequence[torch.Tensor] = ()
    ) -> tuple[list[tuple[int, torch.Tensor]], list[torch.Tensor]]:
        """Rows at a vertex, by one of its terms, as rows at each of the term's sources (and at parameters).

        Sources from which no gradient comes in this pass are left out.
        """
        value = self.term(place, term)
        sources = [source for source in term.sources if self.value(source).requires_grad]
        inputs = [self.value(source) for source in sources]
        if len(inputs) == 1 and value is inputs[0] and not parameters:
            return [(sources[0], reduced(rows, value))], []
        if not value.requires_grad or not (inputs or parameters):
            return [], []
        self._puller.vjps[term.kind] += len(rows)
        piece = f"{self._name(place)}: {term.kind}"
        gathered: list[list[torch.Tensor]] = []
        for part in reversed(self._puller.chunks(len(rows), value, *inputs)):
            gathered.append(self._puller.pull(piece, value, [*inputs, *parameters], reduced(rows[part], value)))
        pulled = [parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*gathered, strict=True)]
        return list(zip(sources, pulled, strict=False)), pulled[len(sources) :]

    def pull_to_source(
        self, place: int, term: Term, rows: torch.Tensor, into: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The same for a term of one source; where it is a ReLU alone, it may be written straight `into` a tensor."""
        value, source = self.term(place, term), self.value(term.sources[0])
        if into is not None and value is not source and into.shape == rows.shape and rows.dtype is value.dtype:
            chain = self._puller.chain(value, source)
            if chain is not None and chain.mask is not None:
                self._puller.vjps[term.kind] += len(rows)
                mask = chain.mask.expand_as(rows)
                passed: torch.Tensor = torch.ops.aten.threshold_backward.grad_input(rows, mask, 0, grad_input=into)
                return passed
        pulled, _ = self.pull(place, term, rows)
        return pulled[0][1] if pulled else row_zeros(rows, source)

    def add_pulled(self, place: int, term: Term, rows: torch.Tensor, onto: torch.Tensor) -> None:
        """Add them onto rows at the one source instead, which may lie where those at the vertex do."""
        value, source = self.term(place, term), self.value(term.sources[0])
        chain = self._puller.chain(value, source)
        if chain is None or not chain.stored_channels_last or rows.shape[1:] != value.shape:
            arrived = self.pull_to_source(place, term, rows)
            onto += arrived.clone() if share_memory(arrived, onto) else arrived
            return
        self._puller.vjps[term.kind] += len(rows)
        chain.pull(rows, onto)

    def row_strides(self, place: int, term: Term) -> tuple[int, ...]:
        """How to store a row at a term's one source so that it is pulled on soonest."""
        value, source = self.term(place, term), self.value(term.sources[0])
        chain = self._puller.chain(value, source)
        kept = source.is_contiguous() or (source.ndim == 4 and source.is_contiguous(memory_format=torch.channels_last))
        if chain is not None and chain.stored_channels_last:
            return torch.empty(source.shape, device="meta", memory_format=torch.channels_last).stride()
        return source.stride() if kept else torch.empty(source.shape, device="meta").stride()

    def parameters(self, place: int, term: Term) -> list[torch.Tensor]:
        """The leaves on which a term depends: parameters, and its sources."""
        return _leaves(self.term(place, term))

    def ordinary_gradient(self, parameters: Sequence[torch.Tensor] | None = None) -> list[torch.Tensor]:
        """The ordinary gradient with respect to the start, or to parameters, by one backward pass that nothing cuts."""
        if self._linked and parameters is None:
            return _whole(self.output, [self.start], self.seed)
        starts: list[torch.Tensor] = []
        outputs: list[torch.Tensor] = []

        def keep(node: fx.Node, value: Any, _: Sequence[torch.Tensor] = ()) -> Any:
            if node in self._starts and parameters is None:
                value = _leaf(value)
                starts.append(value)
            if node is self._nodes[-1]:
                outputs.append(value)
            return value

        with preserved(self.net.model):
            evaluate(self.net, self._input, self._steps, keep, (), self._history())
        return _whole(outputs[0], starts if parameters is None else list(parameters), self.seed)

    # rows of tangents forward through one term

    def push(self, place: int, term: Term, rows: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """Rows (rows, batch, ...) at each source of a term, as many at each, as rows at the term; None: no sources."""
        if not term.sources:
            return None
        ends, inside = self._ends(place, term), self._inside(place, term)
        sources = [self._nodes[source] for source in term.sources]
        if not inside and list(ends) == sources:
            return rows[0]
        if not len(rows[0]):
            return row_zeros(rows[0], self.term(place, term))

        def function(*given: torch.Tensor) -> torch.Tensor:
            values: Values = dict(zip(sources, given, strict=True))
            for node in inside:
                for read in node.all_input_nodes:
                    values.setdefault(read, self._values.get(read))
                values[node] = self._steps[node](values)  # type: ignore[operator]
            for end in ends:
                values.setdefault(end, self._values.get(end))
            return _summed(values, ends)

        return push(function, tuple(self.value(source).detach() for source in term.sources), tuple(rows))

    def _ends(self, place: int, term: Term) -> tuple[fx.Node, ...]:
        """The nodes whose sum a term is."""
        block = self.graph.vertices[place].block
        if term.kind == JOIN or block is None:
            return (self._nodes[place],)
        cut = self._plan.cuts[block]
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


def pass_to_start(
    net: UnrolledNetwork,
    x: Any,
    target: Any,
    loss: Loss,
    at: BlockRef,
    max_bytes: int | None,
    *,
    finer: bool = False,
    counted: frozenset[int] | None = None,
) -> ForwardPass:
    """A record from which rows are pulled back to the input, or to a block's entry.

    Args:
        net: the network.
        x: the model's input.
        target: what the loss takes.
        loss: the loss.
        at: ``"input"``, or a block at whose entry paths begin.
        max_bytes: memory for the values of one batched pull.
        finer: whether the blocks' entries are vertices too also where paths are then finer than the definition's; they
            are in any case where blocks are a chain, which has the same paths either way.
        counted: the blocks whose branches count for the length; None: all.

    Raises:
        ValueError: no gradient flows from the output to where paths begin.
    """
    start = start_node(net.segments, None if at == "input" else net.index(at))
    contraction = contract(net.segments, [start], counted=counted)
    if finer or contraction.graph.is_chain:
        entries = [cut.entry for cut in net.segments.cuts]
        contraction = contract(net.segments, [start], through=entries, counted=counted)
    if not contraction.graph.starts:
        where = "the input" if at == "input" else f"the entry of {net[net.index(at)].name}"
        raise ValueError(
            f"expected a path along which gradients flow from the output to {where}, got none; take out detach() or "
            "no_grad in the model, or ask for the gradient at a later block's entry (at=0 leaves out the stem)"
        )
    _check_counted(net, contraction.graph)
    return ForwardPass(net, x, contraction, lambda output: scalar_loss(output, target, loss), max_bytes)


def pass_of_parameters(
    net: UnrolledNetwork, x: Any, target: Any, loss: Loss, max_bytes: int | None, counted: frozenset[int] | None
) -> ForwardPass:
    """A record from which rows are pulled back to parameters, also to those from which no way leads to an input."""
    entries = [cut.entry for cut in net.segments.cuts]
    contraction = contract(net.segments, [], through=entries, everything=True, counted=counted)
    _check_counted(net, contraction.graph)
    return ForwardPass(net, x, contraction, lambda output: scalar_loss(output, target, loss), max_bytes)


def _check_counted(net: UnrolledNetwork, graph: PathGraph) -> None:
    """Refuse to count blocks that lie on no path."""
    apart = sorted((graph.counted or frozenset()) - set(graph.blocks))
    if apart and graph.blocks == tuple(range(len(net) - graph.n, len(net))):
        raise ValueError(
            f"expected blocks from {min(graph.blocks)} on, where the gradient is asked for, got block {apart[0]}, "
            "which comes before"
        )
    if apart:
        raise ValueError(
            f"expected blocks on paths from the output to where the gradient is asked for, got {net[apart[0]].name}, "
            "through which no path leads"
        )


def pass_of_values(net: UnrolledNetwork, x: Any) -> ForwardPass:
    """A record for pushes: paths start at all values that the stem makes, and pass the blocks' entries as vertices."""
    plan = net.segments
    with preserved(net.model), torch.no_grad():
        state = net.stem(x)
    made = {plan.cuts[0].entry: state.value, **state.side}
    starts = [node for node, value in made.items() if node in plan.flow.carries and _floats(value)]
    return ForwardPass(net, x, contract(plan, starts, through=[cut.entry for cut in plan.cuts]))


def _floats(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def evaluate(
    net: UnrolledNetwork,
    x: Any,
    steps: Mapping[fx.Node, Step | int],
    keep: Callable[..., Any],
    kept: Collection[fx.Node],
    history: Collection[fx.Node],
) -> Values:
    """Run a network's whole program node by node; what `keep` gives for a node is what later nodes read.

    Args:
        net: the network.
        x: the model's input.
        steps: how to compute each node.
        keep: called with each node and its value, for a sum also with its shortcut and its branch.
        kept: the nodes whose values are returned; others are let go after their last reader.
        history: the nodes whose operations autograd records.
    """
    plan, inputs = net.bind(x)
    last_reader = {source: node for node, read in _reads(plan, steps).items() for source in read if source not in kept}
    done: dict[fx.Node, list[fx.Node]] = {}
    for source, reader in last_reader.items():
        done.setdefault(reader, []).append(source)
    values: Values = {}
    for node, value in inputs.items():
        values[node] = keep(node, value)
    for node, step in steps.items():
        with torch.set_grad_enabled(node in history):
            if isinstance(step, int):
                cut = plan.cuts[step]
                shortcut, branch = values[cut.shortcut], _summed(values, cut.branch)
                values[node] = keep(node, shortcut + branch, (shortcut, branch))
            else:
                values[node] = keep(node, step(values))
        for old in done.get(node, ()):
            del values[old]
    return values


def _steps(plan: Segments) -> Iterable[tuple[fx.Node, Step | int]]:
    """How to compute each node, nothing overwritten; a sum by its block's index."""
    index_of = {cut.add: index for index, cut in enumerate(plan.cuts)}
    everywhere = frozenset(plan.program.graph.nodes)
    for node in run_nodes(plan):
        if node in index_of:
            yield node, index_of[node]
        elif node.op != "placeholder":
            yield node, step_of(node, plan.program, everywhere)


def _reads(plan: Segments, steps: Mapping[fx.Node, Step | int]) -> dict[fx.Node, Sequence[fx.Node]]:
    """For each node those from whose values it is computed, a sum as shortcut plus branch."""
    reads: dict[fx.Node, Sequence[fx.Node]] = {}
    for node, step in steps.items():
        cut = plan.cuts[step] if isinstance(step, int) else None
        reads[node] = node.all_input_nodes if cut is None else (cut.shortcut, *cut.branch)
    return reads


def _summed(values: Values, nodes: Sequence[fx.Node]) -> torch.Tensor:
    total: torch.Tensor = values[nodes[0]]
    for node in nodes[1:]:
        total = total + values[node]
    return total


def _whole(output: torch.Tensor, inputs: list[torch.Tensor], seed: torch.Tensor) -> list[torch.Tensor]:
    """The gradients with respect to some inputs, zeros where none comes."""
    if not output.requires_grad:
        return [torch.zeros_like(value) for value in inputs]
    pulled = gradients(output, inputs, seed)
    return [torch.zeros_like(value) if grad is None else grad for grad, value in zip(pulled, inputs, strict=True)]


def _leaf(value: torch.Tensor) -> torch.Tensor:
    """A value without history, at which pulls end, and one that autograd can keep."""
    return (value.clone() if value.is_inference() else value).detach().requires_grad_()


def _leaves(output: torch.Tensor) -> list[torch.Tensor]:
    """The leaves on which a value depends."""
    leaves: dict[int, torch.Tensor] = {}
    todo, seen = [_edge(output)], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves[id(node.variable)] = node.variable
        todo.extend(following for following, _ in node.next_functions)
    return list(leaves.values())


def _edge(value: torch.Tensor) -> Any:
    return torch.autograd.graph.get_gradient_edge(value).node if value.requires_grad else None
