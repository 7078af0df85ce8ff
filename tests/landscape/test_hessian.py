"""Extreme eigenvalues against the dense matrix's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from references.dense_curvature import DenseOperator, dense_hessian
from references.tiny import tiny_batch, tiny_network
from resnet_paths.data import digits
from resnet_paths.landscape.hessian import block_eigenvalues, eigenvalue_ratio, extreme_eigenvalues
from resnet_paths.landscape.operator import curvature_operator
from resnet_paths.landscape.parameters import block_parameters
from resnet_paths.models import load_model
from resnet_paths.network import unroll


def _dense(net, batch) -> np.ndarray:
    names = [name for name, _ in net.model.named_parameters()]
    return dense_hessian(net.model, *batch, names).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("basis", [8, 60], ids=["lanczos", "dense"])
def test_extremes_are_those_of_the_dense_matrix(basis: int) -> None:
    net, batch = tiny_network(3), tiny_batch(6)
    exact = np.linalg.eigvalsh(_dense(net, batch))
    operator = DenseOperator(torch.from_numpy(_dense(net, batch)))
    found = extreme_eigenvalues(operator, 2, basis=basis, tolerance=1e-10)
    assert found.method == ("lanczos" if basis == 8 else "dense")
    np.testing.assert_allclose(found.values, exact[[0, 1, -2, -1]], rtol=1e-8, atol=1e-10)
    assert exact[0] < -0.01 < 0 < exact[-1]
    assert found.ratio == pytest.approx(-exact[0] / exact[-1])
    assert found.products == operator.products
    assert (found.restarts > 0) == (basis == 8)
    assert found.residuals.max() < 1e-6
    network = extreme_eigenvalues(curvature_operator(net, [batch]), basis=16, tolerance=1e-2)
    np.testing.assert_allclose(network.values, exact[[0, -1]], atol=1e-2 * exact[-1])


@pytest.mark.slow
def test_eigenvectors_are_block_directions_of_that_curvature() -> None:
    net, batch = tiny_network(3), tiny_batch(6)
    operator = curvature_operator(net, [batch])
    found = extreme_eigenvalues(operator, 2, basis=8, tolerance=1e-10)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(4), atol=1e-8)
    np.testing.assert_allclose(found.vectors @ _dense(net, batch), found.values[:, None] * found.vectors, atol=1e-7)
    first, second = found.top(2)
    assert set(first.tensors) == {name for name, _ in net.model.named_parameters()}
    np.testing.assert_allclose(operator.vector(first.tensors).numpy(), found.vectors[-1])
    np.testing.assert_allclose(operator.vector(second.tensors).numpy(), found.vectors[-2])
    assert first.facts["eigenvalue"] == found.largest
    assert all(vector[np.abs(vector).argmax()] > 0 for vector in found.vectors)
    with pytest.raises(ValueError, match="from 1 to 2 directions"):
        found.top(3)


def test_same_seed_same_numbers_and_the_table_is_complete() -> None:
    net, batch = tiny_network(3), tiny_batch(4)
    first, again = (extreme_eigenvalues(curvature_operator(net, [batch]), basis=8, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.vectors, again.vectors)
    frame = first.to_pandas()
    assert list(frame["end"]) == ["smallest", "largest"]
    assert frame["eigenvalue"].tolist() == [first.smallest, first.largest]


def test_gauss_newton_has_no_negative_eigenvalue() -> None:
    net, batch = tiny_network(2), tiny_batch(3)
    found = extreme_eigenvalues(curvature_operator(net, [batch], kind="gauss_newton"))
    assert found.smallest > -1e-12 < found.largest


def test_blocks_are_diagonal_blocks_of_the_dense_matrix() -> None:
    net, batch = tiny_network(3), tiny_batch(5)
    matrix, places = _dense(net, batch), curvature_operator(net, [batch]).slices()
    record = block_eigenvalues(net, iter([batch]))
    frame = record.to_pandas().set_index("block")
    for block, names in block_parameters(net).items():
        inside = np.concatenate([np.arange(len(matrix))[places[name]] for name in names])
        exact = np.linalg.eigvalsh(matrix[np.ix_(inside, inside)])
        np.testing.assert_allclose(frame.loc[block, ["smallest", "largest"]].tolist(), exact[[0, -1]], atol=1e-8)
        assert frame.loc[block, "parameters"] == len(inside)
        assert frame.loc[block, "ratio"] == pytest.approx(eigenvalue_ratio(exact[0], exact[-1]))


def test_own_blocks_and_what_is_refused() -> None:
    net, batch = tiny_network(2), tiny_batch(3)
    assert block_eigenvalues(net.model, [batch], blocks={"head": ["4.weight"]}).sizes.tolist() == [12]
    for blocks, match in (({"a": []}, "none"), ({"a": ["nothing"]}, "nothing"), ({}, "at least one block")):
        with pytest.raises(ValueError, match=match):
            block_eigenvalues(net, [batch], blocks=blocks)
    with pytest.raises(ValueError, match="unrolled network"):
        block_eigenvalues(net.model, [batch])


def test_not_converged_is_said_not_hidden() -> None:
    operator = curvature_operator(tiny_network(4), [tiny_batch(6)])
    with pytest.raises(RuntimeError, match="within 1 restarts of 6"):
        extreme_eigenvalues(operator, 2, basis=6, tolerance=1e-14, max_restarts=1)
    with pytest.raises(ValueError, match="expected count to be an integer of at least 1"):
        extreme_eigenvalues(operator, 0)


@pytest.mark.slow
def test_embedded_network_in_float32() -> None:
    net, data = unroll(load_model("embedded")), digits("train").subset(slice(0, 8))
    names = block_parameters(net)["layer3.8"]
    found = extreme_eigenvalues(curvature_operator(net, data, parameters=names), tolerance=1e-3)
    exact = extreme_eigenvalues(curvature_operator(load_model("embedded").double(), data, parameters=names))
    np.testing.assert_allclose(found.values, exact.values, rtol=5e-3, atol=1e-3 * found.largest)
    assert found.method == "lanczos"
    assert found.residuals.max() < 1e-2


def test_ratio_of_zeros_is_not_a_number() -> None:
    assert eigenvalue_ratio(-2.0, 0.0) == np.inf
    assert np.isnan(eigenvalue_ratio(0.0, 0.0))
    linear = nn.Linear(4, 3).double().eval()
    flat = curvature_operator(linear, [tiny_batch(2)], loss=lambda output, target: output[:, 0])
    assert np.isnan(extreme_eigenvalues(flat).ratio)
    assert torch.is_grad_enabled()


def test_parameters_without_a_say_have_no_curvature() -> None:
    """An auxiliary head that the output does not pass through, beside the network."""

    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.aside = nn.Linear(4, 3), nn.Linear(40, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer(x)
            return out

    operator = curvature_operator(Aside().double().eval(), [tiny_batch()], parameters=["aside.weight"])
    found = extreme_eigenvalues(operator, 2)
    assert found.values.tolist() == [0.0] * 4
    assert found.residuals.tolist() == [0.0] * 4
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(4), atol=1e-12)
