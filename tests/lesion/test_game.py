"""The block game against its definition: averages over all orders, and the axioms."""

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from helpers import randomise_norms
from resnet_paths.data import ImageData
from resnet_paths.lesion import block_values
from resnet_paths.lesion.game import errors_over_pairs, sampled_gains
from resnet_paths.models import cifar_resnet
from resnet_paths.network import unroll

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "references"))

from naive_lesion import without


def setting(depth: int = 14):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (12,), generator=generator)
    images = torch.rand(12, 3, 8, 8, generator=generator)
    data = ImageData(images, labels, tuple("abcdefghij"), (0.5,) * 3, (0.5,) * 3, "random")
    model = randomise_norms(cifar_resnet(depth, widths=(4, 6, 8), seed=0)).eval().double()
    return unroll(model), data


def loss(net, data, kept: frozenset[int]) -> float:
    """The loss with only these blocks, by literal deletion."""
    model = without(net.model, [block.name for block in net if block.index not in kept])
    with torch.no_grad():
        logits = model(data.x.double())
    return float(torch.nn.functional.cross_entropy(logits.float(), data.labels))


def average_over_orders(net, data, players: list[int]) -> np.ndarray:
    always = frozenset(range(len(net))) - frozenset(players)
    cache: dict[frozenset[int], float] = {}

    def value(kept: frozenset[int]) -> float:
        if kept not in cache:
            cache[kept] = loss(net, data, kept | always)
        return cache[kept]

    totals, orders = np.zeros(len(players)), list(itertools.permutations(range(len(players))))
    for order in orders:
        kept: frozenset[int] = frozenset()
        for place in order:
            grown = kept | {players[place]}
            totals[place] += value(kept) - value(grown)
            kept = grown
    return totals / len(orders)


@pytest.mark.slow
@pytest.mark.parametrize("players", [None, [1, 3, 4]])
def test_shapley_is_the_average_over_all_orders(players: list[int] | None) -> None:
    net, data = setting()
    game = block_values(net, data, blocks=players)
    expected = average_over_orders(net, data, players or list(range(len(net))))
    assert np.allclose(game.values, expected, atol=1e-6)
    assert game.values.sum() == pytest.approx(game.empty - game.full, abs=1e-12)
    assert game.exhaustive
    assert game.coalitions == 2 ** len(game.blocks)


def test_all_coalitions_share_their_prefixes() -> None:
    net, data = setting()
    game = block_values(net, data, batch_size=100)
    n = len(net)
    assert game.evaluations.branches == 2**n - 1
    assert game.evaluations.branches + game.evaluations.joins < 2 ** (n + 2)


def test_banzhaf_and_leave_one_out_by_their_definitions() -> None:
    net, data = setting()
    whole = frozenset(range(6))
    alone = block_values(net, data, method="leave-one-out")
    assert np.allclose(
        alone.values, [loss(net, data, whole - {i}) - loss(net, data, whole) for i in range(6)], atol=1e-6
    )
    game = block_values(net, data, method="banzhaf", blocks=[0, 5])
    others = whole - {0, 5}
    expected = [
        (
            loss(net, data, others)
            - loss(net, data, others | {i})
            + loss(net, data, whole - {i})
            - loss(net, data, whole)
        )
        / 2
        for i in (0, 5)
    ]
    assert np.allclose(game.values, expected, atol=1e-6)


def test_interactions() -> None:
    net, data = setting()
    game = block_values(net, data, blocks=[0, 5], interactions=True)
    others = frozenset(range(1, 5))
    both = loss(net, data, others | {0, 5}) - loss(net, data, others | {0})
    both += loss(net, data, others) - loss(net, data, others | {5})
    assert game.interactions is not None
    assert np.allclose(game.interactions, [[0, -both], [-both, 0]], atol=1e-6)
    three = block_values(net, data, blocks=[0, 3, 5], interactions=True).interactions
    assert three is not None
    assert np.allclose(three, three.T)


def test_a_block_that_does_nothing_is_worth_nothing() -> None:
    net, data = setting()
    block = net.model.get_submodule(net[3].name)
    for parameter in block.bn2.parameters():
        torch.nn.init.zeros_(parameter)
    game = block_values(net, data, interactions=True)
    assert game.values[3] == pytest.approx(0, abs=1e-12)
    assert game.interactions is not None
    assert np.abs(game.interactions[3]).max() == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_sampling_agrees_with_all_coalitions_within_its_errors(monkeypatch) -> None:
    import resnet_paths.lesion.game as module

    net, data = setting()
    exact = block_values(net, data).values
    monkeypatch.setattr(module, "MOST_EXHAUSTIVE", 2)
    scores = []
    for seed in range(6):
        game = block_values(net, data, seed=seed, max_permutations=40)
        assert not game.exhaustive
        assert game.values.sum() == pytest.approx(game.empty - game.full, abs=1e-9)
        scores.extend((game.values - exact) / game.standard_errors)
    assert np.abs(scores).max() < 5
    assert np.mean(np.abs(scores) < 2.1) > 0.85
    with pytest.raises(ValueError, match="at most 2 blocks"):
        block_values(net, data, method="banzhaf")


def test_wrong_method() -> None:
    net, data = setting()
    with pytest.raises(ValueError, match="'shapley', 'banzhaf'"):
        block_values(net, data, method="owen")  # type: ignore[arg-type]


