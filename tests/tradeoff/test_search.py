"""Searches of sets of blocks, on made-up losses of which everything is known."""

from itertools import combinations

import numpy as np
import pytest

from resnet_paths.tradeoff import Beam, Exact, Greedy, Pairwise
from resnet_paths.tradeoff.search import Scores, best_sets
from resnet_paths.tradeoff.search.best_sets import best_sets as best
from resnet_paths.tradeoff.search.pairwise import pair_model


def every_set(n: int) -> list[tuple[int, ...]]:
    return [one for size in range(n + 1) for one in combinations(range(n), size)]


def quadratic(n: int, seed: int, cubic: float = 0.0):
    """Losses of sets: singles, pairs and, where asked for, what no pairwise model sees."""
    generator = np.random.default_rng(seed)
    single, pairs = generator.normal(size=n), np.triu(generator.normal(size=(n, n)), 1)
    odd = {one: cubic * generator.normal() for one in every_set(n)}

    def losses(sets):
        return [
            2.0 + single[list(one)].sum() + sum(pairs[i, j] for i, j in combinations(one, 2)) + odd[tuple(one)]
            for one in sets
        ]

    return losses, single, pairs


@pytest.mark.parametrize("low", [1, 3, 15])
def test_the_best_of_all_sets_is_found_whatever_the_halves(monkeypatch, low: int) -> None:
    monkeypatch.setattr(best_sets, "_LOW", low)
    for n, seed in ((1, 0), (4, 1), (8, 2)):
        losses, single, pairs = quadratic(n, seed)
        costs = np.random.default_rng(seed).random(n)
        for weights, edges in ((np.ones(n), np.arange(0.5, n + 1)), (costs, np.linspace(0, 1.01 * costs.sum(), 7)[1:])):
            table = dict(zip(every_set(n), losses(every_set(n)), strict=True))
            told = best(single, pairs, weights, edges, 3)
            for start, stop, group in zip(edges[:-1], edges[1:], told, strict=True):
                within = [one for one in table if start < weights[list(one)].sum() <= stop]
                assert group == sorted(within, key=table.__getitem__)[:3]


def test_a_pairwise_model_is_exact_where_the_losses_are_pairwise() -> None:
    for costs in (None, (0.1, 0.05, 0.3, 0.1, 0.2, 0.15, 0.1)):
        losses, single, pairs = quadratic(7, 3)
        scores = Scores(7, losses, costs)
        path = list(Pairwise(finalists=1).path(scores, 7))
        assert len(scores.known) < 2**7 - 40
        assert np.allclose(pair_model(scores)[0], single)
        assert np.allclose(pair_model(scores)[1], pairs)
        exact = Scores(7, losses, costs)
        best_path = list(Exact().path(exact, 7))
        if costs is None:
            assert path == best_path
        for dropped in path:  # nothing that only the model knows is given back
            assert scores.known[dropped] == pytest.approx(losses([dropped])[0])


def test_a_pairwise_plan_takes_the_best_that_was_evaluated_not_the_best_estimated() -> None:
    losses, _, _ = quadratic(8, 5, cubic=0.7)
    for finalists, path in ((n, list(Pairwise(finalists=n).path(Scores(8, losses), 4))) for n in (1, 70)):
        table = dict(zip(every_set(8), losses(every_set(8)), strict=True))
        best_of = {size: min(table[one] for one in combinations(range(8), size)) for size in range(1, 5)}
        regret = [table[one] - best_of[len(one)] for one in path]
        assert min(regret) >= 0
        assert (max(regret) == 0) == (finalists == 70), finalists


def test_searches_are_ordered() -> None:
    for seed in range(5):
        losses, _, _ = quadratic(8, seed, cubic=0.3)
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


def test_losses_that_are_no_numbers_come_last() -> None:
    losses = lambda sets: [float("nan") if 0 in one else float(sum(one)) for one in sets]  # noqa: E731
    for search in (Greedy(), Beam(2), Exact(), Pairwise(finalists=2)):
        assert list(search.path(Scores(4, losses), 2)) == [(1,), (1, 2)], search


def test_the_number_of_sets_is_told_before() -> None:
    for search in (Greedy(), Beam(3), Exact(), Pairwise()):
        losses, _, _ = quadratic(7, 0)
        scores = Scores(7, losses)
        list(search.path(scores, 4))
        told = search.sets(7, 4)
        assert len(scores.known) <= told
        if isinstance(search, Greedy | Exact):
            assert len(scores.known) == told
