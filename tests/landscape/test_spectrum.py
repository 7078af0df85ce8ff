"""Spectral densities against the exact eigenvalues."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid

from references.dense_curvature import DenseOperator, dense_hessian
from references.tiny import tiny_batch, tiny_network
from resnet_paths.landscape.operator import curvature_operator
from resnet_paths.landscape.spectrum import lanczos, smoothed, spectral_density


def _network():
    net, batch = tiny_network(2), tiny_batch(5)
    names = [name for name, _ in net.model.named_parameters()]
    matrix = dense_hessian(net.model, *batch, names)
    values, vectors = torch.linalg.eigh(matrix)
    return DenseOperator(matrix), values.numpy(), vectors


@pytest.mark.slow
def test_a_networks_density_is_that_of_its_dense_matrix() -> None:
    net, batch = tiny_network(2), tiny_batch(5)
    dense, _, _ = _network()
    found = spectral_density(curvature_operator(net, [batch]), steps=12, draws=3, width=0.05)
    expected = spectral_density(dense, steps=12, draws=3, width=0.05, grid=found.grid)
    np.testing.assert_allclose(found.density, expected.density, atol=1e-6)


def _exact(values: np.ndarray, grid: np.ndarray, width: float) -> np.ndarray:
    """The definition: the mean of Gaussians around the eigenvalues."""
    z = (grid[:, None] - values) / width
    return (np.exp(-z * z / 2) / (width * np.sqrt(2 * np.pi))).mean(1)


def test_lanczos_decomposes_the_krylov_space() -> None:
    operator, values, _ = _network()
    start = torch.randn(len(operator), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    diagonal, beside, basis = lanczos(operator, start, 12)
    torch.testing.assert_close(basis.T @ basis, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-12)
    projected = (basis.T @ (operator @ basis)).numpy()
    tridiagonal = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    np.testing.assert_allclose(projected, tridiagonal, atol=1e-10)
    ritz = np.linalg.eigvalsh(tridiagonal)
    assert ritz[-1] == pytest.approx(values[-1], rel=1e-6)
    assert (ritz >= values[0] - 1e-10).all()


def test_lanczos_ends_when_the_space_is_exhausted() -> None:
    operator, values, vectors = _network()
    diagonal, beside, basis = lanczos(operator, 3 * vectors[:, -1], 10)
    assert basis.shape[1] == 1 == len(diagonal)
    assert len(beside) == 0
    assert diagonal[0] == pytest.approx(values[-1], abs=1e-8)
    with pytest.raises(ValueError, match="other than zero"):
        lanczos(operator, torch.zeros(len(operator)), 3)


@pytest.mark.slow
def test_quadrature_is_the_exact_density_when_the_probes_are_a_basis() -> None:
    operator, values, _ = _network()
    size = len(operator)
    nodes, weights = np.full((size, size), np.nan), np.zeros((size, size))
    for row in range(size):
        start = torch.zeros(size, dtype=torch.float64)
        start[row] = 1
        diagonal, beside, _ = lanczos(operator, start, size)
        found, first = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        nodes[row, : len(found)], weights[row, : len(found)] = found, first[0] ** 2
    grid = np.linspace(values[0] - 0.2, values[-1] + 0.2, 200)
    density, _ = smoothed(nodes, weights, grid, 0.05)
    np.testing.assert_allclose(density, _exact(values, grid, 0.05), atol=1e-8)


@pytest.mark.slow
def test_density_covers_the_exact_one_within_its_error_bars() -> None:
    operator, values, _ = _network()
    record = spectral_density(operator, steps=40, draws=60, width=0.05, grid=300)
    exact = _exact(values, record.grid, 0.05)
    assert record.products == 60 * 40 == operator.products
    assert float(trapezoid(record.density, record.grid)) == pytest.approx(1.0, abs=1e-3)
    away = np.abs(record.density - exact) - 4 * record.standard_error
    assert (away < 1e-3 * exact.max()).all()
    assert record.standard_error.max() < 0.3 * exact.max()
    mean, error = record.moment(1)
    assert abs(mean - values.mean()) < 4 * error
    square, error = record.moment(2)
    assert abs(square - (values**2).mean()) < 4 * error
    share, error = record.share_below(-1e-3)
    assert abs(share - (values < -1e-3).mean()) < 4 * error + 1e-9
    np.testing.assert_allclose(record.weights.sum(1), 1)


def test_few_steps_match_moments_exactly() -> None:
    """k steps of Lanczos give vᵀHᵐv exactly for m < 2k: the quadrature's own theorem."""
    operator, _, _ = _network()
    start = torch.randn(len(operator), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    diagonal, beside, _ = lanczos(operator, start, 3)
    nodes, first = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    power = v = start / start.norm()
    for m in range(6):
        assert float((first[0] ** 2 * nodes**m).sum()) == pytest.approx(float(v @ power), rel=1e-9)
        power = operator @ power


def test_same_seed_same_record_and_its_tables() -> None:
    operator, values, _ = _network()
    first, again = (spectral_density(operator, steps=200, draws=2, seed=4, grid=64) for _ in range(2))
    np.testing.assert_array_equal(first.nodes, again.nodes)
    assert first.nodes.shape[1] == len(operator)
    assert first.grid[0] < values[0] < values[-1] < first.grid[-1]
    assert len(first.to_pandas()) == 64
    made = first.to_xarray()
    assert made["density"].dims == ("eigenvalue",)
    assert made.attrs["size"] == len(values)
    own = spectral_density(operator, steps=5, draws=2, grid=np.array([0.0, 1.0]))
    assert own.grid.tolist() == [0.0, 1.0]


def test_what_does_not_fit_is_refused() -> None:
    operator, _, _ = _network()
    with pytest.raises(ValueError, match="at least 2 draws"):
        spectral_density(operator, draws=1)
    with pytest.raises(ValueError, match="width to be a number above 0"):
        spectral_density(operator, width=0.0)
