"""Length distributions against exact integers and products of polynomials."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from references.tiny import tiny_network
from resnet_paths.paths import path_lengths, surviving_path_lengths


def test_published_shares_of_resnet_110() -> None:
    deep = path_lengths(54)
    assert deep.share(5, 17) == pytest.approx(0.004537, abs=5e-7)
    assert deep.share(19, 35) == pytest.approx(0.9802, abs=5e-5)


def test_counts_are_exact_and_sum_to_all_paths() -> None:
    distribution = path_lengths(300)
    assert sum(distribution.count(k) for k in range(301)) == distribution.paths == 2**300


@pytest.mark.parametrize("n", [0, 1, 7, 54, 400, 1500])
def test_probabilities_sum_to_one_in_log_space(n: int) -> None:
    logs = path_lengths(n).log_probability
    assert np.isfinite(logs).all()
    assert math.fsum(np.exp(logs)) == pytest.approx(1.0, abs=1e-11)
    assert logs[0] == pytest.approx(-n * math.log(2), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_poisson_binomial_is_the_product_of_its_factors(keep: list[float]) -> None:
    expected = np.array([1.0])
    for p in keep:
        expected = np.convolve(expected, [1 - p, p])
    distribution = path_lengths(len(keep), keep=keep)
    np.testing.assert_allclose(distribution.probability, expected, atol=1e-12)
    lengths = np.arange(len(keep) + 1)
    assert distribution.mean == pytest.approx(float(expected @ lengths), abs=1e-9)
    spread = float(expected @ lengths**2) - distribution.mean**2
    assert distribution.variance == pytest.approx(spread, abs=1e-9)


def test_keep_one_half_weights_all_paths_equally() -> None:
    np.testing.assert_allclose(
        path_lengths(200, keep=0.5).log_probability, path_lengths(200).log_probability, atol=1e-9
    )


def test_share_is_the_exact_quotient() -> None:
    expected = Fraction(math.comb(20, 3) + math.comb(20, 4), 2**20)
    assert path_lengths(20).share(3, 4) == float(expected)
    assert path_lengths(20).share(-5, 50) == 1.0


def test_dropping_removes_blocks_and_halves_paths() -> None:
    net = tiny_network(6)
    assert path_lengths(net, dropped=[0, -1]).paths == 2**4
    assert path_lengths(6, dropped=2).n == 4
    kept = path_lengths(net, keep=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], dropped=[net[1].name])
    assert kept.keep == (0.1, 0.3, 0.4, 0.5, 0.6)


def test_surviving_paths_against_enumeration() -> None:
    keep = [0.9, 0.5, 0.2]
    expected = np.zeros(4)
    for mask in range(8):
        taken = [i for i in range(3) if mask >> i & 1]
        expected[len(taken)] += math.prod(keep[i] for i in taken)
    surviving = surviving_path_lengths(3, keep)
    np.testing.assert_allclose(surviving.probability * math.exp(surviving.log_paths), expected, rtol=1e-12)


def test_central_interval_leaves_at_most_its_tails() -> None:
    deep = path_lengths(54)
    for mass in (0.5, 0.9, 0.95, 0.99):
        low, high = deep.interval(mass)
        assert deep.share(0, low - 1) <= (1 - mass) / 2 < deep.share(0, low)
        assert deep.share(high + 1, 54) <= (1 - mass) / 2 < deep.share(high, 54)


def test_table_keeps_exact_counts() -> None:
    assert path_lengths(100).to_pandas()["count"].sum() == 2**100


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: path_lengths(-1), "at least 0"),
        (lambda: path_lengths(3, keep=1.5), "from 0 to 1"),
        (lambda: path_lengths(3, keep=[0.5]), "one per block"),
        (lambda: path_lengths(3, dropped=4), "dropped"),
        (lambda: path_lengths(3, dropped=[0, 0]), "different block indices"),
        (lambda: path_lengths(3).share(2, 1), "low <= high"),
        (lambda: path_lengths(3).interval(1.0), "between 0 and 1"),
    ],
)
def test_wrong_input_is_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_numbers_of_numpy_are_numbers() -> None:
    assert path_lengths(np.int64(5), keep=np.float32(0.5), dropped=np.int64(1)).mean == 2
    assert path_lengths(5, keep=np.full(5, 0.5), dropped=[1, 2]).n == 3
