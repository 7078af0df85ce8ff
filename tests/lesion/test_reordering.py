"""Reordered networks against calling the blocks one by one, and the distance of orders against counting."""

import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from helpers import randomise_norms, source
from resnet_paths.data import Examples, ImageData
from resnet_paths.graph.model_fingerprint import fingerprint
from resnet_paths.lesion import Reorderings, order_distance, random_swaps, reorderings
from resnet_paths.models import cifar_resnet
from resnet_paths.network import unroll
from resnet_paths.surgery import reorder_blocks

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "references"))

from naive_lesion import in_order


def images(count: int = 12, side: int = 8) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(count, 3, side, side, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return ImageData(pixels, labels, tuple("abcdefghij"), (0.5,) * 3, (0.5,) * 3, "random")


def first_logit(logits, labels, whole):
    return logits[:, 0]


def tiny(**options) -> nn.Module:
    return randomise_norms(cifar_resnet(20, widths=(4, 6, 8), seed=0, **options)).eval().double()


def check_against_copies(model: nn.Module, data: ImageData, record: Reorderings) -> None:
    x = data.x.double()
    for order, values in zip(record.orders, record.per_image[1:], strict=True):
        moved = reorder_blocks(model, order.tolist(), example_input=x)
        with torch.no_grad():
            expected = moved(x)[:, 0]
        assert np.abs(values - expected.numpy()).max() < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("options", [{}, {"preactivation": True}, {"shortcut": "B"}])
def test_equal_to_calling_the_blocks_in_that_order(options: dict, fast: bool) -> None:
    model, data = tiny(**options), images()
    net, before = unroll(model), fingerprint(model)
    record = reorderings(net, data, [1, 5], draws=4, metric=first_logit, fast=fast, batch_size=5)
    assert record.direct == ("preactivation" not in options)  # there the first block's norm stands before its shortcut
    for order, values in zip(record.orders, record.per_image[1:], strict=True):
        with torch.no_grad():
            expected = in_order(model, order.tolist(), data.x.double())[:, 0]
        assert np.abs(values - expected.numpy()).max() < 1e-10
    assert record.full == pytest.approx(float(model(data.x.double())[:, 0].detach().mean()), abs=1e-12)
    assert np.abs(record.values - record.full).max() > 1e-6
    assert fingerprint(model) == before


def test_where_blocks_cannot_be_run_apart_copies_of_the_model_are_made() -> None:
    model, data = tiny(preactivation=True, shortcut="C"), images()
    record = reorderings(unroll(model), data, [3], draws=2, metric=first_logit, fast=False)
    assert not record.direct
    assert record.evaluations.branches == 0
    check_against_copies(model, data, record)
    for order, values in zip(record.orders, record.per_image[1:], strict=True):
        expected = in_order(model, order.tolist(), data.x.double())[:, 0].detach().numpy()
        assert np.abs(values - expected).max() < 1e-10


class Named(nn.Module):
    """A model whose inputs have names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.model(values * mask)


def test_copies_of_a_model_take_inputs_by_name() -> None:
    """As those of language models do."""
    torch.manual_seed(0)
    model = randomise_norms(Named(nn.Sequential(*[PostNorm() for _ in range(3)]))).double().eval()
    mask = (torch.arange(6) < 4).double().expand(5, 6)
    x = {"values": torch.randn(5, 6, dtype=torch.float64), "mask": mask}
    data = Examples(x, torch.randn(5, 6, dtype=torch.float64))
    record = reorderings(unroll(model, x), data, [1], draws=3, metric="squared_error", progress=False)
    assert not record.direct
    for order, value in zip(record.orders, record.values, strict=True):
        values = x["values"] * mask
        for block in order:
            values = model.model[block](values)
        assert value == pytest.approx(float((values - data.targets).square().mean()))


class PostNorm(nn.Module):
    """A norm after the addition belongs to its block and moves with it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.layer(x).relu())


def test_norms_after_the_addition_move_with_their_block() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), *[PostNorm() for _ in range(4)], nn.Linear(6, 10))
    randomise_norms(model).double().eval()
    data = images()
    record = reorderings(unroll(model), data, [2], draws=3, metric=first_logit)
    assert not record.direct
    check_against_copies(model, data, record)


