"""Networks over copies of a model: from the same graph, or unrolled again where the copy's forward may differ."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from helpers import randomise_norms
from references.small_families import SMALL
from resnet_paths.landscape import CellSettings, loss_surface, random_direction
from resnet_paths.models import cifar_resnet
from resnet_paths.network import UnrolledNetwork, UnrollError, for_inference, unroll
from resnet_paths.surgery import batch_statistics

FAMILIES = [
    "torchvision-resnet18", "torchvision-vit_b_16", "timm-seresnet18", "timm-swin_tiny_patch4_window7_224",
]  # fmt: skip


def same_graph(one: UnrolledNetwork, other: UnrolledNetwork) -> None:
    """Check that two networks have equal graphs, calls and blocks, each over its own model."""
    for net in (one, other):
        assert all(call.module is net.model.get_submodule(call.path) for call in net.segments.program.root.walk())
    programs = [net.segments.program for net in (one, other)]
    nodes = [[_node(node) for node in program.graph.nodes] for program in programs]
    assert nodes[0] == nodes[1]
    calls = [[_call(call) for call in program.root.walk()] for program in programs]
    assert calls[0] == calls[1]
    cuts = [
        [{name: str(value) for name, value in _cut(cut).items()} for cut in net.segments.cuts] for net in (one, other)
    ]
    assert cuts[0] == cuts[1]
    for name in ("placeholders", "output", "output_path", "opaque", "front_end"):
        assert str(getattr(programs[0], name)) == str(getattr(programs[1], name))
    assert [held.path for held in programs[0].held_attributes] == [held.path for held in programs[1].held_attributes]
    assert [held.name for held in programs[0].held_tensors] == [held.name for held in programs[1].held_tensors]


def _node(node: fx.Node) -> tuple[Any, ...]:
    target = type(node.target) if hasattr(node.target, "module") else node.target
    meta = {key: value.path if key == "call" else str(value) for key, value in node.meta.items()}
    return node.op, node.name, target, str(node.args), str(node.kwargs), meta


def _call(call: Any) -> tuple[Any, ...]:
    parent = None if call.parent is None else call.parent.path
    nest = str((call.args, call.kwargs, call.output, call.nodes))
    return call.path, parent, call.record, call.leaf, nest, [child.path for child in call.children]


def _cut(cut: Any) -> dict[str, Any]:
    return {
        name: sorted(map(str, value)) if isinstance(value, frozenset) else value for name, value in vars(cut).items()
    }


@pytest.mark.parametrize("with_example", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_copy_has_the_graph_that_unrolling_it_finds(name: str, with_example: bool) -> None:
    family = SMALL[name]
    model, x = randomise_norms(family.make()), family.example()
    net = unroll(model, x if with_example else None)
    other = copy.deepcopy(model)
    twin = net.on_copy(other)
    assert twin is not None
    assert twin.model is other
    same_graph(twin, unroll(other, x if with_example else None))
    assert twin.blocks == net.blocks
    with torch.no_grad():
        before = net(x)
        assert torch.equal(twin(x), before)
        for parameter in other.parameters():
            parameter.mul_(1.1)
        assert torch.equal(twin(x), other(x))
        assert torch.equal(net(x), before)
        fast = for_inference(net)(x)
    assert (fast - before).abs().max() <= 1e-10 * before.abs().max()


def test_recorded_graphs_and_closed_methods_move_to_a_copy() -> None:
    class Picks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

        def picked(self, x: torch.Tensor) -> torch.Tensor:
            rows = torch.nonzero(x[:, 0] > 0).flatten()
            return self.c(torch.stack([x[int(row)] for row in rows])).sum() * x

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.a(x).relu()
            return self.picked(x + self.b(x))

    torch.manual_seed(0)
    model, x = Picks(), torch.randn(6, 4)
    net = unroll(model, x)
    other = copy.deepcopy(model)
    twin = net.on_copy(other)
    assert (net.front_end, *net.opaque) == ("record", ":picked")
    assert twin is not None
    same_graph(twin, unroll(other, x))
    with torch.no_grad():
        before = net(x)
        for layer in (other.a, other.c):
            layer.weight.mul_(2)
        assert torch.equal(twin(x), other(x))
        assert torch.equal(net(x), before)


def test_hooks_run_with_the_copys_modules() -> None:
    model = cifar_resnet(8, widths=(2, 2, 2)).eval()
    seen: list[nn.Module] = []
    model.layer1.register_forward_hook(lambda module, args, output: seen.append(module))
    model.layer1.register_forward_pre_hook(lambda module, args: seen.append(module))
    net = unroll(model)
    other = copy.deepcopy(model)
    twin = net.on_copy(other)
    assert twin is not None
    twin(torch.randn(1, 3, 8, 8))
    assert seen == [other.layer1] * 2


def test_nothing_runs_the_model_again() -> None:
    """Its graph was compared with it when it was unrolled."""
    model = cifar_resnet(8, widths=(2, 2, 2)).eval()
    net = unroll(model, torch.randn(1, 3, 8, 8))
    calls: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_pre_hook(lambda module, args: calls.append(module))
    try:
        for_inference(net)
        batch_statistics(net)
    finally:
        handle.remove()
    assert not calls


def test_a_copy_in_another_mode_is_followed_again() -> None:
    model = cifar_resnet(8, widths=(2, 2, 2)).eval()
    twin = unroll(model).on_copy(copy.deepcopy(model))
    assert twin is not None
    twin.model.train()
    x = torch.randn(4, 3, 8, 8)
    values = twin(x)
    other = copy.deepcopy(model).train()
    assert torch.equal(values, other(x))


class Reader(nn.Module):
    """A block whose forward inspects a module that folding a norm replaces."""

    def __init__(self, look: Callable[[Reader, torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.last, self.head, self.look = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3), look

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.look(self, x, self.norm(self.conv(x)))
        return self.head((x + self.last(y.sigmoid())).mean((2, 3)))


LOOKS: dict[str, Callable[[Reader, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "nothing": lambda own, x, y: y,
    "class": lambda own, x, y: y.relu() if isinstance(own.norm, nn.BatchNorm2d) else y,
    "absent bias": lambda own, x, y: y.relu() if own.conv.bias is None else y,
    "weight": lambda own, x, y: y + F.conv2d(x, own.conv.weight, padding=1),
    "norm's weight": lambda own, x, y: y * own.norm.weight[:, None, None],
    "statistics": lambda own, x, y: y - own.norm.running_mean[:, None, None],  # type: ignore[index]
    "plain attribute": lambda own, x, y: y * own.norm.eps * 1e5,
}


def reader(look: str) -> tuple[Reader, torch.Tensor]:
    torch.manual_seed(0)
    model = Reader(LOOKS[look])
    randomise_norms(model)
    return model.eval(), torch.randn(8, 4, 6, 6)


@pytest.mark.parametrize("with_example", [False, True])
@pytest.mark.parametrize("look", LOOKS)
def test_forwards_that_look_at_a_norm_or_its_convolution_give_the_same_numbers_when_folded(
    look: str, with_example: bool
) -> None:
    model, x = reader(look)
    x = x.double()
    single = unroll(model, x.float() if with_example else None)
    expected = copy.deepcopy(model).double()(x)
    for fast in (
        for_inference(single, dtype=torch.float64),
        for_inference(unroll(model.double(), x if with_example else None)),
    ):
        with torch.inference_mode():
            assert (fast(x) - expected).abs().max() <= 1e-10


@pytest.mark.parametrize("look", ["weight", "norm's weight", "statistics"])
def test_only_what_the_forward_reads_is_left_unfolded(look: str) -> None:
    model, _ = reader(look)
    stem = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    fast = for_inference(unroll(nn.Sequential(stem, model).eval())).model
    assert isinstance(fast[0][1], nn.Identity)  # type: ignore[index]
    assert isinstance(fast[1].norm, nn.BatchNorm2d)  # type: ignore[index]


class Indexed(nn.Module):
    """A block with a constant of NumPy in its forward."""

    def __init__(self, constant: Any) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.constant = constant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.last(self.norm(self.conv(x))[:, self.constant])


@pytest.mark.parametrize(("constant", "folds"), [([*np.array([2, 0, 1, 3])], True), (np.array([2, 0, 1, 3]), False)])
def test_nothing_is_folded_where_a_copy_may_hold_another_constant(constant: Any, folds: bool) -> None:
    torch.manual_seed(0)
    model = randomise_norms(Indexed(constant)).eval().double()
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    fast = for_inference(unroll(model, x))
    assert isinstance(fast.model.norm, nn.Identity) == folds
    with torch.inference_mode():
        assert (fast(x) - model(x)).abs().max() <= 1e-10


def test_a_pickle_of_a_fast_network_gives_the_same_numbers_or_is_refused() -> None:
    for look in LOOKS:
        model, x = reader(look)
        fast = for_inference(unroll(model.double()))
        with torch.inference_mode():
            if look in ("class", "absent bias"):
                with pytest.raises(UnrollError, match="pickle the original network instead"):
                    copy.copy(fast)
            else:
                assert torch.equal(copy.copy(fast)(x.double()), fast(x.double()))


@pytest.mark.parametrize("batchnorm", ["frozen", "recalibrated"])
@pytest.mark.parametrize("look", LOOKS)
def test_surfaces_of_such_models_are_right(look: str, batchnorm: str) -> None:
    model, x = reader(look)
    model, data = model.double(), (x.double(), torch.arange(8) % 3)
    surfaces = [
        loss_surface(
            model, data, directions=[random_direction(model, seed=1)], x=[-0.5, 0, 0.5], progress=False,
            settings=CellSettings(batchnorm=batchnorm, fast=fast),  # type: ignore[arg-type]
        )
        for fast in (True, False)
    ]  # fmt: skip
    torch.testing.assert_close(*(torch.as_tensor(surface.values["loss"]) for surface in surfaces), rtol=1e-10, atol=0)


@pytest.mark.parametrize("look", LOOKS)
def test_batch_statistics_of_such_models_are_those_of_a_model_without_running_ones(look: str) -> None:
    model, x = reader(look)
    if look == "statistics":
        pytest.skip("such a model has no value without them")
    other = copy.deepcopy(model)
    other.norm.track_running_stats = False
    other.norm.running_mean = other.norm.running_var = other.norm.num_batches_tracked = None
    assert torch.equal(batch_statistics(unroll(model))(x), other(x))


class Held(nn.Module):
    """A block that reads a plain attribute, a table and a constant."""

    def __init__(self, scale: float = 2.0, table: int = 3) -> None:
        super().__init__()
        self.a, self.scale = nn.Linear(4, 4), scale
        self.register_buffer("table", torch.arange(4) * table)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shift = torch.tensor(self.table.sum().item())
        return x + self.scale * self.a(x) + shift


def test_a_copy_that_differs_in_what_the_graph_holds_gets_no_network() -> None:
    model = Held().eval()
    net = unroll(model)
    assert net.on_copy(Held().eval()) is not None
    assert net.on_copy(Held(scale=3.0).eval()) is None
    assert net.on_copy(Held(table=4).eval()) is None
    assert net.on_copy(Held().double().eval()) is None
    assert net.on_copy(Held().train()) is None
    assert net.on_copy(nn.Sequential(Held()).eval()) is None
    wide = Held().eval()
    wide.a = nn.Linear(4, 4, bias=False).eval()
    assert net.on_copy(wide) is None
    assert net.on_copy(wide, ["a"]) is not None


def test_an_exchanged_module_that_the_graph_looks_into_gets_no_network() -> None:
    model = nn.Sequential(Held(), nn.Linear(4, 4)).eval()
    net = unroll(model)
    other = copy.deepcopy(model)
    assert net.on_copy(other, ["0.a", "1"]) is not None
    assert net.on_copy(other, ["0"]) is None
