"""The search for blocks to drop: greedy, a beam, or all sets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
import torch

from ..data import ImageData
from ..lesion import Metric, evaluate_gates, metric_named
from ..network import UnrolledNetwork

Search = Literal["greedy", "beam", "exact"]
MOST_EXACT = 16


class Searcher:
    """Sets of dropped units and their mean metric on some images, each evaluated once."""

    def __init__(
        self, net: UnrolledNetwork, data: ImageData, metric: str | Metric, batch_size: int, progress: bool
    ) -> None:
        _, self.metric = metric_named(metric)
        self.net, self.data, self.batch_size, self.progress = net, data, batch_size, progress
        self.known: dict[tuple[int, ...], float] = {}

    def score(self, sets: Sequence[tuple[int, ...]]) -> None:
        """Evaluate the metric of each set that is not known yet."""
        new = [dropped for dropped in dict.fromkeys(sets) if dropped not in self.known]
        if not new:
            return
        gates = torch.ones(len(new), len(self.net), device="cpu")
        for row, dropped in enumerate(new):
            gates[row, list(dropped)] = 0
        values = evaluate_gates(
            self.net, self.data, gates, self.metric, batch_size=self.batch_size, progress=self.progress
        ).mean(1)
        self.known.update({dropped: float(value) for dropped, value in zip(new, values, strict=True)})

    def frontier(self, search: Search, beam: int, most: int) -> list[tuple[int, ...]]:
        """The best set found of each size from 0 to `most`."""
        if search == "exact":
            everything = [s for size in range(most + 1) for s in combinations(range(len(self.net)), size)]
            self.score(everything)
            return [self._best([s for s in everything if len(s) == size]) for size in range(most + 1)]
        path = self._beam(1, most)
        if search == "beam":
            wide = self._beam(beam, most)
            path = [self._best([one, other]) for one, other in zip(path, wide, strict=True)]
        return path

    def judged(self, path: list[tuple[int, ...]], judge: Searcher, finalists: int) -> list[tuple[int, ...]]:
        """Of each size the best by another searcher, among the best here and the set found."""
        chosen: list[tuple[int, ...]] = [()]
        for found in path[1:]:
            known = sorted((s for s in self.known if len(s) == len(found)), key=lambda s: (self._rank(s), s))
            final = list(dict.fromkeys([found, *known[:finalists]]))
            judge.score(final)
            chosen.append(judge._best(final))
        return chosen

    def at_random(self, most: int, draws: int, seed: int) -> list[tuple[float, ...]]:
        """Metrics of random sets of each size from 0 to `most`: what a search has to beat."""
        generator = np.random.default_rng(seed)
        units = len(self.net)
        sets = [
            [tuple(sorted(generator.choice(units, size, replace=False).tolist())) for _ in range(draws)]
            for size in range(most + 1)
        ]
        self.score([one for group in sets for one in group])
        return [tuple(self.known[one] for one in group) for group in sets]

    def _best(self, sets: list[tuple[int, ...]]) -> tuple[int, ...]:
        return min(sets, key=self._rank)

    def _rank(self, dropped: tuple[int, ...]) -> tuple[bool, float]:
        loss = self.known[dropped]
        return (not np.isfinite(loss), loss)

    def _beam(self, width: int, most: int) -> list[tuple[int, ...]]:
        self.score([()])
        path: list[tuple[int, ...]] = [()]
        kept: list[tuple[int, ...]] = [()]
        for _ in range(most):
            grown = {
                tuple(sorted((*dropped, unit)))
                for dropped in kept
                for unit in range(len(self.net))
                if unit not in dropped
            }
            self.score(sorted(grown))
            kept = sorted(sorted(grown), key=self._rank)[:width]
            path.append(kept[0])
        return path
