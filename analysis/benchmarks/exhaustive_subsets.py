"""All 2^12 subsets of 12 blocks: depth-first prefix sharing against evaluating each subset on its own.

    python analysis/benchmarks/exhaustive_subsets.py [--reference FOLDER] [--images 20] [--naive 4096] [--repeats 1]

Naive: for each subset a model in which the deleted blocks have only their shortcut, run from its input to its logits
on the same images (deleted branches are not run). Both ways run in one process, in turn, and their processor time is
compared (at one thread it is what a quiet machine would take). `--naive` subsets are run the naive way (the first of a
random permutation, all of them at 4096); with fewer the time is scaled to 4096. Of ResNet-56 an eighth of
them is run, once. Writes exhaustive_subsets.md beside this file.
"""

import argparse
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "references"))

from naive_lesion import OnlyShortcut  # noqa: E402

from resnet_paths import UnrolledNetwork, unroll  # noqa: E402
from resnet_paths.data import ImageData, digits, load_data  # noqa: E402
from resnet_paths.lesion import all_coalitions  # noqa: E402
from resnet_paths.models import cifar_resnet, load_model  # noqa: E402
from resnet_paths.network import Evaluations, for_inference  # noqa: E402

PLAYERS = 12


class Naive:
    """A CIFAR ResNet whose blocks are exchanged for their shortcuts by name; no copy is made: only runs count."""

    def __init__(self, model: torch.nn.Module, names: list[str]) -> None:
        self.model = model
        self.places = [(model.get_submodule(name.partition(".")[0]), int(name.partition(".")[2])) for name in names]
        self.blocks = [stage[place] for stage, place in self.places]
        self.shortcuts = [OnlyShortcut(block) for block in self.blocks]

    def __call__(self, x: torch.Tensor, subset: np.ndarray) -> torch.Tensor:
        for (stage, place), block, shortcut, kept in zip(self.places, self.blocks, self.shortcuts, subset, strict=True):
            stage[place] = block if kept else shortcut
        try:
            return self.model(x)
        finally:
            for (stage, place), block in zip(self.places, self.blocks, strict=True):
                stage[place] = block


def gates_of(net: UnrolledNetwork, players: list[int], subsets: np.ndarray) -> torch.Tensor:
    gates = torch.ones(len(subsets), len(net))
    gates[:, players] = torch.as_tensor(subsets, dtype=gates.dtype)
    return gates


@torch.inference_mode()
def shared(net: UnrolledNetwork, x: torch.Tensor, gates: torch.Tensor) -> tuple[torch.Tensor, Evaluations]:
    count = Evaluations()
    outputs = torch.empty(len(gates), len(x), 10, dtype=x.dtype)
    for row, logits in net.iterate(x, gates, count=count):
        outputs[row] = logits
    return outputs, count


@torch.inference_mode()
def each(naive: Naive, x: torch.Tensor, subsets: np.ndarray) -> torch.Tensor:
    return torch.stack([naive(x, subset) for subset in subsets])


def compare(
    title: str, model: torch.nn.Module, players: list[int], data: ImageData, some: int, repeats: int
) -> list[str]:
    net, subsets, x = unroll(model), all_coalitions(PLAYERS), data.x
    gates, fast = gates_of(net, players, subsets), for_inference(net)
    chosen = np.random.default_rng(0).permutation(len(subsets))[:some]
    naive = Naive(model, [net[player].name for player in players])
    each(naive, x, subsets[:4]), shared(net, x, gates[:4]), shared(fast, x, gates[:4])  # warm-up
    rows, ratios = [], []
    for _ in range(repeats):
        start = time.process_time()
        expected = each(naive, x, subsets[chosen])
        seconds = (time.process_time() - start) * len(subsets) / some
        start = time.process_time()
        plain, count = shared(net, x, gates)
        middle = time.process_time()
        quick, _ = shared(fast, x, gates)
        times = [middle - start, time.process_time() - middle]
        rows.append([seconds, *times])
        ratios.append([seconds / value for value in times])
    gaps = [float((found[chosen] - expected).abs().max()) for found in (plain, quick)]
    exact = model.double()
    exact_gap = float(
        (
            shared(unroll(exact), x[:4].double(), gates)[0][chosen[:200]]
            - each(Naive(exact, naive_names(net, players)), x[:4].double(), subsets[chosen[:200]])
        )
        .abs()
        .max()
    )
    model.float()
    seconds_of, ratio_of = np.median(rows, axis=0), np.median(ratios, axis=0)
    branches = int(subsets.sum()) + len(subsets) * (len(net) - PLAYERS)
    scale = float(expected.abs().max())
    verdict = "holds" if ratio_of.min() >= 5 else "does not hold"
    return [
        f"## {title}",
        "",
        f"{data.name}, {len(x)} images; the naive variant ran {some} of {len(subsets)} subsets.",
        "",
        "| variant | processor seconds for all 4096 | speed-up | branches evaluated | largest logit difference |",
        "|---|---:|---:|---:|---:|",
        f"| each subset on its own | {seconds_of[0]:.1f} | 1 | {branches} | |",
        f"| shared prefixes | {seconds_of[1]:.1f} | {ratio_of[0]:.1f} | {count.branches} | {gaps[0]:.1e} |",
        f"| shared prefixes, folded norms, channels last | {seconds_of[2]:.1f} | {ratio_of[1]:.1f} | {count.branches} "
        f"| {gaps[1]:.1e} |",
        "",
        f"By branches evaluated: {branches / count.branches:.1f} times fewer. Logits reach {scale:.1f}; in float64 "
        f"(4 images, 200 subsets) the largest difference is {exact_gap:.1e}. Expected at least 5 times: {verdict}.",
        "",
    ]


def naive_names(net: UnrolledNetwork, players: list[int]) -> list[str]:
    return [net[player].name for player in players]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, default=None)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--naive", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    some, repeats = arguments.naive, arguments.repeats
    folder = "" if arguments.reference is None else "--reference FOLDER "
    command = f"{folder}--images {arguments.images} --naive {some} --repeats {repeats}"
    lines = [
        "# All 2^12 subsets of 12 blocks",
        "",
        f"`python analysis/benchmarks/exhaustive_subsets.py {command}`; {platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, float32; load of the machine's "
        f"{os.cpu_count()} cores: {os.getloadavg()[2]:.1f}. Both variants run in turn in one process. Processor "
        "seconds and their ratios are medians over the repeats.",
        "",
    ]
    small = digits("test").subset(slice(0, arguments.images))
    twelve = cifar_resnet(26, in_channels=1, seed=0).eval()
    lines += compare("All 12 blocks of ResNet-26, digits", twelve, list(range(12)), small, some, repeats)
    if arguments.reference is not None:
        model = load_model(str(arguments.reference / "resnet56_cifar10_option_a.safetensors"))
        data = load_data(str(arguments.reference / "cifar10_sample.npz"), limit=arguments.images)
        part = max(64, some // 8)
        lines += compare(
            "The last 12 of the 27 blocks of ResNet-56, CIFAR-10", model, list(range(15, 27)), data, part, 1
        )
    (ROOT / "analysis" / "benchmarks" / "exhaustive_subsets.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
