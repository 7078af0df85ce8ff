"""Pulling gradients back through a chain of convolutions, norms and ReLUs without autograd's engine.

Most branches are such chains. Read off the recorded graph, ``conv, norm, relu, conv, norm`` pulls rows back with two
transposed convolutions and one mask: an eval-mode norm is a factor for each channel, which commutes with the mask and
goes into the weights. The numbers are autograd's, up to the order of rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..graph.fused_convolution import has_fused_convolutions

_TRANSPOSED: dict[int, Callable[..., torch.Tensor]] = {
    3: torch.conv_transpose1d,
    4: torch.conv_transpose2d,
    5: torch.conv_transpose3d,
}


@dataclass(frozen=True, eq=False)
class Chain:
    """A piece of a recorded graph, from its output back to its input.

    Attributes:
        steps: what to do to rows, in order: a mask is a tensor (its positive entries pass), a factor for each channel a
            :class:`Scale`, a convolution a :class:`Spread`.
        dtype: the output's, which autograd casts rows to.
    """

    steps: tuple[torch.Tensor | Scale | Spread, ...]
    dtype: torch.dtype

    @property
    def mask(self) -> torch.Tensor | None:
        """The mask, if the chain is one ReLU and nothing else."""
        return self.steps[0] if len(self.steps) == 1 and isinstance(self.steps[0], torch.Tensor) else None

    @property
    def stored_channels_last(self) -> bool:
        """Whether rows that are stored channels last suit it best."""
        convolutions = [step for step in self.steps if isinstance(step, Spread)]
        return any(step.weight.ndim == 4 and step.weight.device.type == "cpu" for step in convolutions)

    @torch.no_grad()
    def pull(self, rows: torch.Tensor, onto: torch.Tensor | None = None) -> torch.Tensor:
        """Rows (rows, batch, ...) at the output as rows at the input, added `onto` others if these are given."""
        rows = rows.to(self.dtype)
        count, owned = rows.shape[:2], False
        for place, step in enumerate(self.steps):
            if isinstance(step, Spread):
                last = place + 1 == len(self.steps)
                apart = owned or onto is None or not share_memory(rows, onto)  # it reads rows while it writes
                if last and apart and onto is not None and step.add(rows.flatten(0, 1), onto.flatten(0, 1)):
                    return onto
                rows, owned = step(rows.flatten(0, 1)).unflatten(0, count), True
            elif isinstance(step, Scale):
                rows, owned = rows * step.factor, True
            elif owned:
                torch.ops.aten.threshold_backward.grad_input(rows, step.expand_as(rows), 0, grad_input=rows)
            else:
                rows, owned = torch.ops.aten.threshold_backward(rows, step.expand_as(rows), 0), True
        if onto is None:
            return rows
        onto += rows
        return onto


@dataclass(frozen=True, eq=False)
class Scale:
    """A factor for each channel, (channels, 1, ...)."""

    factor: torch.Tensor


@dataclass(frozen=True, eq=False)
class Spread:
    """The transpose of a convolution."""

    weight: torch.Tensor
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    turned: torch.Tensor | None  # the weight of an ordinary convolution that does the same

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (n, channels out, ...) as (n, channels in, ...)."""
        settings = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return _TRANSPOSED[self.weight.ndim](rows, self.weight, None, *settings)

    def add(self, rows: torch.Tensor, onto: torch.Tensor) -> bool:
        """Add the result onto a value while it is computed, if that can be done here; whether it was."""
        if self.turned is None or not _fusible(rows) or not _fusible(onto) or not has_fused_convolutions():
            return False
        padding = [d * (k - 1) - p for d, k, p in zip(self.dilation, self.weight.shape[2:], self.padding, strict=True)]
        if min(padding) < 0:
            return False
        settings = (self.turned, None, padding, [1, 1], self.dilation, self.groups)
        torch.ops.mkldnn._convolution_pointwise_.binary(onto, rows, *settings, "add", 1.0, None, [], None)
        return True


