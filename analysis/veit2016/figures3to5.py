"""Veit, Wilber and Belongie (2016), section 4 and figures 3 to 5: lesions, plain and residual.

    python analysis/veit2016/figures3to5.py [--network embedded|resnet56] [--reference FOLDER] [--folder RUNS]

FOLDER holds cifar10_sample.npz and resnet56_cifar10_option_a.safetensors, which resnet56 needs. The plain networks
for figure 3 are trained here, on one thread. RUNS stores their checkpoints and the journal of the studies, so that
the script resumes. Writes figures3to5_NETWORK.md and the figures beside this file.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from resnet_paths import __version__, unroll
from resnet_paths.data import ImageData, digits, load_data
from resnet_paths.lesion import (
    RandomDeletions,
    Reorderings,
    SingleDeletions,
    random_deletions,
    reorderings,
    shortcut_deletions,
    single_deletions,
    stage_deletions,
)
from resnet_paths.models import cifar_resnet, load_model
from resnet_paths.network import plain_layers
from resnet_paths.plot import (
    plot_random_deletions,
    plot_reorderings,
    plot_single_deletions,
    plot_stage_deletions,
)
from resnet_paths.report.claims import veit2016
from resnet_paths.training import Recipe, train

HERE = Path(__file__).resolve().parent
Claim = tuple[str, str, str, str]


class Vgg(nn.Module):
    """A chain of 3x3 convolutions with norms after Simonyan and Zisserman (2014): 9 of them and one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, count in ((16, 2), (32, 3), (64, 4)):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(channels * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.features(x).flatten(1))


def plain_for_digits(folder: Path | None) -> nn.Module:
    """The plain twin of a ResNet-20: the same layers without shortcuts."""
    model = cifar_resnet(20, in_channels=1, widths=(8, 16, 32), residual=False, seed=0)
    recipe = Recipe(epochs=30, batch_size=64, learning_rate=0.05, weight_decay=5e-4, warmup=2, shift=1, flip=False)
    return trained(model, digits("train"), recipe, folder, "plain_digits")


def plain_for_cifar(data: ImageData, folder: Path | None, epochs: int) -> nn.Module:
    """A VGG, on the training images of the sample only."""
    torch.manual_seed(0)
    recipe = Recipe(epochs=epochs, batch_size=64, learning_rate=0.05, weight_decay=5e-4, warmup=1, shift=4)
    return trained(Vgg(), data, recipe, folder, "plain_cifar")


def trained(model: nn.Module, data: ImageData, recipe: Recipe, folder: Path | None, name: str) -> nn.Module:
    train(model, data, recipe, folder=None if folder is None else folder / name)
    return model.eval()


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def figure3_plain(residual: SingleDeletions, plain: SingleDeletions, chance: float) -> list[Claim]:
    lost = (plain.values - plain.full) / (chance - plain.full)
    return [
        (
            "deleting any layer of a plain network reduces it to chance",
            f"error about {percent(chance)} for each of {len(plain.names)} layers",
            f"error from {percent(plain.values.min())} to {percent(plain.values.max())}, median "
            f"{percent(float(np.median(plain.values)))}; as a share of the way from its own error to chance: median "
            f"{percent(float(np.median(lost)))}, minimum {percent(float(lost.min()))}",
            verdict(bool((plain.high >= chance).all()), bool(np.median(lost) > 0.7)),
        ),
        (
            "the plain network suffers more than the residual one",
            "every plain deletion above the residual median",
            f"plain median {100 * np.median(plain.damage):+.1f} points, minimum {100 * plain.damage.min():+.1f}; "
            f"residual median {100 * np.median(residual.damage):+.1f}",
            verdict(bool(plain.damage.min() > np.median(residual.damage))),
        ),
    ]


def shortcuts(branch: SingleDeletions, without: SingleDeletions) -> list[Claim]:
    """Our claim: the paths that skip a block matter more than those through it."""
    more = int(np.sum(without.values > branch.values))
    return [
        (
            "(our claim) of the paths at a block, the half that skips it carries the network",
            "deleting only the shortcut does more damage than deleting the branch",
            f"error without the shortcut: median {percent(float(np.median(without.values)))}; without the branch: "
            f"median {percent(float(np.median(branch.values)))}; worse in {more} of {len(branch.names)} blocks",
            verdict(more > 0.9 * len(branch.names), more > len(branch.names) / 2),
        )
    ]


def medians(many: RandomDeletions, moved: Reorderings) -> list[str]:
    """Figure 5 in numbers."""
    _, middle, _ = many.quantiles()
    ends = zip(many.counts, middle, *many.median_interval(), strict=True)
    deleted = ", ".join(f"{percent(value)} ({percent(a)} to {percent(b)}) with {k}" for k, value, a, b in ends)
    swapped = ", ".join(f"{percent(row['median'])} at {row['tau']:.2f}" for _, row in moved.by_swaps().iterrows())
    return [
        f"Median error by the number of deleted blocks (95 % interval): {percent(many.full)} with none, {deleted}.",
        "",
        f"Median error by Kendall's tau of the order: {percent(moved.full)} at 1, {swapped}.",
        "",
    ]


def verdict(holds: bool, partly: bool = False) -> str:
    return "holds" if holds else ("holds in part" if partly else "does not hold")


def pictures(stem: str, plots: dict[str, Callable]) -> str:
    """All plots of a network in one figure."""
    figure = Figure(figsize=(13, 12), layout="constrained")
    places = np.ravel(figure.subplots(3, 2))
    for place, (title, plot) in zip(places, plots.items(), strict=False):
        plot(place)
        place.set_title(title, fontsize=10)
    for place in places[len(plots) :]:
        place.set_axis_off()
    name = f"figures3to5_{stem}.png"
    figure.savefig(HERE / name, dpi=90)
    return name


