"""The closed-form repair: identities, a literal reference, many kinds of model; what ships is what was measured."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import randomise_norms
from references.refit import refitted as literally_refitted
from resnet_paths import drop_blocks, unroll
from resnet_paths.data import ImageData, digits
from resnet_paths.models import cifar_resnet
from resnet_paths.surgery import RefitSettings, Refitter, refit_blocks
from resnet_paths.surgery.least_squares import LeastSquares
from resnet_paths.surgery.linear_layers import features_of, matrix_of, positions_of, rows_of

EVERY_ROW = RefitSettings(rows_per_feature=10**6, batch_size=5, ridge=1e-3, held_out=0.3)


def images(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small(depth: int = 14, **options: object) -> nn.Module:
    options = {"in_channels": 1, "widths": (3, 4, 5)} | options
    return randomise_norms(cifar_resnet(depth, seed=0, **options)).double().eval()  # type: ignore[arg-type]


def blocks_of(model: nn.Module) -> list[nn.Module]:
    return [block for stage in (model.layer1, model.layer2, model.layer3) for block in stage]


# identities


def test_nothing_dropped_changes_nothing() -> None:
    model = small()
    result = refit_blocks(model, [], images(12, 1, 8, 8), settings=EVERY_ROW)
    assert result.repair == "plain"
    assert result.step == 0
    assert not result.blocks
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, result.model.state_dict()[name])


def test_an_endless_ridge_is_the_plain_drop() -> None:
    model, x = small(), images(20, 1, 8, 8)
    settings = RefitSettings(ridge=1e14, batch_size=5, steps=(1.0,))
    result = Refitter(unroll(model), x, settings=settings)([1, 4])
    assert abs(result.steps[1.0] - result.steps[0.0]) < 1e-8 * (1 + result.steps[0.0])


@pytest.mark.parametrize("dropped", [[1], [1, 3], [4, 5], [1, 2, 4]])
def test_a_fit_never_raises_the_error_on_its_own_images(dropped: list[int]) -> None:
    for block in refit_blocks(small(), dropped, images(30, 1, 8, 8), settings=EVERY_ROW).blocks:
        assert block.reason or block.after <= block.before * (1 + 1e-9)


class Linear(nn.Module):
    """A block whose branch is linear in what it reads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layer(x)


def test_a_dropped_branch_that_is_linear_in_a_kept_one_is_restored_exactly() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), Linear(5), Linear(5), Linear(5), nn.Linear(5, 4)).double().eval()
    x = images(40, 6)
    result = refit_blocks(model, [1, 2], x, settings=RefitSettings(ridge=0.0, rows_per_feature=1000))
    assert result.repair == "refitted"
    assert result.step == 1
    assert len(result.blocks) == 1
    assert result.blocks[0].target == "4"
    other = images(9, 6, seed=1)
    assert torch.allclose(result.model(other), model(other), atol=1e-10)


