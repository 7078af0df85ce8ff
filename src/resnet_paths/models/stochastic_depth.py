"""Stochastic depth (Huang et al. 2016): branches survive a training step with a given probability."""

from __future__ import annotations

import torch
from torch import nn

from ..arguments import Range, checked


@checked(blocks=Range(1, 10**6))
def linear_decay(blocks: int, last: float) -> tuple[float, ...]:
    """Linearly decreasing survival probabilities: ``p_l = 1 - l / L (1 - p_L)``, l = 1 ... L.

    Huang et al. (2016), section 3. At these gates, an unrolled network without stochastic depth equals the one with it
    in eval mode. They also determine how many paths of each length survive a step
    (:func:`resnet_paths.paths.surviving_path_lengths`).

    Args:
        blocks: L, the number of residual blocks.
        last: p_L, in (0, 1]; 0.5 in the paper.

    Raises:
        ValueError: there are no blocks, or the probability is out of range.

    Example:
        >>> linear_decay(4, 0.5)
        (0.875, 0.75, 0.625, 0.5)
    """
    if blocks < 1:
        raise ValueError(f"expected at least one block, got {blocks}")
    _check(last)
    return tuple(1 - index / blocks * (1 - last) for index in range(1, blocks + 1))


@checked
class StochasticDepth(nn.Module):
    """Multiplies a branch by a Bernoulli gate per batch in training, and by its survival probability in eval mode.

    Huang et al. (2016), section 3: ``b_l f_l(x)`` with b_l ~ Bernoulli(p_l) in training, ``p_l f_l(x)`` (the expected
    gate) at evaluation. The draws come from PyTorch's global CPU generator, so that every device draws the same. The
    branch is computed even if it does not survive: this saves no time, but its norms see every batch.

    Args:
        keep: p_l, the probability of survival, in (0, 1].

    Raises:
        ValueError: the probability is out of range.

    Example:
        >>> StochasticDepth(0.75).eval()(torch.ones(2)).tolist()
        [0.75, 0.75]
    """

    def __init__(self, keep: float) -> None:
        super().__init__()
        _check(keep)
        self.keep = keep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The branch times its gate, with the same shape."""
        if not self.training:
            return x * self.keep
        return x * float(torch.rand((), device="cpu") < self.keep)

    def extra_repr(self) -> str:
        """The survival probability."""
        return f"keep={self.keep:g}"


def _check(keep: float) -> None:
    if not 0 < keep <= 1:
        raise ValueError(
            f"expected a survival probability above 0 and up to 1, got {keep}; 1 turns stochastic depth off"
        )
