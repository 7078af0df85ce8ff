"""The best of all 2^n sets by a quadratic function of what is in them: halves of the blocks against each other."""

from __future__ import annotations

import numpy as np

from .scores import Set

MOST_MODELLED = 30
"""Blocks of which 2^n sums can be computed: a thousand million, in a minute or two."""
_LOW = 15
"""Blocks of the half whose 2^15 sets are one vector."""


def best_sets(
    single: np.ndarray, pairs: np.ndarray, weights: np.ndarray, edges: np.ndarray, keep: int
) -> list[list[Set]]:
    """Of all sets S the `keep` with the smallest ``sum_i single_i + sum_{i<j} pairs_ij`` in each range of their weight.

    With the blocks in two halves A and B, ``L(S) = L(A) + L(B) + sum_{i in A} c_i(B)`` and ``c_i(B) = sum_{j in B}
    pairs_ij``: for each of the sets of one half the sums of all sets of the other are one vector, made of two additions
    a set. The other half is sorted by weight, so that a range of weights is a slice of it.

    Args:
        single: (n,).
        pairs: (n, n), upper triangle.
        weights: (n,).
        edges: the ends of ranges, in order: up to the first, from there to the second, and so on.
        keep: sets of each range.

    Returns:
        For each range but the first (which holds the empty set) its sets, the best first; fewer where there are none.

    Cost: 2^n additions, in numpy: about 1 s for 27 blocks, 10 s for 30.

    Example:
        >>> best_sets(np.array([1.0, 2.0, 4.0]), np.zeros((3, 3)), np.ones(3), np.array([0.5, 1.5, 2.5]), 2)
        [[(0,), (1,)], [(0, 1), (0, 2)]]
    """
    n = len(single)
    low = min(n, _LOW)
    sums, heavy = _subset_sums(single[:low], pairs[:low, :low]), _subset_sums(weights[:low])
    order = np.argsort(heavy, kind="stable")
    sums, heavy = sums[order], heavy[order]
    cross = pairs[:low, low:]
    upper, weight = _subset_sums(single[low:], pairs[low:, low:]), _subset_sums(weights[low:])

    tables = [_Best(keep) for _ in edges]
    for high in range(len(upper)):
        inside = np.array([high >> bit & 1 for bit in range(n - low)], dtype=bool)
        totals = sums + upper[high] + _subset_sums(cross[:, inside].sum(1))[order]
        cuts = np.searchsorted(heavy, edges - weight[high], side="right")
        starts = np.concatenate([[0], cuts[:-1]])
        full = np.flatnonzero(starts < cuts)
        if not len(full):
            continue
        # reduceat goes from each start to the next: between two ranges that hold sets there is nothing else
        least = np.minimum.reduceat(totals[: cuts[full[-1]]], starts[full])
        for table, value in zip(full, least, strict=True):
            if value < tables[table].worst:
                part = slice(int(starts[table]), int(cuts[table]))
                tables[table].take(totals[part], order[part] | high << low)
    return [[_members(mask) for mask in table.masks.tolist()] for table in tables[1:]]


def _subset_sums(single: np.ndarray, pairs: np.ndarray | None = None) -> np.ndarray:
    """The sum over each of the 2^n sets, bit i of its index for block i, by doubling."""
    sums = np.zeros(1)
    for block, value in enumerate(single):
        with_it = sums + value
        if pairs is not None:
            with_it = with_it + _subset_sums(pairs[:block, block])
        sums = np.concatenate([sums, with_it])
    return sums


class _Best:
    """The smallest few of what it is given."""

    def __init__(self, keep: int) -> None:
        self.keep, self.values, self.masks = keep, np.empty(0), np.empty(0, dtype=np.int64)

    @property
    def worst(self) -> float:
        """What a value has to be below."""
        return float(self.values[-1]) if len(self.values) == self.keep else np.inf

    def take(self, values: np.ndarray, masks: np.ndarray) -> None:
        if len(values) > self.keep:
            few = np.argpartition(values, self.keep - 1)[: self.keep]
            values, masks = values[few], masks[few]
        values, masks = np.concatenate([self.values, values]), np.concatenate([self.masks, masks])
        order = np.lexsort((masks, values))[: self.keep]
        self.values, self.masks = values[order], masks[order]


def _members(mask: int) -> Set:
    return tuple(bit for bit in range(mask.bit_length()) if mask >> bit & 1)
