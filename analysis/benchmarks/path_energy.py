"""Cost of the energy of all paths: in time against the exact split, in block products against Veit's sampling.

    python analysis/benchmarks/path_energy.py [--batch 32] [--tolerance 0.05] [--draws 8] [--pilot 64]
                                              [--reference FOLDER] [--repeats 3] [--cost-only]

FOLDER holds cifar10_sample.npz, resnet20_cifar10_option_a.safetensors (512 paths: exact variances) and
resnet56_cifar10_option_a.safetensors. Writes path_energy.md beside this file.
"""

import argparse
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from resnet_paths import (
    UnrolledNetwork,
    gradient_by_length,
    load_data,
    load_model,
    path_energy,
    sample_path_gradients,
    unroll,
)
from resnet_paths.data import ImageData
from resnet_paths.models import cifar_resnet
from resnet_paths.network import for_inference
from resnet_paths.paths import PathEnergy, enumerate_path_gradients

HERE = Path(__file__).resolve().parent


def veit_products(spread: torch.Tensor, lengths: torch.Tensor, tolerance: float) -> torch.Tensor:
    """Products for a relative error at every length, one path a backward pass: k products for a path of length k.

    `spread` is the variance of the squared norm over its squared mean, (lengths, batch).
    """
    return ((spread / tolerance**2).clamp_min(1).ceil() * lengths[:, None]).sum(0)


def own_products(estimate: PathEnergy, energy: torch.Tensor, tolerance: float) -> torch.Tensor:
    """Products for the same error of the estimator by columns, for each example."""
    draws = estimate.draws * (estimate.standard_error / (tolerance * energy)).square()
    return draws.max(0).values.clamp_min(1).ceil() * estimate.vjps["branch"] / estimate.draws


def sampled_energy(
    title: str, net: UnrolledNetwork, data: ImageData, tolerance: float, pilot: int, draws: int
) -> list[str]:
    """The comparison where the paths are too many to enumerate: variances from a pilot of each."""
    ours = path_energy(net, data.x, data.labels, draws=draws, columns=32)
    sampled = sample_path_gradients(net, data.x, data.labels, draws=pilot)
    squares = sampled.norms.double().square()
    spread = squares.var(1) / squares.mean(1).square()
    veit = veit_products(spread, sampled.lengths, tolerance)
    return row(
        title, veit, own_products(ours, ours.energy, tolerance), f"pilot of {pilot} paths per length; {draws} draws"
    )


def exact_energy(title: str, net: UnrolledNetwork, data: ImageData, tolerance: float, draws: int) -> list[str]:
    """The comparison where all paths are enumerated, so that the variance of Veit's sampling is exact."""
    every = enumerate_path_gradients(net, data.x, data.labels)
    squares = every.norms.double().square()
    groups = [squares[every.lengths == k] for k in range(len(net) + 1)]
    spread = torch.stack([group.var(0, correction=0) / group.mean(0) ** 2 for group in groups])
    veit = veit_products(spread, torch.arange(len(net) + 1), tolerance)
    ours = path_energy(net, data.x, data.labels, draws=draws, columns=8)
    return row(title, veit, own_products(ours, every.energy_by_length(), tolerance), f"exact; {draws} draws")


def row(title: str, veit: torch.Tensor, own: torch.Tensor, variances: str) -> list[str]:
    known = torch.isfinite(veit) & torch.isfinite(own)
    ratio = (veit / own)[known].sort().values
    median = float(ratio.median())
    return [
        f"| {title} | {int(known.sum())} of {len(known)} | {float(veit[known].median()):,.0f} | "
        f"{float(own[known].median()):,.0f} | {ratio[0]:.0f} to {ratio[-1]:.0f}, median {median:.0f} | at least 20 | "
        f"{'holds' if median >= 20 else 'does not hold'} | {variances} |"
    ]


def energy(options: argparse.Namespace) -> list[str]:
    embedded = for_inference(unroll(load_model("embedded")))
    lines = [
        f"Energy of every length for each image, standard error {options.tolerance:.0%} at every length. A product "
        "is one image through one branch, backward. Veit's sampling takes one path per backward pass: k products "
        "for a path of length k. Medians over images; images whose gradient vanishes in float32 are excluded. A "
        "pilot underestimates heavy tails, so Veit's sampling probably needs more than stated.",
        "",
        "| network | images | Veit's products | this library's | ratio | expected | verdict | variances |",
        "|---|---|---:|---:|---|---|---|---|",
    ]
    digits = load_data("digits", limit=options.batch)
    lines += sampled_energy("embedded ResNet-56", embedded, digits, options.tolerance, options.pilot, options.draws)
    if options.reference is not None:
        images = load_data(str(options.reference / "cifar10_sample.npz"), limit=8)
        for depth in (20, 56):
            file = options.reference / f"resnet{depth}_cifar10_option_a.safetensors"
            net, title = for_inference(unroll(load_model(str(file)))), f"reference ResNet-{depth}"
            if depth == 20:
                lines += exact_energy(title, net, images, options.tolerance, options.draws)
            else:
                lines += sampled_energy(title, net, images, options.tolerance, options.pilot, options.draws)
    return [*lines, ""]


def processor_seconds(run: Callable[[], object]) -> float:
    """Processor time of a call, which other programs on the machine do not affect."""
    start = time.process_time()
    run()
    return time.process_time() - start


def cost(repeats: int) -> list[str]:
    """The time of a call by default and of two draws with other numbers of columns, over that of the exact split."""
    lines = [
        "## Against the exact split",
        "",
        f"Four images, random weights, one thread, processor time, best of {repeats}, all variants in turn: a call of "
        "`path_energy` (two draws) over a call of `gradient_by_length`.",
        "",
        "| network | exact split | default | 1 column | 4 columns | expected for the default | verdict |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    for depth in (56, 110):
        torch.manual_seed(0)
        net = unroll(cifar_resnet(depth).eval())
        given = net, torch.randn(4, 3, 32, 32), torch.randint(10, (4,))
        split, own = partial(gradient_by_length, *given), partial(path_energy, *given)
        ways = [split, own, partial(own, columns=1), partial(own, columns=4)]
        split()
        best = [
            min(times) for times in zip(*([processor_seconds(w) for w in ways] for _ in range(repeats)), strict=True)
        ]
        ratios = [f"{seconds / best[0]:.1f}" for seconds in best[1:]]
        verdict = "holds" if best[1] <= 5 * best[0] else "does not hold"
        lines.append(f"| ResNet-{depth} | {best[0]:.2f} s | {' | '.join(ratios)} | at most 5 | {verdict} |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tolerance", type=float, default=0.05)
    parser.add_argument("--pilot", type=int, default=64)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--reference", type=Path, default=None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--cost-only", action="store_true", help="print the times against the exact split, write nothing"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    beside_split = cost(options.repeats)
    if options.cost_only:
        return
    lines = [
        "# Cost of the energy of all paths",
        "",
        f"Made by `python analysis/benchmarks/path_energy.py`: torch {torch.__version__}, {platform.machine()}, "
        "float32. Counts of products and variances do not depend on the machine.",
        "",
        *beside_split,
        "## Against Veit's sampling",
        "",
        *energy(options),
    ]
    (HERE / "path_energy.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
