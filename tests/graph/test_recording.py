"""The recorder: it agrees with the tracer bit for bit, for any batch size and in train mode."""

import copy
import functools

import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from families import ALL, Family
from helpers import randomise_norms
from resnet_paths.graph.recording import record
from resnet_paths.graph.tracing import trace
from resnet_paths.network import TraceError, UnrolledNetwork, UnrollError, unroll
from resnet_paths.surgery import drop_blocks

_SAMPLE = [
    "resnet18",
    "resnet26d",
    "vit_b_16",
    "swin_t",
    "poolformer_s12",
    "convnextv2_atto",
    "skresnet18",
    "resnetv2_50d",
]


def recorded(model: nn.Module, example: object) -> UnrolledNetwork:
    return UnrolledNetwork(model, lambda: record(model, example), example)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in ALL if f.name in _SAMPLE], ids=lambda f: f.name)
def test_both_front_ends_agree_bit_for_bit(family: Family) -> None:
    model = randomise_norms(family.make())
    one, other = UnrolledNetwork(model, lambda: trace(model)), recorded(model, family.example(2))
    assert [block.name for block in one] == [block.name for block in other]
    assert [block.shortcut for block in one] == [block.shortcut for block in other]
    gates = torch.ones(2, len(one))
    gates[1, ::3] = 0
    with torch.no_grad():
        for batch in (1, 3):
            x = family.example(batch)
            assert torch.equal(one(x, gates), other(x, gates))
            assert torch.equal(other(x), model(x))


@pytest.mark.slow
def test_train_mode_draws_the_same_and_updates_the_same() -> None:
    settings = [CNBlockConfig(4, 8, 2), CNBlockConfig(8, None, 2)]
    model = ConvNeXt(settings, stochastic_depth_prob=0.5, num_classes=5).double().train()
    twin, x = copy.deepcopy(model), torch.randn(6, 3, 32, 32, dtype=torch.float64)
    net = recorded(model, x)
    for seed in range(5):
        torch.manual_seed(seed)
        expected = twin(x)
        torch.manual_seed(seed)
        assert torch.equal(net(x), expected)

    model = resnet18().double().train()
    twin = copy.deepcopy(model)
    net = recorded(model, x)
    assert torch.equal(net(x), twin(x))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), twin.buffers(), strict=True))


@pytest.mark.slow
def test_hugging_face_in_train_mode_with_drop_path() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ConvNextConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 2, 1], drop_path_rate=0.5, layer_scale_init_value=1.0
    )
    model = transformers.ConvNextForImageClassification(config).double().train()
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    net = unroll(model, x)
    assert len(net) == 5
    for batch in (4, 7):
        x = torch.randn(batch, 3, 64, 64, dtype=torch.float64)
        torch.manual_seed(3)
        expected = model(x).logits
        torch.manual_seed(3)
        assert torch.equal(net(x), expected)


@pytest.mark.slow
def test_examples_as_dict_and_tuple() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[2, 2], layer_type="basic")
    model = transformers.ResNetForImageClassification(config).eval()
    x = torch.randn(2, 3, 32, 32)
    for example in ({"pixel_values": x}, (x,)):
        net = unroll(model, example)
        assert torch.equal(net(example), model(x).logits)
    with pytest.raises(ValueError, match="pixel_values"):
        net({"pixels": x})


@pytest.mark.slow
def test_masked_write_through_a_view_closes_the_module() -> None:
    model = randomise_norms(next(family for family in ALL if family.name == "swin_v2_t").make())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    net = recorded(model, x)
    assert len(net) == 24
    assert torch.equal(net(x), model(x))


class Table(nn.Module):
    """A position table, written through views on the first call only (as Hugging Face's BEiT makes its index)."""

    made: int = 0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))
        self.remember = functools.cache(self.index)

    def index(self, size: int) -> torch.Tensor:
        Table.made += 1
        index = torch.zeros(2, size)
        index[0][1:] = 1
        return index

    def forward(self, size: int) -> torch.Tensor:
        return self.remember(size)[0] * self.weight


