"""Mean and variance of the input of a batch norm, pooled over batches with equal weight for each value."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ..network.norms import BatchNorm


@dataclass
class Moments:
    """Mean and sum of squared deviations, per channel, of all values so far, in float64."""

    count: int = 0
    mean: torch.Tensor = field(default_factory=lambda: torch.zeros((), device="cpu"))
    squares: torch.Tensor = field(default_factory=lambda: torch.zeros((), device="cpu"))

    def add(self, count: int, mean: torch.Tensor, var: torch.Tensor) -> None:
        """Add `count` values with this mean and biased variance (Chan, Golub and LeVeque 1983, equation 2.1)."""
        if not self.count:
            self.mean, self.squares = torch.zeros_like(mean), torch.zeros_like(mean)
        total = self.count + count
        shift = mean - self.mean
        self.mean = self.mean + shift * (count / total)
        self.squares = self.squares + var * count + shift.square() * (self.count * count / total)
        self.count = total

    def write(self, norm: BatchNorm, unbiased: bool = True) -> None:
        """Write these moments to a norm's running statistics."""
        norm.running_mean.copy_(self.mean)  # type: ignore[union-attr]
        norm.running_var.copy_(self.squares / max(1, self.count - unbiased))  # type: ignore[union-attr]


def wide(value: torch.Tensor) -> torch.Tensor:
    """A copy in float64, or in float32 on a device without it (MPS)."""
    return value.to(torch.float32 if value.device.type == "mps" else torch.float64, copy=True)
