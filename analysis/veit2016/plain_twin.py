"""Trains the plain twin of the embedded ResNet-56: the same layers, initial values, order and recipe, no shortcuts.

    python analysis/veit2016/plain_twin.py [--out results/plain_twin] [--epochs 60] [--depth 56]

Writes plain.safetensors under --out (`resnet_paths.models.load_model` reads it), trains on where it was stopped, and
prints the training and test error of each epoch.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from resnet_paths.data import digits
from resnet_paths.models import cifar_resnet, save_checkpoint
from resnet_paths.training import error_rate, train
from resnet_paths.training.embedded import RECIPE
from resnet_paths.training.train import described


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/plain_twin"))
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    parser.add_argument("--depth", type=int, default=56)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    recipe = replace(RECIPE, epochs=chosen.epochs)
    model = cifar_resnet(chosen.depth, in_channels=1, widths=(8, 16, 32), residual=False, seed=0)
    data, test = digits("train"), digits("test")
    rows = train(model, data, recipe, folder=chosen.out / f"{chosen.depth}-{chosen.epochs}", test=test)
    errors = {"train_error": error_rate(model, data), "test_error": error_rate(model, test)}
    path = save_checkpoint(model, chosen.out / "plain.safetensors", **described(data, recipe), **errors)
    for row in rows:
        found = f"loss {row['loss']:.3f} training {row['train_error']:.2%} test {row['test_error']:.2%}"
        print(f"{row['epoch'] + 1:4.0f} {found}")
    print("Without augmentation: " + ", ".join(f"{name} {value:.2%}" for name, value in errors.items()) + f"; {path}")


if __name__ == "__main__":
    main()
