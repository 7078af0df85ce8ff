"""A model's answers to images, and what they are compared by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import ImageData, right
from ..data.batches import even_slices
from ..network.unrolled import placed


@dataclass(frozen=True, eq=False)
class Answers:
    """A model's answers to images.

    Attributes:
        logits: logits on the CPU, (images, classes).
        labels: labels, (images,); -1 for images without one.
    """

    logits: torch.Tensor
    labels: torch.Tensor

    @property
    def right(self) -> np.ndarray:
        """Whether each answer is right, as 0.0 or 1.0; NaN if there are no labels."""
        if bool((self.labels == -1).all()):
            return np.full(len(self.labels), np.nan)
        return right(self.logits, self.labels).double().numpy()

    def agree(self, other: Answers) -> np.ndarray:
        """Whether each answer equals another model's, as 0.0 or 1.0; 0.0 if either is NaN."""
        same = right(self.logits, other.logits.argmax(-1)) & ~other.logits.isnan().any(-1)
        return same.double().numpy()


def answers(
    model: nn.Module | Callable[[Any], Any],
    data: ImageData,
    followed: Callable[[Any], torch.Tensor],
    batch_size: int = 100,
    like: nn.Module | None = None,
) -> Answers:
    """The answers of a model in eval mode, or of a function of batches.

    Args:
        model: the model or function.
        data: the images.
        followed: extracts the logits from what the model returns.
        batch_size: images per batch.
        like: a model whose device and dtype the inputs get, if `model` is a function.
    """
    holder = model if isinstance(model, nn.Module) else like
    outputs = []
    with torch.inference_mode():
        for part in even_slices(len(data), batch_size):
            x = data.subset(part).x
            outputs.append(followed(model(x if holder is None else placed(x, holder))).cpu())
    return Answers(torch.cat(outputs), data.labels.cpu())