def test_the_solution_is_the_one_written_out() -> None:
    """Against tall matrices, the model's own forward and norms that are not folded, whatever the batches."""
    full, x = small(14, widths=(4, 6, 8)), images(40, 1, 8, 8)
    settings = RefitSettings(rows_per_feature=10**6, batch_size=7, ridge=1e-3, steps=(1.0,), held_out=0.3)
    refitter = Refitter(unroll(full), x, settings=settings)
    result = refitter([1, 4])
    assert result.repair == "refitted"
    bare = copy.deepcopy(full)
    for block in (blocks_of(bare)[1], blocks_of(bare)[4]):
        nn.init.zeros_(block.bn2.weight)
        nn.init.zeros_(block.bn2.bias)
    fitted = blocks_of(bare)
    # block 3 is directly before 4, but block 4's shortcut is not an identity (option A pads), so 3 has its own sum as
    # target
    plan = [(fitted[index], target) for index, target in ((0, 1), (2, 2), (3, 3), (5, 5))]
    literally_refitted(full, bare, plan, blocks_of(full), refitter.fitted_images.take(slice(None)), 1e-3)
    assert [(block.block, block.target) for block in result.blocks if not block.reason] == [
        ("layer1.0", "layer1.1"), ("layer2.0", "layer2.0"), ("layer2.1", "layer2.1"), ("layer3.1", "layer3.1")
    ]  # fmt: skip
    other = images(11, 1, 8, 8, seed=3)
    assert torch.allclose(result.model(other), bare(other), rtol=1e-8, atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_rows_of_features_give_the_layer(data: st.DataObject) -> None:
    """``features @ matrix + bias`` is the layer's output at any positions, for every kind of convolution."""
    dimensions = data.draw(st.integers(0, 3))
    groups = data.draw(st.sampled_from([1, 2])) if dimensions else 1
    if not dimensions:
        layer: nn.Module = nn.Linear(4, 6)
        x = images(3, 5, 4)
    else:
        kernel, stride, dilation = (data.draw(st.integers(1, most)) for most in (3, 2, 2))
        mode = data.draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
        padding = data.draw(st.integers(0, 2))
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        layer = kind(4, 6, kernel, stride, padding, dilation, groups, padding_mode=mode)
        x = images(2, 4, *[6, 5, 7][:dimensions])
    layer = layer.double()
    output = layer(x)
    count = positions_of(layer, output)
    positions = torch.randperm(count)[: data.draw(st.integers(1, count))]
    rows = features_of(layer, x, positions) @ matrix_of(layer)  # (groups, rows, outputs per group)
    rebuilt = rows.permute(1, 0, 2).flatten(1) + layer.bias
    assert torch.allclose(rebuilt, rows_of(layer, output, positions), atol=1e-10)


def test_equations_that_rows_do_not_decide_keep_the_old_weights() -> None:
    problem = LeastSquares(1, 3, 1)
    problem.add(torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]), torch.tensor([[[2.0], [3.0]]]))
    solution = problem.solve(torch.full((1, 3, 1), 7.0), ridge=0.0)
    assert torch.allclose(solution.flatten(), torch.tensor([2.0, 3.0, 7.0], dtype=torch.float64))
    assert problem.objective(solution) < 1e-20


# what is shipped is what was measured


def mlp_mixer() -> tuple[nn.Module, tuple[int, ...]]:
    mixer = pytest.importorskip("timm.models.mlp_mixer")
    return mixer.MlpMixer(num_classes=5, img_size=32, patch_size=8, num_blocks=3, embed_dim=16), (3, 32, 32)


def vit() -> tuple[nn.Module, tuple[int, ...]]:
    timm = pytest.importorskip("timm")
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 5}
    return timm.create_model("vit_tiny_patch16_224", **options), (3, 32, 32)


def convnext() -> tuple[nn.Module, tuple[int, ...]]:
    timm = pytest.importorskip("timm")
    model = timm.create_model("convnext_atto", dims=(8, 8, 12, 12), depths=(1, 2, 2, 1), num_classes=5)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model, (3, 64, 64)


def swin() -> tuple[nn.Module, tuple[int, ...]]:
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 8, [2, 2], [2, 2], [3, 3], num_classes=5), (3, 32, 32)


def torchvision_vit() -> tuple[nn.Module, tuple[int, ...]]:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5), (3, 32, 32)


class Functional(nn.Module):
    """A branch whose last layer is a function of parameters that the block holds itself."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.last = nn.Parameter(torch.randn(width, width) / width)
        self.shift = nn.Parameter(torch.randn(width)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + nn.functional.linear(torch.tanh(self.first(x)), self.last, bias=self.shift)


def functional() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(*(Functional(6, bias) for bias in (True, False, True, False)), nn.Linear(6, 5)), (6,)


def mobilenet() -> tuple[nn.Module, tuple[int, ...]]:
    from torchvision.models import MobileNetV2

    setting = [[1, 8, 1, 1], [2, 8, 3, 2], [2, 12, 3, 2]]
    return MobileNetV2(5, 0.5, setting, round_nearest=4, dropout=0.2), (3, 32, 32)


def bottleneck() -> tuple[nn.Module, tuple[int, ...]]:
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [2, 2, 1, 1], num_classes=5, groups=2, width_per_group=8), (3, 32, 32)


class Depthwise(nn.Module):
    """A branch that ends in a depthwise convolution, beside a projection."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(inside, outside, 1)
        self.depthwise = nn.Conv2d(outside, outside, 3, padding=1, groups=outside, bias=False)
        self.norm = nn.BatchNorm2d(outside)
        self.project = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(x) + self.norm(self.depthwise(torch.relu(self.expand(x))))


