"""What the analyses of paths cost, in backward passes of the same batch and in unit products.

    python analysis/benchmarks/paths_cost.py [--batch 32] [--rtol 0.05] [--threads 1] [--reference FOLDER]

FOLDER holds cifar10_sample.npz and resnet20_cifar10_option_a.safetensors, for the comparison with exact variances.

Writes paths_cost.md beside this file. Random weights: cost does not depend on them; the energy comparison uses the
embedded network, whose path norms are those of a trained one.
"""

import argparse
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from resnet_paths import UnrolledNetwork, unroll
from resnet_paths.data import ImageData, load_data
from resnet_paths.models import cifar_resnet, load_model
from resnet_paths.paths import (
    PathEnergy,
    enumerate_path_gradients,
    gradient_by_length,
    path_energy,
    sample_path_gradients,
)
from resnet_paths.paths._tape import Tape
from resnet_paths.unroll import for_inference

HERE = Path(__file__).resolve().parent


def processor_seconds(run: Callable[[], object]) -> float:
    """Processor time of a call: other programs on the machine do not count."""
    start = time.process_time()
    run()
    return time.process_time() - start


def peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def decomposition(depth: int, batch: int, limit: int, repeats: int) -> list[str]:
    torch.manual_seed(0)
    model = cifar_resnet(depth).eval()
    net = unroll(model)
    folded = for_inference(net)
    x, target = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))

    def backward() -> float:
        model.zero_grad()
        loss = F.cross_entropy(model(x), target, reduction="sum")
        return processor_seconds(loss.backward)

    def parts(of: UnrolledNetwork) -> dict[str, float]:
        """The forward pass, the recursion, and the ordinary gradient that it is checked against."""
        tapes: list[Tape] = []
        forward = processor_seconds(lambda: tapes.append(Tape(of, x, target)))
        check = processor_seconds(lambda: tapes[0].gradient([tapes[0].start]))
        whole = processor_seconds(lambda: gradient_by_length(of, x, target))
        return {"whole": whole, "recursion": whole - forward - check}

    split = gradient_by_length(net, x, target)
    gradient_by_length(folded, x, target)
    backward()
    turns = [(min(backward() for _ in range(3)), parts(net), parts(folded)) for _ in range(repeats)]
    once = min(turn[0] for turn in turns)
    rows = len(split.lengths) * batch * 16 * 32 * 32 * 4 / 2**20
    lines = []
    for place, name in ((1, "plain"), (2, "folded")):
        best = {part: min(turn[place][part] for turn in turns) for part in ("whole", "recursion")}  # type: ignore[index]
        ratios = {part: value / once for part, value in best.items()}
        verdict = {part: "holds" if ratio <= limit else "does not hold" for part, ratio in ratios.items()}
        lines.append(
            f"| ResNet-{depth}, {len(net)} units, {name} | {split.vjps['branch']} | {once:.3f} s | "
            f"{best['recursion']:.3f} s | {ratios['recursion']:.1f} | {ratios['whole']:.1f} | at most {limit} | "
            f"{verdict['recursion']}; with all: {verdict['whole']} | {rows:.0f} MiB |"
        )
    return lines


def veit_products(spread: torch.Tensor, lengths: torch.Tensor, rtol: float) -> torch.Tensor:
    """Products for a relative error at every length, one path a backward pass: k products for a path of length k.

    `spread` is the variance of the squared norm over its squared mean, (lengths, batch).
    """
    return ((spread / rtol**2).clamp_min(1).ceil() * lengths[:, None]).sum(0)


def own_products(estimate: PathEnergy, energy: torch.Tensor, rtol: float) -> torch.Tensor:
    """Products for the same error of the estimator by columns, for each example."""
    draws = estimate.draws * (estimate.standard_error / (rtol * energy)).square()
    return draws.max(0).values.clamp_min(1).ceil() * estimate.vjps["branch"] / estimate.draws


