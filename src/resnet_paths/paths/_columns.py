"""The second moment of all paths' gradients, carried as a few columns for each length.

For every length k keep a matrix ``A_k`` of at most `most` columns (gradients at one unit's entry) with
``E A_k A_k' = sum_{|P|=k} g_P g_P'`` over the paths so far. A unit takes A_k to ``[S'D' A_k, J'D' A_{k-1}]``, which has
up to twice as many columns and is cut down again: rotated to its principal axes (columns orthogonal, A A'
unchanged), the larger half kept as it is, the rest added up in groups with random signs.
"""

from __future__ import annotations

import torch

from ._graph_tape import GraphTape
from ._tape import Recorded, Tape

MERGE_BYTES = 64 * 2**20  # of columns that are merged together: beyond that nothing is gained


def pull_columns(tape: Tape, most: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Columns at the first recorded unit's entry, for each length (columns, batch, ...).

    ``E sum_c |column_c|^2 = sum_{|P|=k} |g_P|^2``, and without error for the lengths whose C(n, k) paths are no more
    than `most`. The gradient of the loss at the output is scaled to one for each example.

    Cost: at most ``most n (n + 1) / 2`` branch products, fewer where a length has fewer paths. Memory: twice the
    columns.
    """
    scale = seed_norms(tape)
    seed = tape.seed / torch.where(scale > 0, scale, 1).view(-1, *[1] * (tape.seed.ndim - 1))
    groups = [seed[None]]
    for _, unit in tape.backwards():
        groups = _through_unit(tape, unit, groups, most, generator)
    return groups


def pull_graph_columns(tape: GraphTape, most: int, generator: torch.Generator) -> list[torch.Tensor | None]:
    """Columns at the start of a graph, for each length (None: no gradient came); see :func:`pull_columns`.

    Columns that come to a vertex along different edges belong to different paths: they are put side by side, then
    merged with random signs where they are too many. (Added as they are, paths would cancel.)

    Cost: for each term at most `most` products for each length of the ways to it.
    """
    graph, scale = tape.graph, seed_norms(tape)
    seed = tape.seed / torch.where(scale > 0, scale, 1).view(-1, *[1] * (tape.seed.ndim - 1))
    waiting: dict[int, dict[int, list[torch.Tensor]]] = {len(graph.vertices) - 1: {0: [seed[None]]}}
    for place in reversed(range(len(graph.vertices))):
        arrived = waiting.pop(place, None)
        if arrived is None:
            continue
        lengths = sorted(arrived)
        groups = merge_groups([arrived.pop(length) for length in lengths], most, generator)
        if not graph.vertices[place].terms:
            by_length = dict(zip(lengths, groups, strict=True))
            return [by_length.get(length) for length in range(len(graph.counts))]
        sizes, columns = [len(group) for group in groups], torch.cat(groups)
        for term in graph.vertices[place].terms:
            shift = graph.shift(graph.vertices[place], term)
            for source, values in tape.through(place, term, columns)[0]:
                at_source = waiting.setdefault(source, {})
                for length, group in zip(lengths, values.split(sizes), strict=True):
                    at_source.setdefault(length + shift, []).append(group)
    return [None] * len(graph.counts)


def seed_norms(tape: Tape | GraphTape) -> torch.Tensor:
    """Norm of each example's gradient at the output, (batch,): what the columns were divided by."""
    return tape.seed.flatten(1).norm(dim=1)


def merge_columns(columns: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """At most `most` columns (..., m, batch, values) whose ``A A'`` is that of the given ones in expectation.

    With ``A'A = V L V'`` for each example the columns of A V are orthogonal and ``(A V)(A V)' = A A'``. The largest
    half of `most` stay; the others are dealt, largest first, forth and back, to as many groups as places are left,
    and each group is summed with independent random signs: orthogonal columns leave its trace exact, and its
    other entries right in expectation.
    """
    count = columns.shape[-3]
    if count <= most:
        return columns
    flat = columns.transpose(-3, -2)
    gram = (flat @ flat.transpose(-1, -2)).cpu().double()
    axes = torch.linalg.eigh(gram).eigenvectors.flip(-1)
    coins = torch.randint(0, 2, (*axes.shape[:-2], 1, count), generator=generator)
    weights = (axes * (2 * coins - 1)) @ _dealt(count, most)
    return (weights.transpose(-1, -2).to(flat) @ flat).transpose(-3, -2)


def merge_groups(groups: list[list[torch.Tensor]], most: int, generator: torch.Generator) -> list[torch.Tensor]:
    """For each length its parts (columns, batch, ...) side by side, merged to at most `most` columns.

    Lengths with the same number of columns, as most have, are merged together: one by one, the small products and
    decompositions of deep networks cost more than the convolutions.
    """
    merged: list[torch.Tensor | None] = [None] * len(groups)
    by_count: dict[int, list[int]] = {}
    for length, parts in enumerate(groups):
        count = sum(map(len, parts))
        if count > most:
            by_count.setdefault(count, []).append(length)
        else:
            merged[length] = parts[0] if len(parts) == 1 else torch.cat(parts)
    for count, lengths in by_count.items():
        example = groups[lengths[0]][0]
        room = max(1, MERGE_BYTES // (count * example[0].numel() * example.element_size()))
        for begin in range(0, len(lengths), room):
            some = lengths[begin : begin + room]
            stacked = torch.stack([torch.cat(groups[length]) for length in some])
            for length, columns in zip(some, merge_columns(stacked.flatten(3), most, generator), strict=True):
                merged[length] = columns.reshape(most, *example.shape[1:])
    return [columns for columns in merged if columns is not None]


def _dealt(count: int, most: int) -> torch.Tensor:
    """Which of `most` groups each of `count` columns, largest first, joins: (count, most) of zeros and ones."""
    alone = most // 2
    places = most - alone
    groups = torch.zeros(count, most, dtype=torch.float64)
    for column in range(count):
        turn, place = divmod(column - alone, places)
        group = column if column < alone else alone + (place if turn % 2 == 0 else places - 1 - place)
        groups[column, group] = 1
    return groups


def _through_unit(
    tape: Tape, unit: Recorded, groups: list[torch.Tensor], most: int, generator: torch.Generator
) -> list[torch.Tensor]:
    """The columns of each length at a unit's entry, from those at its exit (which are let go block by block).

    As many lengths go together as one product takes rows: more would leave the cache, and be allocated anew each time.
    """
    room = tape.rows_at_once(unit.entry, unit.total)
    groups.reverse()
    grown: list[torch.Tensor] = []
    longer: list[torch.Tensor] = []
    while groups:
        block = [groups.pop()]
        while groups and sum(map(len, block)) + len(groups[-1]) <= room:
            block.append(groups.pop())
        sizes = [len(group) for group in block]
        short, branch = _both_ways(tape, unit, torch.cat(block))
        by_branch = branch.split(sizes)
        before = [*longer, *by_branch[:-1]] if longer else [None, *by_branch[:-1]]
        parts = zip(short.split(sizes), before, strict=True)
        grown += merge_groups([[one] if other is None else [one, other] for one, other in parts], most, generator)
        longer = [by_branch[-1]]
    return [*grown, *longer]


def _both_ways(tape: Tape, unit: Recorded, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    short, branch = [], []
    for part in reversed(tape.chunks(len(columns), unit.entry, unit.total)):
        (total,) = tape.through_join(unit, columns[part])
        short += tape.through_shortcut(unit, total)
        branch += tape.through_branch(unit, total)
    return torch.cat(short), torch.cat(branch)
