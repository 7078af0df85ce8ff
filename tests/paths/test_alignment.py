"""Leading singular vectors and their alignment against dense Jacobians, and where the answer is known."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers import randomise_norms
from references.other_data import case
from resnet_paths.models import cifar_resnet
from resnet_paths.network import UnrolledNetwork, unroll
from resnet_paths.paths import residual_alignment
from resnet_paths.paths.jacobians import leading_singular


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Linear(nn.Module):
    """Residual blocks with these matrices, and a head."""

    def __init__(self, matrices: list[torch.Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*matrix.shape, bias=False) for matrix in matrices).double()
        for layer, matrix in zip(self.layers, matrices, strict=True):
            layer.weight.data = matrix
        self.head = nn.Linear(matrices[0].shape[0], 3).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


def test_dense_svd_of_a_curved_function_at_each_example() -> None:
    one, other = drawn(20, 15), drawn(12, 20, seed=1)

    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ one.T) @ other.T

    x = drawn(3, 15, seed=2)
    found = leading_singular(function, x, 4)
    for index in range(3):
        dense = torch.func.jacrev(lambda row: function(row[None])[0])(x[index])
        u, s, vh = torch.linalg.svd(dense, full_matrices=False)
        assert torch.allclose(found.values[index], s[:4], rtol=1e-10)
        for mine, theirs in ((found.left[index], u.T[:4]), (found.right[index], vh[:4])):
            assert torch.allclose((mine * theirs).sum(1).abs(), torch.ones(4, dtype=torch.float64), atol=1e-8)
        images = torch.einsum("oi,ki->ko", dense, found.right[index])
        assert torch.allclose(images, found.values[index, :, None] * found.left[index], atol=1e-9)
    assert found.errors.max() < 1e-9


def test_few_steps_say_how_far_off_they_are() -> None:
    matrix = drawn(40, 40)
    found = leading_singular(lambda x: x @ matrix.T, drawn(2, 40), 3, steps=8)
    true = torch.linalg.svdvals(matrix)
    distance = (found.values[..., None] - true).abs().min(-1).values
    assert (distance <= found.errors + 1e-12).all()
    assert found.errors.min() > 1e-3


def test_low_rank_repeated_values_and_zero() -> None:
    unit = torch.linalg.qr(drawn(30, 3)).Q
    matrix = 2 * unit @ unit.T  # three equal singular values: Lanczos has to restart to find them all
    found = leading_singular(lambda x: x @ matrix.T, drawn(2, 30), 5)
    assert torch.allclose(found.values, torch.tensor([2.0, 2, 2, 0, 0], dtype=torch.float64), atol=1e-10)
    assert found.remainder.max() < 1e-20
    nothing = leading_singular(lambda x: x * 0, drawn(2, 6), 2)
    assert nothing.values.max() == 0


def test_remainder_is_the_rest_of_the_frobenius_norm() -> None:
    matrix = drawn(30, 30)
    found = leading_singular(lambda x: x @ matrix.T, drawn(1, 30), 4, probes=100)
    rest = torch.linalg.svdvals(matrix)[4:].square().sum()
    assert found.remainder[0] == pytest.approx(float(rest), rel=0.1)


@pytest.fixture(scope="module")
def net() -> UnrolledNetwork:
    return unroll(randomise_norms(cifar_resnet(20, in_channels=1, widths=(2, 2, 3), seed=0)).eval().double())


def dense_branches(net: UnrolledNetwork, x: torch.Tensor, blocks: list[int]) -> tuple[list, list]:
    """Jacobian and entry of each block at one example, by autograd on the modules themselves."""
    jacobians, entries = [], []
    value = F.relu(net.model.bn1(net.model.conv1(x)))
    modules = [block for stage in (net.model.layer1, net.model.layer2, net.model.layer3) for block in stage]
    for index, module in enumerate(modules):
        if index in blocks:

            def branch(row: torch.Tensor, module: nn.Module = module) -> torch.Tensor:
                return module.bn2(module.conv2(F.relu(module.bn1(module.conv1(row)))))

            dense = torch.autograd.functional.jacobian(branch, value)
            jacobians.append(dense.reshape(value.numel(), value.numel()))
            entries.append(value.detach().flatten())
        value = module(value)
    return jacobians, entries


def test_dense_jacobians_of_a_network(net: UnrolledNetwork) -> None:
    x, rank = drawn(2, 1, 4, 4), 3
    found = residual_alignment(net, x, rank, steps=32)
    blocks = [0, 1, 2]  # the first stage: 2 x 4 x 4 values; later ones are smaller and start with a projection
    assert found.names == tuple(net[index].name for index in blocks)
    assert found.dimension == 32
    for example in range(2):
        jacobians, entries = dense_branches(net, x[example : example + 1], blocks)
        svds = [torch.linalg.svd(jacobian) for jacobian in jacobians]
        for i, (u, s, vh) in enumerate(svds):
            assert np.allclose(found.values[i, example], s[:rank], rtol=1e-10)
            share = float(s[:rank].square().sum() / s.square().sum())
            assert found.shares[i, example] == pytest.approx(share, rel=0.3)
            for j, (other_u, _, other_vh) in enumerate(svds):
                for name, one, other in (
                    ("left_right", u.T, other_vh),
                    ("left_left", u.T, other_u.T),
                    ("right_right", vh, other_vh),
                ):
                    overlap = float((one[:rank] @ other[:rank].T).square().sum() / rank)
                    assert getattr(found, name)[i, j, example] == pytest.approx(overlap, abs=1e-8)
        way = torch.stack(entries).diff(dim=0)
        assert np.allclose(found.steps[:, example], way.norm(dim=1))
        assert found.straightness[example] == pytest.approx(float(way.sum(0).norm() / way.norm(dim=1).sum()))


def test_perfectly_aligned_blocks_and_random_ones() -> None:
    line = F.normalize(drawn(50, seed=3), dim=0)
    aligned = [0.2 / (1 + 0.2 * index) * torch.outer(line, line) for index in range(5)]  # equal steps along the line
    found = residual_alignment(unroll(Linear(aligned).eval()), drawn(4, 50), 1)
    assert np.allclose(found.left_right, 1)
    assert np.allclose(found.shares, 1)
    assert np.allclose(found.straightness, 1)
    assert np.allclose(found.unevenness, 0)
    random = [drawn(50, 50, seed=index) / 50 for index in range(5)]
    found = residual_alignment(unroll(Linear(random).eval()), drawn(4, 50), 5)
    assert found.across.mean() == pytest.approx(5 / 50, rel=0.3)
    assert found.straightness.mean() == pytest.approx(1 / np.sqrt(4), rel=0.15)


def test_a_rotation_of_the_representations_changes_nothing() -> None:
    matrices = [drawn(12, 12, seed=index) / 12 for index in range(3)]
    turn = torch.linalg.qr(drawn(12, 12, seed=9)).Q
    turned = [turn @ matrix @ turn.T for matrix in matrices]
    x = drawn(2, 12)
    one, other = (
        residual_alignment(unroll(Linear(each).eval()), given, 2)
        for each, given in ((matrices, x), (turned, x @ turn.T))
    )
    for name in ("values", "left_right", "left_left", "right_right", "steps", "straightness"):
        assert np.allclose(getattr(one, name), getattr(other, name), atol=1e-9), name


def test_a_plain_network_is_its_layers() -> None:
    matrices = [drawn(10, 10, seed=index) / 3 for index in range(3)]
    net = Linear(matrices)
    layers = [nn.Sequential(layer, nn.Tanh()) for layer in net.layers]
    found = residual_alignment([layer.eval() for layer in layers], drawn(2, 10), 2)
    value = drawn(2, 10)
    for index, layer in enumerate(layers):
        dense = torch.func.jacrev(layer)(value[0])
        assert np.allclose(found.values[index, 0], torch.linalg.svdvals(dense)[:2].detach(), rtol=1e-9)
        value = layer(value).detach()


def test_blocks_of_other_shapes_are_refused(net: UnrolledNetwork) -> None:
    x = drawn(1, 1, 4, 4)
    with pytest.raises(ValueError, match=r"blocks of one shape, got layer2\.0"):
        residual_alignment(net, x, 2, blocks=[1, 3])
    with pytest.raises(ValueError, match="at least two blocks"):
        residual_alignment(net, x, 2, blocks=[1])
    with pytest.raises(ValueError, match="layers that keep the shape"):
        residual_alignment([nn.Linear(3, 4).double().eval()], drawn(2, 3), 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_is_near(dtype: torch.dtype) -> None:
    matrices = [drawn(12, 12, seed=index) / 12 for index in range(3)]
    model, x = Linear(matrices).eval(), drawn(2, 12)
    expected = residual_alignment(unroll(model), x, 2)
    found = residual_alignment(unroll(model.to(dtype)), x.to(dtype), 2)
    assert np.allclose(found.values, expected.values, rtol=0.05)
    assert np.allclose(found.left_right, expected.left_right, atol=0.1)


def test_several_inputs_and_what_is_not_finite() -> None:
    one = case("tokens")
    net = unroll(one.model, one.data.x)
    assert residual_alignment(net, one.data.x, 1, steps=3).names == tuple(block.name for block in net)
    x = drawn(2, 12)
    x[1, 3] = torch.nan
    with pytest.raises(ValueError, match="finite products with the Jacobians"):
        residual_alignment(unroll(Linear([torch.eye(12).double()] * 2).eval()), x, 1)
