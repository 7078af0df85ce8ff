"""A copy of a network whose weights are exact in half precision, so that they take two bytes each when serialised.

It computes in float64: its outputs depend on the rounded weights alone, not on the order of sums. So another program
with the same weights agrees to many digits, and every difference from the original network comes from the rounding.
"""

from __future__ import annotations

import torch
from torch import nn

from ..arguments import checked
from ..graph.errors import UnrollError
from .inference import for_inference
from .norms import BatchNorm, batch_norms, scale_and_shift
from .unrolled import UnrolledNetwork


@checked
def half_precision_copy(net: UnrolledNetwork) -> UnrolledNetwork:
    """The same network in float64, with norms folded and every weight rounded to float16.

    Norms that cannot be folded become ``scale * x + shift`` with scale ``γ/√(σ²+ε)`` and shift ``β - μ scale``, both
    rounded. Neither the network nor its model is changed.

    Args:
        net: an unrolled network in eval mode.

    Raises:
        UnrollError: a weight is too large for float16 (above 65,504), or the model is in training mode.

    Cost: a copy of the model, and unrolling it.

    Example:
        >>> from resnet_paths.models import cifar_resnet
        >>> from resnet_paths.network import unroll
        >>> net = unroll(cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0).eval())
        >>> weight = half_precision_copy(net).model.conv1.weight
        >>> weight.dtype, torch.equal(weight, weight.half().double())
        (torch.float64, True)
    """
    copy = for_inference(net, channels_last=False, dtype=torch.float64)
    norms = batch_norms(copy.model)
    statistics = set()
    for norm in norms.values():
        if norm.running_mean is not None and norm.running_var is not None:
            _as_affine(norm)
            statistics |= {id(norm.running_mean), id(norm.running_var)}
    for name, tensor in (*copy.model.named_parameters(), *copy.model.named_buffers()):
        if tensor.is_floating_point() and id(tensor) not in statistics:
            _round(name, tensor)
    return copy


@torch.no_grad()
def _as_affine(norm: BatchNorm) -> None:
    """Move mean and variance into scale and shift, so that the effective coefficients are what gets rounded."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale, shift = scale_and_shift(mean, variance, norm.weight, norm.bias, norm.eps)
    norm.weight = nn.Parameter(scale, requires_grad=False)
    norm.bias = nn.Parameter(shift, requires_grad=False)
    mean.zero_()
    variance.fill_(1 - norm.eps)


@torch.no_grad()
def _round(name: str, tensor: torch.Tensor) -> None:
    rounded = tensor.half()
    if not bool(torch.isfinite(rounded).all()):
        raise UnrollError(f"expected weights that float16 can hold (up to 65,504), got {name}, which has larger ones")
    tensor.copy_(rounded)
