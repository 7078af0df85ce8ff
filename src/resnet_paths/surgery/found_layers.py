"""Layers that are linear in their weights, in any form: as modules, as functions, inside attention."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.func import functional_call

from ..graph import operations
from ..graph.blocks import module_of
from ..graph.compile_node import Values
from ..graph.program import Program, map_nodes
from .linear_layers import Layer, Transposed, is_linear_layer


@dataclass(frozen=True, eq=False)
class FoundLayer:
    """A layer of a graph.

    Attributes:
        layer: a module over the layer's own parameters.
        weight_name: qualified name of its weight.
        bias_name: qualified name of its bias; None if it has none.
        read: computes its input from the values of the graph.
    """

    layer: Layer
    weight_name: str
    bias_name: str | None
    read: Callable[[Values], torch.Tensor]


def found_layer(node: fx.Node, program: Program) -> FoundLayer | None:
    """The layer whose output a node is; None if there is none, or if hooks or parametrizations change its weights."""
    module = module_of(node, program)
    if is_linear_layer(module):
        (source,) = node.all_input_nodes
        bias = None if module.bias is None else f"{node.target}.bias"
        return FoundLayer(module, f"{node.target}.weight", bias, operator.itemgetter(source))
    return _function(node, program) or _transposed(node, program) or _attention(node, program)


def _function(node: fx.Node, program: Program) -> FoundLayer | None:
    """``F.linear`` with parameters of the model."""
    if node.op != "call_function" or operations.target_of(node) not in (F.linear, torch.ops.aten.linear):
        return None
    names = ("input", "weight", "bias")
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    source, weight, bias = (given.get(name) for name in names)
    weight_name, bias_name = _parameter_name(weight, program), _parameter_name(bias, program)
    if not isinstance(source, fx.Node) or weight_name is None or (bias is not None and bias_name is None):
        return None
    return _over(program, weight_name, bias_name, operator.itemgetter(source))


def _transposed(node: fx.Node, program: Program) -> FoundLayer | None:
    """``x @ W + b`` with parameters of the model, in any spelling, such as the layers of Hugging Face's GPT-2."""
    source, weight, bias = _added_product(node) or _product_plus_bias(node, program)
    weight_name, bias_name = _parameter_name(weight, program), _parameter_name(bias, program)
    if not isinstance(source, fx.Node) or weight_name is None or (bias is not None and bias_name is None):
        return None
    matrix, vector = program.attribute(weight_name), None if bias_name is None else program.attribute(bias_name)
    if matrix.ndim != 2 or (vector is not None and vector.shape != matrix.shape[1:]):
        return None
    return FoundLayer(Transposed(matrix, vector).eval(), weight_name, bias_name, operator.itemgetter(source))


def _added_product(node: fx.Node) -> tuple[object, object, object] | None:
    """Source, weight and bias of ``addmm`` without factors."""
    if node.op != "call_function" or operations.target_of(node) not in _ADDED_PRODUCTS:
        return None
    given = dict(zip(("input", "mat1", "mat2"), node.args, strict=False)) | dict(node.kwargs)
    bias, source, weight = (given.pop(name, None) for name in ("input", "mat1", "mat2"))
    return (source, weight, bias) if all(factor == 1 for factor in given.values()) else None


def _product_plus_bias(node: fx.Node, program: Program) -> tuple[object, object, object]:
    """Source, weight and bias of a product, or of a product plus a parameter; None where there is none."""
    terms = list(node.args) if operations.is_add(node) and len(node.args) == 2 else [node]
    terms.sort(key=lambda term: _parameter_name(term, program) is not None)
    product, bias = terms[0], terms[1] if len(terms) > 1 else None
    if not isinstance(product, fx.Node) or product.op not in ("call_function", "call_method"):
        return None, None, None
    if operations.target_of(product) not in _PRODUCTS or len(product.args) != 2:
        return None, None, None
    if product is not node and len(product.users) > 1:
        return None, None, None
    return *product.args, bias


_ADDED_PRODUCTS: set[Any] = {torch.addmm, torch.ops.aten.addmm}
_PRODUCTS: set[Any] = {
    operator.matmul, torch.matmul, torch.mm, torch.Tensor.matmul, torch.Tensor.mm, torch.ops.aten.matmul,
    torch.ops.aten.mm, "matmul", "mm", "__matmul__",
}  # fmt: skip


def _parameter_name(node: object, program: Program) -> str | None:
    """The name of the model's parameter that a node reads; None if it is anything else."""
    if not isinstance(node, fx.Node) or node.op != "get_attr" or str(node.target) in program.constants:
        return None
    return str(node.target) if isinstance(program.attribute(str(node.target)), nn.Parameter) else None


def _attention(node: fx.Node, program: Program) -> FoundLayer | None:
    """The output projection of ``nn.MultiheadAttention``; with an identity there, the module returns its input."""
    call = node.args[0] if node.op == "call_function" and node.target is operator.getitem else None
    if not isinstance(call, fx.Node) or node.args[1] != 0:
        return None
    attention = module_of(call, program)
    if type(attention) is not nn.MultiheadAttention or not is_linear_layer(attention.out_proj):
        return None
    projection = attention.out_proj

    def read(values: Values) -> torch.Tensor:
        args, kwargs = (map_nodes(part, values.__getitem__) for part in (call.args, call.kwargs))
        weight = projection.weight
        plain = {"out_proj.weight": torch.eye(len(weight), dtype=weight.dtype, device=weight.device)}
        if projection.bias is not None:
            plain["out_proj.bias"] = torch.zeros_like(projection.bias)
        context: torch.Tensor = functional_call(attention, plain, tuple(args), dict(kwargs))[0]
        return context

    name = f"{call.target}.out_proj"
    return _over(program, f"{name}.weight", None if projection.bias is None else f"{name}.bias", read)


def _over(
    program: Program, weight_name: str, bias_name: str | None, read: Callable[[Values], torch.Tensor]
) -> FoundLayer:
    """A linear layer over parameters of the model."""
    weight = program.attribute(weight_name)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias_name is not None, device="meta").eval()
    layer.weight = weight
    if bias_name is not None:
        layer.bias = program.attribute(bias_name)
    return FoundLayer(layer, weight_name, bias_name, read)
