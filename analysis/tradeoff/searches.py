"""Searches for blocks to drop, by regret: how much worse than the best known set of each size, and at what cost.

    python analysis/tradeoff/searches.py --reference FOLDER [--images 200] [--most 10]

Two networks without repair (gates; soft error on the search images): the embedded ResNet-56 (27
blocks), where "best known" is over all sets that any search evaluated, and the reference ResNet-20 (9 blocks; FOLDER
holds cifar10_sample.npz and resnet20_cifar10_option_a.safetensors), where all 2^9 sets are evaluated. For ResNet-20,
also with each set refitted. A regret is the loss of a search's set minus that of the
best. Writes searches.md beside this
file.
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from resnet_paths import __version__, for_inference, load_data, load_model, unroll
from resnet_paths.data import ImageData
from resnet_paths.network import UnrolledNetwork
from resnet_paths.surgery import Refitter
from resnet_paths.tradeoff import Beam, Greedy
from resnet_paths.tradeoff.search.scores import Scores, Set

HERE = Path(__file__).resolve().parent
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SEARCHES = {
    "greedy": Greedy(),
    "beam of 4": Beam(4),
}


def soft_error(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """1 - p(label), the mean."""
    return float(1 - logits.double().softmax(1).gather(1, labels[:, None]).mean())


def by_gates(net: UnrolledNetwork, data: ImageData) -> Callable[[Sequence[Set]], list[float]]:
    """Losses of sets of blocks, without repair."""
    fast, x = for_inference(net), data.x

    def evaluate(sets: Sequence[Set]) -> list[float]:
        gates = torch.ones(len(sets), len(net), dtype=torch.float64)
        for row, dropped in enumerate(sets):
            gates[row, list(dropped)] = 0
        losses = [0.0] * len(sets)
        with torch.inference_mode():
            for row, logits in fast.iterate(x, gates):
                losses[row] = soft_error(logits, data.labels)
        return losses

    return evaluate


def by_refit(net: UnrolledNetwork, images: ImageData, data: ImageData) -> Callable[[Sequence[Set]], list[float]]:
    """Losses of sets of blocks, each refitted."""
    outputs = Refitter(net, images).on(data)
    return lambda sets: [soft_error(outputs(list(dropped)), data.labels) for dropped in sets]


def study(blocks: int, evaluate: Callable[[Sequence[Set]], list[float]], most: int, exact: bool) -> list[str]:
    """A row for each search: sets evaluated, regret by number of blocks dropped."""
    shared: dict[Set, float] = {}
    counts: dict[str, int] = {}

    def remembered(sets: Sequence[Set]) -> list[float]:
        new = [dropped for dropped in sets if dropped not in shared]
        if new:
            shared.update(zip(new, evaluate(new), strict=True))
        return [shared[dropped] for dropped in sets]

    paths: dict[str, dict[int, Set]] = {}
    for name, search in SEARCHES.items():
        scores = Scores(blocks, remembered)
        scores.score([()])
        paths[name] = {len(dropped): dropped for dropped in search.path(scores, most)}
        counts[name] = len(scores.known)
        print(name, counts[name], flush=True)
    if exact:
        Scores(blocks, remembered).score(
            itertools.chain.from_iterable(itertools.combinations(range(blocks), k) for k in range(most + 1))
        )
    sizes = range(1, most + 1)
    best = {size: min(loss for dropped, loss in shared.items() if len(dropped) == size) for size in sizes}
    lines = [
        f"| search | sets | mean regret | {' | '.join(map(str, sizes))} |",
        f"|---|---:|---:|{'---:|' * most}",
        f"| loss of the best {'of all' if exact else 'known'} | | | {' | '.join(f'{best[k]:.4f}' for k in sizes)} |",
    ]
    for name, path in paths.items():
        regrets = [shared[path[size]] - best[size] for size in sizes]
        lines.append(
            f"| {name} | {counts[name]} | {sum(regrets) / most:.4f} | "
            f"{' | '.join(f'{regret:.4f}' for regret in regrets)} |"
        )
    return lines


def main() -> None:
    """All searches on all networks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--most", type=int, default=10)
    options = parser.parse_args()
    embedded = unroll(load_model("embedded").eval())
    digits = load_data("digits", "train").sample(options.images)
    file = str(options.reference / "cifar10_sample.npz")
    train = load_data(file, "train", mean=MEAN, std=STD).sample(2 * options.images)
    first, second = train.subset(slice(0, options.images)), train.subset(slice(options.images, None))
    halves = second.split(0.5)
    model = load_model(str(options.reference / "resnet20_cifar10_option_a.safetensors")).eval()
    small = unroll(model, first.x[:2])
    lines = [
        "# Searches for blocks to drop, by regret",
        "",
        f"`python analysis/tradeoff/searches.py --reference FOLDER --images {options.images} --most {options.most}`; "
        f"resnet_paths {__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads. Soft error (1 - "
        f"p(label)) on the {options.images} training images used for the search, by number of blocks dropped.",
        "",
        "## Embedded ResNet-56, 27 blocks, without repair",
        "",
        *study(len(embedded), by_gates(embedded, digits), options.most, exact=False),
        "",
        "## ResNet-20, 9 blocks, without repair",
        "",
        *study(len(small), by_gates(small, first), min(6, options.most), exact=True),
        "",
        f"## ResNet-20, 9 blocks, refitted on {options.images // 2} other images, judged on {options.images // 2}",
        "",
        *study(len(small), by_refit(small, *halves), min(6, options.most), exact=True),
        "",
    ]
    (HERE / "searches.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
