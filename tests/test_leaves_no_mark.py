"""Every public function that takes a model leaves it, its data and all global state unchanged, also when interrupted.

Each function runs on a network with a module that can be made to raise ``KeyboardInterrupt`` (which no function may
swallow): undisturbed, stopped in the middle and stopped at the last call of that module. It also gives the numbers of
the undisturbed run whatever torch's defaults and modes are, and on every device.
"""

import contextlib
import copy
import inspect
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mode_checks import check_modes
from record_checks import check_record, records_in
from resnet_paths import callbacks, comparison, landscape, lesion, paths, surgery, tradeoff, training
from resnet_paths import network as unrolling
from resnet_paths.data import ImageData, digits
from resnet_paths.models import cifar_resnet
from resnet_paths.network import UnrolledNetwork

pytestmark = pytest.mark.slow

Function = Callable[[UnrolledNetwork, ImageData], Any]


class Trap(nn.Module):
    """The identity, which interrupts at a chosen call of any of its copies."""

    calls = 0
    stop_at: int | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Trap.calls += 1
        if Trap.calls == Trap.stop_at:
            raise KeyboardInterrupt
        return x * 1


def subject(device: str = "cpu") -> tuple[UnrolledNetwork, ImageData]:
    """A network of six blocks with a trap, a frozen parameter, a gradient and a hook; eight images."""
    model = cifar_resnet(14, in_channels=1, widths=(2, 2, 4), seed=0).eval()
    model.layer2[1].conv1 = nn.Sequential(model.layer2[1].conv1, Trap()).eval()
    model.layer1[0].bn1.bias.requires_grad_(False)
    model.linear.bias.grad = torch.ones(10)
    model.linear.register_forward_hook(lambda module, args, output: None)
    model, data = model.to(device), digits("test").subset(slice(0, 8)).to(device)
    return unrolling.unroll(model), data


def operator(net: UnrolledNetwork, data: ImageData) -> landscape.CurvatureOperator:
    return landscape.curvature_operator(net, data, parameters=["linear.weight", "layer3.0.bn1.weight"])


def directions(net: UnrolledNetwork) -> list[landscape.Direction]:
    return [landscape.random_direction(net.model, seed=seed) for seed in (0, 1)]


def states(net: UnrolledNetwork) -> list[dict[str, torch.Tensor]]:
    """Three checkpoints: as few as span a plane."""
    found = []
    for seed in range(3):
        generator = torch.Generator("cpu").manual_seed(seed)
        state = {name: value.clone() for name, value in net.model.state_dict().items()}
        step = torch.randn(state["linear.weight"].shape, generator=generator, device="cpu", dtype=torch.float32) / 10
        state["linear.weight"] += step.to(state["linear.weight"].device)
        found.append(state)
    return found


def within_lesion(net: UnrolledNetwork, data: ImageData) -> None:
    with surgery.lesioned(net, [4]):
        net.model(data.x)


def trajectory_losses(net: UnrolledNetwork, data: ImageData) -> Any:
    return landscape.trajectory_losses(net, data, states(net), landscape.project_trajectory(net, states(net)))


def recorded(net: UnrolledNetwork, data: ImageData) -> Any:
    return callbacks.PathRecorder(net.model, data.x, data.labels).record()


def distilled(net: UnrolledNetwork, data: ImageData, by: Any = tradeoff.distil) -> Any:
    with torch.random.fork_rng():  # layers draw when they are made
        with torch.device("cpu"), torch.inference_mode(False):  # made as a model that can be trained is
            student = cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=1).float().to(data.images.device)
    return by(student, net.model, data, settings=tradeoff.Distillation(epochs=1, batch_size=4))


