"""Recording does not change a training run, and the records equal the results of the analyses."""

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers import randomise_norms
from resnet_paths import cifar_resnet, load_data, unroll
from resnet_paths.callbacks import PathRecorder, path_statistics, to_tensorboard, to_wandb
from resnet_paths.paths import gradient_by_length
from resnet_paths.training import Recipe, train

DATA = load_data("digits", "train", limit=48)


class Dropping(nn.Module):
    """A residual model with everything that recording could disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.body = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0)
        self.drop = nn.Dropout(0.3)
        self.seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.body(x))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    named = {name: value.clone() for name, value in model.state_dict().items()}
    return named | {f"grad {n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def trained(
    hooked: Callable[[nn.Module, torch.optim.Optimizer], Any], steps: int = 5
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    torch.manual_seed(0)
    model = Dropping()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()
    with hooked(model, optimiser):
        for _ in range(steps):
            rows = torch.randint(len(DATA), (16,))
            nn.functional.cross_entropy(model(DATA.x[rows]), DATA.labels[rows]).backward()
            optimiser.step()
            optimiser.zero_grad()
    assert all(module.training for module in model.modules())
    nn.functional.cross_entropy(model(DATA.x), DATA.labels).backward()
    return state(model), torch.get_rng_state()


@contextmanager
def nothing(model: nn.Module, optimiser: torch.optim.Optimizer) -> Iterator[None]:
    yield


def test_training_is_the_same_bit_for_bit() -> None:
    recorders = []

    def recorded(model: nn.Module, optimiser: torch.optim.Optimizer) -> Any:
        recorders.append(PathRecorder(model, DATA.x[:4], DATA.labels[:4], every=2, draws=2))
        return recorders[0].attach(optimiser)

    plain, random_state = trained(nothing)
    watched, watched_random_state = trained(recorded)
    assert same(plain, watched)
    assert torch.equal(random_state, watched_random_state)
    assert [found.step for found in recorders[0].history] == [2, 4]


def test_the_comparison_would_see_a_careless_recorder() -> None:
    @contextmanager
    def careless(model: nn.Module, optimiser: torch.optim.Optimizer) -> Iterator[None]:
        with torch.no_grad():
            model(DATA.x)  # moves the running statistics, draws a dropout mask
        yield

    plain, _ = trained(nothing)
    watched, _ = trained(careless)
    assert not same(plain, watched)


def test_a_model_is_left_unchanged_also_after_an_error() -> None:
    model = Dropping().train()
    model.body.layer1.eval()  # a part frozen by the user
    nn.functional.cross_entropy(model(DATA.x), DATA.labels).backward()
    recorder = PathRecorder(model, DATA.x[:4], DATA.labels[:4], draws=0)
    flags = [module.training for module in model.modules()]
    before, numbers = state(model), torch.get_rng_state()
    recorder.record()

    calls = iter(range(2))

    def fails(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        torch.rand(3)
        if next(calls) == 1:
            raise RuntimeError("in the loss")
        return output.sum()

    broken = PathRecorder(model, DATA.x[:4], DATA.labels[:4], loss=fails, draws=0)
    with pytest.raises(RuntimeError, match="in the loss"):
        broken.record()
    assert [module.training for module in model.modules()] == flags
    assert same(before, state(model))
    assert torch.equal(numbers, torch.get_rng_state())
    assert broken.history == []


def test_recording_inside_autocast_and_inference_mode_gives_the_same_numbers() -> None:
    model = Dropping().eval()
    recorder = PathRecorder(model, DATA.x[:4], DATA.labels[:4], draws=0)
    expected = recorder.record().share
    close = {"rtol": 1e-4, "atol": 1e-6}  # float32; bfloat16 would be off by some 1e-2
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_allclose(recorder.record().share, expected, **close)
    with torch.inference_mode():
        np.testing.assert_allclose(recorder.record().share, expected, **close)


def test_train_takes_a_recorder() -> None:
    def run(watch: bool) -> tuple[dict[str, torch.Tensor], list[int]]:
        model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0)
        recorder = PathRecorder(model, DATA.x[:4], DATA.labels[:4], draws=0)
        recipe = Recipe(epochs=2, batch_size=16, shift=1)
        train(model, DATA, recipe, progress=False, after_epoch=recorder if watch else None)
        return state(model), [found.step for found in recorder.history]

    plain, nothing_recorded = run(False)
    watched, steps = run(True)
    assert same(plain, watched)
    assert (nothing_recorded, steps) == ([], [0, 1])


def test_numbers_are_those_of_the_analyses() -> None:
    model = randomise_norms(cifar_resnet(14, in_channels=1, widths=(3, 4, 5), seed=0)).double().eval()
    net, x, target = unroll(model), DATA.x[:5].double(), DATA.labels[:5]
    found = path_statistics(net, x, target, draws=2)
    split = gradient_by_length(net, x, target)
    gradient = torch.autograd.grad(*_loss(model, x, target))[0]
    torch.testing.assert_close(split.gradient.sum(0), gradient, rtol=1e-10, atol=1e-14)

    expected = [float((split.gradient[k] * gradient).sum() / gradient.square().sum()) for k in range(len(net) + 1)]
    np.testing.assert_allclose(found.share, expected, rtol=1e-9, atol=1e-14)
    assert found.share.sum() == pytest.approx(1.0, abs=1e-10)
    assert found.mean_length == pytest.approx(sum(k * share for k, share in enumerate(expected)))
    assert found.effective_length is not None
    assert 0 < found.effective_length < len(net)
    assert found.residual < 1e-12


def _loss(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    x = x.clone().requires_grad_()
    return nn.functional.cross_entropy(model(x), target, reduction="sum"), [x]


def test_the_mean_length_is_the_slope_of_the_gradient_in_a_common_gate() -> None:
    """``sum_k k <G_k, G> / |G|^2`` is a derivative: G(z) = sum_k z^k G_k at frozen activations, here by hand."""
    model = randomise_norms(cifar_resnet(8, in_channels=1, widths=(3, 4, 5), seed=1)).double().eval()
    net, x, target = unroll(model), DATA.x[:3].double(), DATA.labels[:3]
    split = gradient_by_length(net, x, target)

    def at(z: float) -> torch.Tensor:
        powers = z ** torch.arange(len(net) + 1, dtype=torch.float64)
        return (split.gradient * powers.view(-1, 1, 1, 1, 1)).sum(0)

    slope = (at(1 + 1e-5) - at(1 - 1e-5)) / 2e-5
    expected = float((slope * at(1.0)).sum() / at(1.0).square().sum())
    assert path_statistics(net, x, target, draws=0).mean_length == pytest.approx(expected, rel=1e-6)


def test_branch_ratios_against_hooks() -> None:
    model = randomise_norms(cifar_resnet(8, in_channels=1, widths=(3, 4, 5), seed=2)).double().eval()
    entered: list[torch.Tensor] = []
    for block in (model.layer1[0], model.layer2[0], model.layer3[0]):
        block.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0].clone()))
    x = DATA.x[:4].double()
    with torch.no_grad():
        model(x)
    expected = []
    for block, y in zip((model.layer1[0], model.layer2[0], model.layer3[0]), list(entered), strict=True):
        with torch.no_grad():
            branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(y)))))
            short = block.shortcut(y) if getattr(block, "shortcut", None) is not None else y
        expected.append(float((branch.flatten(1).norm(dim=1) / short.flatten(1).norm(dim=1)).mean()))
    found = path_statistics(unroll(model), x, DATA.labels[:4], draws=0)
    np.testing.assert_allclose(found.branch_ratio, expected, rtol=1e-10)


def test_scalars_name_everything_once_and_history_is_a_table() -> None:
    model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0)
    kept: list[tuple[dict[str, float], int]] = []
    recorder = PathRecorder(
        model, DATA.x[:4], DATA.labels[:4], draws=2, loggers=[lambda numbers, step: kept.append((dict(numbers), step))]
    )
    assert recorder.to_pandas().empty
    recorder.record(7)
    recorder.record()
    assert [step for _, step in kept] == [7, 8]
    assert len(kept[0][0]) == 3 + 2 * 4 + 3
    table = recorder.to_pandas()
    assert len(table) == 2 * len(kept[0][0])
    shares = table[(table["step"] == 7) & table["name"].str.startswith("paths/share/")]["value"]
    assert shares.sum() == pytest.approx(1.0, abs=1e-5)


def test_invalid_uses_say_what_to_do() -> None:
    model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0)
    with pytest.raises(ValueError, match="expected every to be an integer of at least 1"):
        PathRecorder(model, DATA.x, DATA.labels, every=0)
    recorder = PathRecorder(model, DATA.x[:2], DATA.labels[:2], draws=0)
    with pytest.raises(ValueError, match="another"):
        recorder(0, copy.deepcopy(model))
    with pytest.raises(TypeError, match="SummaryWriter"):
        to_tensorboard(object())
    with pytest.raises(TypeError, match=r"wandb\.init"):
        to_wandb(object())


def test_tensorboard_holds_the_curves(tmp_path: Any) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0)
    with SummaryWriter(tmp_path) as writer:
        recorder = PathRecorder(model, DATA.x[:2], DATA.labels[:2], draws=0, loggers=[to_tensorboard(writer)])
        for step in (3, 5):
            recorder.record(step)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    curve = events.Scalars("paths/mean_length")
    assert [event.step for event in curve] == [3, 5]
    assert curve[0].value == pytest.approx(recorder.history[0].mean_length, rel=1e-6)


def test_wandb_is_called_as_it_defines_itself() -> None:
    """Against wandb's own signatures where it is installed: the names and arguments used here exist there."""
    wandb = pytest.importorskip("wandb")
    import inspect

    log, define = inspect.signature(wandb.Run.log), inspect.signature(wandb.Run.define_metric)
    log.bind(None, {"paths/step": 1})
    define.bind(None, "paths/*", step_metric="paths/step")


