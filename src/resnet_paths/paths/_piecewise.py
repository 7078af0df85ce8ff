"""Which pieces of a network are piecewise linear, so that freezing their activation pattern makes them affine.

It lists the operations known to be so. An unknown one counts as curved, which only means that its remainder is
reported.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..arguments import checked
from ..choices import Linearisation
from ..graph.hooks import is_hooked
from ..models import ZeroPadShortcut
from ..network import UnrolledNetwork
from .frozen import has_frozen_map

_MODULES: tuple[type[nn.Module], ...] = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.padding._ConstantPadNd,
    nn.modules.padding._ReflectionPadNd,
    nn.modules.padding._ReplicationPadNd,
    nn.Linear,
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.Upsample,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.Hardtanh,
    nn.Hardsigmoid,
    nn.Threshold,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
    ZeroPadShortcut,
)
_BY_NAME = {"StochasticDepth", "DropPath", "Permute", "FastAdaptiveAvgPool"}
"""Classes of torchvision and timm, which need not be installed."""
_FUNCTIONS: set[Any] = {
    operator.add, operator.sub, operator.neg, operator.getitem, torch.add, torch.sub, torch.flatten, torch.cat,
    torch.stack, torch.mean, torch.sum, torch.relu, torch.reshape, torch.permute, torch.transpose, torch.squeeze,
    torch.unsqueeze, torch.unbind, torch.chunk, torch.split, torch.roll, F.relu, F.relu6, F.leaky_relu, F.hardtanh,
    F.pad, F.avg_pool1d, F.avg_pool2d, F.max_pool1d, F.max_pool2d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d,
    F.adaptive_max_pool2d, F.dropout,
}  # fmt: skip
_METHODS = {
    "add", "sub", "neg", "relu", "view", "reshape", "flatten", "mean", "sum", "permute", "transpose", "squeeze",
    "unsqueeze", "contiguous", "unbind", "select", "chunk", "split", "expand", "to", "float", "double", "clone", "roll",
    "unflatten",
}  # fmt: skip
_PRODUCTS: set[Any] = {
    operator.mul, operator.truediv, operator.matmul, torch.mul, torch.div, torch.matmul, torch.bmm, torch.addmm,
    F.linear, F.conv1d, F.conv2d, F.conv3d,
}  # fmt: skip
_PRODUCT_METHODS = {"mul", "div", "matmul", "bmm"}
"""Affine in one factor; the other one may not depend on the input."""


@checked
def curved_operations(net: UnrolledNetwork, *, linearise: Linearisation = "tangent") -> dict[str, tuple[str, ...]]:
    """For each piece after the stem that is not piecewise linear, the operations that make it so.

    An operation that is not known to be piecewise linear counts as curved.

    Args:
        net: an unrolled network in eval mode.
        linearise: ``"frozen"`` leaves out the operations that have a frozen linear map (norms, attention, activations,
            gates; see :func:`logits_by_length`).

    Returns:
        A mapping from ``"NAME: branch"``, ``"NAME: shortcut"`` or ``"NAME: join"`` (what follows a block's sum; the
        head for the last block) to names of operations. Empty for networks of convolutions, batch norms, ReLU and
        pooling.

    Example:
        >>> import torchvision
        >>> from resnet_paths.network import unroll
        >>> curved_operations(unroll(torchvision.models.resnet18().eval()))
        {}
    """
    plan = net.segments
    curved: dict[str, tuple[str, ...]] = {}
    for block, branch, shortcut, join in zip(net, plan.branches, plan.shortcuts, plan.joins, strict=True):
        for kind, piece in (("branch", branch), ("shortcut", shortcut), ("join", join)):
            nodes = [] if piece is None else [node for node, _, _ in piece.steps]
            names = [
                _name(node, net)
                for node in nodes
                if node in plan.flow.carries and not is_linear(node, net, plan.flow.carries, linearise)
            ]
            if names:
                curved[f"{block.name}: {kind}"] = tuple(dict.fromkeys(names))
    return curved


def is_linear(
    node: fx.Node, net: UnrolledNetwork, carries: Collection[fx.Node], linearise: Linearisation = "tangent"
) -> bool:
    """Whether the linear map of a node reproduces its value, but for constants.

    Only nodes in `carries` count as data in products.
    """
    return _is_piecewise_linear(node, net, carries) or (linearise == "frozen" and has_frozen_map(node, net.model))


def _is_piecewise_linear(node: fx.Node, net: UnrolledNetwork, carries: Collection[fx.Node]) -> bool:
    if node.op == "call_module":
        module = net.model.get_submodule(str(node.target))
        is_known = isinstance(module, _MODULES) or type(module).__name__ in _BY_NAME
        return is_known and not is_hooked(module)
    if node.target in _PRODUCTS or _method(node) in _PRODUCT_METHODS:
        sources = [value for value in node.args if isinstance(value, fx.Node) and value in carries]
        divided = node.target in (operator.truediv, torch.div) or _method(node) == "div"
        return len(sources) == 1 and not (divided and node.args[0] is not sources[0])
    return node.target in _FUNCTIONS or _method(node) in _METHODS


def _method(node: fx.Node) -> str | None:
    """The name of the tensor method that a node calls: by name if traced, itself if recorded."""
    if node.op == "call_method":
        return str(node.target)
    name = getattr(node.target, "__name__", "")
    return name if getattr(torch.Tensor, name, None) is node.target else None


def _name(node: fx.Node, net: UnrolledNetwork) -> str:
    if node.op == "call_module":
        return type(net.model.get_submodule(str(node.target))).__name__
    return str(getattr(node.target, "__name__", node.target))
