from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from damage import tiny
from resnet_paths.landscape import (
    RoughnessStudy,
    Surface,
    compare_roughness,
    loss_surface,
    random_direction,
    roughness,
    roughness_study,
)
from resnet_paths.landscape.surface_roughness import curvatures, quadratic_deviation

coefficient = st.floats(-3, 3)
steps = st.lists(st.floats(0.1, 1.0), min_size=2, max_size=6)


def coordinates(gaps: list[float]) -> np.ndarray:
    return np.concatenate([[-0.7], -0.7 + np.cumsum(gaps)])


@given(coefficient, coefficient, coefficient, coefficient, steps, steps)
def test_quadratics_have_their_own_eigenvalues_everywhere(a, b, c, d, across, down) -> None:
    x, y = coordinates(across), coordinates(down)
    values = a * x**2 + b * x * y[:, None] + c * y[:, None] ** 2 + d * x + 3 * y[:, None] - 1
    exact = np.linalg.eigvalsh([[2 * a, b], [b, 2 * c]])
    found = curvatures(x, y, values)
    assert found.shape == (len(y) - 2, len(x) - 2, 2)
    np.testing.assert_allclose(found, np.broadcast_to(exact, found.shape), atol=1e-9)


def test_bowl_saddle_and_summit() -> None:
    x, y = np.linspace(-1, 1, 7), np.linspace(0, 2, 5)
    square = x**2 + y[:, None] ** 2
    bowl = roughness(Surface.of(x, y, loss=square))
    assert (bowl.convex, bowl.negative, bowl.cells, bowl.left_out) == (1.0, 0.0, 15, 0)
    assert bowl.deviation == pytest.approx(0, abs=1e-7)
    saddle = roughness(Surface.of(x, y, loss=2 * x**2 - y[:, None] ** 2))
    assert saddle.convex == 0
    assert saddle.negative == pytest.approx(0.5)
    assert roughness(Surface.of(x, y, loss=-square)).negative == pytest.approx(1)
    wave = roughness(Surface.of(x, y, loss=square + np.sin(9 * x) * np.cos(9 * y[:, None])))
    assert wave.deviation > 0.1
    assert wave.convex < 1


@pytest.mark.parametrize("points", [5, 11, 24])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("height", "undecided"),
    [
        (lambda x, y: 2 * x - 0.3 * y + 1, 1),
        (lambda x, y: (x + y) ** 2, 1),
        (lambda x, y: 0 * x * y + 7.3, 1),
        (lambda x, y: x**2 + 0 * y, 1),
        (lambda x, y: x**2 + y**2, 0),
    ],
    ids=["plane", "valley", "constant", "trough", "bowl"],
)
def test_rounding_decides_nothing(points: int, dtype: type, height, undecided: int) -> None:
    x = np.linspace(-1, 1, points)
    values = height(x[None, :], x[:, None]).astype(dtype).astype(float)
    surface = Surface.of(x, x, loss=values)
    found = roughness(replace(surface, source=replace(surface.source, dtype=np.dtype(dtype).name)))
    assert (found.convex, found.negative, found.undecided) == (1, 0, undecided)


def test_noise_of_the_cells_is_distinguished_from_bumps() -> None:
    x = np.linspace(-1, 1, 25)
    bowl = x**2 + x[:, None] ** 2
    noisy = Surface.of(x, x, loss=bowl + np.random.default_rng(0).normal(0, 0.01, bowl.shape))
    assert roughness(noisy).convex < 0.7
    assert roughness(noisy, noise=0.01).convex > 0.98
    assert roughness(noisy, noise=np.full(bowl.shape, 0.01)) == roughness(noisy, noise=0.01)
    saddle = Surface.of(x, x, loss=x**2 - x[:, None] ** 2)
    assert roughness(saddle, noise=1e-4).convex == 0
    with pytest.raises(ValueError, match="at least 0"):
        roughness(noisy, noise=-1.0)


def test_the_number_belongs_to_the_grid() -> None:
    """The values that the docstring and the documentation give."""

    def convex(points: int) -> float:
        x = np.linspace(-1, 1, points)
        return roughness(
            Surface.of(x, x, loss=x**2 + x[:, None] ** 2 + 0.05 * np.cos(12 * x) * np.cos(12 * x[:, None]))
        ).convex

    assert [round(convex(points), 2) for points in (5, 9, 25, 81)] == [1.0, 0.49, 0.38, 0.31]


def test_a_line() -> None:
    x = np.array([0.0, 1.0, 3.0, 4.0])
    assert roughness(Surface.of(x, None, loss=x**2)).convex == 1
    half = roughness(Surface.of(x, None, loss=np.array([0.0, 1.0, 0.0, 1.0])))
    assert (half.convex, half.cells) == (0.5, 2)
    assert half.negative == pytest.approx(0.5)
    assert quadratic_deviation(x, None, x**2 - x) == pytest.approx(0, abs=1e-7)


def test_deviation_is_the_residual_share() -> None:
    x = np.linspace(-1, 1, 9)
    cubic = 5 * x**3 + x**2
    fit = np.polynomial.Polynomial.fit(x, cubic, 2)(x)
    exact = np.sqrt(((cubic - fit) ** 2).sum() / ((cubic - cubic.mean()) ** 2).sum())
    assert quadratic_deviation(x, None, cubic) == pytest.approx(exact)
    assert np.isnan(quadratic_deviation(x[:3], None, cubic[:3]))


