"""A dropped model computes what the gated network computes, and is an ordinary smaller model."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import ResNet, resnet18
from torchvision.models.vision_transformer import VisionTransformer

from families import ALL, Family
from helpers import randomise_norms
from resnet_paths.models import cifar_resnet
from resnet_paths.surgery import drop_blocks, lesioned, reorder_blocks
from resnet_paths.unroll import NotDroppableError, UnitIndexError, UnrolledNetwork, unroll

_SAMPLE = [
    "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "regnet_y_400mf", "convnext_tiny", "mobilenet_v2",
    "mobilenet_v3_small", "efficientnet_b0", "mnasnet1_0", "vit_b_16", "swin_t", "swin_v2_t", "resnet26d",
    "resnetv2_50",
    "seresnet18", "resnest14d", "res2net50_26w_4s", "skresnet18", "nf_resnet26", "convnextv2_atto",
    "deit_tiny_patch16_224", "mixer_s32_224", "poolformer_s12", "legacy_xception", "swin_tiny_patch4_window7_224",
    "ResNetForImageClassification", "ConvNextForImageClassification", "ViTForImageClassification",
]  # fmt: skip


def gated(net: UnrolledNetwork, x: torch.Tensor, dropped: list[int]) -> torch.Tensor:
    gates = torch.ones(len(net))
    gates[dropped] = 0
    return net(x, gates)


def output(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    value = model(x)
    return getattr(value, "logits", value)


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("family", [f for f in ALL if f.name in _SAMPLE], ids=lambda f: f.name)
def test_dropped_model_equals_the_gated_network(family: Family) -> None:
    if family.library != "torchvision":
        pytest.importorskip({"timm": "timm", "hf": "transformers"}[family.library])
    model = randomise_norms(family.make())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    net = unroll(model, family.example(2) if family.needs_example else None)
    dropped = sorted({0, len(net) // 2, len(net) - 1})
    smaller, x = drop_blocks(net, dropped), family.example(3)
    with torch.no_grad():
        assert (output(smaller, x) - gated(net, x, dropped)).abs().max() <= 1e-12
    assert type(smaller) is type(model)
    assert size(model) - size(smaller) == sum(net[index].branch_parameters for index in dropped)
    kept = smaller.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in kept.items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name in before.keys() - kept.keys():
        assert any(name.startswith(net[index].owner) for index in dropped)


def tiny(**options) -> nn.Module:
    return randomise_norms(cifar_resnet(20, widths=(4, 6, 8), seed=0, **options)).eval().double()


@settings(max_examples=20, deadline=None)
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
    model = randomise_norms(resnet18(num_classes=10)).eval()
    return model, drop_blocks(model, ["layer1.1", "layer2.0", -1])


def test_stays_the_models_class_and_loads_its_keys(pair) -> None:
    model, smaller = pair
    assert isinstance(smaller, ResNet)
    assert "layer2.0.downsample.0.weight" in smaller.state_dict()
    assert "layer2.0.conv1.weight" not in smaller.state_dict()
    assert isinstance(smaller.layer1[1], nn.Module)
    smaller.load_state_dict({name: model.state_dict()[name] for name in smaller.state_dict()})


def test_pickles_without_this_library(pair, tmp_path) -> None:
    _, smaller = pair
    x = torch.randn(2, 3, 32, 32)
    torch.save((smaller, x, smaller(x).detach()), tmp_path / "model.pt")
    script = (
        "import sys; sys.modules['resnet_paths'] = None\nimport torch\n"
        f"model, x, y = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)\n"
        "assert torch.equal(model(x), y)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
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


def test_compiles_and_exports(pair) -> None:
    _, smaller = pair
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = smaller(x)
        compiled = torch.compile(smaller, backend="aot_eager")(x)
        exported = torch.export.export(smaller, (x,)).module()(x)
    assert torch.allclose(compiled, expected, atol=1e-5)
    assert torch.allclose(exported, expected, atol=1e-5)


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
    assert [unit.name for unit in unroll(smaller)] == [u.name for u in unroll(model) if u.index not in (1, 2, 7)]


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
    assert isinstance(smaller, torch.fx.GraphModule)
    assert torch.allclose(smaller(x), gated(net, x, [0]))
    assert set(smaller.state_dict()) == {"b.weight", "b.bias", "c.weight", "c.bias"}
    with lesioned(model, ["a"]) as damaged:
        assert damaged is model
        assert torch.equal(model(x), smaller(x))
    assert torch.equal(model(x), net(x))
    assert "forward" not in model.__dict__
    with pytest.raises(NotDroppableError, match="inplace=False"):
        drop_blocks(model, [0], inplace=True)


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


def test_lesioned_restores_exactly_also_after_an_exception_and_nested() -> None:
    model = resnet18().train()
    model.layer1.eval()
    modules, flags = dict(model.named_modules()), [module.training for module in model.modules()]
    x = torch.randn(2, 3, 32, 32)

    def damage() -> None:
        with lesioned(model, [0, 5]), lesioned(model, [1]):
            model.eval()
            model(x)
            assert len(unroll(model)) == 5
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        damage()
    assert all(module is modules[name] for name, module in model.named_modules())
    assert list(dict(model.named_modules())) == list(modules)
    assert [module.training for module in model.modules()] == flags


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
    ("units", "message"), [([9], "from -9 to 8"), ([1, -8], "each unit once"), (["layer9.0"], "choose one of")]
)
def test_wrong_units(units: list, message: str) -> None:
    with pytest.raises(UnitIndexError, match=message):
        drop_blocks(tiny(), units)


def test_reordered_model_runs_its_units_in_the_new_order() -> None:
    model, x = tiny(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    order = [2, 0, 1, 3, 5, 4, 6, 7, 8]
    moved = reorder_blocks(model, order, example_input=x)
    y = F.relu(model.bn1(model.conv1(x)))
    for stage, places in (("layer1", [2, 0, 1]), ("layer2", [0, 2, 1]), ("layer3", [0, 1, 2])):
        for place in places:
            y = model.get_submodule(stage)[place](y)
    assert torch.equal(moved(x), model.linear(F.adaptive_avg_pool2d(y, 1).flatten(1)))
    assert size(moved) == size(model)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([1, 0, 2], "each of the 9 units once"),
        ([3, 1, 2, 0, 4, 5, 6, 7, 8], "leave those that change the shape"),
        ([0, 5, 2, 3, 4, 1, 6, 7, 8], "units of the same shapes"),
    ],
)
def test_wrong_orders(order: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reorder_blocks(tiny(), order, example_input=torch.randn(1, 3, 8, 8, dtype=torch.float64))


def test_reordering_needs_shapes() -> None:
    with pytest.raises(ValueError, match="example_input"):
        reorder_blocks(tiny(), [1, 0, *range(2, 9)])
