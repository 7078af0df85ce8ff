"""Models side by side: identities, a planted bad block, matching, and what is refused."""

import copy
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from helpers import randomise_norms
from references.other_data import case
from resnet_paths import cifar_resnet, compare, drop_blocks, gradient_by_length, single_deletions, unroll
from resnet_paths.comparison import Comparison, PartSettings, match_blocks
from resnet_paths.data import digits
from resnet_paths.graph.errors import NoBlocksError, UnrollError
from resnet_paths.landscape import curvature_operator, extreme_eigenvalues, loss_surface, random_direction
from resnet_paths.lesion import block_values, linear_cka
from resnet_paths.network import plain_layers
from resnet_paths.plot import plot_comparison
from resnet_paths.sweep import SweepError

MORE = digits("test").subset(slice(0, 150))
DATA = MORE.subset(slice(0, 24))
DIFFERENCES = ("difference", "damage_difference", "gradient_difference")


def small(depth: int = 14, seed: int = 0, **settings) -> torch.nn.Module:
    model = cifar_resnet(depth, in_channels=1, widths=(4, 4, 4), seed=seed, **settings)
    return randomise_norms(model.double(), seed=seed).eval()


def compared(models, data=DATA, **options) -> Comparison:
    return compare(models, data, **{"draws": 2, "gradient_images": 6, "metric": "loss", "progress": False, **options})


@pytest.fixture(scope="module")
def pair() -> tuple[dict[str, torch.nn.Module], Comparison]:
    """A network, and the same with a branch that ruins it."""
    model = small()
    spoilt = copy.deepcopy(model)
    with torch.no_grad():
        spoilt.layer2[1].bn2.weight.mul_(60)
    models = {"good": model, "bad": spoilt}
    return models, compared(models, MORE)


def test_a_model_equals_itself_exactly() -> None:
    model = small()
    record = compared([model, copy.deepcopy(model)])
    for name in DIFFERENCES:
        assert not getattr(record, name).any(), name
    assert record.models == ("1", "2")
    assert record.matched_by == ("first", "name")


@pytest.mark.slow
def test_the_numbers_are_those_of_the_functions_for_one_model(pair) -> None:
    models, record = pair
    for number, model in enumerate(models.values()):
        net = unroll(model)
        alone = single_deletions(net, MORE, metric="loss", progress=False)
        np.testing.assert_allclose(record.damage[number], alone.damage, atol=1e-12)
        np.testing.assert_allclose(record.damage_low[number], alone.damage_interval()[0], atol=1e-12)
        np.testing.assert_allclose(record.per_image[number], alone.per_image[0], atol=1e-12)
        split = gradient_by_length(net, MORE.x[:6].double(), MORE.labels[:6])
        np.testing.assert_allclose(record.gradient_share[number], split.share.mean(1), atol=1e-9)
        assert record.mean_length[number] == pytest.approx(float(split.share.mean(1) @ split.lengths.double()))


def test_a_planted_bad_block_is_found(pair) -> None:
    _, record = pair
    frame = record.by_block()
    told = frame[(frame.model == "bad") & (frame.damage_difference_high < 0)]
    assert "layer2.1" in set(told.block)
    assert frame.loc[frame.damage_difference.abs().idxmax(), "block"] == "layer2.1"
    assert record.damage[1, record.blocks.index("layer2.1")] < 0  # deleting it repairs the network
    assert record.difference[1] > 0


def test_differences_are_paired_by_image(pair) -> None:
    _, record = pair
    differences = record.per_image[1] - record.per_image[0]
    assert record.difference[1] == pytest.approx(differences.mean())
    half = (record.difference_high[1] - record.difference_low[1]) / 2
    unpaired = np.sqrt(record.per_image.var(1, ddof=1).sum() / len(MORE))
    assert half > 0
    assert unpaired > 0
    together = compared([small(), small()], metric="error")
    assert together.difference_low[1] <= 0 <= together.difference_high[1]