class Tabled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.table = nn.Linear(4, 4), Table()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.a(x) * self.table(4)


def test_what_only_the_first_run_writes_closes_the_module_in_both() -> None:
    Table.made = 0
    model = nn.Sequential(*[Tabled() for _ in range(6)]).double()
    net = recorded(model, torch.randn(2, 4, dtype=torch.float64))
    assert Table.made <= 7  # all modules of the class are closed together, not run by run
    assert len(net) == 6
    assert set(net.opaque) == {f"{block}.table" for block in range(6)}
    x = torch.randn(5, 4, dtype=torch.float64)
    assert torch.equal(net(x), model(x))


@pytest.mark.slow
def test_relative_positions_of_hugging_face_beit() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BeitConfig(
        num_hidden_layers=2, hidden_size=24, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8,
        use_relative_position_bias=True,
    )  # fmt: skip
    model = randomise_norms(transformers.BeitForImageClassification(config).eval().double())
    net = unroll(model, torch.randn(2, 3, 32, 32, dtype=torch.float64))
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    assert len(net) == 4
    with torch.no_grad():
        assert torch.equal(net(x), model(x).logits)


class InPlace(nn.Module):
    """Every way of writing over a value that the recorder must see."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x = self.a(x)
        alias = x
        x += self.b(torch.relu_(x.clone()))
        hidden = self.c(alias).mul_(2).clamp_(min=-1)
        hidden[:, 0] = 0.5
        hidden.masked_fill_(hidden > 1, 1.0)
        return alias + self.b(nn.functional.relu(hidden, inplace=True)).addcmul_(x, x)


def test_in_place_operations() -> None:
    model, x = InPlace().double(), torch.randn(3, 4, dtype=torch.float64)
    net = recorded(model, x)
    assert float(model.calls) == 0
    x = torch.randn(5, 4, dtype=torch.float64)
    assert len(net) == 2
    assert torch.equal(net(x), model(x))


def test_numbers_that_follow_the_batch_size() -> None:
    class Shapes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.token = nn.Linear(4, 4), nn.Parameter(torch.randn(1, 1, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            batch = int(x.shape[0])
            x = torch.cat([self.token.expand(batch, -1, -1), x.reshape(batch, -1, 4)], 1)
            x = x + self.a(x.view(2 * batch, -1, 4)).view(batch, -1, 4)
            return x.reshape(batch * 4 * 4).view(-1, 16)

    model = Shapes()
    net = recorded(model, torch.randn(2, 3, 4))
    for batch in (1, 2, 7):
        x = torch.randn(batch, 3, 4)
        assert torch.equal(net(x), model(x))


def test_a_structure_that_follows_the_batch_size_is_refused() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(x.shape[0]):
                x = x + self.a(x)
            return x

    with pytest.raises(TraceError, match="two batch sizes"):
        record(Loop(), torch.randn(2, 4))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ("x", "expected tensors"),
        (torch.randn(2, 5), "fails on the example"),
        ({"y": torch.randn(2, 4)}, "forward takes"),
    ],
)
def test_wrong_examples(example: object, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        record(InPlace(), example)


def test_hooks_that_change_values() -> None:
    model = resnet18().eval().double()
    model.layer1[1].register_forward_hook(lambda module, args, output: output * 0.5 + args[0])
    model.layer2.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model.register_forward_hook(lambda module, args, output: output * 3)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    net = recorded(model, x)
    assert len(net) == 8
    assert torch.equal(net(x), model(x))


class Padded(nn.Module):
    """As language models do: a mask without padding is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.position, self.a, self.b = nn.Parameter(torch.randn(3, 4)), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = x + self.position[: x.shape[1]]
        keep = None if mask.all() else mask[:, :, None]
        for layer in (self.a, self.b):
            x = x + (layer(x) if keep is None else layer(x) * keep)
        return x


