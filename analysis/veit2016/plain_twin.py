"""Train the plain twin of the embedded ResNet-56: the same layers, initial values, order and recipe, no shortcuts.

    python analysis/veit2016/plain_twin.py [--out results/plain_twin] [--epochs 60]

Writes plain.safetensors under --out, which `python analysis/veit2016/figure6.py --plain FILE` and
`resnet_paths.models.load_model` read; resumes an interrupted run; writes plain_twin.md beside this file.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from resnet_paths import __version__
from resnet_paths.data import digits
from resnet_paths.models import cifar_resnet, load_model, save_checkpoint
from resnet_paths.training import error_rate, train
from resnet_paths.training.embedded import RECIPE
from resnet_paths.training.trainer import described

HERE = Path(__file__).resolve().parent


def reading(train_error: float, test_error: float) -> str:
    if train_error > 0.8 * test_error and train_error > 0.1:
        return (
            "The plain network is hard to train at this depth, as He et al. (2015), section 4.2, describe. It is "
            "not overfitting: the error on the training images is about the same."
        )
    return "The plain network trains at this depth and budget."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/plain_twin"))
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    recipe = replace(RECIPE, epochs=chosen.epochs)
    model = cifar_resnet(56, in_channels=1, widths=(8, 16, 32), residual=False, seed=0)
    data, test = digits("train"), digits("test")
    rows = train(model, data, recipe, folder=chosen.out / f"56-{chosen.epochs}", test=test)
    errors = {"train_error": error_rate(model, data), "test_error": error_rate(model, test)}
    path = save_checkpoint(model, chosen.out / "plain.safetensors", **described(data, recipe), **errors)
    print(f"test error {errors['test_error']:.2%}, written to {path}")

    twin = load_model("embedded")
    shown = [row for row in rows if (int(row["epoch"]) + 1) % max(1, chosen.epochs // 10) == 0]
    lines = [
        "# The plain twin of the embedded ResNet-56",
        "",
        "The same 56 layers, initialisation, order of images, augmentation and recipe (SGD, "
        f"{chosen.epochs} epochs of 1,352 digits), without shortcuts. Made by `analysis/veit2016/plain_twin.py` with "
        f"resnet_paths {__version__}, torch {torch.__version__}, on one CPU thread.",
        "",
        "| | training error | test error |",
        "|---|---:|---:|",
        f"| residual (embedded) | {error_rate(twin, data):.2%} | {error_rate(twin, test):.2%} |",
        f"| plain | {errors['train_error']:.2%} | {errors['test_error']:.2%} |",
        "",
        f"Errors without augmentation. {reading(errors['train_error'], errors['test_error'])}",
        "",
        "| epochs | training loss | training error (augmented) | test error |",
        "|---:|---:|---:|---:|",
        *[
            f"| {row['epoch'] + 1:.0f} | {row['loss']:.3f} | {row['train_error']:.2%} | {row['test_error']:.2%} |"
            for row in shown
        ],
        "",
    ]
    (HERE / "plain_twin.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
