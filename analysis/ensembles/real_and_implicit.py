"""A real ensemble of networks of several depths, a single network, its lesioned copies, and stochastic depth.

    python analysis/ensembles/real_and_implicit.py [--seeds 0,1,2] [--epochs 40] [--runs FOLDER]

He et al. (2015), section 4.1, combined networks of several depths into an ensemble. Veit et al. (2016) call one
residual network an ensemble of its paths. Stochastic depth (Huang et al. 2016) trains a third kind in one network.
All are trained on three in ten of the training digits and tested on all others. Each has its own folder under --runs,
so that the study resumes after a kill. Writes real_and_implicit.md and two figures beside this file.
"""

import argparse
import itertools
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from resnet_paths import __version__, unroll
from resnet_paths.data import ImageData, digits
from resnet_paths.lesion import single_deletions
from resnet_paths.models import Ensemble, cifar_resnet, linear_decay
from resnet_paths.plot import save
from resnet_paths.training import Recipe, train

HERE = Path(__file__).resolve().parent
DEPTHS = (8, 14, 20, 26, 32)
DEEP = 56
DOWN = ((DEEP - 2) // 6, (DEEP - 2) // 3)
DRAWS = 30
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"


def parts() -> tuple[ImageData, ImageData]:
    """Few training images, so that there is room for improvement; many test images."""
    some, rest = digits("train").split(0.3)
    test = digits("test")
    images, labels = torch.cat([rest.images, test.images]), torch.cat([rest.labels, test.labels])
    return some, replace(test, images=images, labels=labels, name="digits (the rest)")


def trained(depth: int, seed: int, epochs: int, folder: Path, keep_last: float = 1.0) -> nn.Module:
    data, _ = parts()
    model = cifar_resnet(depth, in_channels=1, widths=(8, 16, 32), keep_last=keep_last, seed=seed)
    recipe = Recipe(epochs=epochs, batch_size=32, learning_rate=0.05, weight_decay=5e-4, shift=1, flip=False, seed=seed)
    kind = "" if keep_last == 1 else f"-keep{keep_last:g}"
    rows = train(model, data, recipe, folder=folder / f"{depth}{kind}-seed{seed}", progress=False)
    print(f"depth {depth}{kind} seed {seed}: training error {rows[-1]['train_error']:.2%}", flush=True)
    return model


@torch.no_grad()
def probabilities(model: nn.Module, data: ImageData) -> torch.Tensor:
    return model.eval()(data.x).double().softmax(1)


@torch.no_grad()
def at_gates(model: nn.Module, data: ImageData, gates: torch.Tensor) -> torch.Tensor:
    """Probabilities (gate vectors, images, classes) of one network."""
    net = unroll(model)
    return torch.stack([net(data.x, row).double().softmax(1) for row in gates])


def error(found: torch.Tensor, data: ImageData) -> float:
    return float((found.argmax(-1) != data.labels).double().mean())


def disagreement(members: torch.Tensor) -> float:
    """Mean share of images on which two members differ."""
    votes = members.argmax(-1)
    pairs = itertools.combinations(range(len(votes)), 2)
    return statistics.fmean(float((votes[a] != votes[b]).double().mean()) for a, b in pairs)


def seconds(model: nn.Module, data: ImageData) -> float:
    times = []
    with torch.inference_mode():
        for _ in range(4):
            began = time.perf_counter()
            model(data.x[:256])
            times.append(time.perf_counter() - began)
    return min(times)


@dataclass(frozen=True)
class Measured:
    """The numbers of one seed."""

    members: list[float]
    real: float
    deep: float
    lesioned: list[float]
    implicit: float
    real_disagreement: float
    lesioned_disagreement: float
    cost: float
    damage: np.ndarray
    stochastic_damage: np.ndarray
    stochastic: float
    sampled: float
    sampled_members: float

    def fall(self, down: bool) -> float:
        """Decrease of a deletion's damage with stochastic depth: mean over down-sampling blocks, or the others."""
        chosen = np.isin(np.arange(len(self.damage)), DOWN) == down
        return float((self.damage - self.stochastic_damage)[chosen].mean())


def measured(seed: int, epochs: int, folder: Path) -> Measured:
    _, test = parts()
    members = [trained(depth, seed, epochs, folder) for depth in DEPTHS]
    deep = trained(DEEP, seed, epochs, folder)
    stochastic = trained(DEEP, seed, epochs, folder, keep_last=0.5)
    several = Ensemble(members).eval()
    voices = torch.stack([probabilities(member, test) for member in members])
    blocks = len(unroll(deep))
    lesioned = at_gates(deep, test, 1 - torch.eye(blocks))

    # the gates of an unrolled network with stochastic depth multiply its survival probabilities
    keeps = torch.tensor(linear_decay(blocks, 0.5))
    drawn = (torch.rand(DRAWS, blocks, generator=torch.Generator().manual_seed(seed)) < keeps) / keeps
    sampled = at_gates(stochastic, test, drawn)
    return Measured(
        members=[error(voice, test) for voice in voices],
        real=error(probabilities(several, test), test),
        deep=error(probabilities(deep, test), test),
        lesioned=[error(voice, test) for voice in lesioned],
        implicit=error(lesioned.mean(0), test),
        real_disagreement=disagreement(voices),
        lesioned_disagreement=disagreement(lesioned),
        cost=seconds(several, test) / seconds(deep, test),
        damage=single_deletions(unroll(deep), test).damage,
        stochastic_damage=single_deletions(unroll(stochastic), test).damage,
        stochastic=error(probabilities(stochastic, test), test),
        sampled=error(sampled.mean(0), test),
        sampled_members=statistics.fmean(error(voice, test) for voice in sampled),
    )


def each(values: list[float]) -> str:
    return f"{statistics.fmean(values):.2%} (" + ", ".join(f"{value:.2%}" for value in values) + ")"


def verdict(wins: list[bool]) -> str:
    return "holds" if all(wins) else "does not hold" if not any(wins) else f"holds in {sum(wins)} of {len(wins)} seeds"


def claims(found: list[Measured]) -> list[tuple[str, str, str, str]]:
    best = [min(one.members) for one in found]
    return [
        (
            "the mean prediction of networks of several depths beats the best of them (He et al. 2015, table 5)",
            "error of the ensemble below the best member's",
            f"ensemble {each([one.real for one in found])}, best member {each(best)}, mean member "
            f"{each([statistics.fmean(one.members) for one in found])}",
            verdict([one.real < least for one, least in zip(found, best, strict=True)]),
        ),
        (
            "and beats one deeper network",
            f"below ResNet-{DEEP}",
            f"ensemble {each([one.real for one in found])}, ResNet-{DEEP} {each([one.deep for one in found])}; "
            f"time {statistics.fmean(one.cost for one in found):.2f} of ResNet-{DEEP}'s",
            verdict([one.real < one.deep for one in found]),
        ),
        (
            "the lesioned copies of one network (one block deleted) vote like the full network: it contains an "
            "implicit ensemble (Veit et al. 2016)",
            "error of their mean prediction within 1 point of the full network's",
            f"mean of {len(found[0].lesioned)} copies {each([one.implicit for one in found])}, whole "
            f"{each([one.deep for one in found])}, one self {each([statistics.fmean(one.lesioned) for one in found])}",
            verdict([abs(one.implicit - one.deep) <= 0.01 for one in found]),
        ),
        (
            "real members differ more from each other than the copies do (our expectation)",
            "disagreement of two members above that of two copies",
            f"two members {each([one.real_disagreement for one in found])}, two selves "
            f"{each([one.lesioned_disagreement for one in found])}: the copies differ in what a deletion destroys",
            verdict([one.real_disagreement > one.lesioned_disagreement for one in found]),
        ),
        (
            "the expected gates of stochastic depth approximate the mean over sampled networks (Huang et al. 2016, "
            "section 3)",
            "errors within 1 point of each other, both below that of a single sampled network",
            f"expected gates {each([one.stochastic for one in found])}, mean of {DRAWS} drawn "
            f"{each([one.sampled for one in found])}, one drawn {each([one.sampled_members for one in found])}",
            verdict(
                [
                    abs(one.stochastic - one.sampled) <= 0.01 and max(one.stochastic, one.sampled) < one.sampled_members
                    for one in found
                ]
            ),
        ),
        (
            "training with stochastic depth makes deletions less harmful (Veit et al. 2016, discussion)",
            "mean damage of a deletion slightly lower",
            f"{each([float(one.damage.mean()) for one in found])} without, "
            f"{each([float(one.stochastic_damage.mean()) for one in found])} with",
            verdict([float(one.stochastic_damage.mean()) < float(one.damage.mean()) for one in found]),
        ),
        (
            "in particular, it weakens the dependence on the down-sampling blocks (same source)",
            "damage decreases more for these than for the other blocks",
            f"decrease of {each([one.fall(True) for one in found])} for the {len(DOWN)} down-sampling blocks, "
            f"{each([one.fall(False) for one in found])} for the others",
            verdict([one.fall(True) > one.fall(False) for one in found]),
        ),
    ]


def pictures(found: list[Measured]) -> None:
    ax = Figure(figsize=(8, 4), layout="constrained").subplots()
    names = [f"ResNet-{depth}" for depth in DEPTHS] + [
        "their ensemble",
        f"ResNet-{DEEP}",
        "its copies, mean",
        "stoch. depth",
    ]
    for index, one in enumerate(found):
        values = [*one.members, one.real, one.deep, one.implicit, one.stochastic]
        ax.plot(range(len(names)), [100 * value for value in values], "o", alpha=0.7, label=f"seed {index}")
    ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
    ax.set_ylabel("test error (%)")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8)
    save(ax, HERE / "errors.png")

    ax = Figure(figsize=(8, 4), layout="constrained").subplots()
    usual = np.mean([one.damage for one in found], 0)
    stochastic = np.mean([one.stochastic_damage for one in found], 0)
    ax.plot(100 * usual, "o-", color=BLUE, label="usual training")
    ax.plot(100 * stochastic, "s-", color=GREEN, label="stochastic depth, last block kept half of the time")
    ax.set_xlabel(f"deleted block of ResNet-{DEEP}")
    ax.set_ylabel("increase in test error (points)")
    ax.legend(fontsize=8)
    save(ax, HERE / "stochastic_depth.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--runs", type=Path, default=Path("results/ensembles"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    data, test = parts()
    found = [measured(seed, chosen.epochs, chosen.runs) for seed in map(int, chosen.seeds.split(","))]
    pictures(found)
    lines = [
        "# A real ensemble, a single network, and stochastic depth",
        "",
        f"Made by `analysis/ensembles/real_and_implicit.py` with resnet_paths {__version__}, torch "
        f"{torch.__version__}, on one CPU thread. ResNets of {', '.join(map(str, DEPTHS))} and {DEEP} layers (8/16/32 "
        f"channels), trained on {len(data)} digits for {chosen.epochs} epochs, tested on {len(test)} others (one image "
        f"is {1 / len(test):.2%}). Means over seeds {chosen.seeds}, with each seed in brackets.",
        "",
        "| claim | expected | measured | verdict |",
        "|---|---|---|---|",
        *[f"| {' | '.join(claim)} |" for claim in claims(found)],
        "",
        "![errors](errors.png)",
        "",
        "![damage with and without stochastic depth](stochastic_depth.png)",
        "",
    ]
    (HERE / "real_and_implicit.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
