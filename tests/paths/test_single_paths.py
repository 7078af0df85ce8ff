"""Single paths: all of them against dense Jacobians, estimators against all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from references.dense_paths import path_gradients
from references.tiny import tiny_batch, tiny_network
from resnet_paths.paths import (
    Path,
    effective_paths,
    enumerate_path_gradients,
    gradient_by_length,
    path_energy,
    path_lengths,
    sample_path_gradients,
)
from resnet_paths.paths.block_graph import chain_graph
from resnet_paths.paths.forward_pass import ForwardPass
from resnet_paths.paths.merged_columns import merge_into
from resnet_paths.paths.sampling import draw_edges, draw_masks
from resnet_paths.statistics import log_student_interval


@pytest.mark.parametrize("options", [{}, {"post": False}, {"smooth": True}], ids=str)
def test_enumeration_is_every_product_of_jacobians(options: dict[str, bool]) -> None:
    net = tiny_network(6, **options)
    x, target = tiny_batch(2)
    found = enumerate_path_gradients(net, x, target, keep_gradients=True)
    assert found.gradient is not None
    for example in range(2):
        label = target[example : example + 1]
        every = path_gradients(net, x[example : example + 1], lambda out, label=label: F.cross_entropy(out, label))
        for rank in range(2**6):
            blocks = tuple(block for block in range(6) if rank >> block & 1)
            torch.testing.assert_close(found.gradient[rank, example], every[blocks], rtol=1e-10, atol=1e-14)
            assert found.path(rank) == Path(blocks)
            assert int(found.lengths[rank]) == found.path(rank).length == len(blocks)
    torch.testing.assert_close(found.norms, found.gradient.norm(dim=2))


def test_enumeration_sums_to_the_gradient_by_length() -> None:
    net = tiny_network(10)
    x, target = tiny_batch()
    every = enumerate_path_gradients(net, x, target, keep_gradients=True)
    split = gradient_by_length(net, x, target)
    assert every.gradient is not None
    for length in range(11):
        total = every.gradient[every.lengths == length].sum(0)
        torch.testing.assert_close(total, split.gradient[length], rtol=1e-10, atol=1e-13)
    assert every.vjps["branch"] == 2**10 - 1


def test_enumeration_in_little_room_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    net = tiny_network(7)
    x, target = tiny_batch()
    wide = enumerate_path_gradients(net, x, target)
    visits: list[int] = []
    original = ForwardPass.pull

    def counted(self, place, term, rows, parameters=()):
        visits.append(len(rows))
        return original(self, place, term, rows, parameters)

    monkeypatch.setattr(ForwardPass, "pull", counted)
    monkeypatch.setattr("resnet_paths.paths.enumeration.ROOM_BYTES", 4 * 3 * 4 * 8)
    narrow = enumerate_path_gradients(net, x, target)
    assert max(visits) <= 8
    torch.testing.assert_close(wide.norms, narrow.norms, rtol=1e-12, atol=1e-15)


def test_drawn_paths_are_uniform_and_differ_between_examples() -> None:
    graph, generator = chain_graph(5), torch.Generator().manual_seed(0)
    left, ranks = torch.full((400, 10), 2), torch.zeros(400, 10, dtype=torch.long)
    for place in range(5, 0, -1):
        taken = draw_edges(graph, place, left, generator)  # 0: on by the shortcut, 1: by the branch
        left, ranks = left - taken, ranks + (taken << place - 1)
    assert not left.any()
    assert (ranks[:, 0] != ranks[:, 1]).any()
    assert chi_square_of_pairs(ranks) < 27.9


def test_masks_are_uniform_and_differ_between_examples() -> None:
    masks = draw_masks(5, 2, 400, 10, torch.Generator().manual_seed(0))
    assert (masks.sum(-1) == 2).all()
    assert (masks[:, 0] != masks[:, 1]).any()
    assert chi_square_of_pairs((masks.long() << torch.arange(5)).sum(-1)) < 27.9


def chi_square_of_pairs(ranks: torch.Tensor) -> float:
    """Of 4000 sets of two of five; 27.9 is the 0.1 % point with nine degrees of freedom."""
    counts = torch.bincount(ranks.flatten())[[1 << i | 1 << j for i in range(5) for j in range(i)]].double()
    return float(((counts - 400) ** 2 / 400).sum())


def test_sampled_norms_are_norms_of_paths() -> None:
    net = tiny_network(5)
    x, target = tiny_batch()
    every = enumerate_path_gradients(net, x, target)
    drawn = sample_path_gradients(net, x, target, draws=20)
    for row, length in enumerate(drawn.lengths.tolist()):
        for example in range(3):
            known = every.norms[every.lengths == length, example]
            gaps = (drawn.norms[row, :, example, None] - known).abs().min(1).values
            assert float(gaps.max()) < 1e-12


def _same_example(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, target = tiny_batch(1)
    return x.expand(batch, -1), target.expand(batch)


@pytest.mark.slow
def test_energy_interval_has_its_nominal_coverage() -> None:
    net = tiny_network(6)
    truth = enumerate_path_gradients(net, *tiny_batch(1)).energy_by_length()[2:6]
    found = path_energy(net, *_same_example(500), draws=64, columns=2)
    coverage = float(((found.low[2:6] <= truth) & (truth <= found.high[2:6])).double().mean())
    assert abs(coverage - 0.95) < 0.03


@pytest.mark.slow
def test_sampling_interval_has_its_nominal_coverage() -> None:
    net = tiny_network(6)
    truth = enumerate_path_gradients(net, *tiny_batch(1)).mean_by_length()[1:6]
    hits = []
    for seed in range(2):
        found = sample_path_gradients(net, *_same_example(500), lengths=range(1, 6), draws=96, seed=seed)
        low, high = found.interval()
        hits.append((low <= truth) & (truth <= high))
    coverage = float(torch.stack(hits).double().mean())
    assert abs(coverage - 0.95) < 0.03


@pytest.mark.slow
def test_sampling_interval_covers_with_few_draws() -> None:
    """Sixteen draws, the default: intervals of Student's t alone cover 0.82 to 0.93."""
    net = tiny_network(6)
    truth = enumerate_path_gradients(net, *tiny_batch(1)).mean_by_length()
    drawn = sample_path_gradients(net, *_same_example(400), draws=16)
    low, high = drawn.interval()
    assert 0.93 <= float(((low <= truth) & (truth <= high))[1:6].double().mean()) <= 0.975
    assert bool((low[[0, 6]] == high[[0, 6]]).all())  # one path

    pooled = [drawn.norms[..., start : start + 4] for start in range(0, 400, 4)]
    parts = [replace(drawn, norms=norms, mean=norms.mean(1)).over_examples_interval() for norms in pooled]
    hits = torch.stack([(low <= truth[:, 0] * (1 + 1e-9)) & (truth[:, 0] * (1 - 1e-9) <= high) for low, high in parts])
    assert 0.92 <= float(hits[:, 1:6].double().mean()) <= 0.98
    assert bool(hits[:, [0, 6]].all())


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 3, 6])
def test_energy_converges_to_the_truth(columns: int) -> None:
    net = tiny_network(6)
    every = enumerate_path_gradients(net, *tiny_batch(1))
    energy, error = path_energy(net, *_same_example(400), draws=20, columns=columns).over_examples()
    np.testing.assert_array_less((energy - every.energy_by_length()[:, 0]).abs(), 4 * error + 1e-12)
    assert bool((error <= 0.03 * energy).all())
    assert int((energy > 0).sum()) >= 6


