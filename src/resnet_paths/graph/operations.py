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


def spellings(*names: str, reflected: bool = False) -> set[Any]:
    """Every function and method of PyTorch with one of these names, as a graph may have it for a target.

    Args:
        names: as in ``torch.add``.
        reflected: whether methods with operands in the other order count (``__radd__``).

    Example:
        >>> {torch.mm, torch.Tensor.mm, "mm", torch.ops.aten.mm} <= spellings("mm")
        True
        >>> {operator.iadd, torch.Tensor.add_, "__radd__"} <= spellings("add", reflected=True)
        True
    """
    found: set[Any] = set()
    for name in names:
        methods = [name, f"{name}_", f"__{name}__", f"__i{name}__", *([f"__r{name}__"] if reflected else [])]
        methods = [method for method in methods if hasattr(torch.Tensor, method)]
        found.update(methods)
        found.update(getattr(torch.Tensor, method) for method in methods)
        found.update(getattr(operator, spelt) for spelt in (name, f"i{name}") if hasattr(operator, spelt))
        for place in _PLACES:
            found.update(getattr(place, spelt) for spelt in (name, f"{name}_") if hasattr(place, spelt))
    return found


_PLACES = (torch, F, torch.linalg, aten)

_ADDITIONS = spellings("add", reflected=True)
_ACTIVATIONS = spellings(
    "relu", "sigmoid", "tanh", "relu6", "gelu", "silu", "hardswish", "leaky_relu", "elu", "selu", "celu", "mish",
    "softplus", "hardtanh", "hardsigmoid", "rrelu", "prelu",
)  # fmt: skip
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

_WEIGHTED = spellings(
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "conv_tbc", "convolution",
    "linear", "bilinear", "mm", "mv", "bmm", "addmm", "addmv", "addbmm", "baddbmm", "einsum", "tensordot", "inner",
    "multi_dot", "chain_matmul", "scaled_dot_product_attention", "multi_head_attention_forward",
) | spellings("matmul", reflected=True)  # fmt: skip
_NORMS = spellings("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "native_layer_norm")
_PRODUCTS = spellings("mul", "matmul", reflected=True) | spellings("multiply", "bmm", "einsum")
_LINEAR_MODULES = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.dropout._DropoutNd, nn.Identity)
_LINEAR_FUNCTIONS = spellings(
    "conv1d", "conv2d", "conv3d", "convolution", "linear", "mm", "dropout", "neg", "to", "float", "type", "detach",
    "contiguous",
)  # fmt: skip
_SCALINGS = spellings("div", "divide", "truediv", "true_divide")
_MIXES = spellings("lerp")
_STACKS = spellings("stack")
_SPLITS = spellings("split", "chunk", "unbind", "tensor_split", "split_with_sizes")
_PARTS = spellings("getitem", "narrow", "select") | {aten.slice}
_COMPARISONS = {
    "eq", "ne", "gt", "lt", "ge", "le", "logical_not", "logical_and", "logical_or", "where", "masked_fill", "argmax",
    "argmin", "argsort", "topk", "cumsum", "softmax", "log_softmax", "bool", "long", "int", "embedding",
    "one_hot", "invert",
}  # fmt: skip


def target_of(node: fx.Node) -> Any:
    """A node's function or method; for an ATen operator, without the overload."""
    return node.target.overloadpacket if isinstance(node.target, torch._ops.OpOverload) else node.target


def _calls(node: fx.Node, table: set[Any]) -> bool:
    return node.op in ("call_function", "call_method") and target_of(node) in table


def is_addition(node: fx.Node) -> bool:
    """Whether a node adds, with or without a coefficient, in any spelling of ``+``."""
    return _calls(node, _ADDITIONS)


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
        "one for which forward() takes a different one (for instance a mask with padding where the example had none); "
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


def is_stack(node: fx.Node) -> bool:
    """Whether a node stacks values along a new axis."""
    return _calls(node, _STACKS)


_OTHER_SUMS = spellings(
    "addmm", "addmv", "addbmm", "baddbmm", "addr", "addcdiv", "index_add", "scatter_add", "scatter_reduce",
    "_foreach_add",
)  # fmt: skip
_REDUCTIONS = spellings("sum", "mean", "einsum")


def sums_otherwise(node: fx.Node, data: set[fx.Node]) -> str:
    """The name of an operation that adds values of the data, but not as a sum of two terms; empty for any other.

    Args:
        node: the operation.
        data: the nodes that carry values of the input.
    """
    sources = [source for source in node.all_input_nodes if source in data]
    of_several = any(is_concatenation(source) or is_stack(source) for source in sources)
    adds = _calls(node, _OTHER_SUMS) and len(sources) > 1
    if not adds and not (_calls(node, _REDUCTIONS) and of_several):
        return ""
    target = target_of(node)
    return target if isinstance(target, str) else str(target.__name__)


def is_activation(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node is an elementwise activation."""
    if node.op == "call_module":
        is_elementwise = type(module).__module__ == "torch.nn.modules.activation"
        return is_elementwise and not isinstance(module, _ATTENTION)
    return _calls(node, _ACTIVATIONS)


def asks_shape(node: fx.Node) -> bool:
    """Whether a node reads only the shape, type or device of its arguments, not their values."""
    if node.op == "call_method":
        converts = node.target == "type" and (len(node.args) > 1 or bool(node.kwargs))  # ``x.type()`` only asks
        return target_of(node) in _SHAPE_METHODS and not converts
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
    return int(_calls(node, _WEIGHTED))


def is_layer_function(node: fx.Node) -> bool:
    """Whether a node is a layer called as a function: a convolution, a linear map, a norm."""
    return _calls(node, _WEIGHTED) or _calls(node, _NORMS)


def is_product(node: fx.Node) -> bool:
    """Whether a node multiplies its arguments."""
    return _calls(node, _PRODUCTS)


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
    return _calls(node, _MIXES)


def splits(node: fx.Node) -> bool:
    """Whether a node splits its argument into several parts."""
    return _calls(node, _SPLITS)


def takes_part(node: fx.Node) -> bool:
    """Whether a node selects one part of its argument."""
    return _calls(node, _PARTS)


def reads_off(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node only compares or looks up its argument's values (which is larger, which is padding)."""
    if node.op == "call_module":
        return isinstance(module, (nn.Embedding, nn.EmbeddingBag, nn.Softmax))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.split(".")[0].strip("_") in _COMPARISONS
