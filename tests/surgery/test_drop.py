"""A dropped model computes what the gated network computes, and is an ordinary smaller model."""

import copy
import io
import linecache
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock
from torchvision.models.vision_transformer import VisionTransformer

from damage import gated, tiny, without_this_library
from helpers import randomise_norms
from resnet_paths.models import cifar_resnet
from resnet_paths.network import BlockIndexError, unroll
from resnet_paths.surgery import drop_blocks, lesioned


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    dropped=st.lists(st.integers(-9, 8), min_size=1, max_size=9, unique_by=lambda index: index % 9),
    shortcut=st.sampled_from("ABC"),
    preactivation=st.booleans(),
)
def test_any_subset(dropped: list[int], shortcut: str, preactivation: bool) -> None:
    model = tiny(shortcut=shortcut, preactivation=preactivation)
    net, x = unroll(model), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    smaller = drop_blocks(model, dropped)
    with torch.no_grad():
        assert torch.allclose(smaller(x), gated(net, x, dropped), rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, nn.Module]:
    model = randomise_norms(ResNet(BasicBlock, [2, 1, 1, 1], num_classes=10)).eval()
    return model, drop_blocks(model, ["layer1.1", "layer2.0", -1])


def test_stays_the_models_class_and_loads_its_keys(pair) -> None:
    model, smaller = pair
    assert isinstance(smaller, ResNet)
    assert "layer2.0.downsample.0.weight" in smaller.state_dict()
    assert "layer2.0.conv1.weight" not in smaller.state_dict()
    assert isinstance(smaller.layer1[1], nn.Module)
    smaller.load_state_dict({name: model.state_dict()[name] for name in smaller.state_dict()})


def test_pickles_without_this_library(pair, tmp_path, monkeypatch) -> None:
    _, smaller = pair
    x = torch.randn(2, 3, 32, 32)
    expected = smaller(x)
    torch.save(smaller, tmp_path / "model.pt")
    with without_this_library(monkeypatch):
        assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=False)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(smaller))(x), smaller(x))
    assert torch.equal(copy.deepcopy(smaller)(x), smaller(x))


def test_trains(pair) -> None:
    smaller = copy.deepcopy(pair[1]).train()
    optimiser = torch.optim.SGD(smaller.parameters(), 0.1)
    before = smaller.layer2[0].downsample.get_submodule("0").weight.clone()
    F.cross_entropy(smaller(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    optimiser.step()
    assert not torch.equal(before, smaller.layer2[0].downsample.get_submodule("0").weight)
    assert all(parameter.grad is not None for parameter in smaller.parameters())


@pytest.mark.slow
def test_compiles_and_exports(pair) -> None:
    _, smaller = pair
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = smaller(x)
        compiled = torch.compile(smaller, backend="aot_eager")(x)
        exported = torch.export.export(smaller, (x,)).module()(x)
    assert torch.allclose(compiled, expected, atol=1e-5)
    assert torch.allclose(exported, expected, atol=1e-5)


@pytest.mark.integration
@pytest.mark.slow
def test_goes_to_onnx(pair) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    _, smaller = pair
    x, buffer = torch.randn(2, 3, 32, 32), io.BytesIO()
    torch.onnx.export(smaller, (x,), dynamo=True, verbose=False).save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(result), smaller(x), atol=1e-4)


def test_dropped_models_unroll_again(pair) -> None:
    model, smaller = pair
    assert [block.name for block in unroll(smaller)] == [u.name for u in unroll(model) if u.index not in (1, 2, 4)]


@pytest.mark.slow
def test_half_of_a_layer_compiles_and_exports() -> None:
    model, x = VisionTransformer(32, 16, 2, 2, 16, 32).eval(), torch.randn(2, 3, 32, 32)
    nn.init.normal_(model.heads.head.weight)
    smaller = drop_blocks(model, [0, 3])
    with torch.no_grad():
        expected = smaller(x)
        assert torch.allclose(torch.compile(smaller, backend="aot_eager")(x), expected, atol=1e-5)
        assert torch.allclose(torch.export.export(smaller, (x,)).module()(x), expected, atol=1e-5)
        assert (expected - model(x)).abs().max() > 1e-3


def test_half_of_a_transformer_layer() -> None:
    model = VisionTransformer(32, 16, 3, 2, 16, 32, dropout=0.3).double()
    nn.init.normal_(model.heads.head.weight)
    model.eval()
    net, x = unroll(model), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    smaller = drop_blocks(model, [2])
    assert torch.allclose(smaller(x), gated(net, x, [2]), atol=1e-12)
    layer = smaller.encoder.layers[1]
    assert {name for name, _ in layer.named_children()} == {"ln_2", "mlp"}
    smaller.train()
    torch.manual_seed(0)
    one = smaller(x)
    assert not torch.equal(one, smaller(x))


def test_functional_dropout_still_follows_the_mode() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x, scale: float = 1.0, *, flag: bool = False):
            x = x + self.a(x) * scale
            return x + F.dropout(self.b(x), 0.5, self.training)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])

        def forward(self, x):
            for block in self.blocks:
                x = block(x, 2.0, flag=True)
            return x

    model, x = Net().eval(), torch.randn(3, 6)
    smaller = drop_blocks(model, [0])
    assert torch.equal(smaller(x), smaller(x))
    smaller.train()
    assert not torch.equal(smaller(x), smaller(x))


