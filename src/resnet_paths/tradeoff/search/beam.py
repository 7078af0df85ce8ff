"""Sets grown block by block, keeping the best of each step or the best few."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...arguments import checked
from ...arguments.ranges import COUNT, NONE_OR_MORE
from .scores import Options, Scores, Set


@checked(max_blocks=NONE_OR_MORE, random_sets=NONE_OR_MORE)
@dataclass(frozen=True, kw_only=True)
class Greedy(Options):
    """At each step, drop the block that hurts least; for a latency goal, the one that hurts least per time saved.

    Cost: n - k sets for the step from k dropped blocks.
    """

    def path(self, scores: Scores, max_blocks: int) -> Iterator[Set]:
        """One set of each size from 1 to `max_blocks`, computed lazily."""
        dropped: Set = ()
        scores.score([dropped])
        while len(dropped) < max_blocks:
            grown = scores.grown(dropped)
            scores.score(grown)
            dropped = min(grown, key=lambda one: (_price(scores, dropped, one), one))
            yield dropped

    def sets(self, blocks: int, max_blocks: int) -> int:
        """The number of sets evaluated."""
        return 1 + sum(blocks - size for size in range(max_blocks))


def _price(scores: Scores, before: Set, after: Set) -> tuple[bool, bool, float]:
    """Sort key: the damage of one more block, per time saved if that counts; harmless blocks come first."""
    damage = scores.known[after] - scores.known[before]
    if not np.isfinite(damage):
        return (True, True, damage)
    if scores.costs is None or damage <= 0:
        return (False, scores.costs is not None and damage > 0, damage)
    # The floor is for blocks whose time is too short to measure.
    return (False, True, damage / max(scores.saved(after) - scores.saved(before), 1e-6))


@checked(max_blocks=NONE_OR_MORE, random_sets=NONE_OR_MORE, width=COUNT)
@dataclass(frozen=True)
class Beam(Options):
    """Keep the `width` best sets of each size. Never worse than greedy at any size, since that is tried too.

    Cost: `width` times as many sets as greedy.

    Attributes:
        width: number of sets to keep.
    """

    width: int = 4

    def path(self, scores: Scores, max_blocks: int) -> Iterator[Set]:
        """One set of each size from 1 to `max_blocks`, computed lazily."""
        kept: list[Set] = [()]
        for alone in Greedy().path(scores, max_blocks):
            grown = sorted({one for dropped in kept for one in scores.grown(dropped)})
            scores.score(grown)
            kept = sorted(grown, key=scores.rank)[: self.width]
            yield scores.best([kept[0], alone])

    def sets(self, blocks: int, max_blocks: int) -> int:
        """The approximate number of sets evaluated."""
        return 1 + sum((blocks - size) * (self.width if size else 1) for size in range(max_blocks))
