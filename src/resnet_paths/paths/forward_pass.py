"""One recorded forward pass that serves all analyses: rows are pulled back through it, or pushed forward.

A record is one run of a network's program, node by node, that keeps the value of every vertex of the contracted graph
(`block_graph.py`) and of every term. At these values a term is a linear map from the vertices that it reads to the sum.
All analyses of paths are recursions that apply these maps to rows: backwards with ``pull``, the transpose, or forwards
with ``push``. Both stop at the vertices that the term reads *directly*, whatever operations lie between.

How does a pull stop there? In general, every vertex becomes a new autograd leaf once its value is computed; in a pass
that is linked throughout, the gradient with respect to an early sum would also contain what comes through later ones.
If every term reads only the vertex before it, as in a chain of blocks, there is nothing else to contain. Then the pass
stays linked, and the ordinary gradient, which checks the splits, costs one backward pass through the same record.
Otherwise that gradient takes a separate, uncut pass, so that the check does not share the cuts.

Why is there special code for chains? In the analyses that carry many rows, most of the time goes to blocks whose rows
come from one vertex and go to one vertex (``PathGraph.steps``), in chains and in other graphs. These have pulls that
write into given memory, or add to it while they convolve: taking sum, shortcut and branch a chunk at a time keeps rows
in the cache, and storing rows in the order in which convolutions read them saves a copy each. Term by term, the exact
split of ResNet-56 takes 1.45 times as long (8 images, one thread).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import fx

from ..choices import Linearisation
from ..graph.compile_node import Step, Values, step_of
from ..graph.pieces import Segments
from ..graph.preserve import preserved
from ..network import BlockRef, UnrolledNetwork
from ._objective import Loss, check_eval, scalar_loss
from ._piecewise import is_linear
from .block_graph import BRANCH, JOIN, Contraction, PathGraph, Term, contract, run_nodes, start_node
from .chain import HooksNoted, share_memory
from .frozen import Frozen, by_ratio, is_activation
from .pulling import Puller, gradients, reduced, row_zeros
from .pushing import push


class ForwardPass:
    """The values of one pass, and the terms of its contracted graph as linear maps.

    Args:
        net: the network, its model in eval mode.
        x: the model's input.
        contraction: the contracted graph and the nodes of its vertices.
        loss: a scalar function of the output; None: rows can only be pushed, and autograd records nothing.
        max_bytes: memory for the values of one batched pull; None chooses it automatically.
        linearise: the linear map of a curved operation in pushes (`frozen.py`); pulls take derivatives.

    Attributes:
        graph: the contracted graph.
        output: the network's output.
        seed: gradient of the loss with respect to the output (only with a loss).
    """

    def __init__(
        self,
        net: UnrolledNetwork,
        x: Any,
        contraction: Contraction,
        loss: Callable[[torch.Tensor], torch.Tensor] | None = None,
        max_bytes: int | None = None,
        linearise: Linearisation = "tangent",
    ) -> None:
        check_eval(net)
        self._linearise = linearise
        self.net, self.graph = net, contraction.graph
        self._plan, self._input = net.segments, x
        self._nodes, self._live = contraction.nodes, contraction.live
        self._position = {node: position for position, node in enumerate(self._nodes[:-1])}
        self._starts = frozenset(self._nodes[position] for position in self.graph.starts)
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

    # running the pass

    def _history(self) -> Collection[fx.Node]:
        """The nodes whose operations autograd records."""
        if not self._differentiates:
            return ()
        return self._steps if self._everything else self._live

    def _kept(self) -> set[fx.Node]:
        """The nodes needed after the pass: vertices, and what terms read besides them (sizes, masks, constants)."""
        reads = _reads(self._plan, self._steps)
        beside = {source for node in self._live for source in reads.get(node, ()) if source not in self._live}
        return {*self._position, *beside}

    def _keep(self, node: fx.Node, value: Any, terms: Sequence[torch.Tensor] = ()) -> Any:
        """Record a node's value (and a sum's shortcut and branch); return the value that later nodes read."""
        position = self._position.get(node)
        if position is not None:
            for term, part in zip(self.graph.vertices[position].terms, terms or (value,), strict=False):
                self._terms[position, term.kind] = part
            if self._differentiates and isinstance(value, torch.Tensor):
                value = self._vertex(node, value)
        if node is self._nodes[-1]:
            self._terms[len(self.graph.vertices) - 1, JOIN] = value
        return value

    def _vertex(self, node: fx.Node, value: torch.Tensor) -> torch.Tensor:
        if node in self._starts and not value.is_floating_point():
            raise ValueError(
                "expected an input with a floating-point tensor, for a gradient to exist, got none; request the "
                "gradient at a block's entry (at=0)"
            )
        if not self._linked or node in self._starts:
            return _leaf(value) if value.is_floating_point() else value
        if not value.requires_grad:
            raise ValueError(
                f"expected {self._name(self._position[node])} to be differentiable, got a value without gradient; "
                "remove detach() or no_grad from the model, or request the gradient at a later block's entry"
            )
        return value

    # contents

    @property
    def n(self) -> int:
        """The number of blocks on paths."""
        return self.graph.n

    @property
    def counted_names(self) -> tuple[str, ...]:
        """The names of the blocks whose branches count towards the length."""
        counted = self.graph.blocks if self.graph.counted is None else self.graph.counted
        return tuple(self.net[index].name for index in sorted(counted))

    @property
    def start(self) -> torch.Tensor:
        """The value at which paths start."""
        return self.value(self.graph.starts[0])

    @property
    def vjps(self) -> Mapping[str, int]:
        """The number of rows pulled back, by kind of term."""
        return dict(self._puller.vjps)

    @property
    def looped(self) -> Mapping[str, str]:
        """Terms whose rows were pulled back one by one because an operation has no batching rule, with the reason."""
        return dict(self._puller.looped)

    def position(self, node: fx.Node) -> int | None:
        """The position of the vertex of a node; None if it has none."""
        return self._position.get(node)

    def value(self, position: int) -> torch.Tensor:
        """The value of a vertex."""
        value: torch.Tensor = self.output if position == len(self._nodes) - 1 else self._values[self._nodes[position]]
        return value

    def term(self, position: int, term: Term) -> torch.Tensor:
        """The value of a term."""
        return self._terms[position, term.kind]

    def is_curved(self, position: int, term: Term) -> bool:
        """Whether a term contains an operation that is not piecewise linear."""
        inside = self._inside(position, term)
        return not all(is_linear(node, self.net, self._live, self._linearise) for node in inside)

    def _name(self, position: int) -> str:
        """The name of a vertex for messages."""
        vertex = self.graph.vertices[position]
        sources = {source for term in vertex.terms for source in term.sources}
        blocks = [self.graph.vertices[source].block for source in sources]
        block = blocks[0] if vertex.block is None and len(blocks) == 1 else vertex.block
        return "the path to an entry or the output" if block is None else self.net[block].name

    # pulling rows of cotangents, (rows, batch, ...), back through one term

    def chunks(self, rows: int, *positions: int) -> list[slice]:
        """Slices of the rows at some vertices for one batched pull each, the last rows first."""
        return self._puller.chunks(rows, *(self.value(position) for position in positions))

    def pull(
        self, position: int, term: Term, rows: torch.Tensor, parameters: Sequence[torch.Tensor] = ()
    ) -> tuple[list[tuple[int, torch.Tensor]], list[torch.Tensor]]:
        """Pull rows at a vertex through one of its terms to each of the term's sources (and to parameters).

        Sources that receive no gradient in this pass are left out.
        """
        value = self.term(position, term)
        sources = [source for source in term.sources if self.value(source).requires_grad]
        inputs = [self.value(source) for source in sources]
        if len(inputs) == 1 and value is inputs[0] and not parameters:
            return [(sources[0], reduced(rows, value))], []
        if not value.requires_grad or not (inputs or parameters):
            return [], []
        self._puller.vjps[term.kind] += len(rows)
        piece = f"{self._name(position)}: {term.kind}"
        gathered: list[list[torch.Tensor]] = []
        for part in reversed(self._puller.chunks(len(rows), value, *inputs)):
            gathered.append(self._puller.pull(piece, value, [*inputs, *parameters], reduced(rows[part], value)))
        pulled = [parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*gathered, strict=True)]
        return list(zip(sources, pulled, strict=False)), pulled[len(sources) :]

    def pull_to_source(
        self, position: int, term: Term, rows: torch.Tensor, into: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Pull rows through a term with one source; if the term is just a ReLU, the result may be written to `into`."""
        value, source = self.term(position, term), self.value(term.sources[0])
        if into is not None and value is not source and into.shape == rows.shape and rows.dtype is value.dtype:
            chain = self._puller.chain(value, source)
            if chain is not None and chain.mask is not None:
                self._puller.vjps[term.kind] += len(rows)
                mask = chain.mask.expand_as(rows)
                passed: torch.Tensor = torch.ops.aten.threshold_backward.grad_input(rows, mask, 0, grad_input=into)
                return passed
        pulled, _ = self.pull(position, term, rows)
        return pulled[0][1] if pulled else row_zeros(rows, source)

    def add_pulled(self, position: int, term: Term, rows: torch.Tensor, onto: torch.Tensor) -> None:
        """Pull rows through a term with one source and add them to `onto`, which may share memory with `rows`."""
        value, source = self.term(position, term), self.value(term.sources[0])
        chain = self._puller.chain(value, source)
        if chain is None or not chain.stored_channels_last or rows.shape[1:] != value.shape:
            arrived = self.pull_to_source(position, term, rows)
            onto += arrived.clone() if share_memory(arrived, onto) else arrived
            return
        self._puller.vjps[term.kind] += len(rows)
        chain.pull(rows, onto)

    def row_strides(self, position: int, term: Term) -> tuple[int, ...]:
        """The strides of a row at a term's only source with which it is pulled back fastest."""
        value, source = self.term(position, term), self.value(term.sources[0])
        chain = self._puller.chain(value, source)
        kept = source.is_contiguous() or (source.ndim == 4 and source.is_contiguous(memory_format=torch.channels_last))
        if chain is not None and chain.stored_channels_last:
            return torch.empty(source.shape, device="meta", memory_format=torch.channels_last).stride()
        return source.stride() if kept else torch.empty(source.shape, device="meta").stride()

    def parameters(self, position: int, term: Term) -> list[torch.Tensor]:
        """The leaves that a term depends on: parameters, and its sources."""
        return _leaves(self.term(position, term))

    def ordinary_gradient(self, parameters: Sequence[torch.Tensor] | None = None) -> list[torch.Tensor]:
        """The ordinary gradient with respect to the start, or to parameters, from one uncut backward pass."""
        if self._linked and parameters is None:
            return _gradients_or_zeros(self.output, [self.start], self.seed)
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
        return _gradients_or_zeros(outputs[0], starts if parameters is None else list(parameters), self.seed)

    # pushing rows of tangents forward through one term

    def push(self, position: int, term: Term, rows: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """Push rows (rows, batch, ...), as many at each source of a term, to the term; None if it has no sources."""
        if not term.sources:
            return None
        ends, inside = self._ends(position, term), self._inside(position, term)
        sources = [self._nodes[source] for source in term.sources]
        if not inside and list(ends) == sources:
            return rows[0]
        if not len(rows[0]):
            return row_zeros(rows[0], self.term(position, term))
        activations = {node for node in inside if self._linearise == "frozen" and is_activation(node, self.net.model)}

        def function(*given: torch.Tensor) -> torch.Tensor:
            values: Values = dict(zip(sources, given, strict=True))
            with Frozen() if self._linearise == "frozen" else nullcontext():
                for node in inside:
                    for read in node.all_input_nodes:
                        values.setdefault(read, self._values.get(read))
                    values[node] = self._steps[node](values)  # type: ignore[operator]
                    if node in activations:
                        values[node] = by_ratio(values[node.all_input_nodes[0]], values[node])
            for end in ends:
                values.setdefault(end, self._values.get(end))
            return _summed(values, ends)

        return push(function, tuple(self.value(source).detach() for source in term.sources), tuple(rows))

    def _ends(self, position: int, term: Term) -> tuple[fx.Node, ...]:
        """The nodes that add up to a term."""
        block = self.graph.vertices[position].block
        if term.kind == JOIN or block is None:
            return (self._nodes[position],)
        cut = self._plan.cuts[block]
        return cut.branch if term.kind == BRANCH else (cut.shortcut,)

    def _inside(self, position: int, term: Term) -> list[fx.Node]:
        """The nodes between a term and its sources, in order."""
        term_node = self._nodes[position] if term.kind == JOIN and position + 1 < len(self._nodes) else None
        reached: set[fx.Node] = set()
        todo = list(self._ends(position, term))
        while todo:
            node = todo.pop()
            stops = node in self._position and node is not term_node
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
    """A record for pulling rows back to the input, or to a block's entry.

    Args:
        net: the network.
        x: the model's input.
        target: the loss's target.
        loss: the loss.
        at: ``"input"``, or a block at whose entry paths start.
        max_bytes: memory for the values of one batched pull.
        finer: whether the blocks' entries become vertices even if paths are then finer than in the definition; in a
            chain, whose paths are the same either way, they always are.
        counted: the blocks whose branches count towards the length; None: all.

    Raises:
        ValueError: no gradient flows from the output to the start of the paths.
    """
    start = start_node(net.segments, None if at == "input" else net.index(at))
    contraction = contract(net.segments, [start], counted=counted)
    if finer or contraction.graph.is_chain:
        entries = [cut.entry for cut in net.segments.cuts]
        contraction = contract(net.segments, [start], through=entries, counted=counted)
    if not contraction.graph.starts:
        where = "the input" if at == "input" else f"the entry of {net[net.index(at)].name}"
        raise ValueError(
            f"expected a path along which gradients flow from the output to {where}, got none; remove detach() or "
            "no_grad from the model, or request the gradient at a later block's entry (at=0 leaves out the stem)"
        )
    _check_counted(net, contraction.graph)
    return ForwardPass(net, x, contraction, lambda output: scalar_loss(output, x, target, loss), max_bytes)


def pass_of_parameters(
    net: UnrolledNetwork, x: Any, target: Any, loss: Loss, max_bytes: int | None, counted: frozenset[int] | None
) -> ForwardPass:
    """A record for pulling rows back to parameters, including those that no path to an input passes."""
    entries = [cut.entry for cut in net.segments.cuts]
    contraction = contract(net.segments, [], through=entries, everything=True, counted=counted)
    _check_counted(net, contraction.graph)
    return ForwardPass(net, x, contraction, lambda output: scalar_loss(output, x, target, loss), max_bytes)


def _check_counted(net: UnrolledNetwork, graph: PathGraph) -> None:
    """Check that the counted blocks lie on paths."""
    off_path = sorted((graph.counted or frozenset()) - set(graph.blocks))
    if off_path and graph.blocks == tuple(range(len(net) - graph.n, len(net))):
        raise ValueError(
            f"expected blocks from {min(graph.blocks)} on, where the gradient is taken, got block {off_path[0]}"
        )
    if off_path:
        raise ValueError(
            f"expected blocks on paths from the output to where the gradient is taken, got {net[off_path[0]].name}, "
            "which is on none"
        )


def pass_of_values(net: UnrolledNetwork, x: Any, linearise: Linearisation = "tangent") -> ForwardPass:
    """A record for pushing: paths start at all values from the stem, and the blocks' entries are vertices too."""
    plan = net.segments
    with preserved(net.model), torch.no_grad():
        state = net.stem(x)
    stem_values = {plan.cuts[0].entry: state.value, **state.side}
    starts = [node for node, value in stem_values.items() if node in plan.flow.carries and _floats(value)]
    contraction = contract(plan, starts, through=[cut.entry for cut in plan.cuts])
    return ForwardPass(net, x, contraction, linearise=linearise)


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
    """Run a network's program node by node; later nodes read the value that `keep` returns for a node.

    Args:
        net: the network.
        x: the model's input.
        steps: how to compute each node.
        keep: called with each node and its value, for a sum also with its shortcut and its branch.
        kept: the nodes whose values are returned; others are freed after their last reader.
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
    """How to compute each node without overwriting any; a sum is given by its block's index."""
    index_of = {cut.add: index for index, cut in enumerate(plan.cuts)}
    everywhere = frozenset(plan.program.graph.nodes)
    for node in run_nodes(plan):
        if node in index_of:
            yield node, index_of[node]
        elif node.op != "placeholder":
            yield node, step_of(node, plan.program, everywhere)


def _reads(plan: Segments, steps: Mapping[fx.Node, Step | int]) -> dict[fx.Node, Sequence[fx.Node]]:
    """The arguments of each node; those of a sum are its shortcut and branches."""
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


def _gradients_or_zeros(output: torch.Tensor, inputs: list[torch.Tensor], seed: torch.Tensor) -> list[torch.Tensor]:
    """The gradients with respect to the inputs, zero for an input that receives none."""
    if not output.requires_grad:
        return [torch.zeros_like(value) for value in inputs]
    pulled = gradients(output, inputs, seed)
    return [torch.zeros_like(value) if grad is None else grad for grad, value in zip(pulled, inputs, strict=True)]


def _leaf(value: torch.Tensor) -> torch.Tensor:
    """A value without history, at which pulls end; inference tensors are cloned so that autograd can save them."""
    return (value.clone() if value.is_inference() else value).detach().requires_grad_()


def _leaves(output: torch.Tensor) -> list[torch.Tensor]:
    """The leaves that a value depends on."""
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
