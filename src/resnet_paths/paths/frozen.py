"""Curved operations as linear maps that reproduce their value: statistics, attention and gates are held constant.

A tangent is the best linear map near a point, but it need not reproduce the value there. Layer norm does not change
when its input is scaled, so its tangent at y maps y itself to zero: split along tangents, almost all of a transformer's
logits end up in the remainder. Holding constant the quantities with which an operation *decides* gives another linear
map, which maps the input to the value, as freezing the mask of a ReLU does:

- norms: the standard deviation is constant, the mean is not;
- attention: the weights (softmax, and so queries and keys) are constant, the values are not;
- activations f: the ratio f(y) / y is constant;
- sigmoids, which serve as gates, are constant;
- a product of two values that both depend on the input: the smaller one is constant (a gate per channel); if they have
  the same size, half of the product is counted with each of them constant;
- a quotient: the divisor is constant.

What remains does not depend on the input: biases. The functions below compute the same values as PyTorch's, since the
next operation of the piece decides with them; only their derivatives differ. They are replaced by a mode while a piece
runs, because modules call them inside.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.autograd.forward_ad import unpack_dual
from torch.overrides import TorchFunctionMode

from ..graph.hooks import is_hooked

_T = torch.Tensor
_Function = Callable[..., Any]
_ACTIVATIONS: set[_Function] = {
    F.gelu, F.silu, F.mish, F.elu, F.celu, F.selu, F.softplus, F.hardswish, F.tanhshrink, F.softsign, F.logsigmoid,
    F.tanh, torch.tanh, _T.tanh, torch.celu, torch.selu, torch.pow, _T.pow, _T.__pow__, torch.square, _T.square,
    torch.erf, _T.erf, torch.sin, _T.sin,
}  # fmt: skip
_GATES: set[_Function] = {F.sigmoid, torch.sigmoid, _T.sigmoid, F.softmax, torch.softmax, _T.softmax, F.hardsigmoid}
_ATTENTION: set[_Function] = {F.scaled_dot_product_attention, F.multi_head_attention_forward}
_PRODUCTS: set[_Function] = {
    torch.mul, _T.mul, _T.__mul__, _T.__rmul__, torch.matmul, _T.matmul, _T.__matmul__, torch.bmm, _T.bmm,
}  # fmt: skip
_OPERATORS: set[_Function] = {operator.mul, operator.truediv, operator.matmul, operator.pow}
"""As graphs name them; a mode sees the methods that they call."""
_QUOTIENTS: set[_Function] = {torch.div, _T.div, _T.__truediv__, torch.true_divide}
_GATE_NAMES = {"Sigmoid", "HardSigmoid"}
"""Classes of timm."""
_IN_PLACE: dict[_Function, _Function] = {
    _T.mul_: _T.mul, _T.__imul__: _T.mul, _T.div_: _T.div, _T.__itruediv__: _T.div, _T.sigmoid_: _T.sigmoid,
    _T.tanh_: _T.tanh, _T.pow_: _T.pow, torch.sigmoid_: torch.sigmoid, torch.tanh_: torch.tanh,
}  # fmt: skip
_ACTIVATION_NAMES = ("gelu", "silu", "swish", "mish", "activation")


def _layer_norm(
    x: torch.Tensor,
    normalized_shape: Any,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    return _affine(_standardised(x, tuple(range(-len(shape), 0)), eps), weight, bias)


def _rms_norm(
    x: torch.Tensor, normalized_shape: Any, weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    square = x.detach().square().mean(tuple(range(-len(shape), 0)), keepdim=True)
    return _affine(x * (square + eps).rsqrt(), weight, None)


def _group_norm(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    grouped = x.reshape(len(x), num_groups, -1)
    weight, bias = (value if value is None else value.view(-1, *[1] * (x.ndim - 2)) for value in (weight, bias))
    return _affine(_standardised(grouped, (-1,), eps).reshape(x.shape), weight, bias)


def _instance_norm(
    x: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    if not use_input_stats:
        result: torch.Tensor = F.instance_norm(
            x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        )
        return result
    return _group_norm(x, x.shape[1], weight, bias, eps)


def _affine(x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    scaled = x if weight is None else x * weight
    return scaled if bias is None else scaled + bias


def _standardised(x: torch.Tensor, dims: tuple[int, ...], eps: float) -> torch.Tensor:
    """X less its mean, over its constant standard deviation."""
    centred = x - x.mean(dims, keepdim=True)
    variance = centred.detach().square().mean(dims, keepdim=True)
    return centred * (variance + eps).rsqrt()


_NORMS: dict[_Function, Callable[..., torch.Tensor]] = {
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
}
_MODULES: tuple[type[nn.Module], ...] = (
    nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm, nn.MultiheadAttention, nn.GELU,
    nn.SiLU, nn.Mish, nn.ELU, nn.CELU, nn.SELU, nn.Softplus, nn.Hardswish, nn.Tanhshrink, nn.Softsign, nn.LogSigmoid,
    nn.Tanh, nn.Sigmoid, nn.Softmax, nn.GLU,
)  # fmt: skip


class Frozen(TorchFunctionMode):
    """Within it, curved functions have the frozen linear map as their derivative."""

    def __torch_function__(
        self, func: _Function, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in _IN_PLACE:
            return args[0].copy_(_frozen(_IN_PLACE[func], (args[0].clone(), *args[1:]), given))
        return _frozen(func, args, given)


def _frozen(func: _Function, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
    """The value of a function, or one with the right derivative only, if it has a frozen map."""
    if func in _ATTENTION:
        return func(args[0].detach(), args[1].detach(), *args[2:], **given)
    if func in _NORMS:
        return _NORMS[func](*args, **given)
    if func is F.normalize:
        return _normalised(*args, **given)
    if func is F.glu:
        first, second = args[0].chunk(2, *args[1:], **given)
        return first * second.detach().sigmoid()
    if func in _PRODUCTS and _moves(args[0]) and _moves(args[1]):
        return _product(func, *args)
    if not args or not _moves(args[0]):
        return func(*args, **given)
    if func in _QUOTIENTS and _moves(args[1]):
        return func(args[0], args[1].detach(), **given)
    if func in _GATES or func in _ACTIVATIONS:
        still = args[0].detach().clone()  # which a function with inplace=True overwrites
        value = func(still, *args[1:], **given)
        result = value.detach() if func in _GATES else by_ratio(args[0], value)
        return args[0].copy_(result) if value is still else result
    return func(*args, **given)


def by_ratio(x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`value` as x times the constant value / x; as a constant where x is 0."""
    still, value = x.detach(), value.detach()
    is_zero = still == 0
    return value + (x - still) * torch.where(is_zero, 0.0, value / torch.where(is_zero, 1.0, still))


