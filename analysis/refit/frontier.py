"""Accuracy after dropping blocks: as dropped, recalibrated, refitted, fine-tuned, and for random sets.

    python analysis/refit/frontier.py SUBJECT --journal FILE [--reference FOLDER] [--weights FILE] [--images 800]
        [--build-images 800] [--most 12] [--draws 3] [--finetune 20] [--device cpu] [--out FOLDER]
    python analysis/refit/frontier.py SUBJECT --journal FILE --add [--beam 4] [--copies 20] ... as above

SUBJECT is resnet56 or resnet20 (FOLDER holds cifar10_sample.npz and resnet56_cifar10_option_a.safetensors), embedded
(needs neither), or vit (FOLDER holds cifar10_jpeg.zip, FILE is written by vit.py). Sets are
found greedily: each step drops the block that, after a refit of all remaining blocks, gives the lowest divergence
from the full network on held-out training images. The search uses no labels, no test images and no training. At the
end every set is built and refitted on --build-images training images, and evaluated once on the test images. With
--finetune EPOCHS sets of 3, 6, 9, ... blocks are then distilled as well (full network as teacher, all training images
of the sample), for two epochs from the recalibrated and from the refitted network, and for EPOCHS from the refitted
one. Finished sets are stored in --journal, so that an interrupted run resumes. Writes frontier_SUBJECT.md, .json and
.png to --out (default: beside this file).

A few hundred test images leave an interval of several points. With --add, the sets of an earlier run are built again
and also evaluated on --copies copies of each test image, shifted and mirrored as in training. Few images change their
answer in every copy, so the mean over copies varies less between images than a single answer does. The interval is
over images. The same command distils the sizes that have no row yet and compares numbers of rows per feature. With
--beam WIDTH it searches again instead, keeping WIDTH sets of each size. --exchange SIZE ... then tries to improve the
beam's sets of these sizes by exchanging one block at a time.
"""

import argparse
import copy
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from reference import load_images, load_network, right
from torch import nn

from resnet_paths import UnrolledNetwork, __version__, drop_blocks, unroll
from resnet_paths.data import ImageData, load_data
from resnet_paths.data.predictions import divergence_of
from resnet_paths.models import load_model
from resnet_paths.plot import save
from resnet_paths.statistics import difference_interval, mean_intervals
from resnet_paths.surgery import RefitSettings, Refitter, norms_before, recalibrate_batchnorm
from resnet_paths.tradeoff import Beam, Distillation, Greedy, distil
from resnet_paths.tradeoff.search import Scores
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
    judged = Judged(refitter, journal)
    path: list[tuple[int, ...]] = [()]
    spent = 0.0
    for _ in range(most):
        grown = [tuple(sorted((*path[-1], block))) for block in range(len(refitter.net)) if block not in path[-1]]
        judged(grown)
        spent += sum(judged.known[dropped][1] for dropped in grown)
        path.append(min(grown, key=lambda dropped: judged.known[dropped][0]))
        print(len(path[-1]), path[-1], f"{judged.known[path[-1]][0]:.4f}", f"{spent:.0f} s", flush=True)
    return path, spent


class Judged:
    """Divergences of sets after a full refit, and the seconds that each took, stored in a file."""

    def __init__(self, refitter: Refitter, journal: Path) -> None:
        self._refitter, self._journal = refitter, journal
        entries = map(json.loads, journal.read_text().splitlines()) if journal.exists() else ()
        self.known = {tuple(entry["set"]): (entry["divergence"], entry["seconds"]) for entry in entries}

    def __call__(self, sets: Sequence[tuple[int, ...]]) -> list[float]:
        """The divergences of the sets, in order."""
        for dropped in sets:
            if dropped not in self.known:
                start = time.process_time()
                divergence = self._refitter.divergence(list(dropped), steps=(1.0,)) if dropped else 0.0
                self.known[dropped] = divergence, time.process_time() - start
                with self._journal.open("a") as file:
                    entry = {"set": dropped, "divergence": divergence, "seconds": self.known[dropped][1]}
                    file.write(json.dumps(entry) + "\n")
        return [self.known[dropped][0] for dropped in sets]


def row(
    net: UnrolledNetwork,
    refitter: Refitter,
    images: ImageData,
    test: ImageData,
    dropped: tuple[int, ...],
    copies: ImageData | None = None,
) -> dict:
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
        **({} if copies is None else fall_over_copies(net.model, result.model, test, copies)),
    }


