"""What every search works on: sets of blocks, their losses, and the cost of each block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...choices import MetricName
from ...lesion import Metric

Set = tuple[int, ...]
"""Indices of dropped blocks, in ascending order."""
MOST_LISTED = 16
"""Maximum number of blocks for an exhaustive search: 2^16 sets."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of every search.

    Attributes:
        metric: the metric to minimise: ``soft_error``, 1 - p(label), or ``soft_disagreement`` with the full network,
            which is label-free (None: the second if the goal needs no labels, otherwise the first); or any other of
            :func:`~resnet_paths.lesion.metric_named`, or your own. After large drops, a few confident mistakes dominate
            ``loss`` and ``divergence``; ``error`` cannot distinguish sets that change few answers.
        max_blocks: maximum number of blocks to drop (None: all).
        random_sets: number of random sets per size to score for comparison.
    """

    metric: MetricName | Metric | None = None
    max_blocks: int | None = None
    random_sets: int = 0


@dataclass(eq=False)
class Scores:
    """Mean losses of sets of blocks, each evaluated once.

    Attributes:
        blocks: number of blocks.
        evaluate: maps sets to their losses, in order.
        costs: share of the time that dropping each block saves; None if all blocks count equally.
        known: the losses evaluated so far.
    """

    blocks: int
    evaluate: Callable[[Sequence[Set]], Sequence[float]]
    costs: tuple[float, ...] | None = None
    known: dict[Set, float] = field(default_factory=dict)

    def score(self, sets: Iterable[Set]) -> None:
        """Evaluate each set that has not been evaluated yet."""
        new = [dropped for dropped in dict.fromkeys(sets) if dropped not in self.known]
        if new:
            self.known.update(zip(new, map(float, self.evaluate(new)), strict=True))

    def saved(self, dropped: Set) -> float:
        """What a set saves: a share of the time, or its size if there are no costs."""
        return sum(self.costs[block] for block in dropped) if self.costs is not None else float(len(dropped))

    def best(self, sets: Iterable[Set]) -> Set:
        """The set with the smallest loss; NaN counts as worst."""
        return min(sets, key=self.rank)

    def rank(self, dropped: Set) -> tuple[bool, float]:
        """Sort key: sets with smaller losses first, non-finite losses last."""
        loss = self.known[dropped]
        return (not np.isfinite(loss), loss)

    def grown(self, dropped: Set) -> list[Set]:
        """All sets with one more block."""
        return [tuple(sorted((*dropped, block))) for block in range(self.blocks) if block not in dropped]

    def at_random(self, sizes: Iterable[int], draws: int, seed: int) -> list[tuple[float, ...]]:
        """Losses of `draws` random sets of each size: the baseline for a search."""
        generator = np.random.default_rng(seed)
        groups = [
            [tuple(sorted(generator.choice(self.blocks, size, replace=False).tolist())) for _ in range(draws)]
            for size in sizes
        ]
        self.score(one for group in groups for one in group)
        return [tuple(self.known[one] for one in group) for group in groups]


def thinned(scores: Scores, sets: Iterable[Set]) -> list[Set]:
    """The Pareto front of evaluated sets in loss and time saved, in order of time saved."""
    ordered = sorted(sets, key=lambda dropped: (-scores.saved(dropped), scores.rank(dropped), dropped))
    kept: list[Set] = []
    for dropped in ordered:
        if not kept or scores.rank(dropped) < scores.rank(kept[-1]):
            kept.append(dropped)
    return kept[::-1]
