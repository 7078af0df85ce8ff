"""Networks that are not chains: every kind against the same network with its gates written out by hand."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import randomise_norms
from resnet_paths.graph.recording import record
from resnet_paths.graph.tracing import trace
from resnet_paths.network import Evaluations, UnrolledNetwork, UnrollError, unroll


class Branch(nn.Sequential):
    def __init__(self, width: int = 4) -> None:
        super().__init__(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1)
        )


class Gated(nn.Module):
    """`gates` are those of the literal network, in the order of its additions."""

    n = 0

    def __init__(self) -> None:
        super().__init__()
        self.gates = [1.0] * self.n
        self.example = (torch.randn(2, 4, 8, 8),)

    def branches(self, count: int, width: int = 4) -> nn.ModuleList:
        return nn.ModuleList(Branch(width) for _ in range(count))


class SideTaps(Gated):
    n = 4

    def __init__(self) -> None:
        super().__init__()
        self.f, self.head = self.branches(4), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        taps = []
        for gate, f in zip(self.gates, self.f, strict=True):
            x = x + gate * f(x)
            taps.append(x)
        return self.head(torch.cat(taps[1::2], 1))


class GlobalSkip(Gated):
    """Super resolution: a skip around all blocks, which are nested in its branch."""

    n = 4

    def __init__(self) -> None:
        super().__init__()
        self.f, self.last = self.branches(3), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for gate, f in zip(self.gates, self.f, strict=False):
            y = y + gate * f(y)
        return self.gates[3] * self.last(y) + x


class TappedInside(Gated):
    """A block nested in a skip is also read behind it, so a gate of 0 on the skip does not make it superfluous."""

    n = 3

    def __init__(self) -> None:
        super().__init__()
        self.f, self.last, self.head = self.branches(2), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(x + self.gates[0] * self.f[0](x))
        b = torch.relu(a + self.gates[1] * self.f[1](a))
        return self.head(torch.cat([x + self.gates[2] * self.last(b), a], 1))


class AdditiveUNet(Gated):
    n = 5

    def __init__(self) -> None:
        super().__init__()
        self.f, self.down, self.up = self.branches(4), nn.Conv2d(4, 4, 3, 2, 1), nn.ConvTranspose2d(4, 4, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        g = self.gates
        x = torch.relu(x + g[0] * self.f[0](x))
        y = self.down(x)
        y = torch.relu(y + g[1] * self.f[1](y))
        y = torch.relu(y + g[2] * self.f[2](y))
        z = g[3] * self.up(y) + x
        return z + g[4] * self.f[3](z)


class Pyramid(Gated):
    """Lateral projections meet what was computed deeper and enlarged."""

    n = 4

    def __init__(self) -> None:
        super().__init__()
        self.f, self.pool = self.branches(3), nn.MaxPool2d(2)
        self.lateral = nn.ModuleList(nn.Conv2d(4, 3, 1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        g = self.gates
        x = x + g[0] * self.f[0](x)
        y = self.pool(x)
        y = y + g[1] * self.f[1](y)
        y = y + g[2] * self.f[2](y)
        return self.lateral[0](x) + g[3] * F.interpolate(self.lateral[1](y), scale_factor=2)


class CrossAttention(Gated):
    """The decoder's branches read the encoder's memory, their side input."""

    n = 5

    def __init__(self) -> None:
        super().__init__()
        self.example = torch.randn(2, 5, 4), torch.randn(2, 3, 4)
        linear = lambda count: nn.ModuleList(nn.Linear(4, 4) for _ in range(count))  # noqa: E731
        self.encoder, self.key, self.value, self.query, self.mlp = linear(1), linear(2), linear(2), linear(2), linear(2)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        g = self.gates
        memory = source + g[0] * torch.tanh(self.encoder[0](source))
        y = target
        for layer in range(2):
            scores = self.query[layer](y) @ self.key[layer](memory).transpose(1, 2)
            y = y + g[1 + 2 * layer] * (scores.softmax(-1) @ self.value[layer](memory))
            y = y + g[2 + 2 * layer] * torch.tanh(self.mlp[layer](y))
        return y


class ClassToken(Gated):
    """The first attention adds to a learned token, which no input reaches."""

    n = 2

    def __init__(self) -> None:
        super().__init__()
        self.example = (torch.randn(2, 5, 4),)
        self.token, self.a, self.b = nn.Parameter(torch.randn(1, 1, 4)), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        token = self.token.expand(x.shape[0], -1, -1)
        token = token + self.gates[0] * self.a(torch.cat([token, x], 1)).mean(1, keepdim=True)
        token = token + self.gates[1] * torch.tanh(self.b(token))
        return token[:, 0]


class Siamese(Gated):
    """One tower called on two inputs: each of its modules is two blocks for gates."""

    n = 4

    def __init__(self) -> None:
        super().__init__()
        self.example = torch.randn(2, 4, 6, 6), torch.randn(2, 4, 6, 6)
        self.f = self.branches(2)

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        values = []
        for side, x in enumerate((one, other)):
            for k, f in enumerate(self.f):
                x = torch.relu(x + self.gates[2 * side + k] * f(x))
            values.append(x.mean((2, 3)))
        return values[0] * values[1]


class Concatenated(Gated):
    """A shortcut of two projections side by side, one of more than one layer; both shallower than the branch."""

    n = 2

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 3, 1)
        self.f = nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1))
        self.long = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 5, 1))
        self.g = nn.Sequential(nn.Conv2d(6, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 5, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.a(x), self.b(F.avg_pool2d(x, 1))], 1) + self.gates[0] * self.f(x)
        return self.long(x) + self.gates[1] * self.g(x)


class Hypernetwork(Gated):
    """The branches' weights are computed from another input."""

    n = 2

    def __init__(self) -> None:
        super().__init__()
        self.example = torch.randn(2, 4), torch.randn(2, 3)
        self.make = nn.ModuleList(nn.Linear(3, 16) for _ in range(2))

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        for gate, make in zip(self.gates, self.make, strict=True):
            weight = make(condition).reshape(-1, 4, 4)
            x = x + gate * torch.tanh(torch.bmm(weight, x.unsqueeze(-1)).squeeze(-1))
        return x