def test_the_frontier_begins_with_the_full_network_and_ends_without_blocks(pair) -> None:
    models, record = pair
    order = torch.randperm(len(MORE), generator=torch.Generator().manual_seed(0)).numpy()
    rest = np.sort(order[len(order) // 2 :])
    np.testing.assert_allclose(record.frontier[:, 0], record.per_image[:, rest].mean(1), atol=1e-12)
    empty = drop_blocks(models["good"], list(range(6)))
    part = MORE.subset(torch.from_numpy(rest))
    loss = torch.nn.functional.cross_entropy(empty(part.x.double()), part.labels)
    assert record.frontier[0, -1] == pytest.approx(float(loss), rel=1e-6)


def test_a_dropped_block_is_a_row_without_a_partner() -> None:
    model = small()
    record = compared({"full": model, "smaller": drop_blocks(model, [1, 4])})
    assert record.matched_by == ("first", "name")
    assert (record.block_indices[1] == -1).nonzero()[0].tolist() == [1, 4]
    assert record.block_indices[1][record.block_indices[1] >= 0].tolist() == [0, 1, 2, 3]
    assert np.isnan(record.damage[1, [1, 4]]).all()
    assert len(record.by_block()) == 10
    assert record.parameters[1] < record.parameters[0]
    assert record.gradient_share[1, 5:].tolist() == [0, 0]  # it has no such paths


def test_names_that_differ_are_aligned_by_what_the_blocks_put_out() -> None:
    """The literal rule: of all pairings that keep both orders, the one with the largest sum of similarities."""
    first, second = unroll(small(20)), unroll(small(14, seed=0))
    x = DATA.x[:12].double()
    totals = []
    for net in (first, second):
        state, outputs = net.stem(x), []
        while state.index < len(net):
            total = net.shortcut(state) + net.branch(state)
            outputs.append(total)
            state = net.join(state, total)
        totals.append(outputs)
    alike = np.array([[linear_cka(own, other) for other in totals[0]] for own in totals[1]])
    best = max(sum(alike[row, column] for row, column in enumerate(chosen)) for chosen in combinations(range(9), 6))
    matches = match_blocks([first, unroll(Renamed(second.model).eval())], [x, x])
    assert matches.matched_by == ("first", "similarity")
    assert np.nansum(matches.similarity[1]) == pytest.approx(best, abs=1e-9)
    held = matches.indices[1][matches.indices[1] >= 0]
    assert held.tolist() == list(range(6))


class Renamed(torch.nn.Module):
    """A network whose blocks have other names."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def test_a_plain_twin_is_compared_without_paths() -> None:
    plain = small(8, residual=False)
    layers = plain_layers(plain, DATA.x[:2].double())
    record = compared({"residual": small(8), "plain": layers})
    assert record.matched_by == ("first", "nothing")
    assert len(record.blocks) == 3 + len(layers)
    assert np.isnan(record.gradient_share[1]).all()
    assert np.isfinite(record.frontier[1, : len(layers) + 1]).all()


def test_images_as_each_model_needs_them() -> None:
    """The same network with another input normalisation gives the same numbers."""
    model, shifted = small(), small()
    moved = replace(DATA, mean=tuple(m + 0.1 for m in DATA.mean))
    assert not torch.equal(DATA.x, moved.x)
    record = compared({"a": model, "b": shifted}, {"a": DATA, "b": moved})
    assert record.difference[1] != 0
    with pytest.raises(ValueError, match="the same labels for all models"):
        compared({"a": model, "b": shifted}, {"a": DATA, "b": DATA.subset(slice(0, 9))})


def test_a_comparison_resumes(tmp_path) -> None:
    models = [small(8), small(8, seed=1)]
    first = compared(models, journal=tmp_path / "models.sqlite")
    again = compared(models, journal=tmp_path / "models.sqlite")
    for name in Comparison.DIMENSIONS:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


@pytest.mark.slow
def test_a_record_is_kept_and_drawn(pair, tmp_path) -> None:
    _, record = pair
    again = Comparison.load(record.save(tmp_path / "both.npz"))
    np.testing.assert_array_equal(again.damage_difference, record.damage_difference)
    assert again.sources == record.sources
    by_block, random, frontier, gradient = plot_comparison(record)
    assert [line.get_label() for line in random.lines] == list(record.models)
    np.testing.assert_array_equal(gradient.lines[1].get_ydata(), record.gradient_share[1])
    assert frontier.get_xlabel() == "number of least damaging blocks deleted"
    many = compared({str(seed): small(8, seed=seed) for seed in range(7)}, DATA.subset(slice(0, 6)), draws=1)
    assert len(plot_comparison(many)[0].lines) == 8  # a line for each model, and zero
    with pytest.raises(ValueError, match="expected four axes"):
        plot_comparison(record, [by_block])


@pytest.mark.parametrize(
    ("second", "error", "message"),
    [
        (lambda: small(8).train(), UnrollError, "in training mode"),
        (
            lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).double(),
            NoBlocksError,
            "plain_layers",
        ),
        (lambda: small(8, num_classes=3), SweepError, "'2' failed: .*labels from 0 to 2"),
    ],
    ids=["training", "no blocks", "too few classes"],
)
def test_a_model_that_does_not_fit_is_named_in_one_message(second, error, message) -> None:
    with pytest.raises(error, match=message) as caught:
        compared([small(8), second()])
    assert "Traceback" not in str(caught.value)
    assert "'2'" in str(caught.value) or error is UnrollError


def test_one_model_is_not_compared() -> None:
    with pytest.raises(ValueError, match="at least two models"):
        compare([small(8)], DATA)


def test_images_of_another_kind_are_read() -> None:
    pixels = [(DATA.x[k], int(DATA.labels[k])) for k in range(8)]
    assert compared([small(8), small(8, seed=1)], pixels).images == 8


def test_other_data_than_images_are_compared_by_a_metric_that_fits() -> None:
    one = case("tokens")
    net = unroll(one.model, one.data.subset([0, 1]).x)
    models = {"full": net, "smaller": drop_blocks(net, [1])}
    models["smaller"] = unroll(models["smaller"], one.data.subset([0, 1]).x)
    record = compare(models, one.data, metric="perplexity", parts=(), draws=1, progress=False)
    single = single_deletions(net, one.data, metric="perplexity", progress=False)
    assert record.values == pytest.approx([single.full, single.values[1]], rel=1e-10)
    assert record.damage[0] == pytest.approx(single.damage, rel=1e-8, abs=1e-12)
    assert np.isnan(record.gradient_share).all(), "tokens have no gradient"
    with pytest.raises(ValueError, match="a metric for targets"):
        compare(models, one.data, parts=(), progress=False)
    with pytest.raises(ValueError, match=r"pass parts=\(\)"):
        compare(models, one.data, metric="perplexity", progress=False)


@pytest.mark.parametrize("kind", ["tokens", "numbers", "masks", "series"])
def test_parts_of_other_data_are_those_of_the_functions(kind: str) -> None:
    one = case(kind)
    few = one.data.subset([0, 1])
    net = unroll(one.model, few.x)
    models = {"full": net, "smaller": unroll(drop_blocks(net, [1]), few.x)}
    settings = PartSettings(images=5, surface_points=3, reach=0.5, latency_batch=2, latency_seconds=0.0)
    parts = ["recommended", "shapley", "surface", "curvature", "latency"]
    part = one.data.subset(slice(0, 5))
    record = compare(models, one.data, metric=one.metric, parts=parts, settings=settings, draws=1, progress=False)
    for place, own in enumerate(models.values()):
        plane, steps = [random_direction(own.model, seed=seed) for seed in (1, 2)], [-0.5, 0.0, 0.5]
        surface = loss_surface(own.model, part, directions=plane, x=steps, y=steps, progress=False)
        np.testing.assert_allclose(record.surface[place], surface.values["loss"], rtol=1e-9)
        extremes = extreme_eigenvalues(curvature_operator(own.model, part))
        assert record.largest_eigenvalue[place] == pytest.approx(extremes.largest, rel=1e-6)
        values = block_values(own, part, metric=one.metric, progress=False).values
        np.testing.assert_allclose(record.shapley[place][np.isfinite(record.shapley[place])], values, atol=1e-9)


def test_parts_that_some_data_do_not_have_are_refused_with_those_that_they_have() -> None:
    flags, tokens = case("flags"), case("tokens")
    twice = {"progress": False, "draws": 1}
    with pytest.raises(ValueError, match=r"for effective, got Examples.*pass parts=\['surface'\]"):
        compare([flags.model] * 2, flags.data, metric=flags.metric, parts=["surface", "effective"], **twice)
    nets = [unroll(tokens.model, tokens.data.subset([0, 1]).x)] * 2
    with pytest.raises(ValueError, match=r"for contributions, got Examples.*pass parts=\['latency'\]"):
        compare(nets, tokens.data, metric="perplexity", parts=["contributions", "latency"], **twice)