def test_a_question_about_the_inputs_values_must_be_answered_as_on_the_example() -> None:
    model, x = Padded(), torch.randn(2, 3, 4)
    whole, padded = torch.ones(2, 3, dtype=torch.bool), torch.tensor([[1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    for example, other in ((whole, padded), (padded, whole)):
        net = recorded(model, (x, example))
        assert len(net) == 2
        assert torch.equal(net((x, example)), model(x, example))
        with pytest.raises(UnrollError, match="takes a different one"):
            net((x, other))
        assert torch.equal(unroll(model, (x, other))((x, other)), model(x, other))


def test_another_shape_than_the_examples_is_compared_with_the_model_first() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv1d(2, 2, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            length = int(x.shape[2])
            x = x + self.a(x)
            return x.mean(2) * length  # a constant of the recording

    model = Sized()
    net = recorded(model, torch.randn(2, 2, 5))
    same, other = torch.randn(3, 2, 5), torch.randn(3, 2, 7)
    assert torch.equal(net(same), model(same))
    for _ in range(2):
        with pytest.raises(UnrollError, match=r"it differs .* again with an example of this shape"):
            net(other)
    net = recorded(Free(), torch.randn(2, 2, 5))
    assert torch.equal(net(other), net.model(other))
    with pytest.raises(UnrollError, match="again with an example of this shape"):
        net(torch.randn(3, 4, 5))


class Free(nn.Module):
    """Whose recording holds no number of the example."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv1d(2, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.a(x)).mean(2)


# values written over through a view, or of which there are views


class Normed(nn.Module):
    """Adds into what an instance norm gives, which is a view of a tensor that nobody else has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.InstanceNorm2d(4, affine=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.norm(self.conv(x))
        out += x
        return out


class Flattened(nn.Module):
    """Adds positions in place to patches, which are a view of the feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.f = nn.Conv2d(4, 4, 1), nn.Linear(4, 4)
        self.positions = nn.Parameter(torch.randn(1, 25, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).flatten(2).transpose(1, 2)
        x += self.positions
        x = x + self.f(x)
        return x.transpose(1, 2).unflatten(2, (5, 5))


class Parts(nn.Module):
    """Changes parts of one tensor, and reads the others (`whole`: also the tensor of which they are parts)."""

    def __init__(self, whole: bool = False) -> None:
        super().__init__()
        self.f, self.whole = nn.Conv2d(4, 12, 1), whole

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = self.f(x)
        q, k, v = both[:, :4], both[:, 4:8], both[:, 8:]
        q *= 2
        torch.relu_(k)
        out = x + q * k + v
        return out + both[:, :4] if self.whole else out


class Masked(nn.Module):
    """Reads the edges of scores and then overwrites them, as sliding-window attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.g = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.f(x)
        edge = scores[:, :, :1]
        scores[:, :, :1] = torch.full_like(edge, -1).where(edge > 0, edge)
        edge = scores[:, :, -1:]
        scores[:, :, -1:] = edge.masked_fill(edge < 0, 3.0)
        return x + self.g(x) * scores.sigmoid()


@pytest.mark.parametrize(
    ("kind", "blocks"), [(Normed, 2), (Flattened, 2), (Parts, 2), (Masked, 2), (lambda: Parts(whole=True), 0)]
)
def test_what_is_written_over_is_followed_unless_another_view_of_it_is_read(kind: type[nn.Module], blocks: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(kind(), kind(), nn.Conv2d(4, 4, 1)).double().eval()
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    program = record(model, x)
    assert set(program.opaque) == (set() if blocks else {"0", "1"})  # else kept whole
    other = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    net = UnrolledNetwork(model, lambda: record(model, x))
    if blocks:
        assert len(net) == blocks
        torch.testing.assert_close(
            net(other), model(other), rtol=1e-12, atol=1e-12
        )  # parallel branches are summed first
        found, expected = (torch.func.grad(lambda y, f=f: f(y).square().sum())(other) for f in (net, model))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


class Reordered(nn.Module):
    """Adds a value in another layout into a norm's output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.InstanceNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        out = self.norm(self.conv(x.contiguous()))
        out += x
        return out


@pytest.mark.parametrize("batch", [1, 2])
def test_sums_have_the_layout_of_the_models_own(batch: int) -> None:
    """In torch 2.14 the gradient of instance norm is wrong for one image where its layout is not the input's."""
    torch.manual_seed(0)
    model, x = Reordered().double().eval(), torch.randn(batch, 4, 5, 5, dtype=torch.float64)
    net = recorded(model, torch.cat([x, x]))
    weights = torch.randn(x.shape, dtype=torch.float64)
    assert net(x).stride() == model(x).stride()
    found, expected = (torch.func.grad(lambda y, f=f: (f(y) * weights).sum())(x) for f in (net, model))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_written_values_and_two_blocks_in_one_module_drop() -> None:
    class Twice(Masked):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x + torch.relu(self.f(x)))

    torch.manual_seed(0)
    model, x = nn.Sequential(Twice(), Twice()).double().eval(), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    net = recorded(model, x)
    assert len(net) == 4
    smaller = drop_blocks(net, [0])
    assert torch.allclose(smaller(x), net(x, [0.0, 1.0, 1.0, 1.0]), rtol=0, atol=1e-12)


def test_what_torch_func_transforms_is_closed_or_refused_with_the_reason() -> None:
    class Transformed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.vmap(lambda row: torch.tanh(self.weight @ row))(x)

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = Transformed()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.a(x)

    model, x = nn.Sequential(Around(), Around()), torch.randn(3, 4)
    net = recorded(model, x[:2])
    assert len(net) == 2
    assert set(net.opaque) == {"0.a", "1.a"}
    assert torch.equal(net(x), model(x))
    with pytest.raises(TraceError, match=r"transforms a function of its own by torch\.func"):
        record(Transformed(), x)


def test_modules_that_run_with_other_parameters_are_closed_or_refused_with_the_reason() -> None:
    class Borrowed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.bias = nn.Linear(4, 4), nn.Parameter(torch.randn(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(self.layer, {"bias": self.bias}, (x,))

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = Borrowed()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.tanh(self.a(x))

    model, x = nn.Sequential(Around(), Around()), torch.randn(3, 4)
    net = recorded(model, x[:2])
    assert len(net) == 2
    assert set(net.opaque) == {"0.a", "1.a"}
    assert torch.equal(net(x), model(x))
    with pytest.raises(TraceError, match=r"runs layer with other parameters than its own"):
        record(Borrowed(), x)


def test_a_model_that_fails_at_another_batch_size_is_told_so() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) != 2:
                raise ValueError("two only")
            return x

    with pytest.raises(TraceError, match=r"fails on the example with a row more.*two only"):
        record(Two(), torch.randn(2, 4))


def test_an_exported_program_of_one_batch_size_is_told_how_to_be_exported() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    program = torch.export.export(model, (torch.randn(5, 4),)).module()
    with pytest.raises(TraceError, match=r"a row more.*export it with a dynamic batch size"):
        record(program, torch.randn(5, 4))
    open_program = torch.export.export(
        model, (torch.randn(5, 4),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    ).module()
    assert record(open_program, torch.randn(5, 4)).graph is not None


def test_compiled_functions_are_followed_and_stay_compiled() -> None:
    compiled: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        compiled.append(graph)
        return graph

    bent = torch.compile(lambda x: 2 * torch.tanh(x), backend=backend)

    class Bends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + bent(self.a(x))

    model, x = nn.Sequential(Bends(), Bends()), torch.randn(3, 4)
    net = recorded(model, x[:2])
    assert len(net) == 2
    assert not net.opaque
    assert not compiled
    torch.testing.assert_close(net(x), model(x))
    assert compiled
    torch.testing.assert_close(drop_blocks(net, [0])(x), model[1](x))