class Diffusion(Gated):
    """Every block reads the time step too; its projection is added to the stream and is no shortcut."""

    n = 4

    class Block(nn.Module):
        def __init__(self, width: int, out: int) -> None:
            super().__init__()
            self.a, self.time, self.b = nn.Conv2d(width, out, 3, padding=1), nn.Linear(4, out), nn.Conv2d(out, out, 1)
            self.skip = nn.Conv2d(width, out, 1) if width != out else nn.Identity()

        def forward(self, x: torch.Tensor, time: torch.Tensor, gate: float) -> torch.Tensor:
            hidden = self.a(torch.tanh(x)) + self.time(time)[:, :, None, None]
            return self.skip(x) + gate * self.b(torch.tanh(hidden))

    def __init__(self) -> None:
        super().__init__()
        self.example = torch.randn(2, 4, 4, 4), torch.randn(2, 4)
        self.embed = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(self.Block(*widths) for widths in ((4, 4), (4, 6), (6, 6), (10, 4)))

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        one, two, three, four = self.blocks
        time, g = torch.tanh(self.embed(time)), self.gates
        early = one(x, time, g[0])
        late = three(two(F.avg_pool2d(early, 2), time, g[1]), time, g[2])
        return four(torch.cat([F.interpolate(late, scale_factor=2), early], 1), time, g[3])


KINDS = [
    SideTaps, GlobalSkip, TappedInside, AdditiveUNet, Pyramid, CrossAttention, ClassToken, Siamese, Concatenated,
    Diffusion, Hypernetwork,
]  # fmt: skip


def make(kind: type[Gated]) -> Gated:
    torch.manual_seed(0)
    model = randomise_norms(kind(), 0).eval().double()
    model.example = tuple(value.double() for value in model.example)
    return model


def larger(model: Gated) -> tuple[torch.Tensor, ...]:
    """An input of another batch size than the example."""
    return tuple(torch.cat([value, value[:1].flip(-1)]) for value in model.example)


def networks(model: Gated) -> list[UnrolledNetwork]:
    example = model.example
    return [UnrolledNetwork(model, lambda: trace(model)), UnrolledNetwork(model, lambda: record(model, example))]


