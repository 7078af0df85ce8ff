"""Operations that change only the gradient are not lost in a graph: custom autograd functions and regions without
gradients.
"""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnet_paths.graph.errors import TraceError
from resnet_paths.graph.recording import record
from resnet_paths.graph.tracing import trace
from resnet_paths.network import UnrolledNetwork
from resnet_paths.paths import gradient_by_length


class Sign(torch.autograd.Function):
    """The sign, straight through: with the gradient of the identity."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
        return grad


class Reverse(torch.autograd.Function):
    """The identity, with the gradient reversed and scaled (Ganin and Lempitsky 2015)."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.factor * grad, None  # type: ignore[attr-defined]


class Doubled(Reverse):
    """Another backward for an inherited forward."""

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return 2 * grad, None


class Same(torch.autograd.Function):
    """Returns its input itself."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
        return 3 * grad


class Split(torch.autograd.Function):
    """Two results, in the style with setup_context."""

    @staticmethod
    def forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.relu(), (-x).relu()

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[torch.Tensor], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        ctx.save_for_backward(inputs[0])  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: object, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return up * x.sigmoid() - down


class Writes(torch.autograd.Function):
    """Writes over its input."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(x)  # type: ignore[attr-defined]
        return x.mul_(2)

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
        return 5 * grad


kept_sign = Sign.apply  # bound to another name, as in libraries


@torch.no_grad()
def frozen_tanh(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x)


