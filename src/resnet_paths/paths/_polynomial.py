"""The recursion over units that carries one coefficient for each path length."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch

from ._graph_tape import GraphTape
from ._tape import Recorded, Tape, parameters_between

Visit = Callable[[int, torch.Tensor], None]


@dataclass
class LeafSums:
    """Gradients of parameters by path length, summed as the recursion meets them.

    Autograd gives a piece's gradient of a parameter together with what flows on through the piece's input to earlier
    uses of the same parameter; where a parameter is shared, the latter is taken off again.

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
        self._before: dict[int, set[int]] = {}  # for each input of a piece, the parameters used before it

    def known(self, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
        """Those of some leaves that are asked for."""
        return [leaf for leaf in leaves if id(leaf) in self._names]

    def between(self, output: torch.Tensor, *stops: torch.Tensor) -> list[torch.Tensor]:
        """The wanted parameters that a piece uses."""
        return self.known(parameters_between(output, *stops))

    def add(
        self,
        leaves: list[torch.Tensor],
        rows: list[torch.Tensor],
        first: int,
        tape: Tape,
        stop: torch.Tensor,
        arrived: torch.Tensor,
    ) -> None:
        """Add rows of gradients of the lengths from `first` on; lengths not kept are left out.

        Args:
            leaves: parameters that a piece uses.
            rows: their gradients, as autograd gives them.
            first: the length of the first row.
            tape: the recorded pass.
            stop: the piece's input.
            arrived: the same rows at that input.
        """
        if leaves and id(stop) not in self._before:
            self._before[id(stop)] = {id(leaf) for leaf in self.between(stop, tape.start)}
        shared = [leaf for leaf in leaves if id(leaf) in self._before[id(stop)]]
        passed = dict(zip(map(id, shared), tape.through_all_before(stop, arrived, shared), strict=True))
        for leaf, values in zip(leaves, rows, strict=True):
            self.put(leaf, values - passed[id(leaf)] if id(leaf) in passed else values, first)

    def put(self, leaf: torch.Tensor, values: torch.Tensor, first: int) -> None:
        """Add rows of a parameter's gradient of the lengths from `first` on; lengths not kept are left out."""
        name = self._names[id(leaf)]
        if name not in self.sums:
            self.sums[name] = leaf.new_zeros((self.lengths, *leaf.shape)).detach()
        into = self.sums[name][first : first + len(values)]
        into += values[: len(into)]


def pull_polynomial(
    tape: Tape,
    lengths: int,
    counted: Collection[int],
    *,
    leaves: LeafSums | None = None,
    visit: Visit | None = None,
) -> torch.Tensor:
    """The coefficients of the gradient at the first recorded unit's entry, by path length.

    Pulls the loss's gradient back through ``D'(S' + t J')`` of every unit, last to first, and keeps the
    coefficients of t^0, ..., t^(lengths - 1): ``G_k <- S'D' G_k + J'D' G_{k-1}``.

    Args:
        tape: the recorded pass.
        lengths: how many coefficients to keep.
        counted: the units whose branch multiplies by t; the others' branches multiply by one.
        leaves: where to sum up parameters' gradients.
        visit: called with each unit's index and the coefficients at its entry (valid during the call).

    Returns:
        (lengths met, *entry shape).

    Cost: n (n + 1) / 2 branch products for n counted units, less when lengths are cut off.
    """
    rows = tape.seed[None]
    for index, unit in tape.backwards():
        rows = _through_unit(tape, unit, rows, lengths, int(index in counted), leaves)
        if visit is not None:
            visit(index, rows)
    return rows


def pull_stem(tape: Tape, rows: torch.Tensor, leaves: LeafSums | None = None) -> torch.Tensor:
    """Coefficients at the first entry as coefficients at the start of the recording."""
    inner = [] if leaves is None else leaves.between(tape.stem_exit, tape.start)
    result = rows.new_empty((len(rows), *tape.start.shape))
    for part in tape.chunks(len(rows), tape.stem_exit, tape.start):
        result[part], *more = tape.through_stem(rows[part], *inner)
        if leaves is not None:
            leaves.add(inner, more, part.start, tape, tape.start, result[part])
    return result


def pull_graph_polynomial(
    tape: GraphTape, lengths: int, *, leaves: LeafSums | None = None, visit: Visit | None = None
) -> torch.Tensor | None:
    """The coefficients of the gradient at the start of a graph, by path length.

    From the output back every vertex holds the coefficients of all ways to it from there. It hands them to the sources
    of its terms, those of its branch moved on by one length; coefficients that meet at a vertex are added.

    Args:
        tape: the recorded pass.
        lengths: how many coefficients to keep.
        leaves: where to sum up parameters' gradients.
        visit: called with each vertex's place and its coefficients (valid during the call).

    Returns:
        (lengths met, *start shape); None where no gradient arrives.

    Cost: for each term one product for each length of the ways to it, at most n (n + 1) / 2 of branches.
    """
    last = len(tape.graph.vertices) - 1
    rows: dict[int, torch.Tensor] = {last: tape.seed[None]}
    start: torch.Tensor | None = None
    for place in reversed(range(len(tape.graph.vertices))):
        arrived = rows.pop(place, None)
        if arrived is None:
            continue
        vertex = tape.graph.vertices[place]
        if visit is not None:
            visit(place, arrived)
        if not vertex.terms:
            start = arrived
        for term in reversed(vertex.terms):  # the shortcut last: what it hands on unchanged nobody reads any more
            shift = tape.graph.shift(vertex, term)
            kept = arrived[: lengths - shift]
            if len(kept) == 0:
                continue
            inner = [] if leaves is None else leaves.known(tape.inner(place, term))
            handed_on, of_parameters = tape.through(place, term, kept, inner)
            for source, values in handed_on:
                _add_rows(rows, source, values, shift)
            for leaf, values in zip(inner, of_parameters, strict=False):
                leaves.put(leaf, values, shift)  # type: ignore[union-attr]
    return start


def _add_rows(rows: dict[int, torch.Tensor], place: int, values: torch.Tensor, shift: int) -> None:
    """Add rows to those that a vertex holds, `shift` places further on."""
    known = rows.get(place)
    count = len(values) + shift
    if known is None and not shift:
        rows[place] = values
        return
    if known is None or len(known) < count:
        grown = values.new_zeros((count, *values.shape[1:]))
        if known is not None:
            grown[: len(known)] = known
        rows[place] = known = grown
    known[shift:count] += values


def _through_unit(
    tape: Tape,
    unit: Recorded,
    rows: torch.Tensor,
    lengths: int,
    counted: int,
    leaves: LeafSums | None,
) -> torch.Tensor:
    """One step of the recursion, a chunk of coefficients at a time, the longest lengths first.

    Where the shapes allow it the new coefficients overwrite the old: a chunk writes only coefficients that
    it or a chunk before it has read.
    """
    grown = min(len(rows) + counted, lengths)
    result = _room(rows, unit.entry.shape, tape.row_strides(unit), grown, lengths)
    inner = _Inner(unit, leaves)
    for part in tape.chunks(len(rows), unit.entry, unit.total):
        kept_as_it_is = unit.shortcut is unit.entry and not inner.shortcut
        total, *more = tape.through_join(unit, rows[part], *inner.join, into=result[part] if kept_as_it_is else None)
        inner.add(inner.join, more, part.start, tape, unit.total, total)
        short, *more = tape.through_shortcut(unit, total, *inner.shortcut)
        inner.add(inner.shortcut, more, part.start, tape, unit.entry, short)
        kept = min(part.stop, grown - counted) - part.start
        into = result[part.start + counted : part.start + counted + max(kept, 0)]
        in_the_way = total.data_ptr() == result[part].data_ptr() != short.data_ptr()
        branch = None
        if kept > 0 and (inner.branch or in_the_way):
            branch, *more = tape.through_branch(unit, total[:kept], *inner.branch)
            inner.add(inner.branch, more, part.start + counted, tape, unit.entry, branch)
        if short.data_ptr() != result[part].data_ptr():
            result[part] = short
        if branch is not None:
            into += branch
        elif kept > 0:
            tape.add_branch(unit, total[:kept], into)
    return result


class _Inner:
    """The wanted parameters inside a unit's three pieces."""

    def __init__(self, unit: Recorded, leaves: LeafSums | None) -> None:
        self.leaves = leaves
        self.join: list[torch.Tensor] = []
        self.shortcut: list[torch.Tensor] = []
        self.branch: list[torch.Tensor] = []
        if leaves is not None:
            self.join = leaves.between(unit.exit, unit.total)
            self.branch = leaves.between(unit.branch, unit.entry)
            if unit.shortcut is not unit.entry:
                self.shortcut = leaves.between(unit.shortcut, unit.entry)

    def add(
        self,
        parameters: list[torch.Tensor],
        rows: list[torch.Tensor],
        first: int,
        tape: Tape,
        stop: torch.Tensor,
        arrived: torch.Tensor,
    ) -> None:
        if self.leaves is not None:
            self.leaves.add(parameters, rows, first, tape, stop, arrived)


def _room(rows: torch.Tensor, shape: torch.Size, strides: tuple[int, ...], count: int, capacity: int) -> torch.Tensor:
    """Where to put `count` coefficients at an entry: the old ones' buffer where shapes agree, else a new one."""
    base = rows._base if rows._base is not None else rows
    if base.shape == (capacity, *shape) and base.stride() == rows.stride():
        if count > len(rows):
            base[len(rows) : count].zero_()
        return base[:count]
    made = rows.new_empty(0).new_empty_strided((capacity, *shape), (shape.numel(), *strides))
    made[len(rows) : count].zero_()
    return made[:count]
