"""Accuracy against latency of ResNet-56 on CIFAR-10: batch-norm recalibration only, and short distillation.

    python analysis/tradeoff/resnet56.py --reference FOLDER [--search 1000] [--recalibrate 4660] [--most 8]
        [--draws 10] [--epochs 2] [--metric divergence]

FOLDER holds cifar10_sample.npz and resnet56_cifar10_option_a.safetensors. Blocks are searched, statistics measured
and the chosen model taught on training images; accuracy is on the 500 original test images. Writes resnet56.md and
pictures beside this file.
"""

import argparse
import platform
from pathlib import Path

import numpy as np
import torch

from resnet_paths import __version__, drop_blocks, measure_latency, unroll
from resnet_paths.data import ImageData, load_data
from resnet_paths.lesion import interval
from resnet_paths.models import load_model
from resnet_paths.plot import plot_plan, plot_search, save
from resnet_paths.tradeoff import Distillation, DropPlan, latency_by_unit, plan_drop
from resnet_paths.tradeoff.plan import measured
from resnet_paths.unroll import UnrolledNetwork

HERE = Path(__file__).resolve().parent


def random_recovery(
    net: UnrolledNetwork, search: ImageData, test: ImageData, images: ImageData, draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy of random 6-block deletions before and after recalibration."""
    generator = np.random.default_rng(0)
    before, after = [], []
    for _ in range(draws):
        dropped = sorted(generator.choice(len(net), 6, replace=False).tolist())
        point = measured(net, dropped, search.subset(slice(0, 10)), test, images, seconds=0.01)
        before.append(point.accuracy)
        after.append(point.recalibrated)
    return np.array(before), np.array(after)


def time_saved(net: UnrolledNetwork, plan: DropPlan, x: torch.Tensor) -> tuple[float, float]:
    """The fall of latency, and the sum of the branches' shares of time, in turn in one process."""
    dropped = list(plan.point.dropped)
    smaller = drop_blocks(net, dropped)
    falls, shares = [], []
    for _ in range(5):
        whole = measure_latency(net.model, x, seconds=0.5).median
        falls.append(1 - measure_latency(smaller, x, seconds=0.5).median / whole)
        table = latency_by_unit(net, x, seconds=0.05)
        total = sum(table.branch[index] for index in dropped)
        shares.append(total / whole)
    return float(np.median(falls)), float(np.median(shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--metric", default="divergence")
    for name, value in (("search", 1000), ("recalibrate", 4660), ("most", 8), ("draws", 10), ("epochs", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    net = unroll(load_model(str(options.reference / "resnet56_cifar10_option_a.safetensors")))
    source = str(options.reference / "cifar10_sample.npz")
    train, test = load_data(source, "train"), load_data(source, "test")
    search = train.subset(slice(0, options.search))
    images = train.subset(slice(0, options.recalibrate))
    plan = plan_drop(
        net,
        search,
        n_drop=options.most,
        metric=options.metric,
        recalibrate=images,
        finetune=train,
        distillation=Distillation(epochs=options.epochs),
        report=test,
        random_draws=20,
        seconds=0.3,
        batch_size=min(500, options.search),
    )
    save(plot_plan(plan), HERE / "resnet56.png")
    save(plot_search(plan), HERE / "resnet56_search.png")
    whole = plan.points[0]
    within = [p for p in plan.points if (p.recalibrated or 0) >= whole.accuracy - 0.02]
    most = max(len(point.dropped) for point in within)
    before, after = random_recovery(net, search, test, images, options.draws)
    gain = 100 * (after - before)
    low, high = interval(gain)
    pairs = list(zip(plan.search_losses, plan.random_losses, strict=True))[1:]
    beaten = [min(drawn) / found for found, drawn in pairs]
    falls, shares = time_saved(net, plan, test.subset(slice(0, 32)).x)
    rows = [
        (
            "blocks dropped at no more than 2 points of accuracy, recalibration only",
            "at least 5 of 27",
            f"{most} (test accuracy {max(p.recalibrated or 0 for p in plan.points if len(p.dropped) == most):.1%} "
            f"of {whole.accuracy:.1%})",
            "holds" if most >= 5 else "does not hold",
        ),
        (
            "random 6-block deletions: points recovered by recalibration",
            "at least 10",
            f"{gain.mean():.1f} ({low:.1f} to {high:.1f}; accuracy {before.mean():.1%} to {after.mean():.1%}, "
            f"{options.draws} draws)",
            "holds" if gain.mean() >= 10 else "does not hold",
        ),
        (
            f"latency falls by the dropped branches' share of time ({len(plan.point.dropped)} blocks)",
            "at least 0.85 times",
            f"{falls / shares:.2f} times (fall {falls:.1%}, share {shares:.1%})",
            "holds" if falls >= 0.85 * shares else "does not hold",
        ),
        (
            "greedy search beats 20 random sets of as many blocks, by what it minimises",
            f"at every size from 1 to {options.most}",
            f"best random over greedy: {', '.join(f'{ratio:.1f}' for ratio in beaten)} times",
            "holds" if min(beaten) >= 1 else "does not hold",
        ),
        (
            f"{len(plan.point.dropped)} blocks dropped, taught by the whole model for {options.epochs} epochs of "
            f"{len(train):,} images",
            "(none)",
            f"{plan.point.finetuned:.1%} of {whole.accuracy:.1%}; recalibrated only: {plan.point.recalibrated:.1%}",
            "",
        ),
    ]
    lines = [
        "# ResNet-56: accuracy against latency",
        "",
        f"`python analysis/tradeoff/resnet56.py --reference FOLDER --search {options.search} --recalibrate "
        f"{options.recalibrate} --most {options.most} --draws {options.draws} --epochs {options.epochs} --metric "
        f"{options.metric}`; resnet_paths {__version__}, torch {torch.__version__}, {platform.machine()}, "
        f"{torch.get_num_threads()} threads, batch {plan.batch}. Greedy search on training images, with each batch's "
        "own statistics; accuracy on the 500 original test images.",
        "",
        "| claim | expected | measured | verdict |",
        "|---|---|---|---|",
        *[f"| {' | '.join(row)} |" for row in rows],
        "",
        "![frontier](resnet56.png)",
        "",
        "![search](resnet56_search.png)",
        "",
        "| blocks dropped | units | accuracy | recalibrated | 95 % interval | latency (share) | parameters (share) |",
        "|---:|---|---:|---:|---|---:|---:|",
    ]
    for point in plan.points:
        ends = point.recalibrated_interval or (0.0, 0.0)
        lines.append(
            f"| {len(point.dropped)} | {', '.join(map(str, point.dropped))} | {point.accuracy:.1%} | "
            f"{point.recalibrated:.1%} | {ends[0]:.1%} to {ends[1]:.1%} | {point.latency / whole.latency:.2f} | "
            f"{point.parameters / whole.parameters:.2f} |"
        )
    (HERE / "resnet56.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
