"""The recursion that carries one coefficient per path length from the output back over all vertices.

Every vertex holds rows G_0, G_1, ...: the sums over all walks from the output to it that enter 0, 1, ... branches. It
passes them to the sources of its terms, those of its branch shifted by one; rows that meet at a vertex are added.

Through a block whose rows come from one vertex and go to one (``PathGraph.steps``), rows go a chunk at a time, longest
lengths first. In that order the new coefficients can overwrite the old ones where shapes allow it: a chunk writes
``G_k`` and, through the branch, ``G_{k+1}`` only for its own k, and these have been read by this chunk or an earlier
one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from .block_graph import PathGraph, Step
from .forward_pass import ForwardPass
from .pulling import zeros_for

Visit = Callable[[int, torch.Tensor], None]


@dataclass
class LeafSums:
    """Gradients of parameters by path length, accumulated as the recursion reaches them.

    Attributes:
        wanted: the requested parameters, by name.
        lengths: number of lengths kept.
        sums: the accumulated gradients, (lengths, *shape) per parameter reached so far.
    """

    wanted: dict[str, torch.Tensor]
    lengths: int
    sums: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._names = {id(value): name for name, value in self.wanted.items()}

    def known(self, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
        """The leaves that are requested parameters."""
        return [leaf for leaf in leaves if id(leaf) in self._names]

    def put(self, leaf: torch.Tensor, values: torch.Tensor, first: int) -> None:
        """Add rows of a parameter's gradient, for lengths from `first` on; lengths that are not kept are skipped."""
        name = self._names[id(leaf)]
        if name not in self.sums:
            self.sums[name] = leaf.new_zeros((self.lengths, *leaf.shape)).detach()
        into = self.sums[name][first : first + len(values)]
        into += values[: len(into)]


def kept_lengths(graph: PathGraph, max_length: int | None) -> tuple[int, bool]:
    """The number of lengths to keep, and whether that is all of them."""
    longest = graph.max_length
    kept = longest if max_length is None else min(max_length, longest)
    return kept + 1, kept == longest


def pull_polynomial(
    record: ForwardPass, lengths: int, *, leaves: LeafSums | None = None, visit: Visit | None = None
) -> torch.Tensor | None:
    """The coefficients of the gradient at the start of a graph, by path length.

    Args:
        record: the recorded pass.
        lengths: number of coefficients to keep.
        leaves: accumulates parameters' gradients.
        visit: called with each vertex's position and its coefficients (valid during the call); sums inside a step that
            is made at once are left out.

    Returns:
        The coefficients, (lengths reached, *start shape); None if no gradient arrives.

    Cost: one product per term and length, at most n (n + 1) / 2 of branches in a chain.
    """
    graph = record.graph
    waiting = Waiting({len(graph.vertices) - 1: record.seed[None]}, set())
    start: torch.Tensor | None = None
    for position in reversed(range(len(graph.vertices))):
        arrived = waiting.rows.pop(position, None)
        if arrived is None:
            continue
        if visit is not None:
            visit(position, arrived)
        if not graph.vertices[position].terms:
            start = arrived
        # A step in chunks returns the rows of its entry and nothing else, so parameters, and rows that already wait at
        # the entry, need the general way.
        step = graph.steps.get(position)
        if step is not None and leaves is None and step.entry not in waiting.rows:
            waiting.rows[step.entry] = _through_block(record, step, arrived, lengths, position in waiting.ours)
            waiting.ours.add(step.entry)
        else:
            _through_terms(record, position, arrived, lengths, waiting, leaves)
    return start


@dataclass(frozen=True)
class Waiting:
    """The rows that have reached each vertex so far.

    Attributes:
        rows: the rows.
        ours: the vertices whose rows are in memory allocated here, so that it may be overwritten. Memory of autograd
            may be shared: the gradients of the terms of a sum are one tensor, those of a mean one expanded number.
    """

    rows: dict[int, torch.Tensor]
    ours: set[int]

    def add(self, position: int, values: torch.Tensor, shift: int) -> None:
        """Add rows to those at a vertex, shifted by `shift` lengths."""
        waiting = self.rows.get(position)
        count = len(values) + shift
        if waiting is None and not shift:
            self.rows[position] = values
            return
        if waiting is None or len(waiting) < count or position not in self.ours:
            grown = zeros_for(values, count if waiting is None else max(count, len(waiting)))
            if waiting is not None:
                grown[: len(waiting)] = waiting
            self.rows[position] = waiting = grown
            self.ours.add(position)
        waiting[shift:count] += values


def _through_terms(
    record: ForwardPass, position: int, arrived: torch.Tensor, lengths: int, waiting: Waiting, leaves: LeafSums | None
) -> None:
    """Pass the rows at a vertex to the sources of its terms, one term after the other."""
    vertex = record.graph.vertices[position]
    # Branch first: its rows are one more, so the shortcut's fit into the same memory.
    for term in reversed(vertex.terms):
        shift = record.graph.shift(vertex, term)
        kept = arrived[: lengths - shift]
        if len(kept) == 0:
            continue
        inner = [] if leaves is None else leaves.known(record.parameters(position, term))
        at_sources, at_parameters = record.pull(position, term, kept, inner)
        for source, values in at_sources:
            waiting.add(source, values, shift)
        for leaf, values in zip(inner, at_parameters, strict=False):
            leaves.put(leaf, values, shift)  # type: ignore[union-attr]


def _through_block(record: ForwardPass, step: Step, rows: torch.Tensor, lengths: int, ours: bool) -> torch.Tensor:
    """Pull rows from a block's exit to its entry, a chunk at a time; in place if their memory is ours."""
    (join,) = record.graph.vertices[step.exit].terms if step.exit != step.total else (None,)
    vertex = record.graph.vertices[step.total]
    shortcut, branch = vertex.terms
    shift = record.graph.shift(vertex, branch)
    grown = min(len(rows) + shift, lengths)
    entry = record.value(step.entry)
    identity = record.term(step.total, shortcut) is entry
    reusable = (rows._base if rows._base is not None else rows) if ours else None
    result = _memory_for(reusable, rows, entry.shape, record.row_strides(step.total, branch), grown, lengths)
    for part in record.chunks(len(rows), step.entry, step.total):
        total = rows[part]
        if join is not None:
            total = record.pull_to_source(step.exit, join, total, into=result[part] if identity else None)
        short = record.pull_to_source(step.total, shortcut, total)
        kept = max(min(part.stop, grown - shift) - part.start, 0)
        into = result[part.start + shift : part.start + shift + kept]
        if total.data_ptr() == result[part].data_ptr() != short.data_ptr():  # the shortcut is about to overwrite it
            by_branch = record.pull_to_source(step.total, branch, total[:kept]) if kept else total[:0]
            result[part] = short
            into += by_branch
            continue
        if short.data_ptr() != result[part].data_ptr():
            result[part] = short
        if kept:
            record.add_pulled(step.total, branch, total[:kept], into)
    return result


def _memory_for(
    reusable: torch.Tensor | None,
    rows: torch.Tensor,
    shape: torch.Size,
    strides: tuple[int, ...],
    count: int,
    capacity: int,
) -> torch.Tensor:
    """Memory for `count` coefficients at an entry: that of the old ones if shapes agree, otherwise new."""
    if reusable is None or reusable.shape != (capacity, *shape) or reusable.stride() != rows.stride():
        reusable = rows.new_empty(0).new_empty_strided((capacity, *shape), (shape.numel(), *strides))
    reusable[len(rows) : count].zero_()
    return reusable[:count]
