"""A line through the loss surface of ResNet-56: this library against loss-landscapes, and landscaper if given.

    python analysis/benchmarks/landscape.py --reference FOLDER [--images 512] [--cells 4] [--repeats 5]
        [--landscaper PYTHON] [--device cuda] [--surface 51] [--minutes 10] [--out FILE]

There are two clocks: wall seconds, which other programs on the machine increase, and processor seconds of this
process, which they increase only slightly. Ratios are of processor seconds, except for work in other processes or on
a GPU.

All variants compute the loss at the same cells, theta + k d for k = 1 .. cells, on the same images in the same process,
in turn; d is the direction that loss-landscapes draws itself (`random_line`, filter normalised), so that all
parameters move. landscaper needs its own environment: --landscaper names its Python, in which this project is
installed too. It evaluates the same number of cells on its own line around theta, over the same images, in turn with
the others (see landscaper_line.py). The table gives medians over the rounds, and of the ratios within each. Our time
includes set-up (copy, graph, fingerprints), as the peers' includes theirs; processes are started before the clock.
Writes landscape.md beside this file after each round (landscape_cuda.md for --device cuda). landscape_avx2.md was made
with --out on a processor that does not compute in bfloat16.

On a GPU, besides: the share of the card's bfloat16 rate (that of a product of two matrices of 8192 x 8192 in the same
run) that a cell over all images of FOLDER/cifar10_jpeg.zip reaches, for several batch sizes; and with --surface N, the
time of an N x N surface over all of them, or over as many as --minutes allow, with the best of these sizes (Li et al.
2018, appendix: 51 x 51 cells of ResNet-56 over 50,000 images took an hour on four GTX 1080 Ti).
"""

import argparse
import copy
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor
from importlib.metadata import version
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
from resnet_paths.landscape import CellSettings, Direction, direction_from, loss_surface, random_direction
from resnet_paths.models import load_model
from resnet_paths.sweep import local_workers
from resnet_paths.tradeoff import count_flops

HERE = Path(__file__).resolve().parent
SEED = 1
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DISTANCE = 5.0


class MicroBatches(Metric):
    """What a user of the peer could tune by hand: inference mode, and batches that fit the cache."""

    def __init__(self, x: torch.Tensor, labels: torch.Tensor, size: int) -> None:
        super().__init__()
        self.parts = list(zip(x.split(size), labels.split(size), strict=True))

    def __call__(self, model_wrapper: ModelWrapper) -> float:
        with torch.inference_mode():
            total = sum(float(F.cross_entropy(model_wrapper.forward(x), y, reduction="sum")) for x, y in self.parts)
        return total / sum(len(y) for _, y in self.parts)


def peer_line(model: nn.Module, metric: Metric, cells: int) -> np.ndarray:
    torch.manual_seed(SEED)
    with next(model.parameters()).device:  # the peer draws on the default device
        return loss_landscapes.random_line(model, metric, DISTANCE, cells, "filter", deepcopy_model=True)


def peer_direction(model: nn.Module, cells: int) -> Direction:
    """The step that the peer's `random_line` takes with this seed, computed by its own functions."""
    start = wrap_model(copy.deepcopy(model)).get_module_parameters()
    torch.manual_seed(SEED)
    with next(model.parameters()).device:  # the peer draws on the default device
        step = rand_u_like(start)
    step.filter_normalize_(start)
    step.mul_(((start.model_norm() / DISTANCE) / cells) / step.model_norm())
    names = [name for name, _ in model.named_parameters()]
    return direction_from(model, dict(zip(names, step.parameters, strict=True)), kind="the peer's")


