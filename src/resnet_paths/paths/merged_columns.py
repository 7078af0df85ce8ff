"""The second moment of all paths' gradients, carried as a few columns per length.

For every length k, keep a matrix ``A_k`` of at most `most` columns (gradients at one vertex) with ``E A_k A_k' =
sum_{|P|=k} g_P g_P'`` over the walks so far. A block takes A_k to ``[S'D' A_k, J'D' A_{k-1}]``, which has up to twice
as many columns and is reduced again: it is rotated to its principal axes (which makes the columns orthogonal and leaves
A A' unchanged), the larger half is kept, and the rest is summed in groups with random signs. Columns that reach a
vertex along different edges belong to different paths, so they are concatenated and reduced in the same way. (Simply
added, paths would cancel.)

Apart from the branch products, the cost is in passes over the columns. So columns are stored in the order in which
convolutions read them, as in the exact split; a block is processed a chunk of lengths at a time; and the results of a
chunk are merged while they are in the cache. (Applying masks to rows stored in another order took 15 times as long.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from ..draws import integers
from ._norms import example_norms
from .block_graph import Step
from .forward_pass import ForwardPass
from .pulling import zeros_for

Parts = list[torch.Tensor]  # of one length, each (columns, batch, ...)


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns (columns, batch, ...) of all lengths, shortest first, with the number of columns per length."""

    values: torch.Tensor
    sizes: tuple[int, ...]

    def split(self) -> tuple[torch.Tensor, ...]:
        """The columns of each length."""
        parts: tuple[torch.Tensor, ...] = self.values.split(self.sizes)
        return parts


def pull_columns(record: ForwardPass, most: int, generator: torch.Generator) -> Columns | None:
    """The columns at the start, per length; None if no gradient arrives.

    ``E sum_c |column_c|^2 = sum_{|P|=k} |g_P|^2``, exactly for lengths with at most `most` paths. The gradient of the
    loss at the output is scaled to norm one per example.

    Cost: at most `most` products per term and length, so at most ``most n (n + 1) / 2`` branch products in a chain.
    Memory: twice the columns.
    """
    graph, scale = record.graph, seed_norms(record)
    seed = record.seed / torch.where(scale > 0, scale, 1).view(-1, *[1] * (record.seed.ndim - 1))
    waiting: dict[int, list[Columns]] = {len(graph.vertices) - 1: [Columns(seed[None], (1,))]}
    for position in reversed(range(len(graph.vertices))):
        if position not in waiting:
            continue
        here = _concatenated(waiting.pop(position), most, generator)
        vertex, step = graph.vertices[position], graph.steps.get(position)
        if not vertex.terms:
            return here
        if step is not None:
            through = _through_block(record, step, here, most, generator)
            waiting.setdefault(step.entry, []).append(through)
            continue
        for term in vertex.terms:
            sizes = (0,) * graph.shift(vertex, term) + here.sizes
            for source, values in record.pull(position, term, here.values)[0]:
                waiting.setdefault(source, []).append(Columns(values, sizes))
    return None


def seed_norms(record: ForwardPass) -> torch.Tensor:
    """Norm of each example's gradient at the output, (batch,), by which the columns are divided."""
    return example_norms(record.seed[None])[0]


def _concatenated(arrived: list[Columns], most: int, generator: torch.Generator) -> Columns:
    """Columns that reached a vertex along different edges, concatenated, and merged if there are too many."""
    if len(arrived) == 1:
        return arrived[0]
    lengths = max(len(columns.sizes) for columns in arrived)
    parts: list[Parts] = [[] for _ in range(lengths)]
    for columns in arrived:
        for length, part in enumerate(columns.split()):
            if len(part):
                parts[length].append(part)
    sizes = tuple(min(most, sum(map(len, length_parts))) for length_parts in parts)
    merged = zeros_for(arrived[0].values, sum(sizes))
    merge_into(merged, parts, most, generator)
    return Columns(merged, sizes)


