"""He et al. (2015), section 4.2: deeper plain networks train worse, residual ones do not; shortcuts; responses.

    python analysis/he2015/degradation.py [--seeds 0,1,2] [--epochs 40] [--runs FOLDER]
    python analysis/he2015/degradation.py --data cifar10.zip --size 16 --limit 3000 --epochs 10 --seeds 0 --depths 20,56

Each network is trained in its own folder under --runs, so that the study resumes after a kill, and several processes
can train its seeds. Writes a page and two figures beside this file.
"""

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from resnet_paths import __version__
from resnet_paths.data import ImageData, load_data
from resnet_paths.models import CifarResNet, cifar_resnet
from resnet_paths.plot import save
from resnet_paths.report.claims.he2015 import responses
from resnet_paths.report.claims.rules import LEAST_SEEDS, above, every, word
from resnet_paths.training import Recipe, train

HERE = Path(__file__).resolve().parent
OPTIONS = ("A", "B", "C")
Table = dict[tuple[str, int], list[float]]
BLUE, ORANGE = "#0072B2", "#D55E00"


@dataclass(frozen=True)
class Study:
    """What all networks share."""

    data: ImageData
    test: ImageData
    recipe: Recipe
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    runs: Path

    @property
    def option_depth(self) -> int:
        """The depth at which the shortcuts are compared."""
        return 32 if 32 in self.depths else self.depths[0]

    def network(self, depth: int, seed: int, residual: bool, shortcut: str = "A") -> CifarResNet:
        return cifar_resnet(
            depth,
            num_classes=len(self.data.classes),
            in_channels=self.data.images.shape[1],
            widths=self.widths,
            residual=residual,
            shortcut=shortcut,  # type: ignore[arg-type]
            seed=seed,
        )

    def trained(self, depth: int, seed: int, residual: bool, shortcut: str = "A") -> tuple[nn.Module, list[dict]]:
        """A network and its numbers; twins share initialisation, order and augmentation."""
        model = self.network(depth, seed, residual, shortcut)
        kind = f"residual-{shortcut}" if residual else "plain"
        folder = self.runs / f"{self.data.name.split()[0]}-{kind}-{depth}-seed{seed}"
        recipe = Recipe(**{**self.recipe.__dict__, "seed": seed})
        began = time.time()
        rows = train(model, self.data, recipe, folder=folder, test=self.test, progress=False)
        last = rows[-1]
        print(
            f"{folder.name}: {last['train_error']:.2%} {last['test_error']:.2%} {time.time() - began:.0f} s", flush=True
        )
        return model, rows


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def mean(values: list[float]) -> float:
    return statistics.fmean(values)


def each(values: list[float]) -> str:
    return f"{mean(values):.1%} (" + ", ".join(f"{value:.1%}" for value in values) + ")"


def degradation(final: Table, depths: tuple[int, ...]) -> tuple[str, str, str, str]:
    shallow, deep = depths[0], depths[-1]
    plain = [b - a for a, b in zip(final["plain", shallow], final["plain", deep], strict=True)]
    residual = [b - a for a, b in zip(final["A", shallow], final["A", deep], strict=True)]
    below = all(a < b for depth in depths for a, b in zip(final["A", depth], final["plain", depth], strict=True))
    rises, falls = above(np.array(plain)), above(-np.array(residual))
    verdict = f"plain rises: {word(rises)}; residual falls: {word(falls)}"
    if len(plain) < LEAST_SEEDS:
        verdict = f"inconclusive ({len(plain)} seeds)"
    return (
        f"a deeper plain network trains worse; its residual twin does not (depth {shallow} to {deep})",
        "training error: plain rises with depth, residual falls and is lower",
        f"plain {each(final['plain', shallow])} to {each(final['plain', deep])}; residual {each(final['A', shallow])} "
        f"to {each(final['A', deep])}; residual below plain at every depth and seed: {'yes' if below else 'no'}",
        verdict,
    )


def options(errors: Table, depth: int) -> tuple[str, str, str, str]:
    plain = errors["plain", depth]
    found = {option: errors[option, depth] for option in OPTIONS}
    means = [mean(values) for values in found.values()]
    spread, gap = max(means) - min(means), mean(plain) - max(means)
    better = [above(np.array(plain) - np.array(values)) for values in found.values()]
    close = spread < 0.25 * gap if len(plain) >= LEAST_SEEDS else None
    return (
        f"shortcuts A, B and C are close: projections are not essential (depth {depth})",
        "test error of A, B, C far below plain, with small differences among them",
        "; ".join(f"{option} {each(values)}" for option, values in found.items())
        + f"; plain {each(plain)}; spread {spread:.1%}, gap to plain {gap:.1%}",
        word(every(*better, close)),
    )


def magnitudes(sizes: Table, depths: tuple[int, ...]) -> tuple[str, str, str, str]:
    pairs = {depth: (mean(sizes["A", depth]), mean(sizes["plain", depth])) for depth in depths}
    smaller = [above(np.array(sizes["plain", depth]) - np.array(sizes["A", depth])) for depth in depths]
    falls = above(np.array(sizes["A", depths[0]]) - np.array(sizes["A", depths[-1]]))
    text = "; ".join(f"depth {depth}: residual {a:.2f}, plain {b:.2f}" for depth, (a, b) in pairs.items())
    return (
        "layers of residual networks have weaker responses than those of plain ones, and weaker the deeper the "
        "network (figure 7)",
        "mean standard deviation over layers: residual below plain; falls with depth",
        text,
        word(every(*smaller, falls)),
    )


