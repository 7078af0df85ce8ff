"""Mixup: images and labels of a batch blended in pairs (Zhang et al. 2018).

The labels stay class indices: the loss is the blend of two cross-entropies, which equals the cross-entropy against
blended one-hot rows and also works with label smoothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..arguments import checked
from ..draws import permutation


@dataclass(frozen=True, eq=False)
class Mixed:
    """A batch whose images are blends of two, with both labels.

    Attributes:
        images: ``share x + (1 - share) x[partner]``, shape of x.
        labels: labels of the images themselves, (batch,).
        other: labels of their partners, (batch,).
        share: weight of the images themselves, in [0, 1].
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
        """The number of predictions that miss the label with the larger share."""
        return (logits.argmax(1) != (self.labels if self.share >= 0.5 else self.other)).sum()


@checked
def mixup(
    images: torch.Tensor,
    labels: torch.Tensor,
    alpha: float,
    shares: np.random.Generator,
    partners: torch.Generator,
) -> Mixed:
    """Blend each image of a batch with a random other one: share ~ Beta(alpha, alpha), one per batch.

    Zhang et al. (2018), section 2, with alpha 0.2 to 0.4 on ImageNet and 1 on CIFAR-10.

    Args:
        images: (batch, channels, height, width).
        labels: (batch,).
        alpha: parameter of the Beta distribution; 0 leaves the batch unchanged and draws nothing.
        shares: generator of the share.
        partners: generator of the partners, on the CPU.

    Raises:
        ValueError: the numbers of labels and images differ.

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
