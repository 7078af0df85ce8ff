"""A model's answers to images, and the measures by which they are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import InMemory, right
from ..data.batches import even_slices
from ..data.fitting import target_kinds
from ..data.metrics import Metric, example_values
from ..graph.inputs import call_model, placed


@dataclass(frozen=True, eq=False)
class Answers:
    """A model's answers to examples.

    Attributes:
        logits: outputs on the CPU, (examples, ...).
        data: the examples.
    """

    logits: torch.Tensor
    data: InMemory

    @property
    def right(self) -> np.ndarray:
        """Whether each answer is right, as 0.0 or 1.0; NaN if there are no classes."""
        if not self._are_classes or not self.data.labelled or self.data.targets is None:
            return np.full(len(self.data), np.nan)
        return right(self.logits, self.data.targets.cpu()).double().numpy()

    def agree(self, other: Answers) -> np.ndarray:
        """Whether each answer equals another model's, as 0.0 or 1.0; 0.0 if either is NaN, NaN if there are no classes.

        Outputs for examples without targets are taken as scores of classes if there are several.
        """
        if not self._are_classes:
            return np.full(len(self.data), np.nan)
        same = right(self.logits, other.logits.argmax(-1)) & ~other.logits.isnan().any(-1)
        return same.double().numpy()

    def values(self, metric: Metric, full: Answers) -> np.ndarray:
        """A metric of each answer, (examples,); their mean is the metric."""
        return example_values(metric, self.logits, self.data, full.logits)

    @property
    def _are_classes(self) -> bool:
        kinds = target_kinds(self.data)
        return self.logits.ndim == 2 and self.logits.shape[1] > 1 and (not self.data.labelled or "class" in kinds)


def answers(
    model: nn.Module | Callable[[Any], Any],
    data: InMemory,
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
            outputs.append(followed(call_model(model, x if holder is None else placed(x, holder))).cpu())
    return Answers(torch.cat(outputs), data)
