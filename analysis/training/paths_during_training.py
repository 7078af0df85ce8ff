"""Paths, values of blocks and surfaces during training, with and without stochastic depth.

    python analysis/training/paths_during_training.py --data cifar10.zip [--seeds 0,1,2] [--epochs 16] [--runs FOLDER]

Each network is trained in its own folder under --runs and compared there with a journal, so that the study resumes
after a kill. Both kinds share initial values, order and augmentation at each seed. The initial weights get the
statistics of training images in their norms: with those that a fresh norm has, the network in eval mode is not the one
that training starts from. Writes paths_during_training.md and .png beside this file.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from resnet_paths import __version__, compare, load_model
from resnet_paths.comparison import Comparison, PartSettings, checkpoints_in
from resnet_paths.data import ImageData, load_data
from resnet_paths.models import cifar_resnet
from resnet_paths.plot import save
from resnet_paths.report.claims.rules import above, word
from resnet_paths.statistics import spearman, student_intervals
from resnet_paths.surgery import recalibrate_batchnorm
from resnet_paths.training import Recipe, train

HERE = Path(__file__).resolve().parent
DEPTH, SIZE = 20, 16
KINDS = {"without stochastic depth": 1.0, "with stochastic depth": 0.5}
"""The probability that the last branch survives a training step."""
EPOCHS = (0, 1, 2, 4, 8, 12, 16)
"""The epochs that are compared, of a run of 16; other lengths of run scale them."""
NEAR = 1.0
"""Nats: the width of a surface is the share of the plane with at most this loss above the centre's."""
COLOURS = dict(zip(KINDS, ("#0072B2", "#D55E00"), strict=True))
Series = dict[str, np.ndarray]
"""A quantity by kind, (seeds, epochs)."""


@dataclass(frozen=True)
class Study:
    """What all runs share."""

    data: ImageData
    test: ImageData
    recipe: Recipe
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    runs: Path

    @property
    def epochs(self) -> list[int]:
        """The epochs that are compared."""
        return sorted({round(epoch * self.recipe.epochs / EPOCHS[-1]) for epoch in EPOCHS})

    def folder(self, kind: str, seed: int) -> Path:
        return self.runs / f"keep-{KINDS[kind]:g}-seed{seed}"

    def train(self, kind: str, seed: int) -> None:
        model = cifar_resnet(DEPTH, widths=self.widths, keep_last=KINDS[kind], seed=seed)
        recipe = Recipe(**{**vars(self.recipe), "seed": seed})
        began = time.process_time()
        rows = train(model, self.data, recipe, folder=self.folder(kind, seed), keep="all", progress=False)
        print(f"{kind}, seed {seed}: training error {rows[-1]['train_error']:.1%}, ", end="")
        print(f"{time.process_time() - began:.0f} s", flush=True)

    def compared(self, kind: str, seed: int) -> Comparison:
        """The checkpoints of one run, side by side."""
        files = checkpoints_in(self.folder(kind, seed))
        models = {f"epoch-{epoch:04d}": files[f"epoch-{epoch:04d}"] for epoch in self.epochs}
        initial = load_model(str(models["epoch-0000"]))
        recalibrate_batchnorm(initial, self.data.subset(slice(0, 1000)))
        began = time.process_time()
        record = compare(
            {**models, "epoch-0000": initial},
            self.test,
            parts=["effective", "shapley", "surface", "curvature"],
            draws=1,
            gradient_images=32,
            settings=PartSettings(images=100, path_draws=8, surface_points=9, reach=1.0),
            journal=self.runs / "compared.sqlite",
            progress=False,
        )
        print(f"{kind}, seed {seed}: compared, {time.process_time() - began:.0f} s", flush=True)
        return record


# What is followed, (epochs,) for each run


def effective_length(record: Comparison) -> np.ndarray:
    """The mean of the distribution of effective paths."""
    return record.effective_share @ record.lengths


def effective_end(record: Comparison) -> np.ndarray:
    """The length below or at which 95 % of the effective paths lie."""
    return np.array([record.lengths[np.searchsorted(row.cumsum(), 0.95)] for row in record.effective_share])


def gradient_length(record: Comparison) -> np.ndarray:
    """The mean length of the paths that the gradient's shares come from."""
    return record.mean_length


def mean_damage(record: Comparison) -> np.ndarray:
    """The rise of the error when one block is deleted, mean over blocks."""
    return record.damage.mean(1)


def widths(record: Comparison) -> np.ndarray:
    """The share of the plane with a loss close to that of the centre."""
    middle = len(record.steps) // 2
    return (record.surface <= record.surface[:, middle, middle, None, None] + NEAR).mean((1, 2))