class Mixed(nn.Module):
    """Additions of the model itself around a chain of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.last = nn.Linear(192, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.blocks = nn.Sequential(*[Plain() for _ in range(3)])
        self.head = nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x.flatten(1))
        x = x + self.first(x).relu()
        x = self.blocks(x)
        x = x + self.last(x).relu()
        return self.head(x)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.layer(x)).relu()


def test_what_the_model_adds_itself_stays_in_its_place() -> None:
    torch.manual_seed(0)
    model, data = Mixed().double().eval(), images()
    record = reorderings(unroll(model), data, [1, 3], draws=4, metric=first_logit)
    assert record.direct
    assert (record.orders[:, [0, 4]] == [0, 4]).all()
    assert record.groups == (("blocks.0", "blocks.1", "blocks.2"),)
    check_against_copies(model, data, record)


def test_blocks_of_one_module_move_together() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(32, 16, 3, 2, 16, 32, num_classes=10)
    nn.init.normal_(model.heads.head.weight)
    model = randomise_norms(model).eval().double()
    data = images(4, 32)
    record = reorderings(unroll(model), data, [1, 2], draws=2, metric=first_logit)
    assert (record.orders % 2 == np.tile([0, 1], 3)).all()
    check_against_copies(model, data, record)


def test_only_blocks_of_equal_shape_change_places() -> None:
    net = unroll(tiny())
    record = reorderings(net, images(4), [1, 20], draws=10, seed=3)
    assert record.groups == (
        ("layer1.0", "layer1.1", "layer1.2"),
        ("layer2.1", "layer2.2"),
        ("layer3.1", "layer3.2"),
    )
    assert (np.sort(record.orders, 1) == np.arange(9)).all()
    assert (record.orders[:, [3, 6]] == [3, 6]).all()
    assert ((record.orders[:10] != np.arange(9)).sum(1) == 2).all()
    expected = [order_distance(order) for order in record.orders]
    assert record.tau.tolist() == expected
    again = reorderings(net, images(4), [1, 20], draws=10, seed=3)
    assert np.array_equal(record.orders, again.orders)
    assert np.array_equal(record.per_image, again.per_image)


def test_orders_with_a_common_prefix_share_its_evaluation() -> None:
    net, data = unroll(tiny()), images(4)
    record = reorderings(net, data, [1, 2, 8], draws=8)
    rows = [tuple(range(9)), *map(tuple, record.orders.tolist())]
    beginnings = {row[:length] for row in rows for length in range(1, 10)}
    assert record.evaluations.branches == len(beginnings)
    assert record.evaluations.branches < 9 * len(rows)


@given(st.permutations(range(7)))
def test_distance_is_one_less_twice_the_share_of_pairs_out_of_order(order: list[int]) -> None:
    wrong = sum(order[i] > order[j] for i, j in combinations(range(7), 2))
    assert order_distance(order) == pytest.approx(1 - 2 * wrong / 21)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 6))
def test_swaps_stay_in_their_groups(seed: int, swaps: int) -> None:
    order = random_swaps([[0, 2, 3], [4, 5]], 7, swaps, np.random.default_rng(seed))
    assert sorted(order[[0, 2, 3]]) == [0, 2, 3]
    assert sorted(order[[4, 5]]) == [4, 5]
    assert order[[1, 6]].tolist() == [1, 6]
    if swaps == 1:
        assert (order != np.arange(7)).sum() == 2


def test_every_pair_is_equally_likely() -> None:
    generator, counts = np.random.default_rng(0), {}
    for _ in range(4000):
        order = random_swaps([[0, 2, 3], [4, 5]], 6, 1, generator)
        moved = tuple(np.flatnonzero(order != np.arange(6)).tolist())
        counts[moved] = counts.get(moved, 0) + 1
    assert set(counts) == {(0, 2), (0, 3), (2, 3), (4, 5)}
    assert all(abs(count - 1000) < 5 * np.sqrt(750) for count in counts.values())


def record_of(values: np.ndarray, tau: np.ndarray) -> Reorderings:
    from resnet_paths.network import Evaluations

    per_image = np.concatenate([np.zeros((1, values.shape[1])), values])
    means = values.mean(1)
    return Reorderings(
        np.zeros((len(tau), 2), int),
        np.repeat([1, 2], len(tau) // 2),
        tau,
        means,
        per_image,
        0.0,
        "loss",
        (),
        True,
        Evaluations(),
        source(),
    )


def test_rank_correlation_and_its_interval() -> None:
    from scipy.stats import spearmanr

    generator = np.random.default_rng(0)
    tau = generator.random(20)
    values = -3 * tau[:, None] + generator.normal(size=(20, 50))
    found, low, high = record_of(values, tau).rank_correlation()
    assert found == pytest.approx(spearmanr(values.mean(1), tau).statistic)
    assert -1 <= low <= found <= high < -0.8
    noise = record_of(generator.normal(size=(20, 50)), tau).rank_correlation()
    assert noise[2] - noise[1] > 0.3
    table = record_of(values, tau).by_swaps()
    assert list(table["swaps"]) == [1, 2]
    assert table["median"].tolist() == [np.median(values.mean(1)[:10]), np.median(values.mean(1)[10:])]
    assert (table["low"] <= table["median"]).all()
    assert (table["median"] <= table["high"]).all()
    assert len(record_of(values, tau).to_pandas()) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"swaps": [0]}, "at least 1"),
        ({"draws": 0}, "draws to be an integer"),
        ({"metric": "accuracy"}, "disagreement"),
    ],
)
def test_wrong_use(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reorderings(unroll(tiny()), images(2), **arguments)


def test_nothing_to_reorder() -> None:
    model = cifar_resnet(8, widths=(4, 6, 8), seed=0).eval()
    with pytest.raises(ValueError, match="nothing to reorder"):
        reorderings(unroll(model), images(2))


class TwoParts(nn.Module):
    """Two blocks of one module, with one of its activations between them."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.one, self.two, self.between = nn.Linear(4, 4), nn.Linear(4, 4), between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.between(x + self.one(x))
        return x + self.two(x)


def test_operations_between_the_blocks_of_a_module_move_with_it() -> None:
    torch.manual_seed(0)
    blocks = [TwoParts(between) for between in (nn.Tanh(), nn.ReLU(), nn.Sigmoid())]
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), *blocks, nn.Linear(4, 10)).double().eval()
    record = reorderings(unroll(model), images(5), [1, 2, 3], draws=3, metric=first_logit, fast=False)
    assert record.direct
    check_against_copies(model, images(5), record)


def test_one_image_gives_a_table_without_intervals() -> None:
    record = reorderings(unroll(tiny()), images(1), [1], draws=2, metric=first_logit)
    assert record.to_pandas()[["low", "high"]].isna().all(axis=None)
    assert "NaN" in record._repr_html_()
