"""Models in the forms found in practice: wrapped, with shared modules, cut to their features."""

import itertools
import pickle
from collections.abc import Callable

import pytest
import torch
from timm.utils import ModelEma, ModelEmaV2, ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.feature_extraction import create_feature_extractor

from resnet_paths import drop_blocks, unroll
from resnet_paths.graph.recording import record
from resnet_paths.network import NoBlocksError, UnrolledNetwork
from resnet_paths.surgery import lesioned


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(torch.relu(self.a(x)))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[Block() for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


class Adapted(nn.Module):
    """A linear layer with a low-rank adapter beside it, as PEFT builds it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(layer.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, layer.out_features, bias=False)})
        self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(0.1)})
        self.scaling, self.active_adapters = {"default": 0.5}, ["default"]

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        result = self.base_layer(x, *args, **kwargs)
        for name in self.active_adapters:
            x = x.to(self.lora_A[name].weight.dtype)
            result = result + self.lora_B[name](self.lora_A[name](self.lora_dropout[name](x))) * self.scaling[name]
        return result


class Tuner(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: object, **kwargs: object) -> torch.Tensor:
        return self.model.forward(*args, **kwargs)


class Peft(nn.Module):
    """Passes any arguments on, and attributes that it lacks, as a ``PeftModel`` does."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        for block in model.blocks:
            block.a = Adapted(block.a)
        self.base_model, self.special = Tuner(model), {"adapter_names"}

    def __getattr__(self, name: str) -> object:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base_model.model, name)

    def forward(self, *args: object, **kwargs: object) -> torch.Tensor:
        return self.base_model(*args, **{k: v for k, v in kwargs.items() if k not in self.special})


WRAPPERS = {
    "AveragedModel": AveragedModel,
    "ModelEmaV2": ModelEmaV2,
    "ModelEmaV3": ModelEmaV3,
    "DataParallel": nn.DataParallel,
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "PEFT": Peft,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("kind", ["none", "tensor", "dict"])
def test_blocks_are_found_lesioned_and_dropped_through_a_wrapper(wrapper: str, kind: str) -> None:
    torch.manual_seed(0)
    model, x = WRAPPERS[wrapper](Model().double()).double().eval(), torch.randn(3, 4, dtype=torch.float64)
    x = x.to(next(model.parameters()).device)  # DataParallel moves a model to the GPU where there is one
    given = {"x": x} if kind == "dict" else x
    example = None if kind == "none" else given
    net = unroll(model, example)
    assert len(net) == 3
    expected = net(given, [1.0, 0.0, 1.0])
    with lesioned(model, [1], example_input=example):
        assert torch.equal(model(x), expected)
    smaller = drop_blocks(model, [1], example_input=example)
    assert torch.equal(smaller(x), expected)
    left = [name for name, _ in smaller.named_parameters() if "blocks.1." in name]
    assert not left
    assert torch.equal(model(x), net(given))


def test_anything_but_a_module_is_refused_in_one_line() -> None:
    """timm's first average keeps the model beside itself."""
    average = ModelEma(Model())
    with pytest.raises(TypeError, match=r"expected .*Module, got (a )?ModelEma") as caught:
        unroll(average)
    assert "\n" not in str(caught.value)
    assert len(unroll(average.ema)) == 3


@pytest.mark.parametrize("kind", ["linear", "convolution"])
@pytest.mark.parametrize(("rank", "between", "blocks"), [(2, nn.Dropout, 0), (2, nn.ReLU, 1), (4, nn.Dropout, 1)])
def test_a_low_rank_adapter_is_a_part_of_its_layer_and_no_block(
    kind: str, rank: int, between: type[nn.Module], blocks: int
) -> None:
    """Not narrower, or with an activation between, it is a branch beside a projection."""

    def layer(width: int, out: int) -> nn.Module:
        return nn.Linear(width, out) if kind == "linear" else nn.Conv2d(width, out, 1)

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.between = layer(4, 4), layer(4, rank), layer(rank, 4), between()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) + 2 * self.c(self.between(self.b(x)))

    x = torch.randn(2, 4) if kind == "linear" else torch.randn(2, 4, 3, 3)
    if blocks:
        assert len(unroll(Beside(), x)) == blocks
    else:
        with pytest.raises(NoBlocksError, match="a low-rank adapter: a linear map through fewer channels"):
            unroll(Beside(), x)


