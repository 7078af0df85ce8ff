"""Metrics of the logits of a damaged network, one value per image."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from ..arguments import checked
from .predictions import check_labels, divergence_of, right

Metric = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Maps logits (images, classes), labels (images,) and the full network's logits to one value per image."""


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of each image in nats, (images,), in float32 for half precision and float64 for float64.

    Raises:
        ValueError: a label is out of range.

    Example:
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor([1.3863, 1.3863])
    """
    check_labels(logits, labels)
    return F.cross_entropy(_wide(logits), labels, reduction="none")


def _wide(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _error(logits: torch.Tensor, labels: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    return (~right(logits, labels)).float()


def _loss(logits: torch.Tensor, labels: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits, labels)


def _top5(logits: torch.Tensor, labels: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    return (~right(logits, labels, 5)).float()


def _disagreement(logits: torch.Tensor, labels: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    nothing = logits.isnan().any(-1) | full.isnan().any(-1)
    return (nothing | (logits.argmax(-1) != full.argmax(-1))).float()


def _divergence(logits: torch.Tensor, labels: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    """KL(full || damaged) of the predicted distributions in nats; needs no labels."""
    return divergence_of(_wide(logits), _wide(full))


def _soft_error(logits: torch.Tensor, labels: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    """1 - p(label): the expected error of a prediction sampled from the predicted distribution."""
    check_labels(logits, labels)
    return 1 - _wide(logits).softmax(-1).gather(-1, labels[:, None])[:, 0]


def _soft_disagreement(logits: torch.Tensor, labels: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    """Total variation distance between the predicted distributions: the minimal disagreement of samples from them."""
    return (_wide(logits).softmax(-1) - _wide(full).softmax(-1)).abs().sum(-1) / 2


METRICS: dict[str, Metric] = {
    "error": _error,
    "loss": _loss,
    "top5_error": _top5,
    "disagreement": _disagreement,
    "divergence": _divergence,
    "soft_error": _soft_error,
    "soft_disagreement": _soft_disagreement,
}

_UNLABELLED = frozenset({"disagreement", "divergence", "soft_disagreement"})
"""Metrics that only compare with the full network."""


def needs_labels(metric: str | Metric) -> bool:
    """Whether a metric needs labelled images; False for a user's function, for which this is unknown before a call.

    Example:
        >>> needs_labels("error"), needs_labels("divergence")
        (True, False)
    """
    names = [name for name, function in METRICS.items() if metric in (name, function)]
    return bool(names) and names[0] not in _UNLABELLED


BOUNDED = frozenset({"error", "top5_error", "disagreement", "soft_error", "soft_disagreement"})
"""Metrics between 0 and 1 on each image, so that the effect of a block on them is at most 1 too."""


def bound_of(metric: str) -> float | None:
    """The maximum of a metric, and of the absolute difference of two values, on an image; None if unknown.

    Example:
        >>> bound_of("error"), bound_of("loss")
        (1.0, None)
    """
    return 1.0 if metric in BOUNDED else None


@checked
def metric_named(metric: str | Metric) -> tuple[str, Metric]:
    """A metric by name (a key of METRICS), or your own function.

    ``error``, ``loss`` and ``top5_error`` need labels; ``disagreement`` and ``divergence`` compare with the full
    network. ``soft_error`` is 1 - p(label) and ``soft_disagreement`` the total variation distance from the full
    network's prediction. Both are smooth where few images change class, and at most 1, so that no single image
    dominates.

    Raises:
        ValueError: the name is unknown.
        TypeError: the function does not take three arguments.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
        >>> metric_named("error")[1](logits, torch.tensor([0, 0]), logits)
        tensor([0., 1.])
    """
    if callable(metric):
        name = getattr(metric, "__name__", type(metric).__name__)
        _check_arguments(metric, name)
        return name, metric
    if metric not in METRICS:
        raise ValueError(f"expected one of {sorted(METRICS)} or a function as metric, got {metric!r}")
    return metric, METRICS[metric]


def _check_arguments(metric: Metric, name: str) -> None:
    """Check, before any work, that a function can be called with three arguments."""
    called = metric.forward if isinstance(metric, nn.Module) else metric
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return
    try:
        signature.bind(None, None, None)
    except TypeError:
        raise TypeError(
            "expected a metric of three arguments (logits, labels, logits of the full network), got "
            f"{name}{signature}; wrap it in a function of these three"
        ) from None
