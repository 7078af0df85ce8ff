"""A metric: one value per example, also where the metric is not a mean over examples.

Perplexity is the exponential of a ratio of two sums over sequences, mean IoU a mean of ratios of sums over images. Both
are functions f of means m over examples of some *parts* p_i (a sequence's summed loss, its number of tokens). Each
example then gets the value

    u_i = f(m) + f'(m) · (p_i - m)

Their mean is f(m) exactly, and their spread is that of f(m) to first order (the delta method; the infinitesimal
jackknife of Efron 1982, chapter 6). So the intervals for means over examples, paired or not, hold for such metrics too,
and so do Shapley values and damages, which are linear in the metric.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

TargetKind = Literal["class", "positions", "numbers", "flags"]
"""Targets: a class per example, a class per position (token, pixel, step), numbers, or a flag per label."""

Parts = Callable[[torch.Tensor, Any, torch.Tensor, "torch.Tensor | None"], torch.Tensor]
"""From outputs, targets, the full network's outputs and the mask of positions to (examples,) or (examples, parts)."""

Estimate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From means of parts (..., parts) to the metric (...) and its derivatives (..., parts)."""


@dataclass(frozen=True, eq=False)
class ExampleMetric:
    """A metric by name. Call it like a function: outputs, targets, the full network's outputs.

    Attributes:
        name: its name.
        parts: what it needs of each example: one value, if the metric is the mean of these, or the parts of `estimate`.
        fits: the kinds of targets that it makes sense for.
        needs_targets: False if it only compares with the full network.
        estimate: the metric as a function of the means of the parts; None: there are none.
        bound: largest value, and largest difference of two values, if there is one.
        share: whether it is the share of some answers (wrong, changed), which is written in percent.
    """

    name: str
    parts: Parts
    fits: frozenset[TargetKind]
    needs_targets: bool = True
    estimate: Estimate | None = None
    bound: float | None = None
    share: bool = False

    def __call__(
        self, outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The value of each example, (examples,); their mean is the metric."""
        parts = self.parts(outputs, targets, full, mask)
        return parts if parts.ndim == 1 else torch.from_numpy(self.values(parts.double().cpu().numpy()))

    def own_means(
        self, outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Each example's own mean over its positions that count, (examples,); its gradient reaches no other example.

        For metrics that are means over examples or positions (``metrics.mean_metric``).
        """
        parts = self.parts(outputs, targets, full, mask)
        return parts if parts.ndim == 1 else parts[:, 0] / parts[:, 1].clamp_min(1)

    def values(self, parts: np.ndarray) -> np.ndarray:
        """The values u_i of all examples, (..., examples), from their parts (..., examples, parts); see the module.

        Raises:
            ValueError: nothing counts: all targets are ignored or masked.
        """
        estimate = ratio if self.estimate is None else self.estimate
        if estimate is ratio and parts.shape[-2] and np.ptp(parts[..., 1]) == 0:
            plain: np.ndarray = parts[..., 0] / _positive(parts[..., 1])
            return plain  # a mean over examples, to the last bit
        means = parts.mean(-2)
        metric, slopes = estimate(means)
        values: np.ndarray = metric[..., None] + ((parts - means[..., None, :]) * slopes[..., None, :]).sum(-1)
        return values


def wide(values: torch.Tensor) -> torch.Tensor:
    """Values in float32 at least: half precision would round losses away."""
    return values if values.dtype == torch.float64 else values.float()


def summed(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The sum of each example's values that count, and their number, (examples, 2).

    Example:
        >>> summed(torch.tensor([[1.0, torch.nan, 3.0]]), torch.tensor([[True, False, True]]))
        tensor([[4., 2.]], dtype=torch.float64)
    """
    total = values.where(counts, values.new_zeros(())).double().sum(1)
    return torch.stack([total, counts.double().sum(1)], 1)


def ratio(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A sum over examples divided by another: the mean over positions of examples with different numbers of them."""
    above, below = means[..., 0], _positive(means[..., 1])
    return above / below, np.stack([1 / below, -above / below**2], -1)


def exponential_ratio(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The exponential of a ratio."""
    value, slopes = ratio(means)
    value = np.exp(value)
    return value, slopes * value[..., None]


def one_minus_mean_ratio(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One minus the mean of the ratios of parts 0 and 1, 2 and 3, ...; pairs without any denominator are left out."""
    above, below = means[..., 0::2], means[..., 1::2]
    there = below > 0
    _positive(below.max(-1))
    count, below = there.sum(-1, keepdims=True), np.where(there, below, 1)
    slopes = np.stack([-1 / (count * below), above / (count * below**2)], -1) * there[..., None]
    return 1 - (above / below * there).sum(-1) / count[..., 0], slopes.reshape(means.shape)


def _positive(count: np.ndarray) -> np.ndarray:
    if not (count > 0).all():
        raise ValueError(
            "expected at least one target that counts, got none; all are -100 or hidden by the attention mask"
        )
    return count
