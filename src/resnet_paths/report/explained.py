"""The number of each example that direct contributions add up to, whatever the form of the outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from ..data.fitting import target_kinds
from ..data.number_metrics import shaped_like
from ..data.position_metrics import IGNORED, channels_beside
from ..paths import BlockContributions
from .subject import Subject


@dataclass(frozen=True)
class Explained:
    """The number of each example that contributions add up to: a weighted sum of its outputs.

    Attributes:
        words: what it is called.
        kind: ``class``, ``next``, ``positions``, ``flags``, ``numbers`` or ``length``.
    """

    words: str
    kind: str

    @classmethod
    def of(cls, subject: Subject) -> Explained:
        """What the targets name: the logit of the true class, or the output itself."""
        kinds = target_kinds(subject.data) if subject.data.labelled else frozenset()
        if subject.has_classes:
            return cls("the true class's logit", "class")
        loss = None if subject.loss is None else subject.loss.name
        if loss == "next_token_loss":
            return cls("the next token's logit", "next")
        if loss == "pixel_loss":
            return cls("the true class's logit", "positions")
        if loss == "multilabel_loss":
            return cls("the logit in favour of the true label", "flags")
        if "numbers" in kinds:
            return cls("the mean output", "numbers")
        return cls("the length of the output", "length")

    @property
    def are_logits(self) -> bool:
        """Whether the outputs are scores of classes or labels."""
        return self.kind in ("class", "next", "positions", "flags")

    @property
    def title(self) -> str:
        """The words at the beginning of a sentence."""
        return self.words[:1].upper() + self.words[1:]

    @property
    def it(self) -> str:
        """How it is named again."""
        return "that logit" if self.are_logits else "it"

    @property
    def outputs(self) -> str:
        """What the outputs are called."""
        return "logits" if self.are_logits else "outputs"

    @property
    def table(self) -> str:
        """The title of the table."""
        return "Logits of the true class" if self.kind == "class" else f"Parts of {self.words}"

    def summed(self, record: BlockContributions, targets: Any, mask: torch.Tensor | None) -> BlockContributions:
        """A record of contributions, with those to the number of each example as `of_target`, (n + 3, batch)."""
        weights = self.weights(record.output, targets, mask)
        of_target = torch.einsum("sb...,b...->sb", record.contributions, weights)
        return replace(record, of_target=of_target, contributions=of_target, output=record.output[:1])

    def weights(self, output: torch.Tensor, targets: Any, mask: torch.Tensor | None) -> torch.Tensor:
        """The weights of each example's outputs, of the outputs' shape."""
        if self.kind in ("next", "positions"):
            return self._of_labels(output, targets, mask)
        if self.kind == "flags":
            targets = shaped_like(output, targets)
            known = (targets != IGNORED).to(output)
            signed: torch.Tensor = (2 * targets.to(output) - 1) * known
            return signed / _each(known.reshape(len(known), -1).sum(1).clamp_min(1), output)
        if self.kind == "numbers":
            return torch.full_like(output, 1 / max(output[0].numel(), 1))
        length = output.reshape(len(output), -1).norm(dim=1).clamp_min(torch.finfo(output.dtype).tiny)
        return output / _each(length, output)

    def _of_labels(self, output: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The mean over the positions that count of the logit of each position's label, or of the next one's."""
        mask = mask if mask is not None and mask.shape == labels.shape else None
        axis = channels_beside(output, labels, likely=1)
        if self.kind == "next":
            axis, labels = output.ndim - 1, F.pad(labels[:, 1:], (0, 1), value=IGNORED)
            mask = None if mask is None else F.pad(mask[:, 1:], (0, 1))
        counts = labels != IGNORED
        counts = counts if mask is None else counts & mask
        axis = output.ndim - 1 if axis is None else axis
        chosen = torch.zeros_like(output).movedim(axis, -1)
        chosen.scatter_(-1, labels.long().where(counts, labels.new_zeros(())).unsqueeze(-1), 1)
        chosen = chosen * counts[..., None] / _each(counts.flatten(1).sum(1).clamp_min(1), chosen)
        weights: torch.Tensor = chosen.movedim(-1, axis)
        return weights


def _each(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """One value per example, to be multiplied with tensors of this shape."""
    return values.view(-1, *[1] * (like.ndim - 1))
