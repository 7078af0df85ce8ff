"""What an operation of a graph is: an addition, an activation, a layer, a product, a question about shape.

The same operation has many spellings: an operator, a function, a method, an ATen overload. The tables list them all, so
that the rules elsewhere speak of operations and not of spellings. A missing entry can hide a block or admit one too
many, but it cannot change the output at gates of one: the operations themselves run as the model wrote them.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from .errors import UnrollError

aten = torch.ops.aten
_ADD_FUNCTIONS: set[Any] = {
    operator.add, operator.iadd, torch.add, torch.Tensor.add, torch.Tensor.add_, aten.add, aten.add_,
}  # fmt: skip
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

_WEIGHTED_FUNCTIONS: set[Any] = {
    F.conv1d, F.conv2d, F.conv3d, F.linear, torch.conv1d, torch.conv2d, torch.conv3d, torch.matmul, torch.bmm, torch.mm,
    torch.addmm, torch.baddbmm, torch.einsum, operator.matmul, F.scaled_dot_product_attention, aten.convolution,
    aten.conv1d, aten.conv2d, aten.conv3d, aten.linear,
    aten.matmul, aten.bmm, aten.mm, aten.addmm, aten.einsum,
    aten.scaled_dot_product_attention,
}  # fmt: skip
_WEIGHTED_METHODS = {"matmul", "bmm", "mm", "__matmul__"}
_NORM_FUNCTIONS: set[Any] = {
    F.batch_norm, F.layer_norm, F.group_norm, F.instance_norm, F.rms_norm, torch.batch_norm, torch.layer_norm,
    torch.group_norm, aten.batch_norm, aten.layer_norm, aten.group_norm, aten.native_layer_norm,
}  # fmt: skip
_PRODUCTS: set[Any] = {
    operator.mul, operator.imul, torch.mul, torch.multiply, torch.Tensor.mul, torch.Tensor.mul_, aten.mul,
    operator.matmul, torch.matmul, torch.bmm, torch.einsum, aten.matmul, aten.bmm,
    "mul", "mul_", "__mul__", "__rmul__", "matmul", "bmm", "__matmul__",
}  # fmt: skip
_LINEAR_MODULES = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.dropout._DropoutNd, nn.Identity)
_LINEAR_FUNCTIONS: set[Any] = {
    F.conv1d, F.conv2d, F.conv3d, F.linear, torch.conv1d, torch.conv2d, torch.conv3d, aten.convolution, aten.conv1d,
    aten.conv2d, aten.conv3d, aten.linear, F.dropout, torch.dropout, operator.neg, torch.neg,
    torch.Tensor.to, torch.Tensor.float, torch.Tensor.type, "to", "float", "type", "neg", "detach", "contiguous",
}  # fmt: skip
_SCALINGS: set[Any] = {operator.truediv, torch.div, torch.Tensor.div, torch.Tensor.div_, aten.div, "div", "__truediv__"}
_MIXES: set[Any] = {torch.lerp, torch.Tensor.lerp, aten.lerp, "lerp"}
_SPLITS: set[Any] = {
    torch.split, torch.chunk, torch.unbind, torch.tensor_split, torch.split_with_sizes, aten.split, aten.chunk,
    aten.unbind, aten.split_with_sizes, torch.Tensor.split, torch.Tensor.chunk, torch.Tensor.unbind, "split", "chunk",
    "unbind", "tensor_split", "split_with_sizes",
}  # fmt: skip
_PARTS: set[Any] = {
    operator.getitem,
    torch.narrow,
    torch.select,
    aten.slice,
    aten.narrow,
    aten.select,
    "narrow",
    "select",
}
_COMPARISONS = {
    "eq", "ne", "gt", "lt", "ge", "le", "logical_not", "logical_and", "logical_or", "where", "masked_fill", "argmax",
    "argmin", "argsort", "topk", "cumsum", "softmax", "log_softmax", "bool", "long", "int", "embedding",
    "one_hot", "invert",
}  # fmt: skip


def target_of(node: fx.Node) -> Any:
    """A node's function or method; for an ATen operator, without the overload."""
    return node.target.overloadpacket if isinstance(node.target, torch._ops.OpOverload) else node.target


def is_addition(node: fx.Node) -> bool:
    """Whether a node adds, with or without a coefficient, in any spelling of ``+``."""
    if node.op == "call_function":
        return target_of(node) in _ADD_FUNCTIONS
    return node.op == "call_method" and target_of(node) in _ADD_METHODS


def is_add(node: fx.Node) -> bool:
    """Whether a node adds two values with coefficient one (see :mod:`resnet_paths.graph.sums` for the others)."""
    return is_addition(node) and not node.kwargs


