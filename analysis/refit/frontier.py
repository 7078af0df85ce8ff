"""Accuracy after dropping blocks: as dropped, recalibrated, refitted, fine-tuned, and for random sets.

    python analysis/refit/frontier.py SUBJECT --journal FILE [--reference FOLDER] [--weights FILE] [--images 800]
        [--build-images 800] [--most 12] [--draws 3] [--finetune 20] [--device cpu] [--out FOLDER]

SUBJECT is resnet56 or resnet20 (FOLDER holds cifar10_sample.npz and resnet56_cifar10_option_a.safetensors), embedded
(needs neither), or vit (FOLDER holds cifar10_jpeg.zip, FILE is written by vit.py). Sets are
found greedily: each step drops the block that, after a refit of all remaining blocks, gives the lowest divergence
from the full network on held-out training images. The search uses no labels, no test images and no training. At the
end every set is built and refitted on --build-images training images, and evaluated once on the test images. With
--finetune EPOCHS sets of 3, 6, 9, ... blocks are then distilled as well (full network as teacher, all training images
of the sample), for two epochs from the recalibrated and from the refitted network, and for EPOCHS from the refitted
one. Finished sets are stored in --journal, so that an interrupted run resumes. Writes frontier_SUBJECT.md, .json and
.png to --out (default: beside this file).
"""

import argparse
import copy
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from reference import load_images, load_network, right

from resnet_paths import UnrolledNetwork, __version__, drop_blocks, unroll
from resnet_paths.data import ImageData, load_data
from resnet_paths.models import load_model
from resnet_paths.plot import save
from resnet_paths.statistics import difference_interval
from resnet_paths.surgery import RefitSettings, Refitter, norms_before, recalibrate_batchnorm
from resnet_paths.tradeoff import Distillation, distil
from resnet_paths.training import augmented, error_rate

HERE = Path(__file__).resolve().parent


@dataclass
class Subject:
    """A trained network and its images."""

    title: str
    net: UnrolledNetwork
    train: ImageData
    test: ImageData
    shift: int  # as in its training
    flip: bool


def subject(options: argparse.Namespace) -> Subject:
    """The network and the images that the command names."""
    if options.subject == "embedded":
        train, test = (load_data("digits", split) for split in ("train", "test"))
        net = unroll(load_model("embedded").eval().to(options.device))
        return Subject("Embedded ResNet-56 (digits)", net, train, test, 1, False)
    if options.subject == "vit":
        from vit import small_vit  # needs timm

        train, test = (load_images(options.reference, "cifar10_jpeg.zip", split) for split in ("train", "test"))
        model = small_vit(options.weights).eval().to(options.device)
        net = unroll(model, test.x[:2])
        return Subject("ViT, patch 4, width 192, 9 layers (CIFAR-10 JPEGs)", net, train, test, 4, True)
    depth = int(options.subject.removeprefix("resnet"))
    train, test = (load_images(options.reference, "cifar10_sample.npz", split) for split in ("train", "test"))
    net = unroll(load_network(options.reference, depth, options.device), test.x[:2])
    return Subject(f"ResNet-{depth} (CIFAR-10)", net, train, test, 4, True)


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


def sensitivity(here: Subject, dropped: tuple[int, ...], draws: int) -> list[dict]:
    """The same set with other calibration images, fewer and more of them."""
    found = []
    for count in dict.fromkeys(min(size, len(here.train)) for size in (32, 128, 640, 2000, 4660)):
        for seed in range(draws):
            images = augmented(here.train.sample(count, seed=seed), here.shift, here.flip, seed=seed)
            result = Refitter(here.net, images, settings=RefitSettings(seed=seed, memory=4e9))(list(dropped))
            accuracy = float(right(result.model, here.test).mean())
            found.append({"images": count, "seed": seed, "accuracy": accuracy, "step": result.step})
            print(count, seed, f"{accuracy:.3f}", flush=True)
    return found


def finetuned(here: Subject, images: ImageData, refitter: Refitter, entry: dict, epochs: int) -> dict:
    """One set distilled: two epochs from the recalibrated and from the refitted network, and longer from the latter."""
    dropped, train = entry["dropped"], here.train.sample(min(4660, len(here.train)))
    recalibrated = drop_blocks(here.net, dropped)
    recalibrate_batchnorm(recalibrated, images, keep=norms_before(here.net, dropped))
    refitted = refitter(dropped).model
    ways = {
        "recalibrated, 2 epochs": (recalibrated, 2),
        "refitted, 2 epochs": (copy.deepcopy(refitted), 2),
        f"refitted, {epochs} epochs": (refitted, epochs),
    }
    found = {"dropped": dropped, "refitted": entry["refitted"]}
    for name, (model, passes) in ways.items():
        settings = Distillation(epochs=passes, batch_size=128, shift=here.shift, flip=here.flip)
        distil(model, here.net, train, settings=settings)
        found[name] = float(right(model, here.test).mean())
    print(len(dropped), found, flush=True)
    return found


