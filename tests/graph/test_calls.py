"""Ways to call a model, and what modules take and return: lists of images, wrappers, objects, tables of positions."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import fx, nn
from torch.optim.swa_utils import AveragedModel

from resnet_paths.graph.compile_node import step_of
from resnet_paths.graph.errors import TraceError, UnrollError
from resnet_paths.graph.inputs import bind
from resnet_paths.graph.program import Program
from resnet_paths.graph.recording import record
from resnet_paths.graph.tracing import trace
from resnet_paths.models import cifar_resnet
from resnet_paths.network import UnrolledNetwork, unroll


class Block(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.a = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.a(x))


def blocks(number: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[Block() for _ in range(number)]).double().eval()


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# wrappers


class AnyArguments(nn.Module):
    """Passes on whatever it is given, as exponential averages and adapters do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: object, **kwargs: object) -> object:
        return self.inner(*args, **kwargs)


class KeywordOnly(AnyArguments):
    def forward(self, *, x: torch.Tensor) -> object:
        return self.inner(x)


@pytest.mark.parametrize("wrapper", [AnyArguments, AveragedModel, nn.DataParallel])
@pytest.mark.parametrize("example", [None, X, (X,)])
def test_wrappers_of_any_arguments(wrapper: Callable[[nn.Module], nn.Module], example: object) -> None:
    model = wrapper(blocks()).eval()
    net = unroll(model, example)
    assert len(net) == 3
    x = X.to(next(model.parameters()).device)  # DataParallel moves the model to the GPU where there is one
    assert torch.equal(net(x), model(X))


def test_wrappers_by_keyword() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = blocks()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.blocks(x)

    for model in (AnyArguments(Named()).eval(), KeywordOnly(blocks()).eval()):
        net = UnrolledNetwork(model, lambda model=model: record(model, {"x": X}))
        assert len(net) == 3
        assert torch.equal(net({"x": X}), model(x=X))
    assert len(unroll(KeywordOnly(blocks()).eval())) == 3
    with pytest.raises(TraceError, match=r"KeywordOnly.forward takes, got: too many positional arguments"):
        record(KeywordOnly(blocks()), X)


# lists and nested inputs


