import enum
import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resnet_paths.sweep import Grid, SweepError, grid
from resnet_paths.sweep.points import plain_point, point_key, point_seed

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.complex_numbers()
plain = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4).map(tuple) | st.dictionaries(st.text(), inner, max_size=4)
)


def same(a: object, b: object) -> bool:
    """Equality that distinguishes 1 from True and 0.0 from -0.0, and treats NaN as equal to itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, float):
        return (a != a and b != b) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return a == b


@pytest.mark.slow
@given(plain, plain)
def test_keys_are_equal_exactly_for_equal_points(a: object, b: object) -> None:
    assert (point_key(a) == point_key(b)) == same(a, b)


@given(plain)
def test_plain_points_stay_as_they_are(point: object) -> None:
    assert same(plain_point(point), point)


@given(st.dictionaries(st.text(), scalars))
def test_the_order_of_names_does_not_count(point: dict) -> None:
    assert point_key(OrderedDict(reversed(point.items()))) == point_key(point)


def test_close_points_have_their_own_keys() -> None:
    points = [0, 0.0, -0.0, False, None, "", "0", (), (0,), ((0,),), {}, {"0": 0}, 0j, 5e-324, ("a", "b"), ("ab", "")]
    assert len({point_key(point) for point in points}) == len(points)


def test_points_become_plain() -> None:
    class Mode(enum.IntEnum):
        FROZEN = 1

    got = plain_point(
        {"a": np.float32(0.5), "b": [np.int64(1), Mode.FROZEN], "c": torch.tensor(2.5), "d": np.str_("x")}
    )
    assert same(got, {"a": 0.5, "b": (1, 1), "c": 2.5, "d": "x"})


@pytest.mark.parametrize(
    "point", [np.zeros(2), object(), {1: 2}, b"x", {"a": {1, 2}}], ids=lambda value: type(value).__name__
)
def test_other_points_are_refused_with_advice(point: object) -> None:
    with pytest.raises(SweepError, match="expected"):
        plain_point(point)


def test_seeds_depend_on_the_sweep_and_the_point_alone_and_are_spread() -> None:
    keys = [point_key(i) for i in range(2000)]
    seeds = [point_seed(0, key) for key in keys]
    assert seeds == [point_seed(0, key) for key in keys]
    assert len({*seeds, *(point_seed(1, key) for key in keys)}) == 4000
    assert 0 <= min(seeds) < 2**52
    assert 2**62 < max(seeds) < 2**63
    torch.manual_seed(max(seeds))
    np.random.default_rng(max(seeds))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_a_grid_is_the_product_of_its_axes_the_last_one_fastest(sizes: list[int]) -> None:
    import itertools

    axes = {f"x{i}": range(size) for i, size in enumerate(sizes)}
    points = grid(**axes)
    expected = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    assert list(points) == expected
    assert points[:] == expected
    assert points[-1] == expected[-1]
    assert points.shape == tuple(sizes)
    with pytest.raises(IndexError):
        points[len(expected)]


def test_a_grid_of_a_billion_points_costs_nothing() -> None:
    points = grid(a=range(1000), b=range(1000), c=range(1000))
    assert len(points) == 10**9
    assert points[123_456_789] == {"a": 123, "b": 456, "c": 789}
    assert isinstance(points, Grid)


def test_a_grid_needs_axes_of_distinct_values() -> None:
    with pytest.raises(ValueError, match="at least one axis"):
        grid()
    with pytest.raises(ValueError, match="'a'"):
        grid(a=[1, 2, 1])
