"""Accuracy against latency of ResNet-56 on CIFAR-10: batch-norm recalibration only, and short distillation.

    python analysis/tradeoff/resnet56.py --reference FOLDER [--search 1165] [--most 6] [--beam 6] [--finalists 16]
        [--draws 10] [--epochs 2] [--metric soft_error]

FOLDER holds cifar10_sample.npz and resnet56_cifar10_option_a.safetensors. Count are searched on the first training
images, with each batch's own statistics, and the finalists of each size judged on the other training
images; all of these are moved and mirrored as in training, as are those that statistics are measured on. Accuracy is
on the 500 original test images. Writes resnet56.md and pictures beside this file.
"""

import argparse
import copy
import platform
from pathlib import Path

import numpy as np
import torch

from resnet_paths import __version__, drop_blocks, unroll
from resnet_paths.data import ImageData, load_data
from resnet_paths.lesion import interval
from resnet_paths.models import load_model
from resnet_paths.network import UnrolledNetwork
from resnet_paths.plot import plot_plan, plot_search, save
from resnet_paths.surgery import norms_before, recalibrate_batchnorm
from resnet_paths.tradeoff import (
    Beam,
    Clock,
    Count,
    Distil,
    Distillation,
    DropPlan,
    ImageSplit,
    Recalibrate,
    as_in_training,
    latencies_in_turn,
    latency_by_block,
    plan_drop,
    statistics_gap,
)
from resnet_paths.training import error_rate

HERE = Path(__file__).resolve().parent


