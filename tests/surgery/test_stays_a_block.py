"""A block without its branch keeps its class, its attributes, and the way it treats its arguments."""

import copy
import io
import pickle
import sys

import pytest
import torch
from torch import nn

from damage import gated, size, without_this_library
from resnet_paths.network import NotDroppableError, unroll
from resnet_paths.surgery import drop_blocks, lesioned


class Layer(nn.Module):
    """Two blocks, attributes, a method, a flag, a mask that is handed on and one that is asked about."""

    def __init__(self, kind: str = "full") -> None:
        super().__init__()
        self.attention, self.mlp, self.kind = Attention(), nn.Linear(4, 4), kind

    def scaled(self, value: float) -> float:
        return 2 * value

    def forward(self, x, mask=None, scale=1.0, *, return_attention: bool = False):
        y, maps = self.attention(x, mask)
        if return_attention:
            return maps
        x = x + y
        return x + torch.tanh(self.mlp(x)) * scale


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(4, 4)

    def forward(self, x, mask=None):
        maps = torch.softmax(self.q(x) if mask is None else self.q(x) + mask, -1)
        return maps * x, maps


class Model(nn.Module):
    """Reads an attribute and calls a method of its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(), Layer("half"), Layer()])

    def forward(self, x, mask=None):
        for layer in self.layers:
            x = layer(x, mask, scale=layer.scaled({"full": 1.0, "half": 0.5}[layer.kind]))
        return x


class Whole(nn.Module):
    """A block that is nothing but its addition, and a model that asks for the class and a number of its blocks."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.source = nn.Linear(4, 4), -1

        def forward(self, x):
            return x + self.a(x)

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(Whole.Block(), Whole.Block())

    def forward(self, x):
        kept = [x]
        for block in self.model:
            kept.append(block(kept[block.source]))
        return kept[-1] * sum(isinstance(block, Whole.Block) for block in self.model)


def made(kind: type) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return kind().double().eval(), torch.randn(2, 4, dtype=torch.float64)