QUIET: dict[str, Any] = {"progress": False}
BLOCKS = {"head": ["linear.weight"]}
LINE: dict[str, Any] = {"x": [0.0, 0.5], **QUIET}
FUNCTIONS: dict[str, Function] = {
    "unroll": lambda net, data: unrolling.unroll(net.model, {"x": data.x}),
    "for_inference": lambda net, data: unrolling.for_inference(net),
    "plain_layers": lambda net, data: unrolling.plain_layers(net.model, data.x)(data.x),
    "drop_blocks": lambda net, data: surgery.drop_blocks(net, [1, 4])(data.x),
    "dropped_in": lambda net, data: surgery.dropped_in(net.model),
    "refit_blocks": lambda net, data: surgery.refit_blocks(
        net, [1, 4], data, settings=surgery.RefitSettings(held_out=0.5)
    ),
    "lesioned": within_lesion,
    "reorder_blocks": lambda net, data: surgery.reorder_blocks(net, swaps=[(0, 1)], example_input=data.x),
    "export_model": lambda net, data: None,  # writes files; tests/surgery
    "compare": lambda net, data: comparison.compare(
        [net, net],
        data,
        draws=1,
        gradient_images=2,
        metric="loss",
        parts=("contributions", "surface", "latency"),
        settings=comparison.PartSettings(
            images=2, surface_points=3, latency_batch=2, latency_seconds=0.0
        ),
        **QUIET,
    ),
    "match_blocks": lambda net, data: comparison.match_blocks([net, net], [data.x, data.x]),
    "single_deletions": lambda net, data: lesion.single_deletions(net, data, fast=False, **QUIET),
    "shortcut_deletions": lambda net, data: lesion.shortcut_deletions(net, data, fast=False, **QUIET),
    "random_deletions": lambda net, data: lesion.random_deletions(net, data, [2], draws=2, fast=False, **QUIET),
    "stage_deletions": lambda net, data: lesion.stage_deletions(net, data, [1], draws=2, fast=False, **QUIET),
    "block_values": lambda net, data: lesion.block_values(net, data, fast=False, **QUIET),
    "measure_sets": lambda net, data: lesion.measure_sets(net, data, np.ones((1, 6)), fast=False, **QUIET),
    "turned_images": lambda net, data: lesion.turned_images(net, data, [1, 4], fast=False, **QUIET),
    "explore": lambda net, data: lesion.explore(net, data, fast=False, **QUIET),
    "higher_interactions": lambda net, data: lesion.higher_interactions(net, data, blocks=[2, 3, 4], **QUIET),
    "reorderings": lambda net, data: lesion.reorderings(net, data, [1, 2], draws=2, fast=False, **QUIET),
    "arrangements": lambda net, data: lesion.arrangements(net, data, {"swap": [1, 0, 2, 3, 4, 5]}, fast=False, **QUIET),
    "residual_alignment": lambda net, data: paths.residual_alignment(net, data.x[:2], 2, blocks=[0, 1], steps=3),
    "path_ensemble": lambda net, data: lesion.path_ensemble(net, data, 3, fast=False, **QUIET),
    "damage_predictors": lambda net, data: lesion.damage_predictors(net, data, fast=False, **QUIET),
    "evaluate_gates": lambda net, data: lesion.evaluate_gates(
        net, data, torch.ones(2, 6, device="cpu"), lesion.METRICS["loss"], fast=False, **QUIET
    ),
    "stages": lambda net, data: lesion.stages(net, data.x),
    "curved_operations": lambda net, data: paths.curved_operations(net),
    "gradient_by_length": lambda net, data: paths.gradient_by_length(net, data.x, data.labels),
    "parameter_gradients_by_length": lambda net, data: paths.parameter_gradients_by_length(net, data.x, data.labels),
    "sample_path_gradients": lambda net, data: paths.sample_path_gradients(net, data.x, data.labels, draws=2),
    "enumerate_path_gradients": lambda net, data: paths.enumerate_path_gradients(net, data.x, data.labels),
    "path_energy": lambda net, data: paths.path_energy(net, data.x, data.labels, draws=2, columns=2),
    "logits_by_length": lambda net, data: paths.logits_by_length(net, data.x),
    "block_contributions": lambda net, data: paths.block_contributions(net, data.x, data.labels),
    "logit_lens": lambda net, data: paths.logit_lens(net, data.x),
    "attribute_blocks": lambda net, data: [
        paths.attribute_blocks(net, data.x, data.labels, method=method, steps=3, draws=2)
        for method in ("integrated_gradients", "ablation", "shapley")
    ],
    "block_conductance": lambda net, data: paths.block_conductance(net, data.x, data.labels, steps=3),
    "path_lengths": lambda net, data: paths.path_lengths(net),
    "surviving_path_lengths": lambda net, data: paths.surviving_path_lengths(net, 0.5),
    "random_direction": lambda net, data: landscape.random_direction(net.model),
    "direction_from": lambda net, data: landscape.direction_from(net.model, dict(net.model.named_parameters())),
    "loss_surface": lambda net, data: [
        landscape.loss_surface(
            net, data, directions=directions(net), y=[0.0], settings=landscape.CellSettings(kind, fast=fast), **LINE
        )
        for kind in ("frozen", "recalibrated", "batch")
        for fast in (True, False)
    ],
    "gate_surface": lambda net, data: [
        landscape.gate_surface(net, data, x_blocks=4, settings=landscape.CellSettings(kind, fast=fast), **LINE)
        for kind, fast in (("frozen", False), ("recalibrated", True))
    ],
    "gate_path": lambda net, data: landscape.gate_path(net, data, landscape.deletion_path(net, [3]), **QUIET),
    "deletion_path": lambda net, data: landscape.deletion_path(net, [3]),
    "lesioned_surface": lambda net, data: landscape.lesioned_surface(
        net, data, [4], directions=directions(net)[0], **LINE
    ),
    "curvature_operator": lambda net, data: operator(net, data) @ data.x.new_ones(len(operator(net, data))),
    "extreme_eigenvalues": lambda net, data: landscape.extreme_eigenvalues(operator(net, data)),
    "block_eigenvalues": lambda net, data: landscape.block_eigenvalues(net, data, blocks=BLOCKS),
    "eigenvalue_surface": lambda net, data: landscape.eigenvalue_surface(
        net, data, directions=directions(net)[0], parameters=["linear.bias"], **LINE
    ),
    "hutchinson": lambda net, data: landscape.hutchinson(operator(net, data), 2),
    "hutch_plus_plus": lambda net, data: landscape.hutch_plus_plus(operator(net, data), 6),
    "spectral_density": lambda net, data: landscape.spectral_density(operator(net, data), steps=3, draws=2),
    "block_parameters": lambda net, data: landscape.block_parameters(net),
    "roughness_study": lambda net, data: landscape.roughness_study(
        net.model, data, seeds=[0], x=[0, 1, 2], y=[0, 1, 2], **QUIET
    ),
    "project_trajectory": lambda net, data: landscape.project_trajectory(net, states(net)),
    "trajectory_losses": trajectory_losses,
    "latencies_in_turn": lambda net, data: tradeoff.latencies_in_turn([net.model] * 2, data.x, seconds=0.0),
    "elastic": lambda net, data: tradeoff.elastic(
        net,
        [[1], [1, 4]],
        data,
        settings=surgery.RefitSettings(held_out=0.5),
        clock=tradeoff.Clock(batch=2, seconds=0.0, rounds=1),
    )(data.x),
    "cascade": lambda net, data: tradeoff.cascade(
        net, [1, 4], data, data, disagreement=0.9, settings=surgery.RefitSettings(held_out=0.5)
    )(data.x),
    "measure_latency": lambda net, data: tradeoff.measure_latency(net.model, data.x, seconds=0.0, threads=1),
    "latency_by_block": lambda net, data: tradeoff.latency_by_block(net, data.x, seconds=0.0),
    "count_flops": lambda net, data: tradeoff.count_flops(net.model, data.x),
    "count_macs": lambda net, data: tradeoff.count_macs(net.model, data.x),
    "macs_by_block": lambda net, data: tradeoff.macs_by_block(net, data.x),
    "in_runtime": lambda net, data: tradeoff.in_runtime(net.model, data.x, "export"),
    "distil_best": lambda net, data: distilled(net, data, tradeoff.distil_best),
    "count_parameters": lambda net, data: tradeoff.count_parameters(net.model),
    "plan_drop": lambda net, data: tradeoff.plan_drop(
        net,
        data,
        goal=tradeoff.Count(2),
        repair=tradeoff.Distil(tradeoff.Distillation(epochs=1, batch_size=4), tradeoff.Recalibrate(), data),
        split=tradeoff.ImageSplit(search=data, repair=data, certify=digits("train").subset(slice(0, 4)), batch_size=4),
        clock=tradeoff.Clock(batch=2, seconds=0.0, rounds=1),
        **QUIET,
    ),
    "norms_before": lambda net, data: surgery.norms_before(net, [3]),
    "batch_statistics": lambda net, data: surgery.batch_statistics(net)(data.x),
    "distil": distilled,
    "statistics_gap": lambda net, data: tradeoff.statistics_gap(net.model, [data.x]),
    "as_in_training": lambda net, data: tradeoff.as_in_training(net.model, data, shift=1),
    "recalibrate_batchnorm": lambda net, data: None,  # changes the model; stopped: see the test below
    "error_rate": lambda net, data: training.error_rate(net.model, data),
    "train": lambda net, data: None,  # changes the model
    "path_statistics": lambda net, data: callbacks.path_statistics(net, data.x, data.labels),
    "PathRecorder": recorded,
}  # fmt: skip
STOPPABLE = [
    name for name in FUNCTIONS
    if name not in (
        "export_model", "curved_operations", "path_lengths", "surviving_path_lengths", "random_direction",
        "match_blocks", "for_inference",
        "direction_from", "deletion_path", "block_parameters", "project_trajectory", "count_parameters",
        "norms_before", "dropped_in", "recalibrate_batchnorm", "train",
    )
]  # fmt: skip
"""Functions that run the model."""
WITHOUT_VALUE = {"export_model", "recalibrate_batchnorm", "train", "lesioned"}
CALLED_HERE = {"drop_blocks", "batch_statistics", "elastic", "cascade"}
"""The functions listed above call the model itself at their end."""
TIMED = {"latencies_in_turn", "measure_latency", "latency_by_block", "plan_drop"}