def section(
    title: str, stem: str, model: nn.Module, data: ImageData, plain: nn.Module | None, folder: Path | None, draws: int
) -> list[str]:
    net, chance = unroll(model, data.x[:2]), 1 - 1 / len(data.classes)
    common = {"draws": draws, "journal": None if folder is None else folder / f"{stem}.journal", "progress": False}
    residual = single_deletions(net, data)
    counts = sorted({1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 17, 20, len(net)} & set(range(1, len(net) + 1)))
    many = random_deletions(net, data, counts, **common)
    moved = reorderings(net, data, [1, 2, 4, 8, 16, 32], **common)
    stages = stage_deletions(net, data, **{**common, "draws": max(3, draws // 2)})
    without = shortcut_deletions(net, data)
    layers = None if plain is None else single_deletions(plain_layers(plain, data.x[:1]), data)

    plots: dict[str, Callable] = {
        "Figure 3: one residual block deleted": lambda ax: plot_single_deletions(residual, ax, chance),
        "Figure 3: one layer of a plain network deleted": lambda ax: plot_single_deletions(layers, ax, chance),
        "Figure 5 a: k random blocks deleted": lambda ax: plot_random_deletions(many, ax, chance),
        "Figure 5 b: reordered blocks": lambda ax: plot_reorderings(moved, ax, chance),
        "Blocks of one stage deleted": lambda ax: plot_stage_deletions(stages, ax),
        "Only the shortcut deleted": lambda ax: plot_single_deletions(without, ax, chance),
    }
    if layers is None:
        del plots["Figure 3: one layer of a plain network deleted"]
    measured = {
        "single-deletion": veit2016.single_deletion(residual, chance),
        "downsampling": veit2016.downsampling(residual),
        "smooth-deletion": veit2016.smooth_deletion(many),
        "smooth-reordering": veit2016.smooth_reordering(moved),
    }
    claims = ([] if layers is None else figure3_plain(residual, layers, chance)) + shortcuts(residual, without)
    whole = ", ".join(percent(value) for value in stages.full_stage)
    low, high = residual.full_interval
    batches = -(-len(data) // 100)
    share = moved.evaluations.branches / batches / len(net) / (len(moved.tau) + 1)
    return [
        f"## {title}",
        "",
        f"{data.name}, {len(data)} images, {len(net)} blocks. Error without deletion {percent(residual.full)} "
        f"(95 % interval {percent(low)} to {percent(high)}). {draws} draws per number of deletions and swaps.",
        "",
        f"![figures 3 and 5]({pictures(stem, plots)})",
        "",
        *veit2016.PAPER.table(measured),
        *[f"| {' | '.join(claim)} |" for claim in claims],
        "",
        *medians(many, moved),
        f"Error with all branches of one stage deleted: {whole} (stages 1 to {len(stages.stages)}). Reordering ran "
        f"{moved.evaluations.branches:,} block evaluations for {len(moved.tau)} orders in {batches} batches, "
        f"{share:.0%} of those without shared prefixes.",
        "",
        *plain_table(plain, layers),
    ]


def plain_table(plain: nn.Module | None, layers: SingleDeletions | None) -> list[str]:
    if layers is None:
        return ["No plain network was trained on these images (`--plain-epochs 0`); see the network for digits.", ""]
    rows = zip(layers.names, layers.values, layers.low, layers.high, strict=True)
    return [
        f"Plain network: {type(plain).__name__} with {len(layers.names)} layers that keep the shape, error "
        f"{percent(layers.full)}.",
        "",
        "| plain layer deleted | error | 95 % interval |",
        "|---|---:|---|",
        *[f"| {name} | {percent(value)} | {percent(a)} to {percent(b)} |" for name, value, a, b in rows],
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=["embedded", "resnet56"], default="embedded")
    parser.add_argument("--reference", type=Path, default=None)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--limit", type=int, default=None, help="maximum number of images")
    parser.add_argument("--plain-epochs", type=int, default=12, help="epochs of the VGG for CIFAR-10; 0 skips it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    name, folder, reference = arguments.network, arguments.folder, arguments.reference
    command = f"--network {name} --draws {arguments.draws}"
    if name == "resnet56":
        command += f" --plain-epochs {arguments.plain_epochs}"
    if arguments.limit is not None:
        command += f" --limit {arguments.limit}"
    lines = [
        "# Lesions, plain and residual",
        "",
        "Veit, Wilber and Belongie (2016), section 4 and figures 3 to 5. Made by "
        f"`python analysis/veit2016/figures3to5.py {command}` with resnet_paths "
        f"{__version__}, torch {torch.__version__}. Figures 3 and 5 of the paper show a ResNet of 110 layers and a "
        "VGG on CIFAR-10; these networks are smaller. Figure 4 shows networks for ImageNet, whose images are not "
        "available here; the network for digits shows what carries over to other data.",
        "",
    ]
    if name == "embedded":
        title, model, data = "The embedded ResNet-56, UCI digits; the plain twin of a ResNet-20", "embedded", "digits"
        plain = plain_for_digits(folder)
    elif reference is None:
        parser.error("expected --reference FOLDER with --network resnet56, got none")
    else:
        title = "ResNet-56, CIFAR-10 (reference weights of Y. Idelbayev, option A)"
        model, data = (
            str(reference / file) for file in ("resnet56_cifar10_option_a.safetensors", "cifar10_sample.npz")
        )
        epochs = arguments.plain_epochs
        plain = plain_for_cifar(load_data(data, "train"), folder, epochs) if epochs else None
    lines += section(
        title, name, load_model(model), load_data(data, limit=arguments.limit), plain, folder, arguments.draws
    )
    (HERE / f"figures3to5_{name}.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
