"""A line through the loss surface of ResNet-56: this library against loss-landscapes, and landscaper if installed.

    python analysis/benchmarks/landscape.py --reference FOLDER [--images 512] [--cells 4] [--repeats 5]

Two clocks: seconds on the wall, which other programs on the machine lengthen, and seconds of the processor in this
process, which they lengthen little. Ratios are of the processor's seconds, except where work is in other processes.

All ways compute the loss at the same cells, theta + k d for k = 1 .. cells, on the same images in the same process,
in turn; d is the direction that loss-landscapes draws itself (`random_line`, filter normalised), so that all
parameters move. landscaper, where it is installed (it wants an environment of its own), walks as many cells of the
same line around theta. The table gives medians over the turns, and of the ratios within each; ours
includes its set-up (copy, graph, fingerprints) as the peers' include theirs; processes are started
before the clock. Writes landscape.md beside this file, anew after each turn.
"""

import argparse
import contextlib
import copy
import io
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import loss_landscapes
import numpy as np
import torch
import torch.nn.functional as F
from loss_landscapes.metrics.metric import Metric
from loss_landscapes.metrics.sl_metrics import Loss
from loss_landscapes.model_interface.model_parameters import rand_u_like
from loss_landscapes.model_interface.model_wrapper import ModelWrapper, wrap_model
from torch import nn

from resnet_paths.data import ImageData, load_data
from resnet_paths.landscape import Direction, direction_from, loss_surface
from resnet_paths.models import load_model
from resnet_paths.sweep import local_workers

HERE = Path(__file__).resolve().parent
SEED = 1
DISTANCE = 5.0


class MicroBatches(Metric):
    """What a user of the peer could do by hand: inference mode, and batches that fit the cache."""

    def __init__(self, x: torch.Tensor, labels: torch.Tensor, size: int) -> None:
        super().__init__()
        self.parts = list(zip(x.split(size), labels.split(size), strict=True))

    def __call__(self, model_wrapper: ModelWrapper) -> float:
        with torch.inference_mode():
            total = sum(float(F.cross_entropy(model_wrapper.forward(x), y, reduction="sum")) for x, y in self.parts)
        return total / sum(len(y) for _, y in self.parts)


def peer_line(model: nn.Module, metric: Metric, cells: int) -> np.ndarray:
    torch.manual_seed(SEED)
    return loss_landscapes.random_line(model, metric, DISTANCE, cells, "filter", deepcopy_model=True)


def peer_direction(model: nn.Module, cells: int) -> Direction:
    """The step that the peer's `random_line` takes with this seed, by its own functions."""
    start = wrap_model(copy.deepcopy(model)).get_module_parameters()
    torch.manual_seed(SEED)
    step = rand_u_like(start)
    step.filter_normalize_(start)
    step.mul_(((start.model_norm() / DISTANCE) / cells) / step.model_norm())
    names = [name for name, _ in model.named_parameters()]
    return direction_from(model, dict(zip(names, step.parameters, strict=True)), kind="the peer's")


def landscaper_line(model: nn.Module, step: Direction, data: ImageData, cells: int) -> Callable[[], np.ndarray] | None:
    """As many cells along the same direction by landscaper's `compute_loss_landscape`, all images at once."""
    try:
        from landscaper.compute import compute_loss_landscape
    except ImportError:
        return None
    x, labels = data.x, data.labels
    vector = [step.tensors[name] for name, _ in model.named_parameters()]

    def run() -> np.ndarray:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            values, _ = compute_loss_landscape(
                model, data, [vector], lambda m, _: F.cross_entropy(m(x), labels).item(), cells, 0.1, 1, "cpu"
            )
        return np.asarray(values)

    return run


