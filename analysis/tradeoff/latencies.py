"""The latencies of the sets of blocks that resnet56.md chose, measured in turn, beside their accuracies.

    python analysis/tradeoff/latencies.py --reference FOLDER [--batches 32 1] [--seconds 5]

A search takes most of an hour, its latencies minutes: this measures them alone, on a machine at rest. Reads resnet56.md
beside this file, writes latencies.md and latencies.png.
"""

import argparse
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from resnet_paths import drop_blocks
from resnet_paths.data import load_data
from resnet_paths.models import load_model
from resnet_paths.tradeoff import latencies_in_turn

HERE = Path(__file__).resolve().parent
ROW = re.compile(r"^\| (\d+) \| ([\d, ]*) \| ([\d.]+)% \| ([\d.]+)% \| ([\d.]+)% to ([\d.]+)% \|")


@dataclass(frozen=True)
class Point:
    """One row of the page: accuracies in per cent."""

    dropped: tuple[int, ...]
    accuracy: float
    recalibrated: float
    low: float
    high: float


def points() -> list[Point]:
    """The rows of the search's page."""
    found = []
    for line in (HERE / "resnet56.md").read_text().splitlines():
        if match := ROW.match(line):
            count, blocks, *numbers = match.groups()
            dropped = tuple(int(block) for block in blocks.split(",") if block.strip())
            if len(dropped) != int(count):
                raise ValueError(f"expected {count} blocks in a row of resnet56.md, got {blocks!r}")
            found.append(Point(dropped, *map(float, numbers)))
    if not found or found[0].dropped:
        raise ValueError("expected a table in resnet56.md that begins with the whole network, found none")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 1])
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(str(options.reference / "resnet56_cifar10_option_a.safetensors"))
    test = load_data(str(options.reference / "cifar10_sample.npz"), "test")
    rows = points()
    models = [drop_blocks(model, row.dropped) if row.dropped else model for row in rows]
    cells = {}
    for batch in options.batches:
        measured = latencies_in_turn(models, test.x[:batch], seconds=options.seconds)
        quartiles = np.array([(one.median, one.low, one.high) for one in measured])
        cells[batch] = quartiles / quartiles[0, 0]
    heads = " | ".join(f"latency at batch {batch} (share; quartiles)" for batch in options.batches)
    lines = [
        "# ResNet-56: latencies of the chosen sets",
        "",
        f"`python analysis/tradeoff/latencies.py --reference FOLDER --seconds {options.seconds:g}`; torch "
        f"{torch.__version__}, {platform.machine()}, 1 thread. Sets and accuracies (recalibrated, 500 test images) "
        "are those of [resnet56.md](resnet56.md); all models in turn, each over the "
        "whole model's time in the same round.",
        "",
        f"| blocks dropped | blocks | accuracy | {heads} |",
        f"|---:|---|---:|{'---:|' * len(options.batches)}",
    ]
    for place, row in enumerate(rows):
        times = (f"{a:.2f} ({b:.2f} to {c:.2f})" for a, b, c in (cells[batch][place] for batch in options.batches))
        blocks = ", ".join(map(str, row.dropped))
        lines.append(f"| {len(row.dropped)} | {blocks} | {row.recalibrated:.1f}% | {' | '.join(times)} |")
    (HERE / "latencies.md").write_text("\n".join([*lines, "", "![accuracy against latency](latencies.png)", ""]))
    picture(rows, options.batches[0], cells[options.batches[0]]).savefig(HERE / "latencies.png", dpi=120)
    print("\n".join(lines))


def picture(rows: list[Point], batch: int, latency: np.ndarray) -> Figure:
    """Accuracy against latency, as dropped and recalibrated."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.subplots()
    again = np.array([row.recalibrated for row in rows])
    ends = np.abs(np.array([[row.low, row.high] for row in rows]).T - again)
    ax.plot(latency[:, 0], [row.accuracy for row in rows], "o-", color="#0072B2", markersize=4, label="as dropped")
    ax.errorbar(latency[:, 0], again, ends, fmt="s-", color="#E69F00", markersize=4, capsize=2, label="recalibrated")
    ax.axhline(rows[0].accuracy, color="#666666", linewidth=0.8, linestyle=":", label="whole model")
    ax.set_xlabel(f"latency (share of the whole model's, batch {batch})")
    ax.set_ylabel("accuracy on 500 test images (%)")
    ax.set_title("ResNet-56: blocks dropped by the planner, 0 (right) to 6", fontsize=10)
    ax.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()
