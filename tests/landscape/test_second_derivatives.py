"""Hessians that PyTorch gets wrong are refused; labels count as in torch; any containers."""

import warnings
from collections import UserDict
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

from damage import tiny
from resnet_paths.data import digits
from resnet_paths.landscape import curvature_operator, loss_surface, random_direction
from resnet_paths.landscape.symmetry import asymmetry

D = torch.float64


def dense(model: nn.Module, loss) -> torch.Tensor:
    """The Hessian of ``loss(parameters by name)`` by torch's own double loop."""
    named = dict(model.named_parameters())
    sizes = [value.numel() for value in named.values()]

    def of(vector: torch.Tensor) -> torch.Tensor:
        parts = vector.split(sizes)
        return loss({name: part.view_as(old) for (name, old), part in zip(named.items(), parts, strict=True)})

    start = torch.cat([value.detach().reshape(-1) for value in named.values()])
    return torch.autograd.functional.hessian(of, start)


def made(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), *middle, nn.Tanh(), nn.Linear(4, 3)).to(D).eval()


def batch(n: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, generator=generator, dtype=D), torch.randint(0, 3, (n,), generator=generator)


def normed(kind: str) -> nn.Module:
    torch.manual_seed(3)
    if kind == "new":
        return parametrizations.weight_norm(nn.Linear(4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(4, 4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["new", "old"])
def test_weight_norm_is_refused_by_name(kind: str, dtype: torch.dtype) -> None:
    model, (x, y) = made(normed(kind)).to(dtype), batch()
    operator = curvature_operator(model, [(x.to(dtype), y)])
    with pytest.raises(ValueError, match=r"symmetric.*weight_norm of (Parametrized)?Linear \(1\)") as caught:
        operator.dense()
    assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="weight_norm"):
        curvature_operator(model, [(x.to(dtype), y)], kind="gauss_newton").dense()


class WrongTwice(torch.autograd.Function):
    """Its weight's gradient forgets that it depends on x; the block of each layer alone stays symmetric."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x * weight**2

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return gradient * weight**2, (gradient * 2 * weight * x.detach()).sum(0)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, 1.0, 2.0, 3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return WrongTwice.apply(x, self.weight)


def test_an_unknown_wrong_layer_is_found_where_its_own_block_is_symmetric() -> None:
    model, (x, y) = made(Scaled()), batch()
    with pytest.raises(ValueError, match="a layer that could not be identified"):
        curvature_operator(model, [(x, y)]).dense()


@pytest.mark.parametrize(
    "layer",
    [
        nn.LayerNorm(4), nn.BatchNorm1d(4), nn.GELU(), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(4, 4)),
        nn.Bilinear(4, 4, 4),
    ],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_right_layers_pass(layer: nn.Module, dtype: torch.dtype) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x, x) if isinstance(self.layer, nn.Bilinear) else self.layer(x)

    model, (x, y) = made(Twice()).to(dtype), batch()
    operator = curvature_operator(model, [(x.to(dtype), y)])
    matrix = operator.dense().double()
    assert float((matrix - matrix.T).abs().max()) < 1e-5
    assert operator.products == len(operator)


def test_a_hessian_below_rounding_error_is_not_a_wrong_layer() -> None:
    """Certain of all its answers: second derivatives of 1e-7 are differences of larger numbers in float32."""
    torch.manual_seed(0)
    sure, (x, y) = nn.Linear(3, 3).eval(), batch()
    sure.bias.data += torch.tensor([16.0, 0.0, 0.0])
    right = torch.zeros_like(y)
    operator = curvature_operator(sure, [(x.float(), right)])
    with pytest.warns(UserWarning, match="smaller here than what float32 rounds away"):
        found = operator.dense()
    exact = curvature_operator(sure.double(), [(x.double(), right)]).dense()
    assert float((found - exact).norm()) > 1e-3 * float(exact.norm())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("logits", [30.0, 38.0, 50.0, 80.0])
def test_a_hessian_below_float64_rounding_error_is_not_a_wrong_layer(logits: float, dtype: torch.dtype) -> None:
    """Even more certain: even in float64 only rounding errors remain, which are not symmetric."""
    torch.manual_seed(0)
    sure, (x, y) = nn.Linear(3, 3).eval().to(dtype), batch()
    sure.bias.data += torch.tensor([logits, 0.0, 0.0])
    operator = curvature_operator(sure, [(x.to(dtype), torch.zeros_like(y))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert float(operator.dense().norm()) < 1e-10


def test_asymmetry_of_matrices_that_are_known() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(30, 30, generator=generator, dtype=D)
    like = torch.zeros(1, dtype=D)
    assert asymmetry(lambda v: (matrix + matrix.T) @ v, [10, 20], [0, 1], like) < 1e-12
    assert asymmetry(lambda v: matrix @ v, [10, 20], [0, 1], like) > 0.05
    assert asymmetry(lambda v: 0 * v, [10, 20], [1], like) == 0


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("sizes", [[7], [3, 4], [1, 1, 5]])
def test_ignored_labels_count_as_in_one_batch_of_torch(kind: str, sizes: list[int]) -> None:
    x, y = batch()
    y[[0, 2, 5]] = -100
    model = nn.Linear(3, 3).to(D).eval()  # linear: both matrices are the same
    expected = dense(model, lambda p: F.cross_entropy(functional_call(model, p, (x,)), y))
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    torch.testing.assert_close(curvature_operator(model, batches, kind=kind).dense(), expected)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 4.0], dtype=D)),
        nn.CrossEntropyLoss(ignore_index=1),
        nn.CrossEntropyLoss(ignore_index=1, weight=torch.tensor([1.0, 2.0, 4.0], dtype=D), label_smoothing=0.1),
    ],
    ids=["weights", "ignored", "both"],
)
def test_torch_losses_count_as_in_their_mean(loss: nn.CrossEntropyLoss) -> None:
    model, (x, y) = made(), batch()
    expected = dense(model, lambda p: loss(functional_call(model, p, (x,)), y))
    each = nn.CrossEntropyLoss(loss.weight, None, loss.ignore_index, None, "none", loss.label_smoothing)
    operator = curvature_operator(model, [(x[:2], y[:2]), (x[2:], y[2:])], loss=each)
    torch.testing.assert_close(operator.dense(), expected)


def test_labels_of_pixels_some_ignored() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 2, 1)).to(D).eval()
    x, y = torch.randn(4, 1, 3, 3, dtype=D), torch.randint(0, 2, (4, 3, 3))
    for labels in (y, y.clone().index_fill_(0, torch.tensor([0]), -100)):
        labels[1, 0] = -100 if labels is not y else labels[1, 0]
        expected = dense(model, lambda p, labels=labels: F.cross_entropy(functional_call(model, p, (x,)), labels))
        operator = curvature_operator(model, [(x[:1], labels[:1]), (x[1:], labels[1:])])
        torch.testing.assert_close(operator.dense(), expected)


def test_only_ignored_labels_are_refused() -> None:
    model, (x, y) = made(), batch()
    with pytest.raises(ValueError, match="only ignored"):
        curvature_operator(model, [(x, torch.full_like(y, -100))])


def test_soft_labels() -> None:
    model, (x, _) = made(), batch()
    y = torch.softmax(torch.randn(7, 3, dtype=D, generator=torch.Generator().manual_seed(0)), 1)
    expected = dense(model, lambda p: F.cross_entropy(functional_call(model, p, (x,)), y))
    torch.testing.assert_close(curvature_operator(model, [(x[:2], y[:2]), (x[2:], y[2:])]).dense(), expected)


class Pair(NamedTuple):
    u: torch.Tensor
    v: torch.Tensor


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.a(u)) + self.b(v)


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("target", ["tensor", "mapping", "pair"])
@pytest.mark.parametrize("inputs", ["tuple", "named tuple", "list", "mapping"])
def test_inputs_and_targets_in_containers(inputs: str, target: str, kind: str) -> None:
    torch.manual_seed(0)
    model, (x, y) = Two().to(D).eval(), batch()
    other = y.flip(0)
    given = {
        "tuple": (x, x * 2),
        "named tuple": Pair(x, x * 2),
        "list": [x, x * 2],
        "mapping": UserDict({"u": x, "v": x * 2}),
    }[inputs]
    targets, loss = {
        "tensor": (y, "cross_entropy"),
        "mapping": ({"labels": y}, lambda o, t: F.cross_entropy(o, t["labels"], reduction="none")),
        "pair": (
            (y, other),
            lambda o, t: (
                0.3 * F.cross_entropy(o, t[0], reduction="none") + 0.7 * F.cross_entropy(o, t[1], reduction="none")
            ),
        ),
    }[target]
    plain = loss if target == "pair" else (lambda o, t: F.cross_entropy(o, y, reduction="none"))
    expected = curvature_operator(
        model, [({"u": x, "v": x * 2}, y)], loss=lambda o, t: plain(o, (y, other)), kind=kind
    ).dense()
    operator = curvature_operator(model, [(given, targets)], loss=loss, kind=kind)
    assert operator.samples == 7
    torch.testing.assert_close(operator.dense(), expected)
    assert operator.source().data


def test_several_values_an_image_have_the_error_of_a_mean_over_images() -> None:
    model, data = tiny(in_channels=1), digits("test").subset(slice(0, 6)).to(dtype=torch.float64)
    plane = random_direction(model, seed=0)

    def each_logit(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return logits[:, :, None] * torch.ones(2)

    surface = loss_surface(model, data, directions=[plane], x=[0.0], metrics=("loss",), loss=each_logit, progress=False)
    with torch.no_grad():
        means = model(data.x).double().mean(1).numpy()
    assert surface.values["loss"][0] == pytest.approx(means.mean(), rel=1e-5)
    assert surface.errors["loss"][0] == pytest.approx(means.std(ddof=1) / np.sqrt(6), rel=1e-5)
    with pytest.raises(Exception, match="reduction='none'"):
        loss_surface(
            model, data, directions=[plane], x=[0.0], metrics=("loss",), loss=nn.CrossEntropyLoss(), progress=False
        )