def sampled_energy(title: str, net: UnrolledNetwork, data: ImageData, rtol: float, pilot: int, draws: int) -> list[str]:
    """The comparison where the paths are too many to enumerate: variances from a pilot of each."""
    ours = path_energy(net, data.x, data.labels, draws=draws, columns=32)
    sampled = sample_path_gradients(net, data.x, data.labels, samples=pilot)
    squares = sampled.norms.double().square()
    spread = squares.var(1) / squares.mean(1).square()
    veit = veit_products(spread, sampled.lengths, rtol)
    return row(title, veit, own_products(ours, ours.energy, rtol), f"pilot of {pilot} paths a length; {draws} draws")


def exact_energy(title: str, net: UnrolledNetwork, data: ImageData, rtol: float, draws: int) -> list[str]:
    """The comparison where all paths are enumerated, so that the variance of Veit's sampling is exact."""
    every = enumerate_path_gradients(net, data.x, data.labels)
    squares = every.norms.double().square()
    groups = [squares[every.lengths == k] for k in range(len(net) + 1)]
    spread = torch.stack([group.var(0, correction=0) / group.mean(0) ** 2 for group in groups])
    veit = veit_products(spread, torch.arange(len(net) + 1), rtol)
    ours = path_energy(net, data.x, data.labels, draws=draws, columns=8)
    return row(title, veit, own_products(ours, every.energy_by_length(), rtol), f"exact; {draws} draws")


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
        f"Energy of every length for each image, standard error {options.rtol:.0%} at every length. A product is one "
        "image through one branch, backwards. Veit's sampling takes one path a backward pass, k products for a path "
        "of length k. Medians over images; images whose gradient vanishes in float32 are left out. A pilot "
        "underestimates heavy tails, so Veit's need more likely than not.",
        "",
        "| network | images | Veit's products | ours | ratio | expected | verdict | variances |",
        "|---|---|---:|---:|---|---|---|---|",
    ]
    digits = load_data("digits", limit=options.batch)
    lines += sampled_energy("embedded ResNet-56", embedded, digits, options.rtol, options.pilot, options.draws)
    if options.reference is not None:
        images = load_data(str(options.reference / "cifar10_sample.npz"), limit=8)
        for depth in (20, 56):
            file = options.reference / f"resnet{depth}_cifar10_option_a.safetensors"
            net, title = for_inference(unroll(load_model(str(file)))), f"reference ResNet-{depth}"
            if depth == 20:
                lines += exact_energy(title, net, images, options.rtol, options.draws)
            else:
                lines += sampled_energy(title, net, images, options.rtol, options.pilot, options.draws)
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rtol", type=float, default=0.05)
    parser.add_argument("--pilot", type=int, default=64)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--reference", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [
        "# What the analyses of paths cost",
        "",
        f"Made by `python analysis/benchmarks/paths_cost.py`: torch {torch.__version__}, {platform.machine()}, "
        f"{options.threads} thread(s), float32, batch {options.batch}, processor time, best of {options.repeats}.",
        "",
        "One backward pass is `loss.backward()` of the same batch, parameters' gradients included, forward pass not. "
        "The split is the recursion, without its forward pass, as the backward pass is; *with all* adds its forward "
        "pass and the ordinary gradient that it is checked against, which a call of `gradient_by_length` includes. "
        "*Folded*: of the copy that `for_inference` makes (norms folded, channels last). Coefficients: their memory at "
        "the largest entry; beside it the activations of one forward pass are kept.",
        "",
        "| exact decomposition | branch products | backward | split | ratio | with all | expected | verdict | "
        "coefficients |",
        "|---|---:|---:|---:|---:|---:|---|---|---:|",
        *decomposition(56, options.batch, 8, options.repeats),
        *decomposition(110, options.batch, 30, options.repeats),
        "",
        f"Largest resident memory of the process so far: {peak_mebibytes():.0f} MiB.",
        "",
        *energy(options),
    ]
    (HERE / "paths_cost.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
