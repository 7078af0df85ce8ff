"""The number of branches on a path: binomial, or Poisson-binomial under stochastic depth.

Probabilities are kept as logarithms, and counts as exact integers: 2^n paths exceed any float for a thousand blocks.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..arguments import checked
from ..network import BlockRef, UnrolledNetwork
from ..records import Record
from ..tables import data_frame
from .block_graph import PathGraph, chain_graph, path_graph

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class LengthDistribution(Record):
    """The distribution of path lengths of n blocks.

    Attributes:
        n: number of remaining blocks.
        keep: probability that a path takes each block's branch, (n,); None: all paths are equally likely.
        lengths: 0..n for a chain; up to the longest path for another graph.
        log_probability: natural logarithm of each length's probability, (n + 1,).
        log_paths: natural logarithm of the (expected) total number of paths.
        counts: the number of paths of each length, if the blocks are not a chain; None: a chain.
    """

    DIMENSIONS: ClassVar = {"log_probability": "length"}
    COORDINATES: ClassVar = {"length": "lengths"}

    n: int
    keep: tuple[float, ...] | None
    lengths: np.ndarray
    log_probability: np.ndarray
    log_paths: float
    counts: tuple[int, ...] | None = None

    @property
    def probability(self) -> np.ndarray:
        """The probability of each length. Tiny ones underflow to 0; `log_probability` does not."""
        probability: np.ndarray = np.exp(self.log_probability)
        return probability

    @property
    def mean(self) -> float:
        """The mean length, ``sum p_i`` (n/2 for a chain with equally likely paths)."""
        if self.counts is not None:
            return float(self.probability @ self.lengths)
        return self.n / 2 if self.keep is None else math.fsum(self.keep)

    @property
    def variance(self) -> float:
        """The variance of the length, ``sum p_i (1 - p_i)`` (n/4 for a chain with equally likely paths)."""
        if self.counts is not None:
            return float(self.probability @ (self.lengths - self.mean) ** 2)
        return self.n / 4 if self.keep is None else math.fsum(p * (1 - p) for p in self.keep)

    @property
    def paths(self) -> int:
        """The number of paths as an exact integer; 2^n for a chain."""
        return 2**self.n if self.counts is None else sum(self.counts)

    def count(self, length: int) -> int:
        """The exact number of paths of a length; ``C(n, length)`` for a chain."""
        if not 0 <= length < len(self.lengths):
            return 0
        return math.comb(self.n, length) if self.counts is None else self.counts[length]

    def share(self, low: int, high: int) -> float:
        """The share of paths whose length is between `low` and `high` inclusive.

        For equally likely paths it is the quotient of two exact integers, rounded once.

        Raises:
            ValueError: `low` is above `high`.

        Example:
            >>> deep = path_lengths(54)
            >>> f"{deep.share(5, 17):.4%}", f"{deep.share(19, 35):.2%}"
            ('0.4537%', '98.02%')
        """
        if low > high:
            raise ValueError(f"expected low <= high, got {low} > {high}; swap them")
        inside = range(max(low, 0), min(high, len(self.lengths) - 1) + 1)
        if self.keep is None:
            return float(Fraction(sum(self.count(k) for k in inside), self.paths))
        return min(1.0, math.fsum(float(self.probability[k]) for k in inside))

    def interval(self, mass: float = 0.95) -> tuple[int, int]:
        """The central range of lengths, with at most (1 - mass)/2 of the paths on either side.

        Example:
            >>> path_lengths(54).interval(0.98)
            (19, 35)
        """
        return central_interval(self.probability, mass)

    def to_pandas(self) -> pd.DataFrame:
        """One row per length: length, log_probability, probability, count (exact integers)."""
        return data_frame(
            {
                "length": self.lengths,
                "log_probability": self.log_probability,
                "probability": self.probability,
                "count": np.array([self.count(int(k)) for k in self.lengths], dtype=object),
            }
        )


@checked
def path_lengths(
    network: int | UnrolledNetwork,
    *,
    keep: float | Sequence[float] | None = None,
    dropped: int | Sequence[BlockRef] = 0,
) -> LengthDistribution:
    """The distribution of path lengths: how many branches a path passes through.

    Without `keep`, all 2^n paths are equally likely and the length is Binomial(n, 1/2), with C(n, k) paths of length k.
    With keep probabilities p_i, a path takes block i's branch with probability p_i, independently. That gives the
    Poisson-binomial distribution with generating function ``prod (1 - p_i + p_i t)`` (with stochastic depth, the
    number of blocks present in a training step). Dropping d blocks leaves 2^(n-d) paths.

    This holds for a chain of blocks. In general a path is a walk back from the output. Each step goes from a block's
    shortcut or branch (parallel branches together), or from the output, to a sum, or the input, that this term depends
    on without passing another sum. The length is the number of branches entered. All walks are counted exactly. The
    input is the one that most blocks depend on, so blocks on other inputs may lie on no path.

    Args:
        network: the number of blocks, or a network.
        keep: None, one probability for all blocks, or one per block (only for a chain).
        dropped: the blocks to drop: their number (only for a chain), or their indices or names.

    Returns:
        The distribution over the lengths 0..n-d, exact in log space for n in the thousands.

    Raises:
        ValueError: a number is out of range; keep probabilities, or just a number of dropped blocks, are given for a
            network whose blocks are not a chain; or no path is left.

    Cost: negligible for a chain without `keep`; O(n^2) additions with keep probabilities, or on other graphs.

    Source: Veit, Wilber and Belongie (2016), sections 3 and 5; Huang et al. (2016) for stochastic depth.

    Example:
        >>> distribution = path_lengths(3)
        >>> [distribution.count(k) for k in range(4)]
        [1, 3, 3, 1]
        >>> path_lengths(54, dropped=10).paths == 2**44
        True
        >>> float(path_lengths(2, keep=[1.0, 0.5]).probability[1])
        0.5
    """
    graph = _graph_of(network)
    if graph is not None:
        if keep is not None:
            raise ValueError(
                "expected no keep probabilities for a network whose blocks are not a chain, where a path need not pass "
                "all of them; surviving_path_lengths counts the paths that a training step leaves"
            )
        if not isinstance(dropped, Iterable) and dropped:
            raise ValueError(
                f"expected the blocks to drop by name or index, since they are not a chain, got the number {dropped}"
            )
    n, removed = _blocks_and_dropped(network, dropped)
    remaining = n - len(removed)
    if graph is not None:
        counts = graph.weighted_counts([int(index not in removed) for index in range(n)])
        return distribution_of(remaining, [int(count) for count in counts])
    if keep is None:
        logs = _log_binomial(remaining)
        return LengthDistribution(remaining, None, np.arange(remaining + 1), logs, remaining * math.log(2))
    probabilities = [p for i, p in enumerate(_keep(keep, n)) if i not in removed]
    logs = _log_poisson_binomial([(1 - p, p) for p in probabilities])
    return LengthDistribution(remaining, tuple(probabilities), np.arange(remaining + 1), logs, remaining * math.log(2))


@checked
def surviving_path_lengths(network: int | UnrolledNetwork, keep: float | Sequence[float]) -> LengthDistribution:
    """Which paths stochastic depth trains: the expected number of paths of each length that survive a step.

    Block i survives a step with probability p_i, so a path P survives with probability ``prod_{i in P} p_i``, and the
    expected number of surviving paths of length k is the coefficient of t^k in ``prod (1 + p_i t)``. Normalised, that
    is Poisson-binomial with probabilities ``p_i / (1 + p_i)``. On graphs other than chains, the same sum over all paths
    is computed by the recursion that counts them.

    Args:
        network: the number of blocks, or a network.
        keep: one survival probability for all blocks, or one per block.

    Returns:
        The distribution of lengths among surviving paths; `log_paths` is the logarithm of their expected number.

    Source: Veit, Wilber and Belongie (2016), section 5, on Huang et al. (2016).

    Example:
        >>> half = surviving_path_lengths(54, 0.5)
        >>> round(half.mean, 2), round(half.log_paths / 0.6931471805599453, 2)
        (18.0, 31.59)
    """
    n, _ = _blocks_and_dropped(network, 0)
    probabilities = _keep(keep, n)
    graph = _graph_of(network)
    if graph is not None:
        expected = np.array(graph.weighted_counts(probabilities), dtype=float)
        with np.errstate(divide="ignore"):
            logs = np.log(expected) - np.log(expected.sum())
        lengths, log_paths = np.arange(len(expected)), float(np.log(expected.sum()))
        return LengthDistribution(n, tuple(probabilities), lengths, logs, log_paths, graph.counts)
    odds = [p / (1 + p) for p in probabilities]
    logs = _log_poisson_binomial([(1 / (1 + p), p / (1 + p)) for p in probabilities])
    log_paths = math.fsum(math.log1p(p) for p in probabilities)
    return LengthDistribution(n, tuple(odds), np.arange(n + 1), logs, log_paths)


def distribution_of(n: int, counts: Sequence[int]) -> LengthDistribution:
    """The distribution of lengths for n blocks, given the number of paths of each length.

    Raises:
        ValueError: there is no path.
    """
    total = sum(counts)
    if not total:
        raise ValueError(f"expected a path from the output to the input, got none through the {n} remaining blocks")
    last = max(length for length, count in enumerate(counts) if count)
    kept = tuple(counts[: last + 1])
    logs = np.array([math.log(count) - math.log(total) if count else -np.inf for count in kept])
    return LengthDistribution(n, None, np.arange(last + 1), logs, math.log(total), kept)


def _graph_of(network: int | UnrolledNetwork) -> PathGraph | None:
    """The graph of a network whose blocks are not a chain; otherwise None."""
    if not isinstance(network, UnrolledNetwork):
        return None
    graph = path_graph(network)
    return None if graph == chain_graph(len(network)) else graph


def central_interval(weights: np.ndarray, mass: float) -> tuple[int, int]:
    """The shortest index range with at most (1 - mass)/2 of the total weight on either side of it."""
    if not 0 < mass < 1:
        raise ValueError(f"expected a mass between 0 and 1, got {mass}")
    tail = (1 - mass) / 2 * weights.sum()
    below, above = np.cumsum(weights), np.cumsum(weights[::-1])
    return int((below > tail).argmax()), len(weights) - 1 - int((above > tail).argmax())


def _blocks_and_dropped(network: int | UnrolledNetwork, dropped: int | Sequence[BlockRef]) -> tuple[int, set[int]]:
    n = len(network) if isinstance(network, UnrolledNetwork) else operator.index(network)
    if n < 0:
        raise ValueError(f"expected at least 0 blocks, got {n}")
    if not isinstance(dropped, Iterable):
        dropped = operator.index(dropped)
        if not 0 <= dropped <= n:
            raise ValueError(f"expected 0 to {n} dropped blocks, got {dropped}")
        return n, set(range(n - dropped, n))
    if isinstance(network, UnrolledNetwork):
        return n, set(network.indices(dropped))
    wrong = [block for block in dropped if not isinstance(block, int) or not 0 <= block < n]
    if wrong or len(set(dropped)) < len(dropped):
        raise ValueError(f"expected different block indices from 0 to {n - 1}, got {list(dropped)}")
    return n, {block for block in dropped if isinstance(block, int)}


def _keep(keep: float | Sequence[float], n: int) -> list[float]:
    values = [float(p) for p in keep] if isinstance(keep, Iterable) else [float(keep)] * n
    if len(values) != n:
        raise ValueError(f"expected one keep probability or {n}, one per block, got {len(values)}")
    wrong = [p for p in values if not 0 <= p <= 1]
    if wrong:
        raise ValueError(f"expected keep probabilities from 0 to 1, got {wrong[0]}")
    return values


def _log_binomial(n: int) -> np.ndarray:
    return np.array([math.log(math.comb(n, k)) - n * math.log(2) for k in range(n + 1)])


def _log_poisson_binomial(terms: Sequence[tuple[float, float]]) -> np.ndarray:
    """Logarithms of the coefficients of ``prod (a_i + b_i t)``."""
    logs = np.array([0.0])
    with np.errstate(divide="ignore"):
        for factor_skipped, factor_taken in terms:
            stay = np.append(logs + np.log(factor_skipped), -np.inf)
            move = np.append(-np.inf, logs + np.log(factor_taken))
            logs = np.logaddexp(stay, move)
    return logs
