"""The mean of a loss over all samples, batch by batch, as torch takes it over one batch that holds them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

SampleLoss = Literal["cross_entropy"] | Callable[[torch.Tensor, Any], torch.Tensor]
_IGNORED = -100


class MeanLoss(nn.Module):
    """The part of a mean over all samples that a batch adds, as a mean over the batch's samples.

    The mean is ``sum of all losses / sum of their weights``: one for each sample; of class indices (also of images of
    them) the class's weight for each label, and none where it is ignored. Since parts of batches are averaged by
    their numbers of samples, each is divided by the mean weight of a sample of the whole data.
    """

    reduction = "mean"

    def __init__(self, loss: SampleLoss, targets: Sequence[Any] = (), samples: int = 0) -> None:
        """What divides the parts is told from all `targets`, of `samples` samples.

        Raises:
            ValueError: neither a name that is known nor a function; labels that are all ignored.
        """
        super().__init__()
        if loss != "cross_entropy" and not callable(loss):
            raise ValueError(f"expected 'cross_entropy' or a function of output and target, got {loss!r}")
        self.loss = nn.CrossEntropyLoss(reduction="none") if isinstance(loss, str) else loss
        self._by_label = isinstance(self.loss, nn.CrossEntropyLoss | nn.NLLLoss) and self.loss.reduction == "none"
        self._weight = 1.0
        if self._by_label and samples:
            total = sum(self._weights(target) for target in targets)
            if not total > 0:
                raise ValueError("expected labels that count, got only ignored ones; the mean over none is not defined")
            self._weight = total / samples

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
        counted = target[target != getattr(self.loss, "ignore_index", _IGNORED)]
        weight = getattr(self.loss, "weight", None)
        return float(len(counted) if weight is None else weight.to(counted.device)[counted].double().sum())

    def per_sample(self, output: torch.Tensor, target: Any) -> torch.Tensor:
        """The loss of each sample, (batch,); of several labels a sample, their sum.

        Raises:
            ValueError: the function does not give one number for each sample.
        """
        values: torch.Tensor = self.loss(output, getattr(target, "value", target))
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


def batch_length(x: Any) -> int:
    """The number of samples of a batch's input."""
    while isinstance(x, Mapping | tuple | list):
        x = next(iter(x.values() if isinstance(x, Mapping) else x))
    return len(x)
