from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from helpers import randomise_norms
from references.other_data import case
from resnet_paths.data import Examples, digits
from resnet_paths.graph.model_fingerprint import fingerprint
from resnet_paths.models import cifar_resnet
from resnet_paths.network import unroll
from resnet_paths.surgery import drop_blocks, recalibrate_batchnorm
from resnet_paths.tradeoff import (
    Distillation,
    count_flops,
    count_parameters,
    distil,
    distil_best,
    latencies_in_turn,
    latency_by_block,
    measure_latency,
)
from resnet_paths.tradeoff.distillation import distillation_loss


def test_flops_and_parameters_by_hand() -> None:
    model = cifar_resnet(8, widths=(4, 4, 4)).eval()
    x = torch.randn(2, 3, 8, 8)
    stem, block64, block16, block4 = 3 * 4 * 9, 2 * 4 * 4 * 9 * 64, (4 * 4 * 9 * 16) * 2, (4 * 4 * 9 * 4) * 2
    assert count_flops(model, x) == 2 * 2 * (stem * 64 + block64 + block16 + block4 + 4 * 10)
    smaller = drop_blocks(model, [0])
    assert count_flops(model, x) - count_flops(smaller, x) == 2 * 2 * block64
    assert count_parameters(model) - count_parameters(smaller) == 2 * (4 * 4 * 9 + 8)


