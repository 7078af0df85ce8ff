"""Training with SGD after He et al. (2015), with exact resume after a kill.

Beside general trainers such as Lightning, because this library needs two guarantees: the same recipe gives the same
weights bit for bit, interrupted or not, and every saved network states its data, recipe and normalisation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..arguments import checked
from ..choices import Keep
from ..data import ImageData, ImageSource, as_data, right
from ..data.batches import training_slices
from ..data.classes import numbered_alike
from ..graph.inputs import call_model, main_output, placed
from ..graph.private_copy import private_use
from ._epoch import Trainer
from ._tensorboard import TensorBoardLog
from .progress import TrainingProgress
from .recipe import Recipe
from .run_folder import RunFolder


@checked
@torch.inference_mode(False)
@torch.enable_grad()
def train(
    model: nn.Module,
    data: ImageSource,
    recipe: Recipe | None = None,
    *,
    folder: str | Path | None = None,
    keep: Keep = "last",
    test: ImageSource | None = None,
    tensorboard: bool = False,
    progress: bool = True,
    after_epoch: Callable[[int, nn.Module], None] | None = None,
) -> list[dict[str, float]]:
    """Train a model in place with SGD and return one row of metrics per epoch.

    With a folder, each epoch ends with a checkpoint of the model and the optimiser. Everything random in an epoch
    (order, augmentation, dropout) follows from the recipe's seed and the epoch number. A run that was killed therefore
    resumes from the last checkpoint and ends with the same weights as an uninterrupted one: bit for bit on a CPU with
    the same number of threads, and on a GPU under ``torch.use_deterministic_algorithms``.

    Args:
        model: the model; left in eval mode.
        data: training images.
        recipe: the hyperparameters (default :class:`Recipe`).
        folder: folder for ``epoch-NNNN.safetensors``, ``last.pt`` (optimiser) and ``log.csv``; None keeps nothing.
        keep: which weights to keep: those of the last epoch, or of all epochs and the initial ones
            (:func:`read_trajectory`).
        test: images for the test error after each epoch.
        tensorboard: also write the metrics for TensorBoard, under ``tensorboard`` in the folder.
        progress: show a bar with the remaining time on a terminal, and one line per epoch elsewhere (standard error).
        after_epoch: called with the epoch number and the model.

    Returns:
        For each epoch: its number, the learning rate at its start, the mean loss and the error on the (augmented)
        training images, and the test error if there are test images.

    Raises:
        ValueError: the folder belongs to a run with another model, recipe or data set; TensorBoard is not installed, or
            requested without a folder.
        FloatingPointError: the loss is no longer finite; the folder keeps the previous epoch.

    Example:
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import cifar_resnet
        >>> model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0)
        >>> rows = train(model, digits("train").subset(slice(0, 64)), Recipe(epochs=2, shift=1), progress=False)
        >>> len(rows)
        2
    """
    data = as_data(data)
    test = None if test is None else as_data(test)
    if tensorboard and folder is None:
        raise ValueError("expected a folder with tensorboard=True, got none; pass folder=")
    if test is not None:
        data, test = numbered_alike(data, test)
    trainer = Trainer.of(model, recipe or Recipe())
    recipe = trainer.recipe
    facts = described(data, recipe)
    run_folder, rows = None, []
    if folder is not None:
        run_folder = RunFolder(folder, model, {"recipe": asdict(recipe), "data": data.fingerprint}, keep)
        rows = run_folder.resume(trainer)
        run_folder.start(model, rows, facts)
    board = TensorBoardLog(run_folder.path / "tensorboard", rows) if tensorboard and run_folder is not None else None
    data = data.to(trainer.device, next(model.parameters()).dtype)

    steps = len(training_slices(len(data), recipe.batch_size))
    with TrainingProgress(progress, recipe.epochs, steps, len(rows)) as bar:
        for epoch in range(len(rows), recipe.epochs):
            row = trainer.epoch(data, epoch, bar.step)
            if test is not None:
                row["test_error"] = error_rate(model, test)
            rows.append(row)
            if run_folder is not None:
                run_folder.save(trainer, rows, facts)
            if board is not None:
                board.write(row)
            if after_epoch is not None:
                after_epoch(epoch, model)
            bar.epoch(row)
    if board is not None:
        board.close()
    model.eval()
    return rows


def described(data: ImageData, recipe: Recipe) -> dict[str, Any]:
    """Metadata for :func:`resnet_paths.models.save_checkpoint`: normalisation, class names, data and recipe."""
    return {
        "mean": list(data.mean),
        "std": list(data.std),
        "classes": list(data.classes),
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        "recipe": asdict(recipe),
    }


@checked
def error_rate(model: nn.Module, data: ImageSource, batch_size: int = 256) -> float:
    """The share of images that the model misclassifies in eval mode; its train flags are restored.

    Raises:
        ValueError: a label has no logit.

    Cost: one forward pass per image.

    Example:
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> error_rate(load_model("embedded"), digits("test")) < 0.03
        True
    """
    data = as_data(data)
    data = data.to(dtype=next((p.dtype for p in model.parameters() if p.is_floating_point()), None))
    with private_use(model) as private, torch.inference_mode():
        private.eval()
        wrong = sum(
            int((~right(main_output(call_model(private, placed(x, private))).cpu(), labels.cpu())).sum())
            for x, labels in data.batches(batch_size)
        )
    return wrong / len(data)
