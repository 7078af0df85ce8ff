"""The mean of a loss over all samples, batch by batch, as torch computes it over a single batch of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ..choices import MetricName
from ..data import ExampleMetric
from ..data.metrics import mean_metric

LossFunction = Literal["cross_entropy"] | Callable[[torch.Tensor, Any], torch.Tensor]
SampleLoss = MetricName | ExampleMetric | LossFunction
_IGNORED = -100


class MeanLoss(nn.Module):
    """A batch's contribution to the mean over all samples, as a mean over the batch's samples.

    The mean is ``sum of all losses / sum of their weights``: one for each sample; of class indices (also of images of
    them) the class's weight for each label, and none where it is ignored. Since parts of batches are averaged by
    their numbers of samples, each is divided by the mean weight of a sample of the whole data.
    """

    reduction = "mean"

    def __init__(self, loss: LossFunction, targets: Sequence[Any] = (), samples: int = 0) -> None:
        """The divisor of the contributions follows from all `targets`, of `samples` samples.

        Raises:
            ValueError: neither a known name nor a function; or all labels are ignored.
        """
        super().__init__()
        if loss != "cross_entropy" and not callable(loss):
            raise ValueError(f"expected 'cross_entropy' or a function of output and target, got {loss!r}")
        self.loss = nn.CrossEntropyLoss(reduction="none") if isinstance(loss, str) else loss
        self._by_label = isinstance(self.loss, nn.CrossEntropyLoss | nn.NLLLoss) and self.loss.reduction == "none"
        self._weight, self._labels = 1.0, 0
        if self._by_label and samples:
            total = sum(self._weights(target) for target in targets)
            if not total > 0:
                raise ValueError("expected labels that count, got only ignored ones; the mean over none is not defined")
            self._weight = total / samples
            counted = [target[target != self._ignored] for target in targets if not target.is_floating_point()]
            self._labels = 1 + max((int(labels.max()) for labels in counted if labels.numel()), default=-1)

    @property
    def _ignored(self) -> int:
        return int(getattr(self.loss, "ignore_index", _IGNORED))

    def _weights(self, target: Any) -> float:
        """The sum of the weights of a batch's labels."""
        if not isinstance(target, torch.Tensor):
            got = type(getattr(target, "value", target)).__name__
            raise TypeError(
                f"expected one tensor of targets in each batch for cross-entropy, got {got}; give loss= a function "
                "that reads it"
            )
        if target.is_floating_point():  # probabilities of classes, (batch, classes, ...): none is ignored
            return float(target.numel() / target.shape[1]) if target.ndim > 1 else 1.0
        counted = target[target != self._ignored]
        weight = getattr(self.loss, "weight", None)
        return float(len(counted) if weight is None else weight.to(counted.device)[counted].double().sum())

    def per_sample(self, output: torch.Tensor, target: Any) -> torch.Tensor:
        """The loss of each sample, (batch,); if a sample has several labels, their sum.

        Raises:
            ValueError: the function does not give one number for each sample.
        """
        target = getattr(target, "value", target)
        if self._by_label:
            _check_shapes(output, target)
            if output.shape[1] < self._labels:
                raise ValueError(
                    f"expected labels below {output.shape[1]}, the number of the model's outputs, for cross-entropy, "
                    f"got {self._labels - 1}; targets that are numbers are passed as floats"
                )
        values: torch.Tensor = self.loss(output, target)
        if self._by_label:
            return values.flatten(1).sum(1) if values.ndim > 1 else values
        if values.shape != output.shape[:1]:
            raise ValueError(
                f"expected one loss for each of {len(output)} samples, got shape {tuple(values.shape)}; leave out the "
                "mean or sum over the batch (reduction='none')"
            )
        return values

    def forward(self, output: torch.Tensor, target: Any) -> torch.Tensor:
        """The batch's mean over its samples, divided by the mean weight of a sample."""
        return self.per_sample(output, target).mean() / self._weight


def _check_shapes(output: torch.Tensor, target: torch.Tensor) -> None:
    """Refuse cross-entropy targets at other positions than the outputs, which torch's own message does not explain."""
    if target.is_floating_point() or output.ndim < 2 or output.shape[:1] + output.shape[2:] == target.shape:
        return
    raise ValueError(
        f"expected outputs (samples, classes, ...) at the positions of targets {tuple(target.shape)} for "
        f"cross-entropy, got {tuple(output.shape)}; give loss= a metric by name, such as 'next_token_loss', or a "
        "function"
    )


@dataclass(frozen=True)
class MetricLoss:
    """A metric as a loss of outputs and of targets with a mask of positions: one value per sample.

    Attributes:
        metric: a mean over samples, or over the positions of all of them.
        positions: how many positions count in a sample, on average over all; each sample's sum is divided by it.
    """

    metric: ExampleMetric
    positions: float = 1.0

    def __call__(self, output: torch.Tensor, target: tuple[Any, torch.Tensor | None]) -> torch.Tensor:
        """The loss of each sample, (batch,)."""
        parts = self.parts(output, target)
        return parts if parts.ndim == 1 else parts[:, 0] / self.positions

    def parts(self, output: torch.Tensor, target: tuple[Any, torch.Tensor | None]) -> torch.Tensor:
        """The values (batch,), or the sums and the numbers of positions (batch, 2)."""
        targets, mask = target
        return self.metric.parts(output, targets, output.detach(), mask)


def loss_function(loss: SampleLoss) -> LossFunction:
    """A metric as a loss; cross-entropy and functions as they are.

    Raises:
        ValueError: the metric is not a mean, such as perplexity.
    """
    if loss == "cross_entropy" or not isinstance(loss, str | ExampleMetric):
        return loss
    return MetricLoss(mean_metric(loss))


def batch_length(x: Any) -> int:
    """The number of samples of a batch's input."""
    while isinstance(x, Mapping | tuple | list):
        x = next(iter(x.values() if isinstance(x, Mapping) else x))
    return len(x)
