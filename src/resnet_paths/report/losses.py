"""The loss of which a report takes gradients: the metric, or a smooth surrogate where answers are right or wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..data import ExampleMetric, InMemory
from ..data.fitting import smooth, usual_metric
from ..data.metrics import METRICS, Metric, metric_named

_SMOOTH = {"error": "loss", "top5_error": "loss", "soft_error": "loss"}  # cross-entropy is what classes are trained by


@dataclass(frozen=True)
class ExampleLoss:
    """A differentiable loss of each example.

    Attributes:
        name: the metric that it is.
        metric: gives values or sums of each example.
    """

    name: str
    metric: Metric

    def __call__(self, outputs: torch.Tensor, targets: Any, mask: torch.Tensor | None = None) -> torch.Tensor:
        """The loss of each example, (examples,): the mean over its positions that count."""
        if not isinstance(self.metric, ExampleMetric):
            return self.metric(outputs, targets, outputs.detach())
        return self.metric.own_means(outputs, targets, outputs.detach(), mask)

    def total(self, mask: torch.Tensor | None = None) -> Callable[[torch.Tensor, Any], torch.Tensor]:
        """The sum over the examples of a batch, as the analyses of paths differentiate it.

        Args:
            mask: positions of the batch that count; None: all do.
        """
        return lambda outputs, targets: self(outputs, targets, mask).sum()


def loss_for(metric: str | Metric, data: InMemory) -> ExampleLoss | None:
    """The loss that belongs to a metric.

    Shares of wrong answers are replaced by a cross-entropy, and metrics that compare with the full network, where they
    are zero with a gradient of zero, by the usual one of the data.

    Args:
        metric: a name or a function.
        data: the examples.

    Returns:
        The loss; None for metrics that compare with the full network, if there are no targets.

    Example:
        >>> from resnet_paths.data import Examples
        >>> tokens = torch.zeros(2, 5, dtype=torch.long)
        >>> loss_for("perplexity", Examples(tokens, tokens)).name
        'next_token_loss'
    """
    name, function = metric_named(metric)
    if METRICS.get(name) is not function:
        return ExampleLoss(name, function)
    if isinstance(function, ExampleMetric) and not function.needs_targets:
        if not data.labelled or usual_metric(data) == "embedding_distance":
            return None
        name = usual_metric(data)
    name = metric_named(smooth(name))[0]
    name = _SMOOTH.get(name, name)
    return ExampleLoss(name, METRICS[name])
