"""Trace estimates against the dense trace, and the coverage of their intervals over seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from references.dense_curvature import DenseOperator, dense_hessian
from references.tiny import tiny_batch, tiny_network
from resnet_paths.landscape.operator import CurvatureOperator, curvature_operator
from resnet_paths.landscape.parameters import block_parameters
from resnet_paths.landscape.trace import hutch_plus_plus, hutchinson


def _quadratic(matrix: torch.Tensor) -> CurvatureOperator:
    """An operator of a given matrix: the loss 1/2 (aᵀθ)² has the Hessian aaᵀ; sums of such, any matrix of rank r."""
    values, vectors = torch.linalg.eigh(matrix)
    line = nn.Linear(len(matrix), 1, bias=False).double().eval()

    def loss(output: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
        return sign * output[:, 0] ** 2 / 2

    rows = (vectors * (values.abs() * len(values)).sqrt()).T
    return curvature_operator(line, [(rows, values.sign())], loss=loss)


def _matrix(size: int, decay: float, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    q = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q
    return q @ torch.diag(decay ** torch.arange(size, dtype=torch.float64)) @ q.T


def test_quadratic_loss_has_the_matrix_it_is_made_of() -> None:
    matrix = _matrix(6, 0.5) - 0.2 * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(_quadratic(matrix).dense(), matrix)


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_hutchinson_covers_the_trace_of_a_network(probe: str) -> None:
    net, batch = tiny_network(2), tiny_batch(4)
    matrix = dense_hessian(net.model, *batch, [name for name, _ in net.model.named_parameters()])
    exact = float(matrix.trace())
    operator = DenseOperator(matrix)
    runs = [hutchinson(operator, 12, probe=probe, seed=seed) for seed in range(300)]
    covered = sum(run.low <= exact <= run.high for run in runs)
    assert 270 <= covered <= 297  # 95 %: 285 expected, 3.8 standard deviations
    values = np.array([run.value for run in runs])
    assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(300)
    off = float((matrix - matrix.diag().diag()).square().sum())
    theory = 2 * (off if probe == "rademacher" else float(matrix.square().sum())) / 12
    assert values.var() == pytest.approx(theory, rel=0.4)
    same = hutchinson(curvature_operator(net, [batch]), 12, probe=probe, seed=5)
    assert same.value == pytest.approx(runs[5].value, rel=1e-9)
    assert same.standard_error == pytest.approx(runs[5].standard_error, rel=1e-9)


def test_hutch_plus_plus_covers_and_beats_hutchinson_on_a_decaying_spectrum() -> None:
    matrix = _matrix(60, 0.7)
    operator, exact = DenseOperator(matrix), float(matrix.trace())
    plain = [hutchinson(operator, 30, probe="gaussian", seed=seed) for seed in range(200)]
    better = [hutch_plus_plus(operator, 30, seed=seed) for seed in range(200)]
    errors = [np.sqrt(np.mean([(run.value - exact) ** 2 for run in runs])) for runs in (plain, better)]
    assert errors[1] < errors[0] / 5
    assert 177 <= sum(run.low <= exact <= run.high for run in better) <= 200
    assert all(run.products <= 30 for run in better)


def test_exact_where_the_products_suffice() -> None:
    matrix = _matrix(5, 0.5) - 0.3 * torch.eye(5, dtype=torch.float64)
    record = hutch_plus_plus(_quadratic(matrix), 30)
    assert record.value == pytest.approx(float(matrix.trace()), abs=1e-12)
    assert (record.standard_error, record.draws) == (0.0, 0)
    low_rank = _matrix(40, 0.5)
    values, vectors = torch.linalg.eigh(low_rank)
    low_rank = vectors[:, -4:] @ torch.diag(values[-4:]) @ vectors[:, -4:].T
    found = hutch_plus_plus(DenseOperator(low_rank), 18)
    assert found.value == pytest.approx(float(low_rank.trace()), abs=1e-10)
    diagonal = torch.diag(torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64))
    assert hutchinson(_quadratic(diagonal), 2).standard_error == pytest.approx(0.0, abs=1e-12)


@pytest.mark.slow
def test_traces_of_blocks_from_the_same_products() -> None:
    net, batch = tiny_network(3), tiny_batch(4)
    names = [name for name, _ in net.model.named_parameters()]
    matrix = dense_hessian(net.model, *batch, names)
    operator = curvature_operator(net, [batch])
    record = hutchinson(operator, 400)
    assert record.products == 400
    blocks = block_parameters(net)
    frame = record.of_blocks({**blocks, "all": names}).set_index("block")
    for block, chosen in blocks.items():
        places = torch.cat([torch.arange(len(matrix))[operator.slices()[name]] for name in chosen])
        exact = float(matrix.diagonal()[places].sum())
        assert abs(frame.loc[block, "trace"] - exact) < 4 * frame.loc[block, "standard_error"]
    assert frame.loc["all", "trace"] == pytest.approx(record.value)
    assert frame.loc["all", "standard_error"] == pytest.approx(record.standard_error)
    with pytest.raises(ValueError, match="has no parts"):
        hutch_plus_plus(operator, 6).of_blocks(blocks)
    with pytest.raises(ValueError, match="nothing"):
        record.of_blocks({"a": ["nothing"]})


def test_what_does_not_fit_is_refused() -> None:
    operator = _quadratic(torch.eye(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="at least 2"):
        hutchinson(operator, 1)
    with pytest.raises(ValueError, match="at least 6"):
        hutch_plus_plus(operator, 5)
    with pytest.raises(ValueError, match="confidence"):
        hutchinson(operator, 4, confidence=1.0)
    with pytest.raises(ValueError, match="'rademacher' or 'gaussian'"):
        hutchinson(operator, 4, probe="uniform")  # type: ignore[arg-type]
    assert hutchinson(operator, 4).to_pandas()["value"].tolist() == pytest.approx([3.0])
