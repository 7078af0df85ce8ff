"""What is measured on the logits of a damaged network, image by image."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

Metric = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits (images, classes), labels (images,) and the whole network's logits to one value an image."""


def _error(logits: torch.Tensor, labels: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    return (logits.argmax(-1) != labels).float()


def _loss(logits: torch.Tensor, labels: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float(), labels, reduction="none")


def _top5(logits: torch.Tensor, labels: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    best = logits.topk(min(5, logits.shape[-1]), -1).indices
    return (best != labels[:, None]).all(-1).float()


def _disagreement(logits: torch.Tensor, labels: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    return (logits.argmax(-1) != whole.argmax(-1)).float()


def _divergence(logits: torch.Tensor, labels: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """KL(whole || damaged) of the predicted distributions, in nats; needs no labels."""
    ours, theirs = logits.float().log_softmax(-1), whole.float().log_softmax(-1)
    return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)


METRICS: dict[str, Metric] = {
    "error": _error,
    "loss": _loss,
    "top5_error": _top5,
    "disagreement": _disagreement,
    "divergence": _divergence,
}


def metric_named(metric: str | Metric) -> tuple[str, Metric]:
    """A metric by name (error, loss, top5_error, disagreement, divergence), or your own function.

    Raises:
        ValueError: unknown name.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
        >>> metric_named("error")[1](logits, torch.tensor([0, 0]), logits)
        tensor([0., 1.])
    """
    if callable(metric):
        return getattr(metric, "__name__", "metric"), metric
    if metric not in METRICS:
        raise ValueError(f"expected a metric among {sorted(METRICS)} or a function, got {metric!r}")
    return metric, METRICS[metric]
