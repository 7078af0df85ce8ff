"""Plain networks: a chain of layers, where those that preserve the shape can be deleted.

Veit et al. (2016) compare residual networks with VGG, and so do the lesion studies here. A plain layer is not a block:
it has no shortcut, and a gate interpolates between its input and its output. So this is a second, smaller network class
rather than a special case of `UnrolledNetwork`, with the part of that interface which lesions use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import fx, nn

from ..arguments import checked
from ..graph.blocks import Refusal
from ..graph.compile_node import Values
from ..graph.dataflow import DataFlow, ancestors
from ..graph.errors import NoBlocksError
from ..graph.inputs import bind
from ..graph.pieces import Piece
from ..graph.prefix_tree import shared_walk
from ..graph.preserve import preserved
from ..graph.program import Program, first_node
from ..graph.tracing import trace
from ..graph.wrappers import unwrap
from .block import Block, BlockRef, resolve, resolve_all
from .gate_rows import Evaluations

_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer that can be deleted: everything between two nodes that all data passes through."""

    name: str
    entry: fx.Node
    exit: fx.Node
    inside: frozenset[fx.Node]


@dataclass(frozen=True, eq=False)
class _Segment:
    """The graph up to a layer's end: what always runs, the layer itself, and the values to free after it."""

    before: Piece
    inside: Piece
    done: frozenset[fx.Node]
    layer: _Layer | None = None


class PlainNetwork:
    """A network without shortcuts as a chain of layers, evaluated at gates.

    ``y_i = (1 - g_i) y_{i-1} + g_i layer_i(y_{i-1})``: a gate of one keeps the layer; a gate of zero deletes it and
    passes its input on (Veit, Wilber and Belongie 2016, section 4.1, for VGG). Created by :func:`plain_layers`; the
    lesion studies accept it in place of an unrolled network.

    Attributes:
        model: the model itself, not a copy.
        refusals: layers that cannot be deleted, with the reason.
    """

    def __init__(self, model: nn.Module, program: Program, layers: list[_Layer], arguments: tuple[Any, ...]) -> None:
        self.model, self._arguments = model, arguments
        self.refusals: list[Refusal] = []
        self._program = program
        self._layers = layers
        self._segments = _segments(program, layers)
        self._blocks: tuple[Block, ...] = ()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The layers that can be deleted, input side first."""
        return self._blocks

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(self._blocks)

    def __getitem__(self, reference: BlockRef) -> Block:
        return self._blocks[resolve(self._blocks, reference)]

    def indices(self, references: Sequence[BlockRef] | BlockRef) -> list[int]:
        """The indices of several layers; each may be given once."""
        return resolve_all(self._blocks, references)

    def __repr__(self) -> str:
        lines = [f"{block.index:3d}  {block.name}  {block.entry_shape}" for block in self]
        return "\n".join([f"PlainNetwork: {type(self.model).__name__}, {len(self)} layers", *lines])

    def __reduce__(self) -> tuple[Any, ...]:
        return plain_layers, (self.model, *self._arguments)

    def __call__(self, x: Any, gates: torch.Tensor | Sequence[float] | None = None) -> torch.Tensor:
        """The output, for gates (n,) or, with a leading dimension m, for gates (m, n)."""
        rows = torch.ones(1, len(self), device="cpu") if gates is None else torch.as_tensor(gates, device="cpu")
        outputs = dict(self.iterate(x, rows if rows.ndim == 2 else rows[None]))
        stacked = torch.stack([outputs[row] for row in range(len(outputs))])
        return stacked if gates is not None and rows.ndim == 2 else stacked[0]

    def iterate(
        self, x: Any, gates: torch.Tensor, *, count: Evaluations | None = None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (row, output) for each row of gates (m, n); rows share the evaluation of common prefixes.

        Raises:
            ValueError: the gates have the wrong shape.
        """
        if gates.ndim != 2 or gates.shape[1] != len(self) or not len(gates):
            raise ValueError(f"expected gates of shape (m, {len(self)}), one per layer, got {tuple(gates.shape)}")
        count = Evaluations() if count is None else count
        count.stems += 1

        def step(values: Values, position: int, gate: float) -> Values:
            count.branches += gate != 0.0
            count.joins += 1
            return _run(self._segments[position], values, gate)

        for row, values in shared_walk(bind(_inputs(self._program), x), gates.tolist(), step):
            yield row, _run(self._segments[-1], values, 1.0)[self._program.output]