def depthwise() -> tuple[nn.Module, tuple[int, ...]]:
    blocks = [Depthwise(3, 4), Depthwise(4, 4), Depthwise(4, 6), Depthwise(6, 6)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)), (3, 8, 8)


def preactivation() -> tuple[nn.Module, tuple[int, ...]]:
    return cifar_resnet(20, widths=(4, 4, 6), preactivation=True, shortcut="B", seed=0), (3, 8, 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "dropped", "least"),
    [
        (preactivation, [1, 4, 5], 6), (bottleneck, [1, 3], 4), (mobilenet, [0], 1), (depthwise, [1], 3),
        (convnext, [1, 3], 3), (vit, [2, 3], 3), (swin, [1, 2], 3),
        (torchvision_vit, [2, 3], 3), (functional, [1], 3), (mlp_mixer, [1, 4], 4),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)  # fmt: skip
def test_models_of_many_kinds_are_repaired_and_what_is_shipped_is_what_was_measured(
    build: Callable[[], tuple[nn.Module, tuple[int, ...]]], dropped: list[int], least: int
) -> None:
    """The error of every fitted sum falls; the finished model, norms and all, is the folded network that was fitted."""
    torch.manual_seed(0)
    model, shape = build()
    model = randomise_norms(model).double().eval()
    x = images(60, *shape)
    net = unroll(model, x[:2])
    result = Refitter(net, x, settings=RefitSettings(batch_size=16, rows_per_feature=20))(dropped)
    fitted = [block for block in result.blocks if not block.reason]
    assert len(fitted) >= least, result.to_pandas()
    assert all(block.after <= block.before * (1 + 1e-9) for block in fitted)
    assert sum(block.after for block in fitted) < 0.9 * sum(block.before for block in fitted)
    if "refitted" in result.divergences:
        step = min(result.steps, key=lambda one: result.steps[one])
        assert result.divergences["refitted"] == pytest.approx(result.steps[step], rel=1e-6)
    assert result.divergences["plain"] == pytest.approx(result.steps[0.0], rel=1e-6)
    assert result.divergences[result.repair] == min(result.divergences.values())
    smaller = drop_blocks(net, dropped)
    assert {name: tensor.shape for name, tensor in result.model.state_dict().items()} == {
        name: tensor.shape for name, tensor in smaller.state_dict().items()
    }


def test_a_norm_that_lets_nothing_through_is_opened_and_one_without_weights_takes_the_constant() -> None:
    model = small()
    nn.init.zeros_(blocks_of(model)[0].bn2.weight)
    blocks_of(model)[2].bn2 = nn.BatchNorm2d(4, affine=False).double().eval()
    result = refit_blocks(model, [1], images(60, 1, 8, 8), settings=EVERY_ROW)
    assert result.repair == "refitted"
    assert result.divergences["refitted"] == pytest.approx(result.steps[result.step], rel=1e-6)
    assert blocks_of(result.model)[0].bn2.weight.all()


def test_statistics_are_those_of_the_repaired_network() -> None:
    """So that fine-tuning starts from the network that was measured: in training mode it computes nearly the same."""
    model, x = small(), images(64, 1, 8, 8)
    result = refit_blocks(model, [1], x, settings=RefitSettings(held_out=0.1, batch_size=64))
    assert result.repair == "refitted"
    with torch.no_grad():
        expected = result.model(x)
        for block in blocks_of(result.model)[2:]:  # those that were fitted; others have random statistics
            block.bn2.train()
        got = result.model(x)
    assert float((got - expected).abs().max() / expected.abs().max()) < 0.1


# the choice