def test_cells_without_values_are_left_out_and_counted() -> None:
    x, y = np.linspace(-1, 1, 6), np.linspace(-1, 1, 6)
    values = x**2 + y[:, None] ** 2
    values[0, 0], values[4, 4] = np.nan, np.inf
    found = roughness(Surface.of(x, y, loss=values))
    assert (found.cells, found.left_out) == (16 - 1 - 4, 5)
    assert found.convex == 1
    values[:] = np.nan
    with pytest.raises(ValueError, match="choose a smaller range"):
        roughness(Surface.of(x, y, loss=values))


def test_logarithms() -> None:
    x = np.linspace(-1, 1, 6)
    surface = Surface.of(x, None, loss=np.exp(x**2))
    assert roughness(surface, scale="log").deviation == pytest.approx(0, abs=1e-7)
    assert roughness(surface).deviation > 0.01


def test_wrong_use() -> None:
    x = np.linspace(-1, 1, 3)
    surface = Surface.of(x, None, loss=x)
    with pytest.raises(ValueError, match="among"):
        roughness(surface, "error")
    with pytest.raises(ValueError, match="expected scale"):
        roughness(surface, scale="root")
    with pytest.raises(ValueError, match="three grid points"):
        roughness(Surface.of(x[:2], None, loss=x[:2]))
    with pytest.raises(ValueError, match=r"expected values of shape \(3,\)"):
        Surface.of(x, None, loss=x[:2])


@pytest.mark.slow
def test_a_study_shares_its_planes_between_twins() -> None:
    from resnet_paths.data import digits

    data = digits("test").subset(slice(0, 6)).to(dtype=torch.float64)
    x, y = [-0.5, 0.0, 0.5, 1.0], [-0.5, 0.0, 0.5]
    twins = [tiny(in_channels=1, residual=residual) for residual in (True, False)]
    studies = [roughness_study(model, data, seeds=[0, 3], x=x, y=y, progress=False) for model in twins]
    for model, found in zip(twins, studies, strict=True):
        plane = [random_direction(model, seed=seed) for seed in (6, 7)]
        alone = loss_surface(model, data, directions=plane, x=x, y=y, progress=False)
        np.testing.assert_allclose(found.surfaces[0][1].values["loss"], alone.values["loss"], rtol=1e-12)
        assert found.values["convex"][0, 1] == roughness(found.surfaces[0][1]).convex
        assert len(found.to_pandas()) == 2
    assert set(compare_roughness(*studies)) == {"convex", "negative", "deviation"}
    with pytest.raises(ValueError, match="at least one model"):
        roughness_study([], data)


def study(values: list[list[float]], **changes) -> RoughnessStudy:
    array = np.array(values)
    facts = {"seeds": tuple(range(array.shape[1])), "surfaces": (), "metric": "loss", "scale": "linear"} | changes
    return RoughnessStudy({"convex": array}, **facts)


def test_intervals_are_students() -> None:
    first, second = [[0.9, 0.8, 0.95, 0.7]], [[0.5, 0.6, 0.4, 0.65]]
    found = compare_roughness(study(first), study(second))["convex"]
    exact = ttest_1samp(np.subtract(first, second)[0], 0)
    interval = exact.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p_value == pytest.approx(exact.pvalue)
    assert (found.pairs, found.over) == (4, "planes")
    mean, low, high = study(first).interval("convex")
    assert mean == pytest.approx(np.mean(first))
    assert 0 <= low < mean < high <= 1


def test_numbers_that_are_all_equal_are_not_certain() -> None:
    mean, low, high = study([[1.0, 1.0, 1.0]]).interval("convex")
    assert (mean, high) == (1, 1)
    assert low < 1
    same = compare_roughness(study([[1.0, 1.0]]), study([[0.5, 0.5]]))["convex"]
    assert (same.low, same.high) == (-np.inf, np.inf)
    assert np.isnan(same.p_value)


def test_planes_of_one_model_are_not_counted_as_independent_models() -> None:
    first, second = np.array([[0.9, 0.9], [0.7, 0.8], [0.8, 0.8]]), np.array([[0.5, 0.5], [0.6, 0.6], [0.4, 0.5]])
    found = compare_roughness(study(first), study(second))["convex"]
    exact = ttest_1samp((first - second).mean(1), 0)
    assert (found.pairs, found.over) == (3, "models")
    assert found.p_value == pytest.approx(exact.pvalue)
    single = compare_roughness(study([[0.9]]), study([[0.1]]))["convex"]
    assert (single.low, single.high) == (-np.inf, np.inf)
    assert np.isnan(single.p_value)


def test_only_like_studies_compare() -> None:
    with pytest.raises(ValueError, match="the same planes"):
        compare_roughness(study([[1.0, 0.0]]), study([[1.0]]))
    with pytest.raises(ValueError, match="the same planes"):
        compare_roughness(study([[1.0]]), study([[1.0]], scale="log"))
    line, fine = (Surface.of(np.linspace(0, 1, n), None, loss=np.zeros(n)) for n in (3, 5))
    with pytest.raises(ValueError, match="same coordinates"):
        compare_roughness(study([[1.0]], surfaces=((line,),)), study([[1.0]], surfaces=((fine,),)))
