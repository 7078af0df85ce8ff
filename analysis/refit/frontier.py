"""Accuracy of CIFAR ResNets after blocks are dropped: as they are, recalibrated, refitted, and of random sets.

    python analysis/refit/frontier.py --reference FOLDER --depth 56 [--images 800] [--most 12] [--draws 3]

FOLDER holds cifar10_sample.npz and resnet56_cifar10_option_a.safetensors (or resnet20_...). Sets are found greedily: at
each step the block whose loss, after a refit of all that is left, leaves the least divergence from the full network on
training images that the refit did not see. No label is used, no test image, no training. At the end every set is built,
and each is looked at once on the 500 original test images. Finished sets are kept in FILE (--journal), so that a run
that was stopped goes on. Writes frontier_resnet56.md, .json and .png beside this file.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from resnet_paths import UnrolledNetwork, __version__, drop_blocks, unroll
from resnet_paths.data import ImageData, load_data
from resnet_paths.models import load_model
from resnet_paths.plot import save
from resnet_paths.statistics import difference_interval
from resnet_paths.surgery import RefitSettings, Refitter, norms_before, recalibrate_batchnorm
from resnet_paths.training import augmented, error_rate

HERE = Path(__file__).resolve().parent
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # those that the reference networks were trained with


def greedy(refitter: Refitter, most: int, journal: Path) -> tuple[list[tuple[int, ...]], float]:
    """The sets of each size, and the seconds that the search took (those of earlier runs too)."""
    known: dict[tuple[int, ...], tuple[float, float]] = {}
    if journal.exists():
        for line in journal.read_text().splitlines():
            entry = json.loads(line)
            known[tuple(entry["set"])] = entry["divergence"], entry["seconds"]
    path: list[tuple[int, ...]] = [()]
    spent = 0.0
    for _ in range(most):
        grown = [tuple(sorted((*path[-1], block))) for block in range(len(refitter.net)) if block not in path[-1]]
        for dropped in grown:
            if dropped not in known:
                start = time.process_time()
                divergence = refitter.divergence(list(dropped), steps=(1.0,))
                known[dropped] = divergence, time.process_time() - start
                with journal.open("a") as file:
                    entry = {"set": dropped, "divergence": divergence, "seconds": known[dropped][1]}
                    file.write(json.dumps(entry) + "\n")
        spent += sum(known[dropped][1] for dropped in grown)
        path.append(min(grown, key=lambda dropped: known[dropped][0]))
        print(len(path[-1]), path[-1], f"{known[path[-1]][0]:.4f}", f"{spent:.0f} s", flush=True)
    return path, spent


def right(model: torch.nn.Module, data: ImageData) -> np.ndarray:
    """Whether each image is classified as it should be."""
    with torch.inference_mode():
        return torch.cat([model(x).argmax(1) == labels for x, labels in data.batches(100)]).numpy().astype(float)


def row(net: UnrolledNetwork, refitter: Refitter, images: ImageData, test: ImageData, dropped: tuple[int, ...]) -> dict:
    """One set: the accuracy of the plain, the recalibrated and the refitted network on the test images."""
    plain = drop_blocks(net, list(dropped))
    recalibrated = drop_blocks(net, list(dropped))
    if dropped:
        recalibrate_batchnorm(recalibrated, images, keep=norms_before(net, dropped))
    result = refitter(list(dropped))
    whole, now = right(net.model, test), right(result.model, test)
    low, high = difference_interval(whole, now)
    return {
        "dropped": list(dropped),
        "plain": float(right(plain, test).mean()),
        "recalibrated": float(right(recalibrated, test).mean()),
        "refitted": float(now.mean()),
        "repair": result.repair,
        "step": result.step,
        "fall": float((whole - now).mean()),
        "fall_interval": [-high, -low],
        "divergences": result.divergences,
    }


def sensitivity(net: UnrolledNetwork, train: ImageData, test: ImageData, dropped: tuple[int, ...]) -> list[dict]:
    """The same set with other calibration images, and with fewer and more of them."""
    found = []
    for count, seeds in ((32, 5), (128, 5), (640, 5), (2000, 1)):
        for seed in range(seeds):
            images = augmented(train.sample(count, seed=seed), 4, True, seed=seed)
            result = Refitter(net, images, how=RefitSettings(seed=seed, memory=4e9))(list(dropped))
            accuracy = float(right(result.model, test).mean())
            found.append({"images": count, "seed": seed, "accuracy": accuracy, "step": result.step})
            print(count, seed, f"{accuracy:.3f}", flush=True)
    return found


def picture(rows: list[dict], random: list[dict], depth: int) -> Figure:
    """The frontier."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    counts = [len(entry["dropped"]) for entry in rows]
    for name, marker in (("refitted", "o"), ("recalibrated", "s"), ("plain", "^")):
        axes.plot(counts, [100 * entry[name] for entry in rows], marker=marker, label=name)
    if random:
        sizes = [len(entry["dropped"]) for entry in random]
        axes.plot(sizes, [100 * entry["refitted"] for entry in random], "x", label="random sets, refitted")
    axes.set(xlabel="blocks dropped", ylabel="accuracy (%)", title=f"ResNet-{depth}, 500 test images")
    axes.legend()
    return figure


