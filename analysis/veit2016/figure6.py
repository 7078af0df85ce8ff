"""Veit, Wilber and Belongie (2016), section 5 and figure 6: which path lengths carry the gradient.

    python analysis/veit2016/figure6.py --reference FOLDER

FOLDER holds cifar10_sample.npz and resnet56_cifar10_option_a.safetensors; without it only the embedded network is
studied. With --plain FILE, the trained plain twin of the embedded network (written by plain_twin.py) is compared with
it. Writes figure6.md and the figures beside this file.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F

from resnet_paths import __version__, unroll
from resnet_paths.data import ImageData, load_data
from resnet_paths.models import cifar_resnet, load_model
from resnet_paths.network import for_inference
from resnet_paths.paths import (
    effective_paths,
    gradient_by_length,
    path_energy,
    sample_path_gradients,
)
from resnet_paths.plot import save
from resnet_paths.plot.paths import plot_effective_paths, plot_gradient_by_length
from resnet_paths.report.claims import veit2016
from resnet_paths.training import error_rate

HERE = Path(__file__).resolve().parent
PAPER = veit2016.PAPER


def section(title: str, name: str, model: torch.nn.Module, data: ImageData, samples: int, draws: int) -> list[str]:
    net = for_inference(unroll(model))
    x, target = data.x, data.labels
    sampled = effective_paths(sample_path_gradients(net, x, target, draws=samples))
    energy = effective_paths(path_energy(net, x, target, draws=draws, columns=16))
    split = gradient_by_length(net, x, target)
    save(plot_effective_paths(sampled)[0], HERE / f"figure6_{name}.png")
    save(plot_gradient_by_length(split), HERE / f"gradient_by_length_{name}.png")
    norms = split.norms.double().mean(1)
    top = int(norms.argmax())
    lines = [
        f"## {title}",
        "",
        f"{data.name}, {len(data)} images, cross-entropy; {samples} random paths per length and image "
        f"({sum(sampled.lengths >= 0)} lengths), {draws} draws of 16 columns per length for the energy.",
        "",
        f"![figure 6](figure6_{name}.png)",
        "",
        *PAPER.table(
            {
                "decay": veit2016.decay(sampled),
                "short-paths": veit2016.short_paths(sampled),
                "few-paths": veit2016.few_paths(sampled),
            }
        ),
        "",
        "The paper's share of paths is for 54 blocks, whose binomial is narrower relative to the range of lengths. "
        "With 27 blocks, the effective range overlaps the lower half of the binomial. Sampled norms have heavy "
        "tails: where the standard error below is large, the share of that length is uncertain.",
        "",
        "With the root mean square norm of all paths (path_energy), which is dominated by a few large paths: x "
        f"{energy.decay:.3g} per branch (R² {energy.decay_fit:.3f}), {energy.mass:.0%} in {energy.low} to "
        f"{energy.high}, mean {energy.mean_length:.2f}.",
        "",
        "With cancellation (exact sums over all paths of one length), the largest mean norm is at length "
        f"{top} ({float(norms[top]):.3g}; ordinary gradient {float(split.total_norm.double().mean()):.3g}); the sum "
        f"over lengths equals the ordinary gradient up to {split.residual:.1e} (float32).",
        "",
        f"![gradient by length](gradient_by_length_{name}.png)",
        "",
        "| length | share of paths | norm of one path | standard error | effective share | norm of the sum |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for k in range(sampled.n + 1):
        lines.append(
            f"| {k} | {sampled.count_share[k]:.3%} | {sampled.norm[k]:.3e} | {sampled.standard_error[k]:.1e} | "
            f"{sampled.share[k]:.3%} | {float(norms[k]):.3e} |"
        )
    return [*lines, ""]


def input_gradient(model: torch.nn.Module, data: ImageData) -> float:
    """Mean norm of the loss's gradient at the images."""
    leaf = data.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), data.labels, reduction="sum"), leaf)
    return float(gradient.flatten(1).norm(dim=1).mean())


def twin(data: ImageData, plain: Path | None) -> list[str]:
    """The plain twin has one path, through all layers."""
    few = data.subset(slice(0, 16))
    models = {
        kind: cifar_resnet(56, in_channels=few.x.shape[1], residual=kind, seed=0).eval() for kind in (True, False)
    }
    longest = float(gradient_by_length(unroll(models[True]), few.x, few.labels).norms[-1].mean())
    lines = [
        "## The plain twin",
        "",
        "The same layers without shortcuts have a single path, through all 27 pairs of layers. At the same initial "
        f"values (16 images of {data.name}) the mean gradient norm at the input is "
        f"{input_gradient(models[True], few):.3g} with shortcuts, {longest:.3g} along its longest path alone, and "
        f"{input_gradient(models[False], few):.3g} for the plain twin.",
        "",
    ]
    if plain is None:
        return lines
    whole = load_data("digits")
    trained = {"embedded ResNet-56": load_model("embedded"), "plain twin": load_model(str(plain))}
    return [
        *lines,
        "Trained with the same recipe: "
        + "; ".join(
            f"{name}: test error {error_rate(model, whole):.1%}, mean gradient norm {input_gradient(model, few):.3g}"
            for name, model in trained.items()
        )
        + ".",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, default=None)
    parser.add_argument("--plain", type=Path, default=None, help="written by plain_twin.py")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--draws", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits = load_data("digits", limit=options.images)
    lines = [
        "# Which path lengths carry the gradient",
        "",
        "Veit, Wilber and Belongie (2016), section 5 and figure 6. Made by `python analysis/veit2016/figure6.py` "
        f"with resnet_paths {__version__}, torch {torch.__version__}. The paper's figure shows ResNet-110 (54 "
        "blocks); these networks have 27.",
        "",
        "## Counting paths (figure 6 a)",
        "",
        *PAPER.table({"path-count": veit2016.path_count(), "path-lengths": veit2016.middle_lengths()}),
        "",
    ]
    sizes = (options.samples, options.draws)
    if options.reference is not None:
        model = load_model(str(options.reference / "resnet56_cifar10_option_a.safetensors"))
        data = load_data(str(options.reference / "cifar10_sample.npz"), limit=options.images)
        lines += section("ResNet-56, CIFAR-10 (reference weights, option A)", "resnet56", model, data, *sizes)
    lines += section("The embedded ResNet-56, UCI digits", "embedded", load_model("embedded"), digits, *sizes)
    lines += twin(digits, options.plain)
    (HERE / "figure6.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
