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

from resnet_paths import unroll
from resnet_paths.data import load_data
from resnet_paths.models import cifar_resnet, load_model
from resnet_paths.paths import enumerate_path_gradients, gradient_by_length, path_energy, sample_path_gradients
from resnet_paths.paths.sampling import pooled
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

    split = gradient_by_length(net, x, target)
    gradient_by_length(folded, x, target)
    backward()
    times: dict[str, list[float]] = {"backward": [], "plain": [], "folded": []}
    for _ in range(repeats):
        times["backward"].append(min(backward() for _ in range(3)))
        times["plain"].append(processor_seconds(lambda: gradient_by_length(net, x, target)))
        times["folded"].append(processor_seconds(lambda: gradient_by_length(folded, x, target)))
    best = {name: min(values) for name, values in times.items()}
    rows = len(split.lengths) * batch * 16 * 32 * 32 * 4 / 2**20
    lines = []
    for name in ("plain", "folded"):
        ratio = best[name] / best["backward"]
        verdict = "holds" if ratio <= limit else "does not hold"
        lines.append(
            f"| ResNet-{depth}, {len(net)} units, {name} | {split.vjps['branch']} | {best['backward']:.3f} s | "
            f"{best[name]:.3f} s | {ratio:.1f} | at most {limit} | {verdict} | {rows:.0f} MiB |"
        )
    return lines


def energy(batch: int, rtol: float, pilot: int) -> list[str]:
    """Unit products for every length's batch mean of the energy at a relative standard error."""
    data = load_data("digits", limit=batch)
    net = for_inference(unroll(load_model("embedded")))
    ours = path_energy(net, data.x, data.labels, draws=pilot)
    mean, error = ours.over_examples()
    draws = float((pilot * (error / (rtol * mean)) ** 2).max().clamp_min(2).ceil())
    own = draws * ours.vjps["branch"] / ours.draws * batch

    sampled = sample_path_gradients(net, data.x, data.labels, samples=pilot)
    squares = sampled.norms.double().square()
    mean, error = pooled(squares.mean(1), squares.std(1) / pilot**0.5)
    needed = (pilot * (error / (rtol * mean)) ** 2).clamp_min(1).ceil()
    needed[[0, -1]] = 1
    veit = float((needed * sampled.lengths).sum()) * batch
    factor = veit / own
    return [
        f"Energy of all lengths of the embedded ResNet-56 ({batch} digits), standard error of the batch's mean at most "
        f"{rtol:.0%} of it for every length: {draws:.0f} sign draws, {own:,.0f} unit products (one example through one "
        f"branch). Veit's sampling, one path a backward pass and k products for a path of length k, needs {veit:,.0f} "
        f"for the same error, {factor:.1f} times as many (expected: at least 20, "
        f"{'holds' if factor >= 20 else 'does not hold'}). Both sample sizes come from the variance of {pilot} draws "
        "for each example, which underestimates heavy tails. Paths that Veit's sampling needs for each example, by "
        "length: " + ", ".join(f"{k}: {int(c):,}" for k, c in zip(sampled.lengths.tolist(), needed, strict=True)) + ".",
        "",
    ]


def exact_energy(folder: Path, batch: int, rtol: float, draws: int) -> list[str]:
    """The same for each example of a ResNet-20, whose 512 paths give the variance of Veit's sampling exactly."""
    data = load_data(str(folder / "cifar10_sample.npz"), limit=batch)
    net = for_inference(unroll(load_model(str(folder / "resnet20_cifar10_option_a.safetensors"))))
    every = enumerate_path_gradients(net, data.x, data.labels)
    squares = every.norms.double().square()
    groups = [squares[every.lengths == k] for k in range(len(net) + 1)]
    spread = torch.stack([group.var(0, correction=0) / group.mean(0) ** 2 for group in groups])
    veit = ((spread / rtol**2).clamp_min(1) * torch.arange(len(net) + 1)[:, None]).sum(0)
    ours = path_energy(net, data.x, data.labels, draws=draws)
    needed = draws * (ours.standard_error / (rtol * every.energy_by_length())) ** 2
    own = needed.max(0).values * ours.vjps["branch"] / draws
    ratio = (veit / own).sort().values
    return [
        f"The same for each of {batch} CIFAR-10 images and the reference ResNet-20, whose 512 paths are enumerated so "
        f"that the variance of Veit's sampling is exact: {ratio[0]:.0f} to {ratio[-1]:.0f} times as many unit products "
        f"by Veit's sampling, median {ratio.median():.0f} (expected: at least 20, "
        f"{'holds' if ratio.median() >= 20 else 'does not hold'} for the median, {int((ratio >= 20).sum())} of {batch} "
        f"images).",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rtol", type=float, default=0.05)
    parser.add_argument("--pilot", type=int, default=64)
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
        "A decomposition includes its own forward pass and the ordinary gradient that it is checked against. "
        "*Folded*: of the copy that `for_inference` makes (norms folded, channels last). Coefficients: their memory at "
        "the largest entry; beside it the activations of one forward pass are kept.",
        "",
        "| exact decomposition | branch products | backward | split | ratio | expected | verdict | coefficients |",
        "|---|---:|---:|---:|---:|---|---|---:|",
        *decomposition(56, options.batch, 8, options.repeats),
        *decomposition(110, options.batch, 30, options.repeats),
        "",
        f"Largest resident memory of the process so far: {peak_mebibytes():.0f} MiB.",
        "",
        *energy(options.batch, options.rtol, options.pilot),
    ]
    if options.reference is not None:
        lines += exact_energy(options.reference, 8, options.rtol, options.pilot)
    (HERE / "paths_cost.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
