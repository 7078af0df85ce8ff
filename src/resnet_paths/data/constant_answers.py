"""The best answer that is the same for all examples: the value of a metric without looking at the inputs.

It is the scale on which a damaged network is judged: for classes it is the error of always naming the most frequent
one, for a language model the entropy of the token frequencies, for a regression the variance of the targets.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .fitting import target_kinds
from .in_memory import InMemory
from .metric import ExampleMetric
from .metrics import METRICS, Metric, metric_named
from .position_metrics import IGNORED


def constant_answer(metric: str | Metric, data: InMemory) -> float | None:
    """The metric of the best answer that is the same for all examples and positions.

    For numbers and flags, each output has its own constant. For ``iou_error`` it is the most frequent class.

    Args:
        metric: a name or a function, see :func:`metric_named`.
        data: examples whose targets fit the metric.

    Returns:
        The metric; None where that answer is not known: for your own function, for metrics that compare with the full
        network, and where no target counts.

    Example:
        >>> from resnet_paths.data import Examples
        >>> data = Examples(torch.zeros(4, 2), torch.tensor([1.0, 3.0, 1.0, 3.0]))
        >>> constant_answer("squared_error", data), constant_answer("embedding_distance", data)
        (1.0, None)
    """
    name, function = metric_named(metric)
    known = METRICS.get(name)
    if known is not function or not isinstance(known, ExampleMetric) or not data.labelled or data.targets is None:
        return None
    if not known.fits & target_kinds(data):
        return None
    targets, mask = data.targets.cpu(), None if data.mask is None else data.mask.cpu()
    if name in _OF_SHARES:
        shares = _shares(name, targets, mask)
        return _OF_SHARES[name](shares) if len(shares) else None
    return _OF_NUMBERS[name](targets, mask) if name in _OF_NUMBERS else None


def _shares(name: str, targets: torch.Tensor, mask: torch.Tensor | None) -> np.ndarray:
    """The share of each class that occurs among the labels that count, the most frequent first."""
    if targets.ndim > 1:
        counts = targets != IGNORED
        counts = counts & mask if mask is not None and mask.shape == targets.shape else counts
        if name in ("next_token_loss", "perplexity", "next_token_error"):
            targets, counts = targets[:, 1:], counts[:, 1:]
        targets = targets[counts]
    numbers = torch.unique(targets, return_counts=True)[1].double().numpy()
    return np.sort(numbers / max(numbers.sum(), 1))[::-1]


def _rest(shares: np.ndarray) -> float:
    return 1 - float(shares[0])


def _entropy(shares: np.ndarray) -> float:
    return float(-(shares * np.log(shares)).sum())


def _squared(targets: torch.Tensor, mask: torch.Tensor | None) -> float:
    values = _with_gaps(targets, mask)
    return float(np.nanmean((values - np.nanmean(values, 0)) ** 2))


def _absolute(targets: torch.Tensor, mask: torch.Tensor | None) -> float:
    values = _with_gaps(targets, mask)
    return float(np.nanmean(np.abs(values - np.nanmedian(values, 0))))


def _with_gaps(targets: torch.Tensor, mask: torch.Tensor | None) -> np.ndarray:
    """Targets (examples, numbers), NaN where a position does not count; numbers that never count are left out."""
    values = targets.double()
    if mask is not None and values.shape[:2] == mask.shape:
        values = values.masked_fill(~mask.reshape(*mask.shape, *[1] * (values.ndim - 2)), torch.nan)
    flat: np.ndarray = values.reshape(len(values), -1).numpy()
    return flat[:, ~np.isnan(flat).all(0)]


def _wrong_flags(targets: torch.Tensor, mask: torch.Tensor | None) -> float:
    ones, known = _flags(targets)
    return float(torch.minimum(ones, known - ones).sum() / known.sum().clamp_min(1))


def _entropy_of_flags(targets: torch.Tensor, mask: torch.Tensor | None) -> float:
    ones, known = _flags(targets)
    entropies = torch.special.entr(ones / known.clamp_min(1)) + torch.special.entr((known - ones) / known.clamp_min(1))
    return float((entropies * known).sum() / known.sum().clamp_min(1))


def _flags(targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How often each label applies, and how often it is known, (labels,) each."""
    flags = targets.reshape(len(targets), -1)
    return (flags == 1).sum(0).double(), (flags != IGNORED).sum(0).double()


_OF_SHARES: dict[str, Callable[[np.ndarray], float]] = {
    **dict.fromkeys(("error", "soft_error", "next_token_error", "pixel_error"), _rest),
    **dict.fromkeys(("loss", "next_token_loss", "pixel_loss"), _entropy),
    "perplexity": lambda shares: float(np.exp(_entropy(shares))),
    "top5_error": lambda shares: 1 - float(shares[:5].sum()),
    "iou_error": lambda shares: 1 - float(shares[0]) / len(shares),
}
_OF_NUMBERS: dict[str, Callable[[torch.Tensor, torch.Tensor | None], float]] = {
    "squared_error": _squared,
    "absolute_error": _absolute,
    "multilabel_error": _wrong_flags,
    "multilabel_loss": _entropy_of_flags,
}
