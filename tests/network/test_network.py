"""The identities of evaluation at gates, on small networks of every kind of block."""

import copy
import itertools
import pickle
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import randomise_norms
from resnet_paths.graph.recording import record
from resnet_paths.graph.tracing import trace
from resnet_paths.models import cifar_resnet
from resnet_paths.network import BlockIndexError, Evaluations, UnrolledNetwork, UnrollError, for_inference, unroll
from resnet_paths.surgery import drop_blocks, lesioned


class Basic(nn.Module):
    """Post-activation block with one ReLU module used twice, in place, and ``+=``."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


class PreActivation(nn.Module):
    """Full pre-activation block; the down-sampling shortcut leaves after the first activation."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(x), inplace=True)
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = self.conv1(out)
        return self.conv2(F.relu(self.bn2(out))) + shortcut


class Small(nn.Module):
    """A stem, four blocks of one kind and a head."""

    def __init__(self, block: type[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList([block(4, 4), block(4, 6, 2), block(6, 6), block(6, 6)])
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = F.relu(self.norm(x))
        return self.fc(x.mean((2, 3)).view(x.size(0), -1))


class Lambda(nn.Module):
    """Option A: a shortcut by sub-sampling and zero padding."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.extra = stride, (outputs - inputs) // 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        if self.extra:
            shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))
        return torch.relu_(shortcut + self.conv2(torch.relu(self.conv1(x))))


BLOCKS = [Basic, PreActivation, Lambda]


def small(block: type[nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return randomise_norms(Small(block), seed).eval().double()


def images(batch: int = 3, size: int = 8) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("size", [7, 12])
def test_gates_of_one_give_the_model(block: type[nn.Module], batch: int, size: int) -> None:
    model, x = small(block), images(batch, size)
    net = unroll(model)
    assert len(net) == 4
    assert torch.equal(net(x), model(x))
    assert torch.allclose(net(x, torch.ones(4)), model(x), rtol=0, atol=1e-12)


def literal(model: nn.Module, x: torch.Tensor, gates: list[float]) -> torch.Tensor:
    """The gated basic network, written out by hand."""
    y = model.stem(x)
    for block, gate in zip(model.blocks, gates, strict=True):
        shortcut = y.clone() if block.downsample is None else block.downsample(y)
        branch = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(y)))))
        y = F.relu(shortcut + gate * branch)
    y = F.relu(model.norm(y))
    return model.fc(y.mean((2, 3)))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(gates=st.lists(st.lists(st.sampled_from([0.0, 1.0, 0.5, -1.0]), min_size=4, max_size=4), min_size=1, max_size=7))
def test_gated_rows_equal_the_literal_network(gates: list[list[float]]) -> None:
    model, x = small(Basic), images(2)
    with torch.no_grad():
        rows = unroll(model)(x, gates)
        for row, gate in zip(rows, gates, strict=True):
            assert torch.allclose(row, literal(model, x, gate), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", BLOCKS)
def test_all_subsets_share_their_prefixes(block: type[nn.Module]) -> None:
    model, x = small(block), images(2)
    net, count = unroll(model), Evaluations()
    subsets = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
    with torch.no_grad():
        shared = net(x, subsets, count=count)
        separate = torch.stack([net(x, subset) for subset in subsets])
    assert torch.equal(shared, separate)
    assert count.stems == 1
    assert count.branches == 2**4 - 1
    assert count.joins == 2**5 - 2


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_differentiable_in_input_gates_and_parameters(block: type[nn.Module]) -> None:
    model, x = small(block), images(2, 6).requires_grad_()
    net = unroll(model)
    gates = torch.tensor([1.0, 0.3, 0.7, 1.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value, gate: net(value, gate), (x, gates), atol=1e-4, rtol=1e-3)
    ours = torch.autograd.grad(net(x).square().sum(), list(model.parameters()))
    theirs = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(ours, theirs, strict=True))


def test_rows_of_gates_that_require_gradients() -> None:
    net, x = unroll(small(Basic)), images(2)
    gates = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    rows = net(x, gates)
    (gradient,) = torch.autograd.grad(rows[1].sum(), gates)
    assert gradient[1].abs().min() > 0
    assert gradient[0].abs().max() == 0
    assert torch.allclose(rows, torch.stack([net(x, gate.tolist()) for gate in gates]), atol=1e-12)


@pytest.mark.parametrize("block", BLOCKS)
def test_entering_at_each_block(block: type[nn.Module]) -> None:
    model, x = small(block), images()
    net = unroll(model)
    for index in range(4):
        state = net.prefix(x, index)
        assert torch.equal(net.run(state).value, model(x))


def test_a_state_holds_what_later_operations_read() -> None:
    class SizeFromTheInput(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            batch = x.size(0)
            x = self.stem(x)
            for block in self.blocks:
                x = block(x)
            return self.fc(x.mean((2, 3)).view(batch, -1))

    model, x = SizeFromTheInput(Basic).eval(), images().float()
    net = unroll(model)
    assert torch.equal(net.run(net.prefix(x, 2)).value, model(x))


def test_train_mode_is_the_models_own() -> None:
    model, x = small(Basic).train(), images(6)
    twin = copy.deepcopy(model)
    net = unroll(model)
    assert torch.equal(net(x), twin(x))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), twin.buffers(), strict=True))


def test_changing_the_mode_after_unrolling() -> None:
    class Mode(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                x = x * 2
            return super().forward(x)

    model, x = Mode(Lambda).double().train(), images()
    net = unroll(model)
    model.eval()
    assert torch.equal(net(x), model(x))
    model.train()
    assert torch.equal(net(x), model(x))


@pytest.mark.parametrize("block", BLOCKS)
def test_captured_values_survive_in_place_operations(block: type[nn.Module]) -> None:
    net, x = unroll(small(block)), images()
    with torch.no_grad():
        state = net.stem(x)
        while state.index < len(net):
            entry, shortcut, branch = state.value.clone(), net.shortcut(state), net.branch(state)
            kept = shortcut.clone(), branch.clone()
            following = net.join(state, shortcut + branch)
            net.join(state, shortcut)
            assert torch.equal(state.value, entry)
            assert torch.equal(shortcut, kept[0])
            assert torch.equal(branch, kept[1])
            state = following


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_fast_network_gives_the_same_numbers(block: type[nn.Module], dtype: torch.dtype, tolerance: float) -> None:
    model, x = small(block).to(dtype), images(5).to(dtype)
    before = copy.deepcopy(model.state_dict())
    net = unroll(model)
    fast = for_inference(net)
    gates = torch.cat([torch.ones(1, 4), 1 - torch.eye(4), torch.full((1, 4), 0.5)])
    with torch.inference_mode():
        plain, quick = net(x, gates), fast(x, gates)
    assert (plain - quick).abs().max() <= tolerance * plain.abs().max()
    assert [block.name for block in fast] == [block.name for block in net]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_fast_network_refuses_training_mode() -> None:
    with pytest.raises(UnrollError, match="eval"):
        for_inference(unroll(small(Basic).train()))


def test_blocks_are_named_by_index_and_name() -> None:
    net = unroll(small(Basic))
    assert [block.name for block in net] == ["blocks.0", "blocks.1", "blocks.2", "blocks.3"]
    assert net[-1] is net[3]
    assert net["blocks.1"].index == 1
    assert net[1].shortcut == "projection"
    assert net[0].shortcut == "identity"
    assert net[0].post == "relu"
    assert net.indices(["blocks.2", 0, -1]) == [2, 0, 3]
    assert net.indices(np.array([2, 0])) == [2, 0]
    assert net.indices(np.int64(1)) == net.indices(1) == net.indices("blocks.1") == [1]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (4, "from -4 to 3"),
        (-5, "from -4 to 3"),
        ("blocks.9", "choose one of blocks.0"),
        ([1, -3], "expected each block once"),
    ],
)
def test_wrong_references(reference: object, message: str) -> None:
    net = unroll(small(Basic))
    with pytest.raises(BlockIndexError, match=message):
        net.indices(reference)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3,), (2, 5), (0, 4), (1, 1, 4)])
def test_wrong_gates(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one per block"):
        unroll(small(Basic))(images(), torch.ones(shape))


@pytest.mark.parametrize("gates", [{"layer1.0": 0.0}, "all", [1.0, None], torch.ones(3, dtype=torch.complex64)])
def test_gates_that_are_not_real_numbers(gates: object) -> None:
    net = unroll(cifar_resnet(20, in_channels=1).eval())
    with pytest.raises(TypeError, match="expected gates to be"):
        net(torch.zeros(1, 1, 8, 8), gates)  # type: ignore[arg-type]


def test_prints_as_a_table() -> None:
    net = unroll(small(Basic), images())
    assert "blocks.1  projection" in repr(net)
    assert "4x8x8" in repr(net)
    assert net._repr_html_().count("<tr>") == 5


def test_pickles_and_copies() -> None:
    net, x = unroll(small(Basic)), images()
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))
    assert torch.equal(copy.deepcopy(net)(x), net(x))


def test_a_block_whose_branch_later_operations_need_says_so() -> None:
    class Leaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 4)
            self.c = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.a(x)
            x = x + self.b(hidden)
            return x + self.c(x) / hidden.shape[1]

    model, x = Leaks().eval(), torch.randn(2, 4)
    net = unroll(model)
    assert torch.equal(net(x), model(x))
    assert [block.droppable for block in net] == [False, True]
    assert "later operations" in net[0].reason
    assert "no: later operations" in repr(net)
    assert torch.allclose(net(x, [0.0, 1.0]), x + model.c(x) / 6)


def test_volumes_go_channels_last_too() -> None:
    class Video(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Conv3d(2, 2, 3, padding=1), nn.BatchNorm3d(2), nn.Conv2d(2, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(x + self.norm(self.a(x))).mean(2)
            return x + self.b(x)

    model = randomise_norms(Video().eval().double())
    x = torch.randn(2, 2, 4, 5, 6, dtype=torch.float64)
    net = unroll(model)
    fast = for_inference(net)
    gates = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.5, 0.0]])
    assert (fast(x, gates) - net(x, gates)).abs().max() < 1e-12
    weights = fast.model.a.weight, fast.model.b.weight
    assert weights[0].is_contiguous(memory_format=torch.channels_last_3d)
    assert weights[1].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("example", [None, torch.ones(2, 4)])
def test_the_logits_of_a_dict_are_the_output(example: torch.Tensor | None) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            x = x + self.a(x)
            return {"features": x, "logits": self.b(x)}

    model, x = Both(), torch.randn(3, 4)
    assert torch.equal(unroll(model, example)(x), model(x)["logits"])


class Fields(NamedTuple):
    hidden: torch.Tensor
    logits: torch.Tensor


@dataclass
class Answer:
    logits: torch.Tensor
    loss: float | None = None


class Returns(nn.Module):
    def __init__(self, kind: type) -> None:
        super().__init__()
        self.a, self.b, self.kind = nn.Linear(4, 4), nn.Linear(4, 4), kind

    def forward(self, x: torch.Tensor) -> Any:
        x = x + self.a(x)
        return self.kind(**({"hidden": x} if self.kind is Fields else {}), logits=x + self.b(x))


@pytest.mark.parametrize("example", [None, torch.ones(2, 4)])
@pytest.mark.parametrize("kind", [Fields, Answer])
def test_named_tuples_and_dataclasses_are_outputs(kind: type, example: torch.Tensor | None) -> None:
    model, x = Returns(kind).eval(), torch.randn(3, 4)
    net = unroll(model, example)
    assert [block.name for block in net] == ["a", "b"]
    assert torch.equal(net(x), model(x).logits)
    smaller = drop_blocks(net, [1])
    for one in (smaller, pickle.loads(pickle.dumps(smaller))):
        assert type(one(x)) is kind
        assert torch.equal(one(x).logits, x + model.a(x))
    assert torch.equal(net(x, [1.0, 0.0]), x + model.a(x))


class Nested(NamedTuple):
    fields: Fields
    others: list[Any]


class ReturnsNested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> Nested:
        x = x + self.a(x)
        y = x + self.b(x)
        return Nested(Fields(x, y), [y, {"again": Fields(y, x)}])


@pytest.mark.parametrize("example", [None, torch.ones(2, 4)])
def test_named_tuples_in_outputs_keep_their_class_after_a_drop(example: torch.Tensor | None) -> None:
    model, x = ReturnsNested().eval(), torch.randn(3, 4)
    smaller = pickle.loads(pickle.dumps(drop_blocks(model, [1], example_input=example)))
    returned, hidden = smaller(x), x + model.a(x)
    assert (type(returned), type(returned.fields), type(returned.others[1]["again"])) == (Nested, Fields, Fields)
    for value in (returned.fields.hidden, returned.fields.logits, returned.others[0]):
        assert torch.equal(value, hidden)


class Conditioned(nn.Module):
    """A second input (a time step, a mask) enters every branch; `gates` is the literal network at gates."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.time = nn.Linear(4, 4), nn.Linear(3, 4)
        self.branches = nn.ModuleList(nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]) for _ in range(3))
        self.gates = [1.0, 1.0, 1.0]

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        x, time = self.stem(x), torch.tanh(self.time(time))
        for gate, (branch, film) in zip(self.gates, self.branches, strict=True):
            x = x + gate * torch.relu(branch(x) * film(time) + time[:, :1])
        return x


