"""The leading singular values and vectors of a function's Jacobian at each example, without forming it.

scipy's ``svds`` needs one operator for each example and copies between NumPy and torch; here one product serves all
examples of a batch, because their Jacobians are the blocks of one block-diagonal matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..draws import normal, seeded
from .pulling import gradients
from .pushing import push

Function = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class LeadingSingular:
    """The largest singular values of the Jacobian at each example.

    Attributes:
        values: (examples, rank), in descending order.
        left: left singular vectors, (examples, rank, outputs).
        right: right singular vectors, (examples, rank, inputs).
        errors: how far ``J^T u`` is from ``s v``, (examples, rank); a singular value lies within this of each value.
        remainder: the squared Frobenius norm of the rest of the Jacobian, estimated, (examples,).
    """

    values: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    errors: torch.Tensor
    remainder: torch.Tensor


@torch.inference_mode(False)
def leading_singular(
    function: Function, x: torch.Tensor, rank: int, *, steps: int | None = None, probes: int = 8, seed: int = 0
) -> LeadingSingular:
    """The leading singular values and vectors of a function's Jacobian, by Lanczos bidiagonalisation.

    Golub and Kahan (1965), with full reorthogonalisation: each step multiplies by J and by its transpose. The rest of
    the Jacobian, ``J (I - V V^T)``, is multiplied by Gaussian vectors, whose mean squared norm is its squared
    Frobenius norm.

    Args:
        function: treats the examples of a batch independently.
        x: (examples, ...); in half precision, only the products are computed in it.
        rank: number of singular values; fewer if the Jacobian has a smaller dimension.
        steps: of the bidiagonalisation (default: 4 rank + 20, at most the smaller dimension, then exact).
        probes: number of Gaussian vectors for the rest.
        seed: of the first vector and of the probes.

    Raises:
        ValueError: a product with a Jacobian is not finite.

    Cost: ``steps + probes`` Jacobian-vector and `steps` vector-Jacobian products. Memory: 2 `steps` vectors per
    example.

    Example:
        >>> matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
        >>> leading_singular(lambda x: x @ matrix, torch.ones(1, 3), 2).values
        tensor([[3.0000, 2.0000]])
    """
    product = _Products(function, x)
    inputs, outputs = x[0].numel(), product.output[0].numel()
    smaller = min(inputs, outputs)
    steps = min(smaller, 4 * rank + 20 if steps is None else steps)
    generator = seeded(seed)

    wide = x.new_zeros(0, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)

    def drawn(size: int) -> torch.Tensor:
        return normal((len(x), size), generator).to(wide)

    lefts, rights = wide.new_zeros(len(x), steps, outputs), wide.new_zeros(len(x), steps, inputs)
    diagonal, above = wide.new_zeros(len(x), steps), wide.new_zeros(len(x), steps)
    right, _ = _unit(drawn(inputs), rights[:, :0], drawn)
    for step in range(steps):
        rights[:, step] = right
        left, diagonal[:, step] = _unit(product.by(right), lefts[:, :step], drawn)
        lefts[:, step] = left
        right, above[:, step] = _unit(product.transposed(left), rights[:, : step + 1], drawn)
    small = torch.diag_embed(diagonal) + torch.diag_embed(above[:, :-1], 1)
    if not bool(small.isfinite().all()):
        raise ValueError(
            "expected finite products with the Jacobians, got NaN or infinity; look for them in the input and in the "
            "model's weights"
        )
    p, values, q = torch.linalg.svd(small)
    kept = min(rank, steps)
    left, right = (p.mT @ lefts)[:, :kept], (q @ rights)[:, :kept]
    remainder = wide.new_zeros(len(x))
    for _ in range(probes if kept < smaller else 0):
        probe = drawn(inputs)
        probe = probe - (right.mT @ (right @ probe[..., None]))[..., 0]
        remainder += product.by(probe).square().sum(1) / probes
    errors = above[:, -1:] * p[:, -1, :kept].abs()
    return LeadingSingular(values[:, :kept], left, right, errors, remainder)


class _Products:
    """Products with the Jacobians of all examples, as flat rows."""

    def __init__(self, function: Function, x: torch.Tensor) -> None:
        self._function = function
        self.x = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            self.output = function(self.x)

    def by(self, rows: torch.Tensor) -> torch.Tensor:
        """J v for each example."""
        tangents = rows.view(1, *self.x.shape).to(self.x.dtype)
        return push(self._function, (self.x.detach(),), (tangents,))[0].flatten(1).to(rows.dtype)

    def transposed(self, rows: torch.Tensor) -> torch.Tensor:
        """J^T u for each example."""
        (pulled,) = gradients(self.output, [self.x], rows.view(self.output.shape).to(self.output.dtype))
        return torch.zeros_like(rows) if pulled is None else pulled.flatten(1).to(rows.dtype)


def _unit(
    vectors: torch.Tensor, basis: torch.Tensor, drawn: Callable[[int], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each vector with its projection on the basis removed, scaled to norm 1, and its norm before scaling.

    Where nothing is left, the norm is 0 and the vector a random one orthogonal to the basis (Lanczos restarts there),
    or zero if the basis spans everything.
    """
    size = vectors.norm(dim=1)
    rest = _without(vectors, basis)
    norm = rest.norm(dim=1)
    lost = norm <= 100 * torch.finfo(vectors.dtype).eps * size
    if bool(lost.any()):
        fresh = _without(drawn(vectors.shape[1]), basis)
        none = fresh.norm(dim=1) <= 1e-4  # random vectors have norms about the root of their dimension
        fresh = torch.where(none[:, None], 0.0, fresh)
        rest = torch.where(lost[:, None], fresh, rest)
    length = rest.norm(dim=1, keepdim=True)
    return rest / torch.where(length > 0, length, 1.0), torch.where(lost, 0.0, norm)


def _without(vectors: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    for _ in range(2):  # twice is enough to reach working precision
        vectors = vectors - (basis.mT @ (basis @ vectors[..., None]))[..., 0]
    return vectors
