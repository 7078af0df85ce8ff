"""Shapley values and interactions as literal averages over all orders of the players."""

from itertools import permutations

import numpy as np


def values_over_orders(table: np.ndarray) -> np.ndarray:
    """What each player adds when it comes, averaged over all orders; bit i of an index says that player i is in."""
    n = len(table).bit_length() - 1
    totals, count = np.zeros(n), 0
    for order in permutations(range(n)):
        here = 0
        for player in order:
            totals[player] += table[here | 1 << player] - table[here]
            here |= 1 << player
        count += 1
    return totals / count


def derivative_over_orders(table: np.ndarray, one: int, other: int) -> float:
    """The joint gain of two players beyond their single gains, over all orders in which they come as one."""
    n = len(table).bit_length() - 1
    rest = [player for player in range(n) if player not in (one, other)]
    total, count = 0.0, 0
    for order in permutations([*rest, -1]):
        here = 0
        for player in order:
            if player == -1:
                break
            here |= 1 << player
        i, j = 1 << one, 1 << other
        total += table[here | i | j] - table[here | i] - table[here | j] + table[here]
        count += 1
    return total / count