@pytest.mark.parametrize("recorded", [False, True])
def test_other_inputs_are_taken_as_given(recorded: bool) -> None:
    model = Conditioned().double()
    x, time = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    net = UnrolledNetwork(model, lambda: record(model, (x[:2], time[:2])) if recorded else trace(model))
    assert [block.name for block in net] == ["branches.0.0", "branches.1.0", "branches.2.0"]
    assert [block.branch_parameters for block in net] == [40, 40, 40]
    assert "along x" in repr(net)
    for gates in ([1.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.3, 0.0, -2.0]):
        found = net({"x": x, "time": time}, gates)
        model.gates = gates
        expected = model(x, time)
        model.gates = [1.0, 1.0, 1.0]
        assert (found - expected).abs().max() < 1e-12
        assert torch.equal(net.run(net.prefix((x, time), 1, gates), gates).value, found)
    with lesioned(net, [1]):
        expected = model(x, time)
    assert torch.equal(drop_blocks(net, [1])(x, time), expected)
    assert torch.equal(net((x, time), [1.0, 0.0, 1.0]), expected)


@pytest.mark.parametrize("gradients", [False, True])
def test_a_step_at_a_gate_is_shortcut_plus_gate_times_branch(gradients: bool) -> None:
    """Without gradients the sum may be written over the branch's own memory."""
    net, x, gate = unroll(small(Basic)), images(), 0.3
    with torch.set_grad_enabled(gradients):
        state = net.stem(x)
        for _ in net:
            expected = net.join(state, net.shortcut(state) + gate * net.branch(state))
            state = net.step(state, gate)
            assert torch.allclose(state.value, expected.value, rtol=1e-12, atol=1e-12)
        assert torch.allclose(state.value, net(x, [gate] * len(net)), rtol=1e-12, atol=1e-12)


