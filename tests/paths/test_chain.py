"""Chains of convolutions, norms and ReLUs pulled back without autograd, against autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from helpers import randomise_norms
from resnet_paths import unroll
from resnet_paths.models import cifar_resnet
from resnet_paths.paths import enumerate_path_gradients, gradient_by_length, parameter_gradients_by_length, pulling
from resnet_paths.paths.chain import chain_between

Layer = Callable[[torch.Tensor], torch.Tensor]


def recorded(layers: Layer, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The input and the output of a pass, and neither the first nor the last value of the graph."""
    entry = x.requires_grad_() * 1
    return entry, layers(entry)


def by_autograd(output: torch.Tensor, entry: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.autograd.grad(output, entry, row, retain_graph=True)[0] for row in rows])


SIDES = {1: (7,), 2: (7, 6), 3: (5, 4, 3)}
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@st.composite
def stacks(draw: st.DrawFn) -> tuple[nn.Sequential, torch.Tensor]:
    """Up to six layers on small inputs, and the input."""
    dimensions = draw(st.sampled_from([1, 2, 2, 3]))
    width = 4
    layers: list[nn.Module] = []
    for kind in draw(st.lists(st.sampled_from(["convolution", "norm", "bare norm", "relu"]), min_size=1, max_size=6)):
        if kind == "relu":
            layers.append(nn.ReLU())
        elif kind == "convolution":
            kernel, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 4]))
            settings = {"stride": draw(st.integers(1, 3)), "dilation": draw(st.integers(1, 2)), "groups": groups}
            padding = draw(st.integers(1, 3))
            layers.append(CONVOLUTIONS[dimensions](width, 4 * groups, kernel, padding=padding, **settings))
            width = 4 * groups
        else:
            layers.append(NORMS[dimensions](width, affine=kind == "norm"))
    torch.manual_seed(draw(st.integers(0, 9)))
    model = nn.Sequential(*layers).double().eval()
    randomise_norms(model)
    x = torch.randn(2, 4, *SIDES[dimensions], dtype=torch.float64)
    return model, x.contiguous(memory_format=torch.channels_last) if draw(st.booleans()) and dimensions == 2 else x


@pytest.mark.slow
@given(stacks(), st.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_pulls_rows_as_autograd_does(stack: tuple[nn.Sequential, torch.Tensor], count: int) -> None:
    model, x = stack
    try:
        entry, output = recorded(model, x)
    except RuntimeError:  # nothing left of the image
        return
    chain = chain_between(output, entry)
    assert chain is not None
    rows = torch.randn(count, *output.shape, dtype=torch.float64)
    expected = by_autograd(output, entry, rows)
    kept, onto = rows.clone(), torch.randn_like(expected)
    before = onto.clone()
    torch.testing.assert_close(chain.pull(rows), expected, rtol=1e-11, atol=1e-11)
    assert chain.pull(rows, onto) is onto
    torch.testing.assert_close(onto, before + expected, rtol=1e-11, atol=1e-11)
    assert torch.equal(rows, kept)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_adds_while_it_convolves(dtype: torch.dtype, groups: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=2, groups=groups), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1, groups=groups)
    ).to(dtype)
    entry, output = recorded(model.eval(), torch.randn(3, 8, 6, 6, dtype=dtype))
    chain = chain_between(output, entry)
    assert chain is not None
    assert chain.stored_channels_last
    rows = torch.randn(2, *output.shape, dtype=dtype)
    expected = by_autograd(output, entry, rows)
    onto = torch.zeros(2 * 3, 8, 6, 6, dtype=dtype).contiguous(memory_format=torch.channels_last).view(2, 3, 8, 6, 6)
    chain.pull(rows, onto)
    chain.pull(rows, onto)
    close = {"rtol": 0.05, "atol": 0.05} if dtype is torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(onto, 2 * expected, **close)


NOT_CHAINS: dict[str, Layer] = {
    "a curve": nn.Sequential(nn.Conv2d(4, 4, 1), nn.GELU()),
    "a sum": lambda x: F.relu(x) + x,
    "a transposed convolution": nn.ConvTranspose2d(4, 4, 3),
    "a computed weight": weight_norm(nn.Conv2d(4, 4, 3)),
    "a weight made of the input": lambda x: F.conv2d(x, x[:, :, :1, :1]),
    "a norm of this batch": nn.BatchNorm2d(4).train(),
    "another input": lambda x: torch.relu(torch.ones(2, 4, 5, 5, requires_grad=True)),
    "no gradient": lambda x: torch.relu(x.detach()),
}


def test_a_weight_that_is_the_earlier_value_itself_is_not_a_chain() -> None:
    leaf = torch.randn(4, 4, 1, 1, requires_grad=True)
    assert chain_between(F.conv2d(leaf, leaf), leaf) is None


@pytest.mark.parametrize("name", NOT_CHAINS)
def test_is_not_a_chain(name: str) -> None:
    layers = NOT_CHAINS[name]
    entry, output = recorded(layers, torch.randn(2, 4, 5, 5))
    assert chain_between(output, entry) is None


def test_one_relu_is_a_mask() -> None:
    entry, output = recorded(nn.ReLU(), torch.randn(2, 4, 5, 5))
    chain = chain_between(output, entry)
    assert chain is not None
    assert chain.mask is not None
    assert torch.equal(chain.mask, output)


