"""Values and interactions from tables: the axioms, shapiq, and averages over all orders."""

import itertools
import sys
from math import factorial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from resnet_paths.lesion import all_coalitions, table_interactions, table_values

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "references"))

from game_by_orders import derivative_over_orders, values_over_orders

GAMES = st.integers(1, 5).flatmap(lambda n: arrays(float, 2**n, elements=st.floats(-10, 10)))
PAIRS = st.integers(2, 4).flatmap(
    lambda n: st.tuples(*[arrays(float, 2**n, elements=st.floats(-10, 10)) for _ in range(2)])
)
METHODS = pytest.mark.parametrize("method", ["shapley", "banzhaf"])


def players_of(table: np.ndarray) -> int:
    return len(table).bit_length() - 1


@given(GAMES)
def test_efficiency(table: np.ndarray) -> None:
    assert table_values(table).sum() == pytest.approx(table[-1] - table[0], abs=1e-9)


@METHODS
@given(GAMES, st.data())
def test_symmetric_players_are_worth_the_same(method: str, table: np.ndarray, data: st.DataObject) -> None:
    n = players_of(table)
    one, other = data.draw(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))
    swapped = all_coalitions(n)
    swapped[:, [one, other]] = swapped[:, [other, one]]
    symmetric = table + table[swapped @ (1 << np.arange(n))]
    values, pairs = table_values(symmetric, method), table_interactions(symmetric, method)
    assert values[one] == pytest.approx(values[other], abs=1e-9)
    for third in set(range(n)) - {one, other}:
        assert pairs[one, third] == pytest.approx(pairs[other, third], abs=1e-9)


@METHODS
@given(GAMES, st.data())
def test_a_null_player_is_worth_nothing_and_a_dummy_its_own_value(
    method: str, table: np.ndarray, data: st.DataObject
) -> None:
    n = players_of(table)
    null, own = data.draw(st.tuples(st.integers(0, n - 1), st.floats(-5, 5)))
    without = np.arange(2**n) & ~(1 << null)
    dummy = table[without] + own * ((np.arange(2**n) >> null) & 1)
    assert table_values(dummy, method)[null] == pytest.approx(own, abs=1e-9)
    assert table_interactions(dummy, method)[null] == pytest.approx(np.zeros(n), abs=1e-9)


@pytest.mark.slow
@METHODS
@given(PAIRS, st.floats(-3, 3))
def test_linearity(method: str, games: tuple[np.ndarray, np.ndarray], factor: float) -> None:
    one, other = games
    for function in (table_values, table_interactions):
        expected = function(one, method) + factor * function(other, method)
        assert function(one + factor * other, method) == pytest.approx(expected, abs=1e-8)


@settings(max_examples=25, deadline=None)
@given(GAMES)
def test_equal_to_the_average_over_all_orders(table: np.ndarray) -> None:
    assert table_values(table) == pytest.approx(values_over_orders(table), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(GAMES)
def test_interactions_are_averages_over_orders_in_which_the_pair_comes_together(table: np.ndarray) -> None:
    n, pairs = players_of(table), table_interactions(table)
    assert np.array_equal(pairs, pairs.T)
    for one, other in itertools.combinations(range(n), 2):
        assert pairs[one, other] == pytest.approx(derivative_over_orders(table, one, other), abs=1e-9)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(GAMES)
def test_exactly_shapiq(table: np.ndarray) -> None:
    shapiq = pytest.importorskip("shapiq")
    n = players_of(table)
    powers = 1 << np.arange(n)
    computer = shapiq.ExactComputer(lambda rows: table[np.asarray(rows, int) @ powers], n)
    for method, value, pair in (("shapley", "SV", "SII"), ("banzhaf", "BV", "BII")):
        found = computer(value, 1).dict_values
        assert table_values(table, method) == pytest.approx([found[(i,)] for i in range(n)], abs=1e-9)
        if n > 1:
            both, ours = computer(pair, 2).dict_values, table_interactions(table, method)
            for i, j in itertools.combinations(range(n), 2):
                assert ours[i, j] == pytest.approx(both[i, j], abs=1e-9)


def test_many_games_at_once() -> None:
    tables = np.random.default_rng(0).normal(size=(16, 3, 2))
    values, pairs = table_values(tables), table_interactions(tables)
    assert values.shape == (4, 3, 2)
    assert pairs.shape == (4, 4, 3, 2)
    for i, j in itertools.product(range(3), range(2)):
        assert values[:, i, j] == pytest.approx(table_values(tables[:, i, j]))
        assert pairs[..., i, j] == pytest.approx(table_interactions(tables[:, i, j]))


def test_weights_by_the_formula() -> None:
    n = 4
    for size in range(n):
        kept = (1 << size) - 1
        block = np.zeros(2**n)
        block[kept | (1 << (n - 1))] = 1
        weight = factorial(size) * factorial(n - size - 1) / factorial(n)
        assert table_values(block)[n - 1] == pytest.approx(weight)


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="2\\^n coalitions, got 3"):
        table_values(np.zeros(3))
    with pytest.raises(ValueError, match="'shapley' or 'banzhaf'"):
        table_values(np.zeros(4), "leave-one-out")
