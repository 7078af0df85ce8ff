"""The bridge to shapiq: the same numbers as our own for pairs, literal Moebius sums for more."""

import itertools

import numpy as np
import pytest
import torch

from helpers import randomise_norms
from resnet_paths.data import ImageData
from resnet_paths.lesion import block_values, higher_interactions
from resnet_paths.models import cifar_resnet
from resnet_paths.network import unroll


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    pytest.importorskip("shapiq")


def setting():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (12,), generator=generator)
    images = torch.rand(12, 3, 8, 8, generator=generator)
    data = ImageData(images, labels, tuple("abcdefghij"), (0.5,) * 3, (0.5,) * 3, "random")
    model = randomise_norms(cifar_resnet(14, widths=(4, 6, 8), seed=0)).eval().double()
    return unroll(model), data


@pytest.mark.parametrize(("index", "method"), [("SII", "shapley"), ("BII", "banzhaf")])
def test_pairs_are_ours(index: str, method: str) -> None:
    net, data = setting()
    found = higher_interactions(net, data, order=2, index=index, blocks=[1, 2, 4, 5])
    ours = block_values(net, data, method=method, interactions=True, blocks=[1, 2, 4, 5])
    assert found.matrix() == pytest.approx(ours.interactions, abs=1e-12)
    assert [found.values[(block,)] for block in ours.blocks] == pytest.approx(ours.values, abs=1e-12)
    assert found.coalitions == 16
    assert found.exact
    assert found.evaluations == ours.evaluations


def test_moebius_by_inclusion_and_exclusion() -> None:
    net, data = setting()
    players = [0, 3, 5]
    found = higher_interactions(net, data, order=3, index="Moebius", blocks=players)

    def value(kept: tuple[int, ...]) -> float:
        gates = torch.ones(6, dtype=torch.float64)
        gates[[block for block in players if block not in kept]] = 0
        logits = net(data.x.double(), gates).detach()
        return -float(torch.nn.functional.cross_entropy(logits.float(), data.labels))

    for size in (1, 2, 3):
        for blocks in itertools.combinations(players, size):
            expected = sum(
                (-1) ** (size - part) * value(kept)
                for part in range(size + 1)
                for kept in itertools.combinations(blocks, part)
            )
            assert found.values[blocks] == pytest.approx(expected, abs=1e-5)


def test_k_sii_sums_to_the_whole() -> None:
    net, data = setting()
    found = higher_interactions(net, data, order=3)
    game = block_values(net, data)
    assert sum(found.values.values()) == pytest.approx(game.empty - game.full, abs=1e-9)
    assert len(found.values) == 6 + 15 + 20
    table = found.to_pandas()
    assert table["value"].tolist() == list(found.values.values())
    strongest = found.strongest(3)
    assert abs(strongest[0][1]) == max(abs(value) for blocks, value in found.values.items() if len(blocks) > 1)
    assert all(len(blocks) == 1 for blocks, _ in found.strongest(4, size=1))


@pytest.mark.parametrize(("index", "budget"), [("SII", 64), ("FSII", 64), ("STII", 400)])
def test_estimates_with_a_budget(index: str, budget: int) -> None:
    net, data = setting()
    exact = higher_interactions(net, data, order=2, index=index)
    found = higher_interactions(net, data, order=2, index=index, budget=budget, seed=1)
    assert not found.exact
    assert 0 < found.coalitions <= budget + 2
    gap = np.abs(np.array([found.values[blocks] - exact.values[blocks] for blocks in exact.values]))
    spread = np.std(list(exact.values.values()))
    assert gap.max() < (1e-6 if index != "STII" else 0.5 * spread)


def test_more_blocks_need_a_budget() -> None:
    model = randomise_norms(cifar_resnet(38, widths=(4, 6, 8), seed=0)).eval()
    _, data = setting()
    net = unroll(model)
    with pytest.raises(ValueError, match="or a budget"):
        higher_interactions(net, data, order=2)
    found = higher_interactions(net, data, order=2, budget=60)
    assert len(found.values) == 18 + 153
    assert found.coalitions <= 62


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"order": 7}, "from 1 to 6"), ({"order": 2, "index": "Moebius", "budget": 20}, "omit budget")],
)
def test_wrong_use(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        higher_interactions(*setting(), **arguments)


def test_without_shapiq(monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "shapiq", None)
    with pytest.raises(ImportError, match=r"resnet-paths\[shapiq\]"):
        higher_interactions(*setting(), blocks=[0], order=1)
