"""Where a network can be repaired after blocks are dropped: the last layers of blocks, and what each is fitted to.

A block's sum is ``shortcut + A(W h)``, where W is its branch's last layer and A is whatever lies between that layer and
the sum (a norm with fixed statistics, a learned scale, dropout in eval mode, windows merged back, axes exchanged). A is
identified by running it (`Readout`), not by a list of operations: it must compute each element of the sum from one
element of the layer's output, times a factor that depends only on the channel. A projection in the shortcut is a second
such layer, fitted together with the first; if the branch is dropped, it is the only one.

A remaining block before dropped ones is fitted to the full network's sum after the last of *them*, provided that they
follow it directly: with identity shortcuts, the same activations, and no other reader of the values in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from ..graph import operations
from ..graph.blocks import Cut, is_entry, module_of, parameters_of
from ..graph.compile_node import Values
from ..graph.dataflow import ancestors, descendants
from ..graph.pieces import Piece, Segments
from ..graph.program import Program
from .found_layers import FoundLayer, found_layer
from .linear_layers import Layer, channel_axis


@dataclass(frozen=True, eq=False)
class Term:
    """One layer that adds to a sum.

    Attributes:
        node: the layer's output.
        end: the term of the sum that it feeds.
        found_layer: the layer.
    """

    node: fx.Node
    end: fx.Node
    found_layer: FoundLayer

    @property
    def name(self) -> str:
        """The qualified name of the module that owns the weights."""
        return self.found_layer.weight_name.rpartition(".")[0]

    @property
    def layer(self) -> Layer:
        """The layer, as a module."""
        return self.found_layer.layer


@dataclass(frozen=True)
class Site:
    """One block to repair.

    Attributes:
        block: its index.
        target: the index of the block whose sum in the full network it is fitted to.
        terms: the layers to fit together; empty if there are none.
        dropped: whether its branch is gone, so that only its shortcut is fitted.
        reason: why nothing is fitted; empty if something is.
    """

    block: int
    target: int
    terms: tuple[Term, ...]
    dropped: bool
    reason: str = ""


class Sites:
    """Where a network can be repaired, for any set of dropped blocks; its layers are located once.

    Args:
        segments: the graph of the network.
    """

    def __init__(self, segments: Segments) -> None:
        program = segments.program
        self._segments = segments
        self._sums = {cut.add for cut in segments.cuts}
        self._needed = ancestors(program.output)
        self._readers = Counter(id(p) for node in program.graph.nodes for p in _parameters_read(node, program))
        holders = program.model.modules()
        self._owners = Counter(id(p) for one in holders for p in one._parameters.values() if p is not None)
        self._terms: dict[tuple[int, fx.Node], Term | str] = {}

    def of(self, dropped: Sequence[int]) -> list[Site]:
        """The blocks that a drop affects, or that directly precede dropped ones, in order."""
        gone, cuts = set(dropped), self._segments.cuts
        superfluous = self._segments.superfluous([0.0 if index in gone else 1.0 for index in range(len(cuts))])
        reached = descendants(*(cuts[index].add for index in gone))
        sites: list[Site] = []
        covered: set[int] = set()
        for index, cut in enumerate(cuts):
            if superfluous[index] or index in covered:
                continue
            target = _target(self._segments, index, gone)
            covered.update(range(index + 1, target + 1))
            if target > index or cut.add in reached:
                sites.append(self._site(index, target, index in gone))
        return sites

    def _site(self, index: int, target: int, dropped: bool) -> Site:
        cut = self._segments.cuts[index]
        ends = [] if dropped else list(cut.branch)
        if cut.shortcut is not cut.entry:
            ends.append(cut.shortcut)
        terms, reasons = [], []
        for end in ends:
            term = self._term(index, end)
            if isinstance(term, Term):
                terms.append(term)
            elif end is not cut.shortcut:
                reasons.append(term)
        if not terms:
            reasons = reasons or ["its shortcut has no layer"]
        return Site(index, target, tuple(terms), dropped, "; ".join(reasons) if not terms else "")

    def _term(self, index: int, end: fx.Node) -> Term | str:
        if (index, end) not in self._terms:
            self._terms[index, end] = self._last_layer(index, end)
        return self._terms[index, end]

    def _last_layer(self, index: int, end: fx.Node) -> Term | str:
        """The last layer before a term of a sum, or why there is none to fit."""
        cut = self._segments.cuts[index]
        inside = cut.shortcut_nodes if end is cut.shortcut else cut.branch_nodes
        node = end
        while True:
            if node not in inside or node in self._sums:
                in_block = node in self._sums
                return "its branch ends in another block" if in_block else "it does not end in a linear layer"
            readers = [one for one in node.users if one in self._needed and not operations.asks_shape(one)]
            if len(readers) != 1:
                return f"{node.name} is also read elsewhere"
            layer = found_layer(node, self._segments.program)
            if layer is not None:
                return self._if_unshared(Term(node, end, layer))
            sources = [source for source in node.all_input_nodes if source in self._segments.flow.carries]
            if len(sources) != 1:
                return f"its last operation combines several values ({node.name})"
            node = sources[0]

    def _if_unshared(self, term: Term) -> Term | str:
        """The layer, if its weights are used by this one call only; otherwise why not."""
        parameters = [id(parameter) for parameter in term.layer.parameters()]
        if any(self._readers[parameter] > 1 for parameter in parameters):
            return f"{term.name} runs more than once"
        if any(self._owners[parameter] > 1 for parameter in parameters):
            return f"{term.name} shares its weights with another layer"
        return term


def _target(segments: Segments, index: int, gone: set[int]) -> int:
    """The last of the dropped blocks that directly follow a block; the block itself if none does."""
    program = segments.program
    while index + 1 < len(segments.cuts) and index + 1 in gone:
        here, after = segments.cuts[index], segments.cuts[index + 1]
        inside = after.branch_nodes | after.shortcut_nodes | {after.add}
        readers = {node for node in here.post.users if not operations.asks_shape(node)}
        follows = after.entry is here.post and is_entry(after.shortcut, after.entry, program) and readers <= inside
        if not (follows and _same_after(segments, here, after)):
            break
        index += 1
    return index


def _same_after(segments: Segments, here: Cut, after: Cut) -> bool:
    """Whether the later block's activation gives the same as both activations in turn (ReLU is idempotent)."""
    if here.post is here.add:
        return True
    one, other = (module_of(cut.post, segments.program) for cut in (here, after))
    relus = isinstance(one, nn.ReLU) and isinstance(other, nn.ReLU)
    return after.post is not after.add and (relus or (_is_relu(here.post) and _is_relu(after.post)))


