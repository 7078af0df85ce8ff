"""The gradient of parameters split exactly by path length.

It differs from `by_length` in what the recursion leaves behind: there the coefficients at one place, here at each block
a product with the branch's own parameters, while the coefficients pass through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ..arguments import checked
from ..graph.trees import map_leaves
from ..network import BlockRef, UnrolledNetwork
from ..provenance import Provenance, provenance
from ..records import Record
from ._norms import relative_gap
from ._objective import Loss, loss_name
from .forward_pass import pass_of_parameters
from .polynomial import LeafSums, kept_lengths, pull_polynomial


@dataclass(frozen=True, eq=False)
class ParameterGradientByLength(Record):
    """The gradient of a loss with respect to parameters, by path length.

    Attributes:
        loss: the loss's name.
        blocks: names of the blocks whose branches are counted.
        lengths: 0..K, (L,).
        gradient: the gradient by length of each parameter, (L, *shape).
        norms: norm by length of each parameter's gradient, (L,) each.
        total: the ordinary gradient of each parameter.
        residual: ``|sum_k G_k - G| / |G|`` over all parameters; None if `max_length` cut off lengths.
        vjps: number of rows pulled back, by kind of piece.
        looped: pieces whose rows were pulled back one by one because an operation has no batching rule, with the
            reason.
        source: model, data, type and versions.
    """

    DIMENSIONS: ClassVar = {
        "norm": "parameter length",
        "total_norm": "parameter",
    }
    COORDINATES: ClassVar = {"parameter": "parameters", "length": "lengths"}
    TABLE: ClassVar = ("norm",)

    loss: str
    blocks: tuple[str, ...]
    lengths: torch.Tensor
    gradient: Mapping[str, torch.Tensor]
    norms: Mapping[str, torch.Tensor]
    total: Mapping[str, torch.Tensor]
    residual: float | None
    vjps: Mapping[str, int]
    looped: Mapping[str, str]
    source: Provenance = field(repr=False)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters, (p,)."""
        return tuple(self.norms)

    @property
    def norm(self) -> torch.Tensor:
        """The norms of all parameters' gradients by length, (p, L)."""
        return torch.stack(list(self.norms.values()))

    @property
    def total_norm(self) -> torch.Tensor:
        """The norm of each parameter's ordinary gradient, (p,)."""
        return torch.stack([self.total[name].norm() for name in self.norms])


@checked
@torch.inference_mode(False)
def parameter_gradients_by_length(
    net: UnrolledNetwork,
    x: Any,
    target: Any,
    *,
    loss: Loss = "cross_entropy",
    max_length: int | None = None,
    blocks: Sequence[BlockRef] | None = None,
    max_bytes: int | None = None,
) -> ParameterGradientByLength:
    """The gradient of every parameter, split exactly by the number of branches that it flowed back through.

    The length counts the branches from the loss back to the parameter, including the branch that contains it. With G_k
    the gradient of length k at a block's sum (see :func:`gradient_by_length`), a parameter w of its branch b gets

        (db/dw)' G_{k-1},

    and a parameter of a shortcut, of an operation after a sum, of the stem or the head gets ``G_k`` pulled back through
    its own piece. A parameter used several times gets the sum over its uses. So each parameter's coefficients sum to
    its ordinary gradient.

    Args:
        net: the unrolled network, its model in eval mode, with parameters that require gradients.
        x: the model's input, batch first.
        target: class indices (batch,), or whatever the loss accepts.
        loss: as in :func:`gradient_by_length`.
        max_length: keep only the lengths 0..max_length.
        blocks: count only these blocks' branches; a path may pass the others either way.
        max_bytes: as in :func:`gradient_by_length`.

    Returns:
        The coefficients and their norms per parameter.

    Raises:
        ValueError: no parameter requires gradients, or as :func:`gradient_by_length`.

    Cost: two forward passes, one backward pass, and n(n+1)/2 branch products with the parameters' own gradients for n
    blocks in a chain. Memory: as :func:`gradient_by_length`, and n+1 copies of the parameters.

    Source: ours.

    Example:
        >>> import torch, torchvision
        >>> from resnet_paths.network import unroll
        >>> net = unroll(torchvision.models.resnet18(num_classes=5).eval())
        >>> split = parameter_gradients_by_length(net, torch.randn(2, 3, 32, 32), torch.tensor([0, 3]))
        >>> split.gradient["conv1.weight"].shape, split.residual < 1e-4
        (torch.Size([9, 64, 3, 7, 7]), True)
    """
    named = net.model.named_parameters()
    parameters: dict[str, torch.Tensor] = {name: value for name, value in named if value.requires_grad}
    if not parameters:
        raise ValueError(
            "expected parameters that require gradients, got none; call model.requires_grad_(True), or pass the "
            "original network instead of a copy made for inference"
        )
    counted = None if blocks is None else frozenset(net.indices(blocks))
    x = map_leaves(x, _kept_by_autograd)
    record = pass_of_parameters(net, x, target, loss, max_bytes, counted)
    lengths, complete = kept_lengths(record.graph, max_length)
    leaves = LeafSums(parameters, lengths)
    pull_polynomial(record, lengths, leaves=leaves)
    totals = dict(zip(parameters, record.ordinary_gradient(list(parameters.values())), strict=True))
    gradient = {
        name: leaves.sums.get(name, value.new_zeros((lengths, *value.shape)).detach())
        for name, value in parameters.items()
    }
    summed = [value.sum(0) for value in gradient.values()]
    return ParameterGradientByLength(
        loss=loss_name(loss),
        blocks=record.counted_names,
        lengths=torch.arange(lengths, device="cpu"),
        gradient=gradient,
        norms={
            name: torch.linalg.vector_norm(value.reshape(len(value), -1), dim=1) for name, value in gradient.items()
        },
        total=totals,
        residual=relative_gap(summed, list(totals.values())) if complete else None,
        vjps=record.vjps,
        looped=record.looped,
        source=provenance(net.model, [x, target], record.seed.dtype),
    )


def _kept_by_autograd(leaf: Any) -> Any:
    """A clone of an inference tensor, which autograd could not save for the backward pass; any other value as it is."""
    return leaf.clone() if isinstance(leaf, torch.Tensor) and leaf.is_inference() else leaf
