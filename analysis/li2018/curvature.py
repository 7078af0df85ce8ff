"""Curvature of residual and plain networks: extreme eigenvalues, trace, density, by block (Li et al. 2018, section 6).

    python analysis/li2018/curvature.py [--images 96] [--depth 20] [--epochs 8] [--seeds 3] [--points 4]
        [--parts embedded,blocks,twins]

The Hessian of the embedded ResNet-56 on UCI digits, and of plain and residual twins of --depth layers (widths 4, 8,
16), trained from the same initial values in the same order. Writes curvature.md and figures beside this file.
"""

import argparse
import math
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from resnet_paths import __version__, cifar_resnet, unroll
from resnet_paths.data import ImageData, digits
from resnet_paths.landscape import (
    block_eigenvalues,
    block_parameters,
    curvature_operator,
    eigenvalue_surface,
    extreme_eigenvalues,
    hutch_plus_plus,
    hutchinson,
    random_direction,
    spectral_density,
)
from resnet_paths.models import load_model
from resnet_paths.plot import plot_block_eigenvalues, plot_eigenvalue_ratio, plot_spectrum, save
from resnet_paths.report.claims.rules import all_seeds, word
from resnet_paths.training import Recipe, train

HERE = Path(__file__).resolve().parent
WIDTHS = (4, 8, 16)
HEAD = ["| claim | expected | measured | verdict |", "|---|---|---|---|"]


def embedded(data: ImageData) -> list[str]:
    """The full spectrum of the embedded network, and the trace of each residual block's part."""
    net = unroll(load_model("embedded"))
    operator = curvature_operator(net, data)
    ends = extreme_eigenvalues(operator, 2)
    trace, sharper = hutchinson(operator, 18), hutch_plus_plus(operator, 18)
    density = spectral_density(operator, steps=25, draws=3)
    mean, mean_error = density.moment(1)
    below, below_error = density.share_below(-0.01 * ends.largest)
    above, above_error = density.share_below(0.01 * ends.largest)
    save(plot_spectrum(density), HERE / "spectrum_embedded.png")

    traces = trace.of_blocks(block_parameters(net))
    most = traces.sort_values("trace", ascending=False).head(3)
    total, total_error = mean * density.size, mean_error * density.size
    consistent = abs(trace.value - total) < 4 * math.hypot(trace.standard_error, total_error)
    middle, middle_error = above - below, math.hypot(above_error, below_error)
    lines = [
        "## The embedded ResNet-56",
        "",
        f"{len(operator):,} parameters, {len(data)} of its training images ({data.name}), cross-entropy, frozen norms.",
        "",
        *HEAD,
        "| the loss is nearly convex around a trained residual network (Li et al., figure 7) | "
        f"\\|λmin/λmax\\| well below 1 | {ends.ratio:.4f} | {word(ends.ratio < 0.1)} (below 0.1) |",
        "| most eigenvalues are near zero (Ghorbani et al. 2019) | nearly all within 1 % of λmax | "
        f"{middle:.4f} ± {middle_error:.4f} | {word(middle > 0.95)} (above 0.95) |",
        "| Hutchinson's trace agrees with the density's mean | within 4 standard errors | "
        f"{trace.value:.2f} ± {trace.standard_error:.2f} and {total:.2f} ± {total_error:.2f} | {word(consistent)} |",
        "",
        "Largest eigenvalues "
        + ", ".join(f"{value:.4f}" for value in ends.values[:1:-1])
        + "; smallest "
        + ", ".join(f"{value:.4f}" for value in ends.values[:2])
        + f" (residuals at most {ends.residuals.max():.1e} of the largest, {ends.products} products, {ends.restarts} "
        f"restarts of {ends.basis} vectors). Trace by Hutch++ {sharper.value:.2f} ± {sharper.standard_error:.2f} with "
        f"{sharper.products} products, by Hutchinson {trace.value:.2f} ± {trace.standard_error:.2f} with "
        f"{trace.products}. Density: {density.draws} probes of {density.nodes.shape[1]} steps.",
        "",
        "![spectrum](spectrum_embedded.png)",
        "",
        "Traces of the residual blocks' diagonal blocks, from the same products. The largest are those of  "
        + ", ".join(f"{row.block} ({row.trace:.2f} ± {row.standard_error:.2f})" for row in most.itertuples())
        + ".",
        "",
        "| block | trace | standard error |",
        "|---|---:|---:|",
        *[f"| {row.block} | {row.trace:.3f} | {row.standard_error:.3f} |" for row in traces.itertuples()],
        "",
    ]
    return lines


def by_block(data: ImageData) -> list[str]:
    """The extreme eigenvalues of the diagonal block of each residual block."""
    record = block_eigenvalues(unroll(load_model("embedded")), data)
    save(plot_block_eigenvalues(record), HERE / "blocks_embedded.png")
    rows = [
        f"| {row.block} | {row.parameters:,} | {row.smallest:.4f} | {row.largest:.4f} | {row.ratio:.3f} |"
        for row in record.to_pandas().itertuples()
    ]
    return [
        "## By residual block",
        "",
        f"Eigenvalues of the diagonal blocks of the embedded network ({record.samples} images; largest residual "
        f"{record.residuals.max():.1e}, {record.products.sum()} products).",
        "",
        "![blocks](blocks_embedded.png)",
        "",
        "| block | parameters | λmin | λmax | ratio |",
        "|---|---:|---:|---:|---:|",
        *rows,
        "",
    ]


