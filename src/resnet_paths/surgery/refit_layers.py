"""Old and fitted weights of layers, put into a model at a given step between the two.

Fitting is done on a copy whose batch norms are folded into the layers before them. In the model that is kept, the norm
is still there, so the weights are divided by its scale and the rest of the constant goes into its bias. Its statistics
then no longer describe its input. `measure_statistics` corrects them without changing what layer and norm compute
together, so that training can continue.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..graph.inputs import call_model
from .moments import Moments, wide


@dataclass(frozen=True, eq=False)
class LayerFit:
    """A layer of the folded copy, with its weights before and after the fit.

    Attributes:
        weight_name: qualified name of its weight.
        bias_name: qualified name of its bias; None if it has none.
        weight: the weight before the fit.
        bias: the bias before the fit.
        fitted_weight: the fitted weight.
        fitted_bias: the fitted bias.
        norm: name of the batch norm that was folded into the layer; None if none was.
    """

    weight_name: str
    bias_name: str | None
    weight: torch.Tensor
    bias: torch.Tensor | None
    fitted_weight: torch.Tensor
    fitted_bias: torch.Tensor | None
    norm: str | None = None

    @property
    def layer(self) -> str:
        """The qualified name of the module that owns the weight."""
        return self.weight_name.rpartition(".")[0]

    def at(self, step: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight and bias at a step between the old (0) and the fitted ones (1)."""
        if step == 0:
            return self.weight, self.bias
        bias = None if self.bias is None else torch.lerp(self.bias, _given(self.fitted_bias), step)
        return torch.lerp(self.weight, self.fitted_weight, step), bias


def put_folded(model: nn.Module, fits: Iterable[LayerFit], step: float) -> None:
    """Set the layers of the folded copy."""
    for fit in fits:
        weight, bias = fit.at(step)
        model.get_parameter(fit.weight_name).data.copy_(weight)
        if fit.bias_name is not None:
            model.get_parameter(fit.bias_name).data.copy_(_given(bias))


@torch.no_grad()
def put(model: nn.Module, fits: Iterable[LayerFit], step: float) -> None:
    """Set the layers of a model with unfolded norms; a step of 0 changes nothing."""
    for fit in fits if step else ():
        weight, bias = (None if value is None else wide(value) for value in fit.at(step))
        if fit.norm is not None:
            layer: Any = model.get_submodule(fit.layer)
            _put_before_norm(layer, model.get_submodule(fit.norm), _given(weight), _given(bias))
            continue
        model.get_parameter(fit.weight_name).copy_(_given(weight))
        if fit.bias_name is not None:
            model.get_parameter(fit.bias_name).copy_(_given(bias))


def _put_before_norm(layer: Any, norm: Any, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Make ``norm(layer(x))`` equal ``weight x + bias``: the layer takes the weight, the norm the constant."""
    deviation, mean = _deviation(norm), wide(norm.running_mean)
    own_bias = 0.0 if layer.bias is None else wide(layer.bias)
    if norm.affine:
        old = wide(norm.weight)
        opened = torch.where(
            old == 0, deviation, old
        )  # a scale of 0 lets nothing through, so it becomes a total scale of 1
        norm.weight.copy_(opened)
        scale = opened / deviation
        norm.bias.copy_(bias - (own_bias - mean) * scale)
    else:
        scale = 1 / deviation
        norm.running_mean.copy_(own_bias - bias / scale)
    layer.weight.copy_(weight / scale.view(-1, *[1] * (weight.ndim - 1)))


@torch.no_grad()
def measure_statistics(model: nn.Module, norms: Sequence[str], inputs: Iterable[Any]) -> None:
    """Give batch norms the mean and variance of their inputs, and weights with which they compute the same as before.

    ``w (x - m) / s + b`` is, with the new mean m' and deviation s', ``w' (x - m') / s' + b'`` for ``w' = w s' / s`` and
    ``b' = b + w (m' - m) / s``.
    """
    modules: list[Any] = [model.get_submodule(name) for name in norms]
    moments: dict[Any, Moments] = {}

    def note(norm: Any, arguments: tuple[Any, ...]) -> None:
        x = arguments[0].movedim(1, 0).flatten(1)
        variance, mean = torch.var_mean(x, 1, correction=0)
        moments.setdefault(norm, Moments()).add(x.shape[1], wide(mean), wide(variance))

    with ExitStack() as hooks:
        for norm in modules:
            hooks.callback(norm.register_forward_pre_hook(note).remove)
        for x in inputs:
            call_model(model, x)
    for norm, seen in moments.items():
        if not norm.affine or seen.count < 2:
            continue
        mean, scale = wide(norm.running_mean), wide(norm.weight) / _deviation(norm)
        seen.write(norm)
        norm.weight.copy_(scale * _deviation(norm))
        norm.bias.copy_(wide(norm.bias) + scale * (seen.mean - mean))


def _deviation(norm: Any) -> torch.Tensor:
    """The standard deviation that a norm divides by."""
    deviations: torch.Tensor = (wide(norm.running_var) + norm.eps).sqrt()
    return deviations


def _given(value: torch.Tensor | None) -> torch.Tensor:
    if value is None:
        raise RuntimeError("expected a layer with a bias")
    return value