def random_recovery(
    net: UnrolledNetwork, test: ImageData, images: ImageData, draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy of random 6-block deletions before and after recalibration."""
    generator = np.random.default_rng(0)
    before, after = [], []
    for _ in range(draws):
        dropped = sorted(generator.choice(len(net), 6, replace=False).tolist())
        smaller = drop_blocks(net, dropped)
        before.append(1 - error_rate(smaller, test))
        recalibrate_batchnorm(smaller, images, keep=norms_before(net, dropped))
        after.append(1 - error_rate(smaller, test))
    return np.array(before), np.array(after)


def time_saved(net: UnrolledNetwork, plan: DropPlan, x: torch.Tensor) -> tuple[float, float]:
    """The fall of latency, and the sum of the branches' shares of time, in turn in one process."""
    dropped = list(plan.points[plan.chosen].dropped)
    smaller = drop_blocks(net, dropped)
    falls, shares = [], []
    for _ in range(5):
        before, after = latencies_in_turn([net.model, smaller], x, seconds=0.5)
        whole = before.median
        falls.append(1 - after.median / whole)
        table = latency_by_block(net, x, seconds=0.05)
        total = sum(table.branch[index] for index in dropped)
        shares.append(total / whole)
    return float(np.median(falls)), float(np.median(shares))


def which_images(model: torch.nn.Module, train: ImageData, images: ImageData) -> list[str]:
    """What recalibration alone costs, nothing dropped, by the images that it measures on."""
    half = len(train) // 2
    rest = train.subset(slice(half, len(train)))
    rows = []
    for title, some in (("as stored", None), ("images as they are", train), (images.name.partition(", ")[2], images)):
        other, gap = copy.deepcopy(model), 0.0
        if some is not None:
            batches = [x for x, _ in some.subset(slice(0, half)).batches(100)]
            gap = statistics_gap(model, batches).mean
            recalibrate_batchnorm(other, batches)
        with torch.inference_mode():
            wrong = torch.cat([other(x).argmax(1) != labels for x, labels in rest.batches(100)])
        rows.append(f"| {title} | {gap:.4f} | {wrong.float().mean():.2%} |")
    return [
        f"The whole network, nothing dropped, with statistics measured on {half:,} training images, and its error on "
        f"the other {len(rest):,} as they are:",
        "",
        "| statistics | gap to the stored ones (standard deviations) | error on training images |",
        "|---|---:|---:|",
        *rows,
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--metric", default="soft_error")
    sizes = {"search": 1165, "most": 6, "beam": 6, "finalists": 16, "draws": 10, "epochs": 2}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    net = unroll(load_model(str(options.reference / "resnet56_cifar10_option_a.safetensors")))
    source = str(options.reference / "cifar10_sample.npz")
    train, test = load_data(source, "train"), load_data(source, "test")
    images = as_in_training(net.model, train)
    search, judge = images.subset(slice(0, options.search)), images.subset(slice(options.search, len(images)))
    plan = plan_drop(
        net,
        search,
        goal=Count(options.most),
        search=Beam(options.beam, metric=options.metric, random_sets=20),
        repair=Distil(Distillation(epochs=options.epochs), Recalibrate(), train),
        split=ImageSplit(
            search=search,
            judge=judge,
            repair=images,
            certify=test,
            finalists=options.finalists,
            batch_size=-(-options.search // 3),
        ),
        clock=Clock(seconds=0.3),
    )
    point, tuned = plan.points[plan.chosen], plan.finetuned or plan.points[plan.chosen]
    save(plot_plan(plan), HERE / "resnet56.png")
    save(plot_search(plan), HERE / "resnet56_search.png")
    whole = plan.points[0]
    within = [p for p in plan.points if p.accuracy >= whole.accuracy - 0.02]
    most = max(len(point.dropped) for point in within)
    before, after = random_recovery(net, test, images, options.draws)
    gain = 100 * (after - before)
    low, high = interval(gain)
    pairs = list(zip(plan.greedy_losses, plan.random_losses, strict=True))[1:]
    beaten = [min(drawn) / found for found, drawn in pairs]
    falls, shares = time_saved(net, plan, test.subset(slice(0, 32)).x)
    rows = [
        (
            "blocks dropped at no more than 2 points of accuracy, recalibration only",
            "at least 5 of 27",
            f"{most} (test accuracy {max(p.accuracy for p in plan.points if len(p.dropped) == most):.1%} "
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
            f"latency falls by the dropped branches' share of time ({len(point.dropped)} blocks)",
            "at least 0.85 times",
            f"{falls / shares:.2f} times (fall {falls:.1%}, share {shares:.1%})",
            "holds" if falls >= 0.85 * shares else "does not hold",
        ),
        (
            "greedy search beats 20 random sets of as many blocks, by what it minimises on the search images",
            f"at every size from 1 to {options.most}",
            f"best random over greedy: {', '.join(f'{ratio:.1f}' for ratio in beaten)} times",
            "holds" if min(beaten) >= 1 else "does not hold",
        ),
        (
            f"{len(point.dropped)} blocks dropped, taught by the whole model for {options.epochs} epochs of "
            f"{len(train):,} images",
            "(none)",
            f"{tuned.accuracy:.1%} of {whole.accuracy:.1%}; recalibrated only: {point.accuracy:.1%}",
            "",
        ),
    ]
    command = " ".join([*(f"--{name} {getattr(options, name)}" for name in sizes), f"--metric {options.metric}"])
    lines = [
        "# ResNet-56: accuracy against latency",
        "",
        f"`python analysis/tradeoff/resnet56.py --reference FOLDER {command}`; resnet_paths "
        f"{__version__}, torch {torch.__version__}, {platform.machine()}, "
        f"{torch.get_num_threads()} threads, batch {plan.clock.batch}. A beam of {options.beam} on {len(search):,} "
        f"training images, with each batch's own statistics; of each size the {options.finalists} best sets judged "
        f"on the other {len(judge):,}. Searched, judged and recalibrated on {images.name}. Accuracy on the 500 "
        "original test images, which were looked at for the sets in the table below only, and for those of this "
        "page's earlier version (greedy search by divergence, on images as they are: 4 blocks within 2 points, 90.2 % "
        "with 5 dropped).",
        "",
        "| claim | expected | measured | verdict |",
        "|---|---|---|---|",
        *[f"| {' | '.join(row)} |" for row in rows],
        "",
        *which_images(net.model, train, images),
        "![frontier](resnet56.png)",
        "",
        "![search](resnet56_search.png)",
        "",
        f"Search and judge: mean of {plan.metric}. Greedy: the greedy search's own set of that size.",
        "",
        "| blocks dropped | blocks | accuracy | recalibrated | 95 % interval | latency (share) | parameters (share) | "
        "search | greedy | judge |",
        "|---:|---|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    scores = zip(plan.points, plan.search_losses, plan.greedy_losses, plan.judge_losses, strict=True)
    for point, *losses in scores:
        ends = point.accuracy_interval
        lines.append(
            f"| {len(point.dropped)} | {', '.join(map(str, point.dropped))} | {point.plain:.1%} | "
            f"{point.accuracy:.1%} | {ends[0]:.1%} to {ends[1]:.1%} | {point.share:.2f} | "
            f"{point.parameters / whole.parameters:.2f} | {' | '.join(f'{loss:.4f}' for loss in losses)} |"
        )
    (HERE / "resnet56.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
