"""Loss surfaces with and without skip connections (Li et al. 2018), on twins trained on UCI digits.

    python analysis/li2018/surfaces.py [--epochs 15] [--seeds 3] [--planes 3] [--points 9] [--images 128] [--folder F]

Plain and residual networks of 20 and 56 layers (widths 8, 16, 32) are trained from the same initial values with the
same order of images. Their surfaces are computed over the same filter-normalised random planes, on training images,
with frozen batch-norm statistics, as in the paper. --folder stores checkpoints and finished cells, from which the
script resumes. Writes surfaces.md and figures beside this file.
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from resnet_paths import __version__, cifar_resnet
from resnet_paths.data import digits
from resnet_paths.landscape import RoughnessStudy, compare_roughness, roughness, roughness_study
from resnet_paths.plot import plot_surface_twins, save
from resnet_paths.report.claims.rules import above, word
from resnet_paths.training import Recipe, error_rate, train

HERE = Path(__file__).resolve().parent
WIDTHS = (8, 16, 32)
KINDS = [(depth, residual) for depth in (20, 56) for residual in (True, False)]
NAMES = {kind: f"{'ResNet' if kind[1] else 'plain'}-{kind[0]}" for kind in KINDS}
Kind = tuple[int, bool]


def trained(kind: Kind, seed: int, epochs: int, folder: Path | None) -> tuple[nn.Module, float]:
    """A network and the mean training loss of its last epoch."""
    depth, residual = kind
    model = cifar_resnet(depth, in_channels=1, widths=WIDTHS, residual=residual, seed=seed)
    recipe = Recipe(
        epochs=epochs, batch_size=64, learning_rate=0.05, weight_decay=5e-4, warmup=2, shift=1, flip=False, seed=seed
    )
    place = None if folder is None else folder / f"{NAMES[kind]}-seed{seed}-epochs{epochs}"
    rows = train(model, digits("train"), recipe, folder=place, progress=False)
    return model.eval(), rows[-1]["loss"]


def on_logarithm(study: RoughnessStudy) -> RoughnessStudy:
    """The same surfaces, on the logarithm of the loss."""
    values = {
        name: np.array([[getattr(roughness(one, scale="log"), name) for one in row] for row in study.surfaces])
        for name in study.values
    }
    return RoughnessStudy(values, study.seeds, study.surfaces, study.metric, "log")


def of_each_model(values: np.ndarray) -> str:
    """The mean, and in brackets each model's mean over the planes: with three models, an interval would say no more."""
    models = values.mean(1)
    return f"{models.mean():.3f} (" + ", ".join(f"{one:.3f}" for one in models) + ")"


Rule = Callable[[float, float], bool | None]
"""Whether the claim holds, from the ends of a difference's interval; None if inconclusive."""


def rises(low: float, high: float) -> bool | None:
    return True if low > 0 else False if high < 0 else None


def falls(low: float, high: float) -> bool | None:
    return rises(-high, -low)


def does_not_fall(low: float, high: float) -> bool | None:
    """At best inconclusive: no interval shows that nothing changes, but a decrease contradicts it."""
    return False if high < 0 else None


def claim(
    text: str, expected: str, first: RoughnessStudy, second: RoughnessStudy, number: str, rule: Rule | None
) -> str:
    """A row of the table: a difference in roughness against the paper's expectation (None: no expectation)."""
    found = compare_roughness(first, second)[number]
    verdict = "no claim of the paper" if rule is None else word(rule(found.low, found.high))
    measured = f"{found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f}), p = {found.p_value:.2g}"
    return f"| {text} | {expected} | {measured} over {found.pairs} {found.over} | {verdict} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("epochs", 15), ("seeds", 3), ("planes", 3), ("points", 9), ("images", 128)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    start = time.monotonic()
    models: dict[Kind, list[nn.Module]] = {}
    losses: dict[Kind, list[float]] = {}
    for kind in KINDS:
        pairs = [trained(kind, seed, options.epochs, options.folder) for seed in range(options.seeds)]
        models[kind], losses[kind] = [model for model, _ in pairs], [loss for _, loss in pairs]
        print(NAMES[kind], [f"{loss:.3f}" for loss in losses[kind]], f"{time.monotonic() - start:.0f} s", flush=True)
    data, test = digits("train").subset(slice(0, options.images)), digits("test")
    axis = np.linspace(-1, 1, options.points)
    journal = None if options.folder is None else options.folder / "cells"
    studies = {}
    for kind in KINDS:
        studies[kind] = roughness_study(
            models[kind],
            data,
            seeds=range(options.planes),
            x=axis,
            y=axis,
            journal=journal,
            progress=False,
        )
        convex = of_each_model(studies[kind].values["convex"])
        print(NAMES[kind], "convex", convex, f"{time.monotonic() - start:.0f} s", flush=True)
    for depth in (20, 56):
        twins = {NAMES[depth, kind]: studies[depth, kind].surfaces[0][0] for kind in (True, False)}
        save(plot_surface_twins(twins, log=True)[0], HERE / f"contours_{depth}.png")
        save(plot_surface_twins(twins, kind="3d", log=True)[0], HERE / f"surface_{depth}.png")
    errors = {kind: [error_rate(model, test) for model in models[kind]] for kind in KINDS}
    (HERE / "surfaces.md").write_text("\n".join(report(options, studies, losses, errors, time.monotonic() - start)))
    print((HERE / "surfaces.md").read_text())