@checked
def plain_layers(model: nn.Module, example_input: Any, layers: Sequence[str] | None = None) -> PlainNetwork:
    """The layers of a plain network that can be deleted because they preserve the shape.

    A layer is a convolution or linear map that all data passes through, together with a norm that directly follows it;
    or, with `layers`, any module of the model (a group of several layers).

    Args:
        model: any module that can be traced, such as VGG or ``cifar_resnet(..., residual=False)``.
        example_input: an input, for the shapes.
        layers: qualified names of modules to delete as units, instead of single layers.

    Raises:
        NoBlocksError: no layer preserves the shape; the message lists them.
        TraceError: the model's operations could not be followed.
        ValueError: a name is not a module that all data passes through, or two of them overlap.

    Cost: one trace and one forward pass.

    Example:
        >>> import torch, torchvision
        >>> vgg = torchvision.models.vgg11(num_classes=10).eval()
        >>> net = plain_layers(vgg, torch.randn(1, 3, 32, 32))
        >>> [block.name for block in net]
        ['features.8', 'features.13', 'features.16', 'features.18', 'classifier.3']
        >>> x = torch.randn(2, 3, 32, 32)
        >>> torch.equal(net(x), vgg(x))
        True
    """
    model = unwrap(model)
    program = trace(model)
    flow = DataFlow(program)
    candidates = _weighted(program, flow) if layers is None else [_module(program, flow, name) for name in layers]
    shapes = _shapes(program, example_input)
    kept, refusals = [], []
    for layer in sorted(candidates, key=lambda layer: flow.order[layer.exit]):
        before, after = shapes[layer.entry], shapes[layer.exit]
        if before == after:
            kept.append(layer)
        else:
            reason = f"it changes the shape from {before} to {after}"
            refusals.append(Refusal(layer.name, layer.exit.name, reason))
    if not kept:
        listed = "\n  ".join(map(str, refusals)) or "it has no convolution or linear layer that all data passes through"
        raise NoBlocksError(
            f"expected a layer that preserves the shape, got none in {type(model).__name__}:\n  {listed}"
        )
    _check_no_overlap(kept)
    names = None if layers is None else list(layers)
    net = PlainNetwork(model, program, kept, (example_input, names))
    net.refusals = refusals
    net._blocks = tuple(_block(program, layer, index, shapes[layer.entry]) for index, layer in enumerate(kept))
    return net


def _block(program: Program, layer: _Layer, index: int, shape: tuple[int, ...]) -> Block:
    modules = {str(node.target) for node in layer.inside if node.op == "call_module"}
    parameters = {id(p): p.numel() for name in modules for p in program.model.get_submodule(name).parameters()}
    reason = "a layer of a plain network; delete it with a gate of 0"
    return Block(index, layer.name, layer.name, "none", "", sum(parameters.values()), shape, False, reason)


def _weighted(program: Program, flow: DataFlow) -> list[_Layer]:
    """Convolutions and linear maps that all data passes through, each with a norm that directly follows it."""
    chain = set(flow.chain(program.output))
    layers = []
    for node in program.graph.nodes:
        if node not in chain or not _calls_one_of(node, program, _WEIGHTED) or len(flow.sources(node)) != 1:
            continue
        after = next(iter(node.users)) if len(node.users) == 1 else node
        exit_node = after if _calls_one_of(after, program, _NORMS) else node
        (entry,) = flow.sources(node)
        layers.append(_Layer(str(node.target), entry, exit_node, frozenset({node, exit_node})))
    return layers