@pytest.mark.slow
def test_sampling_stops_at_the_precision_asked_for(monkeypatch) -> None:
    import resnet_paths.lesion.game as module

    net, data = setting()
    monkeypatch.setattr(module, "MOST_EXHAUSTIVE", 2)
    rough = block_values(net, data, tolerance=10.0, max_permutations=400)
    assert rough.orders == 16
    assert rough.coalitions == 2 + 16 * 5
    long = block_values(net, data, max_permutations=160)
    asked = float(long.standard_errors.max()) * 1.5
    fine = block_values(net, data, tolerance=asked, max_permutations=400)
    assert fine.standard_errors.max() <= asked
    assert 16 < fine.orders < 160
    assert fine.coalitions == 2 + 5 * fine.orders
    shorter = block_values(net, data, max_permutations=fine.orders - 8)
    assert shorter.standard_errors.max() > asked
    with pytest.warns(UserWarning, match="raise max_permutations"):
        block_values(net, data, tolerance=1e-9, max_permutations=16)


def test_sampled_coalitions_share_their_prefixes(monkeypatch) -> None:
    import resnet_paths.lesion.game as module

    net, data = setting()
    monkeypatch.setattr(module, "MOST_EXHAUSTIVE", 2)
    game = block_values(net, data, max_permutations=16)
    assert game.evaluations.branches < 6 / 2 * game.coalitions
    assert game.evaluations.joins < 6 * game.coalitions


def test_values_of_single_images_and_their_intervals() -> None:
    net, data = setting()
    game = block_values(net, data, interactions=True, blocks=[0, 3, 5])
    assert game.per_image.mean(1) == pytest.approx(game.values)
    for image in (0, 7):
        alone = block_values(net, data.subset([image]), interactions=True, blocks=[0, 3, 5])
        assert alone.values == pytest.approx(game.per_image[:, image], abs=1e-6)
        assert alone.interactions == pytest.approx(game.interactions_per_image[..., image], abs=1e-6)
    low, high = game.intervals()
    assert (low <= game.values).all()
    assert (game.values <= high).all()
    student = 2 * stats.t.ppf(0.975, 11) * game.per_image.std(1, ddof=1) / np.sqrt(12)
    assert (high - low >= student - 1e-9).all()
    assert (high - low <= 2 * student).all()
    lower, upper = game.interaction_intervals()
    assert (lower <= game.interactions).all()
    assert (game.interactions <= upper).all()
    with pytest.raises(ValueError, match="interactions=True"):
        block_values(net, data, blocks=[0]).interaction_intervals()


def test_intervals_of_a_sampled_game_hold_the_sampling_of_orders(monkeypatch) -> None:
    monkeypatch.setattr("resnet_paths.lesion.game.MOST_EXHAUSTIVE", 2)
    net, data = setting()
    game = block_values(net, data.subset(slice(0, 4)), max_permutations=8, progress=False)
    low, high = game.intervals()
    assert game.orders == 8
    assert (game.shared_variances > 0).any()
    assert (high - low >= 2 * 1.96 * game.standard_errors).all()
    fewer = replace(game, standard_errors=0 * game.standard_errors, shared_variances=0 * game.shared_variances)
    assert (high - low > np.subtract(*fewer.intervals()[::-1]) * 0.9).all()


@pytest.mark.slow
def test_a_game_resumes_from_its_journal(tmp_path, monkeypatch) -> None:
    import resnet_paths.lesion.game as module

    net, data = setting()
    monkeypatch.setattr(module, "MOST_EXHAUSTIVE", 2)
    arguments = {"max_permutations": 16, "batch_size": 5, "progress": False}
    file = tmp_path / "game.journal"
    first = block_values(net, data, journal=file, **arguments)
    size = file.stat().st_size
    again = block_values(net, data, journal=file, **arguments)
    assert file.stat().st_size == size
    assert np.array_equal(first.values, again.values)
    np.testing.assert_allclose(first.values, block_values(net, data, **arguments).values, rtol=1e-10, atol=1e-12)


class Polynomial:
    """A game of six players whose value is a random polynomial of a degree: no network."""

    def __init__(self, degree: int, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.players = list(range(6))
        sets = [members for size in range(1, degree + 1) for members in itertools.combinations(self.players, size)]
        self.terms = {members: generator.normal() for members in sets}

    def values(self, coalitions: np.ndarray) -> np.ndarray:
        rows = [weight * coalitions[:, members].prod(1) for members, weight in self.terms.items()]
        return np.sum(rows, axis=0)[:, None]

    def shapley(self) -> np.ndarray:
        """Each term is shared equally among its players."""
        return np.array([sum(w / len(m) for m, w in self.terms.items() if player in m) for player in self.players])


def test_an_order_and_its_reverse_give_pairs_exactly() -> None:
    game = Polynomial(2)
    gains, *_ = sampled_gains(game, None, 10, 0)
    assert gains[:, :, 0] == pytest.approx(np.broadcast_to(game.shapley(), (5, 6)), abs=1e-12)


@pytest.mark.slow
def test_standard_errors_are_the_spread_of_estimates() -> None:
    game, found = Polynomial(4), []
    for seed in range(300):
        gains, *_ = sampled_gains(game, None, 20, seed)
        found.append((gains.mean((0, 2)), errors_over_pairs(gains)))
    estimates, errors = (np.stack(part) for part in zip(*found, strict=True))
    assert np.abs(estimates.mean(0) - game.shapley()).max() < 4 * float((estimates.std(0) / 300**0.5).max())
    assert np.sqrt((errors**2).mean(0)) / estimates.std(0) == pytest.approx(np.ones(6), abs=0.2)


def test_a_game_needs_a_player() -> None:
    with pytest.raises(ValueError, match="at least one block that plays"):
        block_values(*setting(), blocks=[])
