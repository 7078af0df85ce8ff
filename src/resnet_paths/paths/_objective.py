"""The scalar loss that path analyses differentiate, and checks of its arguments.

Losses known by name are summed over the batch, not averaged, so that each example's gradient does not depend on the
batch size. For the same reason a metric of tokens or pixels is each example's own mean: a mean over the positions of
all examples would weigh an example's gradient by how long the others are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F

from ..arguments.shown import shown
from ..choices import MetricName
from ..data import ExampleMetric, Examples
from ..data.fitting import check_fits
from ..data.metrics import mean_metric
from ..graph.eval_mode import check_eval as check_model
from ..network import UnrolledNetwork

Loss = Literal["cross_entropy", "logit"] | MetricName | ExampleMetric | Callable[[torch.Tensor, Any], torch.Tensor]
"""A loss or metric by name, or a function of output and target that returns a scalar."""

_BY_NAME = "; pass as loss a metric by name, such as 'squared_error' or 'next_token_loss', or a function"


def check_eval(net: UnrolledNetwork) -> None:
    """Refuse a model in training mode.

    Raises:
        UnrollError: the model is in training mode, so batch statistics or dropout would make its values random.
    """
    check_model(net.model)


def scalar_loss(output: torch.Tensor, x: Any, target: Any, loss: Loss) -> torch.Tensor:
    """The scalar to differentiate.

    Args:
        output: the network's output, (batch, classes) for cross-entropy and logits.
        x: the network's input, whose attention mask says which positions count.
        target: class indices (batch,) for cross-entropy and logits; what a metric or a function accepts.
        loss: ``"cross_entropy"`` (summed over the batch), ``"logit"`` (the targets' logits, summed), a metric by name
            (each example's mean, summed), or a function of output and target.

    Raises:
        ValueError: the loss does not fit, is not a scalar, or has no gradient; or a target is out of range.
    """
    if loss in ("cross_entropy", "logit"):
        classes = check_target(output, target, _BY_NAME)
        value = (
            F.cross_entropy(output, classes, reduction="sum")
            if loss == "cross_entropy"
            else output.gather(1, classes[:, None]).sum()
        )
    elif isinstance(loss, str | ExampleMetric):
        value = _sum_of_metric(mean_metric(loss), output, x, target)
    else:
        value = loss(output, target)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        got = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"expected a scalar loss, got {got}; sum it, including over the batch")
    if not value.requires_grad:
        raise ValueError(
            "expected a loss that depends differentiably on the network's output, got one without gradient; "
            "remove detach(), argmax or no_grad from it"
        )
    return value.reshape(())


def _sum_of_metric(metric: ExampleMetric, output: torch.Tensor, x: Any, target: Any) -> torch.Tensor:
    """The sum over the batch of each example's mean.

    Raises:
        ValueError: the metric does not fit the targets, or compares with the full network, which this is.
    """
    if not metric.needs_targets:
        raise ValueError(
            f"expected a loss of outputs and targets, got {metric.name!r}, which compares with the full network and so "
            "has no gradient here"
        )
    data = Examples(x, _as_tensor(target, output.device))
    check_fits(metric, data)
    mask = None if data.mask is None else data.mask.to(output.device)
    return metric.own_means(output, data.targets, output.detach(), mask).sum()


def check_target(output: torch.Tensor, target: Any, advice: str = "") -> torch.Tensor:
    """Check class indices against the output, and return them on its device.

    Args:
        output: the network's output.
        target: class indices, or one for all examples.
        advice: what to do if output or targets are of another form.

    Raises:
        ValueError: they have the wrong shape or type, or are out of range.
    """
    if output.ndim != 2:
        raise ValueError(f"expected an output (batch, classes), got {tuple(output.shape)}{advice}")
    batch, classes = output.shape
    target = _as_tensor(target, output.device)
    if target.ndim == 0:
        target = target.expand(batch)
    if target.shape != (batch,) or not _is_integer(target):
        raise ValueError(
            f"expected a target of {batch} class indices, got shape {tuple(target.shape)} of {target.dtype}{advice}"
        )
    if not batch:
        raise ValueError("expected at least one example, got an empty batch")
    if int(target.min()) < 0 or int(target.max()) >= classes:
        raise ValueError(
            f"expected targets from 0 to {classes - 1}, got values from {int(target.min())} to {int(target.max())}"
        )
    labels: torch.Tensor = target.long()
    return labels


def _as_tensor(target: Any, device: torch.device) -> torch.Tensor:
    try:
        return torch.as_tensor(target, device=device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"expected a target of class indices, got {shown(target)}") from error


def _is_integer(target: torch.Tensor) -> bool:
    """Whether a tensor holds integers."""
    return not (target.is_floating_point() or target.is_complex() or target.dtype is torch.bool)


def loss_name(loss: Loss) -> str:
    """A name of the loss for records."""
    if isinstance(loss, str | ExampleMetric):
        return loss if isinstance(loss, str) else loss.name
    return getattr(loss, "__qualname__", type(loss).__name__)