class Stacks(nn.Module):
    """Takes a list of images, as torchvision's detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = blocks()

    def forward(self, images: list[torch.Tensor], extra: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        x = torch.stack(images)
        return self.blocks(x if extra is None else x + extra["more"])


@pytest.mark.parametrize("as_tuple", [True, False])
def test_a_list_is_one_argument(as_tuple: bool) -> None:
    images, others = list(X), list(X + 1)
    model = Stacks()
    wrap = (lambda x: (x,)) if as_tuple else (lambda x: x)
    for net in (unroll(model, wrap(images)), UnrolledNetwork(model, lambda: record(model, wrap(images)))):
        assert len(net) == 3
        for x in (images, others):
            assert torch.equal(net(wrap(x)), model(x))
    for wrong in (images[:2], [*images, X[0]]):
        with pytest.raises(UnrollError, match="expected 3 tensors in images, as in the example, got"):
            net(wrap(wrong))


def test_lists_and_dicts_together() -> None:
    model, more = Stacks(), {"more": X * 2}
    net = UnrolledNetwork(model, lambda: record(model, (list(X), more)))
    assert torch.equal(net((list(X + 1), {"more": X})), model(list(X + 1), {"more": X}))


def test_binding_names_what_is_missing() -> None:
    graph = fx.Graph()
    nodes = {name: graph.placeholder(name.replace(".", "_")) for name in ("images.0", "images.1", "mask")}
    images = [X[0], X[1]]
    values = bind(nodes, (images, X))
    assert all(values[node] is item for node, item in zip(nodes.values(), (*images, X), strict=True))
    with pytest.raises(UnrollError, match=r"expected the inputs \['images', 'mask'\]"):
        bind(nodes, {"images": [X[0], X[1]]})


# objects that hold tensors


@dataclass
class Images:
    tensors: torch.Tensor
    sizes: list[tuple[int, ...]]


class Packs(nn.Module):
    """Cannot be followed; gives an object."""

    def forward(self, images: list[torch.Tensor]) -> Images:
        batch = images[0].new_zeros(len(images), 4)
        for row, image in zip(batch, images, strict=True):
            row[: len(image)].copy_(image)
        return Images(batch * 2, [tuple(image.shape) for image in images])


class Finds(nn.Module):
    """Finds as many things as there are; reads the object."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(4, 1)

    def forward(self, images: Images, x: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.score(x + images.tensors).flatten()
        kept = torch.nonzero(scores > scores.mean()).flatten()
        return {"scores": scores[kept], "number": scores.new_tensor(kept.numel())}


class Detector(nn.Module):
    """A list of images in, found things out; the last step a method."""

    def __init__(self) -> None:
        super().__init__()
        self.pack, self.blocks, self.find = Packs(), blocks(), Finds().double()

    def finish(self, found: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        order = torch.arange(found["scores"].shape[0]).flip(0)
        return [{"scores": found["scores"][order], "number": found["number"]}]

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        packed = self.pack(images)
        return self.finish(self.find(packed, self.blocks(packed.tensors)))


@pytest.mark.parametrize("seed", range(3))
def test_a_detector_is_recorded_with_what_depends_on_values_closed(seed: int) -> None:
    images = list(torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    model = Detector().eval()
    program = record(model, (images,))
    assert set(program.opaque) >= {"pack"}
    assert set(program.opaque) <= {"pack", "find", ":finish"}
    assert sum(node.op == "call_module" and str(node.target).startswith("blocks") for node in program.graph.nodes) == 3
    answers = []
    for shift in (0, 1, 2):
        x = [image.roll(shift) for image in images]
        expected = model(x)[0]["scores"]
        try:
            answers.append(torch.equal(evaluated(program, (x,)), expected))
        except UnrollError:
            answers.append(len(expected) != len(model(images)[0]["scores"]))
    assert all(answers)


def evaluated(program: Program, x: object) -> torch.Tensor:
    """The main output of a program, operation by operation."""
    values = bind(program.placeholders, x)
    for node in program.graph.nodes:
        if node.op not in ("placeholder", "output"):
            values[node] = step_of(node, program, frozenset(program.graph.nodes))(values)
    result: torch.Tensor = values[program.output]
    return result


# modules that give a table of positions


class Rope(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linspace(0, 1, x.shape[-1], dtype=x.dtype)


class SizedByBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.arange(4, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.steps[: x.shape[-1]] / 7).cos()


class Positioned(nn.Module):
    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table, self.f = table, nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positions = self.table(x)
        for layer in self.f:
            x = x + torch.tanh(layer(x)) * positions
        return x


@pytest.mark.parametrize("table", [Rope, SizedByBuffer])
@pytest.mark.parametrize("follow", [trace, lambda model: record(model, X)])
def test_a_module_that_asks_only_for_the_shape_passes_no_data(
    table: type[nn.Module], follow: Callable[[nn.Module], Program]
) -> None:
    model = Positioned(table()).double().eval()
    net = UnrolledNetwork(model, lambda: follow(model))
    assert len(net) == 3
    x = torch.randn(5, 4, dtype=torch.float64)
    assert torch.equal(net(x), model(x))


class Padding(nn.Module):
    """Passes on data, and asks for its shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, ::2], x.new_zeros(x.shape[0], x.shape[1] // 2)], 1)


@pytest.mark.parametrize("follow", [trace, lambda model: record(model, X)])
def test_any_other_module_without_parameters_is_one_operation(follow: Callable[[nn.Module], Program]) -> None:
    model = nn.Sequential(Block(), Padding(), Block()).double()
    program = follow(model)
    assert [node.target for node in program.graph.nodes if node.op == "call_module"] == ["0.a", "1", "2.a"]


# modules that are not the model's


class Functions(nn.Module):
    """Uses modules as functions, as many write them, of a class that the model has and of others."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.relu, self.f, self.hidden = nn.ReLU(), nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), [last]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.f:
            x = x + nn.ReLU()(nn.Sequential(nn.Softplus(), nn.Flatten())(layer(x)))
        return nn.Softmax(dim=1)(self.hidden[0](x))


@pytest.mark.parametrize("follow", [trace, lambda model: record(model, X)])
def test_modules_without_weights_may_be_functions(follow: Callable[[nn.Module], Program]) -> None:
    model = Functions(nn.Sigmoid()).double().eval()
    net = UnrolledNetwork(model, lambda: follow(model))
    assert len(net) == 3
    x = torch.randn(5, 4, dtype=torch.float64)
    assert torch.equal(net(x), model(x))


@pytest.mark.parametrize("hidden", [nn.Linear(4, 4), nn.LayerNorm(4), nn.BatchNorm1d(4, affine=False)])
def test_modules_with_weights_have_to_be_the_models(hidden: nn.Module) -> None:
    with pytest.raises(TraceError, match=f"{type(hidden).__name__} that is not one of its modules"):
        trace(Functions(hidden).eval())


# lists that functions change


def clip(sizes: list[int], x: torch.Tensor) -> int:
    for i in range(len(sizes)):
        sizes[i] = min(sizes[i], x.shape[-1])
    return sizes[0]


fx.wrap("clip")


class Clipped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f, self.sizes = nn.Linear(4, 4), [7, 7]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.f(x) * clip(self.sizes.copy(), x)


@pytest.mark.parametrize("example", [None, X])
def test_a_function_may_change_the_list_that_it_is_given(example: torch.Tensor | None) -> None:
    model = Clipped().double()
    net = unroll(model, example)
    for _ in range(2):
        assert torch.equal(net(X), model(X))
    assert model.sizes == [7, 7]


# values written over through views


def written(x: torch.Tensor, way: str) -> torch.Tensor:
    if way == "view":
        x.view(-1)[:2].mul_(0)
    elif way == "slice":
        x[:, :2] += 1
    elif way == "item":
        x[:, 0] = 5.0
    elif way == "narrow":
        x.narrow(1, 1, 2).neg_()
    elif way == "view read later":
        other = x.view_as(x)
        x *= 2
        return x + other
    elif way == "identity":
        nn.Identity()(x).add_(1)
    return x


class WritesView(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.a, self.b, self.way = nn.Linear(4, 4), nn.Linear(4, 4), way

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(written(self.a(x), self.way))


@pytest.mark.filterwarnings("ignore:.*could not be traced")
@pytest.mark.parametrize("way", ["view", "slice", "item", "narrow", "view read later"])
def test_what_is_written_through_a_view_is_right_or_closed_when_traced(way: str) -> None:
    torch.manual_seed(0)

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = WritesView(way)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.inner(x)

    model = nn.Sequential(Around(), Around()).double()
    for net in (unroll(model), UnrolledNetwork(model, lambda: record(model, X))):
        assert len(net) == 2
        x = torch.randn(5, 4, dtype=torch.float64)
        assert torch.equal(net(x), model(x))


def test_parts_of_one_value_may_be_written_over_apart() -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(4, 12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = self.qkv(x).reshape(x.shape[0], 3, 4).transpose(0, 1)
            q, k, v = parts[0], parts[1], parts[2]
            q *= 0.5
            return x + q * k + v

    model = nn.Sequential(Scores()).double()
    program = trace(model)
    assert not program.opaque
    net = UnrolledNetwork(model, lambda: program)
    assert (net(X) - model(X)).abs().max() <= 1e-12


def test_modules_are_found_by_their_names_as_the_model_now_has_them() -> None:
    model = cifar_resnet(8, seed=0).eval()
    program = trace(model)
    model.layer1[0].bn1 = nn.Identity()
    for path, module in model.named_modules():
        assert program.module(path) is module is model.get_submodule(path)
    with pytest.raises(AttributeError, match="nothing"):
        program.module("layer1.nothing")
