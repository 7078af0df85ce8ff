"""Blocks anywhere: nested, beside taps, in towers, under autocast, with a custom backward."""

import pickle

import pytest
import torch
from torch import nn

from damage import gated, size
from resnet_paths.graph.recording import record
from resnet_paths.graph.tracing import trace
from resnet_paths.network import UnrolledNetwork, unroll
from resnet_paths.surgery import drop_blocks, lesioned


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = Branch()

    def forward(self, x):
        return x + self.f(x)


class LongSkip(nn.Module):
    """A global skip around blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last, self.after = nn.Sequential(Block(), Block()), nn.Linear(4, 4), Block()

    def forward(self, x):
        return self.after(x + self.last(self.body(x)))


class Taps(nn.Module):
    """Values between blocks are read later, and the first layer of a block writes over its input."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        kept = []
        for block in self.blocks:
            x = block(x)
            kept.append(x)
        return self.head(torch.cat(kept[1::2], -1))


class Towers(nn.Module):
    """One tower for two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.tower, self.head = nn.Sequential(Block(), Block()), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.tower(x) - self.tower(x.flip(-1)))


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, grad):
        return 3 * grad


class Straight(nn.Module):
    """A custom backward in the same forward as two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = x + self.a(x)
        return x + Sign.apply(self.b(x))


class Cast(nn.Module):
    """Part of a forward under autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.f = nn.Linear(4, 4), nn.Linear(4, 4), Branch()

    def forward(self, x):
        x = x + self.a(x)
        with torch.autocast("cpu", torch.bfloat16):
            y = self.f(x) @ self.b.weight
        return x + y.float()


KINDS = {"long skip": LongSkip, "taps": Taps, "towers": Towers, "straight": Straight, "cast": Cast}


@pytest.mark.parametrize("kind", KINDS)
def test_each_block_and_all_of_them(kind: str) -> None:
    torch.manual_seed(0)
    model, x = KINDS[kind]().eval(), torch.randn(3, 4)
    net, whole = unroll(model), model(x)
    for dropped in [*([block.index] for block in net), list(range(len(net)))]:
        expected = gated(net, x, dropped)
        smaller = drop_blocks(net, dropped)
        torch.testing.assert_close(smaller(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(smaller))(x), smaller(x))
        if len(dropped) == 1:
            assert size(model) - size(smaller) == net[dropped[0]].branch_parameters
        with lesioned(net, dropped):
            torch.testing.assert_close(model(x), expected)
        assert torch.equal(model(x), whole)


def test_an_outer_block_takes_the_inner_ones_with_it() -> None:
    torch.manual_seed(0)
    model, x = LongSkip().eval(), torch.randn(3, 4)
    net = unroll(model)
    outer = next(block.index for block in net if block.branch_parameters == 5 * 20)
    smaller = drop_blocks(net, [0, outer])
    torch.testing.assert_close(smaller(x), model.after(x))
    assert size(smaller) == size(model.after)


def test_a_custom_backward_and_a_region_stay() -> None:
    torch.manual_seed(0)
    model, x = Straight(), torch.randn(3, 4, requires_grad=True)
    smaller = pickle.loads(pickle.dumps(drop_blocks(model, [0])))
    smaller(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x) + 3 * model.b.weight.sum(0))
    cast = Cast()
    y = torch.randn(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        branch = cast.f(y) @ cast.b.weight
    assert torch.equal(drop_blocks(cast, ["a"])(y), y + branch.float())


class AddsInto(nn.Module):
    """The model's forward writes over what a block gives, after a tap of what the block was given."""

    def __init__(self) -> None:
        super().__init__()

        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.f = nn.Linear(4, 4)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x + self.f(x)

        self.stem, self.block, self.g = nn.Linear(4, 4), Block(), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tap = self.stem(x)
        y = self.block(tap)
        y += torch.tanh(self.g(y))
        return torch.cat([y, tap], 1)


@pytest.mark.parametrize("recorded", [False, True])
def test_a_dropped_blocks_input_is_not_written_over_by_the_forward_around_it(recorded: bool) -> None:
    torch.manual_seed(0)
    model, x = AddsInto().eval().double(), torch.randn(3, 4, dtype=torch.float64)
    follow = (lambda: record(model, x)) if recorded else (lambda: trace(model))
    net = UnrolledNetwork(model, follow, x)
    with torch.no_grad():
        expected = net(x, [0.0, 1.0])
        assert torch.equal(drop_blocks(net, [0])(x), expected)
        with lesioned(net, [0]):
            assert torch.equal(model(x), expected)