class Landscaper:
    """landscaper in its own process; `seconds` are those of the last round, by its own clocks."""

    def __init__(self, python: str, options: argparse.Namespace) -> None:
        numbers = {"images": options.images, "cells": options.cells, "threads": torch.get_num_threads()}
        given = [f"--{name}={value}" for name, value in numbers.items()]
        script = [python, str(HERE / "landscaper_line.py"), f"--reference={options.reference}", *given]
        self._process = subprocess.Popen(
            [*script, f"--device={options.device}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.seconds = (float("nan"), float("nan"))
        self.versions = ""

    def __call__(self) -> np.ndarray:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print("turn", file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"expected losses from landscaper, got an end with code {self._process.wait()}")
        answer = json.loads(line)
        self.seconds = answer["wall"], answer["processor"]
        self.versions = answer["versions"]
        return np.asarray(answer["values"])

    def close(self) -> None:
        self._process.communicate("\n", timeout=60)


def ways(
    model: nn.Module, data: ImageData, cells: int, workers: Executor | None, landscaper: Landscaper | None
) -> dict[str, Callable[[], np.ndarray]]:
    place = next(model.parameters()).device
    x, labels = data.x.to(place), data.labels.to(place)
    step, at = peer_direction(model, cells), list(range(1, cells + 1))

    def ours(dtype: torch.dtype | None, executor: Executor | None = None) -> np.ndarray:
        surface = loss_surface(
            model,
            data,
            directions=step,
            x=at,
            metrics=("loss",),
            settings=CellSettings(dtype=dtype),
            executor=executor,
            progress=False,
        )
        return surface.values["loss"]

    found: dict[str, Callable[[], np.ndarray]] = {
        "loss-landscapes, all images at once": lambda: peer_line(model, Loss(F.cross_entropy, x, labels), cells)
    }
    if landscaper is not None:
        found["landscaper, all images at once"] = landscaper
    for size in (32,):
        found[f"loss-landscapes, inference mode, batches of {size}"] = lambda size=size: peer_line(
            model, MicroBatches(x, labels, size), cells
        )
    found["resnet_paths, float32"] = lambda: ours(None)
    found["resnet_paths, bfloat16"] = lambda: ours(torch.bfloat16)
    if workers is not None:
        found["resnet_paths, float32, 2 processes of 1 thread"] = lambda: ours(None, workers)
        found["resnet_paths, bfloat16, 2 processes of 1 thread"] = lambda: ours(torch.bfloat16, workers)
    return found


def table(
    clocks: dict[str, list[tuple[float, float]]], results: dict[str, np.ndarray], cells: int, on_gpu: bool
) -> list[str]:
    names = list(clocks)
    first = names[0]
    by_hand = next(name for name in names if "inference mode" in name)
    lines = [
        "| variant | wall seconds per cell (median, range) | processor seconds per cell (median, range) | speed-up "
        f"over {first} | over {by_hand} | largest relative difference of the loss |",
        "|---|---|---|---:|---:|---:|",
    ]
    for name in names:
        own = "processes" not in name and not on_gpu
        which = 1 if own else 0
        ratios = [
            np.median([peer[which] / mine[which] for peer, mine in zip(clocks[other], clocks[name], strict=True)])
            for other in (first, by_hand)
        ]
        gap = "other cells" if "landscaper" in name else f"{np.abs(results[name] / results[first] - 1).max():.1e}"
        wall, processor = (spread([pair[clock] / cells for pair in clocks[name]]) for clock in (0, 1))
        lines.append(
            f"| {name} | {wall} | {processor if own else 'not measured'} | {ratios[0]:.2f} | {ratios[1]:.2f} | {gap} |"
        )
    return lines


def spread(values: list[float]) -> str:
    return f"{np.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def page(options: argparse.Namespace, turns: int, body: list[str], landscaper: Landscaper | None) -> str:
    given = ["", " --landscaper PYTHON"][landscaper is not None] + ["", " --device cuda"][options.device != "cpu"]
    given += f" --surface {options.surface} --minutes {options.minutes:g}" if options.surface else ""
    beside = f", {landscaper.versions}" if landscaper is not None else ""
    capability = torch.backends.cpu.get_cpu_capability()  # whether the processor computes in bfloat16 matters most
    card = f", {torch.cuda.get_device_name()}" if options.device != "cpu" else f" with {capability}"
    lines = [
        "# Loss surface of ResNet-56: seconds per cell",
        "",
        f"`python analysis/benchmarks/landscape.py --images {options.images} --cells {options.cells} --repeats {turns}"
        f"{given}`; {platform.machine()}{card}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"loss-landscapes {version('loss-landscapes')}{beside}. All variants run in turn on the same images "
        "(landscaper in its own process, along its own line). Ratios are medians over the rounds of (peer / "
        "variant) within one round, of processor seconds (of wall seconds for variants with several processes, and "
        "on a GPU). Other load on the machine increases wall seconds, but processor seconds only slightly.",
        "",
        *body,
        "",
    ]
    return "\n".join(lines)


def card_rate(size: int = 8192, repeats: int = 20) -> float:
    """Operations a second of a product of two bfloat16 matrices."""
    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    a @ a
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        a @ a
    torch.cuda.synchronize()
    return repeats * 2 * size**3 / (time.perf_counter() - start)


def on_the_card(model: nn.Module, options: argparse.Namespace) -> list[str]:
    """The rate of cells over all training images, and the time of a full surface."""
    data = load_data(str(options.reference / "cifar10_jpeg.zip"), "train", mean=MEAN, std=STD)
    operations = count_flops(model, data.subset(slice(0, 1)).x.to(next(model.parameters()).device)) * len(data)
    plane = [random_direction(model, seed=seed) for seed in (1, 2)]
    rate = card_rate()
    best, rows = (float("inf"), 0), []
    for size in (512, 1024, 2048, 4096, 8192):
        walls = []
        for _ in range(3):
            start = time.perf_counter()
            loss_surface(
                model, data, directions=plane[0], x=[0.1, 0.2, 0.3, 0.4], metrics=("loss",),
                settings=CellSettings(dtype=torch.bfloat16, batch_size=size), progress=False,
            )  # fmt: skip
            walls.append((time.perf_counter() - start) / 4)
        best = min(best, (min(walls), size))
        share = operations / min(walls) / rate
        rows.append(f"| {size} | {min(walls):.3f} | {operations / min(walls) / 1e12:.1f} | {share:.1%} |")
        print(rows[-1], file=sys.stderr)
    lines = [
        f"A cell over {len(data):,} images in bfloat16 ({operations / 1e12:.2f} T operations, including set-up, best "
        f"of 3). The GPU multiplies 8192 x 8192 matrices in bfloat16 at {rate / 1e12:.0f} T operations per second.",
        "",
        "| batch size | seconds per cell | T operations per second | share of the GPU's rate |",
        "|---:|---:|---:|---:|",
        *rows,
        "",
    ]
    if options.surface:
        axis = np.linspace(-1, 1, options.surface)
        seconds = best[0] * options.surface**2
        part = data.sample(min(len(data), int(len(data) * 60 * options.minutes / seconds)))
        start = time.perf_counter()
        surface = loss_surface(
            model,
            part,
            directions=plane,
            x=axis,
            y=axis,
            settings=CellSettings(dtype=torch.bfloat16, batch_size=best[1]),
            progress=False,
        )
        minutes = (time.perf_counter() - start) / 60
        whole = minutes * len(data) / len(part)
        lines += [
            f"{options.surface} x {options.surface} cells of loss and error over {len(part):,} images, batch size "
            f"{best[1]}: {minutes:.1f} minutes; over all {len(data):,} at that rate {whole:.1f} (target: at most 4 for "
            f"51 x 51); loss at the centre {surface.values['loss'][options.surface // 2, options.surface // 2]:.4f}.",
            "",
        ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, required=True)
    for name, value in (("images", 512), ("cells", 4), ("repeats", 5), ("surface", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="for --surface: use fewer images if it takes longer"
    )
    parser.add_argument(
        "--landscaper", metavar="PYTHON", help="Python of an environment with landscaper and this project"
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", help="another file to write")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    if options.surface and not on_gpu:
        parser.error("--surface is measured with --device cuda")
    model = load_model(str(options.reference / "resnet56_cifar10_option_a.safetensors")).eval().to(options.device)
    data = load_data(str(options.reference / "cifar10_sample.npz"), "train", limit=options.images)
    workers = None if on_gpu else local_workers(2, threads=1)
    landscaper = Landscaper(options.landscaper, options) if options.landscaper else None
    runs = ways(model, data, options.cells, workers, landscaper)
    clocks: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    results: dict[str, np.ndarray] = {}
    target = HERE / (options.out or ("landscape_cuda.md" if on_gpu else "landscape.md"))
    body: list[str] = []
    for turn in range(options.repeats + 1):
        for name, way in runs.items():
            start = time.perf_counter(), time.process_time()
            results[name] = way()
            seconds = time.perf_counter() - start[0], time.process_time() - start[1]
            if isinstance(way, Landscaper):
                seconds = way.seconds
            if turn:  # the first turn warms up
                clocks[name].append(seconds)
            print(turn, name, f"{seconds[0] / options.cells:.3f} {seconds[1] / options.cells:.3f}", file=sys.stderr)
        if turn:
            body = table(clocks, results, options.cells, on_gpu)
            target.write_text(page(options, turn, body, landscaper))
    if workers is not None:
        workers.shutdown()
    if landscaper is not None:
        landscaper.close()
    if on_gpu:
        body += ["", *on_the_card(model, options)]
        target.write_text(page(options, options.repeats, body, landscaper))
    print(target.read_text())


if __name__ == "__main__":
    main()
