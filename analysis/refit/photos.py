"""EfficientNet-Lite0 and Lite2 on real photos: exact block games, refit, smaller Lite2s against Lite0.

    python analysis/refit/photos.py --materials FILE.zip [--device cuda] [--crops 16] [--out FOLDER]
    python analysis/refit/photos.py --materials FILE.zip --repairs lite2 [--crops 4] [--plain-search] [--out FOLDER]
    python analysis/refit/photos.py --materials FILE.zip --time [--seconds 2] [--out FOLDER]

FILE.zip is what imagenet.py beside this file collects: the trained networks, 20 labelled photos and 43 without labels.

The first command measures. The block game: every set of the droppable blocks (2^9 and 2^14 of them) on all 63 photos,
by the divergence from the full network, KL(full || smaller), and by how many photos keep their class. Repair: sets
grow greedily by the divergence after the drop, plain or refitted with the best step, on crops of the 43 photos. The
fit uses three quarters of the photos; crops of the rest compare sets and choose the repair. The 20 labelled photos
are evaluated once, at the end: their centre crops, and 25 crops of each.

The second command measures the repairs of one network again, for instance after an interrupted run. With
--plain-search, for a slow machine, sets are compared on the centre crops of the 43 photos, without repair.

The third command times the sets found for Lite2 at batch size 1, on one CPU thread, in PyTorch and in ONNX Runtime if
it is installed. Each run writes photos.json, photos.md and photos.png to --out (default: beside this file), including
what the other runs measured.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from imagenet import SIZES, Materials, crops, middles
from photos_page import page, picture
from torch import nn

from resnet_paths import UnrolledNetwork, drop_blocks, unroll
from resnet_paths.data import ImageData
from resnet_paths.lesion import METRICS, all_coalitions, block_values, evaluate_gates, table_values
from resnet_paths.network import for_inference
from resnet_paths.plot import save
from resnet_paths.statistics import mean_intervals
from resnet_paths.surgery import RefitSettings, Refitter, norms_before, recalibrate_batchnorm
from resnet_paths.tradeoff import Greedy, count_macs, count_parameters, in_runtime, latencies_in_turn
from resnet_paths.tradeoff.search import Scores

Losses = Callable[[Sequence[tuple[int, ...]]], list[float]]
HERE = Path(__file__).resolve().parent
TEST_CROPS = 25


@dataclass(frozen=True)
class Subject:
    """One of the networks and its images."""

    kind: str
    materials: Materials
    options: argparse.Namespace

    @cached_property
    def net(self) -> UnrolledNetwork:
        """The full network."""
        size = SIZES[self.kind]
        model = self.materials.model(self.kind).to(self.options.device)
        return unroll(model, torch.zeros(2, 3, size, size, device=self.options.device))

    @cached_property
    def middles(self) -> ImageData:
        """Of the labelled photos."""
        photos, labels = zip(*self.materials.labelled, strict=True)
        return middles(list(photos), SIZES[self.kind], list(labels))

    @cached_property
    def test_crops(self) -> ImageData:
        """Of the labelled photos, each photo's one after the other."""
        return crops([photo for photo, _ in self.materials.labelled], SIZES[self.kind], self.options.test_crops, 1)[0]

    def calibration(self, each: int) -> tuple[ImageData, torch.Tensor]:
        """Crops of the photos without labels, and which photo each is of."""
        return crops(self.materials.others, SIZES[self.kind], each)


def outputs(model: nn.Module, data: ImageData) -> torch.Tensor:
    """Logits, on the CPU, in double precision."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        return torch.cat([model(x.to(device)).cpu() for x, _ in data.batches(100)]).double()


def divergences(logits: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    """KL(full || smaller) in nats, (..., images)."""
    target = full.log_softmax(-1)
    return (target.exp() * (target - logits.log_softmax(-1))).sum(-1)


@dataclass(frozen=True)
class Target:
    """Reference for smaller networks: a full network's answers on the labelled photos."""

    subject: Subject

    @cached_property
    def middles(self) -> torch.Tensor:
        return outputs(self.subject.net.model, self.subject.middles)

    @cached_property
    def crops(self) -> torch.Tensor:
        return outputs(self.subject.net.model, self.subject.test_crops)

    def facts(self, model: nn.Module, seen_by: Subject) -> dict:
        """How often a model, on the photos at its own size, gives the same answer and a correct one."""
        near, far = outputs(model, seen_by.middles), outputs(model, seen_by.test_crops)
        labels = seen_by.middles.labels
        photos = len(labels)
        agrees = (far.argmax(1) == self.crops.argmax(1)).double().view(photos, -1).mean(1).numpy()
        apart = divergences(far, self.crops).view(photos, -1).mean(1).numpy()
        return {
            "photos": photos,
            "agree": int((near.argmax(1) == self.middles.argmax(1)).sum()),
            "right": int((near.argmax(1) == labels).sum()),
            "crops": len(far),
            "crops_agree": float(agrees.mean()),
            "crops_agree_interval": _interval(agrees, 1.0),
            "crops_divergence": float(apart.mean()),
            "crops_divergence_interval": _interval(apart),
        }