@pytest.mark.slow
@pytest.mark.parametrize("shortcut", ["A", "C"])
@pytest.mark.parametrize("preact", [False, True], ids=["post", "pre"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_splits_are_those_without_chains(
    monkeypatch: pytest.MonkeyPatch, preact: bool, shortcut: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    model = cifar_resnet(20, shortcut=shortcut, preactivation=preact, num_classes=3).to(dtype).eval()
    randomise_norms(model)
    x, target = torch.randn(2, 3, 16, 16, dtype=dtype), torch.tensor([0, 2])
    net = unroll(model)
    with monkeypatch.context() as patch:
        patch.setattr(pulling, "chain_between", lambda output, start: None)
        plain = gradient_by_length(net, x, target)
    soon = gradient_by_length(net, x, target)
    rtol = 1e-4 if dtype is torch.float32 else 1e-10
    scale = plain.norms.amax(1).view(-1, 1, 1, 1, 1)  # of each length: its entries cancel to very different sizes
    torch.testing.assert_close(soon.gradient / scale, plain.gradient / scale, rtol=rtol, atol=rtol)
    torch.testing.assert_close(soon.entry_norms, plain.entry_norms, rtol=rtol, atol=1e-12)
    assert soon.vjps == plain.vjps
    assert soon.residual is not None
    assert soon.residual < rtol


def test_blocks_without_an_activation_after_a_projection_of_the_same_shape() -> None:
    """The sum's rows lie where the shortcut's result goes: the branch must have read them before."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(x) + self.c(torch.relu(self.a(x)))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *(Block() for _ in range(4)), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    split = gradient_by_length(unroll(model.double()), torch.randn(2, 3, 6, 6).double(), torch.tensor([0, 2]))
    assert split.residual is not None
    assert split.residual < 1e-12


LINEAR: dict[str, Callable[[], nn.Module]] = {
    "a convolution": lambda: nn.Conv2d(4, 4, 3, padding=1),
    "a convolution and a norm": lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
}


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rows_at_the_sum_lie_where_the_branch_is_added(dtype: torch.dtype, name: str) -> None:
    """Without anything after the sum its rows are the next ones' memory, which a single layer reads and writes."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = LINEAR[name]()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.branch(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *(Block() for _ in range(4)), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    net = unroll(randomise_norms(model).to(dtype))
    split = gradient_by_length(net, torch.randn(2, 3, 6, 6, dtype=dtype), torch.tensor([0, 2]))
    assert split.residual is not None
    assert split.residual < (1e-5 if dtype is torch.float32 else 1e-12)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    model = cifar_resnet(8, num_classes=3)
    return randomise_norms(model).eval()


def halves(gradient: torch.Tensor) -> torch.Tensor:
    return gradient / 2


def by_tensor(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
    if output.requires_grad:
        output.register_hook(halves)


def by_node(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
    if output.grad_fn is not None:
        output.grad_fn.register_hook(lambda arrived, came: tuple(None if g is None else g / 2 for g in arrived))


@pytest.mark.parametrize("hook", [by_tensor, by_node])
def test_hooks_on_tensors_are_honoured(hook: Callable[..., None]) -> None:
    """They cannot be read off the graph, and change gradients."""
    model = small_network().double()
    x, target = torch.randn(2, 3, 8, 8).double(), torch.tensor([0, 2])
    free = gradient_by_length(unroll(model), x, target)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(hook)
    split = gradient_by_length(unroll(model, x), x, target)
    assert split.residual is not None
    assert split.residual < 1e-12
    assert not torch.allclose(split.total, free.total)
    assert not torch.allclose(split.norms, free.norms)


class TwoTypes(nn.Module):
    """A stream in bfloat16 whose sums are in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 3)
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1).bfloat16() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).bfloat16()
        for layer in self.layers:
            x = torch.relu(x.float() + layer(x)).bfloat16()
        return self.head(x.float().mean((2, 3)))


def test_branch_and_sum_of_different_types() -> None:
    torch.manual_seed(0)
    given = unroll(TwoTypes().eval()), torch.randn(2, 3, 6, 6), torch.tensor([0, 2])
    for split in (
        gradient_by_length(*given),
        gradient_by_length(*given, at=1),
        parameter_gradients_by_length(*given),
    ):
        assert split.residual is not None
        assert split.residual < 0.02


def test_paths_under_autocast() -> None:
    net, x = unroll(small_network()), torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        paths = enumerate_path_gradients(net, x, torch.tensor([0, 2]), keep_gradients=True)
        split = gradient_by_length(net, x, torch.tensor([0, 2]))
    assert paths.gradient is not None
    torch.testing.assert_close(
        paths.gradient.sum(0), split.total, rtol=0.05, atol=0.02 * float(split.total.abs().max())
    )


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last], ids=str)
def test_pieces_between_chains_get_rows_stored_as_their_values(form: torch.memory_format, batch: int) -> None:
    """Rows in another order than the values gave a wrong gradient of the stem's norm for a batch of one."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.branch(x)

    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Hardswish()]
    between = [nn.BatchNorm2d(4), nn.Hardswish()]
    model = nn.Sequential(*stem, Block(), Block(), *between, Block(), *between, nn.Flatten(), nn.Linear(4 * 30, 3))
    net = unroll(randomise_norms(model).double().to(memory_format=form).eval())
    x = torch.randn(batch, 3, 6, 5).double().contiguous(memory_format=form)
    split = gradient_by_length(net, x, torch.arange(batch))
    assert split.residual is not None
    assert split.residual < 1e-12
    paths = enumerate_path_gradients(net, x, torch.arange(batch), keep_gradients=True)
    assert paths.gradient is not None
    torch.testing.assert_close(paths.gradient.sum(0), split.total, rtol=1e-10, atol=1e-12)
