"""Metrics of the outputs of a damaged network: those of classes here, all by name, one value per example."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..arguments import checked
from .in_memory import InMemory
from .metric import ExampleMetric, TargetKind, ratio, summed, wide
from .number_metrics import NUMBER_METRICS
from .position_metrics import POSITION_METRICS, scores_by_position
from .predictions import check_labels, divergence_of, right

Metric = Callable[[torch.Tensor, Any, torch.Tensor], torch.Tensor]
"""Maps outputs (examples, ...), targets (examples, ...) and the full network's outputs to one value per example."""


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of each image in nats, (images,), in float32 for half precision and float64 for float64.

    Raises:
        ValueError: a label is out of range.

    Example:
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor([1.3863, 1.3863])
    """
    check_labels(logits, labels)
    return F.cross_entropy(wide(logits), labels, reduction="none")


def _error(outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return (~right(outputs, targets)).float()


def _loss(outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return cross_entropy(outputs, targets)


def _top5(outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return (~right(outputs, targets, 5)).float()


def _soft_error(outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """1 - p(label): the expected error of a prediction sampled from the predicted distribution."""
    check_labels(outputs, targets)
    return 1 - wide(outputs).softmax(-1).gather(-1, targets[:, None])[:, 0]


def _disagreement(outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return _compared(_changed, outputs, targets, full, mask)


def _divergence(outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """KL(full || damaged) of the predicted distributions in nats; needs no labels."""
    return _compared(divergence_of, outputs, targets, full, mask)


def _soft_disagreement(
    outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Total variation distance between the predicted distributions: the minimal disagreement of samples from them."""
    return _compared(_variation, outputs, targets, full, mask)