def sharpness(record: Comparison) -> np.ndarray:
    """The largest eigenvalue of the Hessian."""
    return record.largest_eigenvalue


def agreement(record: Comparison) -> np.ndarray:
    """Spearman's rank correlation of the blocks' values with those at the end."""
    return spearman(record.shapley, np.broadcast_to(record.shapley[-1], record.shapley.shape))


def evenness(record: Comparison) -> np.ndarray:
    """The effective number of blocks that share the value, exp of the entropy of the positive values."""
    shares = np.clip(record.shapley, 1e-12, None)
    shares = shares / shares.sum(1, keepdims=True)
    return np.exp(-(shares * np.log(shares)).sum(1))


FOLLOWED: dict[str, Callable[[Comparison], np.ndarray]] = {
    "error": lambda record: record.values,
    "mean effective path length": effective_length,
    "95 % of effective paths up to length": effective_end,
    "mean length in the gradient": gradient_length,
    "rise of the error per deleted block": mean_damage,
    "blocks that share the value": evenness,
    "rank correlation of values with the end": agreement,
    "share of the plane within 1 nat": widths,
    "largest eigenvalue": sharpness,
}


DRAWN = {
    "error": "share of test images",
    "mean effective path length": "branches passed",
    "mean length in the gradient": "branches passed",
    "rise of the error per deleted block": "share of test images",
    "blocks that share the value": "effective number",
    "share of the plane within 1 nat": "share of the cells",
}
"""What the picture shows, with units."""


# Claims


def measured(differences: np.ndarray, digits: str = ".3g") -> str:
    """The mean over seeds with Student's interval."""
    (low,), (high,) = student_intervals(differences[None])
    return f"{differences.mean():+{digits}} ({low:+{digits}} to {high:+{digits}})"


def difference(claim: str, expected: str, differences: np.ndarray) -> tuple[str, ...]:
    """A claim that a difference, one per seed, is above zero."""
    return claim, expected, measured(differences), word(above(differences))


def claims(series: dict[str, Series], third: int) -> list[tuple[str, ...]]:
    """Each with the rule that decides it, which was written before the numbers were seen."""
    plain, dropped = KINDS
    rows = []
    for kind in KINDS:
        length, share = series["mean effective path length"][kind], series["mean length in the gradient"][kind]
        rows += [
            difference(
                f"effective paths are shorter after training than before: {kind}",
                "mean effective length before training, less that after",
                length[:, 0] - length[:, -1],
            ),
            difference(
                f"the gradient goes through shorter paths after training: {kind}",
                "mean length in the gradient before training, less that after",
                share[:, 0] - share[:, -1],
            ),
        ]
    for claim, name, expected, sign in (
        ("with stochastic depth, a deletion costs less", "rise of the error per deleted block", "without less with", 1),
        ("with stochastic depth, effective paths are shorter", "mean effective path length", "without less with", 1),
        (
            "with stochastic depth, the values of blocks are more equal",
            "blocks that share the value",
            "with less without",
            -1,
        ),
        ("with stochastic depth, the minimum is wider", "share of the plane within 1 nat", "with less without", -1),
        ("with stochastic depth, the minimum is flatter", "largest eigenvalue", "log without less log with", 1),
    ):
        one, other = (series[name][kind][:, -1] for kind in (plain, dropped))
        if expected.startswith("log"):
            one, other = np.log(one), np.log(other)
        rows.append(difference(claim, f"{name} after training, {expected}", sign * (one - other)))
    for kind in KINDS:
        ranks = series["rank correlation of values with the end"][kind][:, third]
        rows.append(
            (
                f"which blocks are worth most is settled after a third of the training: {kind}",
                "rank correlation with the values at the end above 0.7",
                measured(ranks, ".2f"),
                word(above(ranks, 0.7)),
            )
        )
    return rows


# Page


