"""Makes the embedded network: ``python -m resnet_paths.training.embedded``.

A ResNet-56 (27 units, option A, 8/16/32 channels) trained on the 1,352 training images of UCI digits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..data import digits
from ..models import cifar_resnet, save_checkpoint
from ..models.load import EMBEDDED
from .train import Recipe, error_rate, train

RECIPE = Recipe(epochs=60, batch_size=64, learning_rate=0.05, weight_decay=5e-4, warmup=2, shift=1, flip=False)


def main() -> None:
    """Train, report the test error and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=EMBEDDED)
    parser.add_argument("--folder", type=Path, default=None, help="keep checkpoints here, and resume from them")
    arguments = parser.parse_args()
    model = cifar_resnet(56, in_channels=1, widths=(8, 16, 32), seed=0)
    rows = train(model, digits("train"), RECIPE, folder=arguments.folder, test=digits("test"))
    error = error_rate(model, digits("test"))
    save_checkpoint(
        model,
        arguments.out,
        data="UCI digits (scikit-learn), training split",
        test_error=error,
        epochs=len(rows),
    )
    print(f"test error {error:.4f}, written to {arguments.out}")


if __name__ == "__main__":
    main()
