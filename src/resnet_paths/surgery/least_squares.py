"""Linear maps fitted to targets by normal equations that are accumulated over batches.

Only the Gram matrix of the features and their products with the targets are kept, so memory does not grow with the
number of rows. Both are summed in float64, since thousands of batches in float32 would lose the digits that a badly
conditioned system needs.
"""

from __future__ import annotations

import torch

_SAFE = 1e-8
"""From this ridge on, Cholesky factors keep half of the digits of float64, in a fifth of the time of `eigh`."""


class LeastSquares:
    """``min over V of  sum_r |V f_r - t_r|^2 + ridge m |V - V_0|^2``, one problem for each group of channels.

    m is the mean of the Gram matrix's diagonal, which makes `ridge` dimensionless. Groups are those of a grouped
    convolution: each has its own features and outputs.

    Args:
        groups: number of groups.
        features: features per group.
        outputs: outputs per group.

    Example:
        >>> problem = LeastSquares(1, 2, 1)
        >>> rows = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
        >>> problem.add(rows, torch.tensor([[[2.0], [3.0], [5.0]]]))
        >>> problem.solve(torch.zeros(1, 2, 1), ridge=0.0).flatten().round(decimals=9).tolist()
        [2.0, 3.0]
    """

    def __init__(self, groups: int, features: int, outputs: int) -> None:
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64, device="cpu")  # MPS has no float64

        self.gram = zeros(groups, features, features)
        self.products = zeros(groups, features, outputs)
        self.squares = zeros(groups)
        self.rows = 0

    def add(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        """Add rows of features, (groups, rows, features), and of targets, (groups, rows, outputs)."""
        self.gram += _summed(features.mT @ features)
        self.products += _summed(features.mT @ targets)
        self.squares += _summed(targets.square().sum(1)).sum(1)
        self.rows += features.shape[1]

    def solve(self, old: torch.Tensor, ridge: float) -> torch.Tensor:
        """The solution, (groups, features, outputs) in float64, drawn towards `old` by the ridge.

        Directions that the rows do not determine (fewer rows than features, channels that are always zero) keep their
        values in `old`: the correction has minimum norm.
        """
        old = old.double()
        scale = self.gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float64).tiny)
        eye = torch.eye(self.gram.shape[1], dtype=torch.float64, device="cpu")
        matrix = self.gram / scale[:, None, None] + ridge * eye
        residual = (self.products - self.gram @ old) / scale[:, None, None]
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if ridge >= _SAFE and not failed.any():
            return old + torch.cholesky_solve(residual, factor)
        values, vectors = torch.linalg.eigh(matrix)
        least = values[:, -1:] * self.gram.shape[1] * torch.finfo(torch.float64).eps
        inverse = torch.where(values > least, 1 / values, 0.0)
        solution: torch.Tensor = old + vectors @ (inverse[..., None] * (vectors.mT @ residual))
        return solution

    def objective(self, solution: torch.Tensor) -> float:
        """The sum of squared errors over all rows so far."""
        solution = solution.double()
        quadratic = (solution * (self.gram @ solution - 2 * self.products)).sum((1, 2))
        return float((quadratic + self.squares).sum().clamp_min(0))


def _summed(value: torch.Tensor) -> torch.Tensor:
    """A batch's contribution, on the device and in the dtype of the sums."""
    return value.to("cpu", torch.float64)
