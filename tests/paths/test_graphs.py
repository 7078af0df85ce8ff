"""Paths of networks whose blocks do not form a chain: against ordinary backward passes, and against every set of
branches.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from references.graphs import CASES
from references.linearised import linearised, logits_at_points
from references.literal_paths import gradients_by_branches, gradients_by_length
from resnet_paths import unroll
from resnet_paths.lesion import predictors
from resnet_paths.paths import (
    attribute_blocks,
    block_contributions,
    effective_paths,
    enumerate_path_gradients,
    gradient_by_length,
    logit_lens,
    logits_by_length,
    parameter_gradients_by_length,
    path_energy,
    path_lengths,
    sample_path_gradients,
    surviving_path_lengths,
)
from resnet_paths.paths.block_graph import chain_graph, path_graph

every_case = pytest.mark.parametrize("name", CASES)


def loss_of(target: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda output: F.cross_entropy(output, target, reduction="sum")


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal to 1e-10 of the largest number, lengths that do not occur included."""
    assert len(found) <= len(expected)
    padded = torch.cat([found, found.new_zeros((len(expected) - len(found), *found.shape[1:]))])
    torch.testing.assert_close(padded, expected, rtol=0, atol=1e-10 * max(1.0, float(expected.abs().max())))


@every_case
def test_the_number_of_paths_is_that_counted_by_hand(name: str) -> None:
    net = CASES[name].network()
    assert len(net) == CASES[name].blocks
    assert path_graph(net).counts == CASES[name].counts


@every_case
def test_gradient_by_length_is_that_of_ordinary_backward_passes(name: str) -> None:
    case = CASES[name]
    net, (x, target) = case.network(), case.batch()
    given, leaf = case.with_leaf(x)
    split = gradient_by_length(net, x, target)
    close(split.gradient, gradients_by_length(net, given, leaf, loss_of(target), len(net))[0])
    assert split.residual is not None
    assert split.residual < 1e-12
    reached = split.total_norm > 0  # an example may be behind ReLUs that are all shut
    assert bool(reached.any())
    torch.testing.assert_close(split.share.sum(0)[reached], torch.ones(int(reached.sum()), dtype=torch.float64))


@every_case
def test_gradient_of_parameters_is_that_of_ordinary_backward_passes(name: str) -> None:
    case = CASES[name]
    net, (x, target) = case.network(), case.batch()
    given, leaf = case.with_leaf(x)
    split = parameter_gradients_by_length(net, x, target)
    _, *expected = gradients_by_length(net, given, leaf, loss_of(target), len(net))
    for (parameter, _), values in zip(net.model.named_parameters(), expected, strict=True):
        close(split.gradient[parameter], values)
    assert split.residual is not None
    assert split.residual < 1e-12


@pytest.mark.slow
@every_case
def test_gradient_at_every_entry_is_that_of_ordinary_backward_passes(name: str) -> None:
    """Also of blocks around others, which come after them, and of blocks that only some of the later ones read."""
    case = CASES[name]
    net, (x, target) = case.network(), case.batch()
    given, leaf = case.with_leaf(x)
    whole = gradient_by_length(net, x, target)
    for index, block in enumerate(net):
        split = gradient_by_length(net, x, target, at=index)
        close(split.gradient, gradients_by_length(net, given, leaf, loss_of(target), len(net), index)[0])
        assert split.residual is not None
        assert split.residual < 1e-12
        if block.name in whole.entry_blocks:
            row = whole.entry_norms[whole.entry_blocks.index(block.name)]
            torch.testing.assert_close(row[: len(split.norms)], split.norms, rtol=1e-10, atol=1e-13)


@every_case
def test_counting_a_part_of_the_blocks_and_the_shortest_lengths(name: str) -> None:
    case = CASES[name]
    net, (x, target) = case.network(), case.batch()
    given, leaf = case.with_leaf(x)
    sums = gradients_by_branches(net, given, leaf, loss_of(target))
    passed = path_graph(net).blocks
    chosen = set(passed[::2])
    split = gradient_by_length(net, x, target, blocks=sorted(chosen))
    for length, values in enumerate(split.gradient):
        expected = sum(value for taken, value in sums.items() if len(chosen & set(taken)) == length)
        torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-12)
    short = gradient_by_length(net, x, target, max_length=1)
    torch.testing.assert_close(short.gradient, gradient_by_length(net, x, target).gradient[: len(short.gradient)])
    assert len(short.gradient) == 2


@every_case
def test_small_chunks_and_little_memory_change_nothing(name: str) -> None:
    net, (x, target) = CASES[name].network(), CASES[name].batch()
    whole, small = (gradient_by_length(net, x, target, max_bytes=size) for size in (None, 1))
    torch.testing.assert_close(small.gradient, whole.gradient, rtol=1e-12, atol=1e-14)


