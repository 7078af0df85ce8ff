"""Which metrics fit which data.

A metric that does not fit is refused before any work, in one line that lists those that do. Otherwise it would often
give plausible numbers: the cross-entropy of tokens that are scored against themselves, or the divergence of outputs
that are not logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..choices import MetricName
from ..graph.trees import DICTS
from .adapter import ImageSource, as_data
from .any_data import as_examples
from .examples import Examples
from .images import ImageData
from .in_memory import InMemory
from .metric import ExampleMetric, TargetKind
from .metrics import METRICS, Metric, metric_named, needs_labels
from .position_metrics import IGNORED


def data_for(metric: str | Metric, source: ImageSource, model: nn.Module | None) -> InMemory:
    """Data in memory for a metric.

    Args:
        metric: a name or a function.
        source: see :func:`as_examples`.
        model: the model that reads the data.

    Raises:
        ValueError: the metric is unknown or does not fit the targets, or there are none.
    """
    _, function = metric_named(metric)
    if isinstance(source, Examples):
        data: InMemory = source
    elif isinstance(source, ImageData):
        data = as_data(source, labelled=needs_labels(function))
    else:
        data = as_examples(source, model, labelled=needs_labels(function))
    if isinstance(function, ExampleMetric):
        check_fits(function, data)
    return data


def check_fits(metric: ExampleMetric, data: InMemory) -> None:
    """Refuse a metric that makes no sense for some data.

    Raises:
        ValueError: it needs targets of another kind, or labels that are shifted differently.
    """
    kinds, targets = target_kinds(data), data.targets if data.labelled else None
    if targets is None and metric.needs_targets:
        raise ValueError(
            f"expected targets for the metric {metric.name!r}, got {data.nouns} without in {data.name}; metrics that "
            f"need none: {', '.join(fitting(data))}"
        )
    if targets is not None and not kinds & metric.fits:
        raise ValueError(
            f"expected a metric for targets {tuple(targets.shape)} of {str(targets.dtype).removeprefix('torch.')} (one "
            f"of {', '.join(fitting(data))}, or a function), got {metric.name!r}"
        )
    if targets is not None and metric.needs_targets and targets.is_floating_point() and bool(targets.isnan().any()):
        rows = targets.isnan().reshape(len(targets), -1).any(1)
        raise ValueError(
            f"expected targets that are numbers for {metric.name!r}, got NaN in {int(rows.sum())} of {len(data)} "
            f"{data.nouns} of {data.name}; remove these {data.nouns}, or pass a function that leaves them out"
        )
    if targets is not None and isinstance(data, Examples) and "positions" in kinds:
        _check_shift(metric.name, data, targets)


def fitting(data: InMemory) -> list[str]:
    """The names of the metrics that fit some data.

    Example:
        >>> fitting(Examples(torch.zeros(3, 2), torch.zeros(3)))
        ['squared_error', 'absolute_error', 'cosine_distance', 'embedding_distance']
    """
    kinds = target_kinds(data)
    return [
        name
        for name, metric in METRICS.items()
        if (not metric.needs_targets if data.targets is None or not data.labelled else bool(kinds & metric.fits))
    ]


def usual_metric(data: InMemory) -> MetricName:
    """A smooth metric that fits some data, by which sets of blocks are compared unless another is asked for.

    Example:
        >>> usual_metric(Examples(torch.zeros(3, 2), torch.zeros(3)))
        'squared_error'
    """
    kinds = target_kinds(data)
    if isinstance(data, ImageData):
        return "soft_error" if data.labelled else "soft_disagreement"
    if "class" in kinds:
        return "soft_error"
    if "numbers" in kinds and "flags" not in kinds:
        return "squared_error"
    if "positions" in kinds and (_token_ids(data.x) is not None or "flags" not in kinds or _is_mask(data.targets)):
        return "next_token_loss" if isinstance(data, Examples) and _labels_are_tokens(data) else "pixel_loss"
    return "multilabel_error" if "flags" in kinds else "embedding_distance"


def smooth(metric: str | Metric) -> str | Metric:
    """The smooth metric to search by, in place of one that cannot distinguish sets that change few answers."""
    name, _ = metric_named(metric)
    return _SMOOTH.get(name, metric)


_SMOOTH = {
    "error": "soft_error",
    "disagreement": "soft_disagreement",
    "next_token_error": "next_token_loss",
    "perplexity": "next_token_loss",
    "pixel_error": "pixel_loss",
    "iou_error": "pixel_loss",
    "multilabel_error": "multilabel_loss",
}


def target_kinds(data: InMemory) -> frozenset[TargetKind]:
    """What the targets can be, by their dtype, shape and values."""
    if isinstance(data, ImageData):
        return frozenset({"class"}) if data.labelled else frozenset()
    return frozenset() if data.targets is None else frozenset(_kinds(data.targets))


def counted_positions(data: Examples) -> torch.Tensor | None:
    """Which positions count, for a model with a prediction at each: labels are not -100, and no mask hides them.

    Args:
        data: examples with a label for each position, an attention mask, or token numbers as inputs.

    Returns:
        (examples, positions, ...), bool; None if nothing shows that there are predictions at positions.

    Example:
        >>> tokens = {"input_ids": torch.tensor([[5, 6, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
        >>> counted_positions(Examples(tokens)).tolist()
        [[True, True, False]]
    """
    mask, ids = data.mask, _token_ids(data.inputs)
    if "positions" not in target_kinds(data) or data.targets is None:
        return torch.ones_like(ids, dtype=torch.bool) if mask is None and ids is not None else mask
    counts = data.targets != IGNORED
    return counts & mask if mask is not None and mask.shape == counts.shape else counts


def _are_flags(targets: torch.Tensor) -> bool:
    """Whether targets can be labels that apply or do not: zeros and ones, or -100 where that is unknown.

    One per example can be other things too: floats are flags, as torch's binary cross-entropy takes them, and integers
    can be classes or flags, if both values occur. A few numbers may be all zero by chance.
    """
    ones, zeros = targets == 1, targets == 0
    if not bool((ones | zeros | (targets == IGNORED)).all()):
        return False
    return targets.ndim > 1 or targets.dtype == torch.bool or bool(ones.any() and zeros.any())


def _kinds(targets: torch.Tensor) -> Iterator[TargetKind]:
    if _are_flags(targets):
        yield "flags"
    if targets.dtype == torch.bool or targets.is_floating_point():
        if targets.is_floating_point():
            yield "numbers"
        return
    if targets.ndim == 1:
        yield from ("class", "numbers")
    else:
        yield "positions"


def _check_shift(metric: str, data: Examples, targets: torch.Tensor) -> None:
    """Refuse labels of tokens that are already shifted by one, and tokens that would be compared with themselves."""
    ids = _token_ids(data.inputs)
    if ids is None or ids.shape != targets.shape:
        return
    counts = counted_positions(data)
    if counts is None or not bool(counts.any()):
        return
    same = bool((targets == ids)[counts].all())
    if metric.startswith("pixel") and same:
        raise ValueError(
            f"expected labels other than the inputs for {metric!r}, got labels equal to them, so that each token would "
            "be compared with itself; use next_token_loss, perplexity or next_token_error"
        )
    moved = bool((targets[:, :-1] == ids[:, 1:])[counts[:, :-1]].all())
    if metric in ("next_token_loss", "next_token_error", "perplexity") and moved and not same and targets.shape[1] > 1:
        raise ValueError(
            f"expected the labels of the tokens themselves for {metric!r}, which compares scores with the next label, "
            "got labels already shifted by one; pass the inputs as labels, or use pixel_loss or pixel_error"
        )


def _is_mask(targets: torch.Tensor | None) -> bool:
    """Whether integers 0 and 1 are classes of pixels: flags have one dimension, or a channel as outputs have."""
    return targets is not None and targets.ndim > 2 and targets.shape[1] != 1


def _labels_are_tokens(data: Examples) -> bool:
    """Whether the labels that count are the tokens at their own positions, so that the next one is what is predicted.

    Others belong to the scores at their own positions: those of masked words, of classes of tokens, or already shifted
    by one.
    """
    ids, targets, counts = _token_ids(data.inputs), data.targets, counted_positions(data)
    if ids is None or targets is None or counts is None or ids.shape != targets.shape:
        return False
    return bool((targets == ids)[counts].all())


def _token_ids(inputs: Any) -> torch.Tensor | None:
    ids = inputs.get("decoder_input_ids", inputs.get("input_ids")) if isinstance(inputs, DICTS) else inputs
    if isinstance(ids, tuple) and ids:
        ids = ids[0]
    return ids if isinstance(ids, torch.Tensor) and not ids.is_floating_point() and ids.ndim == 2 else None
