"""Predictors against their definitions on literal networks; rankings against scipy."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau, spearmanr

from helpers import randomise_norms, source
from resnet_paths.data import ImageData, digits
from resnet_paths.graph.model_fingerprint import fingerprint
from resnet_paths.lesion import (
    DamagePredictors,
    SingleDeletions,
    damage_predictors,
    linear_cka,
    rank_predictors,
    single_deletions,
)
from resnet_paths.models import cifar_resnet, load_model
from resnet_paths.network import unroll
from resnet_paths.paths import block_contributions
from resnet_paths.statistics import kendall, spearman

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "references"))

from literal_predictors import literal_gradient_share, literal_stream


def images(count: int = 7) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(count, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return ImageData(pixels, labels, tuple("abcdefghij"), (0.5,) * 3, (0.5,) * 3, "random")


def tiny(**options) -> torch.nn.Module:
    return randomise_norms(cifar_resnet(20, widths=(4, 6, 8), seed=0, **options)).eval().double()


@pytest.mark.parametrize("fast", [False, True])
def test_norms_angles_and_cka_of_the_literal_stream(fast: bool) -> None:
    model, data = tiny(), images()
    found = damage_predictors(unroll(model), data, fast=fast, batch_size=3)
    for index, (shortcut, branch) in enumerate(literal_stream(model, data.x.double())):
        for image in range(len(data)):
            s, b = shortcut[image].flatten(), branch[image].flatten()
            assert found.per_image["branch_ratio"][index, image] == pytest.approx(float(b.norm() / s.norm()))
            influence = 1 - float(F.cosine_similarity(s, s + b, dim=0))
            assert found.per_image["block_influence"][index, image] == pytest.approx(influence, abs=1e-12)
        x, y = (value.flatten(1) - value.flatten(1).mean(0) for value in (shortcut, shortcut + branch))
        cka = (x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
        assert found.values["cka"][index] == pytest.approx(1 - float(cka), abs=1e-10)


def test_taylor_is_the_slope_of_the_loss_in_each_gate() -> None:
    model, data, step = tiny(), images(), 1e-5
    net = unroll(model)
    found = damage_predictors(net, data, batch_size=4)
    x = data.x.double()

    def losses(gates: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return F.cross_entropy(net(x, gates), data.labels, reduction="none").numpy()

    for index in range(len(net)):
        change = torch.zeros(len(net), dtype=torch.float64)
        change[index] = step
        slope = (losses(1 + change) - losses(1 - change)) / (2 * step)
        assert found.per_image["taylor"][index] == pytest.approx(-slope, abs=1e-6)
    assert found.per_image["taylor_abs"] == pytest.approx(np.abs(found.per_image["taylor"]))
    assert found.values["taylor"] == pytest.approx(found.per_image["taylor"].mean(1))


@pytest.mark.parametrize("options", [{}, {"preactivation": True}])
def test_gradients_by_branch_and_shortcut(options: dict) -> None:
    model, data = tiny(**options), images(3)
    net = unroll(model)
    found = damage_predictors(net, data, fast=False)
    for image in range(3):
        x, label = data.x[image : image + 1].double(), data.labels[image : image + 1]
        expected = literal_gradient_share(net, x, label)
        assert found.per_image["gradient_share"][:, image] == pytest.approx(expected, abs=1e-10)


@pytest.mark.slow
def test_contributions_are_those_of_the_paths_package() -> None:
    model, data = tiny(), images()
    net = unroll(model)
    found = damage_predictors(net, data)
    split = block_contributions(net, data.x.double(), data.labels)
    blocks = slice(3, None)
    expected = split.of_target[blocks] - split.contributions[blocks].mean(-1)
    assert found.per_image["logit_contribution"] == pytest.approx(expected.numpy(), abs=1e-10)


def test_scales_of_the_last_norms() -> None:
    model = tiny()
    found = damage_predictors(unroll(model), images())
    expected = [
        float(block.bn2.weight.detach().abs().mean())
        for stage in (1, 2, 3)
        for block in getattr(model, f"layer{stage}")
    ]
    assert found.values["norm_scale"] == pytest.approx(expected)

    bare = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10), Add(), Add())
    without = damage_predictors(unroll(bare.eval()), images(), cka_images=0)
    assert np.isnan(without.values["norm_scale"]).all()
    assert "cka" not in without.values


class Add(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(10, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layer(x)


def test_a_block_that_does_nothing_is_last_everywhere() -> None:
    model = tiny()
    for parameter in model.layer2[1].bn2.parameters():
        torch.nn.init.zeros_(parameter)
    found = damage_predictors(unroll(model), images())
    for name, values in found.values.items():
        assert values[4] == pytest.approx(0, abs=1e-12), name


def test_the_model_is_untouched() -> None:
    model = tiny()
    before, flags = fingerprint(model), [parameter.requires_grad for parameter in model.parameters()]
    for fast in (False, True):
        damage_predictors(unroll(model), images(), fast=fast)
    assert fingerprint(model) == before
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ValueError, match="at least two images"):
        damage_predictors(unroll(model), images(1))


def test_cka_of_unrelated_and_of_rotated_features() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(400, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64)).Q
    assert linear_cka(one, one @ rotation + 3) == pytest.approx(1)
    assert linear_cka(one, other) < 0.1


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlations_are_scipys(ties: bool) -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(2, 20, 9))
    if ties:
        one, other = one.round(), other.round()
    expected = [(spearmanr(a, b).statistic, kendalltau(a, b).statistic) for a, b in zip(one, other, strict=True)]
    assert spearman(one, other) == pytest.approx([pair[0] for pair in expected])
    assert kendall(one, other) == pytest.approx([pair[1] for pair in expected])
    assert np.isnan(spearman(np.ones((1, 4)), one[:1, :4])).all()
    assert np.isnan(kendall(np.ones((1, 4)), one[:1, :4])).all()


def made(per_image: dict[str, np.ndarray], damage: np.ndarray) -> tuple[DamagePredictors, SingleDeletions]:
    n, count = damage.shape
    names = tuple(map(str, range(n)))
    values = {name: value.mean(1) for name, value in per_image.items()}
    values["constant"] = np.full(n, np.nan)
    predictors = DamagePredictors(names, values, per_image, source())
    rows = np.concatenate([np.zeros((1, count)), damage])
    means = damage.mean(1)
    record = SingleDeletions(names, ("identity",) * n, "loss", 0.0, (0.0, 0.0), means, means, means, rows, source())
    return predictors, record


def test_ranking_finds_the_good_predictor_and_says_how_sure_it_is() -> None:
    generator = np.random.default_rng(0)
    truth = np.arange(12.0)[:, None]
    damage = truth + generator.normal(0, 3, (12, 60))
    good, poor = damage + generator.normal(0, 1, (12, 60)), generator.normal(0, 1, (12, 60))
    predictors, record = made({"poor": poor, "good": good, "opposite": -damage}, damage)
    ranking = rank_predictors(predictors, record, count=4)
    assert ranking.predictors == ("good", "poor", "opposite", "constant")
    assert ranking.spearman[2] == pytest.approx(-1)
    assert ranking.trusted() == ("good",)
    assert ranking.recall[0] == 1
    assert ranking.spearman_range[0, 0] > 0.9
    wide = ranking.spearman_range[1]
    assert wide[1] - wide[0] > 0.3
    assert wide[0] <= ranking.spearman[1] <= wide[1]
    assert ranking.blocks.tolist() == [12, 12, 12, 0]
    assert np.isnan(ranking.spearman[3])
    table = ranking.to_pandas()
    assert table["kendall"][0] == pytest.approx(kendalltau(good.mean(1), damage.mean(1)).statistic)


def test_predictors_of_other_images_are_drawn_apart() -> None:
    damage = np.random.default_rng(0).normal(0, 3, (6, 40)) + np.arange(6.0)[:, None]
    predictors, record = made({"itself": damage}, damage)
    together = rank_predictors(predictors, record)
    assert together.spearman_range[0].tolist() == pytest.approx([1, 1])
    apart = DamagePredictors(predictors.names, predictors.values, predictors.per_image, source(data="other images"))
    assert rank_predictors(apart, record).spearman_range[0, 0] < 0.99


@pytest.mark.slow
def test_on_the_embedded_network() -> None:
    net, data = unroll(load_model("embedded")), digits("test").subset(slice(0, 60))
    ranking = rank_predictors(damage_predictors(net, data), single_deletions(net, data, metric="loss"))
    assert (np.abs(ranking.spearman) <= 1 + 1e-12).all()
    assert (ranking.spearman_range[:, 0] <= ranking.spearman_range[:, 1]).all()
    assert max(ranking.spearman) > 0.5


def test_by_default_fewer_blocks_are_to_be_found_in_a_small_network() -> None:
    damage = np.random.default_rng(0).normal(size=(3, 4))
    predictors, record = made({"one": damage}, damage)
    assert rank_predictors(predictors, record).count == 2


def test_wrong_use() -> None:
    predictors, record = made({"one": np.ones((3, 4))}, np.ones((3, 4)))
    with pytest.raises(ValueError, match="from 1 to 3"):
        rank_predictors(predictors, record, count=4)
    other = DamagePredictors(predictors.names, predictors.values, {}, source(model="another"))
    with pytest.raises(ValueError, match="one model"):
        rank_predictors(other, record)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_damage_that_is_the_same_for_all_blocks_ranks_nothing(small_checkpoint) -> None:
    net, data = unroll(load_model(str(small_checkpoint))), digits("test").subset(slice(0, 10))
    damage = single_deletions(net, data)
    same = replace(damage, per_image=np.zeros((7, 10)), values=np.zeros(6), full=0.0)
    ranking = rank_predictors(damage_predictors(net, data), same)
    assert np.isnan(ranking.spearman).all()
    assert np.isnan(ranking.spearman_range).all()
    assert ranking.trusted() == ()
