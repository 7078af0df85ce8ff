"""Training with SGD after He et al. (2015), with exact resume after a kill."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from ..data import ImageData
from ._folder import Keep, RunFolder
from .augment import augment
from .recipe import Recipe


def train(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe | None = None,
    *,
    folder: str | Path | None = None,
    keep: Keep = "last",
    test: ImageData | None = None,
    progress: bool = True,
    after_epoch: Callable[[int, nn.Module], None] | None = None,
) -> list[dict[str, float]]:
    """Train a model in place by SGD and return one row of figures for each epoch.

    With a folder each epoch ends with a checkpoint of the model and the optimiser. All that is random in an epoch
    (order, augmentation, dropout) follows from the recipe's seed and the epoch's number. So a run that was killed
    goes on from the last checkpoint and ends with the same weights as one that was not: bit for bit on a CPU with
    the same number of threads, and on a GPU under ``torch.use_deterministic_algorithms``.

    Args:
        model: the model; left in eval mode.
        data: training images.
        recipe: how (default :class:`Recipe`).
        folder: for ``epoch-NNNN.safetensors``, ``last.pt`` (optimiser) and ``log.csv``; None keeps nothing.
        keep: the weights of the last epoch, or of all.
        test: images for the test error after each epoch.
        progress: show a progress bar.
        after_epoch: called with the epoch's number and the model.

    Returns:
        For each epoch its number, the learning rate at its start, the mean loss and the error over the (augmented)
        training images, and the test error where there are test images.

    Raises:
        ValueError: the folder holds a run of another model, recipe or other data.
        FloatingPointError: the loss is no longer finite; the folder keeps the epoch before.

    Example:
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import cifar_resnet
        >>> model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0)
        >>> rows = train(model, digits("train").subset(slice(0, 64)), Recipe(epochs=2, shift=1), progress=False)
        >>> len(rows)
        2
    """
    recipe = recipe or Recipe()
    optimiser = torch.optim.SGD(
        model.parameters(),
        recipe.learning_rate,
        recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )
    place = None
    if folder is not None:
        place = RunFolder(folder, model, {"recipe": asdict(recipe), "data": data.fingerprint}, keep)
    rows = place.resume(model, optimiser) if place is not None else []
    facts = described(data, recipe)
    parameter = next(model.parameters())
    data = data.to(parameter.device, parameter.dtype)

    with _bar(progress) as bar:
        task = bar.add_task("", total=recipe.epochs, completed=len(rows), figures="")
        for epoch in range(len(rows), recipe.epochs):
            row = _epoch(model, optimiser, data, recipe, epoch)
            if test is not None:
                row["test_error"] = error_rate(model, test)
            rows.append(row)
            if place is not None:
                place.save(model, optimiser, rows, facts)
            if after_epoch is not None:
                after_epoch(epoch, model)
            bar.update(task, advance=1, figures=" ".join(f"{key} {value:.4g}" for key, value in row.items()))
    model.eval()
    return rows


def described(data: ImageData, recipe: Recipe) -> dict[str, Any]:
    """Facts for :func:`resnet_paths.models.save_checkpoint`: what the model reads, names and was trained on."""
    return {
        "mean": list(data.mean),
        "std": list(data.std),
        "classes": list(data.classes),
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        "recipe": asdict(recipe),
    }


def _bar(progress: bool) -> Progress:
    return Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        disable=not progress,
    )


def _epoch(
    model: nn.Module, optimiser: torch.optim.Optimizer, data: ImageData, recipe: Recipe, epoch: int
) -> dict[str, float]:
    """One pass; the caller's own random numbers go on as if it had not been."""
    device = data.images.device
    seed = recipe.seed * 1_000_003 + epoch
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data), generator=generator)
    black = data.normalised(torch.zeros_like(data.images[:1, :, :1, :1]))
    steps = math.ceil(len(order) / recipe.batch_size)
    total = torch.zeros((), dtype=torch.float64, device=device)
    wrong = torch.zeros((), dtype=torch.int64, device=device)

    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for step in range(steps):
            chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size].to(device)
            images, labels = data.normalised(data.images[chosen]), data.labels[chosen]
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(epoch + step / steps)
            logits = model(augment(images, recipe.shift, recipe.flip, generator, black))
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += loss.detach().double() * len(chosen)
            wrong += (logits.argmax(1) != labels).sum()

    mean = float(total) / len(order)
    if not math.isfinite(mean):
        raise FloatingPointError(
            f"expected a finite loss, got {mean} in epoch {epoch}; lower learning_rate or lengthen warmup"
        )
    return {"epoch": epoch, "rate": recipe.rate(epoch), "loss": mean, "train_error": int(wrong) / len(order)}


def error_rate(model: nn.Module, data: ImageData, batch_size: int = 256) -> float:
    """The share of images that the model, in eval mode, gets wrong; its train flags are put back.

    Cost: one forward pass of every image.

    Example:
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import load_model
        >>> error_rate(load_model("embedded"), digits("test")) < 0.03
        True
    """
    flags = [module.training for module in model.modules()]
    parameter = next(model.parameters())
    data = data.to(dtype=parameter.dtype)
    model.eval()
    try:
        with torch.inference_mode():
            wrong = sum(
                int((model(x.to(parameter.device)).argmax(1).cpu() != y.cpu()).sum())
                for x, y in data.batches(batch_size)
            )
    finally:
        for module, flag in zip(model.modules(), flags, strict=True):
            module.training = flag
    return wrong / len(data)
