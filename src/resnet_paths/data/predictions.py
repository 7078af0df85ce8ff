"""Which predictions are correct, and how far they are from others: one rule for the whole library.

Without it, ties, NaN outputs and labels beyond the outputs might count one way in a lesion study and another way in a
plan, and two numbers that should agree would differ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..arguments import checked


@checked
def right(logits: torch.Tensor, labels: torch.Tensor, among: int = 1) -> torch.Tensor:
    """Whether each image's label is among its largest logits; False if a logit is NaN, which predicts nothing.

    Args:
        logits: (images, classes).
        labels: (images,), class indices.
        among: number of the largest logits that count.

    Returns:
        (images,), bool.

    Raises:
        ValueError: a label has no logit, because the images have other classes than the model.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [float("nan"), 0.0]])
        >>> right(logits, torch.tensor([0, 0, 0])).tolist()
        [True, False, False]
    """
    check_labels(logits, labels)
    largest = logits.topk(min(among, logits.shape[-1]), -1).indices if among > 1 else logits.argmax(-1, keepdim=True)
    return (largest == labels[:, None]).any(-1) & ~logits.isnan().any(-1)


def check_labels(logits: torch.Tensor, labels: torch.Tensor) -> None:
    """Refuse labels that have no logit.

    Raises:
        ValueError: a label is outside 0 to classes - 1, or the logits are not (examples, classes).
    """
    if labels is not None and logits.ndim < 3 and logits[:1].numel() == 1 and bool((labels != 0).any()):
        raise ValueError(
            f"expected a logit for each class, got a model with one output and integer targets from "
            f"{int(labels.min())} to {int(labels.max())}; pass the metric 'multilabel_error' for zeros "
            "and ones (or bool targets), 'squared_error' for numbers (or floats)"
        )
    if labels is None or logits.ndim != 2 or labels.shape != logits.shape[:1] or labels.is_floating_point():
        got = "no labels" if labels is None else f"{tuple(labels.shape)} of {labels.dtype}"
        raise ValueError(
            f"expected logits (examples, classes) and a class index for each example, got {tuple(logits.shape)} and "
            f"{got}"
        )
    if len(labels) and bool((labels == -1).all()):
        raise ValueError(
            "expected labelled images for this, got images without labels; pass pairs (images, labels), or use a "
            "metric without labels: disagreement, soft_disagreement or divergence"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(
            f"expected labels from 0 to {logits.shape[1] - 1}, one for each of the model's logits, got "
            f"{int(labels.min())} to {int(labels.max())}; pass data of the classes that the model was trained on"
        )


def divergence_of(logits: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """KL(goal || logits) between the predicted distributions of each image, in nats.

    Example:
        >>> divergence_of(torch.zeros(2, 3), torch.zeros(2, 3)).tolist()
        [0.0, 0.0]
    """
    return F.kl_div(logits.log_softmax(-1), goal.log_softmax(-1), reduction="none", log_target=True).sum(-1)
