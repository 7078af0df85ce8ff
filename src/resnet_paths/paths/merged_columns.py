"""The second moment of all paths' gradients, carried as a few columns for each length.

For every length k keep a matrix ``A_k`` of at most `most` columns (gradients at one vertex) with
``E A_k A_k' = sum_{|P|=k} g_P g_P'`` over the ways so far. A block takes A_k to ``[S'D' A_k, J'D' A_{k-1}]``, which has
up to twice as many columns and is cut down again: rotated to its principal axes (columns orthogonal, A A'
unchanged), the larger half kept as it is, the rest added up in groups with random signs. Columns that come to a vertex
along different edges belong to different paths, and are put side by side in the same way. (Added as they are, paths
would cancel.)

What it costs beside the branch products is passes over the columns. So columns are stored in the order that
convolutions read, as in the exact split, a block is gone through a chunk of lengths at a time, and what a chunk yields
is merged into its place while it is in the cache. (Masks applied to rows in another order than theirs took 15 times as
long.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from ..draws import integers
from .block_graph import Step
from .forward_pass import ForwardPass
from .pulling import zeros_for

Parts = list[torch.Tensor]  # of one length, each (columns, batch, ...)


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns (columns, batch, ...) of all lengths, the shortest first, and how many each length has."""

    values: torch.Tensor
    sizes: tuple[int, ...]

    def split(self) -> tuple[torch.Tensor, ...]:
        """The columns of each length."""
        parts: tuple[torch.Tensor, ...] = self.values.split(self.sizes)
        return parts


def pull_columns(record: ForwardPass, most: int, generator: torch.Generator) -> Columns | None:
    """Columns at the start, for each length; None where no gradient arrives.

    ``E sum_c |column_c|^2 = sum_{|P|=k} |g_P|^2``, and without error for the lengths whose paths are no more than
    `most`. The gradient of the loss at the output is scaled to one for each example.

    Cost: for each term at most `most` products for each length of the ways to it, so at most ``most n (n + 1) / 2``
    branch products in a chain. Memory: twice the columns.
    """
    graph, scale = record.graph, seed_norms(record)
    seed = record.seed / torch.where(scale > 0, scale, 1).view(-1, *[1] * (record.seed.ndim - 1))
    waiting: dict[int, list[Columns]] = {len(graph.vertices) - 1: [Columns(seed[None], (1,))]}
    for place in reversed(range(len(graph.vertices))):
        if place not in waiting:
            continue
        here = _met(waiting.pop(place), most, generator)
        vertex, step = graph.vertices[place], graph.steps.get(place)
        if not vertex.terms:
            return here
        if step is not None:
            through = _through_block(record, step, here, most, generator)
            waiting.setdefault(step.entry, []).append(through)
            continue
        for term in vertex.terms:
            sizes = (0,) * graph.shift(vertex, term) + here.sizes
            for source, values in record.pull(place, term, here.values)[0]:
                waiting.setdefault(source, []).append(Columns(values, sizes))
    return None


def seed_norms(record: ForwardPass) -> torch.Tensor:
    """Norm of each example's gradient at the output, (batch,): what the columns were divided by."""
    norms: torch.Tensor = record.seed.flatten(1).norm(dim=1)
    return norms


def _met(arrived: list[Columns], most: int, generator: torch.Generator) -> Columns:
    """Columns that came to a vertex along different edges, side by side, merged where they are too many."""
    if len(arrived) == 1:
        return arrived[0]
    lengths = max(len(columns.sizes) for columns in arrived)
    parts: list[Parts] = [[] for _ in range(lengths)]
    for columns in arrived:
        for length, part in enumerate(columns.split()):
            if len(part):
                parts[length].append(part)
    sizes = tuple(min(most, sum(map(len, own))) for own in parts)
    merged = zeros_for(arrived[0].values, sum(sizes))
    merge_into(merged, parts, most, generator)
    return Columns(merged, sizes)