def again(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.slow
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", [Model, Whole])
def test_attributes_methods_and_classes_stay(kind: type, inplace: bool) -> None:
    for index in range(len(unroll(made(kind)[0]))):
        model, x = made(kind)
        expected, before = gated(unroll(model), x, [index]), size(model)
        gone = unroll(model)[index].branch_parameters
        smaller = drop_blocks(model, [index], inplace=inplace)
        for one in (smaller, again(smaller), again(again(smaller)), copy.deepcopy(smaller), copy.copy(smaller)):
            assert torch.allclose(one(x), expected, atol=1e-12)
            assert type(one) is kind
            assert before - size(one) == gone > 0


def test_a_file_needs_the_models_own_code_and_nothing_of_this_library(tmp_path, monkeypatch) -> None:
    (tmp_path / "theirs.py").write_text(
        "from torch import nn\n"
        "class Block(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.a, self.b, self.kind = nn.Linear(4, 4), nn.Linear(4, 4), 'k'\n"
        "    def forward(self, x):\n"
        "        x = x + self.a(x)\n"
        "        return x + self.b(x)\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        theirs = __import__("theirs")
    finally:
        sys.path.remove(str(tmp_path))
    smaller, x = drop_blocks(nn.Sequential(theirs.Block(), theirs.Block()).eval(), [0]), torch.randn(2, 4)
    expected = smaller(x)
    torch.save(smaller, tmp_path / "model.pt")
    with without_this_library(monkeypatch):
        model = torch.load(tmp_path / "model.pt", weights_only=False)
        assert isinstance(model[0], theirs.Block)
        assert model[0].kind == "k"
        assert not hasattr(model[0], "a")
        for one in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(one(x), expected)


def test_prints_what_is_missing_and_has_another_fingerprint() -> None:
    from resnet_paths.graph.model_fingerprint import fingerprint

    model, _ = made(Model)
    smaller = drop_blocks(model, ["layers.1.mlp"])
    assert "without layers.1.mlp" in repr(smaller)
    with lesioned(model, ["layers.1.mlp"]):
        damaged = fingerprint(model)
    assert len({fingerprint(model), fingerprint(smaller), damaged}) == 3


def with_zeros(model: nn.Module, layer: int) -> nn.Module:
    """The model with the MLP of a layer made to give nothing."""
    other = copy.deepcopy(model)
    nn.init.zeros_(other.layers[layer].mlp.weight)
    nn.init.zeros_(other.layers[layer].mlp.bias)
    return other


def test_a_mask_that_is_handed_on_is_used() -> None:
    model, x = made(Model)
    mask = torch.randn_like(x)
    expected = with_zeros(model, 1)(x, mask)
    smaller = drop_blocks(model, ["layers.1.mlp"])
    assert torch.allclose(smaller(x, mask), expected, atol=1e-12)
    assert torch.allclose(again(smaller)(x, mask), expected, atol=1e-12)
    assert (smaller(x, mask) - smaller(x)).abs().max() > 1e-3
    with lesioned(model, ["layers.1.mlp"]):
        assert torch.allclose(model(x, mask), expected, atol=1e-12)


def test_a_mask_that_only_the_branch_that_goes_was_given_may_be_anything() -> None:
    model, x = made(Model)
    layer = drop_blocks(model, ["layers.1.attention"]).layers[1]
    assert torch.equal(layer(x, torch.ones(1)), layer(x))


@pytest.mark.parametrize("part", ["attention", "mlp"])
@pytest.mark.parametrize(("name", "value"), [("return_attention", True), ("scale", 3.0), ("scale", None)])
def test_a_flag_or_number_that_decides_is_refused_by_name(part: str, name: str, value: object) -> None:
    model, x = made(Model)
    smaller = drop_blocks(model, [f"layers.0.{part}"])
    with pytest.raises(ValueError, match=f"expected {name}=.* to drop layers.0.{part}, got {value}") as error:
        smaller.layers[0](x, **{"scale": 2.0, name: value})
    assert "\n" not in str(error.value)
    with lesioned(model, [f"layers.0.{part}"]), pytest.raises(ValueError, match=f"expected {name}="):
        model.layers[0](x, **{"scale": 2.0, name: value})
    model.layers[0](x, **{"scale": 2.0, "return_attention": True})


class Asks(nn.Module):
    """A block that asks about its mask; keywords of any name; a number that is added up."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, mask=None, **extra):
        x = x + self.a(x)
        if mask is not None:
            x = x * mask
        return x + self.b(x) * extra.get("weight", 1.0)


class AsksModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Asks(), Asks()])

    def forward(self, x, mask=None, **extra):
        for block in self.blocks:
            x = block(x, mask=mask, **extra)
        return x


def test_a_mask_that_is_asked_about_and_unknown_keywords_are_refused() -> None:
    model, x = made(AsksModel)
    smaller = drop_blocks(model, ["blocks.0.a"], example_input=x)
    assert torch.equal(smaller(x), smaller(x, mask=None))
    with pytest.raises(ValueError, match=r"expected mask=None.*a tensor of shape"):
        smaller(x, mask=torch.ones_like(x))
    with pytest.raises(ValueError, match=r"expected weight='absent'.*got 2.0"):
        smaller(x, weight=2.0)


def test_dropped_with_the_mask_it_is_used_and_asked_for() -> None:
    model, x = made(AsksModel)
    mask = torch.rand_like(x)
    net = unroll(model, {"x": x, "mask": mask})
    smaller = drop_blocks(net, ["blocks.0.a"])
    assert torch.allclose(smaller(x, mask), net({"x": x, "mask": mask}, [0.0, 1.0, 1.0, 1.0]), atol=1e-12)
    with pytest.raises(ValueError, match="expected mask=something"):
        smaller(x)


class Pre(nn.Module):
    """A convolution that hands out its pre-activation."""

    def __init__(self, i: int, o: int, stride: int = 1) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(i), nn.Conv2d(i, o, 3, stride, 1)

    def forward(self, x):
        x = torch.relu(self.bn(x))
        return self.conv(x), x


class PreBody(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Pre(4, 8, 2), Pre(8, 8)

    def forward(self, x):
        x, pre = self.first(x)
        x, _ = self.second(x)
        return x, pre


class PreBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.projection = PreBody(), nn.Conv2d(4, 8, 1, 2)

    def forward(self, x):
        y, pre = self.body(x)
        return y + self.projection(pre)


def test_a_body_that_hands_out_its_pre_activation_is_opened() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(PreBlock(), nn.Conv2d(8, 2, 1)).double().eval(), torch.randn(2, 4, 8, 8).double()
    net = unroll(model)
    smaller = drop_blocks(net, [0])
    assert torch.allclose(smaller(x), gated(net, x, [0]), atol=1e-12)
    assert size(model) - size(smaller) == net[0].branch_parameters == 296 + 16 + 584
    assert {name for name, _ in smaller.named_modules() if "conv" in name} == set()
    assert torch.equal(again(smaller)(x), smaller(x))
    ran = []
    for module in (model[0].body.first.conv, model[0].body.second.conv, model[0].body.second.bn):
        module.register_forward_hook(lambda *_: ran.append(1))
    with lesioned(net, [0]):
        model(x)
    assert not ran


class ReadsType(nn.Module):
    """A branch that reads a parameter's type, as T5's does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        y = torch.relu(self.a(x))
        if y.dtype != self.b.weight.dtype:
            y = y.to(self.b.weight.dtype)
        return x + self.b(y)


def test_parameters_whose_type_is_read_are_counted_and_go() -> None:
    model, x = nn.Sequential(ReadsType(), ReadsType()).eval(), torch.randn(2, 4)
    net = unroll(model, x)
    smaller = drop_blocks(net, [0])
    assert size(model) - size(smaller) == net[0].branch_parameters == 76


class Book:
    """What a stack keeps about its run, and returns beside its output."""

    def __init__(self, values: list) -> None:
        self.values = values


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        values = []
        for part in self.parts:
            x = x + torch.tanh(part(x))
            values.append(x)
        return x, Book(values)


class Keeps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stack, self.head = Stack(), nn.Linear(4, 2)

    def forward(self, x):
        x, book = self.stack(x)
        book.values.clear()
        return self.head(x)


def test_a_record_that_nobody_needs_holds_no_block_back() -> None:
    model, x = made(Keeps)
    net = unroll(model, x)
    assert all(block.droppable for block in net)
    smaller = drop_blocks(net, [1])
    assert torch.allclose(again(smaller)(x), gated(net, x, [1]), atol=1e-12)
    assert isinstance(smaller, Keeps)
    assert size(model) - size(smaller) == net[1].branch_parameters == 20


class Cache:
    def __init__(self) -> None:
        self.seen: list = []


class NeedsCache(nn.Module):
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x, cache):
            cache.seen.append(x)
            return self.a(x)

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(NeedsCache.Part() for _ in range(2))

    def forward(self, x):
        cache = Cache()
        for part in self.parts:
            x = x + part(x, cache)
        return x


def test_the_table_says_what_drop_blocks_does() -> None:
    model, x = made(NeedsCache)
    net = unroll(model, x)
    for block in net:
        assert not block.droppable
        assert "Cache that it creates while it runs" in block.reason
        with pytest.raises(NotDroppableError):
            drop_blocks(net, [block.index])
    assert all(block.droppable for block in unroll(made(Model)[0]))


def test_code_that_cannot_be_imported_says_so_when_it_is_pickled() -> None:
    class Local(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            return x + self.a(x)

    smaller = drop_blocks(nn.Sequential(Local(), Local()).eval(), [0])
    with pytest.raises((pickle.PicklingError, AttributeError), match="Local"):
        pickle.dumps(smaller)


def test_a_graph_module_stays_one() -> None:
    x = torch.randn(2, 4, dtype=torch.float64)
    traced = torch.fx.symbolic_trace(nn.Sequential(Whole.Block(), Whole.Block()).double().eval())
    net = unroll(traced)
    smaller = drop_blocks(net, [0])
    assert isinstance(smaller, torch.fx.GraphModule)
    assert torch.allclose(again(smaller)(x), gated(net, x, [0]))
    assert size(traced) - size(smaller) == net[0].branch_parameters == 20
    before, code = traced(x), traced.code
    with lesioned(net, [0]):
        assert torch.equal(traced(x), smaller(x))
    assert torch.equal(traced(x), before)
    assert traced.code == code


class Scaled(nn.Module):
    """Two blocks in the model's own forward, with a number and a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, scale=1.0, *, flag=True):
        x = x + scale * self.a(x)
        return x + self.b(x) if flag else x - self.b(x)


@pytest.mark.parametrize("as_dict", [False, True])
def test_plain_arguments_of_the_example_are_those_that_the_smaller_model_expects(as_dict: bool) -> None:
    model, x = made(Scaled)
    net = unroll(model, {"x": x, "scale": 0.5, "flag": False} if as_dict else (x, 0.5))
    expected = (x + 0.5 * model.a(x)).detach()
    given = {"scale": 0.5, "flag": not as_dict}
    smaller = drop_blocks(net, ["b"])
    assert torch.equal(smaller(x, **given), expected)
    with pytest.raises(ValueError, match=r"expected scale=0.5.*got 1.0"):
        smaller(x)
    with lesioned(net, ["b"]):
        assert torch.equal(model(x, **given), expected)