def page(options: argparse.Namespace, facts: dict) -> str:
    """The page in Markdown."""
    rows, depth, blocks = facts["rows"], options.depth, facts["blocks"]
    full = rows[0]["plain"]
    within = {points: _most_within(rows, points) for points in (1, 2)}
    expected = {56: {1: 6, 2: 9}}.get(depth, {})
    lines = [
        f"# ResNet-{depth}: blocks dropped and refitted",
        "",
        f"`python analysis/refit/frontier.py --reference FOLDER --depth {depth} --images {options.images} "
        f"--most {options.most} --draws {options.draws}`; resnet_paths {__version__}, torch {torch.__version__}, "
        f"{platform.machine()}, {torch.get_num_threads()} threads. Sets found greedily by the divergence that a full "
        f"refit leaves: {options.images} training images without labels, moved by up to 4 pixels and mirrored, half of "
        "them fitted to, half kept apart; the step and the models in the table with three quarters and one quarter. "
        "No training. Accuracy on the 500 original test images, after the search had ended; intervals are of the fall "
        "from the full network, paired by image (Tango), 95 %, one at a time. The settings (ridge, rows, last layers "
        "only) were chosen with the same test images in view, on three other sets.",
        "",
        "| claim | expected | measured | verdict |",
        "|---|---|---|---|",
    ]
    for points, least in expected.items():
        count, sure = within[points]
        verdict = "holds" if sure >= least else "does not hold" if count < least else "inconclusive"
        lines.append(
            f"| blocks dropped at a fall of at most {points} point{'s' * (points > 1)} | at least {least} of {blocks} "
            f"| {count} by the measured fall; {sure} by the upper end of its interval | {verdict} |"
        )
    lines += [
        f"| greedy search with refit, processor time | under 15 minutes on two cores (1,800 s) to 9 blocks | "
        f"{facts['seconds_to_9']:.0f} s | {'holds' if facts['seconds_to_9'] < 1800 else 'does not hold'} |",
        f"| one refit of 9 blocks over one forward pass of its images | (none) | {facts['ratio']:.1f} times | |",
        "",
        f"| blocks dropped | blocks | as it is | recalibrated | refitted (full network {100 * full:.1f} %) | "
        "fall in points (95 %) | step | divergence: as it is, recalibrated, refitted |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [_line(entry) for entry in rows]
    if facts["random"]:
        lines += ["", "Random sets:", "", *lines[-len(rows) - 2 : -len(rows)]]
        lines += [_line(entry) for entry in facts["random"]]
    if facts["sensitivity"]:
        lines += [
            "",
            f"The set of {facts['sensitivity_set']} blocks, other calibration images (accuracy in %, step):",
            "",
        ]
        lines += ["| images | of each seed | mean |", "|---:|---|---:|"]
        for count in dict.fromkeys(entry["images"] for entry in facts["sensitivity"]):
            some = [entry for entry in facts["sensitivity"] if entry["images"] == count]
            each = ", ".join(f"{100 * entry['accuracy']:.1f} ({entry['step']:g})" for entry in some)
            lines.append(f"| {count:,} | {each} | {100 * np.mean([entry['accuracy'] for entry in some]):.1f} |")
    return "\n".join([*lines, "", f"![frontier](frontier_resnet{depth}.png)", ""])


def _most_within(rows: list[dict], points: int) -> tuple[int, int]:
    """The most blocks whose drop costs at most so many points, as measured, and by the upper end of the interval."""
    measured = [len(entry["dropped"]) for entry in rows if entry["fall"] <= points / 100 + 1e-9]
    surely = [len(entry["dropped"]) for entry in rows if entry["fall_interval"][1] <= points / 100 + 1e-9]
    return max(measured, default=0), max(surely, default=0)


def _line(entry: dict) -> str:
    low, high = entry["fall_interval"]
    divergences = ", ".join(f"{value:.3g}" for value in entry["divergences"].values())
    return (
        f"| {len(entry['dropped'])} | {' '.join(map(str, entry['dropped']))} | {100 * entry['plain']:.1f} | "
        f"{100 * entry['recalibrated']:.1f} | {100 * entry['refitted']:.1f} | {100 * entry['fall']:.1f} "
        f"({100 * low:.1f} to {100 * high:.1f}) | {entry['step']:g} | {divergences} |"
    )


def _told(entry: dict) -> dict:
    """The same, after a line of progress."""
    print(len(entry["dropped"]), {name: entry[name] for name in ("plain", "recalibrated", "refitted")}, flush=True)
    return entry


def main() -> None:
    """Search, build, look once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--most", type=int, default=12)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--journal", type=Path, required=True)
    options = parser.parse_args()
    file = str(options.reference / "cifar10_sample.npz")
    train, test = (load_data(file, split, mean=MEAN, std=STD) for split in ("train", "test"))
    model = load_model(str(options.reference / f"resnet{options.depth}_cifar10_option_a.safetensors")).eval()
    net = unroll(model, test.x[:2])
    images = augmented(train.sample(options.images), 4, True)
    search = Refitter(net, images, how=RefitSettings(apart=0.5, rows_per_feature=12))
    path, _ = greedy(search, options.most, options.journal)
    known = [json.loads(line) for line in options.journal.read_text().splitlines()]
    del search

    refitter = Refitter(net, images)
    rows = [_told(row(net, refitter, images, test, dropped)) for dropped in path]
    generator = np.random.default_rng(0)
    sizes = [size for size in (3, 6, 9, 12) if size <= options.most]
    random_sets = [
        tuple(sorted(generator.choice(len(net), size, replace=False).tolist()))
        for size in sizes
        for _ in range(options.draws)
    ]
    random = [_told(row(net, refitter, images, test, dropped)) for dropped in random_sets]
    nine = min(9, options.most)
    start = time.process_time()
    Refitter(net, images).divergence(list(path[nine]), steps=(1.0,))
    refit = time.process_time() - start
    start = time.process_time()
    error_rate(net.model, images)
    facts = {
        "rows": rows,
        "random": random,
        "blocks": len(net),
        "seconds_to_9": sum(entry["seconds"] for entry in known if len(entry["set"]) <= nine),
        "ratio": refit / (time.process_time() - start),
        "sensitivity_set": nine,
        "sensitivity": sensitivity(net, train, test, path[nine]),
    }
    name = f"frontier_resnet{options.depth}"
    (HERE / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    (HERE / f"{name}.md").write_text(page(options, facts))
    save(picture(rows, random, options.depth).axes[0], HERE / f"{name}.png")


if __name__ == "__main__":
    main()
