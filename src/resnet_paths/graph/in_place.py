"""Operations that modify a tensor, and those that compute the new value instead: one table for both front ends.

A graph has no order except that of its edges, so it cannot express a modification. Where a forward writes to a tensor,
the graph gets the operation that computes the new value, and later readers of the tensor read that. Both front ends use
this table, so that they cannot disagree on what is an in-place operation.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

_OPERATORS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.ipow: operator.pow,
    operator.imatmul: operator.matmul,
    operator.iand: operator.and_,
    operator.ior: operator.or_,
    operator.ixor: operator.xor,
}
AS_OPERATORS = {
    "__add__": operator.add, "__radd__": operator.add, "__iadd__": operator.add, "add": operator.add,
    "add_": operator.add, "__sub__": operator.sub, "__isub__": operator.sub, "sub_": operator.sub,
    "__mul__": operator.mul, "__rmul__": operator.mul, "__imul__": operator.mul, "mul_": operator.mul,
    "__truediv__": operator.truediv, "__itruediv__": operator.truediv, "div_": operator.truediv,
    "__matmul__": operator.matmul, "__getitem__": operator.getitem, "__neg__": operator.neg,
}  # fmt: skip
"""Methods of tensors, with the operator that does the same for two operands (one, for ``__neg__``)."""

_MODULES = ("torch.nn.modules.activation", "torch.nn.modules.dropout")
_VIEWS = {
    "view", "view_as", "reshape", "reshape_as", "expand", "expand_as", "transpose", "permute", "t", "swapaxes",
    "swapdims", "movedim", "moveaxis", "narrow", "select", "split", "chunk", "unbind", "squeeze", "unsqueeze",
    "flatten", "unflatten", "diagonal", "unfold", "detach", "tensor_split", "hsplit", "vsplit", "contiguous",
    "getitem", "getattr", "alias", "as_strided",
}  # fmt: skip


def with_item(tensor: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    """The tensor with an item replaced.

    Example:
        >>> with_item(torch.zeros(3), 1, 5.0)
        tensor([0., 5., 0.])
    """
    copy = tensor.clone()
    copy[index] = value
    return copy


def plain_function(target: Any) -> Any:
    """The function or method name that returns the value which `target` writes to its first argument; or None.

    Example:
        >>> plain_function("add_"), plain_function(torch.relu_) is torch.relu, plain_function("add")
        ('add', True, None)
    """
    if isinstance(target, str):
        plain = target[:-1]
        named = target.endswith("_") and not target.endswith("__")
        return plain if named and hasattr(torch.Tensor, plain) else None
    if target in _OPERATORS:
        return _OPERATORS[target]
    name = getattr(target, "__name__", "")
    if name in ("__setitem__", "setitem"):
        return with_item
    if getattr(torch.Tensor, name, None) is target and name.startswith("__i") and name in AS_OPERATORS:
        return AS_OPERATORS[name]
    if not name.endswith("_") or name.endswith("__"):
        return None
    for holder in (torch.Tensor, torch, F):
        if getattr(holder, name, None) is target and hasattr(holder, name[:-1]):
            return getattr(holder, name[:-1])
    return None


def without_change(target: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """A function and keywords that return the value which this call writes to its first argument; or None.

    Example:
        >>> without_change(F.relu, {"inplace": True}) == (F.relu, {"inplace": False})
        True
        >>> without_change(F.relu, {}) is None
        True
    """
    if kwargs.get("inplace") is True:
        return target, {**kwargs, "inplace": False}
    plain = plain_function(target)
    return None if plain is None else (plain, kwargs)


def changes_its_input(module: nn.Module) -> bool:
    """Whether a layer of ``torch.nn`` overwrites its input."""
    return bool(getattr(module, "inplace", False)) and type(module).__module__ in _MODULES


def is_part_of_tensor(node: fx.Node) -> bool:
    """Whether a node is certainly a view of a part of a tensor, ``x[:, :8]``, and not an item of a list or a copy."""
    if node.op != "call_function" or node.target is not operator.getitem:
        return False
    index: Any = node.args[1]
    kinds = (int, slice, type(None), type(Ellipsis))
    several = isinstance(index, tuple) and all(isinstance(i, kinds) and not isinstance(i, bool) for i in index)
    return several or index is Ellipsis


def is_view(node: fx.Node, module: nn.Module | None = None) -> bool:
    """Whether a node's value may share memory with the node's first argument."""
    if node.op == "call_module":
        return isinstance(module, (nn.Identity, nn.Flatten, nn.Unflatten))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_method", "call_function") and name in _VIEWS
