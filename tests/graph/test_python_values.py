"""Python values that a forward reads: constants of the graph are compared at each run, random ones are refused."""

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from resnet_paths.graph.errors import TraceError, UnrollError
from resnet_paths.graph.held_values import HeldTensor
from resnet_paths.graph.program import Program
from resnet_paths.graph.recording import record
from resnet_paths.graph.tracing import trace
from resnet_paths.network import unroll


def recorded(model: nn.Module) -> Program:
    return record(model, torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))


FRONT_ENDS = pytest.mark.parametrize("follow", [trace, recorded])


class Scaled(nn.Module):
    """A block with plain attributes that its forward reads, and some that it does not."""

    kind = "full"

    def __init__(self) -> None:
        super().__init__()
        self.a, self.scale, self.note, self.extra, self.calls = nn.Linear(4, 4), 1.0, "unread", None, 0
        self.skipped = [5]

    @property
    def half(self) -> float:
        return self.scale / 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        branch = self.half * torch.tanh(self.a(x))
        if self.kind == "none" or 3 in self.skipped:
            return x
        if self.extra is not None:
            branch = self.extra(branch)
        return x + branch


class Skips(nn.Module):
    """A model that leaves out blocks by a plain tuple of its class."""

    skip: tuple[int, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Scaled() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, block in enumerate(self.blocks):
            if index not in self.skip:
                x = block(x)
        return x


CHANGES: dict[str, tuple[Callable[[Skips], None], str]] = {
    "a number": (lambda model: setattr(model.blocks[1], "scale", 0.1), r"blocks\.1\.scale to be 1\.0.*got 0\.1"),
    "a class attribute": (lambda model: setattr(model, "skip", (1,)), r"expected skip to be \(\).*got \(1,\)"),
    "a string of the class": (lambda model: setattr(model.blocks[0], "kind", "none"), r"blocks\.0\.kind.*'none'"),
    "a list, in place": (lambda model: model.blocks[2].skipped.append(3), r"skipped to be \[5\].*got \[5, 3\]"),
    "a module for None": (lambda model: setattr(model.blocks[2], "extra", nn.ReLU()), r"extra to be None.*a ReLU"),
    "a tensor for a number": (lambda model: setattr(model.blocks[2], "scale", torch.ones(4)), "scale.*a Tensor"),
    "deleted": (lambda model: delattr(model.blocks[2], "scale"), "scale to be 1.0.*got nothing"),
}


@FRONT_ENDS
@pytest.mark.parametrize("change", CHANGES)
def test_a_value_that_has_changed_is_named(change: str, follow: Callable[[nn.Module], Program]) -> None:
    model = Skips().eval()
    program = follow(model)
    program.check_unchanged()
    alter, message = CHANGES[change]
    alter(model)
    with pytest.raises(UnrollError, match=message):
        program.check_unchanged()


@FRONT_ENDS
def test_what_the_forward_does_not_read_or_counts_itself_may_change(follow: Callable[[nn.Module], Program]) -> None:
    model = Skips().eval()
    program = follow(model)
    model.blocks[0].note, model.blocks[0].half_note, model.blocks[1].scale = "changed", 3, 1
    model(torch.randn(3, 4))
    model.train()
    program.check_unchanged()
    assert model.blocks[0].calls == 1


def test_few_values_are_compared() -> None:
    """The comparison runs at each evaluation: a few values per module that decides by them, none per operation."""
    program = trace(resnet50().eval())
    program.check_unchanged()
    assert 12 <= len(program.held_attributes) <= 3 * 16 + 8


# random numbers

DRAWS: dict[str, Callable[[torch.Tensor], bool]] = {
    "torch.rand().item()": lambda x: torch.rand(()).item() < 0.5,
    "bool of a comparison": lambda x: bool(torch.rand(()) < 0.5),
    "bernoulli_ in place": lambda x: bool(torch.empty(1).bernoulli_(0.5)),
    "float()": lambda x: float(torch.rand(1)) < 0.5,
    "tolist": lambda x: torch.randperm(4).tolist()[0] < 2,
    "rand_like": lambda x: bool((torch.rand_like(x)[0, 0] < 0.5).all()),
    "of x's type": lambda x: bool(x.new_empty(()).uniform_() < 0.5),
    "random": lambda x: random.random() < 0.5,
    "numpy": lambda x: np.random.rand() < 0.5,
}


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.a(x)


class LayerDrop(nn.Module):
    """Blocks left out at random in train mode."""

    def __init__(self, draw: str) -> None:
        super().__init__()
        self.blocks, self.draw = nn.ModuleList(Layer() for _ in range(4)), draw

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            if not (self.training and DRAWS[self.draw](x)):
                x = block(x)
        return x


@pytest.mark.slow
@FRONT_ENDS
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_blocks_that_chance_leaves_out_are_refused(
    draw: str, follow: Callable[[nn.Module], Program], seed: int
) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    model = LayerDrop(draw)
    with pytest.raises(TraceError, match=r"LayerDrop cannot be followed"):
        follow(model.train())
    program = follow(model.eval())
    assert sum(node.op == "call_module" for node in program.graph.nodes) == 4
    inner = nn.Sequential(nn.Linear(4, 4), LayerDrop(draw)).train()
    program = follow(inner)  # kept whole where it is a part: then it draws at each run
    assert set(program.opaque) == {"1"}


@FRONT_ENDS
def test_python_random_numbers_that_decide_nothing_do_not_matter(follow: Callable[[nn.Module], Program]) -> None:
    class Draws(Layer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * (1 + 0 * random.random() + 0 * np.random.rand())

    assert not follow(Draws().eval()).opaque


# values of tensors


class Normalised(nn.Module):
    """Divides by a number that it reads off its input."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.a, self.whole = nn.Linear(4, 4), whole

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top = x.detach().abs().max()
        return x + self.a(x) / (int(top.ceil()) if self.whole else top.item())


def test_a_number_read_off_the_input_is_read_again_or_compared() -> None:
    from resnet_paths.network import UnrolledNetwork

    x, other = torch.rand(3, 4), torch.rand(3, 4) * 9
    model = Normalised(whole=False)
    net = UnrolledNetwork(model, lambda: record(model, x))
    assert torch.equal(net(other), model(other))
    model = Normalised(whole=True)
    net = UnrolledNetwork(model, lambda: record(model, x))
    assert torch.equal(net(x * 0.99), model(x * 0.99))
    with pytest.raises(UnrollError, match="takes a different one"):
        net(other)


class Padded(nn.Module):
    """Asks whether a padding token is among its input's numbers, as many language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.a = nn.Embedding(9, 4), nn.Linear(4, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        padded = 0 in tokens[:, [-1, 0]]
        x = self.embedding(tokens)
        return x - self.a(x) if padded else x + self.a(x)


def test_a_membership_is_asked_again_not_the_truth_of_the_whole_tensor() -> None:
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    model = Padded()
    net = unroll(model, tokens)
    assert torch.equal(net(tokens + 2), model(tokens + 2))
    with pytest.raises(UnrollError, match="takes a different one"):
        net(tokens - 1)


def test_tensors_from_outside_of_torch_are_refused_not_kept() -> None:
    class ThroughNumpy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.a(x) * torch.from_numpy(np.sin(x.detach().numpy()))

    with pytest.raises(TraceError, match="Python computes with a number"):
        recorded(ThroughNumpy())
    model = nn.Sequential(nn.Linear(4, 4), ThroughNumpy())
    assert set(recorded(model).opaque) == {"1"}


PYTHON: dict[str, Callable[[torch.Tensor], object]] = {
    "twice a number": lambda x: 2 * x.mean().item(),
    "float() and a power": lambda x: float(x.detach().abs().max()) ** 2,
    "a bound": lambda x: max(x.mean().item(), -0.2),
    "both bounds": lambda x: min(max(x.sum().item(), -9.0), 9.0),
    "a decision": lambda x: 2.0 if x.mean().item() > 0 else 1.0,
    "a root, which refuses some numbers": lambda x: float(np.sqrt(x.abs().mean().item() + 0.001)),
    "a list": lambda x: sum(x.mean(0).tolist()),
    "an array": lambda x: float(x.detach().numpy().max()),
    "np.asarray": lambda x: torch.as_tensor(np.asarray(x.detach().mean(0)) + 1),
    "rounded": lambda x: round(10 * x.max().item()),
}


class ByPython(nn.Module):
    """A block whose branch is multiplied by what Python computes of its input, and a block before it."""

    def __init__(self, rule: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.before, self.a, self.rule = Layer(), nn.Linear(4, 4), rule
        self.inner = ByRule(rule)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.before(x))


class ByRule(nn.Module):
    def __init__(self, rule: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.a, self.rule = nn.Linear(4, 4), rule

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.a(x) * self.rule(x)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PYTHON)
def test_what_python_computes_with_a_number_of_the_input_is_never_held(kind: str) -> None:
    torch.manual_seed(0)
    model = ByPython(PYTHON[kind]).eval()
    net = unroll(model, torch.randn(3, 4))
    assert "inner" in net.opaque or net.front_end == "trace"
    for seed in range(3):
        x = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)) - seed
        assert torch.equal(net(x), model(x))
    with pytest.raises(TraceError, match="forward of ByRule cannot be followed"):
        recorded(ByRule(PYTHON[kind]).eval())


