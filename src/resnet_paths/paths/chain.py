"""Pull gradients back through a chain of convolutions, norms and ReLUs without autograd's engine.

Most branches are such chains. Derived from the recorded graph, ``conv, norm, relu, conv, norm`` pulls rows back with
two transposed convolutions and one mask: an eval-mode norm is a factor per channel, which commutes with the mask and is
folded into the weights. Autograd's engine would run each operation under vmap instead, 1.6 to 1.9 times as slowly on a
CPU (`pulling.py`). The numbers are autograd's, up to the order of rounding.
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
        steps: the operations on rows, in order: a tensor is a mask (rows pass at its positive entries), a
            :class:`Scale` a factor per channel, a :class:`Spread` a convolution.
        dtype: the output's dtype, which autograd casts rows to.
    """

    steps: tuple[torch.Tensor | Scale | Spread, ...]
    dtype: torch.dtype

    @property
    def mask(self) -> torch.Tensor | None:
        """The mask, if the chain is one ReLU and nothing else."""
        return self.steps[0] if len(self.steps) == 1 and isinstance(self.steps[0], torch.Tensor) else None

    @property
    def stored_channels_last(self) -> bool:
        """Whether it is fastest on rows stored channels last."""
        convolutions = [step for step in self.steps if isinstance(step, Spread)]
        return any(step.weight.ndim == 4 and step.weight.device.type == "cpu" for step in convolutions)

    @torch.no_grad()
    def pull(self, rows: torch.Tensor, onto: torch.Tensor | None = None) -> torch.Tensor:
        """Rows (rows, batch, ...) at the output as rows at the input, added to `onto` if given."""
        rows = rows.to(self.dtype)
        count, owned = rows.shape[:2], False
        for position, step in enumerate(self.steps):
            if isinstance(step, Spread):
                last = position + 1 == len(self.steps)
                # The convolution reads rows while it writes.
                separate = owned or onto is None or not share_memory(rows, onto)
                if last and separate and onto is not None and step.add(rows.flatten(0, 1), onto.flatten(0, 1)):
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
    """A factor per channel, (channels, 1, ...)."""

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
    flipped: torch.Tensor | None  # the weight of an ordinary convolution that does the same

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (n, channels out, ...) as (n, channels in, ...)."""
        settings = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return _TRANSPOSED[self.weight.ndim](rows, self.weight, None, *settings)

    def add(self, rows: torch.Tensor, onto: torch.Tensor) -> bool:
        """Add the result to a value while it is computed; False if that is not possible here."""
        if self.flipped is None or not _fusible(rows) or not _fusible(onto) or not has_fused_convolutions():
            return False
        padding = [d * (k - 1) - p for d, k, p in zip(self.dilation, self.weight.shape[2:], self.padding, strict=True)]
        if min(padding) < 0:
            return False
        settings = (self.flipped, None, padding, [1, 1], self.dilation, self.groups)
        torch.ops.mkldnn._convolution_pointwise_.binary(onto, rows, *settings, "add", 1.0, None, [], None)
        return True


class HooksNoted(TorchFunctionMode):
    """Within the block, record whether the pass puts a hook on a tensor or accesses a node of the autograd graph.

    Such hooks may change gradients, and cannot be derived from the graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self.any = False
        node: Any = torch.Tensor.grad_fn
        self._hooking = (torch.Tensor.register_hook, node.__get__)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record and call."""
        self.any = self.any or func in self._hooking
        return func(*args, **(kwargs or {}))


def chain_between(output: torch.Tensor, start: torch.Tensor) -> Chain | None:
    """The graph from a value back to an earlier one as a chain; None if it contains any other kind of operation.

    None also for layers in training mode, transposed convolutions, and weights that were computed in the pass (or are
    the earlier value).
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
            norm_factor = _factor(node)
            factor = norm_factor if factor is None else factor * norm_factor
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
    """Whether a layer's weights are parameters, buffers or constants, so that only its input leads further back."""
    others = [edge for edge in node.next_functions[1:] if edge[0] is not None]
    return all(hasattr(other, "variable") and (other, position) != end for other, position in others)


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
    output_padding = tuple((size + 2 * pad - step * (kernel - 1) - 1) % by for size, kernel, by, pad, step in sides)
    flipped = None
    if weight.ndim == 4 and weight.device.type == "cpu" and weight.dtype is torch.float32 and set(stride) == {1}:
        flipped = _as_rows(_flipped(weight, groups))
    return Spread(weight, stride, padding, output_padding, dilation, groups, flipped)


def _flipped(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """The weight that makes an ordinary convolution of stride one the transpose of the one with this weight."""
    out, inside = weight.shape[:2]
    by_group = weight.reshape(groups, out // groups, inside, *weight.shape[2:]).transpose(1, 2)
    return by_group.reshape(groups * inside, out // groups, *weight.shape[2:]).flip(2, 3)


def _as_rows(value: torch.Tensor) -> torch.Tensor:
    """A value stored so that rows are pulled back fastest: channels last for images on a CPU."""
    value = value.detach()
    last = value.ndim == 4 and value.device.type == "cpu"
    return value.contiguous(memory_format=torch.channels_last) if last else value


def share_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors share storage, so that writing to one may change the other."""
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _fusible(value: torch.Tensor) -> bool:
    """Whether oneDNN can add to this value in place: float32, and unambiguously stored channels last."""
    last = value.is_contiguous(memory_format=torch.channels_last) and not value.is_contiguous()
    return last and value.dtype is torch.float32 and value.device.type == "cpu"
