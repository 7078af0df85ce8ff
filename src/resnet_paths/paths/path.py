"""Explicit paths: which branches a path takes, listed lazily."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import overload

import torch

from ..network import UnrolledNetwork


@dataclass(frozen=True, order=True)
class Path:
    """One path through the unrolled network.

    Attributes:
        units: the units whose branch it takes, input side first; elsewhere it takes the shortcut.
        n: the number of units of the network.
        passed: the units through whose sum it leads, where that is not all of them (in a graph that is no chain).
    """

    units: tuple[int, ...]
    n: int
    passed: tuple[int, ...] | None = None

    @property
    def length(self) -> int:
        """The number of branches that it passes through."""
        return len(self.units)

    @property
    def rank(self) -> int:
        """Its number among all 2^n paths of a chain: bit i is set when it takes branch i."""
        return sum(1 << unit for unit in self.units)

    def gates(self) -> torch.Tensor:
        """The indicator of the branches taken, (n,), float64.

        As gates of the network they keep this path and all paths through a part of its branches.
        """
        indicator = torch.zeros(self.n, dtype=torch.float64)
        indicator[list(self.units)] = 1.0
        return indicator


class Paths(Sequence[Path]):
    """All paths, or all of one length, as a sequence that computes each path when it is asked for.

    All paths come in the order of their rank; those of one length in lexicographic order of their units.
    """

    def __init__(self, n: int, length: int | None = None) -> None:
        self.n = n
        self.length = length

    @property
    def count(self) -> int:  # type: ignore[override]
        """The number of paths, exact for every n: 2^n, or C(n, length)."""
        return 2**self.n if self.length is None else math.comb(self.n, self.length)

    def by_length(self, length: int) -> Paths:
        """The paths of one length.

        Raises:
            ValueError: no path has that length.
        """
        return Paths(self.n, _length(length, self.n))

    def __len__(self) -> int:
        if self.count > sys.maxsize:
            raise OverflowError(f"len() cannot say {self.count}; use .count, which can")
        return self.count

    def __bool__(self) -> bool:
        return self.count > 0

    def __iter__(self) -> Iterator[Path]:
        if self.length is not None:
            return (Path(units, self.n) for units in combinations(range(self.n), self.length))
        return (_from_rank(rank, self.n) for rank in _count_up(self.count))

    @overload
    def __getitem__(self, rank: int) -> Path: ...
    @overload
    def __getitem__(self, rank: slice) -> Sequence[Path]: ...
    def __getitem__(self, rank: int | slice) -> Path | Sequence[Path]:
        if isinstance(rank, slice):
            return [self[index] for index in range(*rank.indices(self.count))]
        place = operator.index(rank)
        if not -self.count <= place < self.count:
            raise IndexError(f"expected an index from {-self.count} to {self.count - 1}, got {place}")
        place %= self.count
        if self.length is None:
            return _from_rank(place, self.n)
        return Path(_combination(place, self.n, self.length), self.n)

    def __contains__(self, path: object) -> bool:
        if not isinstance(path, Path) or path.n != self.n:
            return False
        return self.length is None or path.length == self.length

    def __repr__(self) -> str:
        which = "" if self.length is None else f" of length {self.length}"
        return f"<{self.count} paths{which} through {self.n} units>"


def paths(network: int | UnrolledNetwork, length: int | None = None) -> Paths:
    """All paths through a network, or those of one length, lazily and for any n.

    In the unrolled view every unit doubles the paths: 2^n of them, C(n, k) of length k.

    Args:
        network: the number of units, or a network.
        length: only paths of this length.

    Returns:
        A sequence of :class:`Path`. ``len`` is their number where Python can say it, ``count`` always is.

    Raises:
        ValueError: no path has that length.

    Cost: O(n) for each path asked for; nothing is stored.

    Source: Veit, Wilber and Belongie (2016), section 3.

    Example:
        >>> every = paths(3)
        >>> len(every), every[5]
        (8, Path(units=(0, 2), n=3, passed=None))
        >>> [path.units for path in every.by_length(2)]
        [(0, 1), (0, 2), (1, 2)]
        >>> paths(500).count == 2**500, next(iter(paths(500, 250))).length
        (True, 250)
    """
    n = len(network) if isinstance(network, UnrolledNetwork) else operator.index(network)
    if n < 0:
        raise ValueError(f"expected a number of units of at least 0, got {n}")
    return Paths(n, None if length is None else _length(length, n))


def _length(length: int, n: int) -> int:
    if not 0 <= operator.index(length) <= n:
        raise ValueError(f"expected a length from 0 to {n}, got {length}")
    return operator.index(length)


def _count_up(end: int) -> Iterator[int]:
    value = 0
    while value < end:
        yield value
        value += 1


def _from_rank(rank: int, n: int) -> Path:
    return Path(tuple(unit for unit in range(n) if rank >> unit & 1), n)


def _combination(rank: int, n: int, length: int) -> tuple[int, ...]:
    """The rank-th of the combinations in lexicographic order."""
    units: list[int] = []
    unit = 0
    while len(units) < length:
        after = math.comb(n - unit - 1, length - len(units) - 1)
        if rank < after:
            units.append(unit)
        else:
            rank -= after
        unit += 1
    return tuple(units)