def _product(func: _Function, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    if one.numel() != other.numel() and func in (torch.mul, _T.mul, _T.__mul__, _T.__rmul__):
        larger, smaller = (one, other) if one.numel() > other.numel() else (other, one)
        product: torch.Tensor = larger * smaller.detach()
        return product
    halves: torch.Tensor = (func(one, other.detach()) + func(one.detach(), other)) / 2
    return halves


def _normalised(x: torch.Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> torch.Tensor:
    normalised: torch.Tensor = x / x.detach().norm(p, dim, keepdim=True).clamp_min(eps)
    return normalised


def _moves(value: Any) -> bool:
    """Whether a tensor depends on what is pushed: whether it carries a tangent."""
    return isinstance(value, torch.Tensor) and unpack_dual(value).tangent is not None


def is_activation(node: fx.Node, model: nn.Module) -> bool:
    """Whether a node calls a module that is an activation by its name, whatever functions it is written with."""
    if node.op != "call_module" or len(node.all_input_nodes) != 1:
        return False
    module = model.get_submodule(str(node.target))
    name = type(module).__name__.lower()
    return any(part in name for part in _ACTIVATION_NAMES) and not any(True for _ in module.parameters())


def has_frozen_map(node: fx.Node, model: nn.Module) -> bool:
    """Whether a curved operation has one of the maps above, so that it leaves no remainder."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        is_known = (
            isinstance(module, _MODULES)
            or is_activation(node, model)
            or type(module).__name__ in _GATE_NAMES
            or type(module).__name__.endswith("RMSNorm")
        )
        return is_known and not is_hooked(module)
    target = getattr(_T, str(node.target), None) if node.op == "call_method" else node.target
    return target in _KNOWN


_KNOWN = {F.glu, F.normalize, *_OPERATORS, *_ACTIVATIONS, *_GATES, *_ATTENTION, *_PRODUCTS, *_QUOTIENTS, *_NORMS}