def _interval(values: np.ndarray, bound: float | None = None) -> list[float]:
    """95 %, over photos."""
    low, high = mean_intervals(values[None], bound=bound)
    return [float(low[0]), float(high[0])]


# the exact game


def game(subject: Subject) -> dict:
    """Measure every set of the blocks in the game."""
    net, photos = subject.net, [photo for photo, _ in subject.materials.labelled] + subject.materials.others
    data = middles(photos, SIZES[subject.kind])
    players = min(len(net), subject.options.players or len(net))
    start = time.perf_counter()
    table, agrees = measured_sets(net, data, players)
    seconds = time.perf_counter() - start

    values, kept = table_values(table), table_values(agrees)
    low, high = mean_intervals(values)
    mean, share = table.mean(1), agrees.mean(1)
    sizes = players - all_coalitions(players).sum(1)
    best = [int(np.where(sizes == size, mean, np.inf).argmin()) for size in range(players + 1)]
    greedy = greedy_path(mean, players)
    print(subject.kind, "game", f"{seconds:.0f} s", mean[0], flush=True)
    return {
        "blocks": len(net),
        "photos": len(data),
        "players": players,
        "sets": len(table),
        "seconds": seconds,
        "names": [block.name for block in net][:players],
        "divergence_values": values.mean(1).tolist(),
        "divergence_intervals": [low.tolist(), high.tolist()],
        "agreement_values": kept.mean(1).tolist(),
        "single": (mean[[_mask(players, [player]) for player in range(players)]] - mean[-1]).tolist(),
        "all": [float(mean[-1]), float(share[-1])],
        "none": [float(mean[0]), float(share[0])],
        "residual": max(_residual(values, mean), _residual(kept, share)),
        "best": [_entry(players, place, mean, share) for place in best],
        "greedy": [_entry(players, place, mean, share) for place in greedy],
        "within": [int(sizes[share >= least].max()) for least in (0.95, 0.9, 0.8)],
        "library": library_game(subject, data, values.mean(1)) if players <= 9 else None,
    }


def measured_sets(net: UnrolledNetwork, data: ImageData, players: int) -> tuple[np.ndarray, np.ndarray]:
    """(2^n, images) each: divergences from the full network, and whether the answers are the same."""
    runner = for_inference(net)
    gates = torch.ones(2**players, len(net))
    gates[:, :players] = torch.as_tensor(all_coalitions(players), dtype=gates.dtype)
    with torch.inference_mode():
        x = data.x.to(next(net.model.parameters()).device)
        full = runner(x)
        table, agrees = (torch.empty(len(gates), len(data), device=x.device) for _ in range(2))
        for row, logits in runner.iterate(x, gates):
            table[row] = divergences(logits.double(), full.double()).float()
            agrees[row] = (logits.argmax(1) == full.argmax(1)).float()
    return table.double().cpu().numpy(), agrees.double().cpu().numpy()


def library_game(subject: Subject, data: ImageData, values: np.ndarray) -> float:
    """The largest difference from block_values on the same photos."""
    theirs = block_values(subject.net, data, metric="divergence", blocks=list(range(len(values))), progress=False)
    return float(np.abs(theirs.values + values).max())  # theirs: by how much a block lowers the divergence


def greedy_path(mean: np.ndarray, players: int) -> list[int]:
    """Indices in the table of the sets that grow by the least harmful block."""
    path = [2**players - 1]
    for _ in range(players):
        smaller = [path[-1] & ~(1 << player) for player in range(players) if path[-1] >> player & 1]
        path.append(min(smaller, key=lambda place: mean[place]))
    return path


def _residual(values: np.ndarray, means: np.ndarray) -> float:
    """The difference between the sum of the Shapley values and all minus none."""
    return abs(float(values.mean(1).sum() - (means[-1] - means[0])))


def _mask(players: int, dropped: list[int]) -> int:
    return 2**players - 1 - sum(1 << player for player in dropped)


def _entry(players: int, place: int, mean: np.ndarray, share: np.ndarray) -> dict:
    dropped = [player for player in range(players) if not place >> player & 1]
    return {"dropped": dropped, "divergence": float(mean[place]), "agreement": float(share[place])}