def test_columns_for_every_path_give_the_energy_exactly() -> None:
    net = tiny_network(6)
    x, target = tiny_batch()
    found = path_energy(net, x, target, columns=20)
    truth = enumerate_path_gradients(net, x, target).energy_by_length()
    torch.testing.assert_close(found.energy, truth, rtol=1e-10, atol=1e-20)
    assert found.draws == 2
    assert not found.standard_error.any()
    some = path_energy(net, x, target, columns=2)
    assert (some.standard_error > 0).any(1).tolist() == [False, True, True, True, True, True, False]


def test_merged_columns_keep_the_trace_and_the_second_moment_in_expectation() -> None:
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(7, 2000, 5, generator=generator, dtype=torch.float64)
    columns[:] = columns[:, :1].clone()
    merged = torch.full((3, 2000, 5), torch.nan, dtype=torch.float64)
    merge_into(merged, [[columns[:4], columns[4:]]], 3, generator)
    truth = columns.square().sum((0, 2))
    torch.testing.assert_close(merged.square().sum((0, 2)), truth)
    moment = torch.einsum("cbd,cbe->bde", merged, merged)
    gap = moment.mean(0) - torch.einsum("cd,ce->de", columns[:, 0], columns[:, 0])
    error = moment.std(0) / 2000**0.5
    assert bool((gap.abs() <= 4.5 * error + 1e-9).all())
    assert float(error.max()) > 0.01