def trained(depth: int, residual: bool, seed: int, epochs: int) -> tuple[nn.Module, float]:
    model = cifar_resnet(depth, in_channels=1, widths=WIDTHS, residual=residual, seed=seed)
    recipe = Recipe(
        epochs=epochs, batch_size=64, learning_rate=0.05, weight_decay=5e-4, warmup=2, shift=1, flip=False, seed=seed
    )
    rows = train(model, digits("train"), recipe, progress=False)
    return model.eval(), rows[-1]["loss"]


def twins(data: ImageData, depth: int, epochs: int, seeds: int, points: int) -> list[str]:
    """Plain and residual networks: at the minimum for each seed, and over a plane for the first."""
    lines = [
        f"## Twins of {depth} layers",
        "",
        f"Widths {WIDTHS}, {epochs} epochs on 1,352 digits, {seeds} seeds; Hessian over {len(data)} training images, "
        "frozen norms.",
        "",
        "| network | seed | training loss | λmin | λmax | ratio | trace |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    ratios: dict[bool, list[float]] = {True: [], False: []}
    largest: dict[bool, list[float]] = {True: [], False: []}
    maps = {}
    for seed in range(seeds):
        for residual in (True, False):
            model, loss = trained(depth, residual, seed, epochs)
            operator = curvature_operator(model, data)
            ends, trace = extreme_eigenvalues(operator), hutch_plus_plus(operator, 18)
            ratios[residual].append(ends.ratio)
            largest[residual].append(ends.largest)
            name = f"{'ResNet' if residual else 'plain'}-{depth}"
            lines.append(
                f"| {name} | {seed} | {loss:.4f} | {ends.smallest:.4f} | {ends.largest:.4f} | {ends.ratio:.4f} | "
                f"{trace.value:.2f} ± {trace.standard_error:.2f} |"
            )
            print(lines[-1], flush=True)
            if seed == 0:
                plane = [random_direction(model, seed=number) for number in (1, 2)]
                axis = np.linspace(-1, 1, points)
                maps[name] = eigenvalue_surface(
                    model, data.subset(slice(0, 64)), directions=plane, x=axis, y=axis, progress=False
                )
                save(plot_eigenvalue_ratio(maps[name]), HERE / f"ratio_{name}.png")
    means = {name: float(np.nanmean(surface.values["ratio"])) for name, surface in maps.items()}
    (deep, flat) = (means[f"ResNet-{depth}"], means[f"plain-{depth}"])
    wins = sum(a < b for a, b in zip(ratios[True], ratios[False], strict=True))
    sharp = sum(a < b for a, b in zip(largest[True], largest[False], strict=True))
    listed = {residual: ", ".join(f"{value:.3f}" for value in values) for residual, values in ratios.items()}
    return [
        *lines,
        "",
        *HEAD,
        "| with shortcuts the loss is closer to convex at the minimum (section 6) | smaller ratio | "
        f"{listed[True]} against {listed[False]} | {word(all_seeds(wins, seeds))} ({wins} of {seeds} seeds) |",
        f"| also over the plane around it (figure 7) | smaller mean ratio | {deep:.3f} against {flat:.3f} ({points} x "
        f"{points} cells, 64 images, seed 0) | inconclusive (one training run) |",
        "| also flatter: smaller λmax | smaller | see the table | "
        f"{word(all_seeds(sharp, seeds))} ({sharp} of {seeds} seeds) |",
        "",
        *[f"![{name}](ratio_{name}.png)" for name in maps],
        "",
        "The paper's figure 7 shows ResNet-56 and its plain twin on CIFAR-10. These networks and images are far "
        f"smaller, and {seeds} seeds are few: a sign test over {seeds} reaches p = {2 * 0.5**seeds:.2g} at best.",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("images", 96), ("depth", 20), ("epochs", 8), ("seeds", 3), ("points", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--parts", default="embedded,blocks,twins")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    data = digits("train").subset(slice(0, options.images))
    parts = {
        "embedded": lambda: embedded(data),
        "blocks": lambda: by_block(data.subset(slice(0, options.images // 2))),
        "twins": lambda: twins(data, options.depth, options.epochs, options.seeds, options.points),
    }
    body: list[str] = []
    for part in options.parts.split(","):
        body += parts[part]()
        print(write(body, start, " ".join(sys.argv[1:])), flush=True)


def write(body: list[str], start: float, command: str) -> str:
    """The page with the results so far."""
    lines = [
        "# Curvature of residual networks",
        "",
        "Li, Xu, Taylor, Studer and Goldstein (2018), section 6 and figure 7. Made by "
        f"`python analysis/li2018/curvature.py {command}` with resnet_paths {__version__}, torch {torch.__version__}, "
        f"{platform.machine()}, float32, one thread, {time.process_time() - start:.0f} s of processor time.",
        "",
        *body,
    ]
    text = "\n".join(lines)
    (HERE / "curvature.md").write_text(text)
    return text


if __name__ == "__main__":
    main()
