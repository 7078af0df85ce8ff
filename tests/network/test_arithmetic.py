"""The list of operations of a network gives its outputs, by loops that do not use PyTorch."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "references"))

from numpy_arithmetic import run
from plain_networks import MODELS, Everything, Residual, network

from helpers import randomise_norms
from resnet_paths.models import cifar_resnet
from resnet_paths.network import UnrolledNetwork, UnrollError, unroll
from resnet_paths.network.arithmetic import NoArithmeticError, plain_operations
from resnet_paths.network.half_precision import half_precision_copy


def gates_of(net: UnrolledNetwork, sets: int = 2) -> np.ndarray:
    """The full network, the empty one, and random sets of blocks."""
    drawn = np.random.default_rng(0).integers(0, 2, (sets, len(net)))
    return np.concatenate([np.ones((1, len(net)), int), np.zeros((1, len(net)), int), drawn])


@pytest.mark.parametrize("name", MODELS)
def test_the_operations_are_the_network(name: str) -> None:
    net, x = network(name)
    steps = plain_operations(net, x)
    assert [step.settings["block"] for step in steps if step.does == "sum"] == list(range(len(net)))
    gates = gates_of(net)
    expected = net(x[:1], torch.as_tensor(gates, dtype=torch.float64))[:, 0].detach().numpy()
    for kept, logits in zip(gates, expected, strict=True):
        computed = run(steps, x[0].numpy(), np.flatnonzero(kept == 0).tolist())
        np.testing.assert_allclose(computed, logits, rtol=1e-10, atol=1e-12)


def test_every_operation_is_among_those_compared() -> None:
    import resnet_paths.network.arithmetic as module

    listed = {line.split("``")[1] for line in module.__doc__.splitlines() if line.startswith("``")}
    activations = module.__doc__.partition("activations ")[2].partition("====")[0].split("``")[1::2]
    compared = {step.does for name in MODELS for step in plain_operations(*network(name))}
    assert compared == listed | set(activations) - {"low", "high", "slope"}


@pytest.mark.parametrize("name", ["basic, zero padding", "projections everywhere, pre-activation", "everything"])
def test_the_copy_in_half_precision_has_the_same_operations_on_rounded_weights(name: str) -> None:
    net, x = network(name)
    before = {key: value.clone() for key, value in net.model.state_dict().items()}
    half = half_precision_copy(net)
    steps = plain_operations(half, x)
    for step in steps:
        for values in step.tensors.values():
            np.testing.assert_allclose(values.astype(np.float16), values, rtol=1e-14)
    for kept in gates_of(net, 1):
        logits = half(x, kept.tolist())
        np.testing.assert_allclose(run(steps, x[0].numpy(), np.flatnonzero(kept == 0).tolist()), logits[0], rtol=1e-9)
        full = net(x, torch.as_tensor(kept, dtype=torch.float64))
        assert 0 < float((logits - full).abs().max() / full.abs().max()) < 0.01
    assert all(value.equal(before[key]) for key, value in net.model.state_dict().items())


def test_weights_that_float16_cannot_hold_are_refused() -> None:
    model = cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0).eval()
    with torch.no_grad():
        model.linear.weight[0, 0] = 1e5
    with pytest.raises(UnrollError, match=r"weights that float16 can hold \(up to 65,504\), got linear.weight"):
        half_precision_copy(unroll(model))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.flatten(2).transpose(1, 2)
        return self.attention(y, y, y)[0].transpose(1, 2).reshape(x.shape)


class Called(nn.Module):
    """A branch that calls a function between two convolutions."""

    def __init__(self, function) -> None:
        super().__init__()
        self.one, self.two, self.function = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.function(self.one(x)))


def with_hook() -> nn.Module:
    layer = nn.Conv2d(4, 4, 1)
    layer.register_forward_hook(lambda module, given, output: 2 * output)
    return layer


UNKNOWN = {
    "attention": (Attending, "transpose"),
    "layer norm": (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.LayerNorm([4, 3, 3])), "LayerNorm in 1.branch.1"),
    "batch statistics": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        "a norm over the images",
    ),
    "circular padding": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), "pads with other values"),
    "unequal padding": (lambda: nn.Conv2d(4, 4, 2, padding="same"), "padding of unequal sides"),
    "positions": (lambda: nn.Linear(3, 3), "a linear layer on positions"),
    "rows": (lambda: Called(lambda y: y * y.mean(3, keepdim=True)), "a mean over axes other"),
    "pixels": (lambda: Called(lambda y: y * torch.arange(3.0).double()), "differs between pixels"),
    "softmax": (lambda: Called(lambda y: y.softmax(1)), "softmax"),
    "mirrored": (lambda: Called(lambda y: F.pad(y, (1, 1, 1, 1), mode="reflect")[..., :3, :3]), "anything but zeros"),
    "images": (lambda: Called(lambda y: y - y.mean(0, keepdim=True)), "a mean over axes other"),
    "division": (lambda: Called(lambda y: y / (1 + y.abs())), "abs"),
    "hook": (with_hook, "hook"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_among_the_operations_is_refused_by_name(name: str) -> None:
    make, reason = UNKNOWN[name]
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    model = nn.Sequential(nn.Conv2d(4, 4, 1), Residual(make()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    net = unroll(model.double().eval(), x)
    with pytest.raises(NoArithmeticError, match=reason):
        plain_operations(net, x)


def test_one_image_is_too_few_to_tell_the_shapes() -> None:
    net, x = network("groups")
    with pytest.raises(ValueError, match="expected at least two images, got"):
        plain_operations(net, x[:1])


def test_a_recorded_network_has_the_operations_of_a_traced_one() -> None:
    class Deciding(nn.Module):
        """Its forward reads a size as a number, which tracing cannot follow."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = randomise_norms(cifar_resnet(8, in_channels=1, widths=(2, 2, 4), seed=0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x if int(x.shape[-1]) > 2 else F.pad(x, (1, 1, 1, 1)))

    model = Deciding().double().eval()
    x = torch.randn(2, 1, 6, 6, dtype=torch.float64)
    steps, twin = plain_operations(unroll(model, x), x), plain_operations(unroll(model.inner), x)
    assert [step.does for step in steps] == [step.does for step in twin]
    for kept in product((0, 1), repeat=3):
        deleted = [block for block, on in enumerate(kept) if not on]
        np.testing.assert_allclose(run(steps, x[0].numpy(), deleted), run(twin, x[0].numpy(), deleted), rtol=1e-12)


def test_the_rest_of_everything_does_something() -> None:
    """A network in which each block matters; otherwise a wrong operation in it would go unnoticed."""
    net, x = network("everything")
    assert isinstance(net.model, Everything)
    assert len(net) == 5
    full = net(x)
    for block in range(5):
        gates = [1.0] * 5
        gates[block] = 0.0
        assert float((net(x, gates) - full).abs().max()) > 1e-3