class HooksNoted(TorchFunctionMode):
    """Within the block it is noted whether the pass put a hook on a tensor, or reached for a node of the graph.

    Such hooks may change gradients, and cannot be read off the graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self.any = False
        node: Any = torch.Tensor.grad_fn
        self._telling = (torch.Tensor.register_hook, node.__get__)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note and call."""
        self.any = self.any or func in self._telling
        return func(*args, **(kwargs or {}))


def chain_between(output: torch.Tensor, start: torch.Tensor) -> Chain | None:
    """The graph from a value back to an earlier one as a chain; None if it holds anything but its three kinds of layer.

    Layers in training mode, transposed ones, and weights that were computed in the pass (or are the earlier value)
    are none of them either.
    """
    if not output.requires_grad or not start.requires_grad:
        return None
    steps: list[torch.Tensor | Scale | Spread] = []
    factor: torch.Tensor | None = None
    edge, end = _edge(output), _edge(start)
    while edge != end:
        node = edge[0]
        name = "" if node is None else node.name()
        if name == "ReluBackward0":
            steps.append(_as_rows(node._saved_result))
        elif name == "NativeBatchNormBackward0" and not node._saved_training and _has_leaves(node, end):
            own = _factor(node)
            factor = own if factor is None else factor * own
        elif name == "ConvolutionBackward0" and not node._saved_transposed and _has_leaves(node, end):
            steps.append(_spread(node, factor))
            factor = None
        else:
            return None
        edge = tuple(node.next_functions[0])
    if factor is not None:
        steps.append(Scale(factor.to(start.dtype).view(-1, *[1] * (start.ndim - 2))))
    return Chain(tuple(steps), output.dtype)


def _edge(value: torch.Tensor) -> tuple[Any, int]:
    edge = torch.autograd.graph.get_gradient_edge(value)
    return edge.node, edge.output_nr


def _has_leaves(node: Any, end: tuple[Any, int]) -> bool:
    """Whether a layer's weights are parameters, buffers or constants, so that its input alone leads further back."""
    others = [edge for edge in node.next_functions[1:] if edge[0] is not None]
    return all(hasattr(other, "variable") and (other, place) != end for other, place in others)


def _factor(node: Any) -> torch.Tensor:
    """γ/√(σ²+ε) of an eval-mode norm."""
    factor: torch.Tensor = (node._saved_running_var.detach() + node._saved_eps).rsqrt()
    return factor if node._saved_weight is None else factor.mul(node._saved_weight.detach())


def _spread(node: Any, factor: torch.Tensor | None) -> Spread:
    weight, groups = node._saved_weight.detach(), node._saved_groups
    if factor is not None:
        weight = weight * factor.to(weight.dtype).view(-1, *[1] * (weight.ndim - 1))
    weight = _as_rows(weight)
    stride, padding, dilation = node._saved_stride, node._saved_padding, node._saved_dilation
    sides = zip(node._saved_input.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    left = tuple((size + 2 * pad - step * (kernel - 1) - 1) % by for size, kernel, by, pad, step in sides)
    turned = None
    if weight.ndim == 4 and weight.device.type == "cpu" and weight.dtype is torch.float32 and set(stride) == {1}:
        turned = _as_rows(_turned(weight, groups))
    return Spread(weight, stride, padding, left, dilation, groups, turned)


def _turned(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """The weight with which an ordinary convolution of stride one is the transpose of that with this weight."""
    out, inside = weight.shape[:2]
    apart = weight.reshape(groups, out // groups, inside, *weight.shape[2:]).transpose(1, 2)
    return apart.reshape(groups * inside, out // groups, *weight.shape[2:]).flip(2, 3)


def _as_rows(value: torch.Tensor) -> torch.Tensor:
    """A value stored as rows are pulled soonest: channels last for images on a CPU."""
    value = value.detach()
    last = value.ndim == 4 and value.device.type == "cpu"
    return value.contiguous(memory_format=torch.channels_last) if last else value


def share_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors lie in one piece of memory, so that writing to one may change the other."""
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _fusible(value: torch.Tensor) -> bool:
    """Whether oneDNN can add onto this value where it lies: float32 and stored channels last, without ambiguity."""
    last = value.is_contiguous(memory_format=torch.channels_last) and not value.is_contiguous()
    return last and value.dtype is torch.float32 and value.device.type == "cpu"
