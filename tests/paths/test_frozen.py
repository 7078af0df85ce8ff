"""Frozen linear maps: they reproduce the value of every curved operation, and split transformers without remainder."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from helpers import randomise_norms
from references.frozen_transformer import Transformer, split_by_length
from resnet_paths import block_contributions, logits_by_length, unroll
from resnet_paths.paths import curved_operations
from resnet_paths.paths.frozen import Frozen

Function = Callable[[torch.Tensor], torch.Tensor]


def without_bias(module: nn.Module) -> nn.Module:
    """A module in float64 with random weights and no biases."""
    torch.manual_seed(3)
    for name, parameter in module.double().eval().named_parameters():
        parameter.data = torch.zeros_like(parameter) if "bias" in name else torch.randn_like(parameter)
    return module


def value_and_product(function: Function, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The value at x, and the frozen map at x applied to x itself."""

    def frozen(value: torch.Tensor) -> torch.Tensor:
        with Frozen():
            return function(value)

    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        value, product = torch.func.jvp(frozen, (x,), (x.clone(),))
    return value, product


attention = without_bias(nn.MultiheadAttention(8, 2, batch_first=True))
OPERATIONS: dict[str, tuple[Function, tuple[int, ...]]] = {
    "layer norm": (without_bias(nn.LayerNorm(8)), (3, 5, 8)),
    "layer norm over two dimensions": (without_bias(nn.LayerNorm((5, 8))), (3, 5, 8)),
    "RMS norm": (without_bias(nn.RMSNorm(8)), (3, 5, 8)),
    "RMS norm written out": (lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6), (3, 8)),
    "group norm": (without_bias(nn.GroupNorm(2, 8)), (3, 8, 5, 4)),
    "instance norm": (without_bias(nn.InstanceNorm2d(8, affine=True)), (3, 8, 5, 4)),
    "GELU": (nn.GELU(), (3, 8)),
    "SiLU": (nn.SiLU(), (3, 8)),
    "SiLU written out": (lambda x: x * torch.sigmoid(x), (3, 8)),
    "in place": (nn.Sequential(nn.Hardswish(inplace=True), nn.SiLU(inplace=True)), (3, 8)),
    "tanh": (torch.tanh, (3, 8)),
    "ELU": (nn.ELU(0.7), (3, 8)),
    "ReLU": (nn.ReLU(), (3, 8)),
    "GLU": (lambda x: F.glu(x, 1), (3, 8)),
    "squeeze and excite": (lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), (3, 8, 5, 4)),
    "a gate in place": (lambda x: (x + 0).mul_(x.mean((2, 3), keepdim=True).sigmoid()), (3, 8, 5, 4)),
    "self-attention": (lambda x: attention(x, x, x)[0], (3, 5, 8)),
    "attention written out": (lambda x: (x @ x.transpose(1, 2)).softmax(-1) @ x, (3, 5, 8)),
    "a product of two maps": (lambda x: (2 * x) * x.flip(1), (3, 8)),
    "a quotient": (lambda x: x / (1 + x.abs().sum(1, keepdim=True)), (3, 8)),
    "normalised": (lambda x: F.normalize(x, dim=1), (3, 8)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_frozen_map_reproduces_the_value(name: str) -> None:
    function, shape = OPERATIONS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = x.clone()
    value, product = value_and_product(function, x.clone())
    torch.testing.assert_close(value, function(x.clone()), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(product, function(x.clone()), rtol=1e-12, atol=1e-12)
    assert torch.equal(x, before)


NORMS = [nn.LayerNorm(8), nn.RMSNorm(8), nn.GroupNorm(2, 8), nn.InstanceNorm1d(8, affine=True), nn.BatchNorm1d(8)]


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: type(norm).__name__)
def test_values_are_those_of_the_norm_with_its_bias(norm: nn.Module) -> None:
    """The next operation decides with the value, so a bias that is left out would change its map."""
    module = randomise_norms(copy.deepcopy(norm).double().eval())
    x = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value, _ = value_and_product(module, x)
    torch.testing.assert_close(value, module(x), rtol=1e-12, atol=1e-12)


def test_the_mean_of_a_norm_and_the_values_of_an_attention_are_not_constant() -> None:
    """Only what decides is: along other directions the map is that of the written-out formula."""
    x, row = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).unbind()

    def frozen(value: torch.Tensor) -> torch.Tensor:
        with Frozen():
            return F.layer_norm(value, (4,))

    found = torch.func.jvp(frozen, (x,), (row,))[1]
    deviation = (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(found, (row - row.mean(-1, keepdim=True)) / deviation, rtol=1e-12, atol=1e-12)


def test_half_of_a_product_is_counted_with_each_factor_constant() -> None:
    x, row = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).unbind()

    def frozen(value: torch.Tensor) -> torch.Tensor:
        with Frozen():
            return (2 * value) * value.flip(1)

    found = torch.func.jvp(frozen, (x,), (row,))[1]
    torch.testing.assert_close(found, row * x.flip(1) + x * row.flip(1), rtol=1e-12, atol=1e-12)


