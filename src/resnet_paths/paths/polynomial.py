"""The recursion that carries one coefficient for each path length, from the output back over all vertices.

Every vertex holds rows G_0, G_1, ...: the sums over all ways to it from the output that enter 0, 1, ... branches. It
hands them to the sources of its terms, those of its branch moved on by one; rows that meet at a vertex are added.

Through a block whose rows come from one vertex and go to one (``PathGraph.steps``) they go a chunk at a time, the
longest lengths first. That order lets the new coefficients overwrite the old where shapes allow it: a chunk writes
``G_k`` and, by the branch, ``G_{k+1}`` for its own k alone, and all of these have been read by it or by a chunk before.
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
    """Gradients of parameters by path length, summed as the recursion meets them.

    Attributes:
        wanted: the parameters asked for, by name.
        lengths: number of lengths kept.
        sums: for each name met, (lengths, *shape).
    """

    wanted: dict[str, torch.Tensor]
    lengths: int
    sums: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._names = {id(value): name for name, value in self.wanted.items()}

    def known(self, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
        """Those of some leaves that are asked for."""
        return [leaf for leaf in leaves if id(leaf) in self._names]

    def put(self, leaf: torch.Tensor, values: torch.Tensor, first: int) -> None:
        """Add rows of a parameter's gradient of the lengths from `first` on; lengths not kept are left out."""
        name = self._names[id(leaf)]
        if name not in self.sums:
            self.sums[name] = leaf.new_zeros((self.lengths, *leaf.shape)).detach()
        into = self.sums[name][first : first + len(values)]
        into += values[: len(into)]


def kept_lengths(graph: PathGraph, max_length: int | None) -> tuple[int, bool]:
    """How many lengths are kept of a graph's, and whether that is all of them."""
    longest = graph.max_length
    kept = longest if max_length is None else min(max_length, longest)
    return kept + 1, kept == longest


def pull_polynomial(
    record: ForwardPass, lengths: int, *, leaves: LeafSums | None = None, visit: Visit | None = None
) -> torch.Tensor | None:
    """The coefficients of the gradient at the start of a graph, by path length.

    Args:
        record: the recorded pass.
        lengths: how many coefficients to keep.
        leaves: where to sum up parameters' gradients.
        visit: called with each vertex's place and its coefficients (valid during the call); sums inside a step that is
            made at once are left out.

    Returns:
        (lengths met, *start shape); None where no gradient arrives.

    Cost: for each term one product for each length of the ways to it, at most n (n + 1) / 2 of branches.
    """
    graph = record.graph
    waiting = Waiting({len(graph.vertices) - 1: record.seed[None]}, set())
    start: torch.Tensor | None = None
    for place in reversed(range(len(graph.vertices))):
        arrived = waiting.rows.pop(place, None)
        if arrived is None:
            continue
        if visit is not None:
            visit(place, arrived)
        if not graph.vertices[place].terms:
            start = arrived
        step = graph.steps.get(place)
        if step is not None and leaves is None and step.entry not in waiting.rows:
            waiting.rows[step.entry] = _through_block(record, step, arrived, lengths, place in waiting.ours)
            waiting.ours.add(step.entry)
        else:
            _through_terms(record, place, arrived, lengths, waiting, leaves)
    return start


@dataclass(frozen=True)
class Waiting:
    """The rows that have come to each vertex so far.

    Attributes:
        rows: the rows.
        ours: the vertices whose rows lie in memory made here. Others may share it: the gradients that autograd gives
            for the terms of a sum are one tensor, those of a mean one number, expanded.
    """

    rows: dict[int, torch.Tensor]
    ours: set[int]

    def add(self, place: int, values: torch.Tensor, shift: int) -> None:
        """Add rows to those at a vertex, `shift` places further on."""
        known = self.rows.get(place)
        count = len(values) + shift
        if known is None and not shift:
            self.rows[place] = values
            return
        if known is None or len(known) < count or place not in self.ours:
            grown = zeros_for(values, count if known is None else max(count, len(known)))
            if known is not None:
                grown[: len(known)] = known
            self.rows[place] = known = grown
            self.ours.add(place)
        known[shift:count] += values


def _through_terms(
    record: ForwardPass, place: int, arrived: torch.Tensor, lengths: int, waiting: Waiting, leaves: LeafSums | None
) -> None:
    """Hand the rows at a vertex on to the sources of its terms, one after the other."""
    vertex = record.graph.vertices[place]
    for term in reversed(vertex.terms):  # the branch first, whose rows make room for the shortcut's, one fewer
        shift = record.graph.shift(vertex, term)
        kept = arrived[: lengths - shift]
        if len(kept) == 0:
            continue
        inner = [] if leaves is None else leaves.known(record.parameters(place, term))
        handed_on, of_parameters = record.pull(place, term, kept, inner)
        for source, values in handed_on:
            waiting.add(source, values, shift)
        for leaf, values in zip(inner, of_parameters, strict=False):
            leaves.put(leaf, values, shift)  # type: ignore[union-attr]


def _through_block(record: ForwardPass, step: Step, rows: torch.Tensor, lengths: int, ours: bool) -> torch.Tensor:
    """The rows at a block's exit as rows at its entry, a chunk at a time; over the old ones if their memory is ours."""
    (join,) = record.graph.vertices[step.exit].terms if step.exit != step.total else (None,)
    vertex = record.graph.vertices[step.total]
    shortcut, branch = vertex.terms
    shift = record.graph.shift(vertex, branch)
    grown = min(len(rows) + shift, lengths)
    entry = record.value(step.entry)
    identity = record.term(step.total, shortcut) is entry
    known = (rows._base if rows._base is not None else rows) if ours else None
    result = _room(known, rows, entry.shape, record.row_strides(step.total, branch), grown, lengths)
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


def _room(
    known: torch.Tensor | None,
    rows: torch.Tensor,
    shape: torch.Size,
    strides: tuple[int, ...],
    count: int,
    capacity: int,
) -> torch.Tensor:
    """Where to put `count` coefficients at an entry: in the memory of the old ones where shapes agree, else in new."""
    if known is None or known.shape != (capacity, *shape) or known.stride() != rows.stride():
        known = rows.new_empty(0).new_empty_strided((capacity, *shape), (shape.numel(), *strides))
    known[len(rows) : count].zero_()
    return known[:count]