# drop and repair


def repairs(subject: Subject, other: Subject | None, keep: Callable[[dict], None]) -> None:
    """A greedy search, its sets repaired and evaluated, and its dependence on the calibration images.

    Results go to `keep` as soon as they are available.
    """
    net, options = subject.net, subject.options
    most = min(len(net), options.most or len(net))
    images, groups = subject.calibration(options.crops)
    start = time.perf_counter()
    refitter = Refitter(net, images, groups=groups, settings=RefitSettings(memory=options.memory))
    scores = Scores(len(net), plain_losses(subject) if options.plain_search else refitted_losses(refitter))
    path = (
        [(), *Greedy().path(scores, most)]
        if options.path is None
        else [tuple(sorted(options.path[:size])) for size in range(len(options.path) + 1)]
    )
    seconds = time.perf_counter() - start
    print(subject.kind, "search", f"{seconds:.0f} s", path[-1], flush=True)

    target = Target(subject)
    part: dict = {
        "photos": len(subject.materials.others),
        "crops": options.crops,
        "search": "plain" if options.plain_search else "refitted",
        "machine": machine(options),
        "fitted": refitter.fitted_images.count,
        "apart": refitter.held_out_images.count,
        "search_seconds": seconds,
        "searched": len(scores.known),
        "rows": [],
        "other": None if other is None else target.facts(other.net.model, other),
        "calibrations": [],
    }
    if options.sizes:
        path = [path[size] for size in options.sizes]
    for one in path:
        part["rows"].append(_told(repaired(refitter, target, one)))
        keep(part)
    kinds = dict.fromkeys([(1, True), (4, True), (options.crops, True), (options.crops, False)])
    for size in sorted({min(most, size) for size in (1, 3, 5)}) if options.calibrations else ():
        part["calibrations"] += [calibrated(subject, target, path[size], each, apart) for each, apart in kinds]
        keep(part)


def refitted_losses(refitter: Refitter) -> Losses:
    """The divergence of each set on held-out photos, plain or refitted with the best step."""
    return lambda sets: [refitter.divergence(list(one)) if one else 0.0 for one in sets]


def plain_losses(subject: Subject) -> Losses:
    """The divergence of each set on the centre crops of the unlabelled photos, without repair."""
    net, data = subject.net, middles(subject.materials.others, SIZES[subject.kind])

    def losses(sets: Sequence[tuple[int, ...]]) -> list[float]:
        gates = torch.ones(len(sets), len(net))
        for row, dropped in enumerate(sets):
            gates[row, list(dropped)] = 0
        return evaluate_gates(net, data, gates, METRICS["divergence"], progress=False).mean(1).tolist()

    return losses


def repaired(refitter: Refitter, target: Target, dropped: tuple[int, ...]) -> dict:
    """One set: plain, recalibrated, and by the repair that the library chooses."""
    net, subject = refitter.net, target.subject
    plain = drop_blocks(net, list(dropped)) if dropped else net.model
    recalibrated = plain
    if dropped:
        recalibrated = drop_blocks(net, list(dropped))
        kept = norms_before(net, dropped)
        batches = [x.to(next(plain.parameters()).device) for x in refitter.fitted_images.batches(100)]
        recalibrate_batchnorm(recalibrated, batches, keep=kept)
    result = refitter(list(dropped))
    size = SIZES[subject.kind]
    x = torch.zeros(1, 3, size, size, device=next(plain.parameters()).device)
    seen = {
        "plain": target.facts(plain, subject),
        "recalibrated": target.facts(recalibrated, subject) if dropped else target.facts(plain, subject),
    }
    return {
        "dropped": list(dropped),
        "macs": count_macs(plain, x),
        "parameters": count_parameters(plain),
        "repair": result.repair,
        "step": result.step,
        "divergences": result.divergences,
        "reason": result.reason,
        **seen,
        "shipped": seen.get(result.repair) or target.facts(result.model, subject),
    }


def calibrated(subject: Subject, target: Target, dropped: tuple[int, ...], each: int, apart: bool) -> dict:
    """The same set with other calibration images, with or without held-out photos."""
    images, groups = subject.calibration(each)
    settings = RefitSettings(memory=subject.options.memory)
    result = Refitter(subject.net, images, groups=groups if apart else None, settings=settings)(list(dropped))
    seen = target.facts(result.model, subject)
    return {
        "dropped": len(dropped),
        "each": each,
        "photos_apart": apart,
        "repair": result.repair,
        "step": result.step,
        "divergences": result.divergences,
        "crops_divergence": seen["crops_divergence"],
        "crops_agree": seen["crops_agree"],
    }