def _is_relu(node: fx.Node) -> bool:
    return operations.target_of(node) in (torch.relu, nn.functional.relu, torch.Tensor.relu, "relu")


def _parameters_read(node: fx.Node, program: Program) -> list[nn.Parameter]:
    """The parameters that a node reads; a ``get_attr`` node counts once per reader."""
    return parameters_of(node, program) * (len(node.users) if node.op == "get_attr" else 1)


@dataclass(frozen=True, eq=False)
class Readout:
    """How a layer's output u enters a term of a sum: ``term = scale * u[source] + offset``, element by element.

    Attributes:
        source: for each element of the term, the flat index of the element of u that it comes from; None: the same
            index.
        scale: the factor of each channel of u.
        offset: the offset of each element of the term.
    """

    source: torch.Tensor | None
    scale: torch.Tensor
    offset: torch.Tensor


class Tail:
    """The operations between a layer and its term of a sum.

    Args:
        piece: the operations of the branch or shortcut.
        term: the layer.
        program: the graph.
    """

    def __init__(self, piece: Piece, term: Term, program: Program) -> None:
        self.term, self._program = term, program
        changed = {term.node}
        steps = []
        for node, step, _ in piece.steps:
            if not changed.isdisjoint(node.all_input_nodes):
                changed.add(node)
                steps.append((node, step))
        self._steps = [] if all(map(self._is_identity, changed - {term.node})) else steps
        self._readouts: dict[tuple[int, ...], Readout | str] = {}

    def _is_identity(self, node: fx.Node) -> bool:
        """Whether a node returns its input unchanged."""
        module = module_of(node, self._program)
        return isinstance(module, (nn.Identity, nn.modules.dropout._DropoutNd)) and not module.training

    def readout(self, values: Values) -> Readout | str:
        """The tail as a readout, or why it is not one; determined once per shape of the layer's output."""
        u = values[self.term.node]
        if tuple(u.shape) not in self._readouts:
            self._readouts[tuple(u.shape)] = self._determine(values, u)
        return self._readouts[tuple(u.shape)]

    def _run(self, values: Values, u: torch.Tensor) -> torch.Tensor:
        inside = {**values, self.term.node: u}
        for node, step in self._steps:
            inside[node] = step(inside)
        end: torch.Tensor = inside[self.term.end]
        return end

    def _determine(self, values: Values, u: torch.Tensor) -> Readout | str:
        axis = channel_axis(self.term.layer, u)
        channels = u.shape[axis]
        if not self._steps:
            return Readout(None, torch.ones(channels, dtype=u.dtype, device=u.device), torch.zeros_like(u))
        # If the tail is a scale and an offset per element, zeros give the offset and ones the scale.
        offset = self._run(values, torch.zeros_like(u))
        factor = self._run(values, torch.ones_like(u)) - offset
        source = self._sources(values, u, offset, factor)
        if isinstance(source, str):
            return source
        shape = [channels if dimension == axis else 1 for dimension in range(u.ndim)]
        channel = torch.arange(channels, device=u.device).view(shape).expand(u.shape).flatten()[source]
        scale = torch.zeros(channels, dtype=u.dtype, device=u.device)
        scale[channel] = factor.flatten()
        # The probes assume such a map; the layer's own output tests the assumption.
        rebuilt = scale[channel] * u.flatten()[source] + offset.flatten()
        expected = values[self.term.end].flatten()
        near = 1e-3 if u.dtype == torch.float32 else 1e-8
        if not torch.allclose(rebuilt, expected, rtol=near, atol=near * float(expected.abs().max() + 1e-30)):
            return f"the operations between {self.term.name} and the sum are more than a scale per channel"
        is_identity = source.numel() == u.numel() and bool((source == torch.arange(u.numel(), device=u.device)).all())
        return Readout(None if is_identity and offset.shape == u.shape else source, scale, offset)

    def _sources(
        self, values: Values, u: torch.Tensor, offset: torch.Tensor, factor: torch.Tensor
    ) -> torch.Tensor | str:
        """Where each element of the term comes from, found by sending the elements' indices through, digit by digit."""
        # Small enough for a digit to survive float32 rounding in scales and offsets, large enough for few runs.
        base = 512
        number = torch.arange(u.numel(), device=u.device).view(u.shape)
        source = torch.zeros(offset.shape, dtype=torch.int64, device=u.device)
        alive = factor != 0
        place_value = 1
        while place_value <= u.numel():
            digit = self._run(values, (number // place_value % base).to(u.dtype)) - offset
            read = torch.where(alive, digit / torch.where(alive, factor, 1.0), 0.0)
            if not torch.allclose(read, read.round(), atol=0.2, rtol=0):
                return f"the operations between {self.term.name} and the sum mix elements"
            source += read.round().long() * place_value
            place_value *= base
        if not alive.all():
            return f"a channel of {self.term.name} does not reach the sum (its scale is 0)"
        if int(source.min()) < 0 or int(source.max()) >= u.numel():
            return f"the operations between {self.term.name} and the sum mix elements"
        return source.flatten()
