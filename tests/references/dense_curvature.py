"""Curvature matrices written out: second derivatives by torch.func, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, hessian, jacrev

from resnet_paths.landscape.operator import CurvatureOperator

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output, target, reduction="none")


def _flat(model: nn.Module, names: Sequence[str]) -> tuple[torch.Tensor, Callable[..., torch.Tensor]]:
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    shapes = [parameters[name].shape for name in names]
    vector = torch.cat([parameters[name].reshape(-1) for name in names])

    def run(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        parts = theta.split([shape.numel() for shape in shapes])
        moved = {name: part.reshape(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        output: torch.Tensor = functional_call(model, {**parameters, **moved}, (x[None],))
        return output

    return vector, run


def dense_hessian(
    model: nn.Module, x: torch.Tensor, target: torch.Tensor, names: Sequence[str], loss: Loss = cross_entropy
) -> torch.Tensor:
    """The mean over samples of each sample's own dense Hessian."""
    vector, run = _flat(model, names)
    each = [
        hessian(lambda theta, a=a, b=b: loss(run(theta, a), b[None])[0])(vector) for a, b in zip(x, target, strict=True)
    ]
    return torch.stack(each).mean(0)


def dense_gauss_newton(
    model: nn.Module, x: torch.Tensor, target: torch.Tensor, names: Sequence[str], loss: Loss = cross_entropy
) -> torch.Tensor:
    """The mean over samples of J^T (second derivative of the loss by the output) J."""
    vector, run = _flat(model, names)
    total = torch.zeros(len(vector), len(vector), dtype=vector.dtype)
    for a, b in zip(x, target, strict=True):
        jacobian = jacrev(lambda theta, a=a: run(theta, a)[0])(vector)
        inner = hessian(lambda out, b=b: loss(out[None], b[None])[0])(run(vector, a)[0])
        total += jacobian.T @ inner @ jacobian
    return total / len(x)


class WrittenNorm(nn.Module):
    """nn.LayerNorm over the last axis, written out: torch.func's second derivative of the built-in one is wrong."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + self.eps).sqrt() * self.weight + self.bias


class DenseOperator(CurvatureOperator):
    """A matrix with an operator's interface, so that estimators can be run over hundreds of seeds."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix, self.model, self.kind, self.names = matrix, nn.Linear(1, 1), "hessian", ("all",)
        self.shapes, self.samples, self.products, self._batches = ((len(matrix),),), 1, 0, []
        self.dtype, self.device = matrix.dtype, matrix.device

    def __matmul__(self, vectors: torch.Tensor) -> torch.Tensor:
        self.products += 1 if vectors.ndim == 1 else vectors.shape[1]
        return self.matrix @ vectors
