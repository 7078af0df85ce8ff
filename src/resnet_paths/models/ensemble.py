"""A true ensemble: the mean prediction of several networks, to compare residual networks with."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from ..arguments import checked


@checked
class Ensemble(nn.Module):
    """The mean of the predicted probabilities of several networks: ``log 1/M sum_m softmax(f_m(x))``.

    He et al. (2015), section 4.1, combine six networks of different depths. The output consists of log-probabilities,
    which can be used as logits since softmax inverts them. An ensemble has no residual stream: unroll its ``members``.

    Cost: one forward pass per member.

    Args:
        members: the networks, each of which maps the images to (batch, classes).

    Raises:
        ValueError: there are no members.

    Example:
        >>> from resnet_paths.models import cifar_resnet
        >>> several = Ensemble(cifar_resnet(depth, widths=(4, 4, 8)) for depth in (8, 14, 20)).eval()
        >>> several(torch.randn(5, 3, 8, 8)).exp().sum(1).allclose(torch.ones(5))
        True
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        if not len(self.members):
            raise ValueError("expected at least one network, got none")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (batch, classes)."""
        parts = torch.stack([member(x).log_softmax(1) for member in self.members])
        return parts.logsumexp(0) - math.log(len(self.members))