def _through_block(record: ForwardPass, step: Step, columns: Columns, most: int, generator: torch.Generator) -> Columns:
    """The columns at a block's exit as columns at its entry."""
    (join,) = record.graph.vertices[step.exit].terms if step.exit != step.total else (None,)
    vertex = record.graph.vertices[step.total]
    shortcut, branch = vertex.terms
    before = (0,) * record.graph.shift(vertex, branch) + columns.sizes  # by the branch, where it counts from length 1
    sizes = tuple(min(most, a + b) for a, b in zip((*columns.sizes, 0), before, strict=False))
    shape, strides = record.value(step.entry).shape, record.row_strides(step.total, branch)
    made = columns.values.new_empty(0).new_empty_strided((sum(sizes), *shape), (shape.numel(), *strides))

    room = record.chunks(len(columns.values), step.entry, step.total)
    longer: Parts = []
    length = begin = end = 0
    for own in _lengths_at_once(columns.sizes, max((part.stop - part.start for part in room), default=1)):
        total = columns.values[begin : (begin := begin + sum(own))]
        if join is not None:
            total = record.pull_to_source(step.exit, join, total)
        by_shortcut = record.pull_to_source(step.total, shortcut, total).split(own)
        by_branch = record.pull_to_source(step.total, branch, total).split(own)
        if len(before) == len(columns.sizes):
            parts = [[one, other] for one, other in zip(by_shortcut, by_branch, strict=True)]
        else:
            parts = [[one] for one in by_shortcut]
            for known, other in zip(parts, [longer, *([part] for part in by_branch[:-1])], strict=True):
                known += other
            longer = [by_branch[-1]]
        count = sum(sizes[length : (length := length + len(own))])
        merge_into(made[end : (end := end + count)], parts, most, generator)
    if longer:
        merge_into(made[end:], [longer], most, generator)
    return Columns(made, sizes)


def _lengths_at_once(sizes: Sequence[int], room: int) -> list[list[int]]:
    """The lengths' sizes in groups of at most this many columns (or of one length that has any)."""
    groups: list[list[int]] = []
    for size in sizes:
        if groups and (sum(groups[-1]) + size <= room or not any(groups[-1])):
            groups[-1].append(size)
        else:
            groups.append([size])
    return groups


def merge_into(made: torch.Tensor, lengths: list[Parts], most: int, generator: torch.Generator) -> None:
    """Write at most `most` columns for each length whose ``A A'`` is that of its parts in expectation.

    With ``A'A = V L V'`` for each example the columns of A V are orthogonal and ``(A V)(A V)' = A A'``. The largest
    half of `most` stay; the others are dealt, largest first, forth and back, to as many groups as places are left,
    and each group is summed with independent random signs: orthogonal columns leave its trace exact, and its
    other entries right in expectation.

    Args:
        made: where to write, (columns, batch, ...): length after length, as many as it has, or `most`.
        lengths: the parts of each length.
        most: the most columns for a length.
        generator: of the signs.
    """
    counts = [sum(map(len, parts)) for parts in lengths]
    places = made.split([min(most, count) for count in counts])
    too_many: dict[int, list[int]] = {}
    for length, (parts, count) in enumerate(zip(lengths, counts, strict=True)):
        if count > most:
            too_many.setdefault(count, []).append(length)
        else:
            for part, into in zip(parts, places[length].split(list(map(len, parts))), strict=True):
                into.copy_(part)
    for count, which in too_many.items():
        flat = [torch.cat([_flat(part, places[length]) for part in lengths[length]], 1) for length in which]
        grams = torch.stack([torch.bmm(columns, columns.mT) for columns in flat])
        weights = _weights(grams, count, most, generator).to(made)
        for length, columns, weight in zip(which, flat, weights, strict=True):
            torch.bmm(weight, columns, out=_flat(places[length], places[length]))


def _flat(columns: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Columns as (batch, columns, values), the values in the order in which others are stored: as a rule a view."""
    strides = like.stride()
    order = sorted(range(2, like.ndim), key=lambda dim: -strides[dim])
    return columns.permute(1, 0, *order).flatten(2)


def _weights(grams: torch.Tensor, count: int, most: int, generator: torch.Generator) -> torch.Tensor:
    """How merged columns are made of given ones with these products, (..., most, count), in double precision."""
    axes = torch.linalg.eigh(grams.cpu().double()).eigenvectors.flip(-1)
    coins = integers(0, 2, (*axes.shape[:-2], 1, count), generator)
    columns: torch.Tensor = ((axes * (2 * coins - 1)) @ _dealt(count, most)).mT
    return columns


@lru_cache
def _dealt(count: int, most: int) -> torch.Tensor:
    """Which of `most` groups each of `count` columns, largest first, joins: (count, most) of zeros and ones."""
    alone = most // 2
    places = most - alone
    groups = torch.zeros(count, most, dtype=torch.float64, device="cpu")
    for column in range(count):
        turn, place = divmod(column - alone, places)
        group = column if column < alone else alone + (place if turn % 2 == 0 else places - 1 - place)
        groups[column, group] = 1
    return groups
