"""Searches of sets of blocks, on made-up losses of which everything is known."""

from itertools import combinations

import numpy as np

from resnet_paths.tradeoff import Beam, Exact, Greedy
from resnet_paths.tradeoff.search import Scores


def every_set(n: int) -> list[tuple[int, ...]]:
    return [one for size in range(n + 1) for one in combinations(range(n), size)]


def quadratic(n: int, seed: int, cubic: float = 0.0):
    """Losses of sets: of singles, of pairs and, where asked for, of larger sets."""
    generator = np.random.default_rng(seed)
    single, pairs = generator.normal(size=n), np.triu(generator.normal(size=(n, n)), 1)
    odd = {one: cubic * generator.normal() for one in every_set(n)}

    def losses(sets):
        return [
            2.0 + single[list(one)].sum() + sum(pairs[i, j] for i, j in combinations(one, 2)) + odd[tuple(one)]
            for one in sets
        ]

    return losses


def test_searches_are_ordered() -> None:
    for seed in range(5):
        losses = quadratic(8, seed, cubic=0.3)
        paths = {name: list(search.path(Scores(8, losses), 6)) for name, search in (
            ("greedy", Greedy()), ("beam", Beam(3)), ("exact", Exact()))}  # fmt: skip
        for size in range(1, 7):
            exact, beam, greedy = (losses([paths[name][size - 1]])[0] for name in ("exact", "beam", "greedy"))
            assert exact <= beam <= greedy
        assert all(set(a) < set(b) for a, b in zip(paths["greedy"], paths["greedy"][1:], strict=False))


def test_with_a_latency_damage_counts_by_the_time_that_it_saves() -> None:
    """Two blocks do little damage and save nothing; one does twice that and saves a lot."""
    damage, costs = np.array([0.1, 0.1, 0.2, 0.5]), (0.01, 0.01, 0.5, 0.1)
    losses = lambda sets: [1.0 + damage[list(one)].sum() for one in sets]  # noqa: E731
    assert list(Greedy().path(Scores(4, losses), 2)) == [(0,), (0, 1)]
    assert next(Greedy().path(Scores(4, losses, costs), 1)) == (2,)
    free = np.array([0.1, -0.1, 0.2, 0.5])
    losses = lambda sets: [1.0 + free[list(one)].sum() for one in sets]  # noqa: E731
    assert list(Greedy().path(Scores(4, losses, costs), 2)) == [(1,), (1, 2)]
    path = list(Exact().path(Scores(4, losses, costs), 4))
    scores = Scores(4, losses, costs)
    saved = [scores.saved(one) for one in path]
    assert saved == sorted(saved)
    assert path[0] == (1,)
    for one in path:  # no set saves as much and loses less
        assert all(
            losses([other])[0] >= losses([one])[0] or scores.saved(other) < scores.saved(one) for other in every_set(4)
        )


def test_losses_that_are_not_numbers_come_last() -> None:
    losses = lambda sets: [float("nan") if 0 in one else float(sum(one)) for one in sets]  # noqa: E731
    for search in (Greedy(), Beam(2), Exact()):
        assert list(search.path(Scores(4, losses), 2)) == [(1,), (1, 2)], search


def test_the_number_of_sets_is_printed_beforehand() -> None:
    for search in (Greedy(), Beam(3), Exact()):
        losses = quadratic(7, 0)
        scores = Scores(7, losses)
        list(search.path(scores, 4))
        predicted = search.sets(7, 4)
        assert len(scores.known) <= predicted
        if isinstance(search, Greedy | Exact):
            assert len(scores.known) == predicted