def fall_over_copies(full: nn.Module, smaller: nn.Module, test: ImageData, copies: ImageData) -> dict:
    """The fall in accuracy, the mean over copies of each test image; its interval is over the images."""
    before, after = (right(model, copies).reshape(-1, len(test)).mean(0) for model in (full, smaller))
    low, high = mean_intervals((before - after)[None], bound=1.0)
    return {
        "copies": len(copies) // len(test),
        "copies_full": float(before.mean()),
        "copies_fall": float((before - after).mean()),
        "copies_interval": [float(low[0]), float(high[0])],
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


def by_row_counts(here: Subject, dropped: list[int], draws: int) -> list[dict]:
    """One set refitted with fewer and more rows per feature, judged on other training images."""
    shuffled = here.train.sample(len(here.train))
    judged = min(1000, len(shuffled) // 4)
    judge, rest = shuffled.subset(slice(0, judged)), shuffled.subset(slice(judged, None))
    judge = augmented(judge, here.shift, here.flip)
    found = []
    for count in dict.fromkeys(min(size, len(rest)) for size in (640, len(rest))):
        for rows in (12, 60, 200, 800):
            for seed in range(draws):
                images = augmented(rest.sample(count, seed=seed), here.shift, here.flip, seed=seed)
                settings = RefitSettings(seed=seed, memory=8e9, rows_per_feature=rows)
                start = time.process_time()
                refitter = Refitter(here.net, images, settings=settings)
                outputs, full = (refitter.on(judge)(sets) for sets in (dropped, []))
                apart = float(divergence_of(outputs.cpu().double(), full.cpu().double()).mean())
                seconds = time.process_time() - start
                found.append({"images": count, "rows": rows, "seed": seed, "divergence": apart, "seconds": seconds})
                print(found[-1], flush=True)
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
        lines += _over_copies(rows, points, least)
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
    if _all_over_copies(rows):
        lines += _copies_table({**facts, "name": name})
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
    if facts.get("row_counts"):
        lines += [
            "",
            f"The set of {facts['sensitivity_set']} blocks, other numbers of rows per feature (divergence on 1,000 "
            "other training images, refitted with the best step):",
            "",
            "| images | rows per feature | each seed | mean | seconds |",
            "|---:|---:|---|---:|---:|",
        ]
        for count, rows in dict.fromkeys((entry["images"], entry["rows"]) for entry in facts["row_counts"]):
            some = [entry for entry in facts["row_counts"] if (entry["images"], entry["rows"]) == (count, rows)]
            each = ", ".join(f"{entry['divergence']:.4f}" for entry in some)
            mean, seconds = (np.mean([entry[name] for entry in some]) for name in ("divergence", "seconds"))
            lines.append(f"| {count:,} | {rows} | {each} | {mean:.4f} | {seconds:.1f} |")
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


def _all_over_copies(rows: list[dict]) -> bool:
    return all("copies" in entry for entry in rows)  # an interrupted run has some


def _over_copies(rows: list[dict], points: int, least: int | None) -> list[str]:
    """The claim again, by the fall over copies of the test images, if it was measured."""
    if not _all_over_copies(rows):
        return []
    count, sure = _most_within(rows, points, "copies_fall", "copies_interval")
    verdict = "" if least is None else _verdict(count, sure, least)
    expected = "(none)" if least is None else f"at least {least}"
    return [
        f"| the same, on {rows[0]['copies']} shifted and mirrored copies of each test image | {expected} | {count} by "
        f"the measured value; {sure} by the upper end of its interval | {verdict} |"
    ]


def _copies_table(facts: dict) -> list[str]:
    """Falls over copies of the test images, of the greedy sets and of those of a second search."""
    rows, again = facts["rows"], facts.get("again")
    lines = [
        "",
        f"Fall in points on {rows[0]['copies']} copies of each test image, shifted and mirrored as in training (full "
        f"network {100 * rows[0]['copies_full']:.1f} %). The interval is over the test images, 95 %.",
        "",
        "| blocks dropped | fall |",
        "|---:|---:|",
        *(f"| {len(entry['dropped'])} | {_fall(entry)} |" for entry in rows),
    ]
    if not again:
        return lines
    lines += [
        "",
        f"A second search ({again['machine']}), with {again['images']:,} training images and "
        f"{again['rows_per_feature']} rows per feature: greedy, and a beam that keeps {again['width']} sets of each "
        f"size ({again['sets']} sets evaluated together). The divergence is the one that the search minimises, on its "
        "held-out training images. Accuracy on the test images, and the fall on their copies.",
        "",
        "| claim | expected | greedy | beam |",
        "|---|---|---|---|",
    ]
    paths = [again["greedy"], again["beam"]]
    for points in (1, 2):
        least = EXPECTED.get(facts["name"], {}).get(points)
        for words, keys in (("", ()), (", on the copies", ("copies_fall", "copies_interval"))):
            verdicts = []
            for path in paths:
                count, sure = _most_within(path, points, *keys)
                verdict = "" if least is None else f": {_verdict(count, sure, least)}"
                verdicts.append(f"{count} by the measured value, {sure} by the interval's upper end{verdict}")
            lines.append(
                f"| blocks dropped with accuracy falling by at most {points} point{'s' * (points > 1)}{words} | "
                f"{'(none)' if least is None else f'at least {least}'} | {' | '.join(verdicts)} |"
            )
    lines += [
        "",
        "| blocks dropped | greedy | divergence | accuracy (%) | fall | fall, copies "
        "| beam | divergence | accuracy (%) | fall | fall, copies |",
        "|---:|---|---:|---:|---:|---:|---|---:|---:|---:|---:|",
    ]
    for pair in zip(*paths, strict=True):
        cells = []
        for entry in pair:
            low, high = (100 * end for end in entry["fall_interval"])
            cells += [
                " ".join(map(str, entry["dropped"])),
                f"{entry['searched']:.4f}",
                f"{100 * entry['refitted']:.1f}",
                f"{100 * entry['fall']:.1f} ({low:.1f} to {high:.1f})",
                _fall(entry),
            ]
        lines.append(f"| {len(pair[0]['dropped'])} | {' | '.join(cells)} |")
    if exchanges := again.get("exchange"):
        lines += ["", "Exchanging one block at a time, from the beam's sets:", ""]
        lines += [
            "| blocks dropped | exchanges tried | divergence before | after | ended |",
            "|---:|---:|---:|---:|---|",
        ]
    for entry in exchanges or ():
        before = next(one for one in again["beam"] if len(one["dropped"]) == len(entry["dropped"]))
        ended = "no exchange improves it" if entry["ended"] else "out of time"
        searched = f"{before['searched']:.4f} | {entry['searched']:.4f}"
        lines.append(f"| {len(entry['dropped'])} | {entry['tried']} | {searched} | {ended} |")
    return lines


def _fall(entry: dict) -> str:
    low, high = (100 * end for end in entry["copies_interval"])
    return f"{100 * entry['copies_fall']:.1f} ({low:.1f} to {high:.1f})"


def _verdict(measured: int, surely: int, least: int) -> str:
    return "holds" if surely >= least else "does not hold" if measured < least else "inconclusive"


def _most_within(rows: list[dict], points: int, fall: str = "fall", interval: str = "fall_interval") -> tuple[int, int]:
    """Largest number of blocks whose drop costs at most this many points: measured, and by the interval's upper end."""
    measured = [len(entry["dropped"]) for entry in rows if entry[fall] <= points / 100 + 1e-9]
    surely = [len(entry["dropped"]) for entry in rows if entry[interval][1] <= points / 100 + 1e-9]
    return max(measured, default=0), max(surely, default=0)


def _line(entry: dict) -> str:
    low, high = entry["fall_interval"]
    divergences = ", ".join(f"{value:.3g}" for value in entry["divergences"].values())
    return (
        f"| {len(entry['dropped'])} | {' '.join(map(str, entry['dropped']))} | {100 * entry['plain']:.1f} | "
        f"{100 * entry['recalibrated']:.1f} | {100 * entry['refitted']:.1f} | {100 * entry['fall']:.1f} "
        f"({100 * low:.1f} to {100 * high:.1f}) | {entry['step']:g} | {divergences} |"
    )


def _verdicts(entry: dict) -> dict:
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
    parser.add_argument("--rows", type=int, default=12, help="rows per feature of a refit in the search")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--most", type=int, default=12)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--finetune", type=int, default=0, metavar="EPOCHS")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--add", action="store_true", help="add to frontier_SUBJECT.json what it lacks")
    parser.add_argument("--beam", type=int, default=0, metavar="WIDTH")
    parser.add_argument("--exchange", type=int, nargs="+", metavar="SIZE", help="improve these sets of the beam")
    parser.add_argument("--seconds", type=float, default=3600.0, help="for the exchanges of one set")
    parser.add_argument("--copies", type=int, default=20, help="copies of each test image")
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
    settings = RefitSettings(held_out=0.5, rows_per_feature=options.rows, batch_size=options.batch_size, memory=8e9)
    if options.exchange:
        exchange(options, here, search_images, images)
        return
    if options.add:  # what an earlier run lacks
        add(options, here, search_images, images, settings)
        return
    path, _ = greedy(Refitter(net, search_images, settings=settings), options.most, options.journal)
    known = [json.loads(line) for line in options.journal.read_text().splitlines()]

    refitter = Refitter(net, images, settings=RefitSettings(batch_size=options.batch_size, memory=8e9))
    rows = [_verdicts(row(net, refitter, images, here.test, dropped)) for dropped in path]
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
    facts = {
        "title": here.title,
        "machine": _machine(options),
        "shift": here.shift,
        "flip": here.flip,
        "built": len(images),
        "tested": len(here.test),
        "trained": len(here.train),
        "rows": rows,
        "blocks": len(net),
        "seconds_to_9": sum(entry["seconds"] for entry in known if len(entry["set"]) <= nine),
        "ratio": refit / (time.process_time() - start),
        "random": [_verdicts(row(net, refitter, images, here.test, dropped)) for dropped in random_sets],
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


def add(
    options: argparse.Namespace, here: Subject, search_images: ImageData, images: ImageData, settings: RefitSettings
) -> None:
    """Add to an earlier run what it lacks: fine-tuned sizes, falls over copies of the test images, a beam search."""
    facts = json.loads((options.out / f"frontier_{options.subject}.json").read_text())
    refitter = Refitter(here.net, images, settings=RefitSettings(batch_size=options.batch_size, memory=8e9))
    tuned = {len(entry["dropped"]) for entry in facts["finetuned"]}
    for entry in facts["rows"] if options.finetune else ():
        size = len(entry["dropped"])
        if size and size % 3 == 0 and size not in tuned:
            facts["finetuned"].append(finetuned(here, images, refitter, entry, options.finetune))
            written(options, facts)
    copies = augmented(here.test, here.shift, here.flip, copies=options.copies)
    for entry in facts["rows"] if not options.beam else ():
        if "copies" not in entry:
            smaller = refitter(entry["dropped"]).model
            entry |= fall_over_copies(here.net.model, smaller, here.test, copies)
            print(len(entry["dropped"]), entry["copies_fall"], entry["copies_interval"], flush=True)
    if not options.beam and "row_counts" not in facts:
        facts["row_counts"] = by_row_counts(here, facts["rows"][facts["sensitivity_set"]]["dropped"], 3)
    if options.beam:
        judged = Judged(Refitter(here.net, search_images, settings=settings), options.journal)
        scores = Scores(len(here.net), judged)
        searches = {"beam": Beam(width=options.beam), "greedy": Greedy()}
        paths = {name: list(search.path(scores, options.most)) for name, search in searches.items()}
        facts["again"] = {"width": options.beam, "images": len(search_images), "rows_per_feature": options.rows}
        facts["again"] |= {"sets": len(scores.known), "machine": _machine(options), **{name: [] for name in paths}}
        for name, path in paths.items():
            for dropped in path:
                entry = row(here.net, refitter, images, here.test, dropped, copies)
                facts["again"][name].append({**_verdicts(entry), "searched": scores.known[dropped]})
    written(options, facts)


def exchange(options: argparse.Namespace, here: Subject, search_images: ImageData, images: ImageData) -> None:
    """Improve the beam's sets of the given sizes by exchanging one block at a time, as long as time remains."""
    file = options.out / f"frontier_{options.subject}.json"
    facts = json.loads(file.read_text())
    settings = RefitSettings(held_out=0.5, rows_per_feature=options.rows, batch_size=options.batch_size, memory=8e9)
    judged = Judged(Refitter(here.net, search_images, settings=settings), options.journal)
    refitter = Refitter(here.net, images, settings=RefitSettings(batch_size=options.batch_size, memory=8e9))
    copies = augmented(here.test, here.shift, here.flip, copies=options.copies)
    for size in options.exchange:
        best = next(tuple(entry["dropped"]) for entry in facts["again"]["beam"] if len(entry["dropped"]) == size)
        best, tried, ended = exchanged(judged, best, len(here.net), options.seconds)
        entry = row(here.net, refitter, images, here.test, best, copies)
        entry |= {"searched": judged.known[best][0], "tried": tried, "ended": ended}
        facts["again"].setdefault("exchange", []).append(_verdicts(entry))
        file.write_text(json.dumps(facts, indent=1) + "\n")


def exchanged(judged: Judged, best: tuple[int, ...], blocks: int, seconds: float) -> tuple[tuple[int, ...], int, bool]:
    """A set after exchanges, the number of sets tried, and whether no exchange improves it any more."""
    generator, start, tried = np.random.default_rng(0), time.monotonic(), 0
    judged([best])
    while True:
        outside = [block for block in range(blocks) if block not in best]
        pairs = [(old, new) for old in best for new in outside]
        for old, new in (pairs[k] for k in generator.permutation(len(pairs))):
            other = tuple(sorted({*best, new} - {old}))
            tried += 1
            if judged([other])[0] < judged.known[best][0]:
                best = other
                print(len(best), best, f"{judged.known[best][0]:.4f}", tried, flush=True)
                break
            if time.monotonic() - start > seconds:
                return best, tried, False
        else:
            return best, tried, True


def _machine(options: argparse.Namespace) -> str:
    card = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{platform.machine()}, {card}"


def written(options: argparse.Namespace, facts: dict) -> None:
    """Write the results so far."""
    name = f"frontier_{options.subject}"
    (options.out / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    (options.out / f"{name}.md").write_text(page(options, facts))
    save(picture(facts).axes[0], options.out / f"{name}.png")


if __name__ == "__main__":
    main()