def picture(facts: dict) -> Figure:
    """The frontier."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    rows = facts["rows"]
    counts = [len(entry["dropped"]) for entry in rows]
    for name, marker in (("refitted", "o"), ("recalibrated", "s"), ("plain", "^")):
        axes.plot(counts, [100 * entry[name] for entry in rows], marker=marker, label=name)
    if facts["finetuned"]:
        last = list(facts["finetuned"][0])[-1]
        sizes = [len(entry["dropped"]) for entry in facts["finetuned"]]
        axes.plot(sizes, [100 * entry[last] for entry in facts["finetuned"]], marker="D", label=last)
    if facts["random"]:
        sizes = [len(entry["dropped"]) for entry in facts["random"]]
        axes.plot(sizes, [100 * entry["refitted"] for entry in facts["random"]], "x", label="random sets, refitted")
    axes.set(xlabel="blocks dropped", ylabel="accuracy (%)", title=f"{facts['title']}, {facts['tested']:,} test images")
    axes.legend()
    return figure


EXPECTED = {"resnet56": {1: 6, 2: 9}}
"""Expected number of droppable blocks per fall in points, from a first trial of the method."""


def page(options: argparse.Namespace, facts: dict) -> str:
    """The page in Markdown."""
    rows, name = facts["rows"], options.subject
    full = rows[0]["plain"]
    command = f"python analysis/refit/frontier.py {name} --images {options.images} --build-images "
    command += f"{options.build_images} --most {options.most} --draws {options.draws} --finetune {options.finetune}"
    lines = [
        f"# {facts['title']}: blocks dropped and refitted",
        "",
        f"`{command}{' --device cuda' if options.device == 'cuda' else ''}`; resnet_paths {__version__}, torch "
        f"{torch.__version__}, {facts['machine']}. Sets found greedily by the divergence after a full refit: "
        f"{options.images} training images without labels, shifted by up to {facts['shift']} pixels"
        f"{' and mirrored' if facts['flip'] else ''}; half are fitted, half held out. The models in the table are "
        f"refitted on {facts['built']:,} training images: three quarters are fitted, and the last quarter chooses "
        f"the step. No training. Accuracy on {facts['tested']:,} test images, measured after the search. Intervals "
        "are for the fall from the full network, paired by image (Tango), 95 % each. The settings (ridge, rows, "
        "last layers only) were chosen on ResNet-56, using its test images, on three other sets.",
        "",
        "| claim | expected | measured | verdict |",
        "|---|---|---|---|",
    ]
    for points in (1, 2):
        count, sure = _most_within(rows, points)
        least = EXPECTED.get(name, {}).get(points)
        verdict = "" if least is None else _verdict(count, sure, least)
        lines.append(
            f"| blocks dropped with accuracy falling by at most {points} point{'s' * (points > 1)} | "
            f"{'(none)' if least is None else f'at least {least}'} of {facts['blocks']} "
            f"| {count} by the measured value; {sure} by the upper end of its interval | {verdict} |"
        )
    if options.device == "cpu" and name == "resnet56":
        under = "holds" if facts["seconds_to_9"] < 1800 else "does not hold"
        lines.append(
            "| greedy search with refit, processor time | under 15 minutes on two cores (1,800 s) to 9 blocks | "
            f"{facts['seconds_to_9']:.0f} s | {under} |"
        )
    lines += [
        f"| one refit of {facts['sensitivity_set']} blocks over one forward pass of its images | (none) | "
        f"{facts['ratio']:.1f} times | |",
        "",
        f"| blocks dropped | blocks | as dropped | recalibrated | refitted (full network {100 * full:.1f} %) | "
        "fall in points (95 %) | step | divergence: as dropped, recalibrated, refitted |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    heading = lines[-2:]
    lines += [_line(entry) for entry in rows]
    if facts["random"]:
        lines += ["", "Random sets:", "", *heading]
        lines += [_line(entry) for entry in facts["random"]]
    if facts["finetuned"]:
        columns = list(facts["finetuned"][0])[1:]
        lines += [
            "",
            "Distilled (accuracy in %, final state, nothing chosen on test images; SGD, rate 0.01 with cosine "
            f"decay, batch size 128, {min(4660, facts['trained']):,} training images with labels):",
            "",
            f"| blocks dropped | {' | '.join(columns)} |",
            f"|---:|{'---:|' * len(columns)}",
        ]
        for entry in facts["finetuned"]:
            numbers = " | ".join(f"{100 * entry[column]:.1f}" for column in columns)
            lines.append(f"| {len(entry['dropped'])} | {numbers} |")
    if facts["sensitivity"]:
        lines += [
            "",
            f"The set of {facts['sensitivity_set']} blocks, other calibration images (accuracy in %, step):",
            "",
        ]
        lines += ["| images | each seed | mean |", "|---:|---|---:|"]
        for count in dict.fromkeys(entry["images"] for entry in facts["sensitivity"]):
            some = [entry for entry in facts["sensitivity"] if entry["images"] == count]
            each = ", ".join(f"{100 * entry['accuracy']:.1f} ({entry['step']:g})" for entry in some)
            lines.append(f"| {count:,} | {each} | {100 * np.mean([entry['accuracy'] for entry in some]):.1f} |")
    return "\n".join([*lines, "", f"![frontier](frontier_{name}.png)", ""])


def _verdict(measured: int, surely: int, least: int) -> str:
    return "holds" if surely >= least else "does not hold" if measured < least else "inconclusive"


def _most_within(rows: list[dict], points: int) -> tuple[int, int]:
    """Largest number of blocks whose drop costs at most this many points: measured, and by the interval's upper end."""
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
    """The same, after printing progress."""
    print(len(entry["dropped"]), {name: entry[name] for name in ("plain", "recalibrated", "refitted")}, flush=True)
    return entry


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("subject", choices=["resnet56", "resnet20", "embedded", "vit"])
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--build-images", type=int, default=800)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--most", type=int, default=12)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--finetune", type=int, default=0, metavar="EPOCHS")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE)
    return parser.parse_args()