class Written(nn.Module):
    """Everything in one forward, in a functional style."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        x = x + self.scale * self.a(x)
        return self.c(torch.relu(x + self.b(x)))


def test_a_model_whose_forward_makes_the_additions() -> None:
    model, x = Written().eval(), torch.randn(2, 3)
    net = unroll(model)
    smaller = drop_blocks(model, ["a"])
    assert isinstance(smaller, Written)
    assert torch.allclose(smaller(x), gated(net, x, [0]))
    assert set(smaller.state_dict()) == {"b.weight", "b.bias", "c.weight", "c.bias"}
    with lesioned(model, ["a"]) as damaged:
        assert damaged is model
        assert torch.equal(model(x), smaller(x))
    assert torch.equal(model(x), net(x))
    assert "forward" not in model.__dict__
    whole, expected = model, gated(net, x, [0])
    assert drop_blocks(model, [0], inplace=True) is whole
    assert torch.equal(model(x), expected)
    assert not hasattr(model, "a")


def test_a_module_that_runs_twice() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x):
            return x + self.a(x)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x):
            return self.block(torch.relu(self.block(x)))

    model, x = Twice().eval(), torch.randn(2, 3)
    net = unroll(model)
    assert len(net) == 2
    smaller = drop_blocks(model, [0])
    assert torch.allclose(smaller(x), gated(net, x, [0]))


def test_in_place() -> None:
    model = tiny()
    smaller = drop_blocks(model, [4], inplace=True)
    assert smaller is model
    assert len(unroll(model)) == 8


def test_hooks_stay() -> None:
    model, seen = tiny(), []
    model.layer1[1].register_forward_hook(lambda module, args, out: seen.append("block"))
    model.layer1[2].conv1.register_forward_hook(lambda module, args, out: seen.append("conv"))
    smaller = drop_blocks(model, [1, 3])
    smaller(torch.randn(1, 3, 8, 8, dtype=torch.float64))
    assert seen == ["block", "conv"]


def test_train_mode_models() -> None:
    model = tiny().train()
    smaller = drop_blocks(model, [3])
    assert all(module.training for module in smaller.modules())
    assert smaller(torch.randn(4, 3, 8, 8, dtype=torch.float64)).shape == (4, 10)


@pytest.mark.parametrize(
    ("blocks", "message"), [([9], "from -9 to 8"), ([1, -8], "each block once"), (["layer9.0"], "choose one of")]
)
def test_wrong_blocks(blocks: list, message: str) -> None:
    with pytest.raises(BlockIndexError, match=message):
        drop_blocks(tiny(), blocks)


def test_dropping_again_and_again_keeps_no_text_for_good(pair) -> None:
    model = copy.deepcopy(pair[0])
    drop_blocks(model, [1])
    before = len(linecache.cache)
    for _ in range(3):
        drop_blocks(model, [1])
    assert len(linecache.cache) == before


def test_names_of_modules_may_hold_what_python_text_may_not() -> None:
    inner = cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0).eval()
    model = nn.Sequential()
    model.add_module("a{\"$b'\\", inner)
    smaller = drop_blocks(model, [0])
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(smaller(x), drop_blocks(inner, [0])(x))
