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
        groups = [merge_columns(torch.cat(arrived.pop(length)), most, generator) for length in lengths]
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
    """At most `most` columns (m, batch, ...) whose ``A A'`` is that of the given ones in expectation.

    With ``A'A = V L V'`` for each example the columns of A V are orthogonal and ``(A V)(A V)' = A A'``. The largest
    half of `most` stay; the others are dealt, largest first, forth and back, to as many groups as places are left,
    and each group is summed with independent random signs: orthogonal columns leave its trace exact, and its
    other entries right in expectation.
    """
    count = len(columns)
    if count <= most:
        return columns
    flat = columns.flatten(2).transpose(0, 1)
    gram = (flat @ flat.transpose(1, 2)).cpu().double()
    axes = torch.linalg.eigh(gram).eigenvectors.flip(2)
    coins = torch.randint(0, 2, (len(axes), 1, count), generator=generator)
    weights = (axes * (2 * coins - 1)) @ _dealt(count, most)
    merged = torch.einsum("bmc,bmd->cbd", weights.to(flat), flat)
    return merged.reshape(most, *columns.shape[1:])


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
    """The columns of each length at a unit's entry, from those at its exit (which are let go one by one)."""
    grown: list[torch.Tensor] = []
    longer: torch.Tensor | None = None
    groups.reverse()
    while groups:
        short, branch = _both_ways(tape, unit, groups.pop())
        grown.append(merge_columns(short if longer is None else torch.cat([short, longer]), most, generator))
        longer = branch
    assert longer is not None
    return [*grown, longer]


def _both_ways(tape: Tape, unit: Recorded, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    short, branch = [], []
    for part in reversed(tape.chunks(len(columns), unit.entry, unit.total)):
        (total,) = tape.through_join(unit, columns[part])
        short += tape.through_shortcut(unit, total)
        branch += tape.through_branch(unit, total)
    return torch.cat(short), torch.cat(branch)
