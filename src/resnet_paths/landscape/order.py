"""The order of a grid's cells: coarse first, then finer."""

from __future__ import annotations


def coarse_to_fine(columns: int, rows: int = 1) -> list[list[tuple[int, int]]]:
    """The cells (row, column) of a grid in levels: the corners, then what halves the gaps, until all are there.

    Each cell is in exactly one level; the first k levels together are a coarse grid with the full one's corners.

    Example:
        >>> coarse_to_fine(5)
        [[(0, 0), (0, 4)], [(0, 2)], [(0, 1), (0, 3)]]
        >>> [len(level) for level in coarse_to_fine(5, 3)]
        [4, 5, 6]
    """
    across, down = _levels(columns), _levels(rows)
    deepest = max(max(across), max(down))
    levels: list[list[tuple[int, int]]] = [[] for _ in range(deepest + 1)]
    for row in range(rows):
        for column in range(columns):
            levels[max(across[column], down[row])].append((row, column))
    return levels


def _levels(count: int) -> list[int]:
    """For each index the round of halvings in which it appears; the ends in round 0."""
    level = [-1] * count
    gaps = [(0, count - 1)]
    level[0] = level[-1] = 0
    step = 0
    while gaps:
        step += 1
        finer = []
        for low, high in gaps:
            if high - low < 2:
                continue
            middle = (low + high) // 2
            level[middle] = step
            finer += [(low, middle), (middle, high)]
        gaps = finer
    return level