def literal(model: Gated, x: tuple[torch.Tensor, ...], gates: list[float]) -> torch.Tensor:
    gated = copy.deepcopy(model)
    gated.gates = gates
    return gated(*x)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_subsets_equal_the_literal_network(kind: type[Gated]) -> None:
    model = make(kind)
    subsets = [list(gates) for gates in itertools.product([0.0, 1.0], repeat=kind.n)]
    x = larger(model)
    with torch.no_grad():
        for net in networks(model):
            assert len(net) == kind.n
            assert torch.equal(net(x), model(*x))
            rows = net(x, subsets)
            for row, gates in zip(rows, subsets, strict=True):
                torch.testing.assert_close(row, literal(model, x, gates), rtol=1e-12, atol=1e-12)
                torch.testing.assert_close(net(x, gates), row, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(kind=st.sampled_from(KINDS), data=st.data())
def test_any_gates_equal_the_literal_network(kind: type[Gated], data: st.DataObject) -> None:
    model = make(kind)
    gate = st.sampled_from([0.0, 1.0, 0.5, -1.25])
    rows = data.draw(st.lists(st.lists(gate, min_size=kind.n, max_size=kind.n), min_size=1, max_size=4))
    with torch.no_grad():
        values = networks(model)[0](model.example, rows)
        for row, gates in zip(values, rows, strict=True):
            torch.testing.assert_close(row, literal(model, model.example, gates), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_input_parameters_and_gates(kind: type[Gated]) -> None:
    model = make(kind)
    x = tuple(value.clone().requires_grad_() for value in model.example)
    gates = torch.linspace(0.5, 1.5, kind.n, dtype=torch.float64, requires_grad=True)
    for net in networks(model):
        ours = torch.autograd.grad(net(x).square().sum(), [*x, *model.parameters()], allow_unused=True)
        theirs = torch.autograd.grad(model(*x).square().sum(), [*x, *model.parameters()], allow_unused=True)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
        (by_gate,) = torch.autograd.grad(net(x, gates).square().sum(), gates)
        step = 1e-6
        for index in range(kind.n):
            moved = [gates.detach().clone() for _ in range(2)]
            moved[0][index] += step
            moved[1][index] -= step
            up, down = (literal(model, x, values.tolist()).detach().square().sum() for values in moved)
            assert float((up - down) / (2 * step)) == pytest.approx(float(by_gate[index]), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_one_by_one_are_the_network(kind: type[Gated]) -> None:
    model = make(kind)
    net = networks(model)[0]
    with torch.no_grad():
        state = net.stem(model.example)
        while state.index < len(net):
            again = net.run(state).value
            torch.testing.assert_close(again, model(*model.example), rtol=1e-12, atol=1e-12)
            state = net.join(state, net.shortcut(state) + net.branch(state))
        torch.testing.assert_close(state.value, model(*model.example), rtol=1e-12, atol=1e-12)


def test_blocks_in_a_skipped_branch_are_not_computed() -> None:
    model = make(GlobalSkip)
    net, count = networks(model)[0], Evaluations()
    rows = [[a, b, c, 0.0] for a, b, c in itertools.product([0.0, 1.0], repeat=3)]
    with torch.no_grad():
        values = net(model.example, rows, count=count)
    assert count.branches == 0
    assert all(torch.equal(value, model.example[0]) for value in values)


def test_a_module_called_twice_is_named_once_for_each_call() -> None:
    net = networks(make(Siamese))[0]
    assert [block.name for block in net] == ["f.0#1", "f.1#1", "f.0#2", "f.1#2"]
    assert net.indices("f.0") == [0, 2]


class Several(nn.Module):
    """Feature maps of three depths, and blocks that only an auxiliary output reads."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.aux = nn.ModuleList(Branch() for _ in range(3)), Branch()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = {}
        for k, f in enumerate(self.f):
            x = x + f(x)
            maps[f"map{k}"] = x
        first = maps["map0"]
        return {**maps, "aux": first + self.aux(first)}


def test_of_several_outputs_the_one_with_most_blocks_is_followed() -> None:
    model, x = Several().eval().double(), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    net = unroll(model, x)
    assert [block.name for block in net] == ["f.0", "f.1", "f.2"]
    assert torch.equal(net(x), model(x)["map2"])
    assert any("choose another with output=" in str(refusal) for refusal in net.refusals)


def test_another_output_can_be_followed() -> None:
    model, x = Several().eval().double(), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    net = unroll(model, output="aux")
    assert [block.name for block in net] == ["f.0", "aux"]
    assert torch.equal(net(x), model(x)["aux"])
    with pytest.raises(UnrollError, match="choose one of 'map0', 'map1', 'map2', 'aux'"):
        unroll(model, output="logits")


@pytest.mark.slow
def test_discovery_is_near_linear_in_depth() -> None:
    """Counted in the work that is done, not in seconds: visits of nodes per node may not grow with depth."""

    class Deep(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.f = nn.ModuleList(nn.Linear(2, 2) for _ in range(n))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for f in self.f:
                x = torch.relu(x + torch.tanh(f(x)))
            return x

    def calls_per_block(n: int) -> float:
        import cProfile
        import pstats

        profile = cProfile.Profile()
        profile.runcall(unroll, Deep(n))
        return pstats.Stats(profile).total_calls / n  # type: ignore[attr-defined]

    assert calls_per_block(240) < 1.5 * calls_per_block(60)


def test_a_missing_output_is_one_line() -> None:
    for model, advice in ((make(SideTaps), "leave output out"), (Several(), "choose one of 'map0'")):
        with pytest.raises(UnrollError, match=advice) as caught:
            unroll(model, output="logit")
        assert "\n" not in str(caught.value)
