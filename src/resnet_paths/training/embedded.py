"""Makes the embedded network: ``python -m resnet_paths.training.embedded``.

A ResNet-56 (27 blocks, option A, 8/16/32 channels) trained on the 1,352 training images of UCI digits. It ships with
the package so that examples and tests have a trained network without a download. 8/16/32 channels are half of the
CIFAR networks': deep enough for lesion studies, and the file stays small. Digits are not mirrored, and a shift of one
pixel is what an 8 x 8 image allows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..data import digits
from ..models import cifar_resnet, save_checkpoint
from ..models.load import EMBEDDED
from .recipe import Recipe
from .trainer import described, error_rate, train

RECIPE = Recipe(epochs=60, batch_size=64, learning_rate=0.05, weight_decay=5e-4, warmup=2, shift=1, flip=False)


def main() -> None:
    """Train on one thread, report the test error and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=EMBEDDED)
    parser.add_argument(
        "--folder", type=Path, default=None, help="folder for checkpoints; an interrupted run resumes from it"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # one order of summation: the same weights each time
    model = cifar_resnet(56, in_channels=1, widths=(8, 16, 32), seed=0)
    data, test = digits("train"), digits("test")
    rows = train(model, data, RECIPE, folder=arguments.folder, test=test)
    error = error_rate(model, test)
    facts = {
        "test_error": error,
        "test_data": {"name": test.name, "fingerprint": test.fingerprint},
        "epochs": len(rows),
        "made_by": "python -m resnet_paths.training.embedded",
    }
    save_checkpoint(model, arguments.out, **described(data, RECIPE), **facts)
    print(f"test error {error:.4f}, written to {arguments.out}")


if __name__ == "__main__":
    main()