def test_sampling_converges_to_the_truth() -> None:
    net = tiny_network(6)
    every = enumerate_path_gradients(net, *tiny_batch(1))
    mean, error = sample_path_gradients(net, *_same_example(400), draws=50).over_examples()
    np.testing.assert_array_less((mean - every.mean_by_length()[:, 0]).abs(), 4 * error + 1e-12)
    assert bool((error <= 0.02 * mean).all())


def test_energy_of_shortest_and_longest_path_is_exact() -> None:
    net = tiny_network(5)
    x, target = tiny_batch()
    truth = enumerate_path_gradients(net, x, target).energy_by_length()
    found = path_energy(net, x, target, draws=2)
    torch.testing.assert_close(found.energy[[0, -1]], truth[[0, -1]], rtol=1e-10, atol=1e-20)
    assert not found.standard_error[[0, -1]].any()


def test_energy_stops_when_precise_enough() -> None:
    net = tiny_network(5)
    x, target = tiny_batch()
    coarse = path_energy(net, x, target, draws=4000, columns=1, tolerance=0.3)
    fine = path_energy(net, x, target, draws=4000, columns=1, tolerance=0.1)
    assert coarse.draws < fine.draws < 4000
    energy, error = fine.over_examples()
    assert bool((error <= 0.1 * energy).all())


def test_seed_decides_the_draws() -> None:
    net = tiny_network(5)
    x, target = tiny_batch()
    for analysis in (partial(path_energy, columns=2), sample_path_gradients):
        one, again, other = (analysis(net, x, target, seed=seed).to_pandas() for seed in (1, 1, 2))
        assert one.equals(again)
        assert not one.equals(other)


def test_from_a_block_on() -> None:
    net = tiny_network(6)
    x, target = tiny_batch()
    every = enumerate_path_gradients(net, x, target, at=2, keep_gradients=True)
    split = gradient_by_length(net, x, target, at=2)
    assert every.gradient is not None
    for length in range(5):
        total = every.gradient[every.lengths == length].sum(0)
        torch.testing.assert_close(total, split.gradient[length], rtol=1e-10, atol=1e-14)
    assert sample_path_gradients(net, x, target, at=2, draws=2).n == 4
    truth = every.energy_by_length()
    torch.testing.assert_close(path_energy(net, x, target, at=2, draws=2).energy[0], truth[0])


@pytest.mark.slow
def test_effective_paths_of_a_known_distribution() -> None:
    net = tiny_network(8)
    x, target = tiny_batch()
    every = enumerate_path_gradients(net, x, target)
    found = effective_paths(every, mass=0.9)
    sums = np.array([float(every.norms[every.lengths == k].sum()) for k in range(9)])
    np.testing.assert_allclose(found.share, sums / sums.sum(), rtol=1e-10)
    assert found.share[: found.low].sum() <= 0.05
    assert found.share[found.high + 1 :].sum() <= 0.05
    assert found.path_share == path_lengths(8).share(found.low, found.high)
    assert found.mean_length == pytest.approx(float(found.share @ np.arange(9)))
    assert len(found.to_pandas()) == 9
    energy = effective_paths(path_energy(net, x, target, draws=40))
    assert "root mean square" in energy.kind
    # there is one path of the least and one of the greatest length: both are its norm; the others are estimated
    np.testing.assert_allclose(energy.norm[[0, -1]], found.norm[[0, -1]], rtol=1e-10)
    assert (energy.norm[1:-1] > found.norm[1:-1] - 5 * energy.standard_error[1:-1]).all()