def test_the_python_random_state_is_not_touched() -> None:
    model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0)
    before, numpy_before = random.getstate(), np.random.get_state()[1].copy()
    PathRecorder(model, DATA.x[:2], DATA.labels[:2]).record()
    assert random.getstate() == before
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)


class Words(nn.Module):
    """A language model of two blocks, whose inputs are tokens: they have no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 11)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.embed(input_ids)
        x = x + self.first(x).tanh()
        x = x + self.second(x).tanh()
        return self.head(x)


def test_a_language_model_is_recorded_at_its_first_block() -> None:
    torch.manual_seed(0)
    model, words = Words().double(), torch.randint(11, (5, 7))
    batch = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    recorder = PathRecorder(model, batch, words, at=0, loss="next_token_loss")
    recorded = recorder.record()
    entries: list[torch.Tensor] = []
    handle = model.embed.register_forward_hook(lambda module, args, out: entries.append(out))
    logits = model(words)
    handle.remove()
    loss = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), words[:, 1:], reduction="sum") / 6
    (gradient,) = torch.autograd.grad(loss, entries)
    split = gradient_by_length(unroll(model.eval(), words), words, words, at=0, loss="next_token_loss")
    expected = [float((part * gradient).sum() / gradient.square().sum()) for part in split.gradient]
    assert recorded.share == pytest.approx(np.array(expected), rel=1e-10)
    assert recorded.effective_length is not None
    assert 0 < recorded.effective_length < 2


def test_what_cannot_be_recorded_is_refused_before_training() -> None:
    words = torch.randint(11, (5, 7))
    with pytest.raises(ValueError, match=r"at=0"):
        PathRecorder(Words(), words, words, loss="next_token_loss")
    with pytest.raises(ValueError, match="'next_token_loss'"):
        PathRecorder(Words(), words, words, at=0)
