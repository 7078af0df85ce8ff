"""He et al. (2016): identity shortcuts and pre-activation make very deep networks easier to train.

    python analysis/he2016/preactivation.py [--seeds 0,1,2] [--epochs 12] [--runs FOLDER]

Networks of 110 and 218 layers (54 and 108 blocks) on the embedded digits: the original block, the pre-activation
block, and the original block with projections on all shortcuts. Each is trained in its own folder under --runs, so
that the study resumes after a kill. Writes preactivation.md and a figure beside this file.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from resnet_paths import __version__
from resnet_paths.data import digits
from resnet_paths.models import cifar_resnet
from resnet_paths.plot import save
from resnet_paths.report.claims.comparison import LEARNT
from resnet_paths.report.claims.rules import above, word
from resnet_paths.training import Recipe, train

HERE = Path(__file__).resolve().parent
KINDS: dict[str, dict] = {
    "original": {},
    "pre-activation": {"preactivation": True},
    "projections": {"shortcut": "C"},
}
STUDIED = [("original", 110), ("pre-activation", 110), ("projections", 110), ("original", 218), ("pre-activation", 218)]
COLOURS = {"original": "#0072B2", "pre-activation": "#009E73", "projections": "#D55E00"}
Runs = dict[tuple[str, int], list[list[dict[str, float]]]]


def trained(kind: str, depth: int, seed: int, epochs: int, folder: Path) -> list[dict[str, float]]:
    """The numbers of each epoch; for one seed, all kinds share initialisation, order and augmentation."""
    data, test = digits("train"), digits("test")
    model = cifar_resnet(depth, in_channels=1, widths=(8, 16, 32), seed=seed, **KINDS[kind])
    recipe = Recipe(
        epochs=epochs, batch_size=64, nesterov=False, schedule="step", warmup=1, shift=1, flip=False, seed=seed
    )
    rows = train(model, data, recipe, folder=folder / f"{kind}-{depth}-seed{seed}", test=test, progress=False)
    print(f"{kind} {depth} seed {seed}: " + " ".join(f"{row['loss']:.2f}" for row in rows), flush=True)
    return rows


def early(rows: list[dict[str, float]]) -> float:
    """Mean training loss over the first half of the epochs."""
    half = len(rows) // 2
    return statistics.fmean(row["loss"] for row in rows[:half])


def values(runs: Runs, key: tuple[str, int], figure: str) -> list[float]:
    return [early(rows) if figure == "early" else rows[-1][figure] for rows in runs[key]]


def text(numbers: list[float]) -> str:
    return f"{statistics.fmean(numbers):.2f} (" + ", ".join(f"{number:.2f}" for number in numbers) + ")"


def compared(runs: Runs, better: str, worse: str, depth: int, figure: str, claim: str) -> tuple[str, str, str, str]:
    """Whether one kind's number is below the other's, seed by seed."""
    one, other = values(runs, (better, depth), figure), values(runs, (worse, depth), figure)
    name = {"early": "early training loss", "test_error": "final test error"}[figure]
    wins = sum(a < b for a, b in zip(one, other, strict=True))
    chance = 0.9
    ends = {kind: statistics.fmean(values(runs, (kind, depth), "test_error")) for kind in (better, worse)}
    poor = [kind for kind, error in ends.items() if error > LEARNT * chance]
    verdict = f"inconclusive ({' and '.join(poor)}: undertrained)" if poor else word(above(np.subtract(other, one)))
    return (
        claim,
        f"{name}: {better} below {worse}",
        f"{better} {text(one)}, {worse} {text(other)}; below in {wins} of {len(one)} seeds",
        verdict,
    )


def unlearnt(runs: Runs) -> list[str]:
    """A warning if the compared networks are still at the beginning of training."""
    errors = {key: statistics.fmean(values(runs, key, "test_error")) for key in runs}
    poor = [f"{kind} {depth}" for (kind, depth), value in errors.items() if value > 0.5]
    if not poor:
        return []
    return [
        f"More than half of the test images are still wrong after these epochs for: {', '.join(poor)}. A comparison "
        "between two of these compares networks at the beginning of their training.",
        "",
    ]


def picture(runs: Runs) -> None:
    axes = Figure(figsize=(10, 4), layout="constrained").subplots(1, 2, sharey=True)
    for ax, depth in zip(axes, (110, 218), strict=True):
        for (kind, of), found in runs.items():
            if of != depth:
                continue
            for index, rows in enumerate(found):
                losses = [row["loss"] for row in rows]
                ax.plot(range(1, len(rows) + 1), losses, color=COLOURS[kind], label=None if index else kind)
        ax.set_title(f"{depth} layers, one line per seed", fontsize=10)
        ax.set_xlabel("epoch")
        ax.legend(fontsize=8)
    axes[0].set_ylabel("training loss (nats)")
    axes[0].set_ylim(bottom=0)
    save(axes[0], HERE / "preactivation.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--runs", type=Path, default=Path("results/he2016"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    runs: Runs = {}
    for seed in map(int, chosen.seeds.split(",")):
        for kind, depth in STUDIED:
            runs.setdefault((kind, depth), []).append(trained(kind, depth, seed, chosen.epochs, chosen.runs))
    claims = [
        compared(runs, "pre-activation", "original", 110, "early", "pre-activation trains more easily, 110 layers"),
        compared(runs, "pre-activation", "original", 218, "early", "pre-activation trains more easily, 218 layers"),
        compared(runs, "original", "projections", 110, "test_error", "identity shortcuts beat projections, 110 layers"),
    ]
    picture(runs)
    lines = [
        "# Identity shortcuts and pre-activation at great depth",
        "",
        "He et al. (2016), table 1 (identity against 1x1 projections, ResNet-110), sections 4.1 and 4.2 and figure 1 "
        "(pre-activation: the training loss falls faster at the start, most clearly at 1001 layers). Made by "
        f"`analysis/he2016/preactivation.py` with resnet_paths {__version__}, torch {torch.__version__}, on one CPU "
        "thread.",
        "",
        f"UCI digits, {chosen.epochs} epochs ({22 * chosen.epochs} steps; the paper: 64,000), batch 64, channels "
        "8/16/32, rate 0.1 after one epoch of warm-up, divided by 10 at 1/2 and 3/4. *Early* is the mean over the "
        "first half of the epochs, at the full rate; the paper's table 1 compares final test errors. Means over "
        "the seeds, with each seed in brackets. The projections have batch norms (option C of He et al. 2015).",
        "",
        "| claim | expected (paper) | measured | verdict |",
        "|---|---|---|---|",
        *[f"| {' | '.join(claim)} |" for claim in claims],
        "",
        *unlearnt(runs),
        "![training loss](preactivation.png)",
        "",
        "| block | layers | early loss | final loss | final training error | final test error |",
        "|---|---:|---|---|---|---|",
        *[
            f"| {kind} | {depth} | "
            + " | ".join(
                text(values(runs, (kind, depth), name)) for name in ("early", "loss", "train_error", "test_error")
            )
            + " |"
            for kind, depth in runs
        ],
        "",
    ]
    (HERE / "preactivation.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
