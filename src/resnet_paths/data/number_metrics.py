"""Metrics of outputs that are numbers, flags or embeddings."""

from __future__ import annotations

from typing import Any, get_args

import torch
import torch.nn.functional as F

from .metric import ExampleMetric, TargetKind, ratio, summed, wide

_NUMBERS: frozenset[TargetKind] = frozenset({"numbers"})
_FLAGS: frozenset[TargetKind] = frozenset({"flags"})
_ANY = frozenset(get_args(TargetKind))
_UNKNOWN = -100
"""Flag of a label that does not count."""


def shaped_like(outputs: torch.Tensor, targets: Any) -> torch.Tensor:
    """One target per output, in the shape of the outputs: trailing dimensions of 1 may differ.

    Raises:
        ValueError: the shapes differ otherwise.

    Example:
        >>> shaped_like(torch.zeros(3, 1), torch.tensor([True, False, True])).shape
        torch.Size([3, 1])
    """
    if not isinstance(targets, torch.Tensor) or _trimmed(outputs) != _trimmed(targets):
        got = None if targets is None else tuple(targets.shape)
        raise ValueError(f"expected targets of the shape of the outputs, {tuple(outputs.shape)}, got {got}")
    return targets.reshape(outputs.shape)


def _differences(outputs: torch.Tensor, targets: Any, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Output minus target, and which of them count, (examples, numbers) each."""
    one, other = wide(outputs), wide(shaped_like(outputs, targets))
    counts = torch.ones_like(one, dtype=torch.bool)
    if mask is not None and outputs.shape[:2] == mask.shape:
        counts = counts & mask.reshape(*mask.shape, *[1] * (outputs.ndim - 2))
    return (one - other).reshape(len(one), -1), counts.reshape(len(one), -1)


def _trimmed(values: torch.Tensor) -> tuple[int, ...]:
    shape = tuple(values.shape)
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _squared(outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    differences, counts = _differences(outputs, targets, mask)
    return summed(differences.square(), counts)


def _absolute(outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    differences, counts = _differences(outputs, targets, mask)
    return summed(differences.abs(), counts)


def _wrong_flags(outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The number of labels that the sign of the logit gets wrong, and the number of known ones, (examples, 2)."""
    flags, known = _flags(outputs, targets)
    wrong = ((outputs > 0) != flags) | outputs.isnan()
    return _sum_of_known(wrong.double(), known)


def _flag_loss(outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The summed binary cross-entropy of the known labels, in nats, and their number, (examples, 2)."""
    flags, known = _flags(outputs, targets)
    logits = wide(outputs)
    losses = F.binary_cross_entropy_with_logits(logits, flags.to(logits.dtype), reduction="none")
    return _sum_of_known(losses, known)


def _flags(outputs: torch.Tensor, targets: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Which labels apply, and which are known, in the shape of the outputs."""
    targets = shaped_like(outputs, targets)
    known = targets != _UNKNOWN
    if not bool(((targets == 0) | (targets == 1) | ~known).all()):
        raise ValueError(f"expected flags of 0 and 1, or {_UNKNOWN} where unknown, got other numbers")
    return targets == 1, known


def _sum_of_known(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    return summed(values.reshape(len(values), -1), known.reshape(len(known), -1))


def _embeddings(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Each example's output as one vector, zero at masked positions."""
    values = wide(values)
    if mask is not None and values.ndim > 2 and values.shape[:2] == mask.shape:
        values = values.where(mask.reshape(*mask.shape, *[1] * (values.ndim - 2)), values.new_zeros(()))
    return values.reshape(len(values), -1)


def _cosine(outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """``1 - y·f / (|y| |f|)``, computed as half the squared distance of unit vectors, so that equal ones give 0."""
    one, other = (_embeddings(values, mask) for values in (outputs, full))
    units = [vector / vector.norm(dim=1, keepdim=True) for vector in (one, other)]
    distance = (units[0] - units[1]).square().sum(1) / 2
    return _zero_if_equal(distance, one, other)


def _distance(outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """``|y - f| / |f|``."""
    one, other = (_embeddings(values, mask) for values in (outputs, full))
    return _zero_if_equal((one - other).norm(dim=1) / other.norm(dim=1), one, other)


def _zero_if_equal(distance: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Zero for equal vectors also where their length is zero."""
    return torch.where((one == other).all(1), torch.zeros_like(distance), distance)


NUMBER_METRICS = (
    ExampleMetric("squared_error", _squared, _NUMBERS, estimate=ratio),
    ExampleMetric("absolute_error", _absolute, _NUMBERS, estimate=ratio),
    ExampleMetric("multilabel_error", _wrong_flags, _FLAGS, estimate=ratio, bound=1.0, share=True),
    ExampleMetric("multilabel_loss", _flag_loss, _FLAGS, estimate=ratio),
    ExampleMetric("cosine_distance", _cosine, _ANY, needs_targets=False, bound=2.0),
    ExampleMetric("embedding_distance", _distance, _ANY, needs_targets=False),
)
