"""The pretend device refuses what a GPU refuses; pictures, files and commands do not depend on the device.

Every picture is drawn for the column of a paper, where nothing in it may be cut or overlap.

What the pretend device is put to, a real one is put to as well where there is one.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from devices import available, pretend
from plot_checks import COLUMN, check_readable, figures_of
from resnet_paths import callbacks, comparison, landscape, lesion, models, paths, plot, surgery, tradeoff, training
from resnet_paths.cli import app
from resnet_paths.data import ImageData, digits
from resnet_paths.models import cifar_resnet
from resnet_paths.network import UnrolledNetwork, unroll
from resnet_paths.sweep import sweep

needs_pretended = pytest.mark.skipif(
    not available.IS_PRETENDED, reason="this PyTorch has no back ends written in Python, or a real one"
)
DEVICE = pretend.NAME
DEVICES = [available.NAME] if available.IS_REAL else [pytest.param(DEVICE, marks=needs_pretended)]
QUIET: dict[str, Any] = {"progress": False}


def small(seed: int = 0) -> nn.Module:
    return cifar_resnet(14, in_channels=1, widths=(2, 2, 4), seed=seed).eval()


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def there(device: str) -> tuple[UnrolledNetwork, ImageData]:
    return unroll(small().to(device)), digits("test").subset(slice(0, 8)).to(device)


# the device itself


REFUSED: dict[str, Callable[[torch.Tensor], Any]] = {
    "a tensor of the CPU": lambda x: x + torch.ones(3),
    "from the left": lambda x: torch.ones(3) * x,
    "in place": lambda x: torch.zeros(3).add_(x),
    "one in a stack": lambda x: torch.stack([x, torch.ones(3)]),
    "a single one in a stack": lambda x: torch.stack([x[0], torch.tensor(1.0)]),
    "a single one written to": lambda x: torch.tensor(1.0).add_(x[0]),
    "a model of the CPU": nn.Linear(3, 2),
    "a loss of labels": lambda x: nn.functional.cross_entropy(x[None], torch.tensor([1])),
    "an index into the CPU": lambda x: torch.ones(3)[x.long()],
    "a mask where": lambda x: torch.where(torch.tensor([True, False, True]), x, x),
    "numpy": lambda x: x.numpy(),
    "an array": np.asarray,
    "a picture": lambda x: plt.plot([0, 1, 2], x),
    "a generator": lambda x: x.normal_(generator=torch.Generator("cpu")),
    "drawn": lambda x: torch.randn(3, device=DEVICE, generator=torch.Generator("cpu")),
}


@needs_pretended
@pytest.mark.parametrize("what", REFUSED)
def test_the_device_is_strict(what: str) -> None:
    with pytest.raises((pretend.OtherDeviceError, TypeError), match=r"device|numpy|generator"):
        REFUSED[what](torch.ones(3, device=DEVICE))
    plt.close("all")


@needs_pretended
def test_what_a_device_allows() -> None:
    x = torch.tensor([1.0, 2.0, 3.0], device=DEVICE)
    assert str(x.device) == "pretend:0"
    assert not x.is_cpu
    assert (x * torch.tensor(2.0) + 1).tolist() == [3.0, 5.0, 7.0]
    assert x[torch.tensor([2, 0])].tolist() == [3.0, 1.0]
    assert torch.ones(3).copy_(x).tolist() == x.cpu().tolist()
    x[1:].mul_(2)
    assert (float(x[2]), x.sum().item(), x.to(DEVICE) is x) == (6.0, 11.0, True)
    layer = nn.Linear(3, 1).to(DEVICE)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[1.0, 4.0, 6.0]]
    assert torch.func.jvp(torch.square, (x,), (x,))[1].tolist() == [2.0, 32.0, 72.0]


@pytest.mark.slow
def test_an_example_of_the_cpu_follows_the_model(device: str) -> None:
    model = small().to(device)
    for example in (torch.zeros(2, 1, 8, 8), {"x": torch.zeros(2, 1, 8, 8)}, (torch.zeros(2, 1, 8, 8),)):
        assert len(unroll(model, example)) == 6
        assert next(model.parameters()).device.type == device


# pictures; of a record that several show, one is made


@cache
def trajectory(net: UnrolledNetwork) -> tuple[list[dict[str, torch.Tensor]], landscape.ProjectedTrajectory]:
    place = next(net.model.parameters()).device
    states = [small(seed).to(place).state_dict() for seed in range(4)]
    return states, landscape.project_trajectory(net, states)


@cache
def line(net: UnrolledNetwork, data: ImageData, **kwargs: Any) -> landscape.Surface:
    axes = {"x": [0.0, 0.5], **({"y": [0.0, 0.5]} if kwargs.pop("plane", False) else {})}
    directions = [landscape.random_direction(net.model, seed=seed) for seed in range(len(axes))]
    return landscape.loss_surface(net, data, directions=directions, **axes, **QUIET, **kwargs)


@cache
def values(net: UnrolledNetwork, data: ImageData) -> lesion.BlockValues:
    return lesion.block_values(net, data, interactions=True, **QUIET)


@cache
def compared(net: UnrolledNetwork, data: ImageData) -> comparison.Comparison:
    return comparison.compare([net, net], data, draws=1, gradient_images=2, progress=False)


@cache
def turned(net: UnrolledNetwork, data: ImageData) -> lesion.TurnedImages:
    return lesion.turned_images(net, replace(data, labels=net(data.x).argmax(-1)), range(len(net)), **QUIET)


@cache
def effective(net: UnrolledNetwork, data: ImageData) -> paths.EffectivePaths:
    return paths.effective_paths(paths.sample_path_gradients(net, data.x, data.labels, draws=2))


@cache
def split(net: UnrolledNetwork, data: ImageData) -> paths.GradientByLength:
    return paths.gradient_by_length(net, data.x, data.labels)


@cache
def contributed(net: UnrolledNetwork, data: ImageData) -> paths.BlockContributions:
    return paths.block_contributions(net, data.x, data.labels)


@cache
def damaged(net: UnrolledNetwork, data: ImageData) -> tuple[lesion.DamagePredictors, lesion.SingleDeletions]:
    return lesion.damage_predictors(net, data, **QUIET), lesion.single_deletions(net, data, **QUIET)


@cache
def plan(net: UnrolledNetwork, data: ImageData) -> tradeoff.DropPlan:
    clock = tradeoff.Clock(batch=2, seconds=0.0, rounds=1)
    return tradeoff.plan_drop(
        net, data, goal=tradeoff.Count(1), search=tradeoff.Greedy(random_sets=2), clock=clock, **QUIET
    )


def eigenvalues(net: UnrolledNetwork, data: ImageData) -> Any:
    directions = [landscape.random_direction(net.model, seed=seed) for seed in (0, 1)]
    return landscape.eigenvalue_surface(
        net, data, directions=directions, parameters=["linear.bias"], x=[0.0, 0.5], y=[0.0, 0.5], **QUIET
    )


PICTURES: dict[str, Callable[[UnrolledNetwork, ImageData], Any]] = {
    "plot_block_contributions": lambda net, data: plot.plot_block_contributions(contributed(net, data)),
    "plot_mean_contributions": lambda net, data: plot.plot_mean_contributions(contributed(net, data)),
    "plot_logit_lens": lambda net, data: plot.plot_logit_lens(paths.logit_lens(net, data.x), data.labels),
    "plot_gradient_by_length": lambda net, data: plot.plot_gradient_by_length(split(net, data)),
    "plot_gradient_share": lambda net, data: plot.plot_gradient_share(split(net, data)),
    "plot_path_statistics": lambda net, data: plot.plot_path_statistics(
        callbacks.path_statistics(net, data.x, data.labels, draws=0)
    ),
    "plot_path_lengths": lambda net, data: plot.plot_path_lengths(paths.path_lengths(net)),
    "plot_path_norms": lambda net, data: plot.plot_path_norms(effective(net, data)),
    "plot_effective_lengths": lambda net, data: plot.plot_effective_lengths(effective(net, data)),
    "plot_effective_paths": lambda net, data: plot.plot_effective_paths(effective(net, data)),
    "plot_comparison": lambda net, data: plot.plot_comparison(compared(net, data)),
    "plot_checkpoints": lambda net, data: plot.plot_checkpoints(compared(net, data)),
    "plot_side_by_side": lambda net, data: plot.plot_side_by_side(compared(net, data), "contribution"),
    "plot_block_values": lambda net, data: plot.plot_block_values(values(net, data)),
    "plot_interactions": lambda net, data: plot.plot_interactions(values(net, data)),
    "plot_interaction_network": lambda net, data: plot.plot_interaction_network(values(net, data)),
    "plot_value_waterfall": lambda net, data: plot.plot_value_waterfall(values(net, data)),
    "plot_unrolled": lambda net, data: plot.plot_unrolled(net, lesioned=[1], most_paths=64),
    "plot_turned_images": lambda net, data: plot.plot_turned_images(turned(net, data)),
    "turned_pages": lambda net, data: plot.turned_pages(turned(net, data)),
    "plot_single_deletions": lambda net, data: plot.plot_single_deletions(damaged(net, data)[1]),
    "plot_random_deletions": lambda net, data: plot.plot_random_deletions(
        lesion.random_deletions(net, data, [1], draws=2, **QUIET)
    ),
    "plot_stage_deletions": lambda net, data: plot.plot_stage_deletions(
        lesion.stage_deletions(net, data, [1], draws=2, **QUIET)
    ),
    "plot_reorderings": lambda net, data: plot.plot_reorderings(
        lesion.reorderings(net, data, [1], draws=2, **QUIET)
    ),
    "plot_predictor": lambda net, data: plot.plot_predictor(
        damaged(net, data)[0], "branch_ratio", damaged(net, data)[1]
    ),
    "plot_predictor_ranking": lambda net, data: plot.plot_predictor_ranking(
        lesion.rank_predictors(*damaged(net, data), draws=10)
    ),
    "plot_surface_line": lambda net, data: plot.plot_surface_line(line(net, data)),
    "plot_surface_contours": lambda net, data: plot.plot_surface_contours(line(net, data, plane=True)),
    "plot_surface_heat": lambda net, data: plot.plot_surface_heat(line(net, data, plane=True)),
    "plot_surface_3d": lambda net, data: plot.plot_surface_3d(line(net, data, plane=True)),
    "plot_surface_twins": lambda net, data: plot.plot_surface_twins(dict.fromkeys("ab", line(net, data, plane=True))),
    "interactive_surface": lambda net, data: plot.interactive_surface(line(net, data, plane=True)),
    "plot_eigenvalue_ratio": lambda net, data: plot.plot_eigenvalue_ratio(eigenvalues(net, data)),
    "plot_spectrum": lambda net, data: plot.plot_spectrum(
        landscape.spectral_density(
            landscape.curvature_operator(net, data, parameters=["linear.bias"]), steps=3, draws=2
        )
    ),
    "plot_block_eigenvalues": lambda net, data: plot.plot_block_eigenvalues(
        landscape.block_eigenvalues(net, data, blocks={"head": ["linear.weight"]})
    ),
    "plot_trajectory": lambda net, data: plot.plot_trajectory(trajectory(net)[1]),
    "plot_trajectory_losses": lambda net, data: plot.plot_trajectory_losses(
        landscape.trajectory_losses(net, data, *trajectory(net))
    ),
    "plot_plan": lambda net, data: plot.plot_plan(plan(net, data)),
    "plot_search": lambda net, data: plot.plot_search(plan(net, data)),
    "plot_training": lambda net, data: plot.plot_training(
        training.train(small().to(data.labels.device), data, training.Recipe(epochs=1, batch_size=4), **QUIET)
    ),
}  # fmt: skip


PANELS = {"plot_effective_paths", "plot_surface_twins", "plot_comparison", "plot_checkpoints"}
"""Drawn across both columns."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.filterwarnings("ignore")
def test_pictures_of_records_of_a_device(name: str, there, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_paths.tradeoff.timing._SHORTEST", 0.0)
    size = {"figure.figsize": (6.75, 4.5 if name == "plot_comparison" else 2.6)} if name in PANELS else {}
    with matplotlib.rc_context({**COLUMN, **size}):
        drawn = PICTURES[name](*there)
        for figure in figures_of(drawn):
            check_readable(figure)
    assert not plt.get_fignums()


def test_every_picture_is_listed() -> None:
    assert set(PICTURES) == {name for name in plot.__all__ if name not in ("save", "Look")}


# files and tables


def test_directions_of_a_file_and_of_a_model(tmp_path: Path, there) -> None:
    direction = landscape.random_direction(there[0].model, seed=1)
    landscape.save_direction(direction, tmp_path / "one.safetensors")
    read = landscape.load_direction(tmp_path / "one.safetensors")
    assert landscape.cosine(read, direction) == pytest.approx(1)
    assert landscape.cosine(direction, read) == pytest.approx(1)


def test_checkpoints_of_a_device(tmp_path: Path, device: str) -> None:
    model = small().to(device)
    models.save_checkpoint(model, tmp_path / "one.safetensors")
    read = models.load_checkpoint(tmp_path / "one.safetensors")
    for one, other in zip(read.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(one, other.cpu())


def test_training_and_recalibration_give_the_numbers_of_the_cpu(tmp_path: Path, device: str) -> None:
    data = digits("train").subset(slice(0, 16))
    states = []
    close = available.CLOSE if available.IS_REAL else {}
    for place in ("cpu", device):
        model = cifar_resnet(8, in_channels=1, widths=(2, 2, 4), seed=0).to(place)
        recipe = training.Recipe(epochs=2, batch_size=8, shift=1, mixup=0.2, label_smoothing=0.1)
        training.train(model, data, recipe, folder=tmp_path / place, progress=False)
        surgery.recalibrate_batchnorm(model, data.to(place))
        states.append(model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name].cpu(), value, msg=name, **close)


def test_tables_of_records_of_a_device(there) -> None:
    net, data = there
    split = paths.gradient_by_length(net, data.x, data.labels)
    assert len(split.to_pandas()) == split.norms.numel()
    lens = paths.logit_lens(net, data.x)
    assert len(lens.to_pandas()) == lens.logits.numel()
    assert "LogitLens" in repr(lens)


def test_points_of_a_sweep_may_be_tensors_of_a_device(device: str) -> None:
    result = sweep(lambda point, context, seed: torch.ones(2, device=device) * point, [1.0, 2.0], version="1", **QUIET)
    assert next(iter(result.values.values())).tolist() == [[1.0, 1.0], [2.0, 2.0]]


# commands


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["paths", "--draws", "2", "--limit", "2"],
        ["lesion", "--draws", "2", "--limit", "8"],
        ["landscape", "--points", "3", "--line", "--limit", "8"],
    ],
    ids=lambda words: words[0],
)
def test_commands_on_a_device(words: list[str], device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_paths.models.load_model", lambda spec, **_: small())
    told = CliRunner().invoke(app, [*words, "--device", device, "--out", str(tmp_path)])
    assert told.exit_code == 0, told.output
    assert list(tmp_path.glob("*.png"))


@pytest.mark.slow
def test_a_refit_makes_no_float64_on_a_device_that_has_none(there, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like Apple's: whatever is summed and solved in float64 is moved to the CPU first."""
    double, net, data = torch.Tensor.double, *there

    def refused(x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu":
            raise TypeError("cannot convert to float64: the device does not support it")
        return double(x)

    monkeypatch.setattr(torch.Tensor, "double", refused)
    result = surgery.refit_blocks(net, [1], data, settings=surgery.RefitSettings(held_out=0.5))
    assert any(not block.reason for block in result.blocks)