def _calls_one_of(node: fx.Node, program: Program, kinds: tuple[type, ...]) -> bool:
    return node.op == "call_module" and isinstance(program.model.get_submodule(str(node.target)), kinds)


def _module(program: Program, flow: DataFlow, name: str) -> _Layer:
    """A module named by the user as one layer."""
    calls = [call for call in program.root.walk() if call.path == name]
    chain = set(flow.chain(program.output))
    entry = first_node(calls[0].args) if len(calls) == 1 else None
    end = first_node(calls[0].output) if len(calls) == 1 else None
    leaf = [node for node in chain if node.op == "call_module" and str(node.target) == name]
    if entry is None and len(leaf) == 1:
        (end,) = leaf
        (entry,) = flow.sources(end)[:1]
    if entry not in chain or end not in chain or entry is None or end is None:
        raise ValueError(f"expected the name of a module that runs once and that all data passes through, got {name!r}")
    inside = flow.between(entry, end)
    outside = [node for node in inside - {end} if not set(node.users) <= inside]
    if outside:
        raise ValueError(f"expected a module whose inner values nothing else reads, got {name!r}")
    return _Layer(name, entry, end, frozenset(inside))


def _check_no_overlap(layers: list[_Layer]) -> None:
    for one, other in pairwise(layers):
        if one.inside & other.inside:
            raise ValueError(f"expected layers that do not overlap, got {one.name!r} and {other.name!r}")


def _segments(program: Program, layers: list[_Layer]) -> list[_Segment]:
    """The program in order, cut after each layer; nothing is overwritten, so that rows can share values."""
    needed = ancestors(program.output)
    nodes = [node for node in program.graph.nodes if node in needed and node.op not in ("placeholder", "output")]
    pinned = frozenset(program.graph.nodes)
    order = {node: position for position, node in enumerate(program.graph.nodes)}
    last = {node: max((order[user] for user in node.users if user in needed), default=-1) for node in needed}
    last[program.output] = len(order)
    segments, start = [], -1
    for layer in [*layers, None]:
        stop = len(order) if layer is None else order[layer.exit]
        section = [node for node in nodes if start < order[node] <= stop]
        inside = layer.inside if layer is not None else frozenset()
        pieces = (
            Piece.of([node for node in section if (node in inside) is in_layer], program, pinned, pinned)
            for in_layer in (False, True)
        )
        done = frozenset(node for node in needed if start < last[node] <= stop and node is not program.output)
        before, within = pieces
        segments.append(_Segment(before, within, done, layer))
        start = stop
    return segments


def _run(segment: _Segment, values: Values, gate: float) -> Values:
    """A copy of the values, with those of a segment added and those no longer needed removed."""
    values = dict(values)
    segment.before.run(values)
    if gate != 0.0:
        segment.inside.run(values)
    if segment.layer is not None and gate != 1.0:
        before = values[segment.layer.entry]
        after = values.get(segment.layer.exit)
        values[segment.layer.exit] = before if after is None else torch.lerp(before, after, gate)
    return {node: value for node, value in values.items() if node not in segment.done}


def _inputs(program: Program) -> dict[str, fx.Node]:
    """The inputs that the output depends on, by argument name."""
    needed = ancestors(program.output)
    return {name: node for name, node in program.placeholders.items() if node in needed}


def _shapes(program: Program, example: Any) -> dict[fx.Node, tuple[int, ...]]:
    """The shape, without the batch, of every tensor that the output depends on."""
    shapes: dict[fx.Node, tuple[int, ...]] = {}
    values = bind(_inputs(program), example)
    pinned, needed = frozenset(program.graph.nodes), ancestors(program.output)
    run = [node for node in program.graph.nodes if node in needed and node not in values]
    with preserved(program.model), torch.no_grad():
        Piece.of(run, program, pinned, pinned).run(values)
    for node, value in values.items():
        if isinstance(value, torch.Tensor):
            shapes[node] = tuple(value.shape[1:])
    return shapes
