"""How fast a cell of ResNet-56 can be: its convolutions alone, beside the library's evaluation of a cell and a peer's.

    python analysis/benchmarks/landscape_bound.py [--images 512] [--repeats 20] [--threads 2]

ResNet-56 has 18 convolutions of 3 x 3 in each of three stages (16, 32, 64 channels at 32, 16, 8 pixels). The bound is
what PyTorch's own convolution takes for them, channels last, at the same batch size (processor
seconds, best of the repeats; stem, shortcuts, ReLU and additions left out). No evaluation by these convolutions can be
quicker, so the peer's time over the bound is the highest ratio that can be reached here; it is listed beside the
measured and the one asked for. The peer is loss-landscapes, as it is (all images at once) and as a user could tune it
by hand (inference mode, batches of 32); of cells the median of three counts, of convolutions the best of the repeats.
All in one process; with several threads the convolutions run on all of them at once, a batch on each. Writes
landscape_bound.md beside this file.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from loss_landscapes.metrics.sl_metrics import Loss

from landscape import MicroBatches, peer_line  # the script beside this one
from resnet_paths import cifar_resnet
from resnet_paths.data import ImageData
from resnet_paths.landscape import random_direction
from resnet_paths.landscape.cell_metrics import named_metrics
from resnet_paths.landscape.cells import CellEvaluator, CellSettings
from resnet_paths.landscape.working_copy import WeightSpace
from resnet_paths.sweep import on_each_core

HERE = Path(__file__).resolve().parent
STAGES = ((16, 32), (32, 16), (64, 8))
ASKED = {torch.float32: (4.5, 2.5), torch.bfloat16: (7.0, None)}


def timed(function: Callable[[], object], repeats: int) -> list[float]:
    """Processor seconds of each call, after one that warms up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return times


def best(function: Callable[[], object], repeats: int) -> float:
    return min(timed(function, repeats))


def median(function: Callable[[], object], repeats: int) -> float:
    return statistics.median(timed(function, repeats))


def convolutions(dtype: torch.dtype, batch: int, repeats: int) -> tuple[float, float]:
    """Processor seconds an image for all 54, a batch on each thread at once, and the rate of one core in GFLOP/s."""
    seconds, together = 0.0, 4 * torch.get_num_threads()
    for channels, size in STAGES:
        x = torch.randn(batch, channels, size, size).to(dtype).contiguous(memory_format=torch.channels_last)
        w = torch.randn(channels, channels, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last)
        b = torch.zeros(channels, dtype=dtype)
        with torch.inference_mode():
            one = lambda _, x=x, w=w, b=b: F.conv2d(x, w, b, padding=1)  # noqa: E731
            seconds += 18 * best(lambda one=one: on_each_core(one, range(together)), repeats) / (batch * together)
    operations = 54 * 2 * 9 * 16 * 16 * 32 * 32
    return seconds, operations / seconds / 1e9


def winograd(batch: int, repeats: int, tile: int = 4) -> tuple[float, float]:
    """Seconds an image for all 54 convolutions by Winograd's F(4x4, 3x3) in matrix products, and by the direct ones.

    The two transforms and the products alone: cutting images into overlapping tiles and putting them together is left
    out, so this is less than it would take. In each stage the cheaper of the two ways counts in the first number.
    """
    points, mixed, direct = (tile + 2) ** 2, 0.0, 0.0
    for channels, size in STAGES:
        tiles = batch * (size // tile) ** 2
        values, weights = torch.randn(points, tiles, channels), torch.randn(points, channels, channels)
        into, back = torch.randn(points, points), torch.randn(tile**2, points)
        x = torch.randn(batch, channels, size, size).contiguous(memory_format=torch.channels_last)
        w = torch.randn(channels, channels, 3, 3).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            flat = values.flatten(1)
            parts = [
                best(lambda v=values, u=weights: torch.bmm(v, u), repeats),
                best(lambda t=into, f=flat: t @ f, repeats),
                best(lambda t=back, f=flat: t @ f, repeats),
            ]
            plain = best(lambda x=x, w=w: F.conv2d(x, w, padding=1), repeats)
        mixed += 18 * min(sum(parts), plain) / batch
        direct += 18 * plain / batch
    return mixed, direct


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("images", 512), ("repeats", 20), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = cifar_resnet(56, seed=0).eval()
    for parameter in model.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.1)  # the peer divides by each norm
    pixels = torch.randn(options.images, 3, 32, 32)
    labels = torch.arange(options.images) % 10
    data = ImageData(pixels, labels, tuple("0123456789"), (0.0,) * 3, (1.0,) * 3, "random")
    peers = {
        "all images at once": Loss(F.cross_entropy, data.x, labels),
        "tuned by hand": MicroBatches(data.x, labels, 32),
    }
    theirs = {name: median(lambda metric=metric: peer_line(model, metric, 2), 3) / 2 for name, metric in peers.items()}
    lines = [
        "# How fast a cell of ResNet-56 can be on this CPU",
        "",
        f"`python analysis/benchmarks/landscape_bound.py --images {options.images} --repeats {options.repeats} "
        f"--threads {options.threads}`; {platform.machine()}, {torch.get_num_threads()} thread(s), torch "
        f"{torch.__version__}. The bound is the time of PyTorch's own convolutions alone. A cell moves the weights, "
        "folds the norms and evaluates all images. Processor seconds.",
        "",
        "| dtype | batch size | convolutions, GFLOP/s | bound, seconds per cell | one cell (median of 3) | share of "
        "the bound |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    ratios = [
        "",
        "The same against loss-landscapes (processor seconds per cell in this run: "
        + ", ".join(f"{seconds:.3f} {name}" for name, seconds in theirs.items())
        + "). No evaluation with these convolutions can exceed the highest ratio.",
        "",
        "| dtype | loss-landscapes | target | measured | highest possible (convolutions alone) |",
        "|---|---|---:|---:|---:|",
    ]
    for dtype, asked in ASKED.items():
        space = WeightSpace(model, [random_direction(model)])
        cell = CellEvaluator(space, data, named_metrics(("loss",), data), CellSettings(dtype=dtype))
        seconds, rate = convolutions(dtype, cell.batch_size, options.repeats)
        bound, measured = seconds * options.images, median(lambda cell=cell: cell([0.1]), 3)
        kind = str(dtype).removeprefix("torch.")
        lines.append(
            f"| {kind} | {cell.batch_size} | {rate:.0f} | {bound:.3f} | {measured:.3f} | {bound / measured:.0%} |"
        )
        for (name, peer), wanted in zip(theirs.items(), asked, strict=True):
            asked_for = "" if wanted is None else f"{wanted:.1f}"
            ratios.append(f"| {kind} | {name} | {asked_for} | {peer / measured:.2f} | {peer / bound:.2f} |")
    torch.set_num_threads(1)
    mixed, direct = (seconds * options.images for seconds in winograd(32, options.repeats))
    note = (
        f"Winograd's F(4x4, 3x3) with PyTorch's matrix products in float32, in the stages where it is cheaper: "
        f"{mixed:.3f} instead of {direct:.3f} seconds for the convolutions on one thread, not counting the time to "
        "cut images into tiles and reassemble them."
    )
    text = "\n".join([*lines, *ratios, "", note, ""])
    (HERE / "landscape_bound.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
