"""A convolution that adds another value and applies ReLU while it writes its output, where oneDNN has one.

It uses private operators of PyTorch (those that its compiler emits), so `has_fused_convolutions` checks for each of
them and callers fall back to the separate operations.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import nn


@cache
def has_fused_convolutions() -> bool:
    """Whether this build of PyTorch has oneDNN's fused convolutions."""
    names = ("_convolution_pointwise", "_convolution_pointwise_", "_is_mkldnn_bf16_supported")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


@cache
def is_available() -> bool:
    """Whether fused convolutions exist and the processor supports bfloat16."""
    return has_fused_convolutions() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fused_convolution(
    layer: nn.Module | None, x: torch.Tensor, other: object = None, *, relu: bool, overwrite: bool = False
) -> torch.Tensor | None:
    """``relu(layer(x) + other)`` in one pass over the output; None where no such operation exists.

    It exists for two-dimensional convolutions in bfloat16 on a CPU, channels last, without autograd. (In float32 the
    separate in-place operations are just as fast and round like the model.)

    Args:
        layer: a module.
        x: its input.
        other: a value of the output's shape to add, or None.
        relu: whether to apply ReLU.
        overwrite: whether `other` may be overwritten.

    Example:
        >>> layer = nn.Conv2d(2, 2, 1)
        >>> fused_convolution(layer, torch.ones(1, 2, 4, 4), relu=True) is None  # float32
        True
    """
    if type(layer) is not nn.Conv2d or not _fits(layer, x):
        return None
    settings = (layer.weight, layer.bias, layer.padding, layer.stride, layer.dilation, layer.groups)
    if other is None:
        return torch.ops.mkldnn._convolution_pointwise(x, *settings, "relu" if relu else "none", [], "")  # type: ignore[no-any-return]
    if not isinstance(other, torch.Tensor) or other.dtype is not x.dtype or other.shape != _shape(layer, x):
        return None
    if not other.is_contiguous(memory_format=torch.channels_last):
        return None
    after: tuple[object, ...] = ("add", 1.0, "relu" if relu else None, [], None)
    if overwrite:
        return torch.ops.mkldnn._convolution_pointwise_.binary(other, x, *settings, *after)  # type: ignore[no-any-return]
    return torch.ops.mkldnn._convolution_pointwise.binary(x, other, *settings, *after)  # type: ignore[no-any-return]


def _fits(layer: nn.Conv2d, x: torch.Tensor) -> bool:
    if x.dtype is not torch.bfloat16 or layer.weight.dtype is not torch.bfloat16 or x.device.type != "cpu":
        return False
    if torch.is_grad_enabled() or x.ndim != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        return False
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str) or not torch.backends.mkldnn.enabled:
        return False
    return is_available()


def _shape(layer: nn.Conv2d, x: torch.Tensor) -> torch.Size:
    sides = [
        (x.shape[2 + k] + 2 * int(layer.padding[k]) - layer.dilation[k] * (layer.kernel_size[k] - 1) - 1)
        // layer.stride[k]
        + 1
        for k in (0, 1)
    ]
    return torch.Size([x.shape[0], layer.out_channels, *sides])