def _told(entry: dict) -> dict:
    """The same, after printing progress."""
    print(len(entry["dropped"]), entry["reason"], entry["shipped"]["crops_agree"], flush=True)
    return entry


# milliseconds


def timed(facts: dict, materials: Materials, options: argparse.Namespace) -> dict:
    """Milliseconds of Lite0 and of Lite2 without the blocks of each set, at batch size 1, one thread, in turn."""
    images = {kind: torch.randn(1, 3, size, size) for kind, size in SIZES.items()}
    nets = {kind: unroll(materials.model(kind), images[kind]) for kind in SIZES}
    sets = [row["dropped"] for row in facts["lite2"]["repairs"]["rows"]]
    if options.path is not None:
        sets = [sorted(options.path[:size]) for size in options.sizes or range(len(options.path) + 1)]
    models = [drop_blocks(nets["lite2"], dropped) if dropped else nets["lite2"].model for dropped in sets]
    everything = [*((model, images["lite2"]) for model in models), (nets["lite0"].model, images["lite0"])]
    times: dict = {}
    for runtime in ("eager", "onnx"):
        try:
            calls = [_call(in_runtime(model, x, runtime, threads=1), x) for model, x in everything]
        except ValueError as error:
            print(f"not timed in {runtime}: {error}")
            continue
        taken = latencies_in_turn(calls, images["lite2"], seconds=options.seconds, threads=1, rounds=9)
        times[runtime] = [
            {
                "dropped": dropped,
                "ms": 1000 * one.median,
                "share": (both := one.share_of(taken[0]))[0],
                "interval": list(both[1]),
            }
            for dropped, one in zip([*sets, None], taken, strict=True)
        ]
        print(runtime, [round(1000 * one.median, 1) for one in taken], flush=True)
    return times


def _call(model, x: torch.Tensor):
    """The model on its own image, whatever the input."""
    return lambda _: model(x)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--materials", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--crops", type=int, default=16, help="crops of each photo for calibration")
    parser.add_argument("--test-crops", type=int, default=TEST_CROPS)
    parser.add_argument("--photos", type=int, help="number of photos of each kind (for a trial)")
    parser.add_argument("--players", type=int, help="number of blocks in the game, the first ones (for a trial)")
    parser.add_argument("--most", type=int, help="maximum number of blocks to drop (for a trial)")
    parser.add_argument("--memory", type=float, default=8e9, help="bytes for the full network's states")
    parser.add_argument("--repairs", choices=list(SIZES), help="of one network only, the rest unchanged in photos.json")
    parser.add_argument("--plain-search", action="store_true")
    parser.add_argument("--path", type=int, nargs="+", help="no search: drop these blocks in this order")
    parser.add_argument("--sizes", type=int, nargs="+", help="repair and evaluate only these sizes")
    parser.add_argument("--no-calibrations", dest="calibrations", action="store_false")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=HERE)
    return parser.parse_args()


def main() -> None:
    """Measure, or time the measured sets."""
    options = parsed()
    torch.backends.cudnn.allow_tf32 = False  # divergences of 1e-3 are compared
    materials, file = Materials(options.materials, options.photos), options.out / "photos.json"
    anew = not (options.time or options.repairs)
    facts: dict = {"ran": ran(options)} if anew else json.loads(file.read_text())
    small = Subject("lite0", materials, options)

    def keep(kind: str, name: str, part: dict) -> None:
        facts.setdefault(kind, {})[name] = part
        file.write_text(json.dumps(facts, indent=1) + "\n")  # what there is, should the rest be stopped

    if options.time:
        keep("times", "runtimes", timed(facts, materials, options))
    for subject, other in ((small, None), (Subject("lite2", materials, options), small)):
        if anew:
            keep(subject.kind, "game", game(subject))
        if anew or options.repairs == subject.kind:
            repairs(subject, other, partial(keep, subject.kind, "repairs"))
    (options.out / "photos.md").write_text(page(facts))
    save(picture(facts).axes[0], options.out / "photos.png")


def machine(options: argparse.Namespace) -> str:
    """The machine."""
    cuda = options.device == "cuda"
    return f"{platform.machine()}, {torch.cuda.get_device_name() if cuda else 'CPU'}"


def ran(options: argparse.Namespace) -> dict:
    """What the page says about how it was made."""
    command = f"python analysis/refit/photos.py --crops {options.crops}"
    command += " --device cuda" * (options.device == "cuda")
    return {"command": command, "torch": torch.__version__, "machine": machine(options)}


if __name__ == "__main__":
    main()