class Switched(nn.Module):
    """Blocks whose forward takes more than the images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(3))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, flag: bool = True) -> torch.Tensor:
        x = self.stem(x)
        if mask is not None:
            x = x * mask
        for block in self.blocks:
            x = torch.relu(x + block(x))
        logits = self.head(x.mean((2, 3)))
        return logits if flag else -logits


def test_arguments_that_the_program_was_not_made_with_are_refused() -> None:
    """A traced program holds for the defaults only: another value was silently ignored."""
    torch.manual_seed(0)
    model, x, mask = Switched().eval(), torch.randn(2, 3, 5, 5), torch.rand(2, 1, 5, 5)
    net = unroll(model)
    for same in (x, (x, None), (x, None, True), {"x": x, "flag": True}):
        assert torch.equal(net(same), model(x))
    for other in ({"x": x, "flag": False}, (x, None, False), (x, mask), {"x": x, "mask": mask}):
        with pytest.raises(UnrollError, match="unroll the model again with an example_input"):
            net(other)


def test_a_required_argument_that_the_forward_does_not_read_may_be_any_tensor() -> None:
    class Ignores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return x + self.a(x) if mask is not None else x

    model, x = Ignores(), torch.randn(3, 4)
    net = unroll(model)
    assert torch.equal(net((x, torch.ones(1))), model(x, torch.ones(1)))
    with pytest.raises(UnrollError, match=r"expected a tensor as mask, .*got NoneType"):
        net((x, None))


@pytest.mark.slow
@pytest.mark.parametrize("as_tuple", [True, False])
def test_examples_with_optional_arguments_are_recorded(as_tuple: bool) -> None:
    torch.manual_seed(0)
    model, x, mask = Switched().eval(), torch.randn(2, 3, 5, 5), torch.rand(2, 1, 5, 5)
    masked = unroll(model, (x, mask) if as_tuple else {"x": x, "mask": mask})
    assert torch.equal(masked((x, mask)), model(x, mask))
    turned = unroll(model, (x, None, False) if as_tuple else {"x": x, "flag": False})
    assert torch.equal(turned((x, None, False)), model(x, None, False))
    with pytest.raises(UnrollError, match="expected flag=False"):
        turned({"x": x, "flag": True})


class Closed(nn.Module):
    """Cannot be traced, and writes over its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(torch.relu_(x) if float(x.sum()) < 1e9 else x)
        return out


class Around(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


@pytest.mark.filterwarnings("ignore:.*could not be traced")
def test_opaque_modules_that_write_over_their_input_are_refused() -> None:
    """The shortcut reads the input too, before or after by the gate."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *(Around(Closed()) for _ in range(2))).eval()
    with torch.no_grad(), pytest.raises(UnrollError, match="leave its input unchanged"):
        unroll(model)(torch.randn(2, 3, 5, 5))


def test_branches_may_be_scripted() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()).eval()
    branches = [torch.jit.script(layers), torch.jit.script(layers)]
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *map(Around, branches)).eval()
    x = torch.randn(2, 3, 5, 5)
    for example in (None, x):
        net = unroll(model, example)
        assert len(net) == 2
        assert torch.equal(net(x), model(x))
        torch.testing.assert_close(for_inference(net)(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["", " ", "layer", "#", "#1"])
def test_a_part_of_a_name_is_not_a_name(name: str) -> None:
    """An empty one was once that of every block that runs once."""
    net = unroll(cifar_resnet(8, in_channels=1, widths=(2, 2, 2)).eval())
    with pytest.raises(BlockIndexError):
        net.indices(name)
    with pytest.raises(BlockIndexError):
        net.indices([0, name])