def picture(curves: dict, study: Study, path: Path) -> None:
    depths = study.depths
    axes = Figure(figsize=(10, 4), layout="constrained").subplots(1, 2, sharey=True)
    for ax, kind in zip(axes, ("plain", "A"), strict=True):
        for index, depth in enumerate(depths):
            shade = 0.3 + 0.7 * index / (len(depths) - 1)
            rows = curves[kind, depth]
            for name, style in (("train_error", "-"), ("test_error", "--")):
                values = [mean([row[epoch][name] for row in rows]) for epoch in range(study.recipe.epochs)]
                label = f"{depth} layers" if style == "-" else None
                ax.plot(
                    values, style, color=BLUE if kind == "A" else ORANGE, alpha=shade, lw=1 + index / 2, label=label
                )
        ax.set_title("plain" if kind == "plain" else "residual (option A)", fontsize=10)
        ax.set_xlabel("epoch")
        ax.legend(fontsize=8)
    axes[0].set_ylabel("error (training solid, test dashed)")
    axes[0].set_ylim(0, 1)
    save(axes[0], path)


def response_picture(profiles: dict[tuple[str, int], list[float]], path: Path) -> None:
    ax = Figure(figsize=(8, 4), layout="constrained").subplots()
    deepest = max(depth for _, depth in profiles)
    for (kind, depth), values in profiles.items():
        colour, label = (BLUE, "residual") if kind == "A" else (ORANGE, "plain")
        style = "-" if depth == deepest else ":"
        ax.plot(range(1, len(values) + 1), values, style, color=colour, label=f"{label} {depth}")
    ax.set_xlabel("layer")
    ax.set_ylabel("standard deviation of the response")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8)
    save(ax, path)


def page(study: Study, seeds: list[int]) -> list[str]:
    curves: dict[tuple[str, int], list[list[dict]]] = {}
    sizes: dict[tuple[str, int], list[float]] = {}
    profiles: dict[tuple[str, int], list[float]] = {}
    wanted = [("plain", depth) for depth in study.depths] + [("A", depth) for depth in study.depths]
    wanted += [(option, study.option_depth) for option in OPTIONS[1:]]
    for seed in seeds:
        for kind, depth in wanted:
            model, rows = study.trained(depth, seed, kind != "plain", "A" if kind == "plain" else kind)
            curves.setdefault((kind, depth), []).append(rows)
            found = responses(model.eval(), study.test.x[:500]).tolist()
            sizes.setdefault((kind, depth), []).append(mean(found))
            if seed == seeds[0] and kind in ("plain", "A") and depth in (study.depths[0], study.depths[-1]):
                profiles[kind, depth] = found
    final = {key: [rows[-1]["train_error"] for rows in runs] for key, runs in curves.items()}
    tested = {key: [rows[-1]["test_error"] for rows in runs] for key, runs in curves.items()}
    losses = {key: [rows[-1]["loss"] for rows in runs] for key, runs in curves.items()}
    stem = study.data.name.split()[0].split(".")[0]
    picture(curves, study, HERE / f"curves_{stem}.png")
    response_picture(profiles, HERE / f"responses_{stem}.png")
    claims = [
        degradation(final, study.depths),
        options(tested, study.option_depth),
        magnitudes(sizes, study.depths),
    ]
    steps = -(-len(study.data) // study.recipe.batch_size) * study.recipe.epochs
    return [
        f"## {study.data.name}, {len(study.data)} training and {len(study.test)} test images",
        "",
        f"{study.recipe.epochs} epochs ({steps} steps; the paper: 64,000), batch {study.recipe.batch_size}, "
        f"channels {'/'.join(map(str, study.widths))}, rate {study.recipe.learning_rate} divided by 10 at 1/2 and "
        f"3/4, momentum 0.9, decay {study.recipe.weight_decay:g}, seeds {', '.join(map(str, seeds))}; twins share "
        "initialisation, order and augmentation. Numbers are means over the seeds, with each seed in brackets.",
        "",
        "| claim | expected (paper) | measured | verdict |",
        "|---|---|---|---|",
        *[f"| {' | '.join(claim)} |" for claim in claims],
        "",
        f"![training curves](curves_{stem}.png)",
        "",
        f"![responses of the layers](responses_{stem}.png)",
        "",
        "| network | depth | training loss | training error | test error | response |",
        "|---|---:|---:|---|---|---:|",
        *[
            f"| {'plain' if kind == 'plain' else 'residual ' + kind} | {depth} | {mean(losses[kind, depth]):.3f} | "
            f"{each(final[kind, depth])} | {each(tested[kind, depth])} | {mean(sizes[kind, depth]):.2f} |"
            for kind, depth in wanted
        ],
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--size", type=int, default=None)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--widths", default="8,16,32")
    parser.add_argument("--depths", default="20,32,44,56")
    parser.add_argument("--runs", type=Path, default=Path("results/he2015"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(chosen.data, "train", limit=chosen.limit, size=chosen.size)
    test = load_data(chosen.data, "test", limit=chosen.limit, size=chosen.size)
    small = chosen.data == "digits"
    recipe = Recipe(
        epochs=chosen.epochs,
        batch_size=64,
        nesterov=False,
        schedule="step",
        shift=1 if small else max(1, data.images.shape[-1] // 8),
        flip=not small,
    )
    study = Study(data, test, recipe, numbers(chosen.widths), numbers(chosen.depths), chosen.runs)
    name = "degradation.md" if small else "degradation_cifar.md"
    lines = [
        "# Degradation, shortcuts and responses",
        "",
        f"He et al. (2015), section 4.2, table 3 and figures 6 and 7. Made by `analysis/he2015/degradation.py` with "
        f"resnet_paths {__version__}, torch {torch.__version__}, each network on one CPU thread.",
        "",
        *page(study, list(numbers(chosen.seeds))),
    ]
    (HERE / name).write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