class BareAdapted(nn.Module):
    """A layer and its adapter as bare weights, as loralib has them."""

    def __init__(self, rank: int, module: bool) -> None:
        super().__init__()
        self.layer, self.module, self.dropout = nn.Linear(4, 4), module, nn.Dropout(0.1)
        self.A, self.B = nn.Parameter(torch.randn(rank, 4)), nn.Parameter(torch.randn(4, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.layer(x) if self.module else nn.functional.linear(x, self.layer.weight, self.layer.bias)
        result += (self.dropout(x) @ self.A.transpose(0, 1) @ self.B.T) * 0.5
        return result


@pytest.mark.parametrize("module", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(("rank", "blocks"), [(2, 1), (4, 2)])
def test_an_adapter_of_bare_weights_is_no_block(rank: int, blocks: int, module: bool, recorded: bool) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.adapted, self.out = BareAdapted(rank, module), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.out(torch.relu(self.adapted(x)))

    model, x = Model().eval(), torch.randn(3, 4)
    net = UnrolledNetwork(model, lambda: record(model, x)) if recorded else unroll(model)
    assert len(net) == blocks


class Two(nn.Module):
    """Two blocks in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.m = Block(), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(x)
        return x + self.m(x).relu()


class Repeated(nn.Module):
    """The same modules again and again, as in ALBERT; `pairs`: on two inputs, as in a Siamese network."""

    def __init__(self, pairs: bool = False) -> None:
        super().__init__()
        self.layers, self.head, self.pairs = nn.Sequential(Two(), Block()), nn.Linear(4, 3), pairs

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        if y is not None:
            return self.head(self.layers(x) - self.layers(y))
        return self.head(self.layers(self.layers(x)))


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("name", "gone"), [("layers.0", 20), ("layers.0.inner", 40), ("layers.1", 40)])
def test_all_calls_of_a_shared_module_drop_with_its_parameters(pairs: bool, name: str, gone: int) -> None:
    torch.manual_seed(0)
    model, x = Repeated().double().eval(), torch.randn(3, 4, dtype=torch.float64)
    inputs = (x, x.flip(0)) if pairs else (x,)
    net = unroll(model, inputs)
    assert len(net) == 6
    gates = torch.tensor([float(block.name.partition("#")[0] != name) for block in net])
    assert int(gates.sum()) == 4
    smaller = drop_blocks(net, [name])  # the plain name means all of its calls
    expected = net(inputs, gates)
    assert torch.equal(smaller(*inputs), expected)
    with lesioned(net, [name]):
        assert torch.equal(model(*inputs), expected)
    assert sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in smaller.parameters()) == gone


class Around(nn.Module):
    """A block around a part that other blocks may hold too."""

    def __init__(self, part: nn.Module, own: bool = True) -> None:
        super().__init__()
        self.part, self.own = part, nn.Linear(4, 4) if own else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.own(self.part(x)))


class WithWeight(nn.Module):
    """A block that reads a weight which is held elsewhere too."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight, self.bias = weight, nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(x @ self.weight + self.bias)


class TwiceInOne(nn.Module):
    """Two blocks of one forward share a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.one(torch.tanh(x))
        x = x + self.two(torch.tanh(x))
        return x + self.one(torch.relu(x))


class ReadByParent(nn.Module):
    """The model calls a part of its block, and ties its head to another one's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (
            Around(nn.Linear(4, 4)),
            Around(nn.Linear(4, 4), own=False),
            nn.Linear(4, 4),
        )
        self.head.weight = self.second.part.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(self.first.part(x))))