def test_what_is_done_in_place_is_done_in_place() -> None:
    """Whoever holds the tensor reads the new value: what a function returns is often not used."""

    def act(x: torch.Tensor) -> torch.Tensor:
        y = x + 0
        F.silu(y, inplace=True)
        y.mul_(x.mean(1, keepdim=True).sigmoid())
        return y

    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value, product = value_and_product(act, x.clone())
    torch.testing.assert_close(value, act(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(product, act(x), rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    torch.manual_seed(0)
    return randomise_norms(Transformer().double().eval())


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_equals_the_polynomial_of_the_transformer_written_out(transformer: Transformer, tokens: torch.Tensor) -> None:
    net = unroll(transformer, tokens)
    split = logits_by_length(net, tokens)
    assert len(net) == 4
    assert not split.curved
    assert not split.parts["remainder"].any()
    torch.testing.assert_close(split.logits, split_by_length(transformer, tokens), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(split.logits.sum(0), transformer(tokens), rtol=1e-12, atol=1e-12)


def test_without_biases_all_paths_start_at_the_stem(tokens: torch.Tensor) -> None:
    model = without_bias(Transformer())
    net = unroll(model, tokens)
    split, contributions = logits_by_length(net, tokens), block_contributions(net, tokens)
    expected = model(tokens)
    torch.testing.assert_close(split.parts["stem"].sum(0), expected, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(contributions.contributions[[0, 3, 4, 5, 6]].sum(0), expected, rtol=1e-10, atol=1e-11)


def test_tangents_of_a_transformer_leave_much_in_the_remainder(transformer: Transformer, tokens: torch.Tensor) -> None:
    """The reason for the frozen maps: layer norm does not change when its input is scaled."""
    net = unroll(transformer, tokens)
    split = logits_by_length(net, tokens, linearise="tangent")
    assert set(curved_operations(net)) == set(split.curved) != set()
    output = split.output.norm()
    assert split.residual < 1e-12
    assert split.parts["remainder"].sum(0).norm() > 0.5 * output


def test_an_operation_without_a_frozen_map_is_named(tokens: torch.Tensor) -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) + torch.logsumexp(x, -1, keepdim=True)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Sorted()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.block(x)

    net = unroll(Model().double().eval(), tokens)
    split = logits_by_length(net, tokens)
    assert [name for names in split.curved.values() for name in names if name == "logsumexp"]
    assert split.residual < 1e-12
    assert split.parts["remainder"].any()


def test_a_hooked_norm_has_no_frozen_map(tokens: torch.Tensor) -> None:
    """A hook may do anything to the value."""
    torch.manual_seed(0)
    model = randomise_norms(Transformer().double().eval())
    norm = next(name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm))
    assert not logits_by_length(unroll(model, tokens), tokens).curved
    model.get_submodule(norm).register_forward_hook(lambda module, args, output: output.sigmoid())
    assert logits_by_length(unroll(model, tokens), tokens).curved
