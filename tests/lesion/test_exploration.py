"""Sets of blocks measured together against literal deletion of each, and estimates for sets that were not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers import randomise_norms
from resnet_paths.data import ImageData
from resnet_paths.lesion import Exploration, SetEstimate, block_values, explore
from resnet_paths.lesion.exploration import signed_loss
from resnet_paths.lesion.set_estimate import kernel, margins_of
from resnet_paths.models import cifar_resnet
from resnet_paths.network import unroll
from resnet_paths.statistics import share_interval
from resnet_paths.surgery import drop_blocks


def images(count: int = 12) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (count,), generator=generator)
    pixels = torch.rand(count, 3, 8, 8, generator=generator)
    return ImageData(pixels, labels, tuple("abcdefghij"), (0.5,) * 3, (0.5,) * 3, "random")


def network(depth: int = 14):
    return unroll(randomise_norms(cifar_resnet(depth, widths=(4, 6, 8), seed=0)).eval().double())


@pytest.fixture(scope="module")
def every():
    """All 2^6 sets."""
    return explore(network(), images(), progress=False)


@pytest.fixture(scope="module")
def many():
    """2^18 sets, of which some are measured."""
    return explore(network(38), images(), draws=30, held_out=10, max_searched=200, progress=False)


def literal(net, data: ImageData, dropped: list[int]) -> tuple[np.ndarray, float]:
    """Errors and loss of the model that is really smaller."""
    with torch.no_grad():
        logits = drop_blocks(net, dropped)(data.x.double())
    loss = torch.nn.functional.cross_entropy(logits, data.labels)
    return (logits.argmax(1) != data.labels).numpy(), float(loss)


@pytest.mark.parametrize("seed", range(5))
def test_every_set_answers_as_the_model_without_its_blocks(every: Exploration, seed: int) -> None:
    net, generator = network(), np.random.default_rng(seed)
    dropped = sorted(generator.choice(6, generator.integers(1, 6), replace=False).tolist())
    wrong, loss = literal(net, images(), dropped)
    answer = every.answer(dropped)
    assert answer.measured
    np.testing.assert_array_equal(answer.wrong, wrong)
    assert answer.loss == pytest.approx(loss, rel=1e-10)
    assert answer.interval == share_interval(1 - wrong.mean(), 12)
    assert every.answer([net[index].name for index in dropped]).loss == answer.loss


def test_all_sets_are_rows_by_their_bits(every: Exploration) -> None:
    assert every.kept.shape == (64, 6)
    assert (every.kept @ (1 << np.arange(6)) == np.arange(64)).all()
    assert every.losses.dtype == np.float64
    shapley = block_values(network(), images(), progress=False)
    assert every.losses[-1].mean() == pytest.approx(shapley.full)
    assert every.losses[0].mean() == pytest.approx(shapley.empty)


def test_parts_that_bound_memory_change_nothing(every: Exploration, monkeypatch) -> None:
    monkeypatch.setattr("resnet_paths.lesion.exploration._LATE", 2)
    again = explore(network(), images(), progress=False)
    np.testing.assert_allclose(again.losses, every.losses, rtol=1e-12)
    np.testing.assert_array_equal(again.wrong, every.wrong)


def test_the_best_set_is_the_one_with_the_fewest_errors(every: Exploration) -> None:
    errors = every.wrong.sum(1)
    for count in range(7):
        rows = (~every.kept).sum(1) == count
        assert every.answer(every.best(count)).wrong.sum() == errors[rows].min()
    assert every.best(0) == ()
    with pytest.raises(ValueError, match="from 0 to 6, got 7"):
        every.best(7)


@pytest.mark.slow
def test_beyond_sixteen_blocks_measured_sets_are_exact(many: Exploration) -> None:
    assert not many.exhaustive
    assert many.kept[0].all()
    net, data = network(38), images()
    kept_sets = {row.tobytes() for row in many.kept}
    assert len(kept_sets) == len(many.kept)  # none twice
    for row in (1, 40, len(many.kept) - 1):
        dropped = np.flatnonzero(~many.kept[row]).tolist()
        wrong, loss = literal(net, data, dropped)
        answer = many.answer(dropped)
        assert answer.measured
        np.testing.assert_array_equal(answer.wrong, wrong)
        assert answer.loss == pytest.approx(loss, rel=1e-10)


@pytest.mark.slow
def test_the_error_of_the_estimate_is_that_on_sets_kept_apart(many: Exploration) -> None:
    estimate = many.estimate
    assert isinstance(estimate, SetEstimate)
    assert len(estimate.held_out) == 10
    net, data = network(38), images()
    measured_sets = {row.tobytes() for row in many.kept}
    off = []
    for kept, measured, estimated in zip(estimate.held_out, estimate.measured, estimate.estimated, strict=True):
        assert kept.tobytes() not in measured_sets
        dropped = np.flatnonzero(~kept).tolist()
        wrong, _ = literal(net, data, dropped)
        answer = many.answer(dropped)
        assert not answer.measured
        assert measured == pytest.approx(1 - wrong.mean())
        assert estimated == pytest.approx(answer.accuracy)
        off.append(abs(answer.accuracy - measured))
        allowed = estimate.error_of(deleted=len(dropped))
        assert answer.interval == (max(0.0, answer.accuracy - allowed), min(1.0, answer.accuracy + allowed))
    assert estimate.mean_error == pytest.approx(np.mean(off))
    assert np.mean(np.array(off) <= estimate.error_of() + 1e-12) >= 0.95


def test_the_error_is_that_of_checks_that_delete_about_as_many() -> None:
    held_out = np.ones((30, 64), bool)
    for row in range(30):
        held_out[row, : 2 if row < 20 else 40] = False
    off = np.where(np.arange(30) < 20, 0.01 * np.arange(30) / 20, 0.5)
    nothing = np.zeros(0)
    estimate = SetEstimate(nothing, nothing, nothing, held_out, np.full(30, 0.5), 0.5 + off, 1.0)
    assert estimate.error_of() == 0.5
    assert estimate.error_of(deleted=3) == pytest.approx(0.01 * 19 / 20)
    assert estimate.error_of(deleted=30) == 0.5
    assert estimate.error_of(0.5, deleted=0) == pytest.approx(0.01 * 10 / 20)


def test_a_network_whose_blocks_do_not_interact_is_explained_well() -> None:
    """Branches that add constants to the logits: the margins are sums over blocks, and interpolation finds them."""

    class Sum(torch.nn.Module):
        def __init__(self, n: int = 18) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(n))
            for place, layer in enumerate(self.layers):
                torch.nn.init.zeros_(layer.weight)
                layer.bias.data = torch.tensor([0.3 if place % 3 else -0.4, 0.0])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(1)
            for layer in self.layers:
                x = x + layer(x)
            return x

    generator = torch.Generator().manual_seed(0)
    pixels = 2 * torch.randn(200, 1, 1, 2, generator=generator)
    labels = (pixels[:, 0, 0, 0] < pixels[:, 0, 0, 1] - 1).long()
    data = ImageData(pixels, labels, ("a", "b"), (0.0,), (1.0,), "pairs")
    record = explore(unroll(Sum().eval(), data.x[:2]), data, draws=150, held_out=30, max_searched=0, progress=False)
    assert record.estimate is not None
    assert record.estimate.mean_error < 0.03
    assert record.estimate.images_alike > 0.95
    assert record.estimate.rank > 0.9


def test_margins_have_the_sign_of_the_answer_and_the_odds_of_the_label() -> None:
    logits = torch.tensor([[1.0, 0.9, 0.8], [0.0, 3.0, 0.0], [5.0, 0.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 2])
    signed = signed_loss(logits, labels, logits).numpy()
    margins = margins_of(np.abs(signed)[None], (signed < 0)[None])[0]
    odds = torch.logit(logits.softmax(1)[torch.arange(3), labels]).numpy()
    assert odds[0] < 0  # correct with a probability below one half: a margin of zero, not of the wrong sign
    np.testing.assert_allclose(margins, [0.0, odds[1], odds[2]], atol=1e-12)


def test_the_kernel_is_a_product_over_the_blocks_that_differ() -> None:
    one, other = np.array([[True, True, False]]), np.array([[True, False, True], [True, True, False]])
    np.testing.assert_allclose(kernel(one, other, np.array([9.0, 0.5, 0.25])), [[np.exp(-0.75), 1.0]])


def test_a_loss_that_is_not_a_number_is_a_wrong_answer() -> None:
    model = cifar_resnet(8, widths=(2, 2, 2), seed=0).eval()
    with torch.no_grad():
        model.linear.weight[0] = torch.nan
    record = explore(unroll(model), images(4), progress=False)
    assert record.wrong.all()


def test_it_is_written_and_read_bit_by_bit(many: Exploration, tmp_path) -> None:
    again = Exploration.load(many.save(tmp_path / "sets.npz"))
    dropped = np.flatnonzero(~many.estimate.held_out[0]).tolist()  # type: ignore[union-attr]
    assert again.answer(dropped).loss == many.answer(dropped).loss
    assert many.to_xarray()["losses"].dims == ("set", "image")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": []}, "at least one block that can be dropped, got none"),
        (
            {"exhaustive": False, "draws": 20, "held_out": 20},
            r"many more sets of blocks than draws and held_out, got 2\^6",
        ),
    ],
)
def test_wrong_arguments(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        explore(network(), images(), progress=False, **options)


def test_a_block_that_was_not_explored() -> None:
    record = explore(network(), images(4), blocks=[1, 2], progress=False)
    assert record.kept.shape == (4, 2)
    with pytest.raises(ValueError, match=r"blocks among layer1.1, layer2.0, got 5"):
        record.answer([5])
    with pytest.raises(ValueError, match="at most 16 blocks for all"):
        explore(network(38), images(4), exhaustive=True, progress=False)


def test_the_block_game_takes_what_was_measured(every: Exploration) -> None:
    net, data = network(), images()
    fresh = block_values(net, data, interactions=True, progress=False)
    shared = block_values(net, data, interactions=True, known=every, progress=False)
    assert (fresh.coalitions, shared.coalitions) == (64, 0)
    np.testing.assert_allclose(shared.per_image, fresh.per_image, rtol=1e-10, atol=1e-12)
    assert shared.interactions is not None
    np.testing.assert_allclose(shared.interactions, fresh.interactions, rtol=1e-8, atol=1e-12)
    some = block_values(net, data, blocks=[1, 4], known=every, progress=False)
    np.testing.assert_allclose(some.values, block_values(net, data, blocks=[1, 4], progress=False).values, rtol=1e-10)


def test_known_values_of_some_sets_are_used_for_those_only() -> None:
    net, data = network(), images()
    known = explore(net, data, blocks=[0, 1, 2], progress=False)
    shared = block_values(net, data, method="leave-one-out", known=known, progress=False)
    assert shared.coalitions == 8 - 4  # not: all, and one each of three blocks
    expected = block_values(net, data, method="leave-one-out", progress=False)
    np.testing.assert_allclose(shared.per_image, expected.per_image, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("change", ["images", "model", "metric"])
def test_known_values_of_something_else_are_refused(every: Exploration, change: str) -> None:
    net = network(20) if change == "model" else network()
    data = images(6) if change == "images" else images()
    metric = {"metric": "error"} if change == "metric" else {}
    with pytest.raises(ValueError, match="expected known losses of this model and these images"):
        block_values(net, data, known=every, progress=False, **metric)
