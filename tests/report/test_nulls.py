"""Every claim is tested on data without an effect, and is reported to hold in at most one of twenty cases."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom

from helpers import source as source_of
from resnet_paths.lesion.reordering import Reorderings
from resnet_paths.network import Evaluations
from resnet_paths.paths.effective import exponential_fit
from resnet_paths.paths.lengths import central_interval
from resnet_paths.report.claims import PAPERS, he2015, li2018, rules
from resnet_paths.statistics import intervals

CLAIMS = {claim.name: claim for paper in PAPERS.values() for claim in paper.claims}
FED = {
    "degradation", "residual", "preactivation", "responses", "smoother", "plain-deletion", "low-dimension",
    "downsampling", "single-deletion", "smooth-deletion", "smooth-reordering", "decay", "short-paths", "few-paths",
}  # fmt: skip
TRIES = 800
LIMIT = 0.05


def test_every_claim_is_fed_a_null_here() -> None:
    assert {name for name, claim in CLAIMS.items() if claim.kind == "claim"} == FED


class Trainings:
    """Evidence whose training runs all come from one distribution, whatever the network: measurements differ only by
    chance.
    """

    def __init__(self, generator: np.random.Generator, seeds: int, spread: float, error: float = 0.2) -> None:
        self.generator, self.seeds, self.spread, self.error = generator, seeds, spread, error
        self.subject = SimpleNamespace(chance=0.9)

    def several_trained(self, depth: int, *, epochs: int, **options: bool) -> list[SimpleNamespace]:
        errors = self.error + self.spread * self.generator.normal(size=(self.seeds, epochs))
        return [
            SimpleNamespace(train_error=row[-1], rows=[{"train_error": value} for value in row], model=None)
            for row in errors
        ]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("name", ["degradation", "residual", "preactivation", "responses", "smoother"])
def test_trainings_that_do_not_differ(name: str, seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    source = Trainings(generator, seeds, 0.05)
    monkeypatch.setattr(he2015, "_mean_response", lambda evidence, model: generator.normal(1, 0.1 / np.sqrt(14)))
    monkeypatch.setattr(li2018, "_negative_curvature", lambda evidence, model: generator.normal(0.3, 0.1))
    verdicts = [CLAIMS[name].measure(source).holds for _ in range(TRIES)]
    assert verdicts.count(True) / TRIES <= LIMIT
    assert verdicts.count(True) > 0  # so that it can hold at all
    assert verdicts.count(None) / TRIES >= 0.85


@pytest.mark.parametrize("name", ["degradation", "residual", "preactivation", "responses", "smoother"])
def test_one_training_each_and_networks_that_know_nothing_are_inconclusive(name: str, monkeypatch) -> None:
    monkeypatch.setattr(he2015, "_mean_response", lambda evidence, model: 1.0)
    monkeypatch.setattr(li2018, "_negative_curvature", lambda evidence, model: 0.3)
    generator = np.random.default_rng(0)
    for source in (Trainings(generator, 1, 0.05), Trainings(generator, 4, 0.01, error=0.85)):
        found = CLAIMS[name].measure(source)
        assert CLAIMS[name].verdict(found) == "inconclusive"
    assert "insufficiently trained" in found.text


def test_plain_networks_that_lose_half_of_the_way() -> None:
    """The boundary of plain-deletion: of each training the share of the way to chance that is lost."""
    generator = np.random.default_rng(0)
    verdicts = [rules.above(generator.normal(0.5, 0.2, 3), 0.5) for _ in range(TRIES)]
    assert 0 < verdicts.count(True) / TRIES <= LIMIT


@pytest.mark.parametrize("independent", [False, True], ids=["walk", "points"])
def test_random_walks_are_not_low_dimensional(independent: bool) -> None:
    generator = np.random.default_rng(0)
    verdicts = []
    for _ in range(8):
        points = generator.normal(size=(9, 1500))
        verdicts.append(rules.low_dimensional(points if independent else points.cumsum(0))[0])
    assert True not in verdicts
    direction = np.outer(np.linspace(0, 1, 9) ** 0.5, generator.normal(size=1500)) * 9
    assert rules.low_dimensional(direction + points)[0] is True


def test_walks_have_the_share_that_is_known() -> None:
    long = rules.walk_shares(np.ones(400), walks=3)
    assert long.mean() == pytest.approx(6 / np.pi**2 * (1 + 1 / 4), abs=0.02)


def test_blocks_in_any_order() -> None:
    generator = np.random.default_rng(0)
    for total, changing in ((27, 2), (9, 1), (16, 3), (30, 1)):
        verdicts = [
            rules.rank_first((generator.permutation(total)[:changing] + 1).tolist(), total) for _ in range(TRIES)
        ]
        assert verdicts.count(True) / TRIES <= LIMIT


def test_damages_of_just_five_points() -> None:
    generator, verdicts = np.random.default_rng(0), []
    for _ in range(12):
        whole = np.zeros(200)
        deleted = (generator.random((9, 200)) < 0.05).astype(float)
        verdicts.append(rules.most(*intervals(deleted, reference=whole), 0.05))
    assert verdicts.count(True) == 0
    assert rules.most(*intervals(np.zeros((9, 200)), reference=whole), 0.05) is True
    assert rules.most(*intervals(np.ones((9, 200)), reference=whole), 0.05) is False


def test_errors_that_do_not_depend_on_the_count() -> None:
    generator = np.random.default_rng(0)
    verdicts = [rules.rises_smoothly(np.arange(10), generator.random(10))[0] for _ in range(300)]
    assert sum(verdicts) / 300 <= LIMIT
    assert not rules.rises_smoothly(np.arange(10), np.repeat([0.1, 0.9], 5))[0]
    assert not rules.rises_smoothly(np.arange(4), np.full(4, 0.3))[0]
    assert rules.rises_smoothly(np.arange(10), np.linspace(0, 1, 10) ** 2)[0]


def test_errors_that_do_not_depend_on_the_order() -> None:
    generator, verdicts = np.random.default_rng(0), []
    for trend in (0.0, 0.0, 0.0, -3.0):
        tau = generator.random(20)
        values = np.concatenate([np.zeros((1, 40)), trend * tau[:, None] + generator.normal(size=(20, 40))])
        record = Reorderings(
            np.zeros((20, 3)), np.ones(20), tau, values[1:].mean(1), values, 0.0, "loss", (), True, Evaluations(),
            source_of(),
        )  # fmt: skip
        verdicts.append(CLAIMS["smooth-reordering"].measure(SimpleNamespace(reordered=record)).holds)
    assert verdicts == [False, False, False, True]


def test_paths_that_all_carry_the_same() -> None:
    """Norms of the same size at every length, but for noise."""
    generator = np.random.default_rng(0)
    verdicts = []
    for _ in range(300):
        decay, fit = exponential_fit(np.exp(0.2 * generator.normal(size=28)))
        source = SimpleNamespace(effective=SimpleNamespace(decay=decay, decay_fit=fit))
        verdicts.append(CLAIMS["decay"].measure(source).holds)
    assert verdicts.count(True) == 0
    low, high = central_interval(binom.pmf(np.arange(28), 27, 0.5), 0.95)
    share = float(binom.pmf(np.arange(low, high + 1), 27, 0.5).sum())
    source = SimpleNamespace(
        effective=SimpleNamespace(n=27, low=low, high=high, mass=0.95, mean_length=13.5, path_share=share)
    )
    assert CLAIMS["short-paths"].measure(source).holds is False
    assert CLAIMS["few-paths"].measure(source).holds is False