def _changed(logits: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    nothing = logits.isnan().any(-1) | full.isnan().any(-1)
    return (nothing | (logits.argmax(-1) != full.argmax(-1))).float()


def _variation(logits: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    return (logits.softmax(-1) - full.softmax(-1)).abs().sum(-1) / 2


def _compared(
    distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    outputs: torch.Tensor,
    targets: Any,
    full: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """A distance between two predictions, per example; for a prediction per position, its sum and their number."""
    if outputs.ndim == 2:
        return distance(wide(outputs), wide(full))
    shape = mask if mask is not None and mask.shape == outputs.shape[:2] else targets
    if not isinstance(shape, torch.Tensor) or shape.ndim < 2 or shape.is_floating_point():
        raise ValueError(
            "expected logits (examples, classes), or for each position of targets or of an attention mask, got outputs "
            f"{tuple(outputs.shape)} without these; pass targets or attention_mask, or use embedding_distance"
        )
    if shape is mask:
        shape = torch.zeros_like(mask, dtype=torch.int64)
    (one, _, counts), (other, _, _) = (scores_by_position(scores, shape, mask) for scores in (outputs, full))
    distances = distance(wide(one), wide(other))
    return summed(distances, counts)


_CLASS: frozenset[TargetKind] = frozenset({"class"})
_CLASSES: frozenset[TargetKind] = frozenset({"class", "positions"})
_CLASS_METRICS = (
    ExampleMetric("error", _error, _CLASS, bound=1.0, share=True),
    ExampleMetric("loss", _loss, _CLASS),
    ExampleMetric("top5_error", _top5, _CLASS, bound=1.0, share=True),
    ExampleMetric("disagreement", _disagreement, _CLASSES, False, ratio, 1.0, share=True),
    ExampleMetric("divergence", _divergence, _CLASSES, False, ratio),
    ExampleMetric("soft_error", _soft_error, _CLASS, bound=1.0),
    ExampleMetric("soft_disagreement", _soft_disagreement, _CLASSES, False, ratio, 1.0),
)

METRICS: dict[str, ExampleMetric] = {
    metric.name: metric for metric in (*_CLASS_METRICS, *POSITION_METRICS, *NUMBER_METRICS)
}


def is_share(metric: str) -> bool:
    """Whether the metric of a name is the share of some answers, which is written in percent.

    Example:
        >>> is_share("error"), is_share("loss"), is_share("my own")
        (True, False, False)
    """
    return metric in METRICS and METRICS[metric].share


def needs_labels(metric: str | Metric) -> bool:
    """Whether a metric needs targets; False for a user's function, for which this is unknown before a call.

    Example:
        >>> needs_labels("error"), needs_labels("divergence")
        (True, False)
    """
    known = METRICS.get(metric) if isinstance(metric, str) else metric
    return isinstance(known, ExampleMetric) and known.needs_targets


def bound_of(metric: str) -> float | None:
    """The maximum of a metric, and of the absolute difference of two values, on an example; None if unknown.

    Example:
        >>> bound_of("error"), bound_of("loss")
        (1.0, None)
    """
    return METRICS[metric].bound if metric in METRICS else None


@checked
def metric_named(metric: str | Metric) -> tuple[str, Metric]:
    """A metric by name (a key of METRICS), or your own function; for all of them, lower is better.

    - A class for each example: ``error``, ``loss``, ``top5_error``, ``soft_error`` (1 - p(label)).
    - Compared with the full network's classes, without labels: ``disagreement``, ``divergence`` (Kullback-Leibler),
      ``soft_disagreement`` (total variation distance). The soft ones are smooth where few examples change class, and at
      most 1, so that no single example dominates.
    - Language models: ``next_token_loss``, ``perplexity`` (its exponential), ``next_token_error``. The scores at a
      token are compared with the label of the next one, so labels are those of the tokens themselves, as for Hugging
      Face models.
    - A class for each position of the outputs, such as pixels: ``pixel_loss``, ``pixel_error``, ``iou_error`` (1 - mean
      intersection over union).
    - Numbers: ``squared_error``, ``absolute_error``. Labels that apply or not, one or several per
      example: ``multilabel_error``, ``multilabel_loss`` (binary cross-entropy).
    - Outputs as embeddings, compared with the full network's: ``cosine_distance``, and ``embedding_distance``, relative
      to the length of the full network's.

    Positions labelled -100 or hidden by an attention mask do not count, and means are over all that do.

    Raises:
        ValueError: the name is unknown.
        TypeError: the function does not take three arguments.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
        >>> metric_named("error")[1](logits, torch.tensor([0, 0]), logits)
        tensor([0., 1.])
    """
    if isinstance(metric, ExampleMetric):
        return metric.name, metric
    if callable(metric):
        name = getattr(metric, "__name__", type(metric).__name__)
        _check_arguments(metric, name)
        return name, metric
    if metric not in METRICS:
        raise ValueError(f"expected one of {sorted(METRICS)} or a function as metric, got {metric!r}")
    return metric, METRICS[metric]


def mean_metric(metric: str | ExampleMetric) -> ExampleMetric:
    """A metric that is a mean over examples or positions, so that it can be a loss.

    Raises:
        ValueError: the name is unknown, or the metric is another function of such means, like perplexity.

    Example:
        >>> mean_metric("next_token_loss").name
        'next_token_loss'
    """
    _, known = metric_named(metric)
    if not isinstance(known, ExampleMetric) or known.estimate not in (None, ratio):
        raise ValueError(
            f"expected a loss that is a mean over samples or positions, got {getattr(metric, 'name', metric)!r}; "
            "choose one such as 'next_token_loss' or 'pixel_loss'"
        )
    return known


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


def example_values(metric: Metric, outputs: torch.Tensor, data: InMemory, full: torch.Tensor) -> np.ndarray:
    """The value of each example, (examples,), from a network's outputs and the full network's, on the CPU."""
    targets, mask = (None if tensor is None else tensor.cpu() for tensor in (data.targets, data.mask))
    return values_of(metric, example_parts(metric, outputs, targets, full, mask, len(data)))


def values_of(metric: Metric, parts: np.ndarray) -> np.ndarray:
    """The value of each example, (examples,), whose mean is the metric, from the parts of all of them."""
    return metric.values(parts) if isinstance(metric, ExampleMetric) and parts.ndim == 2 else parts


def example_parts(
    metric: Metric,
    outputs: torch.Tensor,
    targets: torch.Tensor | None,
    full: torch.Tensor,
    mask: torch.Tensor | None,
    count: int,
) -> np.ndarray:
    """The value of each example, (count,), or its parts, (count, parts).

    Raises:
        ValueError: the metric does not return one value per example.
        TypeError: it does not return a tensor.
    """
    if isinstance(metric, ExampleMetric):
        parts: np.ndarray = metric.parts(outputs, targets, full, mask).double().numpy()
        return parts
    values: Any = metric(outputs, targets, full)
    if not isinstance(values, torch.Tensor):
        raise TypeError(
            f"expected a metric that returns a tensor of one value per example, ({count},), got {type(values).__name__}"
        )
    if values.shape != (count,):
        raise ValueError(
            f"expected a metric with one value per example, ({count},), got {tuple(values.shape)}; do not average over "
            "the examples"
        )
    array: np.ndarray = values.double().numpy()
    return array