def test_effective_paths_recovers_an_exponential_law() -> None:
    every = enumerate_path_gradients(tiny_network(6), *tiny_batch(1))
    norms = 0.3 ** every.lengths.double()[:, None]
    law = effective_paths(type(every)(**{**vars(every), "norms": norms}))
    assert law.decay == pytest.approx(0.3)
    assert law.decay_fit == pytest.approx(1.0)
    np.testing.assert_allclose(law.share, [path_lengths(6, keep=0.3 / 1.3).probability[k] for k in range(7)])


WRONG: list[tuple[str, Callable[..., object]]] = [
    ("at least 2 draws", lambda net, x, t: sample_path_gradients(net, x, t, draws=1)),
    ("lengths from 0 to 4", lambda net, x, t: sample_path_gradients(net, x, t, lengths=[5])),
    ("at least 2 draws", lambda net, x, t: path_energy(net, x, t, draws=1)),
    ("columns to be an integer of at least 1", lambda net, x, t: path_energy(net, x, t, columns=0)),
    ("between 0 and 1", lambda net, x, t: path_energy(net, x, t, confidence=1.0)),
    ("tolerance to be a number above 0", lambda net, x, t: path_energy(net, x, t, tolerance=0.0)),
    ("all lengths 0 to 4", lambda net, x, t: effective_paths(sample_path_gradients(net, x, t, lengths=[1]))),
    ("targets from 0 to 2", lambda net, x, t: path_energy(net, x, t - 1)),
    ("eval mode", lambda net, x, t: enumerate_path_gradients((net.model.train(), net)[1], x, t)),
    ("at most 16 blocks", lambda net, x, t: enumerate_path_gradients(tiny_network(17), x, t)),
]


@pytest.mark.parametrize(("message", "call"), WRONG, ids=[message for message, _ in WRONG])
def test_wrong_input_is_refused(message: str, call: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match=message):
        call(tiny_network(4), *tiny_batch())


def test_log_student_interval_by_its_formula() -> None:
    low, high = log_student_interval(np.array([2.0, 5.0]), np.array([0.5, 0.0]), 3, 0.9)
    factor = math.exp(stats.t(3).ppf(0.95) * 0.5 / 2)
    assert low == pytest.approx([2 / factor, 5])
    assert high == pytest.approx([2 * factor, 5])


def test_the_error_of_a_root_mean_square_norm_follows_from_that_of_the_energy() -> None:
    energy = path_energy(tiny_network(6), *tiny_batch(), draws=4, columns=2)
    found, step = effective_paths(energy), 1e-6
    expected = np.zeros(7)
    for example in range(3):
        moved = energy.energy.clone()
        moved[:, example] += step * energy.standard_error[:, example]
        counts = torch.tensor([math.comb(6, k) for k in range(7)], dtype=torch.float64)[:, None]
        changed = effective_paths(replace(energy, energy=moved, rms=(moved / counts).sqrt()))
        expected += ((changed.norm - found.norm) / step) ** 2
    assert found.standard_error == pytest.approx(np.sqrt(expected), rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_there_is_nothing_to_distribute_without_a_gradient(value: float) -> None:
    every = enumerate_path_gradients(tiny_network(4), *tiny_batch())
    with pytest.raises(ValueError, match="no gradient to distribute"):
        effective_paths(replace(every, norms=torch.full_like(every.norms, value)))
    some = every.norms.clone()
    some[every.lengths > 1] = 0
    assert effective_paths(replace(every, norms=some)).share[2:].tolist() == [0, 0, 0]