@pytest.mark.slow
def test_the_repair_is_never_worse_than_the_drop_on_images_kept_apart() -> None:
    """With hardly any images a full step makes it worse, and so a shorter one, or none, is taken."""
    model = small(20, widths=(6, 8, 10))
    steps = set()
    for seed in range(4):
        result = refit_blocks(
            model, [3], images(6, 1, 8, 8, seed=seed), settings=RefitSettings(seed=seed, held_out=0.5)
        )
        assert result.divergences[result.repair] <= result.divergences["plain"]
        steps.add(result.step)
        assert result.repair in result.reason or result.repair == "plain"
    assert min(steps) < 1


def test_groups_stay_together() -> None:
    groups = torch.arange(30) // 3
    refitter = Refitter(unroll(small()), images(30, 1, 8, 8), groups=groups, settings=RefitSettings(held_out=0.3))
    assert (refitter.fitted_images.count, refitter.held_out_images.count) == (21, 9)
    fitted, apart = refitter.fitted_images.take(slice(None)), refitter.held_out_images.take(slice(None))
    x = images(30, 1, 8, 8)
    of = [{int(groups[(x == one).all(dim=(1, 2, 3))]) for one in part} for part in (fitted, apart)]
    assert not of[0] & of[1]


@pytest.mark.slow
def test_streams_and_kept_states_give_the_same() -> None:
    model, x = small(), images(24, 1, 8, 8)
    kept, streamed = (
        Refitter(unroll(model), x, settings=RefitSettings(batch_size=5, memory=memory))([1, 4]) for memory in (1e9, 0.0)
    )
    assert kept.steps == pytest.approx(streamed.steps, rel=1e-9)


@pytest.mark.slow
def test_a_set_is_fitted_the_same_after_others() -> None:
    """A search takes over fits of the blocks before the first that differs."""
    net, x = unroll(small()), images(24, 1, 8, 8)
    refitter = Refitter(net, x, settings=EVERY_ROW)
    for dropped in ([1], [1, 3], [3], [1, 5], [0, 1, 3]):
        assert refitter.divergence(dropped) == pytest.approx(
            Refitter(net, x, settings=EVERY_ROW).divergence(dropped), rel=1e-9
        )


def test_a_model_of_one_number_per_example() -> None:
    model = nn.Sequential(randomise_norms(cifar_resnet(8, in_channels=1, num_classes=1)), nn.Flatten(0)).double().eval()
    result = refit_blocks(model, [1], images(20, 1, 8, 8))
    assert result.divergences[result.repair] <= result.divergences["plain"]


class Yielding(nn.Module):
    """The identity, in which other threads get a turn."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.002)
        return x * 1


@pytest.mark.slow
@pytest.mark.parametrize("memory", [1e9, 0.0])
def test_threads_refit_sets_identically(memory: float) -> None:
    """Bit for bit: threads share the full network's states and the fits of single blocks."""
    model = small()
    model.layer3[1].conv1 = nn.Sequential(model.layer3[1].conv1, Yielding()).eval()
    net, x, other = unroll(model), images(24, 1, 8, 8), images(5, 1, 8, 8, seed=4)
    sets = [[1], [1, 3], [3], [1, 5], [0, 1, 3], [1, 3, 4], [2], [0, 5]]
    settings = RefitSettings(batch_size=5, memory=memory)

    def scores(threads: int) -> list[tuple[float, torch.Tensor]]:
        refitter = Refitter(net, x, settings=settings)
        on_others = refitter.on(other)
        on_others([2])  # so that threads find a copy of the network to take
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda dropped: (refitter.divergence(dropped), on_others(dropped)), sets))

    for (one, outputs), (other_one, other_outputs) in zip(scores(1), scores(3), strict=True):
        assert one == other_one
        assert torch.equal(outputs, other_outputs)


def test_outputs_of_a_set_on_other_images_are_those_of_its_finished_model() -> None:
    refitter = Refitter(unroll(small()), images(30, 1, 8, 8), settings=RefitSettings(batch_size=8))
    other = images(9, 1, 8, 8, seed=4)
    on_others = refitter.on(other)
    for dropped in ([1], [1, 4]):
        result = refitter(dropped)
        assert result.repair != "recalibrated"
        assert torch.allclose(on_others(dropped), result.model(other), rtol=1e-8, atol=1e-8)


