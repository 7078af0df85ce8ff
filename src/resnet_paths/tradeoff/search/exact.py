"""Exhaustive search over all sets of blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

from ...arguments import checked
from ...arguments.ranges import NONE_OR_MORE
from .scores import MOST_LISTED, Options, Scores, Set, thinned


@checked(max_blocks=NONE_OR_MORE, random_sets=NONE_OR_MORE)
@dataclass(frozen=True, kw_only=True)
class Exact(Options):
    """Evaluate every set of up to 16 blocks; yield the best of each size, or for each amount of time saved.

    Cost: 2^n sets, size by size.
    """

    def path(self, scores: Scores, max_blocks: int) -> Iterator[Set]:
        """The best sets, in order of their savings.

        Yields:
            The best set of a size, or for an amount of time.

        Raises:
            ValueError: there are too many blocks.
        """
        check_few(scores.blocks)
        scores.score([()])
        sizes = [list(combinations(range(scores.blocks), size)) for size in range(1, max_blocks + 1)]
        if scores.costs is None:
            for sets in sizes:
                scores.score(sets)
                yield scores.best(sets)
            return
        everything = [one for sets in sizes for one in sets]
        scores.score(everything)
        yield from thinned(scores, everything)

    def sets(self, blocks: int, max_blocks: int) -> int:
        """The number of sets evaluated."""
        return sum(comb(blocks, size) for size in range(max_blocks + 1))


def check_few(blocks: int) -> None:
    """Refuse a search that would not end.

    Raises:
        ValueError: there are more than MOST_LISTED blocks.
    """
    if blocks > MOST_LISTED:
        raise ValueError(f"expected at most {MOST_LISTED} blocks for Exact(), got {blocks}; use Beam()")