def settings() -> dict[str, Any]:
    """Global state that affects other code of the user."""
    return {
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "anomaly": torch.is_anomaly_enabled(),
        "mha": torch.backends.mha.get_fastpath_enabled(),
        "attention": [getattr(torch.backends.cuda, f"{kind}_sdp_enabled")() for kind in ("flash", "math", "cudnn")],
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "mkldnn": torch.backends.mkldnn.enabled,
        "filters": list(warnings.filters),
        "errors": np.geterr(),
        "patched": (nn.Module.__call__, torch.utils.checkpoint.checkpoint, nn.Module.train),
        "hooks": [dict(getattr(nn.modules.module, f"_global_forward_{kind}hooks")) for kind in ("", "pre_")],
        "python": random.getstate(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "torch": torch.get_rng_state().tolist(),
    }  # fmt: skip


def described(model: nn.Module) -> dict[str, Any]:
    """A model's every attribute, tensors by identity, version-free value, flags and gradient."""

    def of(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            grad = None if value.grad is None else value.grad.tolist()
            return id(value), value.dtype, value.requires_grad, value.detach().tolist(), grad, value.stride()
        return {name: of(item) for name, item in value.items()} if isinstance(value, dict) else id(value)

    modules = dict(model.named_modules(remove_duplicate=False))
    return {name: (type(module), id(module), of(vars(module))) for name, module in modules.items()}


@contextlib.contextmanager
def unmarked(net: UnrolledNetwork, data: ImageData) -> Iterator[None]:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = copy.deepcopy(settings()), described(net.model), data.fingerprint, tuple(net.blocks)
    try:
        yield
    finally:
        after = settings(), described(net.model), data.fingerprint, tuple(net.blocks)
        changed = [key for key in before[0] if before[0][key] != after[0][key]]
        assert not changed, f"global state changed: {changed}"
        modules = [name for name in {**before[1], **after[1]} if before[1].get(name) != after[1].get(name)]
        assert not modules, f"modules changed: {modules}"
        assert before[2:] == after[2:]
        assert not data.images.requires_grad


@pytest.fixture(autouse=True)
def trap_rearmed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One run of a model a timing, so that a function runs it as often each time, and few of them."""
    monkeypatch.setattr("resnet_paths.tradeoff.timing._SHORTEST", 0.0)
    monkeypatch.setattr("resnet_paths.comparison.side_by_side._ROUNDS", 6)  # the fewest that have an interval
    yield
    Trap.stop_at = None


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.filterwarnings("ignore")
def test_nothing_is_left_changed_and_modes_and_devices_change_no_number(name: str, tmp_path: Path) -> None:
    """Nor by a function that is stopped in its middle or at its end. What it returns is a record that can be kept."""
    net, data = subject()
    Trap.calls, Trap.stop_at = 0, None
    returned = None
    with unmarked(net, data), contextlib.suppress(unrolling.NoBlocksError):
        returned = FUNCTIONS[name](net, data)
    calls = Trap.calls
    records = records_in(returned)
    for index, record in enumerate(records):
        check_record(record, tmp_path, shown=all(type(other) is not type(record) for other in records[:index]))
    assert (calls > 0) == (name in STOPPABLE)
    if name not in WITHOUT_VALUE:
        check_modes(FUNCTIONS[name], subject, returned, calls_model=name in CALLED_HERE, timed=name in TIMED)

    for stop_at in sorted({(calls + 1) // 2, calls} - {0}) if name in STOPPABLE else ():
        Trap.calls, Trap.stop_at = 0, stop_at
        with unmarked(net, data), pytest.raises(KeyboardInterrupt):
            FUNCTIONS[name](net, data)
        assert Trap.calls == stop_at


def test_every_public_function_of_a_model_is_listed() -> None:
    """Whoever adds a function that takes a model adds it above."""
    listed = {name.split()[0] for name in FUNCTIONS}
    missing = []
    for package in (unrolling, surgery, lesion, paths, landscape, tradeoff, training, comparison, callbacks):
        for name in package.__all__:
            if name[0].isupper():  # a class; to read that of Lightning would import it
                continue
            function = getattr(package, name)
            if not inspect.isfunction(function):
                continue
            first = next(iter(inspect.signature(function).parameters), "")
            if first in {"model", "models", "net", "network", "networks", "operator", "student"} and name not in listed:
                missing.append(name)
    assert not missing
