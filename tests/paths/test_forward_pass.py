"""The record of a forward pass: what pulls rows back is the transpose of what pushes them forward, term by term."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import randomise_norms
from references.graphs import CASES
from references.tiny import tiny_batch, tiny_network
from resnet_paths import UnrolledNetwork, unroll
from resnet_paths.models import cifar_resnet
from resnet_paths.paths import enumerate_path_gradients, gradient_by_length, path_energy, sample_path_gradients
from resnet_paths.paths.block_graph import chain_graph, path_graph
from resnet_paths.paths.forward_pass import ForwardPass, pass_of_values, pass_to_start
from resnet_paths.paths.polynomial import Waiting


def convolutional() -> tuple[UnrolledNetwork, torch.Tensor]:
    model = randomise_norms(cifar_resnet(8, widths=(2, 4, 4), num_classes=3, shortcut="B", seed=0)).double().eval()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return unroll(model), x


def of_case(name: str) -> Callable[[], tuple[UnrolledNetwork, Any]]:
    return lambda: (CASES[name].network(), CASES[name].batch()[0])


NETWORKS: dict[str, Callable[[], tuple[UnrolledNetwork, Any]]] = {
    "a chain": lambda: (tiny_network(4), tiny_batch()[0]),
    "a chain of smooth blocks": lambda: (tiny_network(4, smooth=True, post=False), tiny_batch()[0]),
    "a chain of convolutions": convolutional,
    **{name: of_case(name) for name in CASES},
}


def recorded(name: str, finer: bool = True) -> ForwardPass:
    net, x = NETWORKS[name]()
    batch = len(x[0] if isinstance(x, tuple) else x)
    return pass_to_start(net, x, torch.arange(batch) % 3, "cross_entropy", "input", None, finer=finer)


def inner(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Of each row of one with the same row of the other."""
    return (one * other).flatten(1).sum(1)