def table(series: dict[str, Series], epochs: Sequence[int]) -> list[str]:
    lines = [f"| | | {' | '.join(f'epoch {epoch}' for epoch in epochs)} |", f"|---|---|{'---:|' * len(epochs)}"]
    for name, by_kind in series.items():
        for kind, values in by_kind.items():
            cells = " | ".join(f"{mean:.3g} ± {spread:.2g}" for mean, spread in zip(*moments(values), strict=True))
            lines.append(f"| {name} | {kind} | {cells} |")
    return lines


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over seeds."""
    return values.mean(0), values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])


def by_block(shapley: Series) -> list[str]:
    blocks = next(iter(shapley.values())).shape[-1]
    lines = [f"| | {' | '.join(f'block {index}' for index in range(blocks))} |", f"|---|{'---:|' * blocks}"]
    for kind, values in shapley.items():
        cells = " | ".join(f"{mean:.3f} ± {spread:.2g}" for mean, spread in zip(*moments(values), strict=True))
        lines.append(f"| {kind} | {cells} |")
    return lines


def picture(followed: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], epochs: Sequence[int], path: Path) -> None:
    """The mean over seeds of each quantity, with a band of one standard deviation, as in the table."""
    axes = Figure(figsize=(11, 6.5), layout="constrained").subplots(2, 3).flatten()
    for ax, (name, unit) in zip(axes, DRAWN.items(), strict=True):
        for kind, (mean, spread) in followed[name].items():
            ax.fill_between(epochs, mean - spread, mean + spread, color=COLOURS[kind], alpha=0.2, lw=0)
            ax.plot(epochs, mean, "o-", color=COLOURS[kind], ms=3, label=kind)
        ax.set(xlabel="epochs trained", ylabel=f"{name}\n({unit})")
    axes[0].legend(fontsize=8)
    save(axes[0], path)


def page(study: Study) -> list[str]:
    records = {kind: [study.compared(kind, seed) for seed in study.seeds] for kind in KINDS}
    series = {
        name: {kind: np.stack([follow(record) for record in runs]) for kind, runs in records.items()}
        for name, follow in FOLLOWED.items()
    }
    third = int(np.argmin(np.abs(np.array(study.epochs) - study.recipe.epochs / 3)))
    followed = {name: {kind: moments(values) for kind, values in kinds.items()} for name, kinds in series.items()}
    picture(followed, study.epochs, HERE / "paths_during_training.png")
    steps = math.ceil(len(study.data) / study.recipe.batch_size) * study.recipe.epochs
    lines = [
        "# Paths, values of blocks and surfaces during training",
        "",
        f"Made by `analysis/training/paths_during_training.py` with resnet_paths {__version__}, torch "
        f"{torch.__version__}, on one CPU thread. ResNet-{DEPTH} of widths {study.widths} on {len(study.data)} "
        f"training images of {study.data.name}, reduced to {SIZE} x {SIZE} pixels, {study.recipe.epochs} epochs "
        f"({steps} steps of {study.recipe.batch_size} images) with the other defaults of `Recipe`, seeds "
        f"{', '.join(map(str, study.seeds))}, without stochastic depth and with it (survival falls linearly to 0.5). "
        "Such short training on few images leaves large errors: what holds here need not hold for networks trained to "
        "the end.",
        "",
        f"Measured by `compare` on {len(study.test)} test images (gradients on 32; values of blocks, surfaces and "
        "curvature on 100). Values are Shapley values of the error. The norms of the initial weights have the "
        "statistics of 1,000 training images. Intervals and verdicts are Student's over seeds, at 95 %; three seeds "
        "decide only what is large beside their spread.",
        "",
        "Two things are not effects of training. In eval mode each branch is scaled by its survival probability, which "
        "by itself makes long paths weigh less with stochastic depth: its share of the difference is what the table "
        "says of epoch 0. And a network with a larger error has less to lose when a block is deleted.",
        "",
        "| claim | expected above zero, or as said | measured | verdict |",
        "|---|---|---|---|",
        *[f"| {' | '.join(row)} |" for row in claims(series, third)],
        "",
        "![what is followed, by epoch](paths_during_training.png)",
        "",
        "Bands: one standard deviation over seeds.",
        "",
        "Mean and standard deviation over seeds:",
        "",
        *table(series, study.epochs),
        "",
        "The value of each block after training:",
        "",
        *by_block({kind: np.stack([record.shapley[-1] for record in runs]) for kind, runs in records.items()}),
        "",
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=EPOCHS[-1])
    parser.add_argument("--widths", default="8,16,32")
    parser.add_argument("--train-images", type=int, default=5000)
    parser.add_argument("--test-images", type=int, default=500)
    parser.add_argument("--runs", type=Path, default=Path("results/paths_during_training"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(options.data, "train", limit=options.train_images, size=SIZE)
    test = load_data(options.data, "test", limit=options.test_images, size=SIZE)
    seeds, widths = (tuple(map(int, text.split(","))) for text in (options.seeds, options.widths))
    study = Study(data, test, Recipe(epochs=options.epochs, batch_size=64), widths, seeds, options.runs)
    for seed in study.seeds:
        for kind in KINDS:
            study.train(kind, seed)
    lines = page(study)
    (HERE / "paths_during_training.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