# what is given, and what is left as it was


@pytest.mark.slow
def test_drop_blocks_repairs_where_it_is_given_images() -> None:
    model, data = small(), digits("train").sample(60)
    data = data.to(dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    repaired = drop_blocks(model, [1], refit=data)
    expected = refit_blocks(model, [1], data).model
    x = data.x[:5]
    assert torch.equal(repaired(x), expected(x))
    assert not torch.equal(repaired(x), drop_blocks(model, [1])(x))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    same = drop_blocks(model, [1], refit=data, inplace=True)
    assert same is model
    assert torch.equal(model(x), expected(x))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tensor", "batches", "loader", "images"])
def test_images_come_with_labels_or_without(kind: str) -> None:
    model, x = small(), images(20, 1, 8, 8)
    sources = {
        "tensor": x,
        "batches": [x[:8], x[8:]],
        "loader": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.arange(20)), batch_size=6),
        "images": ImageData(x, torch.zeros(20).long(), ("one",), (0.0,), (1.0,), "x", torch.float64),
    }
    expected = Refitter(unroll(model), x, settings=EVERY_ROW).divergence([1])
    assert Refitter(unroll(model), sources[kind], settings=EVERY_ROW).divergence([1]) == pytest.approx(
        expected, rel=1e-9
    )


@pytest.mark.slow
def test_hugging_face_models_take_mappings() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
    )
    model = randomise_norms(transformers.ViTForImageClassification(config)).double().eval()
    x = {"pixel_values": images(30, 3, 8, 8)}
    result = refit_blocks(model, [1, 2], [x], example_input={"pixel_values": x["pixel_values"][:2]})
    assert [block.reason for block in result.blocks] == [""] * 4
    assert result.divergences[result.repair] <= result.divergences["plain"]


def test_half_precision_is_fitted_in_single() -> None:
    model = small().to(torch.bfloat16)
    result = refit_blocks(model, [1], images(40, 1, 8, 8), settings=RefitSettings(batch_size=20))
    assert {parameter.dtype for parameter in result.model.parameters()} == {torch.bfloat16}
    assert result.repair == "refitted"


class Shared(nn.Module):
    """One layer at the end of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.last(torch.relu(self.first(x)))
        x = x + self.second(x)
        return x + self.last(torch.relu(x))


class Squeezed(nn.Module):
    """A branch that ends in a gate computed from it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gate = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(torch.relu(x))
        return x + y * torch.sigmoid(self.gate(y))


@pytest.mark.parametrize(
    ("model", "dropped", "word"),
    [
        (Shared(), [1], "more than once"),
        (nn.Sequential(Linear(4), Squeezed(), nn.Linear(4, 2)), [0], "several values"),
    ],
)
def test_what_cannot_be_fitted_is_left_and_says_why(model: nn.Module, dropped: list[int], word: str) -> None:
    result = refit_blocks(model.double().eval(), dropped, images(12, 4))
    assert [word in block.reason for block in result.blocks if block.reason and "shortcut" not in block.reason]
    assert all(word in block.reason or "shortcut" in block.reason for block in result.blocks)
    assert result.repair == "plain"
    assert "could be refitted" in result.reason


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda: refit_blocks(small().train(), [1], images(8, 1, 8, 8)), "eval"),
        (lambda: refit_blocks(small(), [1], images(1, 1, 8, 8)), "2 groups"),
        (lambda: refit_blocks(small(), [1], images(4, 1, 8, 8), groups=[0, 1]), "group for each"),
        (lambda: refit_blocks(small(), [1], images(8, 1, 8, 8) * torch.nan), "NaN for 8 of 8"),
        (lambda: RefitSettings(held_out=0.0), "held_out"),
        (lambda: RefitSettings(steps=(0.5, 2.0)), "steps"),
    ],
)
def test_impossible_requests_are_refused_in_one_line(change: Callable[[], object], told: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=told) as caught:
        change()
    assert "\n" not in str(caught.value)


def test_no_warning_for_models_without_norms() -> None:
    model = nn.Sequential(Linear(4), Linear(4), nn.Linear(4, 2)).double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refit_blocks(model, [1], images(12, 4))
