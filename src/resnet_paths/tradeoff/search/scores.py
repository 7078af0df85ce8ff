"""What every search works on: sets of blocks, their losses, and what each block costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...choices import MetricName
from ...lesion import Metric

Set = tuple[int, ...]
"""Indices of dropped blocks, in order."""
MOST_LISTED = 16
"""Blocks of which every set can be evaluated."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every search has.

    Attributes:
        metric: what is minimised: ``soft_error``, 1 - p(label), or ``soft_disagreement`` with the full network, which
            needs no labels (None: the second where the goal needs none, else the first); any other of
            :func:`~resnet_paths.lesion.metric_named` or your own. Where much is dropped a few confident mistakes
            decide ``loss`` and ``divergence``; ``error`` cannot tell sets that change few answers from each other.
        max_blocks: drop at most this many blocks (None: all).
        random_sets: score this many random sets of each size too, to compare the search with.
    """

    metric: MetricName | Metric | None = None
    max_blocks: int | None = None
    random_sets: int = 0


@dataclass(eq=False)
class Scores:
    """Mean losses of sets of blocks, each evaluated once.

    Attributes:
        blocks: how many there are.
        evaluate: the losses of sets, in their order, as they would be used.
        costs: of each block, the share of the time that dropping it saves; None where each counts alike.
        known: what was evaluated.
    """

    blocks: int
    evaluate: Callable[[Sequence[Set]], Sequence[float]]
    costs: tuple[float, ...] | None = None
    known: dict[Set, float] = field(default_factory=dict)

    def score(self, sets: Iterable[Set]) -> None:
        """Evaluate each set that is not known yet."""
        new = [dropped for dropped in dict.fromkeys(sets) if dropped not in self.known]
        if new:
            self.known.update(zip(new, map(float, self.evaluate(new)), strict=True))

    def saved(self, dropped: Set) -> float:
        """What a set saves: a share of the time, or its size where there are no costs."""
        return sum(self.costs[block] for block in dropped) if self.costs is not None else float(len(dropped))

    def best(self, sets: Iterable[Set]) -> Set:
        """The set of the smallest loss; NaN is the worst."""
        return min(sets, key=self.rank)

    def rank(self, dropped: Set) -> tuple[bool, float]:
        """By which sets are ordered."""
        loss = self.known[dropped]
        return (not np.isfinite(loss), loss)

    def grown(self, dropped: Set) -> list[Set]:
        """All sets of one block more."""
        return [tuple(sorted((*dropped, block))) for block in range(self.blocks) if block not in dropped]

    def at_random(self, sizes: Iterable[int], draws: int, seed: int) -> list[tuple[float, ...]]:
        """Losses of this many random sets of each size: what a search has to beat."""
        generator = np.random.default_rng(seed)
        groups = [
            [tuple(sorted(generator.choice(self.blocks, size, replace=False).tolist())) for _ in range(draws)]
            for size in sizes
        ]
        self.score(one for group in groups for one in group)
        return [tuple(self.known[one] for one in group) for group in groups]


def thinned(scores: Scores, sets: Iterable[Set]) -> list[Set]:
    """Of sets that are known, those that no other beats in both loss and time saved, in the order of what they save."""
    ordered = sorted(sets, key=lambda dropped: (-scores.saved(dropped), scores.rank(dropped), dropped))
    kept: list[Set] = []
    for dropped in ordered:
        if not kept or scores.rank(dropped) < scores.rank(kept[-1]):
            kept.append(dropped)
    return kept[::-1]
