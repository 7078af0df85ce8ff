"""Which operations of a graph are additions, activations, questions of shape, or changes in place."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from .errors import UnrollError

_ADD_FUNCTIONS = {operator.add, operator.iadd, torch.add, torch.Tensor.add, torch.Tensor.add_}
_ADD_METHODS = {"add", "add_", "__add__", "__radd__", "__iadd__"}

_ACTIVATION_FUNCTIONS = {
    torch.relu, torch.sigmoid, torch.tanh, F.relu, F.relu6, F.gelu, F.silu, F.hardswish, F.leaky_relu, F.elu,
    F.selu, F.celu, F.mish, F.softplus, F.hardtanh, F.hardsigmoid, F.tanh, F.sigmoid, F.rrelu, F.prelu,
    torch.Tensor.relu, torch.Tensor.sigmoid, torch.Tensor.tanh,
}  # fmt: skip
_ACTIVATION_METHODS = {"relu", "sigmoid", "tanh"}
_ATTENTION = (nn.MultiheadAttention,)

_SHAPE_ATTRIBUTES = {"shape", "ndim", "device", "dtype", "is_cuda", "requires_grad", "layout", "itemsize"}
_SHAPE_METHODS = {
    "size", "dim", "numel", "nelement", "ndimension", "stride", "get_device", "type", "is_contiguous",
    "is_floating_point", "element_size", "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor",
}  # fmt: skip
_SHAPE_FUNCTIONS = {
    len, torch.zeros_like, torch.ones_like, torch.empty_like, torch.full_like, torch.rand_like,
    torch.randn_like, torch.numel, torch.is_floating_point, torch.Tensor.size, torch.Tensor.dim,
    torch.Tensor.new_zeros, torch.Tensor.new_ones, torch.Tensor.new_full, torch.Tensor.new_empty,
    isinstance, torch._assert,
}  # fmt: skip

_WEIGHTED_FUNCTIONS = {F.conv1d, F.conv2d, F.conv3d, F.linear, torch.matmul, torch.einsum, operator.matmul}


def is_add(node: fx.Node) -> bool:
    """Whether a node adds two values with coefficient one."""
    if node.kwargs.get("alpha", 1) != 1:
        return False
    if node.op == "call_function":
        return node.target in _ADD_FUNCTIONS
    return node.op == "call_method" and node.target in _ADD_METHODS


def same_answer(value: torch.Tensor, expected: Any, where: str) -> None:
    """What a recorded forward asked of its input's values must be answered as on the example.

    Raises:
        UnrollError: it is not, so the model would run other operations.
    """
    if torch._C._functorch.is_functorch_wrapped_tensor(value):
        return
    if (bool(value) if isinstance(expected, bool) else value.tolist()) == expected:
        return
    raise UnrollError(
        f"expected an input for which {where or 'the model'} decides as it did on the example ({expected}), got one "
        "for which it decides otherwise, and runs other operations (a mask with padding where the example had none); "
        "unroll the model with an example of this kind"
    )


def is_concatenation(node: fx.Node) -> bool:
    """Whether a node puts values side by side, as dense networks do instead of adding them."""
    return node.op == "call_function" and node.target in {torch.cat, torch.concat, torch.concatenate}


def sums_without_alpha(graph: fx.Graph) -> None:
    """Each ``add(x, y, alpha=a)`` as ``x + y * a``, in place, so that its second term is a node."""
    for node in list(graph.nodes):
        alpha = node.kwargs.get("alpha", 1)
        plain = node.target in _ADD_FUNCTIONS or (node.op == "call_method" and node.target in _ADD_METHODS)
        if alpha == 1 or not plain or list(node.kwargs) != ["alpha"] or len(node.args) != 2:
            continue
        with graph.inserting_before(node):
            scaled = graph.call_function(operator.mul, (node.args[1], alpha))
        scaled.meta["call"] = node.meta["call"]
        node.args, node.kwargs = (node.args[0], scaled), {}


def is_activation(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node is an elementwise activation."""
    if node.op == "call_module":
        place = type(module).__module__ == "torch.nn.modules.activation"
        return place and not isinstance(module, _ATTENTION)
    if node.op == "call_function":
        return node.target in _ACTIVATION_FUNCTIONS
    return node.op == "call_method" and node.target in _ACTIVATION_METHODS


def asks_shape(node: fx.Node) -> bool:
    """Whether a node reads only the shape, type or device of its arguments, not their values."""
    if node.op == "call_method":
        return node.target in _SHAPE_METHODS
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return len(node.args) > 1 and node.args[1] in _SHAPE_ATTRIBUTES
    return node.target in _SHAPE_FUNCTIONS


def is_weighted(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node is a weighted layer: it mixes channels with a learned (or computed) matrix."""
    if node.op == "call_module":
        return module is not None and any(parameter.ndim >= 2 for parameter in module.parameters())
    if node.op == "call_function":
        return node.target in _WEIGHTED_FUNCTIONS
    return node.op == "call_method" and node.target in {"matmul", "bmm", "__matmul__"}
