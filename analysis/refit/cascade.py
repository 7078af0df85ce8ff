"""A cascade of a smaller ResNet-56 and the full network: what it saves, and whether it keeps its promise.

    python analysis/refit/cascade.py --reference FOLDER [--images 512] [--draws 500] [--timed 200]

FOLDER holds cifar10_sample.npz, cifar10_jpeg.zip and resnet56_cifar10_option_a.safetensors. The small network is
refitted on --images of the original training images, without labels. Half of the 3,000 test images of the JPEGs set the
threshold, so that at most a given share of images gets a different answer than from the full network; the other half
is evaluated once: disagreement, accuracy, the share that the small network answers. (These images are JPEGs, on which
this network is some nine points worse than on the original pixels; certification and evaluation use the same kind.)
Milliseconds at batch size 1, real execution, of the full network, the small network and the cascade in turn on the
same images, one thread. Then 1,500 images are drawn from the 3,000 --draws times, with replacement: how often is the
disagreement on all 3,000 above the promised share? Last, the threshold is set on all 500 original test images, which
match the network's training images. Writes cascade.md and cascade.json beside this file.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import reference
import torch

from resnet_paths import __version__, for_inference, unroll
from resnet_paths.data import ImageData
from resnet_paths.tradeoff import Cascade, cascade, cascade_threshold
from resnet_paths.tradeoff.cascading import margin
from resnet_paths.training import augmented

HERE = Path(__file__).resolve().parent
SETS = {
    "6 found by greedy search": (5, 8, 10, 13, 14, 16),
    "9 found by greedy search": (0, 3, 5, 8, 10, 13, 14, 16, 17),
    "8 of the second stage": (10, 11, 12, 13, 14, 15, 16, 17),
    "all 8 droppable ones of the last stage": (19, 20, 21, 22, 23, 24, 25, 26),
}
"""The first two are from frontier_resnet56.md; the others share more with the full network."""
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
    """Mean time per image, all variants in turn on each."""
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
    """The threshold from one half, and its results on the other."""
    threshold = cascade_threshold(found["margin"][certify], found["same"][certify], disagreement=share)
    taken = found["margin"] >= threshold.margin
    wrong = taken & ~found["same"]
    right = np.where(taken, found["small"], found["full"])
    everything = np.arange(len(taken))
    rest = np.setdiff1d(everything, certify)
    rest = rest if len(rest) else everything
    return {
        "share": share,
        "margin": threshold.margin,
        "at_most": threshold.at_most,
        "disagreement": float(wrong[rest].mean()),
        "disagreement_of_all": float(wrong.mean()),
        "answered_of_all": float(taken.mean()),
        "answered": float(taken[rest].mean()),
        "accuracy": float(right[rest].mean()),
        "full": float(found["full"][rest].mean()),
        "small": float(found["small"][rest].mean()),
    }


def main() -> None:
    """Refit, certify, evaluate, time, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--timed", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, originals = (
        reference.load_images(options.reference, "cifar10_sample.npz", split) for split in ("train", "test")
    )
    jpegs = reference.load_images(options.reference, "cifar10_jpeg.zip", "test").shuffled(0)
    model = reference.load_network(options.reference, 56)
    net = unroll(model)
    plain, images = for_inference(net), augmented(train.sample(options.images), 4, True)
    rows, at_home = [], []
    for name, dropped in SETS.items():
        made = cascade(net, dropped, images, jpegs.subset(slice(0, 200)), disagreement=0.5)
        facts = {"set": name, "dropped": dropped, "shared": made.shared, "own": made.own_weights}
        for data, kept in ((jpegs, rows), (originals, at_home)):
            found = answers(made, data)
            half = np.arange(len(data) // 2 if data is jpegs else len(data))
            for share in SHARES:
                row = facts | looked_at(found, half, share)
                made.threshold = cascade_threshold(found["margin"][half], found["same"][half], disagreement=share)
                ways = {"model": model, "full": plain, "small": made.small, "cascade": made}
                row["milliseconds"] = milliseconds(ways, data.x[-options.timed :])
                if data is jpegs:
                    row["broken"] = broken(found, share, options.draws)
                kept.append(row)
                print(row, flush=True)
    result = {"rows": rows, "at_home": at_home, "images": options.images, "draws": options.draws}
    result["timed"] = options.timed
    (HERE / "cascade.json").write_text(json.dumps(result, indent=1) + "\n")
    (HERE / "cascade.md").write_text(page(result))


def broken(found: dict[str, np.ndarray], share: float, draws: int) -> float:
    """The share of draws in which the disagreement of all images is above the promise."""
    generator, count = np.random.default_rng(0), len(found["margin"])
    drawn = [generator.integers(0, count, count // 2) for _ in range(draws)]
    return float(np.mean([looked_at(found, one, share)["disagreement_of_all"] > share for one in drawn]))


def page(facts: dict) -> str:
    """The page in Markdown."""
    lines = [
        "# A cascade of a smaller ResNet-56 and the full network",
        "",
        f"`python analysis/refit/cascade.py --reference FOLDER --images {facts['images']} --draws {facts['draws']} "
        f"--timed {facts['timed']}`; resnet_paths {__version__}, torch {torch.__version__}, {platform.machine()}, one "
        "thread. The threshold is set on 1,500 images so that, with 95 % confidence, at most the promised share of "
        "images gets a different answer than from the full network. The other 1,500 are used for evaluation. Times "
        f"are means at batch size 1 over {facts['timed']} of these, all variants in turn on each image, as shares "
        "of the full network's. All networks have folded norms.",
        "",
        "| blocks dropped | shared blocks | promised | margin | disagreement | answered by the small network | "
        "accuracy: full, small, cascade | full network, ms | small: share of its time | cascade: share of its time |",
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
    worst = max(row["broken"] for row in facts["rows"])
    bound = 0.05 + 2 * (0.05 * 0.95 / count) ** 0.5
    lines += [
        "",
        f"The promise, tested with {count} draws of 1,500 of the 3,000 images (with replacement, so that the share of "
        "all 3,000 is the truth):",
        "",
        "| blocks dropped | promised | disagreement of all 3,000 above it |",
        "|---|---:|---:|",
        *(
            f"| {row['set']} | {100 * row['share']:.0f} % | {100 * row['broken']:.1f} % of draws |"
            for row in facts["rows"]
        ),
        "",
        "Certified on all 500 original test images, which match the network's training images (disagreement and "
        "answers are on these same images; the bound holds for others of their kind):",
        "",
        "| blocks dropped | promised | margin | disagreement, and its bound | answered by the small network | small: "
        "share of the time | cascade: share of the time |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in facts["at_home"]:
        times = row["milliseconds"]
        lines.append(
            f"| {row['set']} | {100 * row['share']:.0f} % | {row['margin']:.3g} | "
            f"{100 * row['disagreement_of_all']:.1f} %, {100 * row['at_most']:.1f} % | "
            f"{100 * row['answered_of_all']:.0f} % | {times['small'] / times['full']:.2f} | "
            f"{times['cascade'] / times['full']:.2f} |"
        )
    fastest = min(facts["rows"], key=lambda row: row["milliseconds"]["cascade"] / row["milliseconds"]["full"])
    least = fastest["milliseconds"]["cascade"] / fastest["milliseconds"]["full"]
    lines += [
        "",
        "| claim | expected | measured | verdict |",
        "|---|---|---|---|",
        f"| the disagreement is above the promised share | in at most 5 % of draws (with {count} draws at most "
        f"{100 * bound:.1f} %) | at worst in {100 * worst:.1f} % | {'holds' if worst <= bound else 'does not hold'} |",
        f"| on the JPEGs, some cascade takes at most 0.8 of the full network's time | at most 0.8 | {least:.2f} "
        f"({fastest['set']}, {100 * fastest['share']:.0f} %) | {'holds' if least <= 0.8 else 'does not hold'} |",
        "",
        "A cascade takes the small network's time, plus, for each image that continues, the full network's time "
        "without the shared part. It saves time if the small network saves more than the share of images that "
        "continue.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
