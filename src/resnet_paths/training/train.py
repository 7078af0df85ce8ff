"""Training with SGD after He et al. (2015), with exact resume after a kill."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from ..data import ImageData


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: passes over the data.
        batch_size: images a step.
        learning_rate: the highest.
        momentum: of SGD.
        weight_decay: of SGD, on all parameters.
        warmup: epochs over which the learning rate rises from 0.
        schedule: cosine to zero, or steps by a tenth at 1/2 and 3/4 (He et al. 2015, section 4.2).
        label_smoothing: share of the target spread over all classes.
        shift: images are moved by up to so many pixels at random, with zeros outside.
        flip: images are mirrored left to right at random.
        seed: of the order and the augmentation.
    """

    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: float = 1.0
    schedule: Literal["cosine", "step"] = "cosine"
    label_smoothing: float = 0.0
    shift: int = 4
    flip: bool = True
    seed: int = 0

    def rate(self, epoch: float) -> float:
        """The learning rate at a time in epochs."""
        if epoch < self.warmup:
            return self.learning_rate * (epoch + 1e-9) / self.warmup
        done = (epoch - self.warmup) / max(self.epochs - self.warmup, 1e-9)
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        return self.learning_rate * (0.1 ** ((epoch >= self.epochs / 2) + (epoch >= self.epochs * 3 / 4)))


def train(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe | None = None,
    *,
    folder: str | Path | None = None,
    test: ImageData | None = None,
    progress: bool = True,
    after_epoch: Callable[[int, nn.Module], None] | None = None,
) -> list[dict[str, float]]:
    """Train a model in place by SGD and return one row of figures for each epoch.

    With a folder each epoch ends with a checkpoint of model, optimiser and random state; a run that was killed
    goes on from the last one and ends with the same weights, bit for bit, as one that was not.

    Args:
        model: the model; left in eval mode.
        data: training images.
        recipe: how (default :class:`Recipe`).
        folder: for ``last.pt`` and ``log.csv``; None keeps nothing.
        test: images for the test error after each epoch.
        progress: show a progress bar.
        after_epoch: called with the epoch's number and the model.

    Raises:
        ValueError: the folder holds a run of another recipe or other data.

    Example:
        >>> from resnet_paths.data import digits
        >>> from resnet_paths.models import cifar_resnet
        >>> model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0)
        >>> rows = train(model, digits("train").subset(slice(0, 64)), Recipe(epochs=2, shift=1), progress=False)
        >>> len(rows)
        2
    """
    recipe = recipe or Recipe()
    device = next(model.parameters()).device
    optimiser = torch.optim.SGD(
        model.parameters(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    identity = {"recipe": asdict(recipe), "data": data.fingerprint}
    place = Path(folder) if folder is not None else None
    rows = _resume(place, model, optimiser, identity)
    images, labels = data.x.to(device), data.labels.to(device)
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("", total=recipe.epochs, completed=len(rows), figures="")
        for epoch in range(len(rows), recipe.epochs):
            row = _epoch(model, optimiser, images, labels, recipe, epoch)
            if test is not None:
                row["test_error"] = error_rate(model, test)
            rows.append(row)
            if place is not None:
                _keep(place, model, optimiser, identity, rows)
            if after_epoch is not None:
                after_epoch(epoch, model)
            bar.update(task, advance=1, figures=" ".join(f"{key} {value:.4g}" for key, value in row.items()))
    model.eval()
    return rows


def _epoch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    epoch: int,
) -> dict[str, float]:
    """One pass; everything random in it follows from the seed and the epoch's number."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    order = torch.randperm(len(labels), generator=generator)
    model.train()
    steps = math.ceil(len(order) / recipe.batch_size)
    total, wrong = 0.0, 0
    for step in range(steps):
        chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size].to(images.device)
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(epoch + step / steps)
        logits = model(augment(images[chosen], recipe.shift, recipe.flip, generator))
        loss = F.cross_entropy(logits, labels[chosen], label_smoothing=recipe.label_smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        total += float(loss.detach()) * len(chosen)
        wrong += int((logits.argmax(1) != labels[chosen]).sum())
    return {
        "epoch": epoch,
        "rate": recipe.rate(epoch),
        "loss": total / len(order),
        "train_error": wrong / len(order),
    }


def augment(images: torch.Tensor, shift: int, flip: bool, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by a random number of pixels (at most `shift`) and mirrored at random."""
    if flip:
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3), images)
    if not shift:
        return images
    height, width = images.shape[2:]
    padded = F.pad(images, (shift,) * 4, value=float(images.min()))
    down, right = torch.randint(0, 2 * shift + 1, (2, len(images)), generator=generator).to(images.device)
    rows = down[:, None] + torch.arange(height, device=images.device)
    columns = right[:, None] + torch.arange(width, device=images.device)
    index = torch.arange(len(images), device=images.device)[:, None, None]
    moved: torch.Tensor = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def error_rate(model: nn.Module, data: ImageData, batch_size: int = 256) -> float:
    """The share of images that the model, in eval mode, gets wrong; its train flags are put back."""
    flags = [module.training for module in model.modules()]
    device = next(model.parameters()).device
    model.eval()
    try:
        with torch.inference_mode():
            wrong = sum(int((model(x.to(device)).argmax(1).cpu() != y).sum()) for x, y in data.batches(batch_size))
    finally:
        for module, flag in zip(model.modules(), flags, strict=True):
            module.training = flag
    return wrong / len(data)


def _resume(
    place: Path | None, model: nn.Module, optimiser: torch.optim.Optimizer, identity: dict[str, Any]
) -> list[dict[str, float]]:
    if place is None:
        return []
    place.mkdir(parents=True, exist_ok=True)
    last = place / "last.pt"
    if not last.exists():
        return []
    saved = torch.load(last, map_location=next(model.parameters()).device, weights_only=True)
    if saved["identity"] != identity:
        raise ValueError(
            f"expected in {place} a run of the same recipe and data, got another; choose another folder, or remove it"
        )
    model.load_state_dict(saved["model"])
    optimiser.load_state_dict(saved["optimiser"])
    rows: list[dict[str, float]] = saved["rows"]
    return rows


def _keep(
    place: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    identity: dict[str, Any],
    rows: list[dict[str, float]],
) -> None:
    partial = place / f".last.{os.getpid()}"
    state = {"identity": identity, "model": model.state_dict(), "optimiser": optimiser.state_dict(), "rows": rows}
    torch.save(state, partial)
    os.replace(partial, place / "last.pt")
    table = place / f".log.{os.getpid()}"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[-1]))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(table, place / "log.csv")
