"""Arguments with which every public function runs, so that one of them can be replaced by a bad value."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from resnet_paths import callbacks, comparison, landscape, lesion, paths, plot, surgery, tradeoff, training, unroll
from resnet_paths.data import ImageData, digits
from resnet_paths.models import cifar_resnet
from resnet_paths.network import UnrolledNetwork

QUIET: dict[str, Any] = {"progress": False}


@cache
def model() -> nn.Module:
    """Six blocks, in eval mode."""
    return cifar_resnet(14, in_channels=1, widths=(2, 2, 2), seed=0).eval()


@cache
def net() -> UnrolledNetwork:
    return unroll(model(), data().x[:2])


@cache
def data() -> ImageData:
    return digits("test").subset(slice(0, 6))


@cache
def operator() -> landscape.CurvatureOperator:
    return landscape.curvature_operator(model(), data(), parameters=["linear.bias"])


@cache
def direction() -> landscape.Direction:
    return landscape.random_direction(model())


@cache
def surface(cells: int = 3) -> landscape.Surface:
    axis = list(np.linspace(0, 1, cells))
    other = landscape.random_direction(model(), seed=1)
    return landscape.loss_surface(model(), data(), directions=[direction(), other], x=axis, y=axis, **QUIET)


@cache
def line() -> landscape.Surface:
    return landscape.loss_surface(model(), data(), directions=direction(), x=[0.0, 1.0], **QUIET)


def states() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator("cpu").manual_seed(0)
    changed = []
    for _ in range(4):
        state = {name: value.clone() for name, value in model().state_dict().items()}
        state["linear.weight"] += torch.randn(state["linear.weight"].shape, generator=generator, device="cpu")
        changed.append(state)
    return changed


@cache
def projected() -> landscape.ProjectedTrajectory:
    return landscape.project_trajectory(model(), states())


@cache
def record(kind: str) -> Any:
    """The record for a plot."""
    x, labels = data().x, data().labels
    makers: dict[str, Callable[[], Any]] = {
        "plot_block_contributions": lambda: paths.block_contributions(net(), x, labels),
        "plot_mean_contributions": lambda: paths.block_contributions(net(), x, labels),
        "plot_block_eigenvalues": lambda: landscape.block_eigenvalues(model(), data(), blocks={"a": ["linear.bias"]}),
        "plot_block_values": game,
        **dict.fromkeys(("plot_interactions", "plot_interaction_network", "plot_value_waterfall"), game),
        "plot_effective_lengths": lambda: paths.effective_paths(norms()),
        "plot_effective_paths": lambda: paths.effective_paths(norms()),
        "plot_path_norms": lambda: paths.effective_paths(norms()),
        "plot_gradient_by_length": lambda: paths.gradient_by_length(net(), x, labels),
        "plot_gradient_share": lambda: paths.gradient_by_length(net(), x, labels),
        "plot_logit_lens": lambda: paths.logit_lens(net(), x),
        "plot_path_lengths": lambda: paths.path_lengths(3),
        "plot_path_statistics": lambda: callbacks.path_statistics(net(), x, labels, draws=0),
        "plot_predictor_ranking": lambda: lesion.rank_predictors(predictors(), damage(), count=1, draws=5),
        "plot_random_deletions": lambda: lesion.random_deletions(net(), data(), [1], draws=2, **QUIET),
        "plot_reorderings": lambda: lesion.reorderings(net(), data(), [1], draws=2, **QUIET),
        "plot_single_deletions": damage,
        **dict.fromkeys(
            ("plot_comparison", "plot_checkpoints", "plot_side_by_side", "write_comparison"),
            lambda: comparison.compare([net(), net()], data(), draws=1, gradient_images=2, **QUIET),
        ),
        "plot_spectrum": lambda: landscape.spectral_density(operator(), steps=3, draws=2),
        "plot_stage_deletions": lambda: lesion.stage_deletions(net(), data(), [1], draws=2, **QUIET),
        "plot_trajectory": projected,
        **dict.fromkeys(("plot_turned_images", "turned_pages"), turned),
        "plot_trajectory_losses": lambda: landscape.trajectory_losses(model(), data(), states(), projected()),
    }
    return makers[kind]()


@cache
def norms() -> Any:
    return paths.enumerate_path_gradients(net(), data().x, data().labels)


@cache
def damage() -> Any:
    return lesion.single_deletions(net(), data(), **QUIET)


@cache
def game() -> Any:
    return lesion.block_values(net(), data(), interactions=True, **QUIET)


@cache
def turned() -> Any:
    return lesion.turned_images(net(), data(), [1], **QUIET)


@cache
def predictors() -> Any:
    return lesion.damage_predictors(net(), data(), cka_images=0, **QUIET)


@cache
def plan() -> Any:
    options = {"goal": tradeoff.Count(1), "clock": tradeoff.Clock(batch=2, seconds=0.0, rounds=1)}
    return tradeoff.plan_drop(net(), data(), search=tradeoff.Greedy(random_sets=2), **options, **QUIET)


@cache
def roughness_study() -> Any:
    axis = [0.0, 1.0, 2.0]
    return landscape.roughness_study(model(), data(), seeds=[0, 1], x=axis, y=axis, **QUIET)


def _student() -> nn.Module:
    return cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=1)


def _table() -> np.ndarray:
    return np.arange(8.0)


def common(name: str, folder: Path) -> Any:
    """A value by argument name, for names with the same meaning in all functions."""
    makers: dict[str, Callable[[], Any]] = {
        "net": net, "network": net, "source": data, "spec": lambda: "digits", "model": model, "data": data,
        "operator": operator, "surface": lambda: surface(), "state": lambda: states()[0],
        "x": lambda: data().x, "example_input": lambda: data().x, "target": lambda: data().labels,
        "labels": lambda: data().labels, "images": lambda: data().x, "logits": lambda: torch.zeros(6, 10),
        "blocks": lambda: [1], "x_blocks": lambda: [1], "dropped": lambda: [1],
        "start": model, "end": lambda: states()[0],
        "tensors": lambda: dict(model().named_parameters()), "smallest": lambda: -1.0, "largest": lambda: 2.0,
        "directions": direction, "direction": direction, "one": direction, "other": direction,
        "waypoints": lambda: landscape.deletion_path(net(), [1]), "checkpoints": states, "projected": projected,
        "models": lambda: [model()], "first": roughness_study, "second": roughness_study, "values": _table,
        "gates": lambda: torch.ones(1, 6), "metric": lambda: lesion.METRICS["loss"], "order": lambda: [0, 2, 1],
        "before": lambda: np.array([1.0, 1, 0]), "after": lambda: np.array([1.0, 0, 0]), "groups": lambda: [[0, 1]],
        "size": lambda: 2, "swaps": lambda: 1, "generator": lambda: torch.Generator("cpu"), "predictors": predictors,
        "damage": damage, "table": _table, "depth": lambda: 8, "last": lambda: 0.5, "norms": norms, "keep": lambda: 0.5,
        "surfaces": lambda: {"a": surface()}, "plan": plan, "name": lambda: "taylor",
        "rows": lambda: [{"epoch": 0, "loss": 1.0, "train_error": 0.5, "rate": 0.1}], "writer": lambda: _Writer(),
        "run": lambda: _Run(), "folder": lambda: folder, "path": lambda: folder, "function": lambda: len,
        "items": lambda: [[1]], "runtime": lambda: "eager",
        "length": lambda: 2, "batch_size": lambda: 2, "batch": lambda: 2,
        "value": lambda: 1, "error": lambda: ValueError("a"),
        "points": lambda: [1, 2], "student": _student, "teacher": model, "batches": lambda: [data().x],
        "shift": lambda: 1, "certify": data, "sets": lambda: [[1]], "margins": lambda: np.ones(5),
        "same": lambda: np.ones(5, bool),
        "flip": lambda: False, "alpha": lambda: 1.0, "shares": lambda: np.random.default_rng(0),
        "partners": lambda: torch.Generator("cpu"), "n": lambda: 3, "count": lambda: 3,
        "ax": lambda: plot.plot_path_lengths(paths.path_lengths(3)),
    }  # fmt: skip
    return makers[name]()


def special(function: str, folder: Path) -> dict[str, Any]:
    """Arguments of single functions: names with a special meaning, and values that keep the call short."""
    made: dict[str, Callable[[], dict[str, Any]]] = {
        "linear_decay": lambda: {"blocks": 3},
        "linear_cka": lambda: {"one": torch.eye(3), "other": torch.eye(3)},
        "random_swaps": lambda: {"generator": np.random.default_rng(0)},
        "bootstrap": lambda: {"count": 5},
        "extreme_eigenvalues": lambda: {"max_restarts": 5},
        "hutch_plus_plus": lambda: {"products": 6},
        "hutchinson": lambda: {"draws": 2},
        "spectral_density": lambda: {"steps": 3, "draws": 2, "grid": 16},
        "block_eigenvalues": lambda: {"blocks": {"head": ["linear.bias"]}},
        "eigenvalue_surface": lambda: {"parameters": ["linear.bias"], "x": [0.0], **QUIET},
        "curvature_operator": lambda: {"parameters": ["linear.bias"]},
        "loss_surface": lambda: {"x": [0.0], **QUIET},
        "lesioned_surface": lambda: {"x": [0.0], **QUIET},
        "gate_surface": lambda: {"x": [0.0], **QUIET},
        "gate_path": lambda: {"t": [0.0], **QUIET},
        "roughness_study": lambda: {"seeds": [0], "x": [0.0, 1.0, 2.0], "y": [0.0, 1.0, 2.0], **QUIET},
        "rank_predictors": lambda: {"count": 1, "draws": 5},
        "explore": lambda: {**QUIET},
        "explorer_data": lambda: {"exploration": lesion.explore(net(), data(), **QUIET)},
        "measure_sets": lambda: {"kept": np.ones((1, 6), bool), **QUIET},
        "compare": lambda: {"models": [net(), net()], "draws": 1, "gradient_images": 2, **QUIET},
        "match_blocks": lambda: {"networks": [net(), net()], "inputs": [data().x, data().x]},
        "random_deletions": lambda: {"counts": [1], "draws": 2, **QUIET},
        "stage_deletions": lambda: {"counts": [1], "draws": 2, **QUIET},
        "reorderings": lambda: {"swaps": [1], "draws": 2, **QUIET},
        "arrangements": lambda: {"arranged": {"swap": [1, 0, 2, 3, 4, 5]}, **QUIET},
        "middle_arrangements": lambda: {"layers": 4, "first": 1, "last": 2, "loops": 2},
        "residual_alignment": lambda: {"rank": 1, "blocks": [0, 1], "steps": 2},
        "path_ensemble": lambda: {"last": 2, **QUIET},
        "damage_predictors": lambda: {"cka_images": 2, **QUIET},
        "higher_interactions": lambda: {"order": 2, "index": "SII", **QUIET},
        "attribute_blocks": lambda: {"steps": 2, "draws": 2},
        "block_conductance": lambda: {"steps": 2},
        "path_energy": lambda: {"draws": 2, "columns": 1},
        "sample_path_gradients": lambda: {"draws": 2},
        "measure_latency": lambda: {"seconds": 0.0},
        "latencies_in_turn": lambda: {"seconds": 0.0},
        "latency_by_block": lambda: {"seconds": 0.0},
        "plan_drop": lambda: {
            "images": data(),
            "goal": tradeoff.Count(1),
            "clock": tradeoff.Clock(batch=2, seconds=0.0, rounds=1),
            **QUIET,
        },
        "as_in_training": lambda: {"images": 4, "shift": 1},
        "distil": lambda: {"settings": tradeoff.Distillation(epochs=1)},
        "train": lambda: {"model": _student(), "recipe": training.Recipe(epochs=1), **QUIET},
        "recalibrate_batchnorm": lambda: {"model": _student()},
        "export_model": lambda: {"onnx": False, "folder": folder / "export"},
        "write_comparison": lambda: {"out": folder / "comparison.html"},
        "write_report": lambda: {"out": folder / "report.html", "skip": _stages(), **QUIET},
        "sweep": lambda: {"function": lambda point, context, seed: point, **QUIET},
        "unfinished": lambda: {"function": lambda point, context, seed: point, "journal": folder / "none"},
        "local_workers": lambda: {"workers": 1},
        "reorder_blocks": lambda: {"swaps": [(0, 1)], "example_input": data().x},
        "unroll": lambda: {"example_input": data().x},
        "load_data": lambda: {"limit": 4},
        "log_result": lambda: {"to": _Writer(), "result": paths.path_lengths(3)},
        "save": lambda: {"path": folder / "picture.png"},
        "save_vtk": lambda: {"path": folder / "surface.vtk"},
        "save_direction": lambda: {"path": folder / "direction.safetensors"},
        "save_checkpoint": lambda: {"path": folder / "net.safetensors"},
        "plot_surface_line": lambda: {"surface": line()},
        "plot_eigenvalue_ratio": lambda: {"surface": _ratio()},
        "load_record": lambda: {"path": surface().save(folder / "surface.npz")},
        "load_direction": lambda: {"path": _written(folder / "d.safetensors", landscape.save_direction, direction())},
        "load_plan": lambda: {"path": plan().save(folder / "plan.json")},
        "load_checkpoint": lambda: {"path": _checkpoint(folder)},
        "read_checkpoint": lambda: {"path": _checkpoint(folder)},
        "folder": lambda: {"path": _folder(folder)},
        "drop_blocks": lambda: {"model": model.__wrapped__()},  # in place it would be another model for all that follow
        "refit_blocks": lambda: {"model": model.__wrapped__()},
        "npz": lambda: {"path": _npz(folder)},
        "zipped": lambda: {"path": _zip(folder)},
        "block_parameters": lambda: {"model": net()},
        "grid": lambda: {"alpha": [1, 2]},
        "plain_layers": lambda: {"model": _plain()},
        "checkpoints_in": lambda: {"folder": _run_folder(folder)},
        "read_trajectory": lambda: {"folder": _run_folder(folder)},
    }
    return made.get(function, dict)()


@cache
def _ratio() -> Any:
    other = landscape.random_direction(model(), seed=1)
    axis = [0.0, 1.0]
    return landscape.eigenvalue_surface(
        model(), data(), directions=[direction(), other], x=axis, y=axis, parameters=["linear.bias"], **QUIET
    )


def _stages() -> list[str]:
    from resnet_paths.report import STAGES

    return [stage.name for stage in STAGES if stage.name != "lengths"]


def _written(path: Path, save: Callable[[Any, Path], Path], what: Any) -> Path:
    return save(what, path)


def _checkpoint(folder: Path) -> Path:
    from resnet_paths.models import save_checkpoint

    return save_checkpoint(model(), folder / "own.safetensors")


def _plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), *(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))).eval()


def _folder(folder: Path) -> Path:
    from PIL import Image

    for name in ("a", "b"):
        (folder / "photos" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / "photos" / name / "1.png")
    return folder / "photos"


def _npz(folder: Path) -> Path:
    np.savez(folder / "images.npz", images=np.zeros((2, 4, 4, 1), np.uint8), labels=np.array([0, 1]))
    return folder / "images.npz"


def _zip(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder / "photos"), "zip", _folder(folder)))


@cache
def _run_folder(folder: Path) -> Path:
    training.train(_student(), data(), training.Recipe(epochs=1), folder=folder / "run", keep="all", **QUIET)
    return folder / "run"


class _Writer:
    def add_scalar(self, *_: Any, **__: Any) -> None: ...

    def add_text(self, *_: Any, **__: Any) -> None: ...

    def add_figure(self, *_: Any, **__: Any) -> None: ...


class _Run:
    def log(self, *_: Any, **__: Any) -> None: ...

    def define_metric(self, *_: Any, **__: Any) -> None: ...


__all__ = ["callbacks", "common", "special", "surgery"]
