"""How fast a cell of ResNet-56 can be: its convolutions alone, beside the library's evaluation of a cell.

    python analysis/benchmarks/landscape_bound.py [--images 512] [--repeats 20]

ResNet-56 has 18 convolutions of 3 x 3 in each of three stages (16, 32, 64 channels at 32, 16, 8 pixels). The bound is
what PyTorch's own convolution takes for them, channels last, at the same number of images at a time (processor
seconds, best of the repeats; stem, shortcuts, ReLU and additions left out). Writes landscape_bound.md beside this file.
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from resnet_paths import cifar_resnet
from resnet_paths.data import ImageData
from resnet_paths.landscape import random_direction
from resnet_paths.landscape._cells import CellEvaluator, named_metrics

HERE = Path(__file__).resolve().parent
STAGES = ((16, 32), (32, 16), (64, 8))
DTYPES = (torch.float32, torch.bfloat16)


def best(function: Callable[[], object], repeats: int) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def convolutions(dtype: torch.dtype, batch: int, repeats: int) -> tuple[float, float]:
    """Seconds an image for all 54, and the rate in GFLOP/s."""
    seconds = 0.0
    for channels, size in STAGES:
        x = torch.randn(batch, channels, size, size).to(dtype).contiguous(memory_format=torch.channels_last)
        w = torch.randn(channels, channels, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last)
        b = torch.zeros(channels, dtype=dtype)
        with torch.inference_mode():
            seconds += 18 * best(lambda x=x, w=w, b=b: F.conv2d(x, w, b, padding=1), repeats) / batch
    operations = 54 * 2 * 9 * 16 * 16 * 32 * 32
    return seconds, operations / seconds / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("images", 512), ("repeats", 20)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    model = cifar_resnet(56, seed=0).eval()
    pixels = torch.randn(options.images, 3, 32, 32)
    labels = torch.arange(options.images) % 10
    data = ImageData(pixels, labels, tuple("0123456789"), (0.0,) * 3, (1.0,) * 3, "random")
    lines = [
        "# How fast a cell of ResNet-56 can be on this processor",
        "",
        f"`python analysis/benchmarks/landscape_bound.py --images {options.images} --repeats {options.repeats}`; "
        f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}. The bound is the time "
        "of PyTorch's own convolutions alone; a cell moves the weights, folds the norms and evaluates all images. "
        "Processor seconds.",
        "",
        "| type | images at a time | convolutions, GFLOP/s | bound, seconds a cell | a cell (best of 3) | share of the "
        "bound |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for dtype in DTYPES:
        cell = CellEvaluator(model, [random_direction(model)], data, named_metrics(("loss",), None), dtype=dtype)
        seconds, rate = convolutions(dtype, cell.batch_size, options.repeats)
        bound, measured = seconds * options.images, best(lambda cell=cell: cell([0.1]), 3)
        lines.append(
            f"| {str(dtype).removeprefix('torch.')} | {cell.batch_size} | {rate:.0f} | {bound:.3f} | {measured:.3f} | "
            f"{bound / measured:.0%} |"
        )
    (HERE / "landscape_bound.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