def report(
    options: argparse.Namespace,
    studies: dict[Kind, RoughnessStudy],
    losses: dict[Kind, list[float]],
    errors: dict[Kind, list[float]],
    seconds: float,
) -> list[str]:
    lines = [
        "# Loss surfaces with and without skip connections",
        "",
        "Li, Xu, Taylor, Studer and Goldstein (2018), sections 4 to 6. Made by `python analysis/li2018/surfaces.py "
        f"--epochs {options.epochs} --seeds {options.seeds} --planes {options.planes} --points {options.points} "
        f"--images {options.images}` with resnet_paths {__version__}, torch {torch.__version__}, {platform.machine()}, "
        f"{torch.get_num_threads()} thread(s), in {seconds / 60:.0f} minutes (less if checkpoints existed).",
        "",
        "The paper trains on CIFAR-10 for 300 epochs; these are small twins (widths 8, 16, 32) on 1,352 UCI digits, "
        "so the verdicts say what holds at this size. The surfaces are over filter-normalised random planes, with "
        "coordinates from -1 to 1, the first training images, and frozen statistics. Roughness is that of the loss "
        "itself (its logarithm would make the walls of a bowl concave); the plots have a logarithmic scale. The "
        "brackets hold the numbers of each model, trained from different seeds and averaged over the same planes. "
        "Intervals of differences are 95 %, Student's t over models. Plain and residual twins share "
        "initialisation, order of images and the random planes.",
        "",
        "Two caveats. The scale matters, and it was chosen after both had been seen, so the table has the main "
        "claim on both scales. And plain-56 did not reach a minimum in these epochs (see its loss). This is the "
        "degradation that the paper describes, but its surface is then not around a minimum.",
        "",
        "| network | training loss, last epoch | test error | convex cells | negative curvature | deviation from a "
        "quadratic |",
        "|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        numbers = " | ".join(of_each_model(studies[kind].values[name]) for name in ("convex", "negative", "deviation"))
        loss = ", ".join(f"{value:.3f}" for value in losses[kind])
        error = ", ".join(f"{value:.1%}" for value in errors[kind])
        lines.append(f"| {NAMES[kind]} | {loss} | {error} | {numbers} |")
    deep, shallow = (56, True), (20, True)
    plain_deep, plain_shallow = (56, False), (20, False)
    deep_gaps = np.subtract(errors[plain_deep], errors[deep])
    shallow_gaps = np.subtract(errors[plain_shallow], errors[shallow])
    gap, gap20 = deep_gaps.mean(), shallow_gaps.mean()
    lines += [
        "",
        "| claim | expected (paper) | measured | verdict |",
        "|---|---|---|---|",
        "| Without skip connections depth hurts, with them it does not | plain-56 has a much higher error than "
        f"ResNet-56, plain-20 only slightly higher than ResNet-20 | {100 * gap:+.1f} points at 56 layers, "
        f"{100 * gap20:+.1f} at 20 | {word(above(deep_gaps - 2 * np.maximum(shallow_gaps, 0.005)))} |",
        claim("Skip connections keep the deep surface convex (figures 1, 5, 6)", "more convex cells: > 0",
              studies[deep], studies[plain_deep], "convex", rises),
        claim("The same on the logarithm of the loss (not in the paper; the walls of a bowl are concave there)", "none",
              on_logarithm(studies[deep]), on_logarithm(studies[plain_deep]), "convex", None),
        claim("Negative curvature is weaker with skip connections (figure 7)", "< 0", studies[deep],
              studies[plain_deep], "negative", falls),
        claim("The deep surface is closer to a quadratic with skip connections", "< 0 (not reported in the paper)",
              studies[deep], studies[plain_deep], "deviation", None),
        claim("Without skip connections depth makes the surface less convex (figure 5)", "plain-56 minus plain-20 < 0",
              studies[plain_deep], studies[plain_shallow], "convex", falls),
        claim("With skip connections depth does not (figure 5); a decrease would contradict this", "ResNet-56 minus "
              "ResNet-20: no decrease", studies[deep], studies[shallow], "convex", does_not_fall),
        "",
        "![contours at 20 layers](contours_20.png)",
        "![contours at 56 layers](contours_56.png)",
        "![surfaces at 20 layers](surface_20.png)",
        "![surfaces at 56 layers](surface_56.png)",
        "",
    ]  # fmt: skip
    return lines


if __name__ == "__main__":
    main()
