"""Values and interactions of a game given as a table of all coalitions' values: pure arithmetic, no network."""

from __future__ import annotations

from math import comb
from typing import Literal

import numpy as np

from ..arguments import checked

Method = Literal["shapley", "banzhaf", "leave-one-out"]


@checked
def all_coalitions(n: int) -> np.ndarray:
    """All coalitions as zeros and ones, (2^n, n); bit i of a row's index tells whether player i is in.

    Example:
        >>> all_coalitions(2).tolist()
        [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    rows: np.ndarray = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    return rows


def growing(order: np.ndarray) -> np.ndarray:
    """The coalitions of the first 1 to n - 1 players in an order, (n - 1, n)."""
    n = len(order)
    rows = np.zeros((n - 1, n))
    for size in range(1, n):
        rows[size - 1, order[:size]] = 1
    return rows


@checked
def table_values(table: np.ndarray, method: Method = "shapley") -> np.ndarray:
    """Each player's value from the values of all coalitions.

    Shapley: ``φ_i = Σ_S |S|! (n-|S|-1)! / n! (v(S∪i) - v(S))``; Banzhaf: the plain mean of ``v(S∪i) - v(S)``.

    Args:
        table: values in the order of :func:`all_coalitions`, (2^n, ...); further dimensions are separate games.
        method: ``shapley`` or ``banzhaf``.

    Returns:
        The values, (n, ...).

    Raises:
        ValueError: the table's length is not a power of two.

    Source: Shapley (1953); Banzhaf (1965).

    Example:
        >>> table_values(np.array([0.0, 1.0, 2.0, 6.0])).tolist()
        [2.5, 3.5]
    """
    n, masks, sizes = _players(table)
    weights = _weights(n, method, 1)
    values = np.empty((n, *table.shape[1:]))
    for player in range(n):
        without = masks[(masks >> player) & 1 == 0]
        gains = table[without | (1 << player)] - table[without]
        values[player] = np.tensordot(weights[sizes[without]], gains, 1)
    return values


@checked
def table_interactions(table: np.ndarray, method: Method = "shapley") -> np.ndarray:
    """Each pair's interaction from the values of all coalitions, zero on the diagonal.

    ``I_ij = Σ_S w(|S|) (v(S∪ij) - v(S∪i) - v(S∪j) + v(S))``, summed over the S without i and j, with Shapley's weights
    ``|S|! (n-|S|-2)! / (n-1)!`` or Banzhaf's ``2^(2-n)``.

    Args:
        table: values in the order of :func:`all_coalitions`, (2^n, ...).
        method: ``shapley`` or ``banzhaf``.

    Returns:
        The interactions, (n, n, ...).

    Source: Grabisch and Roubens (1999).

    Example:
        >>> table_interactions(np.array([0.0, 1.0, 2.0, 6.0])).tolist()
        [[0.0, 3.0], [3.0, 0.0]]
    """
    n, masks, sizes = _players(table)
    pairs = np.zeros((n, n, *table.shape[1:]))
    weights = _weights(n, method, 2) if n > 1 else np.zeros(1)
    for one in range(n):
        for other in range(one):
            i, j = 1 << one, 1 << other
            rest = masks[masks & (i | j) == 0]
            both = table[rest | i | j] - table[rest | i] - table[rest | j] + table[rest]
            pairs[one, other] = pairs[other, one] = np.tensordot(weights[sizes[rest]], both, 1)
    return pairs


def _players(table: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    n = len(table).bit_length() - 1
    if len(table) != 2**n or n < 1:
        raise ValueError(f"expected one value for each of 2^n coalitions, got {len(table)}")
    masks = np.arange(2**n)
    return n, masks, np.array([int(mask).bit_count() for mask in masks])


def _weights(n: int, method: Method, fixed: int) -> np.ndarray:
    """The weight of a coalition of the other n - fixed players, by its size."""
    if method not in ("shapley", "banzhaf"):
        raise ValueError(f"expected method 'shapley' or 'banzhaf', got {method!r}")
    others = n - fixed
    if method == "banzhaf":
        return np.full(others + 1, 0.5**others)
    return np.array([1 / ((others + 1) * comb(others, size)) for size in range(others + 1)])
