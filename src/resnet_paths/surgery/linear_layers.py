"""Convolutions and linear layers as matrices, and their inputs as rows of features.

A layer that is linear in its weights computes ``u = W f + b``, where f is the patch that a convolution reads at a
position, or the vector that a linear layer reads. GPT-2 stores the transpose of W. The rows of a batch are its
positions. A convolution of an image has thousands of them, and neighbours are similar, so a random sample of positions,
drawn anew for each batch, determines the fit as well as all of them.
"""

from __future__ import annotations

from itertools import product
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..graph.hooks import is_hooked


class Transposed(nn.Module):
    """A linear layer whose weights are stored as (features, outputs): ``x @ weight + bias``.

    Args:
        weight: (features, outputs).
        bias: (outputs,) or None.

    Example:
        >>> layer = Transposed(nn.Parameter(torch.tensor([[1.0, 2.0]])), None)
        >>> layer(torch.tensor([[3.0]])).tolist()
        [[3.0, 6.0]]
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output."""
        product = x @ self.weight
        return product if self.bias is None else product + self.bias


Layer = nn.Linear | _ConvNd | Transposed
_PLAIN = {nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward}


def is_linear_layer(module: nn.Module | None) -> TypeGuard[Layer]:
    """Whether a module is one of PyTorch's own convolutions or linear layers, without hooks or parametrizations.

    Example:
        >>> is_linear_layer(nn.Conv2d(1, 1, 1)), is_linear_layer(nn.ReLU())
        (True, False)
    """
    if not isinstance(module, (nn.Linear, _ConvNd)) or type(module).forward not in _PLAIN:
        return False
    return not (hasattr(module, "parametrizations") or is_hooked(module))


def is_convolution(layer: Layer) -> TypeGuard[_ConvNd]:
    """Whether a layer reads patches, one per position and example, with channels after the examples."""
    return isinstance(layer, _ConvNd)


def groups_of(layer: Layer) -> int:
    """The number of channel groups that have separate inputs."""
    return layer.groups if is_convolution(layer) else 1


def matrix_of(layer: Layer) -> torch.Tensor:
    """The weights as (groups, features, outputs), a view."""
    if isinstance(layer, Transposed):
        return layer.weight.detach()[None]
    groups = groups_of(layer)
    return layer.weight.detach().reshape(groups, layer.weight.shape[0] // groups, -1).mT


def weight_of(layer: Layer, rows: torch.Tensor) -> torch.Tensor:
    """Weights given as (outputs, features), in the shape and dtype in which the layer stores them.

    Example:
        >>> weight_of(nn.Conv2d(2, 3, 1), torch.zeros(3, 2)).shape
        torch.Size([3, 2, 1, 1])
    """
    return (rows.mT if isinstance(layer, Transposed) else rows).reshape(layer.weight.shape).to(layer.weight)


def channel_axis(layer: Layer, output: torch.Tensor) -> int:
    """The dimension of the channels in a layer's output: after the examples (convolutions), or the last (linear)."""
    return 1 if is_convolution(layer) else output.ndim - 1


def positions_of(layer: Layer, output: torch.Tensor) -> int:
    """The number of positions at which the layer is applied: per image (convolutions), or in the batch (linear)."""
    return output[0, 0].numel() if is_convolution(layer) else output[..., 0].numel()


def rows_of(layer: Layer, values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Values shaped like the layer's output, taken at the positions, as (rows, channels)."""
    if is_convolution(layer):
        return values.flatten(2)[:, :, positions].movedim(1, 2).flatten(0, 1)
    return values.flatten(0, -2)[positions]


def features_of(layer: Layer, source: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The layer's inputs at the positions of its output, (groups, rows, features), rows as in `rows_of`."""
    if is_convolution(layer):
        return _patches(layer, source, positions)
    return source.flatten(0, -2)[positions][None]


def _patches(layer: _ConvNd, source: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The patches of a convolution in any number of dimensions, gathered one kernel offset at a time.

    ``F.unfold`` would build the patches at all positions, and knows two dimensions only.
    """
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    padded = _padded(layer, source)
    sizes = padded.shape[2:]
    spans = zip(sizes, kernel, stride, dilation, strict=True)
    output = [(size - d * (k - 1) - 1) // s + 1 for size, k, s, d in spans]
    corners = torch.unravel_index(positions, output)
    taps = []
    flat = padded.flatten(2)
    for offset in product(*map(range, kernel)):
        index = torch.zeros_like(positions)
        for corner, tap, size, s, d in zip(corners, offset, sizes, stride, dilation, strict=True):
            index = index * size + corner * s + tap * d
        taps.append(flat[:, :, index])
    patches = torch.stack(taps, -1)  # (images, channels, positions, kernel)
    images, channels, count, offsets = patches.shape
    grouped = patches.reshape(images, layer.groups, channels // layer.groups, count, offsets)
    return grouped.permute(1, 0, 3, 2, 4).reshape(layer.groups, images * count, -1)


def _padded(layer: _ConvNd, source: torch.Tensor) -> torch.Tensor:
    """The input with the convolution's padding."""
    pad = layer._reversed_padding_repeated_twice
    if not any(pad):
        return source
    if layer.padding_mode == "zeros":
        return F.pad(source, pad)
    return F.pad(source, pad, mode=layer.padding_mode)
