"""The block game: what each unit is worth when any of the others may be missing too.

A coalition S is the set of units kept; its value v(S) is the metric of the network with the others deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np
import pandas as pd
import torch

from ..data import ImageData
from ..unroll import Evaluations, UnitRef, UnrolledNetwork
from ..unroll.fingerprint import fingerprint
from .evaluate import evaluate_gates
from .metrics import Metric, metric_named

Method = Literal["shapley", "banzhaf", "leave-one-out"]
_MOST_EXHAUSTIVE = 16


@dataclass(frozen=True, eq=False)
class BlockValues:
    """The value of each unit, in the units of the metric.

    Attributes:
        names: the units that play.
        units: their indices.
        method: ``shapley``, ``banzhaf`` or ``leave-one-out``.
        metric: name of the metric.
        values: (n,) how much each unit adds to the metric (below zero: it lowers an error or a loss).
        standard_errors: (n,) of the sampling; zeros where all coalitions were evaluated.
        interactions: (n, n) pairwise interactions, or None; zero on the diagonal.
        whole: the metric with all units.
        empty: the metric with none of the playing units.
        coalitions: number of coalitions evaluated.
        exhaustive: all 2^n coalitions were evaluated.
        evaluations: pieces of the network evaluated, over all batches of images.
        seed: of the sampling.
        data: name of the data.
        model_fingerprint: of the model.
        data_fingerprint: of the data.
    """

    names: tuple[str, ...]
    units: tuple[int, ...]
    method: Method
    metric: str
    values: np.ndarray
    standard_errors: np.ndarray
    interactions: np.ndarray | None
    whole: float
    empty: float
    coalitions: int
    exhaustive: bool
    evaluations: Evaluations
    seed: int
    data: str
    model_fingerprint: str
    data_fingerprint: str

    def to_pandas(self) -> pd.DataFrame:
        """One row a unit."""
        return pd.DataFrame(
            {"unit": self.units, "name": self.names, "value": self.values, "standard_error": self.standard_errors}
        )


def block_values(
    net: UnrolledNetwork,
    data: ImageData,
    *,
    method: Method = "shapley",
    metric: str | Metric = "loss",
    units: Sequence[UnitRef] | None = None,
    interactions: bool = False,
    precision: float | None = None,
    most_permutations: int = 200,
    seed: int = 0,
    batch_size: int = 100,
    fast: bool = True,
    progress: bool = True,
) -> BlockValues:
    """What each unit is worth in the game whose coalitions are sets of units kept.

    Shapley: ``φ_i = Σ_S |S|! (n-|S|-1)! / n! (v(S∪i) - v(S))``; the values add up to v(all) - v(none). Banzhaf: the
    plain mean of ``v(S∪i) - v(S)``. Leave-one-out: ``v(all) - v(all without i)``, the damage of a single deletion
    with the other sign. Interaction of two units: the Shapley interaction index of Grabisch and Roubens (1999),
    or Banzhaf's, ``v(S∪ij) - v(S∪i) - v(S∪j) + v(S)`` averaged likewise.

    Up to 16 units all 2^n coalitions are evaluated, sharing the network's prefixes. Beyond, Shapley values are
    estimated from random orders in antithetic pairs (an order and its reverse; Castro et al. 2009, Mitchell et
    al. 2022), with standard errors over pairs.

    Args:
        net: the network, in eval mode.
        data: labelled images.
        method: which value.
        metric: see :func:`single_deletions`.
        units: the units that play (default: all); the others are kept.
        interactions: pairwise interactions too (only where all coalitions are evaluated).
        precision: sample until every standard error is at most this (in the units of the metric).
        most_permutations: sample at most so many orders.
        seed: of the orders.
        batch_size: images at a time.
        fast: see :func:`evaluate_gates`.
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: Banzhaf values or interactions of more than 16 units; unknown method.

    Cost: for n playing units at the end of the network at most 2^(n+1) unit evaluations a batch instead of n 2^n;
    sampled, n - 1 coalitions an order.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> game = block_values(net, digits("test").subset(slice(0, 20)), units=[0, 9, 18])
        >>> bool(abs(game.values.sum() - (game.whole - game.empty)) < 1e-9)
        True
    """
    if method not in ("shapley", "banzhaf", "leave-one-out"):
        raise ValueError(f"expected method 'shapley', 'banzhaf' or 'leave-one-out', got {method!r}")
    players = list(range(len(net))) if units is None else net.indices(list(units))
    name, function = metric_named(metric)
    game = _Game(net, data, players, function, batch_size, fast, progress)
    n = len(players)
    exhaustive = method == "leave-one-out" or n <= _MOST_EXHAUSTIVE
    if not exhaustive and (method == "banzhaf" or interactions):
        raise ValueError(
            f"expected at most {_MOST_EXHAUSTIVE} units for Banzhaf values and interactions, got {n}; choose some with "
            "units="
        )
    pairs, errors = None, np.zeros(n)
    if method == "leave-one-out":
        values, whole, empty = _leave_one_out(game)
    elif exhaustive:
        table = game.all_coalitions()
        values, whole, empty = _from_table(table, n, method), float(table[-1]), float(table[0])
        pairs = _interactions(table, n, method) if interactions else None
    else:
        values, errors, whole, empty = _sampled(game, precision, most_permutations, seed)
    return BlockValues(
        names=tuple(net[index].name for index in players),
        units=tuple(players),
        method=method,
        metric=name,
        values=values,
        standard_errors=errors,
        interactions=pairs,
        whole=whole,
        empty=empty,
        coalitions=game.asked,
        exhaustive=exhaustive,
        evaluations=game.count,
        seed=seed,
        data=data.name,
        model_fingerprint=fingerprint(net.model),
        data_fingerprint=data.fingerprint,
    )


class _Game:
    """Values of coalitions, given as rows of zeros and ones over the players."""

    def __init__(
        self,
        net: UnrolledNetwork,
        data: ImageData,
        players: list[int],
        metric: Metric,
        batch_size: int,
        fast: bool,
        progress: bool,
    ) -> None:
        self.net, self.data, self.players, self.metric = net, data, players, metric
        self.batch_size, self.fast, self.progress = batch_size, fast, progress
        self.count = Evaluations()
        self.asked = 0

    def values(self, coalitions: np.ndarray) -> np.ndarray:
        gates = torch.ones(len(coalitions), len(self.net))
        gates[:, self.players] = torch.as_tensor(coalitions, dtype=gates.dtype)
        self.asked += len(coalitions)
        per_image = evaluate_gates(
            self.net,
            self.data,
            gates,
            self.metric,
            batch_size=self.batch_size,
            fast=self.fast,
            progress=self.progress,
            count=self.count,
        )
        mean: np.ndarray = per_image.mean(1)
        return mean

    def all_coalitions(self) -> np.ndarray:
        """(2^n,) values; bit i of the index says whether player i is in."""
        n = len(self.players)
        return self.values((np.arange(2**n)[:, None] >> np.arange(n)) & 1)


def _leave_one_out(game: _Game) -> tuple[np.ndarray, float, float]:
    n = len(game.players)
    values = game.values(np.concatenate([np.ones((1, n)), 1 - np.eye(n), np.zeros((1, n))]))
    return values[0] - values[1:-1], float(values[0]), float(values[-1])


def _weights(n: int, method: Method, fixed: int) -> np.ndarray:
    """The weight of a coalition of each size among the n - fixed other players."""
    others = n - fixed
    if method == "banzhaf":
        return np.full(others + 1, 0.5**others)
    return np.array([1 / ((others + 1) * comb(others, size)) for size in range(others + 1)])


def _from_table(table: np.ndarray, n: int, method: Method) -> np.ndarray:
    masks = np.arange(2**n)
    sizes = np.array([int(mask).bit_count() for mask in masks])
    weights = _weights(n, method, 1)
    values = np.empty(n)
    for player in range(n):
        without = masks[(masks >> player) & 1 == 0]
        values[player] = np.sum(weights[sizes[without]] * (table[without | (1 << player)] - table[without]))
    return values


def _interactions(table: np.ndarray, n: int, method: Method) -> np.ndarray:
    masks = np.arange(2**n)
    sizes = np.array([int(mask).bit_count() for mask in masks])
    weights = _weights(n, method, 2) if n > 1 else np.zeros(1)
    pairs = np.zeros((n, n))
    for one in range(n):
        for other in range(one):
            i, j = 1 << one, 1 << other
            rest = masks[masks & (i | j) == 0]
            both = table[rest | i | j] - table[rest | i] - table[rest | j] + table[rest]
            pairs[one, other] = pairs[other, one] = np.sum(weights[sizes[rest]] * both)
    return pairs


def _sampled(
    game: _Game, precision: float | None, most: int, seed: int, pairs_at_once: int = 4
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Means and standard errors over antithetic pairs of orders."""
    if most < 4:
        raise ValueError(f"expected at least 4 permutations, so that errors can be told, got {most}")
    n, generator = len(game.players), np.random.default_rng(seed)
    ends = game.values(np.stack([np.zeros(n), np.ones(n)]))
    found: list[np.ndarray] = []
    while len(found) < most // 2:
        draws = [generator.permutation(n) for _ in range(min(pairs_at_once, most // 2 - len(found)))]
        orders = [order for draw in draws for order in (draw, draw[::-1])]
        rows = np.concatenate([_growing(order) for order in orders])
        values = game.values(rows).reshape(len(orders), n - 1)
        gains = np.empty((len(orders), n))
        for row, (order, inner) in enumerate(zip(orders, values, strict=True)):
            gains[row, order] = np.diff(np.concatenate([ends[:1], inner, ends[1:]]))
        found.extend((gains[0::2] + gains[1::2]) / 2)
        errors = np.std(found, axis=0, ddof=1) / np.sqrt(len(found)) if len(found) > 1 else np.full(n, np.inf)
        if precision is not None and errors.max() <= precision:
            break
    return np.mean(found, axis=0), errors, float(ends[1]), float(ends[0])


def _growing(order: np.ndarray) -> np.ndarray:
    """The coalitions of 1 to n - 1 players that come in this order."""
    n = len(order)
    rows = np.zeros((n - 1, n))
    for size in range(1, n):
        rows[size - 1, order[:size]] = 1
    return rows
