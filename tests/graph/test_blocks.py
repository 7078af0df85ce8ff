"""Which additions are blocks: each rule with the smallest network that shows it."""

import pytest
import torch
from torch import nn

from resnet_paths.graph.recording import record
from resnet_paths.graph.tracing import trace
from resnet_paths.network import NoBlocksError, UnrolledNetwork, UnrollError, unroll


class Written(nn.Module):
    """A network whose whole forward is the function given."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.a, self.b, self.c, self.d = (nn.Linear(3, 3) for _ in range(4))

    def forward(self, x):
        return self.function(self, x)


def blocks(function) -> list[str]:
    model = Written(function).eval().double()
    x = torch.randn(4, 3, dtype=torch.float64)
    nets = UnrolledNetwork(model, lambda: trace(model)), UnrolledNetwork(model, lambda: record(model, x[:2]))
    for net in nets:
        assert torch.allclose(net(x), model(x), rtol=1e-14, atol=1e-14)
    traced, recorded = ([block.shortcut for block in net] for net in nets)
    assert traced == recorded
    return traced


def part_written_over(m, x):
    x = m.a(x)
    x[:, :2] += torch.tanh(m.b(x))[:, :2]
    return m.c(x)


def parts_written_over(m, x):
    x = x + m.a(x)
    x[..., 0] *= 2
    x[:, 1:].mul_(3)
    part = x[:, 1:]
    part += m.b(x)[:, :2]
    return m.c(x) * part.sum()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x: x + m.a(x), ["identity"]),
        (lambda m, x: torch.add(m.a(x), x), ["identity"]),
        (lambda m, x: m.a(x).add_(x), ["identity"]),
        (lambda m, x: (x + m.a(x)) + m.b(x), ["identity"]),
        (lambda m, x: (m.a(x) + m.c(torch.relu(m.b(x)))) + x, ["identity"]),
        (lambda m, x: x + (m.a(x) + m.c(torch.relu(m.b(x)))), ["identity"]),
        (lambda m, x: x + (m.a(torch.relu(x)) + m.c(m.b(torch.relu(x)))), ["identity"]),
        (lambda m, x: x + (m.a(y := torch.relu(x)) + m.c(m.b(y))), ["identity"]),
        (lambda m, x: m.a(x) + ((y := m.a(torch.tanh(m.a(x)))) + m.b(y)), ["identity", "projection"]),
        (lambda m, x: m.c(x) + m.b(torch.relu(m.a(x))), ["projection"]),
        (lambda m, x: x.roll(1, 1) + m.a(x), ["parameter-free"]),
        (lambda m, x: m.c(x + m.a(x)) + 1.0, ["identity"]),
        (lambda m, x: m.a(x) + (b := m.b(x)) * torch.sigmoid(m.c(b)), ["projection"]),
        (lambda m, x: m.b(m.a(x)) + m.d(torch.tanh(m.c(torch.tanh(m.a(x))))), ["projection"]),
        (lambda m, x: m.a(torch.cat([m.b(x)[:, :2], m.c(x)[:, 2:]], 1)) + m.d(m.d(m.d(x))), ["projection"]),
        (lambda m, x: sum([x, m.a(x)]), ["identity"]),
        (lambda m, x: x + torch.tanh(x @ m.a.weight), ["identity"]),
        (lambda m, x: x + torch.tanh(x.matmul(m.a.weight)), ["identity"]),
        (lambda m, x: x + torch.tanh(x.mm(m.a.weight)), ["identity"]),
        (lambda m, x: x + torch.tanh(m.a.bias.addmm(x, m.a.weight)), ["identity"]),
        (lambda m, x: x + torch.tanh(torch.tensordot(x, m.a.weight, dims=1)), ["identity"]),
        (lambda m, x: x + torch.conv_transpose1d(x[..., None], m.a.weight[..., None])[..., 0], ["identity"]),
        (lambda m, x: x + m.a(x).type(torch.float64), ["identity"]),
        (lambda m, x: x + m.b(torch.tanh(m.a(y := torch.tanh(x)))) + m.c(y), ["identity"]),
        (lambda m, x: m.c(y := torch.tanh(x)) + (x + m.b(torch.tanh(m.a(y)))), ["identity"]),
        (lambda m, x: torch.stack([x, m.a(x), m.b(x)]).sum(0), ["identity"]),
        (lambda m, x: torch.stack([x, m.a(x), m.b(x)], 1).mean(1), ["identity"]),
        (lambda m, x: x + torch.stack([m.a(x), m.b(x), m.c(x)]).sum(0), ["identity"]),
        (part_written_over, ["parameter-free"]),
        (parts_written_over, ["identity", "parameter-free"]),
    ],
)
def test_forms_of_addition(function, expected) -> None:
    assert blocks(function) == expected


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m, x: m.a(x) + m.b(x), "ambiguous"),
        (lambda m, x: m.b(m.a(x)) + m.d(m.c(x)), "ambiguous"),
        (lambda m, x: torch.sigmoid(m.a(x)) * m.b(x) + (1 - torch.sigmoid(m.a(x))) * x, "gates, as in highway"),
        (lambda m, x: (t := torch.sigmoid(m.a(x))) * m.b(x) + (1 - t) * x, "gates, as in highway"),
        (lambda m, x: torch.sigmoid(m.a(x)) * x + m.c(m.b(x)), "multiplied by a value computed from the data"),
        (lambda m, x: torch.lerp(x, m.a(x), torch.sigmoid(m.b(x))), "mixes its terms by a weight"),
        (lambda m, x: x - x.mean(1, keepdim=True), "no layer with weights"),
        (lambda m, x: x * 0.5 + x.roll(1, 1) * 0.1, "no layer with weights"),
        (lambda m, x: (y := x.chunk(3, 1))[0] + m.d(y[1].expand(-1, 3)), "different parts"),
        (lambda m, x: m.d(x[:, :1].expand(-1, 3)) + x[:, 1:2], "different parts"),
        (lambda m, x: (x > 0).to(x.dtype) + m.a(x), "does not carry the entry's values"),
        (lambda m, x: x + x, "adds a value to itself"),
        (lambda m, x: m.b(m.a(x)), "never adds two"),
        (lambda m, x: torch.stack([m.a(x), m.b(x)]).sum(0), "ambiguous"),
        (lambda m, x: torch.stack([m.a(x), m.b(x)]).mean(0), "ambiguous"),
        (lambda m, x: torch.addmm(x, torch.tanh(x), m.a.weight), r"sums in another way \(addmm\); write the sum as x"),
        (lambda m, x: torch.cat([x[:, None], m.a(x)[:, None]], 1).sum(1), r"sums in another way \(sum\)"),
    ],
)
def test_refusals_carry_their_reason(function, reason: str) -> None:
    with pytest.raises(NoBlocksError, match=reason) as caught:
        unroll(Written(function))
    assert "What to do" in str(caught.value)
    assert "example_input" in str(caught.value)


def test_a_mask_of_its_own_on_the_shallower_term_is_the_reason() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            return x * mask + self.b(torch.tanh(x))

    with pytest.raises(NoBlocksError, match=r"its shallower term is computed from another input too \(a mask"):
        unroll(Masked())


def test_a_block_inside_a_branch_is_a_block_too() -> None:
    def forward(m, x):
        inner = m.a(x)
        inner = inner + m.b(inner)
        return x + m.c(inner)

    assert blocks(forward) == ["identity", "identity"]


def test_aliases_of_a_value_changed_in_place() -> None:
    def forward(m, x):
        x = m.a(x)
        alias = x
        x += m.b(x)
        return m.c(alias) + m.d(torch.relu(m.b(alias)))

    assert blocks(forward) == ["identity", "projection"]


def test_names_in_one_forward_come_from_the_branches() -> None:
    def forward(m, x):
        x = x + m.a(x)
        return x + m.b(x)

    assert [block.name for block in unroll(Written(forward))] == ["a", "b"]


@pytest.mark.slow
def test_wrappers_are_looked_through() -> None:
    model = Written(lambda m, x: x + m.a(x)).eval()
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        assert unroll(wrapped).model is model


def test_scripted_models_and_other_objects_are_refused() -> None:
    with pytest.raises(UnrollError, match="scripted"):
        unroll(torch.jit.trace(nn.Linear(2, 2), torch.randn(1, 2)))
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module"):
        unroll("resnet18")  # type: ignore[arg-type]


def test_random_numbers_need_an_example() -> None:
    def random(m, x):
        return x + m.a(x) + torch.rand(3)

    model, x = Written(random), torch.randn(2, 3)
    with pytest.raises(NoBlocksError, match="draws random numbers"):
        unroll(model)
    net = unroll(model, x)
    torch.manual_seed(1)
    expected = model(x)
    torch.manual_seed(1)
    assert torch.equal(net(x), expected)


def test_a_coefficient_of_the_addition_belongs_to_the_branch() -> None:
    class Alpha(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.add(x, self.a(x), alpha=0.3)
            return x.add(self.b(x), alpha=-2)

    model, x = Alpha().double(), torch.randn(3, 4, dtype=torch.float64)
    for net in (unroll(model), UnrolledNetwork(model, lambda: record(model, x))):
        assert [block.name for block in net] == ["a", "b"]
        middle = x + 0.3 * 0.5 * model.a(x)
        assert (net(x) - model(x)).abs().max() < 1e-14
        assert (net(x, [0.5, 0.25]) - (middle - 2 * 0.25 * model.b(middle))).abs().max() < 1e-14


def test_dense_networks_are_recognised() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, self.a(x)], 1)

    with pytest.raises(NoBlocksError, match="1x"):
        unroll(Dense())


def test_the_parameters_of_a_branch_are_those_that_it_alone_uses() -> None:
    net = unroll(Written(lambda m, x: (y := x + m.b(m.a(x))) + m.c(m.a(y))))
    assert [block.branch_parameters for block in net] == [12, 12]


def test_the_error_for_blocks_in_a_plain_list_says_where_they_belong() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = [nn.Linear(3, 3)]

        def forward(self, x):
            return x + self.blocks[0](x)

    with pytest.raises(NoBlocksError, match=r"nn\.ModuleList"):
        unroll(Listed().eval(), torch.randn(2, 3))
