"""Mixup: images and labels of one batch blended in pairs (Zhang et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..arguments import checked
from ..draws import permutation


@dataclass(frozen=True, eq=False)
class Mixed:
    """A batch whose images are blends of two, and what they are to be called.

    Attributes:
        images: ``share x + (1 - share) x[partner]``, shape of x.
        labels: of the images themselves, (batch,).
        other: of their partners, (batch,).
        share: of the images themselves, in [0, 1].
    """

    images: torch.Tensor
    labels: torch.Tensor
    other: torch.Tensor
    share: float

    def loss(self, logits: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
        """Mean cross-entropy against ``share y + (1 - share) y[partner]``; a scalar."""
        loss = F.cross_entropy(logits, self.labels, label_smoothing=label_smoothing)
        if self.share == 1:
            return loss
        other = F.cross_entropy(logits, self.other, label_smoothing=label_smoothing)
        return self.share * loss + (1 - self.share) * other

    def wrong(self, logits: torch.Tensor) -> torch.Tensor:
        """How many predictions miss the label of the larger share."""
        return (logits.argmax(1) != (self.labels if self.share >= 0.5 else self.other)).sum()


@checked
def mixup(
    images: torch.Tensor,
    labels: torch.Tensor,
    alpha: float,
    shares: np.random.Generator,
    partners: torch.Generator,
) -> Mixed:
    """One batch, each image blended with a random other of the batch: share ~ Beta(alpha, alpha), one a batch.

    Zhang et al. (2018), section 2; 0.2 to 0.4 there on ImageNet, 1 on CIFAR-10.

    Args:
        images: (batch, channels, height, width).
        labels: (batch,).
        alpha: 0 leaves the batch as it is, and draws nothing.
        shares: draws the share.
        partners: draws the partners, on the CPU.

    Raises:
        ValueError: not a label for each image.

    Example:
        >>> draw = np.random.default_rng(0), torch.Generator().manual_seed(0)
        >>> batch = mixup(torch.eye(3).view(3, 1, 1, 3), torch.arange(3), 0.0, *draw)
        >>> batch.share, round(float(batch.loss(torch.zeros(3, 3))), 4)
        (1.0, 1.0986)
    """
    if len(labels) != len(images):
        raise ValueError(f"expected a label for each of {len(images)} images, got {len(labels)}")
    if not alpha:
        return Mixed(images, labels, labels, 1.0)
    share = float(shares.beta(alpha, alpha))
    partner = permutation(len(images), partners).to(images.device)
    return Mixed(share * images + (1 - share) * images[partner], labels, labels[partner], share)
