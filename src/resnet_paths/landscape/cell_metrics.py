"""What is measured at a cell: functions by name, each to one value per example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..choices import MetricName
from ..data import ExampleMetric, ImageSource, InMemory, as_examples
from ..data.fitting import check_fits, target_kinds, usual_metric
from ..data.metrics import Metric, cross_entropy, example_parts, metric_named

Loss = MetricName | ExampleMetric | Callable[[torch.Tensor, Any], torch.Tensor]
"""A metric, or a function of outputs and targets that returns one value per example."""


def cell_data(source: ImageSource, model: nn.Module, metrics: Sequence[str | Metric] | None = None) -> InMemory:
    """Data of any form for the cells of a surface; without targets only if no metric needs any.

    Raises:
        ValueError: there are no targets, and some metric may need them.
    """
    known = [metric_named(metric)[1] for metric in metrics or ("loss",)]
    labelled = not all(isinstance(metric, ExampleMetric) and not metric.needs_targets for metric in known)
    return as_examples(source, model, labelled=labelled)


def named_metrics(
    metrics: Sequence[str | Metric] | None, data: InMemory, loss: Loss | None = None
) -> dict[str, Metric]:
    """Functions by name; ``loss`` stands for the loss that the caller chose, or else that which fits the targets.

    Args:
        metrics: names or functions; by default the loss, and for a class per example the error.
        data: what they are to fit.
        loss: a metric, or a function of outputs and targets.

    Raises:
        ValueError: an unknown name, none at all, one twice, or one that does not fit the data.
    """
    if metrics is None:
        metrics = ("loss", "error") if "class" in target_kinds(data) else ("loss",)
    functions: dict[str, Metric] = {}
    for metric in metrics:
        name, function = metric_named(metric)
        if name in functions:
            raise ValueError(f"expected each metric once, got {name!r} twice; give your functions distinct names")
        if metric == "loss":
            function = usual_loss(data) if loss is None else _chosen(loss)
        if isinstance(function, ExampleMetric):
            check_fits(function, data)
        functions[name] = function
    if not functions:
        raise ValueError("expected at least one metric, such as 'loss', got none")
    return functions


def loss_name(functions: Mapping[str, Metric]) -> str:
    """What ``loss`` is, if it is among them: a metric's name, or that of the caller's function."""
    function = functions.get("loss")
    if isinstance(function, ExampleMetric):
        return function.name
    return function.name if isinstance(function, _Loss) else "loss"


def usual_loss(data: InMemory) -> Metric:
    """The loss that fits some targets, as a metric: see :func:`usual_loss_name`."""
    name = usual_loss_name(data)
    if name != "cross_entropy":
        return metric_named(name)[1]
    return _Loss(cross_entropy if "class" in target_kinds(data) else _of_shares)


def usual_loss_name(data: InMemory) -> MetricName | Literal["cross_entropy"]:
    """The loss that fits some targets: cross-entropy of classes, labels, pixels or next tokens, or the squared error.

    Rows of shares of classes, which sum to one (soft labels), are compared by cross-entropy, as PyTorch does.

    Raises:
        ValueError: there are no targets.

    Example:
        >>> from resnet_paths.data import Examples
        >>> usual_loss_name(Examples(torch.zeros(3, 2), torch.zeros(3)))
        'squared_error'
    """
    if isinstance(data.targets, torch.Tensor) and are_shares(data.targets):
        return "cross_entropy"
    usual = usual_metric(data)
    if not data.labelled:
        raise ValueError(
            f"expected targets with one usual loss, got {data.nouns} without targets; pass loss=, a function of "
            "outputs and targets that returns one value per example"
        )
    if usual == "multilabel_error":
        return "multilabel_loss"
    return "cross_entropy" if usual == "soft_error" else usual


def are_shares(targets: torch.Tensor) -> bool:
    """Whether targets are shares of classes, (examples, classes): none is negative, and each row sums to one."""
    if targets.ndim != 2 or targets.shape[1] < 2 or not targets.is_floating_point() or not len(targets):
        return False
    return bool((targets >= 0).all()) and bool(((targets.double().sum(1) - 1).abs() < 1e-3).all())


def _of_shares(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs, targets.to(outputs.dtype), reduction="none")


def _chosen(loss: Loss) -> Metric:
    return metric_named(loss)[1] if isinstance(loss, str | ExampleMetric) else _Loss(loss)


class _Loss:
    """A loss in the form of a metric."""

    def __init__(self, loss: Callable[[torch.Tensor, Any], torch.Tensor]) -> None:
        self._loss = loss

    def __call__(self, outputs: torch.Tensor, targets: Any, full: torch.Tensor) -> torch.Tensor:
        return self._loss(outputs, targets)

    @property
    def name(self) -> str:
        """The function's name; cross-entropy is simply ``loss``."""
        known = self._loss is cross_entropy or self._loss is _of_shares
        return "loss" if known else getattr(self._loss, "__name__", type(self._loss).__name__)


def needs_origin(metrics: Mapping[str, Metric]) -> bool:
    """Whether a metric may read the outputs at the origin: all but those that are known not to."""
    return any(
        not isinstance(metric, _Loss) and not (isinstance(metric, ExampleMetric) and metric.needs_targets)
        for metric in metrics.values()
    )


def cell_parts(
    name: str, metric: Metric, outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None
) -> np.ndarray:
    """Float64 values, (examples,); of a metric that is not a mean over examples, its parts, (examples, parts).

    If a function returns several values per example, they are averaged, so that errors are those of means over
    examples.

    Raises:
        ValueError: one number for all examples.
    """
    if isinstance(metric, ExampleMetric):
        return example_parts(metric, outputs, targets, full, mask, len(outputs))
    values = metric(outputs, targets, full)
    if not values.ndim:
        raise ValueError(
            f"expected a value for each example of {name}, got one number for all; leave out the mean or sum over the "
            "examples (reduction='none')"
        )
    wide = values.double()
    return (wide.flatten(1).mean(1) if wide.ndim > 1 else wide).numpy()
