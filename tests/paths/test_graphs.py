"""Paths of networks whose blocks are no chain: against ordinary backward passes, and against every set of branches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from references.graphs import CASES
from references.literal_paths import gradients_by_branches, gradients_by_length
from resnet_paths.paths import gradient_by_length
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
    split = gradient_by_length(net, x, target, wrt="parameters")
    _, *expected = gradients_by_length(net, given, leaf, loss_of(target), len(net))
    for (parameter, _), values in zip(net.model.named_parameters(), expected, strict=True):
        close(split.gradient[parameter], values)
    assert split.residual is not None
    assert split.residual < 1e-12


@every_case
def test_gradient_at_every_entry_is_that_of_ordinary_backward_passes(name: str) -> None:
    """Also of blocks around others, which come after them, and of blocks that only some of the later ones read."""
    case = CASES[name]
    net, (x, target) = case.network(), case.batch()
    given, leaf = case.with_leaf(x)
    whole = gradient_by_length(net, x, target)
    for index, unit in enumerate(net):
        split = gradient_by_length(net, x, target, wrt=index)
        close(split.gradient, gradients_by_length(net, given, leaf, loss_of(target), len(net), index)[0])
        assert split.residual is not None
        assert split.residual < 1e-12
        if unit.name in whole.entry_units:
            row = whole.entry_norms[whole.entry_units.index(unit.name)]
            torch.testing.assert_close(row[: len(split.norms)], split.norms, rtol=1e-10, atol=1e-13)


@every_case
def test_counting_a_part_of_the_blocks_and_the_shortest_lengths(name: str) -> None:
    case = CASES[name]
    net, (x, target) = case.network(), case.batch()
    given, leaf = case.with_leaf(x)
    sums = gradients_by_branches(net, given, leaf, loss_of(target))
    passed = path_graph(net).blocks
    chosen = set(passed[::2])
    split = gradient_by_length(net, x, target, units=sorted(chosen))
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
    with pytest.raises(ValueError, match="no path leads"):
        gradient_by_length(net, x, target, units=[2])


def test_a_chain_has_binomially_many_paths_in_order_of_their_branches() -> None:
    graph = chain_graph(5)
    assert graph.counts == (1, 5, 10, 10, 5, 1)
    for rank in range(32):
        taken = [graph.vertices[place].block for place, term, _ in graph.walk(rank) if term.kind == "branch"]
        assert rank == sum(1 << block for block in taken if block is not None)
    with pytest.raises(IndexError, match="rank of a path"):
        graph.walk(32)
