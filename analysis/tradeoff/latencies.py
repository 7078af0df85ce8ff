"""The latencies of the sets of blocks found by the greedy search with refit on ResNet-56, measured in turn.

    python analysis/tradeoff/latencies.py --reference FOLDER [--batches 32 1] [--seconds 1]

Sets and accuracies are those of ../refit/frontier_resnet56.json. Every smaller network is timed in turn with the full
one, on one CPU thread. Writes latencies.md and latencies.png beside this file.
"""

import argparse
import json
import platform
from pathlib import Path

import torch
from matplotlib.figure import Figure

from resnet_paths import __version__, drop_blocks
from resnet_paths.data import load_data
from resnet_paths.models import load_model
from resnet_paths.tradeoff import count_macs, latencies_in_turn

HERE = Path(__file__).resolve().parent
FRONTIER = HERE.parent / "refit" / "frontier_resnet56.json"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 1])
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(str(options.reference / "resnet56_cifar10_option_a.safetensors")).eval()
    test = load_data(str(options.reference / "cifar10_sample.npz"), "test")
    rows = json.loads(FRONTIER.read_text())["rows"]
    models = [drop_blocks(model, row["dropped"]) if row["dropped"] else model for row in rows]
    macs = [count_macs(one, test.x[:1]) for one in models]
    shares = {}
    for batch in options.batches:
        times = latencies_in_turn(models, test.x[:batch], seconds=options.seconds, threads=1, rounds=9)
        shares[batch] = [one.share_of(times[0]) for one in times]
    lines = [
        "# ResNet-56: latencies of the sets found by the search with refit",
        "",
        f"`python analysis/tradeoff/latencies.py --reference FOLDER --batches "
        f"{' '.join(map(str, options.batches))} --seconds {options.seconds:g}`; resnet_paths "
        f"{__version__}, torch {torch.__version__}, {platform.machine()} CPU, 1 thread. Sets and accuracies "
        "(refitted, 500 test images) are from [frontier_resnet56.md](../refit/frontier_resnet56.md). Time as a "
        "share of the full network's in the same round: median and 95 % interval over nine rounds, all models in "
        "turn. Wide intervals come from other load on the machine.",
        "",
        f"| blocks dropped | accuracy, refitted (%) | MACs (share) | {' | '.join(f'batch {b}' for b in shares)} |",
        f"|---:|---:|---:|{'---:|' * len(shares)}",
    ]
    for place, row in enumerate(rows):
        cells = [f"{s:.2f} ({low:.2f} to {high:.2f})" for s, (low, high) in (shares[b][place] for b in shares)]
        share = macs[place] / macs[0]
        lines.append(f"| {len(row['dropped'])} | {100 * row['refitted']:.1f} | {share:.2f} | {' | '.join(cells)} |")
    (HERE / "latencies.md").write_text("\n".join([*lines, "", "![accuracy against latency](latencies.png)", ""]))
    batch = options.batches[0]
    picture(rows, batch, [share for share, _ in shares[batch]]).savefig(HERE / "latencies.png", dpi=120)
    print("\n".join(lines))


def picture(rows: list[dict], batch: int, share: list[float]) -> Figure:
    """Accuracy against latency, as dropped, recalibrated and refitted."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.subplots()
    for name, color in (("plain", "#0072B2"), ("recalibrated", "#E69F00"), ("refitted", "#009E73")):
        ax.plot(share, [100 * row[name] for row in rows], "o-", color=color, markersize=4, label=name)
    ax.set_xlabel(f"latency (share of the full network's, batch {batch})")
    ax.set_ylabel("accuracy on 500 test images (%)")
    ax.set_title(f"ResNet-56: 0 (right) to {len(rows) - 1} blocks dropped", fontsize=10)
    ax.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()