@pytest.mark.slow
@pytest.mark.parametrize("finer", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_pulls_are_the_transposes_of_pushes(name: str, finer: bool) -> None:
    record = recorded(name, finer)
    terms = 0
    for place, vertex in enumerate(record.graph.vertices):
        for term in vertex.terms:
            terms += 1
            tangents = [torch.randn(3, *record.value(source).shape, dtype=torch.float64) for source in term.sources]
            cotangents = torch.randn(3, *record.value(place).shape, dtype=torch.float64)
            pushed = record.push(place, term, tangents)
            pulled = dict(record.pull(place, term, cotangents)[0])
            assert set(pulled) == set(term.sources)
            if not term.sources:
                assert pushed is None
                continue
            forwards = inner(pushed.expand_as(cotangents), cotangents)
            backwards = sum(inner(pulled[source], tangents[i]) for i, source in enumerate(term.sources))
            torch.testing.assert_close(forwards, backwards, rtol=1e-10, atol=1e-10)
    assert terms > 2 * len(record.graph.blocks)


@pytest.mark.parametrize("name", [name for name in NETWORKS if "chain" in name or name in ("nested", "u-net")])
def test_pulls_into_given_memory_are_the_same(name: str) -> None:
    record = recorded(name)
    assert record.graph.steps
    for step in record.graph.steps.values():
        vertex = record.graph.vertices[step.total]
        rows = torch.randn(3, *record.value(step.total).shape, dtype=torch.float64)
        for term in vertex.terms:
            ((_, expected),), _ = record.pull(step.total, term, rows)
            torch.testing.assert_close(record.pull_to_source(step.total, term, rows), expected)
            onto = torch.randn_like(expected)
            before = onto.clone()
            record.add_pulled(step.total, term, rows, onto)
            torch.testing.assert_close(onto, before + expected)
        if step.exit != step.total:
            (join,) = record.graph.vertices[step.exit].terms
            rows = torch.randn(3, *record.value(step.exit).shape, dtype=torch.float64)
            ((_, expected),), _ = record.pull(step.exit, join, rows)
            into = torch.full_like(rows, torch.nan) if rows.shape == expected.shape else None
            torch.testing.assert_close(record.pull_to_source(step.exit, join, rows, into), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_terms_of_a_vertex_sum_to_it(name: str) -> None:
    net, x = NETWORKS[name]()
    for record in (recorded(name), pass_of_values(net, x)):
        for place, vertex in enumerate(record.graph.vertices):
            if vertex.terms:
                total = sum(record.term(place, term) for term in vertex.terms)
                torch.testing.assert_close(total, record.value(place), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(record.output, net(x))


@pytest.mark.parametrize("name", ["a chain of convolutions", "mixture", "siamese"])
def test_the_ordinary_gradient_is_not_cut(name: str) -> None:
    """In a chain it comes from the record itself, elsewhere from a separate pass: both equal the model's."""
    record = recorded(name)
    assert record.graph.is_chain is (name != "mixture")
    net, x = NETWORKS[name]()
    given = x if isinstance(x, tuple) else (x,)
    leaf = given[0].clone().requires_grad_()
    output = net.model(leaf, *given[1:])
    loss = torch.nn.functional.cross_entropy(output, torch.arange(len(leaf)) % 3, reduction="sum")
    torch.testing.assert_close(record.ordinary_gradient(), list(torch.autograd.grad(loss, leaf)))


def test_a_record_without_a_loss_keeps_no_history() -> None:
    net, x = convolutional()
    record = pass_of_values(net, x)
    assert not any(record.value(place).requires_grad for place in range(len(record.graph.vertices)))


@given(st.integers(1, 6))
@settings(max_examples=6, deadline=None)
def test_every_block_of_a_chain_is_gone_through_at_once(n: int) -> None:
    graph = chain_graph(n)
    assert graph.is_chain
    assert set(graph.steps) == set(range(1, n + 2))  # by the way of the output too
    assert [graph.steps[place].entry for place in range(1, n + 1)] == list(range(n))


def test_steps_of_graphs_pass_nothing_that_others_read() -> None:
    for case in CASES.values():
        graph = path_graph(case.network())
        for step in graph.steps.values():
            readers = [
                place
                for place, vertex in enumerate(graph.vertices)
                for term in vertex.terms
                if step.total in term.sources
            ]
            assert step.exit == step.total or set(readers) == {step.exit}
            assert all(term.sources == (step.entry,) for term in graph.vertices[step.total].terms)


def test_rows_that_share_memory_are_not_written_over() -> None:
    """Autograd gives the terms of a sum one gradient tensor, and that of a mean is one number, expanded."""
    rows = torch.randn(2, 1, dtype=torch.float64).expand(2, 5)
    expected, waiting = rows.clone(), Waiting({}, set())
    for place in (0, 1, 0, 0):
        waiting.add(place, rows, 0)
    waiting.add(1, rows, 1)
    assert torch.equal(rows, expected)
    torch.testing.assert_close(waiting.rows[0], 3 * expected)
    torch.testing.assert_close(waiting.rows[1], torch.stack([expected[0], expected.sum(0), expected[1]]))


class FrozenStem(torch.nn.Module):
    """A stem whose gradient the model keeps off, and two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = torch.nn.Linear(4, 6), torch.nn.Linear(6, 3)
        self.branches = torch.nn.ModuleList(torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh()) for _ in "12")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x = self.stem(x)
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x)


@pytest.mark.parametrize("recorded_by_example", [False, True])
@pytest.mark.parametrize("analysis", [gradient_by_length, path_energy, enumerate_path_gradients, sample_path_gradients])
def test_where_no_gradient_reaches_the_input_the_entry_is_named(analysis: Any, recorded_by_example: bool) -> None:
    model, x = FrozenStem().double().eval(), torch.randn(2, 4, dtype=torch.float64)
    net = unroll(model, x if recorded_by_example else None)
    with pytest.raises(ValueError, match=r"flow from the output to the input, got none; .* no_grad .*at=0"):
        analysis(net, x, torch.tensor([0, 1]))
    analysis(net, x, torch.tensor([0, 1]), at=0)
