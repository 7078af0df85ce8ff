"""A model of all sets from single and pair damages, searched exactly; its favourites are evaluated for real."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ...arguments import checked
from ...arguments.ranges import COUNT, NONE_OR_MORE
from .beam import Greedy
from .best_sets import MOST_MODELLED, best_sets
from .scores import Options, Scores, Set, thinned


@checked(most=NONE_OR_MORE, random_sets=NONE_OR_MORE, finalists=COUNT, bins=COUNT)
@dataclass(frozen=True)
class Pairwise(Options):
    """``L(S) = L0 + sum_i d_i + sum_{i<j} d_ij`` of damages of single blocks and what pairs add; all 2^n sets scored.

    The `finalists` best of each size by the model are evaluated for real, and the best of those is taken: nothing that
    was only estimated is recommended. Where time counts, "each size" is each of `bins` equal parts of the time saved;
    elsewhere greedy is tried beside it.

    On the embedded network (27 blocks, 200 images) it is as good as a beam of 4 up to four dropped blocks, and with 64
    finalists up to five. Beyond that pairs mislead: alone it is worse than greedy there, and the beam is the better
    choice.

    Cost: ``n (n + 1) / 2 + 1`` sets for the model, `finalists` of each size, and greedy's; the model's 2^n sums take
    0.1 s for 20 blocks and some 5 s for 27.

    Attributes:
        finalists: sets of each size that are evaluated.
        bins: parts of the time saved.
    """

    finalists: int = 8
    bins: int = 40

    def path(self, scores: Scores, most: int) -> Iterator[Set]:
        """The best sets, in the order of what they save.

        Raises:
            ValueError: too many blocks.
        """
        n = scores.blocks
        if n > MOST_MODELLED:
            raise ValueError(
                f"expected at most {MOST_MODELLED} blocks for Pairwise(), got {n}; use Beam(), or say with most= how "
                "many may go"
            )
        pairs = list(combinations(range(n), 2)) if most > 1 else []
        scores.score([(), *((block,) for block in range(n)), *pairs])
        single, both = pair_model(scores)

        weights = np.ones(n) if scores.costs is None else np.array(scores.costs)
        edges = (
            np.arange(0.5, n + 1)
            if scores.costs is None
            else np.linspace(0, 1.000001 * weights.sum(), self.bins + 1)[1:]
        )
        favourites = best_sets(single, both, weights, edges, self.finalists)
        sets = [[one for one in group if 0 < len(one) <= most] for group in favourites]
        if scores.costs is None:
            alone = {len(one): one for one in Greedy().path(scores, most)}
            for group in filter(None, sets):
                scores.score(group)
                yield scores.best([*group, alone[len(group[0])]])
            return
        everything = [one for group in sets for one in group]
        scores.score(everything)
        yield from thinned(scores, everything)

    def sets(self, blocks: int, most: int) -> int:
        """How many sets are evaluated, about."""
        return blocks * (blocks + 1) // 2 + self.finalists * most + Greedy().sets(blocks, most)


def pair_model(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Single damages (n,) and what pairs add to those of their blocks (n, n), upper triangle; sets must be known."""
    n, whole = scores.blocks, scores.known[()]
    single = np.array([scores.known[(block,)] - whole for block in range(n)])
    both = np.zeros((n, n))
    for i, j in combinations(range(n), 2):
        if (i, j) in scores.known:
            both[i, j] = scores.known[(i, j)] - whole - single[i] - single[j]
    worst = 1e6  # a loss that is no number is the worst; sums with it stay comparable
    return np.nan_to_num(single, nan=worst, posinf=worst), np.nan_to_num(both, nan=worst, posinf=worst)