def main() -> None:
    """Search, build, evaluate once."""
    options = parsed()
    here = subject(options)
    net = here.net
    search_images, images = (
        augmented(here.train.sample(min(count, len(here.train))), here.shift, here.flip)
        for count in (options.images, options.build_images)
    )
    settings = RefitSettings(held_out=0.5, rows_per_feature=12, batch_size=options.batch_size)
    path, _ = greedy(Refitter(net, search_images, settings=settings), options.most, options.journal)
    known = [json.loads(line) for line in options.journal.read_text().splitlines()]

    refitter = Refitter(net, images, settings=RefitSettings(batch_size=options.batch_size, memory=8e9))
    rows = [_told(row(net, refitter, images, here.test, dropped)) for dropped in path]
    generator = np.random.default_rng(0)
    sizes = [size for size in (3, 6, 9, 12) if size <= options.most]
    random_sets = [
        tuple(sorted(generator.choice(len(net), size, replace=False).tolist()))
        for size in sizes
        for _ in range(options.draws)
    ]
    nine = min(9, options.most)
    start = time.process_time()
    Refitter(net, images, settings=refitter.settings).divergence(list(path[nine]), steps=(1.0,))
    refit = time.process_time() - start
    start = time.process_time()
    error_rate(net.model, images)
    card = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} threads"
    facts = {
        "title": here.title,
        "machine": f"{platform.machine()}, {card}",
        "shift": here.shift,
        "flip": here.flip,
        "built": len(images),
        "tested": len(here.test),
        "trained": len(here.train),
        "rows": rows,
        "blocks": len(net),
        "seconds_to_9": sum(entry["seconds"] for entry in known if len(entry["set"]) <= nine),
        "ratio": refit / (time.process_time() - start),
        "random": [_told(row(net, refitter, images, here.test, dropped)) for dropped in random_sets],
        "finetuned": [],
        "sensitivity_set": nine,
        "sensitivity": [],
    }
    written(options, facts)
    facts["sensitivity"] = sensitivity(here, path[nine], 5)
    written(options, facts)
    if options.finetune:
        tuned = [entry for entry in rows if entry["dropped"] and len(entry["dropped"]) % 3 == 0]
        facts["finetuned"] = [finetuned(here, images, refitter, entry, options.finetune) for entry in tuned]
        written(options, facts)


def written(options: argparse.Namespace, facts: dict) -> None:
    """Write the results so far."""
    name = f"frontier_{options.subject}"
    (options.out / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    (options.out / f"{name}.md").write_text(page(options, facts))
    save(picture(facts).axes[0], options.out / f"{name}.png")


if __name__ == "__main__":
    main()
