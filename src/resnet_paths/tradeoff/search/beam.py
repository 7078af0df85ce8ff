"""Sets grown block by block: the best of each step, or the best few."""

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
    """Drops at each step the block that hurts least; with a latency to reach, least for the time that it saves.

    Cost: n - k sets at the step from k dropped blocks.
    """

    def path(self, scores: Scores, max_blocks: int) -> Iterator[Set]:
        """One set of each size from 1 to `max_blocks`, each found when it is asked for."""
        dropped: Set = ()
        scores.score([dropped])
        while len(dropped) < max_blocks:
            grown = scores.grown(dropped)
            scores.score(grown)
            dropped = min(grown, key=lambda one: (_price(scores, dropped, one), one))
            yield dropped

    def sets(self, blocks: int, max_blocks: int) -> int:
        """How many sets are evaluated."""
        return 1 + sum(blocks - size for size in range(max_blocks))


def _price(scores: Scores, before: Set, after: Set) -> tuple[bool, bool, float]:
    """Damage of one block more, by the time that it saves where that counts; what does no damage comes first."""
    damage = scores.known[after] - scores.known[before]
    if not np.isfinite(damage):
        return (True, True, damage)
    if scores.costs is None or damage <= 0:
        return (False, scores.costs is not None and damage > 0, damage)
    return (False, True, damage / max(scores.saved(after) - scores.saved(before), 1e-6))


@checked(max_blocks=NONE_OR_MORE, random_sets=NONE_OR_MORE, width=COUNT)
@dataclass(frozen=True)
class Beam(Options):
    """Keeps the `width` best sets of each size; of each size it is never worse than greedy, which is tried too.

    Cost: `width` times greedy's sets.

    Attributes:
        width: sets kept.
    """

    width: int = 4

    def path(self, scores: Scores, max_blocks: int) -> Iterator[Set]:
        """One set of each size from 1 to `max_blocks`, each found when it is asked for."""
        kept: list[Set] = [()]
        for alone in Greedy().path(scores, max_blocks):
            grown = sorted({one for dropped in kept for one in scores.grown(dropped)})
            scores.score(grown)
            kept = sorted(grown, key=scores.rank)[: self.width]
            yield scores.best([kept[0], alone])

    def sets(self, blocks: int, max_blocks: int) -> int:
        """How many sets are evaluated, about."""
        return 1 + sum((blocks - size) * (self.width if size else 1) for size in range(max_blocks))
