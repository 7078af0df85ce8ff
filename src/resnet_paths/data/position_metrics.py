"""Metrics of outputs with a class for each position: tokens of texts, pixels of images, steps of series, voxels.

Positions labelled -100 (``ignore_index`` of PyTorch) and those hidden by an attention mask do not count. Means are over
all positions that count, so long texts weigh more, as in one batch of PyTorch's ``cross_entropy``; the unit of every
interval is still the example.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from .metric import ExampleMetric, TargetKind, exponential_ratio, one_minus_mean_ratio, ratio, summed, wide

IGNORED = -100
"""Label of positions that do not count."""

_POSITIONS: frozenset[TargetKind] = frozenset({"positions"})


def scores_by_position(
    outputs: torch.Tensor, targets: Any, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores (examples, positions, classes), labels (examples, positions), and which positions count.

    Classes are in dimension 1, as in PyTorch's ``cross_entropy``, or last, as in language models; the shape of the
    targets shows which (dimension 1 if both fit).

    Raises:
        ValueError: outputs and targets do not belong together, or a label has no score.

    Example:
        >>> scores, labels, counts = scores_by_position(torch.zeros(2, 5, 4, 4), torch.full((2, 4, 4), -100), None)
        >>> scores.shape, labels.shape, bool(counts.any())
        (torch.Size([2, 16, 5]), torch.Size([2, 16]), False)
    """
    labels = _labels(targets)
    classes = channels_beside(outputs, labels, likely=1)
    if classes is None:
        raise ValueError(
            "expected outputs (examples, classes, ...) or (examples, ..., classes) for targets "
            f"{tuple(labels.shape)}, got {tuple(outputs.shape)}; pass targets for each position of the outputs"
        )
    counts = labels != IGNORED
    if mask is not None and mask.shape == labels.shape:
        counts = counts & mask
    labels, counts = labels.flatten(1), counts.flatten(1)
    scores = outputs.movedim(classes, -1).flatten(1, -2)
    _check_labels(labels[counts], scores.shape[-1])
    return scores, labels.where(counts, labels.new_zeros(())), counts


def channels_beside(values: torch.Tensor, counted: torch.Tensor, likely: int | None = None) -> int | None:
    """The dimension of the channels in values at the positions of a mask: the second or the last.

    Args:
        values: (inputs, channels, positions, ...) or (inputs, positions, ..., channels).
        counted: (inputs, positions, ...).
        likely: the dimension if both fit; by default the last for one dimension of positions (tokens), else the second.

    Returns:
        The dimension; None if the values are at other positions.

    Example:
        >>> counted = torch.ones(2, 7)
        >>> channels_beside(torch.zeros(2, 7, 3), counted), channels_beside(torch.zeros(2, 3), counted)
        (2, None)
    """
    last = values.ndim - 1
    shape = values.shape
    fits = {axis for axis in (1, last) if 1 <= axis <= last and shape[:axis] + shape[axis + 1 :] == counted.shape}
    if likely is None:
        likely = last if counted.ndim == 2 else 1
    return likely if likely in fits else min(fits, default=None)


def _labels(targets: Any) -> torch.Tensor:
    if not isinstance(targets, torch.Tensor) or targets.ndim < 2 or targets.is_floating_point():
        got = "none" if targets is None else f"{tuple(targets.shape)} of {targets.dtype}"
        raise ValueError(f"expected a class for each position, (examples, positions), got {got}")
    return targets.long()


def _check_labels(labels: torch.Tensor, classes: int) -> None:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"expected labels from 0 to {classes - 1}, or {IGNORED} where none counts, got {int(labels.min())} to "
            f"{int(labels.max())}"
        )


def _next_tokens(
    outputs: torch.Tensor, targets: Any, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores at each token for the label of the next one."""
    labels = _labels(targets)
    if outputs.ndim != 3 or outputs.shape[:2] != labels.shape:
        raise ValueError(
            f"expected scores (sequences, tokens, vocabulary) for labels {tuple(labels.shape)}, got "
            f"{tuple(outputs.shape)}; pass the labels of all tokens, not shifted by one"
        )
    mask = mask[:, 1:] if mask is not None and mask.shape == labels.shape else None
    counts = labels[:, 1:] != IGNORED
    counts = counts if mask is None else counts & mask
    labels = labels[:, 1:]
    _check_labels(labels[counts], outputs.shape[-1])
    return outputs[:, :-1], labels.where(counts, labels.new_zeros(())), counts


def _loss(found: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The summed cross-entropy of each example, and the number of its positions that count, (examples, 2)."""
    scores, labels, counts = found
    losses = F.cross_entropy(wide(scores).movedim(-1, 1), labels, reduction="none")
    return summed(losses, counts)


def _wrong(found: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The number of wrong positions of each example, and the number that count; NaN scores are wrong."""
    scores, labels, counts = found
    wrong = (scores.argmax(-1) != labels) | scores.isnan().any(-1)
    return summed(wrong.double(), counts)


def _token_losses(outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return _loss(_next_tokens(outputs, targets, mask))


def _token_errors(outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return _wrong(_next_tokens(outputs, targets, mask))


def _pixel_losses(outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return _loss(scores_by_position(outputs, targets, mask))


def _pixel_errors(outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return _wrong(scores_by_position(outputs, targets, mask))


def _overlaps(outputs: torch.Tensor, targets: Any, full: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """For each class, the pixels that prediction and label share, and those that either has, (examples, 2 classes)."""
    scores, labels, counts = scores_by_position(outputs, targets, mask)
    nothing = scores.isnan().any(-1)
    predicted = F.one_hot(scores.argmax(-1), scores.shape[-1]).bool() & ~nothing[..., None] & counts[..., None]
    true = F.one_hot(labels, scores.shape[-1]).bool() & counts[..., None]
    return torch.stack([(predicted & true).double().sum(1), (predicted | true).double().sum(1)], -1).flatten(1)


POSITION_METRICS = (
    ExampleMetric("next_token_loss", _token_losses, _POSITIONS, estimate=ratio),
    ExampleMetric("perplexity", _token_losses, _POSITIONS, estimate=exponential_ratio),
    ExampleMetric("next_token_error", _token_errors, _POSITIONS, estimate=ratio, bound=1.0, share=True),
    ExampleMetric("pixel_loss", _pixel_losses, _POSITIONS, estimate=ratio),
    ExampleMetric("pixel_error", _pixel_errors, _POSITIONS, estimate=ratio, bound=1.0, share=True),
    ExampleMetric("iou_error", _overlaps, _POSITIONS, estimate=one_minus_mean_ratio, bound=1.0),
)