def no_grad_region(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = torch.tanh(block.a(x))
    return x + y


def split_sizes_under_no_grad(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        half = x.shape[1] // 2
        parts = torch.tanh(x).split(half, 1)
    return x + block.a(torch.cat([parts[0], parts[1] * x[:, half:]], 1))


def grad_within_no_grad(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = torch.tanh(x)
        with torch.enable_grad():
            z = block.a(y * x)
    return x + z


def switched(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    torch.set_grad_enabled(False)
    y = torch.tanh(x)
    torch.set_grad_enabled(True)
    return x + block.a(y) * y


def inference(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        y = torch.tanh(x)
    return x + block.a(x + y)


def in_place_under_no_grad(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = block.a(x)
        y *= 2
    return x + (y + block.a(x))


def two_results(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    up, down = Split.apply(block.a(x))
    return x + (up - 2 * down)


WAYS: dict[str, Callable[[nn.Module, torch.Tensor], torch.Tensor]] = {
    "sign": lambda block, x: x + block.a(Sign.apply(x)),
    "sign of weights": lambda block, x: x + F.linear(Sign.apply(x), Sign.apply(block.a.weight), block.a.bias),
    "kept under a name": lambda block, x: x + block.a(kept_sign(x)),
    "in an attribute": lambda block, x: x + block.a(block.sign(x)),
    "reversed gradient": lambda block, x: x + Reverse.apply(torch.tanh(block.a(x)), 0.5),
    "inherited forward": lambda block, x: x + Doubled.apply(torch.tanh(block.a(x)), 0.5),
    "returns its input": lambda block, x: x + Same.apply(block.a(x)),
    "two results": two_results,
    "branch under no_grad": no_grad_region,
    "decorated": lambda block, x: x + frozen_tanh(x) * block.a(x),
    "tuple and sizes under no_grad": split_sizes_under_no_grad,
    "grad within no_grad": grad_within_no_grad,
    "set_grad_enabled": switched,
    "inference mode": inference,
    "in place under no_grad": in_place_under_no_grad,
    "detach (control)": lambda block, x: x + block.a(x) * x.detach(),
}


class Block(nn.Module):
    """A block that computes in a given way."""

    def __init__(self, way: str, width: int = 6) -> None:
        super().__init__()
        self.a, self.way, self.sign = nn.Linear(width, width), way, Sign.apply

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return WAYS[self.way](self, x)


class Chain(nn.Module):
    """Stem, blocks and head."""

    def __init__(self, *ways: str) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.blocks = nn.Sequential(*map(Block, ways))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)))


class FrozenStem(Chain):
    """A linear probe: the stem is run without gradients."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x = self.stem(x)
        return self.head(self.blocks(x))


class Frozen(Chain):
    """No gradient at all."""

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


class Dann(Chain):
    """A reversed gradient between the blocks and the head."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(Reverse.apply(self.blocks(self.stem(x)), 2.0))


class SumUnderNoGrad(Chain):
    """A whole block under no_grad, the sum included."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        with torch.no_grad():
            x = x + torch.tanh(self.blocks[0].a(x))
        return self.head(self.blocks[1](x))


def network(model: nn.Module, front_end: str) -> UnrolledNetwork:
    x = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return UnrolledNetwork(model, lambda: trace(model) if front_end == "trace" else record(model, x))


def gradients(
    function: Callable[[torch.Tensor], torch.Tensor], model: nn.Module, x: torch.Tensor
) -> list[torch.Tensor]:
    """With respect to the input and to all parameters; zeros where there is none."""
    leaves = [x.clone().requires_grad_(), *model.parameters()]
    value = function(leaves[0]).square().sum()
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]


def assert_same_gradients(net: UnrolledNetwork, model: nn.Module, x: torch.Tensor) -> None:
    assert (net(x) - model(x)).abs().max() <= 1e-12
    for one, other in zip(gradients(net, model, x), gradients(model, model, x), strict=True):
        assert (one - other).abs().max() <= 1e-12 * (1 + other.abs().max())


@pytest.mark.parametrize("front_end", ["trace", "record"])
@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_the_models(way: str, front_end: str) -> None:
    torch.manual_seed(0)
    model = Chain(way, way, way).double().eval()
    net = network(model, front_end)
    assert net.front_end == front_end
    assert not net.opaque
    assert len(net) == 3
    assert_same_gradients(net, model, torch.randn(5, 4, dtype=torch.float64))


@pytest.mark.parametrize("front_end", ["trace", "record"])
@pytest.mark.parametrize("kind", [FrozenStem, Frozen, Dann, SumUnderNoGrad])
def test_gradients_of_whole_models(kind: type[Chain], front_end: str) -> None:
    torch.manual_seed(0)
    model = kind("detach (control)", "sign").double().eval()
    net = network(model, front_end)
    assert len(net) == 2
    assert_same_gradients(net, model, torch.randn(5, 4, dtype=torch.float64))


def test_without_gradients_around_it_the_front_ends_still_see_the_region() -> None:
    torch.manual_seed(0)
    model = Chain("branch under no_grad", "sign").double().eval()
    x = torch.randn(5, 4, dtype=torch.float64)
    for context in (torch.no_grad, torch.inference_mode):
        for front_end in ("trace", "record"):
            with context():
                net = network(model, front_end)
            assert_same_gradients(net, model, x)


def test_the_gradient_split_by_path_length_sums_to_the_models() -> None:
    torch.manual_seed(0)
    model = Dann("sign", "branch under no_grad", "two results").double().eval()
    x, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    leaf = x.clone().requires_grad_()
    F.cross_entropy(model(leaf), labels, reduction="sum").backward()
    split = gradient_by_length(network(model, "trace"), x, labels)
    assert leaf.grad is not None
    assert (split.gradient.sum(0) - leaf.grad).norm() <= 1e-12 * leaf.grad.norm()


class WritesBlock(nn.Module):
    """Whose custom function writes over its input."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Writes.apply(self.a(x))


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


def test_a_custom_function_that_writes_over_its_input_closes_the_module_when_recorded() -> None:
    model = nn.Sequential(nn.Linear(4, 6), Residual(WritesBlock())).double().eval()
    net = network(model, "record")
    assert set(net.opaque) == {"1.inner"}
    assert "overwrites its input" in net.opaque["1.inner"]
    assert_same_gradients(net, model, torch.randn(5, 4, dtype=torch.float64))


def test_writing_over_a_value_under_no_grad_closes_the_module_or_is_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            with torch.no_grad():
                x.mul_(2)  # the gradient passes as if nothing had happened
            return x

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), Residual(Scaled())).double().eval()
    for front_end in ("trace", "record"):
        net = network(model, front_end)
        assert set(net.opaque) == {"1.inner"}
        assert_same_gradients(net, model, torch.randn(5, 4, dtype=torch.float64))
    for follow in (trace, lambda alone: record(alone, torch.randn(2, 6))):
        with pytest.raises(TraceError, match=r"within torch.no_grad"):
            follow(Scaled())


class Cast(nn.Module):
    """A part of it computes in bfloat16, a part of that in float32 again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = self.a(x)
            with torch.autocast("cpu", enabled=False):
                y = y.to(x.dtype) + torch.matmul(x, x.mT @ x)
            y = y * torch.matmul(y, y.mT).sum()
        return x + self.b(y.to(x.dtype))


@pytest.mark.parametrize("front_end", ["trace", "record"])
def test_autocast_regions_compute_as_in_the_model(front_end: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Cast(), Cast()).eval()
    example = torch.randn(2, 6)
    net = UnrolledNetwork(model, lambda: trace(model) if front_end == "trace" else record(model, example))
    x = torch.randn(5, 6)
    assert len(net) >= 2
    assert torch.equal(net(x), model(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net(x), model(x))
    plain = copy.deepcopy(model)
    for block in plain:
        block.forward = lambda x, block=block: x + block.b(block.a(x))
    assert not torch.equal(plain(x), model(x))


def test_autocast_that_is_left_by_an_exception_is_forgotten() -> None:
    class Tries(Cast):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                with torch.autocast("cpu", torch.bfloat16):
                    raise KeyError
            except KeyError:
                pass
            return x + self.a(x)

    for follow in (trace, lambda model: record(model, torch.randn(2, 6))):
        assert not any("autocast" in node.meta for node in follow(Tries()).graph.nodes)