class Borrows(nn.Module):
    """Its blocks read the parameters of layers that are never called."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + torch.tanh(nn.functional.linear(x, layer.weight, layer.bias))
        return x


class PartOfAPart(nn.Module):
    """One block holds a module, another the parts of it."""

    def __init__(self) -> None:
        super().__init__()
        whole = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))
        self.first, self.second = Around(whole), Around(nn.Sequential(whole[0], whole[2]), own=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def _sharing() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(Around(layer), Around(nn.Linear(4, 4), own=False), Around(layer, own=False))


def _sharing_weight() -> nn.Module:
    weight = nn.Parameter(torch.randn(4, 4))
    return nn.Sequential(WithWeight(weight), WithWeight(weight))


@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize(
    ("build", "alone"),
    [
        (_sharing, [20, 20, 0]),
        (_sharing_weight, [4, 4]),
        (TwiceInOne, [0, 20, 0]),
        (ReadByParent, [20, 4]),
        (Borrows, [20, 20]),
        (PartOfAPart, [32, 0]),  # the second layers: the norm goes too
    ],
)
def test_what_two_blocks_share_goes_with_the_last_of_them(
    build: Callable[[], nn.Module], alone: list[int], example: bool
) -> None:
    torch.manual_seed(0)
    model, x = build().double().eval(), torch.randn(3, 4, dtype=torch.float64)
    net = unroll(model, x[:2] if example else None)
    assert [block.branch_parameters for block in net] == alone
    numbers = range(len(net))
    for dropped in [subset for k in numbers for subset in itertools.combinations(numbers, k + 1)]:
        expected = net(x, [float(index not in dropped) for index in numbers])
        smaller = drop_blocks(net, dropped)
        assert torch.equal(smaller(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(smaller))(x), expected)
        gone = _size(model) - _size(smaller)
        assert gone == alone[dropped[0]] if len(dropped) == 1 else gone >= sum(alone[index] for index in dropped)
        with lesioned(net, dropped):
            assert torch.equal(model(x), expected)
    assert _size(drop_blocks(net, list(numbers))) == (40 if build is ReadByParent else 0)


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# models that return several feature maps, and buffers made in the shape of a later value (s12, s14)


class Stages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Sequential(Block(), Block()), nn.Sequential(Block()), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.two(self.one(x)))


@pytest.mark.parametrize(
    "extract",
    [
        lambda model: create_feature_extractor(model, {"one": "a", "two": "b"}),
        lambda model: create_feature_extractor(model, {"two": "b", "one": "a"}),
        lambda model: IntermediateLayerGetter(model, {"one": "a", "two": "b"}),
    ],
)
def test_feature_extractors_have_all_their_blocks(extract: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = extract(Stages().double().eval()), torch.randn(3, 4, dtype=torch.float64)
    net = unroll(model, x)
    assert len(net) == 3
    assert torch.equal(net(x), model(x)["b"])
    smaller = drop_blocks(net, [0])
    assert torch.equal(smaller(x)["b"], net(x, [0.0, 1.0, 1.0]))
    first = unroll(model, x, output="a")
    assert torch.equal(smaller(x)["a"], first(x, [0.0, 1.0]))


MADE: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "new_zeros": lambda x, y: y + x.new_zeros(x.shape),
    "new_full, added into": lambda x, y: y.new_full(y.shape, 0.5).add_(y),
    "scatter_add_": lambda x, y: y.new_zeros(y.shape).scatter_add_(0, torch.zeros_like(y, dtype=torch.long), y),
    "index_add_": lambda x, y: y.new_zeros(len(y), 4).index_add_(0, torch.arange(len(y)), y),
    "copy_": lambda x, y: x.new_empty(x.shape).copy_(y),
    "set item": lambda x, y: (buffer := y.new_ones(y.shape), buffer.__setitem__((slice(None), 0), y[:, 0]))[0],
}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("recorded", [False, True])
def test_a_buffer_of_the_batchs_size_made_within_a_block(kind: str, recorded: bool) -> None:
    class Makes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + MADE[kind](x, self.a(x))

    torch.manual_seed(0)
    model, x = nn.Sequential(Makes(), Makes()).double().eval(), torch.randn(3, 4, dtype=torch.float64)
    net = UnrolledNetwork(model, lambda: record(model, x)) if recorded else unroll(model, x)
    assert len(net) == 2
    other = torch.randn(5, 4, dtype=torch.float64)
    assert torch.equal(net(other), model(other))
    assert torch.equal(drop_blocks(net, [1])(other), net(other, [1.0, 0.0]))