def ways(model: nn.Module, data: ImageData, cells: int, workers: Executor) -> dict[str, Callable[[], np.ndarray]]:
    x, labels = data.x, data.labels
    step, at = peer_direction(model, cells), list(range(1, cells + 1))

    def ours(dtype: torch.dtype | None, executor: Executor | None = None) -> np.ndarray:
        surface = loss_surface(
            model, data, directions=step, x=at, metrics=("loss",), dtype=dtype, executor=executor, progress=False
        )
        return surface.values["loss"]

    found: dict[str, Callable[[], np.ndarray]] = {
        "loss-landscapes, all images at once": lambda: peer_line(model, Loss(F.cross_entropy, x, labels), cells)
    }
    landscaper = landscaper_line(model, step, data, cells)
    if landscaper is not None:
        found["landscaper, all images at once"] = landscaper
    for size in (32,):
        found[f"loss-landscapes, inference mode, {size} at a time"] = lambda size=size: peer_line(
            model, MicroBatches(x, labels, size), cells
        )
    found["resnet_paths, float32"] = lambda: ours(None)
    found["resnet_paths, float32, 2 processes of 1 thread"] = lambda: ours(None, workers)
    found["resnet_paths, bfloat16"] = lambda: ours(torch.bfloat16)
    found["resnet_paths, bfloat16, 2 processes of 1 thread"] = lambda: ours(torch.bfloat16, workers)
    return found


def table(clocks: dict[str, list[tuple[float, float]]], results: dict[str, np.ndarray], cells: int) -> list[str]:
    names = list(clocks)
    first = names[0]
    by_hand = next(name for name in names if "inference mode" in name)
    lines = [
        "| way | wall seconds a cell (median, range) | processor seconds a cell (median, range) | times faster than "
        f"{first} | than {by_hand} | largest relative difference of the loss |",
        "|---|---|---|---:|---:|---:|",
    ]
    for name in names:
        own = "processes" not in name
        which = 1 if own else 0
        ratios = [
            np.median([peer[which] / mine[which] for peer, mine in zip(clocks[other], clocks[name], strict=True)])
            for other in (first, by_hand)
        ]
        gap = "other cells" if "landscaper" in name else f"{np.abs(results[name] / results[first] - 1).max():.1e}"
        wall, processor = (spread([pair[clock] / cells for pair in clocks[name]]) for clock in (0, 1))
        lines.append(
            f"| {name} | {wall} | {processor if own else 'elsewhere'} | {ratios[0]:.2f} | {ratios[1]:.2f} | {gap} |"
        )
    return lines


def spread(values: list[float]) -> str:
    return f"{np.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def peers() -> list[str]:
    """Those that are installed."""
    names = ["loss-landscapes"]
    with contextlib.suppress(PackageNotFoundError):
        version("landscaper")
        names.append("landscaper")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, required=True)
    for name, value in (("images", 512), ("cells", 4), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    model = load_model(str(options.reference / "resnet56_cifar10_option_a.safetensors"))
    data = load_data(str(options.reference / "cifar10_sample.npz"), "train", limit=options.images)
    workers = local_workers(2, threads=1)
    runs = ways(model, data, options.cells, workers)
    clocks: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    results: dict[str, np.ndarray] = {}
    for turn in range(options.repeats + 1):
        for name, way in runs.items():
            start = time.perf_counter(), time.process_time()
            results[name] = way()
            seconds = time.perf_counter() - start[0], time.process_time() - start[1]
            if turn:  # the first turn warms up
                clocks[name].append(seconds)
            print(turn, name, f"{seconds[0] / options.cells:.3f} {seconds[1] / options.cells:.3f}", file=sys.stderr)
        if turn:
            page = "\n".join([*head(options, len(data), turn), *table(clocks, results, options.cells), ""])
            (HERE / "landscape.md").write_text(page)
    workers.shutdown()
    print(page)


def head(options: argparse.Namespace, images: int, turns: int) -> list[str]:
    versions = ", ".join(f"{name} {version(name)}" for name in peers())
    return [
        "# Loss surface of ResNet-56: seconds a cell",
        "",
        f"`python analysis/benchmarks/landscape.py --images {images} --cells {options.cells} --repeats {turns}`; "
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {versions}. All ways run "
        "in turn in one process on the same cells and images; ratios are medians over the turns of (peer / way) within "
        "one turn, of processor seconds (of wall seconds for the ways over several processes). "
        "Wall seconds are lengthened by whatever else the machine runs, processor seconds little.",
        "",
    ]


if __name__ == "__main__":
    main()
