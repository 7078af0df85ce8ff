"""What is measured at a cell: functions by name, each to one value per image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from ..data.metrics import Metric, cross_entropy, metric_named

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits and labels to one value per image."""


def named_metrics(metrics: Sequence[str | Metric], loss: Loss | None = None) -> dict[str, Metric]:
    """Functions by name; ``loss`` stands for the loss that the caller chose.

    Raises:
        ValueError: an unknown name, none at all, or one twice.
    """
    functions: dict[str, Metric] = {}
    for metric in metrics:
        name, function = metric_named(metric)
        if name in functions:
            raise ValueError(f"expected each metric once, got {name!r} twice; give your functions names of their own")
        functions[name] = _Loss(loss or cross_entropy) if metric == "loss" else function
    if not functions:
        raise ValueError("expected at least one metric, such as 'loss', got none")
    return functions


class _Loss:
    """A loss in the form of a metric."""

    def __init__(self, loss: Loss) -> None:
        self._loss = loss

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
        return self._loss(logits, labels)


def needs_origin(metrics: Mapping[str, Metric]) -> bool:
    """Whether a metric may read the logits at the origin: all but those that are known not to."""
    return any(
        not isinstance(metric, _Loss) and name not in ("error", "top5_error") for name, metric in metrics.items()
    )


def one_an_image(name: str, values: torch.Tensor) -> np.ndarray:
    """(images,) float64: of several values an image their mean, so that errors are of means over images.

    Raises:
        ValueError: one number for all images.
    """
    if not values.ndim:
        raise ValueError(
            f"expected a value for each image of {name}, got one number for all; leave out the mean or sum over the "
            "images (reduction='none')"
        )
    wide = values.double()
    return (wide.flatten(1).mean(1) if wide.ndim > 1 else wide).numpy()