def _through_block(record: ForwardPass, step: Step, columns: Columns, most: int, generator: torch.Generator) -> Columns:
    """Pull the columns at a block's exit back to its entry."""
    (join,) = record.graph.vertices[step.exit].terms if step.exit != step.total else (None,)
    vertex = record.graph.vertices[step.total]
    shortcut, branch = vertex.terms
    # Columns through the branch start at length 1 if it counts.
    before = (0,) * record.graph.shift(vertex, branch) + columns.sizes
    sizes = tuple(min(most, a + b) for a, b in zip((*columns.sizes, 0), before, strict=False))
    shape, strides = record.value(step.entry).shape, record.row_strides(step.total, branch)
    at_entry = columns.values.new_empty(0).new_empty_strided((sum(sizes), *shape), (shape.numel(), *strides))

    room = record.chunks(len(columns.values), step.entry, step.total)
    longer: Parts = []
    length = begin = end = 0
    for chunk_sizes in _lengths_at_once(columns.sizes, max((part.stop - part.start for part in room), default=1)):
        total = columns.values[begin : (begin := begin + sum(chunk_sizes))]
        if join is not None:
            total = record.pull_to_source(step.exit, join, total)
        by_shortcut = record.pull_to_source(step.total, shortcut, total).split(chunk_sizes)
        by_branch = record.pull_to_source(step.total, branch, total).split(chunk_sizes)
        if len(before) == len(columns.sizes):
            parts = [[one, other] for one, other in zip(by_shortcut, by_branch, strict=True)]
        else:
            # The branch makes paths longer by one, so the branch's columns of a chunk's last length wait for the next
            # chunk.
            parts = [[one] for one in by_shortcut]
            for of_length, other in zip(parts, [longer, *([part] for part in by_branch[:-1])], strict=True):
                of_length += other
            longer = [by_branch[-1]]
        count = sum(sizes[length : (length := length + len(chunk_sizes))])
        merge_into(at_entry[end : (end := end + count)], parts, most, generator)
    if longer:
        merge_into(at_entry[end:], [longer], most, generator)
    return Columns(at_entry, sizes)


def _lengths_at_once(sizes: Sequence[int], room: int) -> list[list[int]]:
    """The numbers of columns, grouped into runs of lengths with at most `room` columns (or a single length)."""
    groups: list[list[int]] = []
    for size in sizes:
        if groups and (sum(groups[-1]) + size <= room or not any(groups[-1])):
            groups[-1].append(size)
        else:
            groups.append([size])
    return groups


def merge_into(into: torch.Tensor, lengths: list[Parts], most: int, generator: torch.Generator) -> None:
    """Write at most `most` columns per length, whose expected ``A A'`` is that of the parts.

    With ``A'A = V L V'`` per example, the columns of A V are orthogonal and ``(A V)(A V)' = A A'``. The `most` // 2
    largest are kept; the others are distributed over the remaining groups in serpentine order, largest first, and each
    group is summed with independent random signs. As the columns are orthogonal, the trace stays exact and all other
    entries are unbiased. (Serpentine order balances the groups, which lowers the variance.)

    Args:
        into: where to write, (columns, batch, ...): length after length, at most `most` columns each.
        lengths: the parts of each length.
        most: maximum number of columns per length.
        generator: generator of the signs.
    """
    counts = [sum(map(len, parts)) for parts in lengths]
    by_length = into.split([min(most, count) for count in counts])
    # Lengths with equally many columns share one batched eigendecomposition.
    excess: dict[int, list[int]] = {}
    for length, (parts, count) in enumerate(zip(lengths, counts, strict=True)):
        if count > most:
            excess.setdefault(count, []).append(length)
        else:
            for part, target in zip(parts, by_length[length].split(list(map(len, parts))), strict=True):
                target.copy_(part)
    for count, which in excess.items():
        flat = [torch.cat([_flat(part, by_length[length]) for part in lengths[length]], 1) for length in which]
        grams = torch.stack([torch.bmm(columns, columns.mT) for columns in flat])
        weights = _weights(grams, count, most, generator).to(into)
        for length, columns, weight in zip(which, flat, weights, strict=True):
            torch.bmm(weight, columns, out=_flat(by_length[length], by_length[length]))


def _flat(columns: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Columns as (batch, columns, values), with values in the storage order of `like`: usually a view."""
    strides = like.stride()
    order = sorted(range(2, like.ndim), key=lambda dim: -strides[dim])
    return columns.permute(1, 0, *order).flatten(2)


def _weights(grams: torch.Tensor, count: int, most: int, generator: torch.Generator) -> torch.Tensor:
    """The weights of the given columns in the merged ones, (..., most, count) in float64, from their Gram matrices."""
    if not bool(grams.isfinite().all()):
        raise ValueError("expected finite gradients, got NaN or infinity; check the model's outputs for these inputs")
    axes = torch.linalg.eigh(grams.cpu().double()).eigenvectors.flip(-1)
    coins = integers(0, 2, (*axes.shape[:-2], 1, count), generator)
    columns: torch.Tensor = ((axes * (2 * coins - 1)) @ _grouping(count, most)).mT
    return columns


@lru_cache
def _grouping(count: int, most: int) -> torch.Tensor:
    """Which of `most` groups each of `count` columns, largest first, joins, as zeros and ones (count, most)."""
    kept = most // 2
    shared = most - kept
    groups = torch.zeros(count, most, dtype=torch.float64, device="cpu")
    for column in range(count):
        turn, position = divmod(column - kept, shared)
        group = column if column < kept else kept + (position if turn % 2 == 0 else shared - 1 - position)
        groups[column, group] = 1
    return groups