def same_answer(value: torch.Tensor | bool, expected: Any, where: str) -> None:
    """Check that a decision of the recorded forward comes out as it did on the example.

    Args:
        value: the tensor that it depends on.
        expected: the value on the example: a bool, an integer, or a list of them.
        where: the module that decides.

    Raises:
        UnrollError: it comes out otherwise, so the model would run other operations.
    """
    if isinstance(value, torch.Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(value):
        return
    if _as_python_value(value, expected) == expected:
        return
    raise UnrollError(
        f"expected an input for which {where or 'the model'} takes the branch taken on the example ({expected}), got "
        "one for which forward() takes another (for instance a mask with padding where the example had none); "
        "unroll the model with an example of this kind"
    )


def _as_python_value(value: torch.Tensor | bool, expected: Any) -> Any:
    """A tensor as the kind of Python value that the forward read."""
    if isinstance(expected, list):
        return value.tolist() if isinstance(value, torch.Tensor) else value
    return bool(value) if isinstance(expected, bool) else int(value)


def of_shape(value: torch.Tensor, expected: tuple[int, ...], where: str) -> torch.Tensor:
    """Return a value whose shape depends on the data, after checking that it has the shape seen on the example.

    Raises:
        UnrollError: it has another shape, so the model would run other operations.
    """
    if tuple(value.shape) == tuple(expected):
        return value
    raise UnrollError(
        f"expected an input for which {where or 'the model'} selects a tensor of shape {tuple(expected)}, as on the "
        f"example, got one of shape {tuple(value.shape)}; unroll the model with an example of this kind"
    )


def is_concatenation(node: fx.Node) -> bool:
    """Whether a node concatenates values, as DenseNets do instead of adding them."""
    return node.op == "call_function" and target_of(node) in {torch.cat, torch.concat, torch.concatenate}


def is_activation(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node is an elementwise activation."""
    if node.op == "call_module":
        is_elementwise = type(module).__module__ == "torch.nn.modules.activation"
        return is_elementwise and not isinstance(module, _ATTENTION)
    if node.op == "call_function":
        return target_of(node) in _ACTIVATION_FUNCTIONS
    return node.op == "call_method" and target_of(node) in _ACTIVATION_METHODS


def asks_shape(node: fx.Node) -> bool:
    """Whether a node reads only the shape, type or device of its arguments, not their values."""
    if node.op == "call_method":
        return target_of(node) in _SHAPE_METHODS
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return len(node.args) > 1 and node.args[1] in _SHAPE_ATTRIBUTES
    return target_of(node) in _SHAPE_FUNCTIONS


_LIKE = {"type_as", "to", "view_as", "reshape_as", "expand_as"}


def like_another(node: fx.Node) -> bool:
    """Whether a node converts its first argument to the shape or type of the second, whose values it does not read."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name.split(".")[0] in _LIKE


def weighted_layers(node: fx.Node, module: nn.Module | None) -> int:
    """The number of weighted layers in a node: operations that mix channels by a learned (or computed) matrix.

    A closed module counts all the layers in it.
    """
    if node.op == "call_module":
        parts = [] if module is None else module.modules()
        return sum(any(p.ndim >= 2 for p in part.parameters(recurse=False)) for part in parts)
    if node.op == "call_function":
        return int(target_of(node) in _WEIGHTED_FUNCTIONS)
    return int(node.op == "call_method" and target_of(node) in _WEIGHTED_METHODS)


def is_layer_function(node: fx.Node) -> bool:
    """Whether a node is a layer called as a function: a convolution, a linear map, a norm."""
    if node.op == "call_method":
        return target_of(node) in _WEIGHTED_METHODS
    return node.op == "call_function" and (target_of(node) in _WEIGHTED_FUNCTIONS or target_of(node) in _NORM_FUNCTIONS)


def is_product(node: fx.Node) -> bool:
    """Whether a node multiplies its arguments."""
    return node.op in ("call_function", "call_method") and target_of(node) in _PRODUCTS


def is_linear(node: fx.Node, module: nn.Module | None, data: set[fx.Node]) -> bool:
    """Whether a node is certainly a linear (or affine) map of the data: a convolution, a scale, a dropout.

    Args:
        node: the node.
        module: the module that it calls.
        data: the nodes that carry values of the input.
    """
    if node.op == "call_module":
        return isinstance(module, _LINEAR_MODULES)
    if node.op not in ("call_function", "call_method"):
        return False
    operands = sum(source in data for source in node.all_input_nodes)
    target = target_of(node)
    return operands == 1 and (target in _LINEAR_FUNCTIONS or target in _PRODUCTS or target in _SCALINGS)


def is_gate(node: fx.Node) -> bool:
    """Whether a node interpolates between two values by a third."""
    return node.op in ("call_function", "call_method") and target_of(node) in _MIXES


def splits(node: fx.Node) -> bool:
    """Whether a node splits its argument into several parts."""
    return node.op in ("call_function", "call_method") and target_of(node) in _SPLITS


def takes_part(node: fx.Node) -> bool:
    """Whether a node selects one part of its argument."""
    return node.op in ("call_function", "call_method") and target_of(node) in _PARTS


def reads_off(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node only compares or looks up its argument's values (which is larger, which is padding)."""
    if node.op == "call_module":
        return isinstance(module, (nn.Embedding, nn.EmbeddingBag, nn.Softmax))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.split(".")[0].strip("_") in _COMPARISONS