def test_blocks_on_no_path_are_refused() -> None:
    case = CASES["siamese"]
    net, (x, target) = case.network(), case.batch()
    with pytest.raises(ValueError, match="on none"):
        gradient_by_length(net, x, target, blocks=[2])


def test_a_chain_has_binomially_many_paths_in_order_of_their_branches() -> None:
    graph = chain_graph(5)
    assert graph.counts == (1, 5, 10, 10, 5, 1)
    for rank in range(32):
        taken = [graph.vertices[place].block for place, term, _ in graph.walk(rank) if term.kind == "branch"]
        assert rank == sum(1 << block for block in taken if block is not None)
    with pytest.raises(IndexError, match="rank of a path"):
        graph.walk(32)


@every_case
def test_enumerated_paths_sum_to_the_gradient_of_each_set_of_branches(name: str, monkeypatch) -> None:
    case = CASES[name]
    net, (x, target) = case.network(), case.batch()
    given, leaf = case.with_leaf(x)
    expected = gradients_by_branches(net, given, leaf, loss_of(target))
    every = enumerate_path_gradients(net, x, target, keep_gradients=True)
    assert every.gradient is not None
    assert every.counts == case.counts
    assert torch.bincount(every.lengths, minlength=len(case.counts)).tolist() == list(case.counts)
    sums = {taken: torch.zeros_like(leaf) for taken in expected}
    for rank, gradient in enumerate(every.gradient):
        path = every.path(rank)
        assert path.length == int(every.lengths[rank])
        assert set(path.blocks) <= set(path.passed or range(len(net)))
        sums[path.blocks] += gradient
    for taken, value in expected.items():
        torch.testing.assert_close(sums[taken], value, rtol=1e-10, atol=1e-12)
    monkeypatch.setattr("resnet_paths.paths.enumeration.ROOM_BYTES", 1)
    torch.testing.assert_close(enumerate_path_gradients(net, x, target).norms, every.norms, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("cut", ["tap", "stream"])
def test_paths_by_a_tap_are_apart_from_those_by_the_stream(cut: str) -> None:
    """Where one of two ways is cut off (for the gradient), the paths along the other are as they were."""
    case = CASES["tapped after relu"]
    net, (x, target) = case.network(), case.batch()
    every = enumerate_path_gradients(net, x, target)
    head = net.model.head
    half = slice(0, 4) if cut == "tap" else slice(4, 8)

    class Cut(torch.nn.Module):
        def forward(self, value: torch.Tensor) -> torch.Tensor:
            parts = [value[:, :4], value[:, 4:]]
            parts[half.start // 4] = parts[half.start // 4].detach()
            return head(torch.cat(parts, 1))

    net.model.head = Cut()
    rest = enumerate_path_gradients(unroll(net.model.eval()), x, target)
    by_tap = torch.tensor([every.path(rank).passed is not None for rank in range(len(every.norms))])
    assert int(by_tap.sum()) == 2
    gone = by_tap if cut == "tap" else ~by_tap
    torch.testing.assert_close(rest.norms, every.norms.masked_fill(gone[:, None], 0), rtol=1e-10, atol=1e-14)


@every_case
def test_sampled_paths_are_paths_of_their_length_and_their_means_converge(name: str) -> None:
    case = CASES[name]
    net, (x, target) = case.network(), case.batch(1)
    every = enumerate_path_gradients(net, x, target)
    wide = [value.expand(300, *value.shape[1:]) for value in (x if case.inputs > 1 else (x,))]
    drawn = sample_path_gradients(net, tuple(wide) if case.inputs > 1 else wide[0], target.expand(300), draws=4)
    assert drawn.lengths.tolist() == list(range(len(case.counts)))
    for length, count in enumerate(case.counts):
        if not count:
            assert not drawn.norms[length].any()
            continue
        known = every.norms[every.lengths == length, 0]
        gaps = (drawn.norms[length][..., None] - known).abs().min(-1).values
        assert float(gaps.max()) < 1e-12
        if len(known.unique()) == count:  # each path as often as the others
            seen = (drawn.norms[length].flatten()[:, None] - known).abs().argmin(1)
            times = torch.bincount(seen, minlength=count).double()
            assert float(((times - 1200 / count) ** 2 / (1200 / count)).sum()) < 30
    mean, error = drawn.over_examples()
    assert bool(((mean - every.mean_by_length()[:, 0]).abs() <= 5 * error + 1e-12).all())


@pytest.mark.slow
@every_case
def test_energy_is_exact_with_a_column_for_every_path_and_right_in_expectation_with_few(name: str) -> None:
    case = CASES[name]
    net, (x, target) = case.network(), case.batch()
    truth = enumerate_path_gradients(net, x, target).energy_by_length()
    exact = path_energy(net, x, target, columns=16)
    torch.testing.assert_close(exact.energy, truth, rtol=1e-10, atol=1e-20)
    assert exact.draws == 2
    assert not exact.standard_error.any()
    few = path_energy(net, x, target, draws=60, columns=1)
    assert bool(((few.energy - truth).abs() <= 5 * few.standard_error + 1e-12 * truth.max()).all())
    assert few.standard_error.any(1).tolist() == [
        count > 1 and bool(truth[k].any()) for k, count in enumerate(case.counts)
    ]


@every_case
def test_effective_paths_weigh_lengths_by_the_number_of_paths(name: str) -> None:
    case = CASES[name]
    net, (x, target) = case.network(), case.batch()
    every = enumerate_path_gradients(net, x, target)
    found = effective_paths(every)
    sums = torch.tensor([float(every.norms[every.lengths == k].sum()) for k in range(len(case.counts))])
    torch.testing.assert_close(torch.from_numpy(found.share), (sums / sums.sum()).double(), rtol=1e-6, atol=1e-9)
    assert found.count_share.tolist() == pytest.approx([count / sum(case.counts) for count in case.counts])


def test_single_paths_from_the_entry_of_a_block_around_others() -> None:
    case = CASES["nested"]
    net, (x, target) = case.network(), case.batch()
    every = enumerate_path_gradients(net, x, target, at=2, keep_gradients=True)
    split = gradient_by_length(net, x, target, at=2)
    assert every.gradient is not None
    for length, gradient in enumerate(split.gradient):
        torch.testing.assert_close(every.gradient[every.lengths == length].sum(0), gradient, rtol=1e-10, atol=1e-13)
    assert sample_path_gradients(net, x, target, at=1, draws=2).counts == (0, 1, 1)


def test_lengths_of_a_graph() -> None:
    net = CASES["nested"].network()
    found = path_lengths(net)
    assert [found.count(k) for k in range(5)] == [1, 1, 2, 1, 0]
    assert (found.paths, found.n) == (5, 3)
    assert found.mean == pytest.approx((1 + 4 + 3) / 5)
    assert found.variance == pytest.approx((1 + 8 + 9) / 5 - (8 / 5) ** 2)
    assert found.share(2, 9) == 3 / 5
    assert len(found.to_pandas()) == 4
    assert [path_lengths(net, dropped=[0]).count(k) for k in range(4)] == [1, 1, 1, 0]
    assert [path_lengths(net, dropped=[2]).count(k) for k in range(4)] == [1, 0, 0, 0]
    surviving = surviving_path_lengths(net, [0.5, 0.25, 0.5])
    expected = [1, 0.5, 0.5 * (0.5 + 0.25), 0.5 * 0.5 * 0.25]
    assert surviving.probability.tolist() == pytest.approx([value / sum(expected) for value in expected])
    with pytest.raises(ValueError, match="no keep probabilities"):
        path_lengths(net, keep=0.5)
    with pytest.raises(ValueError, match="by name or index"):
        path_lengths(net, dropped=1)
    with pytest.raises(ValueError, match="a path from the output to the input"):
        path_lengths(CASES["token"].network(), dropped=[1])


@pytest.mark.slow
@every_case
def test_logits_by_length_are_those_of_the_linearised_network(name: str) -> None:
    net, (x, _) = CASES[name].network(), CASES[name].batch()
    split = logits_by_length(net, x, linearise="tangent")
    close(split.logits, logits_at_points(net, x))
    assert split.residual < 1e-12
    torch.testing.assert_close(split.output, net(x))
    torch.testing.assert_close(sum(split.parts.values()), split.logits)


@pytest.mark.slow
@every_case
def test_contributions_are_those_of_the_network_with_branches_kept_as_they_are(name: str) -> None:
    net, (x, target) = CASES[name].network(), CASES[name].batch()
    found = block_contributions(net, x, target, linearise="tangent")
    assert found.residual < 1e-12
    none = linearised(net, x, [0.0] * len(net), constant=True)
    for index, block in enumerate(net):
        alone = linearised(net, x, [float(other == index) for other in range(len(net))], constant=True)
        row = found.contributions[found.sources.index(block.name)]
        torch.testing.assert_close(row, alone - none, rtol=1e-10, atol=1e-12)


@every_case
def test_the_lens_begins_with_all_branches_cut_and_ends_with_the_network(name: str) -> None:
    net, (x, _) = CASES[name].network(), CASES[name].batch()
    lens = logit_lens(net, x)
    torch.testing.assert_close(lens.logits[0], net(x, torch.zeros(len(net))))
    torch.testing.assert_close(lens.logits[-1], net(x))


SINGLE = [name for name, case in CASES.items() if case.inputs == 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", SINGLE)
def test_attribution_of_blocks_sums_to_the_difference(name: str) -> None:
    net, (x, target) = CASES[name].network(), CASES[name].batch()
    found = attribute_blocks(net, x, target, steps=80)
    assert found.residual is not None
    assert found.residual < 0.01  # of the quadrature, whose function has kinks at ReLUs
    ablated = attribute_blocks(net, x, target, method="ablation")
    for index in range(len(net)):
        gates = torch.ones(len(net))
        gates[index] = 0
        fall = (net(x) - net(x, gates)).gather(1, target[:, None])[:, 0]
        torch.testing.assert_close(ablated.values[index], fall, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", SINGLE)
def test_predictors_of_damage_by_their_definitions(name: str) -> None:
    net, (x, target) = CASES[name].network(), CASES[name].batch()
    found = predictors._gradients(net, x, target)
    gates = torch.ones(len(net), dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(loss_of(target)(net(x, gates)), gates)
    torch.testing.assert_close(torch.from_numpy(found["taylor"]).sum(1), -expected, rtol=1e-10, atol=1e-12)
    contributions = block_contributions(net, x, target, linearise="tangent")
    margin = contributions.contributions.gather(2, target.expand(len(net) + 3, 3)[..., None])[..., 0]
    margin = (margin - contributions.contributions.mean(2))[3:]
    by_predictor = torch.from_numpy(predictors._contributions(net, x, target)["logit_contribution"])
    torch.testing.assert_close(by_predictor, margin, rtol=1e-10, atol=1e-12)


class Drawn(torch.nn.Module):
    """Blocks at any of the values so far, whose branches read others beside; a head that reads some of them."""

    def __init__(self, entries: list[int], sides: list[set[int]], heads: set[int]) -> None:
        super().__init__()
        self.entries, self.sides, self.heads = entries, sides, sorted(heads)
        self.stem = torch.nn.Linear(4, 4)
        widths = [4 * (1 + len(side)) for side in sides]
        self.branches = torch.nn.ModuleList(torch.nn.Linear(width, 4) for width in widths)
        self.head = torch.nn.Linear(4 * len(heads), 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = [self.stem(x)]
        for entry, side, branch in zip(self.entries, self.sides, self.branches, strict=True):
            read = torch.cat([values[entry], *(values[other] for other in sorted(side))], 1)
            values.append(values[entry] + torch.tanh(branch(read)))
        return self.head(torch.cat([torch.tanh(values[place]) for place in self.heads], 1))

    def counts(self) -> list[int]:
        """The number of paths by length."""
        ways = [[1] + [0] * len(self.entries)]
        for entry, side in zip(self.entries, self.sides, strict=True):
            by_branch = [sum(ways[other][length] for other in {entry, *side}) for length in range(len(self.entries))]
            ways.append([a + b for a, b in zip(ways[entry], [0, *by_branch], strict=True)])
        return [sum(ways[place][length] for place in self.heads) for length in range(len(self.entries) + 1)]


@st.composite
def drawn_networks(draw: st.DrawFn) -> Drawn:
    entries = [draw(st.integers(0, place)) for place in range(draw(st.integers(1, 5)))]
    sides = [draw(st.sets(st.integers(0, place), max_size=2)) - {entry} for place, entry in enumerate(entries)]
    heads = draw(st.sets(st.integers(0, len(entries)), min_size=1, max_size=3)) | {len(entries)}
    return Drawn(entries, sides, heads)


@given(drawn_networks())
@settings(max_examples=15, deadline=None)
def test_any_graph(model: Drawn) -> None:
    net = unroll(model.double().eval())
    x, target = torch.randn(2, 4, dtype=torch.float64), torch.tensor([0, 2])
    counts = list(path_graph(net).counts)
    assert counts + [0] * (len(model.entries) + 1 - len(counts)) == model.counts()
    leaf = x.clone().requires_grad_()
    split = gradient_by_length(net, x, target)
    close(split.gradient, gradients_by_length(net, leaf, leaf, loss_of(target), len(net))[0])
    every = enumerate_path_gradients(net, x, target, keep_gradients=True)
    assert every.gradient is not None
    for length, gradient in enumerate(split.gradient):
        torch.testing.assert_close(every.gradient[every.lengths == length].sum(0), gradient, rtol=1e-10, atol=1e-12)
    assert logits_by_length(net, x).residual < 1e-12