class Attending(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bij,bj->bi", x, nn.functional.scaled_dot_product_attention(x, x, x)[:, 0])


class Branching(nn.Module):
    """One of two functions, chosen by a value: an operation of a higher order."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda y: self.layer(y), lambda y: self.layer(self.layer(y)), (x,))


COUNTED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "attention": (Attending, (2, 5, 8)),
    "recurrent": (lambda: nn.LSTMCell(4, 6), (3, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3, groups=1), (2, 3, 5, 5)),
    "grouped": (lambda: nn.Conv1d(4, 4, 3, groups=2), (2, 4, 9)),
    "branching": (Branching, (2, 8)),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("kind", COUNTED)
def test_operations_are_those_that_torch_counts(kind: str, inference: bool) -> None:
    make, shape = COUNTED[kind]
    model, x = make().eval(), torch.randn(shape)
    with torch.inference_mode(inference), torch.no_grad():
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(x)
        assert count_flops(model, x) == counter.get_total_flops() > 0


def test_fused_transformer_layers_count_by_their_parts() -> None:
    """Two layers: input and output projections, q k' and its product with v, and two linear maps."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model, (batch, length, width, hidden) = nn.TransformerEncoder(layer, 2).eval(), (3, 5, 8, 16)
    maps = length * (4 * width**2 + 2 * width * hidden)
    assert count_flops(model, torch.randn(batch, length, width)) == 2 * 2 * batch * (maps + 2 * length**2 * width)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.fixture
def quick_latencies() -> None:
    """Disabled here: the timing itself is tested."""


def test_latency_orders_small_and_large() -> None:
    x = torch.randn(8, 3, 32, 32)
    small = measure_latency(cifar_resnet(8).eval(), x, seconds=0.2)
    assert small.batch == 8
    assert small.device == "cpu"
    assert 0 < small.low <= small.median <= small.high
    assert small.runs >= 5


def test_models_in_turn_are_compared_within_their_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine of which every second round is ten times as slow, half the work still takes half the time."""
    whole, half = nn.Identity(), nn.Identity()
    timed: list[nn.Module] = []

    def seconds(call: Any, number: int) -> float:
        model = call.args[0]
        timed.append(model)
        slow = 10.0 if timed.count(model) % 2 else 1.0
        return slow * (2.0 if model is whole else 1.0)

    monkeypatch.setattr("resnet_paths.tradeoff.timing._seconds_a_call", seconds)
    first, second = latencies_in_turn([whole, half], torch.zeros(3, 1), seconds=0.0)
    assert timed[2:] == [whole, half] * 7
    assert (first.low, first.median, first.high) == (2.0, 2.0, 20.0)
    assert (second.low, second.median, second.high) == (1.0, 1.0, 1.0)
    assert second.runs == 7


def test_recalibration_gives_the_statistics_of_the_data() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3)).double()
    batches = [torch.randn(6, 3, 8, 8, dtype=torch.float64) for _ in range(3)]
    model.train()
    model[0].eval()
    assert recalibrate_batchnorm(model, [(x, None) for x in batches]) == 1
    values = [model[0](x).transpose(0, 1).flatten(1) for x in batches]
    together = torch.cat(values, 1)
    assert torch.allclose(model[1].running_mean, together.mean(1), rtol=1e-12)
    assert torch.allclose(model[1].running_var, together.var(1), rtol=1e-12)
    assert model[1].momentum == 0.3
    assert [module.training for module in model.modules()] == [True, False, True]


def test_recalibration_keeps_flags_after_an_exception_and_says_what_is_wrong() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    with pytest.raises(ValueError, match="one of 5"):
        recalibrate_batchnorm(model, [torch.randn(2, 5)])
    assert not any(module.training for module in model.modules())
    assert model[1].momentum == 0.1
    with pytest.raises(ValueError, match="at least one batch"):
        recalibrate_batchnorm(model, [])
    with pytest.warns(UserWarning, match="Linear has no batch norms .* nothing was recalibrated"):
        assert recalibrate_batchnorm(nn.Linear(2, 2), []) == 0


@pytest.mark.slow
def test_latency_by_block_times_every_piece() -> None:
    import torchvision

    net = unroll(torchvision.models.resnet18(num_classes=5).eval())
    found = latency_by_block(net, torch.randn(1, 3, 64, 64), seconds=0.005)
    assert found.blocks == tuple(block.name for block in net)
    assert all(value > 0 for value in (*found.branch, *found.join, found.stem, found.full.median))
    assert [value > 0 for value in found.shortcut] == [block.shortcut != "identity" for block in net]
    pieces = sum(map(sum, (found.branch, found.shortcut, found.join))) + found.stem
    assert found.share == pytest.approx([time / pieces for time in found.branch])


@pytest.mark.slow
def test_latency_by_block_takes_several_inputs() -> None:
    one = case("tokens")
    net = unroll(one.model, one.data.x)
    found = latency_by_block(net, one.data.x, seconds=0.0)
    assert len(found.branch) == len(net)
    assert all(value > 0 for value in (*found.branch, found.stem))


def interrupted(x: torch.Tensor):
    yield x
    raise KeyboardInterrupt


def test_statistics_are_as_before_when_recalibration_does_not_come_to_its_end() -> None:
    model = randomise_norms(cifar_resnet(8, widths=(4, 4, 4)))
    before = fingerprint(model)
    with pytest.raises(KeyboardInterrupt):
        recalibrate_batchnorm(model, interrupted(torch.randn(4, 3, 8, 8)))
    assert fingerprint(model) == before
    with pytest.raises(ValueError, match="at least one batch"):
        recalibrate_batchnorm(model, iter([]))
    assert fingerprint(model) == before


def test_names_to_keep_may_come_from_a_generator() -> None:
    model = randomise_norms(cifar_resnet(8, widths=(4, 4, 4)))
    kept = model.bn1.running_mean.clone()
    assert recalibrate_batchnorm(model, [torch.randn(4, 3, 8, 8)], keep=(name for name in ["bn1"])) == 6
    assert torch.equal(model.bn1.running_mean, kept)


@pytest.mark.slow
def test_measuring_a_model_in_training_mode_does_not_train_it() -> None:
    model, x = randomise_norms(cifar_resnet(8, widths=(4, 4, 4))).train(), torch.randn(4, 3, 8, 8)
    before, state = fingerprint(model), torch.get_rng_state()
    measure_latency(model, x, seconds=0.001)
    latency_by_block(unroll(model), x, seconds=0.0001)
    count_flops(model, x)
    assert fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_the_loss_of_distillation_by_its_formula() -> None:
    """``w T^2 sum_j p_j (log p_j - log q_j) + (1 - w) (-log s_label)``, mean over images."""
    student, teacher = nn.Linear(3, 4).double(), nn.Linear(3, 4).double()
    x, labels = torch.randn(5, 3, dtype=torch.float64), torch.arange(5) % 4
    settings = Distillation(temperature=3.0, weight=0.7)
    p, q = (torch.softmax(model(x) / 3.0, 1) for model in (teacher, student))
    apart = (p * (p / q).log()).sum(1)
    right = torch.softmax(student(x), 1)[torch.arange(5), labels]
    expected = (0.7 * 9 * apart - 0.3 * right.log()).mean()
    data = Examples(x, labels)
    torch.testing.assert_close(distillation_loss(student(x), teacher(x), data, settings), expected)


def test_the_loss_of_distillation_of_other_outputs_by_its_formula() -> None:
    """The mean divergence of positions that count; ``|s - t|^2 / |t|^2`` where outputs are not scores."""
    student, teacher = torch.randn(2, 2, 3, 4, dtype=torch.float64)  # two sequences of three tokens, four scores
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    ids = torch.arange(6).view(2, 3)
    texts = Examples({"input_ids": ids, "attention_mask": mask}, ids)
    settings = Distillation(temperature=3.0, weight=1.0)
    p, q = (torch.softmax(outputs / 3.0, -1) for outputs in (teacher, student))
    expected = 9 * (p * (p / q).log()).sum(-1)[mask.bool()].mean()
    torch.testing.assert_close(distillation_loss(student, teacher, texts, settings), expected)
    pixels = Examples(torch.zeros(2, 1, 4), torch.tensor([[0, 1, 2, -100], [0, 0, -100, 0]]))
    p, q = (torch.softmax(outputs / 3.0, 1) for outputs in (teacher, student))
    expected = 9 * (p * (p / q).log()).sum(1)[pixels.targets >= 0].mean()
    torch.testing.assert_close(distillation_loss(student, teacher, pixels, settings), expected)
    relative = (student - teacher).square().sum() / teacher.square().sum()
    for targets in (torch.randn(2), torch.ones(2, 3), None):
        data = Examples(torch.zeros(2, 5), targets)
        torch.testing.assert_close(distillation_loss(student, teacher, data, settings), relative)
        with pytest.raises(ValueError, match=r"since labels make up 10% of the loss"):
            distil(nn.Linear(5, 2), nn.Linear(5, 2), data)


@pytest.mark.parametrize(("epochs", "lr"), [(4, 0.05), (3, 1e-7), (2, 0.5)])
def test_the_best_state_of_a_distillation_is_the_one_kept(epochs: int, lr: float) -> None:
    data = digits("train").sample(60)
    teacher, student = (cifar_resnet(8, in_channels=1, widths=(4, 4, 4), seed=seed).eval() for seed in (0, 1))
    before = {name: value.clone() for name, value in student.state_dict().items()}
    settings = Distillation(epochs=epochs, lr=lr, shift=0, flip=False, batch_size=16)
    best = distil_best(student, teacher, data, settings=settings)
    able = [index for index, error in enumerate(best.errors) if error <= best.errors[0]]
    assert len(best.losses) == len(best.errors) == epochs + 1
    assert best.kept == min(able, key=lambda index: best.losses[index])
    unchanged = all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert unchanged == (best.kept == 0)
    slow = Distillation(epochs=1, lr=1e-7, shift=0, flip=False, batch_size=16)
    again = distil_best(student, teacher, data, settings=slow)
    assert again.losses[0] == pytest.approx(best.losses[best.kept], rel=1e-6)