def test_a_number_that_is_only_stored_does_not_matter() -> None:
    def kept(x: torch.Tensor) -> torch.Tensor:
        history.append(x.mean().item())
        return x.mean()

    history: list[float] = []
    net = unroll(ByRule(kept).eval(), torch.randn(3, 4))
    assert len(net) == 1
    assert not net.opaque


WHOLE: dict[str, Callable[[torch.Tensor], bool]] = {
    "a list of whole numbers": lambda x: 1 in (x > 0).any(0).long().tolist(),
    "an array of truth values": lambda x: bool((x > 0).all(0).numpy().all()),
    "equal": lambda x: torch.equal(x, x.abs()),
    "allclose": lambda x: x.allclose(x.abs()),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_what_is_decided_by_whole_numbers_and_truth_values_is_asked_again(kind: str) -> None:
    model = ByRule(lambda x: 2 if WHOLE[kind](x) else 3).eval()
    x = torch.rand(3, 4) + 0.1
    net = unroll(model, x)
    assert len(net) == 1
    assert torch.equal(net(x / 2), model(x / 2))
    with pytest.raises(UnrollError, match="takes a different one"):
        net(x - 2)


class ByBuffer(nn.Module):
    """Computes with its own buffer in several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.a, self.way = nn.Linear(4, 4), way
        self.register_buffer("scale", torch.tensor([1.0, 2.0]))
        self.register_buffer("steps", torch.tensor(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factor = {
            "number": lambda: self.scale[0].item(),
            "computed number": lambda: self.scale[0].item() * 2,
            "computed tensor": lambda: (self.scale * 2).sum(),
            "count": lambda: int(self.steps) + 1,
            "as it is": lambda: self.scale[:1],
        }[self.way]()
        return x + self.a(x) * factor


@pytest.mark.parametrize("way", ["number", "computed number", "computed tensor", "count", "as it is"])
@FRONT_ENDS
def test_a_changed_buffer_is_read_or_refused(way: str, follow: Callable[[nn.Module], Program]) -> None:
    from resnet_paths.network import UnrolledNetwork

    model = nn.Sequential(Layer(), ByBuffer(way)).eval()
    net = UnrolledNetwork(model, lambda: follow(model))
    x = torch.randn(3, 4)
    assert torch.equal(net(x), model(x))
    with torch.no_grad():
        model[1].scale.mul_(3)
        model[1].steps.add_(1)
    try:
        found = net(x)
    except UnrollError:
        assert way in ("computed number", "computed tensor", "count", "number")
    else:
        assert torch.equal(found, model(x))


@pytest.mark.parametrize("ask", [lambda x: x.mean() > 0, lambda x: (x > 0).all(0).numpy().any()])
@pytest.mark.parametrize("where", ["branch", "after the block"])
def test_questions_inside_blocks_are_asked_too(ask: Callable[[torch.Tensor], bool], where: str) -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if where == "branch":
                h = self.a(x)
                return x + self.b(h if ask(h.detach()) else 3 * h)
            x = x + self.b(self.a(x))
            return x if ask(x.detach()) else 3 * x

    torch.manual_seed(0)
    model = nn.Sequential(Layer(), Asks(), Layer()).eval()
    net = unroll(model, torch.randn(3, 4))
    assert len(net) == 3
    answers = []
    for seed in range(12):
        x = 2 * torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
        try:
            assert torch.equal(net(x), model(x))
            answers.append(True)
        except UnrollError:
            answers.append(False)
    assert len(set(answers)) == 2  # some give the same answer as on the example
    if where == "branch":
        assert torch.isfinite(net(x, [1.0, 0.0, 1.0])).all()  # a branch that does not run asks nothing


def test_held_tensors_may_hold_nan() -> None:
    """NaN in place of NaN is not a change; another number is."""
    value = torch.tensor([1.0, math.nan])
    held = HeldTensor.of("scale", value, view=False)
    held.check(value.clone())
    value.copy_(value.clone())
    held.check(value)
    with pytest.raises(UnrollError, match="expected scale to hold the values"):
        held.check(torch.tensor([1.0, 2.0]))
