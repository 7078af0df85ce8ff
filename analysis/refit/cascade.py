"""A cascade of ResNet-56 without some blocks and of the full network: what it saves, and whether it keeps its promise.

    python analysis/refit/cascade.py --reference FOLDER [--images 512] [--draws 500] [--timed 200]

FOLDER holds cifar10_sample.npz, cifar10_jpeg.zip and resnet56_cifar10_option_a.safetensors. The small network is
refitted on --images of the original training images, without labels. Half of the 3,000 test images of the JPEGs set the
threshold, so that at most a given share of images gets another answer than the full network's; the other half is looked
at once: disagreement, accuracy, the share that the small network answers. (These images are JPEGs, on which this
network is some nine points worse than on the original pixels: certified and looked at are of one kind.) Milliseconds at
batch 1, real execution, of full network, small network and cascade in turn on the same images, one thread. Then the
halves are drawn anew --draws times: how often the disagreement on the other half, and on all images, is above the
promised share. Writes cascade.md and cascade.json beside this file.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch

from resnet_paths import __version__, for_inference, load_data, load_model, unroll
from resnet_paths.data import ImageData
from resnet_paths.tradeoff import Cascade, cascade, cascade_threshold
from resnet_paths.tradeoff.cascading import margin
from resnet_paths.training import augmented

HERE = Path(__file__).resolve().parent
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SETS = {
    "6 by the greedy search": (5, 8, 10, 13, 14, 16),
    "9 by the greedy search": (0, 3, 5, 8, 10, 13, 14, 16, 17),
    "8 of the second stage": (10, 11, 12, 13, 14, 15, 16, 17),
    "all 8 that can go in the last stage": (19, 20, 21, 22, 23, 24, 25, 26),
}
"""The first two as found in frontier_resnet56.md; the others share more of the network with the full one."""
SHARES = (0.01, 0.02, 0.05)


def answers(model: Cascade, data: ImageData) -> dict[str, np.ndarray]:
    """Margins of the small network, and whether it agrees and each network is right."""
    found: dict[str, list[torch.Tensor]] = {"margin": [], "same": [], "small": [], "full": []}
    for x, labels in data.batches(100):
        small, full = model.small(x), model.full(x)
        found["margin"].append(margin(small))
        found["same"].append(small.argmax(1) == full.argmax(1))
        found["small"].append(small.argmax(1) == labels)
        found["full"].append(full.argmax(1) == labels)
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def milliseconds(ways: dict, images: torch.Tensor) -> dict[str, float]:
    """Mean time of one image, all ways in turn on each."""
    total = dict.fromkeys(ways, 0.0)
    with torch.inference_mode():
        for way in ways.values():
            way(images[:1])
        for one in images.split(1):
            for name, way in ways.items():
                start = time.perf_counter()
                way(one)
                total[name] += time.perf_counter() - start
    return {name: 1000 * seconds / len(images) for name, seconds in total.items()}


def looked_at(found: dict[str, np.ndarray], certify: np.ndarray, share: float) -> dict:
    """The threshold by one half, and what it does on the other."""
    threshold = cascade_threshold(found["margin"][certify], found["same"][certify], disagreement=share)
    taken = found["margin"] >= threshold.margin
    wrong = taken & ~found["same"]
    right = np.where(taken, found["small"], found["full"])
    rest = np.setdiff1d(np.arange(len(taken)), certify)
    return {
        "share": share,
        "margin": threshold.margin,
        "at_most": threshold.at_most,
        "disagreement": float(wrong[rest].mean()),
        "disagreement_of_all": float(wrong.mean()),
        "answered": float(taken[rest].mean()),
        "accuracy": float(right[rest].mean()),
        "full": float(found["full"][rest].mean()),
        "small": float(found["small"][rest].mean()),
    }


def main() -> None:
    """Refit, certify, look, time, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--timed", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train = load_data(str(options.reference / "cifar10_sample.npz"), "train", mean=MEAN, std=STD)
    test = load_data(str(options.reference / "cifar10_jpeg.zip"), "test", mean=MEAN, std=STD).shuffled(0)
    model = load_model(str(options.reference / "resnet56_cifar10_option_a.safetensors")).eval()
    net = unroll(model)
    images = augmented(train.sample(options.images), 4, True)
    half = np.arange(len(test) // 2)
    rows = []
    for name, dropped in SETS.items():
        made = cascade(net, dropped, images, test.subset(slice(0, 200)), disagreement=0.5)
        found = answers(made, test)
        plain = for_inference(net)
        for share in SHARES:
            row = {"set": name, "dropped": dropped, "shared": made.shared, "own": made.own}
            row |= looked_at(found, half, share)
            made.threshold = cascade_threshold(found["margin"][half], found["same"][half], disagreement=share)
            timed = test.subset(slice(len(half), len(half) + options.timed)).x
            ways = {"model": model, "full": plain, "small": made.small, "cascade": made}
            row["milliseconds"] = milliseconds(ways, timed)
            generator = np.random.default_rng(0)
            draws = [
                looked_at(found, generator.choice(len(test), len(half), replace=False), share)
                for _ in range(options.draws)
            ]
            row["broken_on_rest"] = float(np.mean([one["disagreement"] > share for one in draws]))
            row["broken_on_all"] = float(np.mean([one["disagreement_of_all"] > share for one in draws]))
            rows.append(row)
            print(row, flush=True)
    facts = {"rows": rows, "images": options.images, "draws": options.draws, "timed": options.timed}
    (HERE / "cascade.json").write_text(json.dumps(facts, indent=1) + "\n")
    (HERE / "cascade.md").write_text(page(facts))


def page(facts: dict) -> str:
    """The page in Markdown."""
    lines = [
        "# A cascade of ResNet-56 without some blocks and the full network",
        "",
        f"`python analysis/refit/cascade.py --reference FOLDER --images {facts['images']} --draws {facts['draws']} "
        f"--timed {facts['timed']}`; resnet_paths {__version__}, torch {torch.__version__}, {platform.machine()}, one "
        "thread. The threshold is set on 1,500 images so that at most the promised share of images gets another answer "
        "than the full network's (95 %); the other 1,500 are looked at. Times are means at batch 1 over "
        f"{facts['timed']} of these, all ways in turn on each image, as shares of the full network with its norms "
        "folded, which the cascade's networks have too.",
        "",
        "| blocks dropped | shared blocks | promised | margin | disagreement | answered by the small one | accuracy: "
        "full, small, cascade | full network, ms | small: share of its time | cascade: share of its time |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in facts["rows"]:
        times = row["milliseconds"]
        accuracy = ", ".join(f"{100 * row[name]:.1f}" for name in ("full", "small", "accuracy"))
        lines.append(
            f"| {row['set']} | {row['shared']} | {100 * row['share']:.0f} % | {row['margin']:.3g} | "
            f"{100 * row['disagreement']:.1f} % | {100 * row['answered']:.0f} % | {accuracy} | {times['full']:.1f} | "
            f"{times['small'] / times['full']:.2f} | {times['cascade'] / times['full']:.2f} |"
        )
    count = facts["draws"]
    worst = max(row["broken_on_all"] for row in facts["rows"])
    bound = 0.05 + 2 * (0.05 * 0.95 / count) ** 0.5
    lines += [
        "",
        f"The promise, over {count} random halves of the 3,000 images:",
        "",
        "| blocks dropped | promised | above it on all 3,000 images | on the other half, which has errors of its own |",
        "|---|---:|---:|---:|",
        *(
            f"| {row['set']} | {100 * row['share']:.0f} % | {100 * row['broken_on_all']:.1f} % of draws | "
            f"{100 * row['broken_on_rest']:.1f} % |"
            for row in facts["rows"]
        ),
        "",
        "| claim | expected | measured | verdict |",
        "|---|---|---|---|",
        f"| the disagreement is above the promised share | in at most 5 % of draws (with {count} draws at most "
        f"{100 * bound:.1f} %) | at worst in {100 * worst:.1f} % | {'holds' if worst <= bound else 'does not hold'} |",
        *(
            f"| {name}: the cascade is faster than the full network at a promise of 1 % | share of the time below 1 | "
            f"{row['milliseconds']['cascade'] / row['milliseconds']['full']:.2f} | "
            f"{'holds' if row['milliseconds']['cascade'] < row['milliseconds']['full'] else 'does not hold'} |"
            for name, row in ((row["set"], row) for row in facts["rows"] if row["share"] == SHARES[0])
        ),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
