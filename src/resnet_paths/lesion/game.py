"""The block game: what each block is worth if any of the others may be missing too.

A coalition S is the set of blocks kept; its value v(S) is the metric of the network with the other blocks deleted.
Single deletions miss redundancy: if two blocks do the same, deleting either one alone does no damage. Shapley values
average over all contexts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Unpack

import numpy as np
import torch

from ..arguments import checked
from ..choices import MetricName
from ..data import ImageSource, InMemory
from ..data.fitting import data_for
from ..data.metrics import Metric, bound_of, metric_named
from ..network import BlockRef, Evaluations
from ..provenance import Provenance, provenance
from ..records import Record
from ..statistics import combined_intervals, mean_intervals
from ..tables import data_frame
from ..warned import warn
from .coalitions import Method, all_coalitions, growing, table_interactions, table_values
from .evaluate import GateRows, Network, per_image, quick
from .options import Running, StudyOptions

if TYPE_CHECKING:
    import pandas as pd

    from .exploration import Exploration

MOST_EXHAUSTIVE = 16
"""With this many blocks, all 2^16 coalitions take at most 2^17 block evaluations per batch; beyond, sample."""
_PAIRS_AT_ONCE = 4
"""Pairs of orders evaluated together: larger batches share more prefixes, smaller ones stop sooner after the tolerance
is reached.
"""
_LEAST_PAIRS = 8
"""A standard error from fewer pairs is too uncertain (27 % with 8) to stop sampling by."""


@dataclass(frozen=True, eq=False)
class BlockValues(Record):
    """The value of each block, in units of the metric.

    Attributes:
        names: the blocks that play.
        blocks: their indices.
        method: ``shapley``, ``banzhaf`` or ``leave-one-out``.
        metric: name of the metric.
        values: how much each block lowers the metric, (n,). All metrics of this library are better when lower, so a
            block with a positive value helps and one with a negative value harms.
        standard_errors: standard errors from the sampling of orders, (n,); zero if all coalitions were evaluated.
        shared_variances: the part of their squares that the spread over images contains too, (n,), since each image's
            own value is estimated from the same few orders; zero if all coalitions were evaluated.
        interactions: pairwise interactions, (n, n), zero on the diagonal; or None.
        full: the metric with all blocks.
        empty: the metric with none of the playing blocks.
        coalitions: number of coalitions evaluated.
        exhaustive: whether all 2^n coalitions were evaluated.
        orders: number of sampled orders (0: none).
        tolerance: the requested bound on the standard errors, or None.
        evaluations: number of network pieces run, over all batches of images.
        per_image: the values of each image's own game, (n, images); their mean over images is `values`.
        interactions_per_image: the interactions of each image's own game, (n, n, images); or None.
        source: model, data, seed and versions.
    """

    DIMENSIONS: ClassVar = {
        "values": "block",
        "standard_errors": "block",
        "shared_variances": "block",
        "interactions": "block other",
        "per_image": "block image",
        "interactions_per_image": "block other image",
    }
    COORDINATES: ClassVar = {"block": "names", "other": "names"}

    names: tuple[str, ...]
    blocks: tuple[int, ...]
    method: Method
    metric: str
    values: np.ndarray
    standard_errors: np.ndarray
    shared_variances: np.ndarray
    interactions: np.ndarray | None
    full: float
    empty: float
    coalitions: int
    exhaustive: bool
    orders: int
    tolerance: float | None
    evaluations: Evaluations
    per_image: np.ndarray
    interactions_per_image: np.ndarray | None
    source: Provenance = field(repr=False)

    def intervals(self, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """The ends of intervals over images, and over orders if these were sampled, (n,) each.

        See :func:`resnet_paths.statistics.mean_intervals` and :func:`resnet_paths.statistics.combined_intervals`.
        """
        bound = bound_of(self.metric)
        if not self.orders:
            return mean_intervals(self.per_image, confidence, bound=bound)
        return combined_intervals(
            self.per_image, self.standard_errors, self.shared_variances, self.orders // 2, confidence, bound=bound
        )

    def interaction_intervals(self, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """The ends of intervals of the interactions over images, (n, n) each.

        Raises:
            ValueError: the record has no interactions.
        """
        if self.interactions_per_image is None:
            raise ValueError("expected a game with interactions, got one without; call block_values(interactions=True)")
        low, high = mean_intervals(self.interactions_per_image, confidence)
        diagonal = np.eye(len(low), dtype=bool)  # zero by definition, on every image
        return np.where(diagonal, 0.0, low), np.where(diagonal, 0.0, high)

    def to_pandas(self) -> pd.DataFrame:
        """One row per block; 95 % intervals over images and sampled orders are NaN for a single image."""
        low, high = self.intervals() if self.per_image.shape[1] > 1 else (np.nan, np.nan)
        return data_frame(
            {
                "block": self.blocks,
                "name": self.names,
                "value": self.values,
                "standard_error": self.standard_errors,
                "low": low,
                "high": high,
            }
        )


@checked
def block_values(
    net: Network,
    data: ImageSource,
    *,
    method: Method = "shapley",
    metric: MetricName | Metric = "loss",
    blocks: Sequence[BlockRef] | None = None,
    interactions: bool = False,
    tolerance: float | None = None,
    max_permutations: int = 200,
    exhaustive: bool | None = None,
    known: Exploration | None = None,
    seed: int = 0,
    **options: Unpack[StudyOptions],
) -> BlockValues:
    """The value of each block in the game whose coalitions are the sets of blocks kept.

    A coalition S is worth ``v(S)``, the negative metric of the network that keeps S: a block's value is how much it
    lowers the loss, so that more is better. Shapley: ``φ_i = Σ_S |S|! (n-|S|-1)! / n! (v(S∪i) - v(S))``; the values add
    up to v(all) - v(none). Banzhaf: the plain mean of ``v(S∪i) - v(S)``. Leave-one-out: ``v(all) - v(all without i)``,
    the damage of a single deletion. The interaction of two blocks is the Shapley interaction index of Grabisch and
    Roubens (1999), or Banzhaf's: ``v(S∪ij) - v(S∪i) - v(S∪j) + v(S)``, averaged with the same weights. If it is
    positive, the blocks need each other; if negative, they can replace each other.

    For up to 16 blocks, all 2^n coalitions are evaluated, sharing the network's prefixes. Beyond that, Shapley values
    are estimated from random orders in antithetic pairs (an order and its reverse; Castro et al. 2009, Mitchell et
    al. 2022), with standard errors over pairs.

    Args:
        net: the network, in eval mode.
        data: images or any other examples with targets; what :func:`~resnet_paths.data.as_examples` reads.
        method: which value to compute.
        metric: see :func:`single_deletions`.
        blocks: the blocks that play (default: all); the others are kept.
        interactions: whether to compute pairwise interactions too (only if all coalitions are evaluated); for three and
            more blocks, and for sampled interactions, see :func:`higher_interactions`.
        tolerance: sample until every standard error is at most this (in units of the metric), from 16 orders on.
        max_permutations: maximum number of orders to sample; a warning says if that was not enough for `tolerance`.
        exhaustive: whether to evaluate all 2^n coalitions; None: up to 16 blocks.
        known: coalitions of the same model whose losses on the same images were measured already, by
            :func:`resnet_paths.lesion.explore`; they are not evaluated again.
        seed: seed of the orders.
        **options: how to run, see :class:`StudyOptions`.

    Raises:
        ValueError: there are no blocks, the method is unknown, Banzhaf values or interactions are requested for more
            than 16 blocks, or what is known is of another model, other images or another metric than the loss.

    Cost: for n playing blocks at the end of the network, at most 2^(n+1) block evaluations per batch instead of n 2^n;
    when sampling, n - 1 coalitions per order.

    Example:
        >>> from resnet_paths import unroll
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> net = unroll(load_model("embedded"))
        >>> game = block_values(net, digits("test").subset(slice(0, 20)), blocks=[0, 9, 18])
        >>> bool(abs(game.values.sum() - (game.empty - game.full)) < 1e-9)
        True
    """
    data = data_for(metric, data, net.model)
    if method not in ("shapley", "banzhaf", "leave-one-out"):
        raise ValueError(f"expected method 'shapley', 'banzhaf' or 'leave-one-out', got {method!r}")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"expected a tolerance above zero, got {tolerance}")
    players = list(range(len(net))) if blocks is None else net.indices(list(blocks))
    if not players:
        raise ValueError("expected at least one block that plays, got blocks=[]; omit blocks to use all")
    name, function = metric_named(metric)
    game = Game(net, data, players, function, Running(**options))
    source = provenance(net.model, data, seed=seed)
    if known is not None:
        game.use(known, name, source)
    n = len(players)
    if exhaustive and n > MOST_EXHAUSTIVE:
        raise ValueError(f"expected at most {MOST_EXHAUSTIVE} blocks for exhaustive=True, got {n}; leave it out")
    exhaustive = method == "leave-one-out" or (n <= MOST_EXHAUSTIVE if exhaustive is None else exhaustive)
    if not exhaustive and n <= MOST_EXHAUSTIVE and (method == "banzhaf" or interactions):
        raise ValueError("expected all coalitions for Banzhaf values and interactions; leave out exhaustive=False")
    if not exhaustive and (method == "banzhaf" or interactions):
        raise ValueError(
            f"expected at most {MOST_EXHAUSTIVE} blocks for Banzhaf values and interactions, got {n}; select blocks "
            "with blocks=, or sample interactions with higher_interactions"
        )
    pairs, errors, shared, orders = None, np.zeros(n), np.zeros(n), 0
    if method == "leave-one-out":
        table = game.values(np.concatenate([np.ones((1, n)), 1 - np.eye(n), np.zeros((1, n))]))
        values, full, empty = table[0] - table[1:-1], table[0], table[-1]
    elif exhaustive:
        table = game.values(all_coalitions(n))
        values, full, empty = table_values(table, method), table[-1], table[0]
        pairs = table_interactions(table, method) if interactions else None
    else:
        gains, full, empty = sampled_gains(game, tolerance, max_permutations, seed)
        values, errors, orders = gains.mean(0), errors_over_pairs(gains), 2 * len(gains)
        shared = _shared_variances(gains)
    return BlockValues(
        names=tuple(net[index].name for index in players),
        blocks=tuple(players),
        method=method,
        metric=name,
        values=values.mean(1),
        standard_errors=errors,
        shared_variances=shared,
        interactions=None if pairs is None else pairs.mean(-1),
        full=-float(full.mean()),
        empty=-float(empty.mean()),
        coalitions=game.asked,
        exhaustive=exhaustive,
        orders=orders,
        tolerance=tolerance,
        evaluations=game.count,
        per_image=values,
        interactions_per_image=pairs,
        source=source,
    )


class Game:
    """Evaluates coalitions, given as rows of zeros and ones over the players.

    Attributes:
        players: indices of the blocks that play.
        count: number of network pieces run so far.
        asked: number of coalitions evaluated so far.
    """

    def __init__(self, net: Network, data: InMemory, players: list[int], metric: Metric, run: Running) -> None:
        self.players, self.count, self.asked = players, Evaluations(), 0
        self._runner, self._data, self._metric, self._run = quick(net, run.fast), data, metric, run
        self._known: Callable[[np.ndarray], np.ndarray | None] = lambda kept: None

    def use(self, known: Exploration, metric: str, source: Provenance) -> None:
        """Take the losses of sets that were measured already instead of measuring them again."""
        if metric != "loss" or (known.source.model, known.source.data) != (source.model, source.data):
            raise ValueError(
                f"expected known losses of this model and these {source.nouns}, got those of model "
                f"{known.source.model[:8]} and data {known.source.data[:8]} for the {metric} of model "
                f"{source.model[:8]} and data {source.data[:8]}; leave known out"
            )
        self._known = known.losses_of

    def values(self, coalitions: np.ndarray) -> np.ndarray:
        """The value of each coalition (m, n) on each image, (m, images): the negative metric."""
        kept = np.ones((len(coalitions), len(self._runner)), np.asarray(coalitions).dtype)
        kept[:, self.players] = coalitions
        results = [self._known(row) for row in kept]
        values = np.empty((len(kept), len(self._data)))
        new = np.array([row for row, losses in enumerate(results) if losses is None], int)
        for row, losses in enumerate(results):
            if losses is not None:
                values[row] = -losses
        if len(new):
            gates = torch.as_tensor(kept[new], dtype=torch.float32, device="cpu")
            self.asked += len(new)
            values[new] = -per_image(GateRows(self._runner, gates), self._data, self._metric, self._run, self.count)
        return values


def sampled_gains(
    game: Game, tolerance: float | None, most: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gains of each player, averaged over an order and its reverse, (pairs, n, images); v(all); v(none)."""
    if most < 4:
        raise ValueError(f"expected at least 4 permutations, so that standard errors can be estimated, got {most}")
    n, generator = len(game.players), np.random.default_rng(seed)
    # Every order begins and ends with these two coalitions, so they are evaluated once.
    empty, full = game.values(np.stack([np.zeros(n), np.ones(n)]))
    pair_gains: list[np.ndarray] = []
    while len(pair_gains) < most // 2:
        draws = [generator.permutation(n) for _ in range(min(_PAIRS_AT_ONCE, most // 2 - len(pair_gains)))]
        orders = [order for draw in draws for order in (draw, draw[::-1])]
        values = game.values(np.concatenate([growing(order) for order in orders]))
        gains = np.empty((len(orders), n, len(empty)))
        for row, (order, inner) in enumerate(zip(orders, np.split(values, len(orders)), strict=True)):
            gains[row, order] = np.diff(np.concatenate([empty[None], inner, full[None]]), axis=0)
        pair_gains.extend((gains[0::2] + gains[1::2]) / 2)
        enough = len(pair_gains) >= min(_LEAST_PAIRS, most // 2)
        if tolerance is not None and enough and errors_over_pairs(np.stack(pair_gains)).max() <= tolerance:
            return np.stack(pair_gains), full, empty
    if tolerance is not None:
        reached = errors_over_pairs(np.stack(pair_gains)).max()
        warn(
            f"expected standard errors of at most {tolerance:g}, reached {reached:g} after {2 * len(pair_gains)} "
            "orders; raise max_permutations",
        )
    return np.stack(pair_gains), full, empty


def errors_over_pairs(gains: np.ndarray) -> np.ndarray:
    """Standard errors over pairs of orders, (n,), from gains (pairs, n, images)."""
    means = gains.mean(2)
    errors: np.ndarray = means.std(0, ddof=1) / np.sqrt(len(means))
    return errors


def _shared_variances(gains: np.ndarray) -> np.ndarray:
    """The variance of the mean, (n,), from the interaction of orders and images, without their main effects."""
    pairs, _, images = gains.shape
    rest = gains - gains.mean(0) - gains.mean(2, keepdims=True) + gains.mean((0, 2))[:, None]
    variances: np.ndarray = (rest**2).sum((0, 2)) / max((pairs - 1) * (images - 1), 1) / (pairs * images)
    return variances
