"""Operators of single units that run the network from the unit's entry on: what stands before it is run once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from ..data import ImageData
from ..unroll import State, UnrolledNetwork
from ..unroll._guard import preserved
from .operator import (
    Batches,
    CurvatureOperator,
    Kind,
    SampleLoss,
    check_eval,
    check_parameters,
    curvature_operator,
    read_batches,
)
from .parameters import unit_parameters


class _Rest(nn.Module):
    """The network from one unit's entry on, as a module of the same parameters."""

    def __init__(self, net: UnrolledNetwork, index: int) -> None:
        super().__init__()
        self.model = net.model
        self.training = False
        self._suffix = net.enter(index)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():  # without gradients the network overwrites values, which derivatives need
            output: torch.Tensor = self._suffix(value)
        return output


def unit_operators(
    net: UnrolledNetwork,
    data: ImageData | Batches,
    *,
    kind: Kind = "hessian",
    loss: SampleLoss = "cross_entropy",
    batch_size: int = 256,
) -> Iterator[tuple[str, CurvatureOperator]]:
    """For each unit its name and the operator of its parameters, the diagonal block of the whole matrix.

    A unit's parameters change nothing before its entry: the values there are computed once and the products run from
    there on, about half of the network on average. Where later operations also read values from before the unit,
    the whole network is run. Each operator is to be used before the next one is asked for.

    Args:
        net: an unrolled network in eval mode.
        data: as in :func:`curvature_operator`.
        kind: likewise.
        loss: likewise.
        batch_size: likewise.

    Yields:
        Names and operators; their parameters' names begin with ``model.``.
    """
    blocks = unit_parameters(net)
    check_eval(net.model)
    check_parameters(net.model, None)
    batches = read_batches(data, batch_size, next(net.model.parameters()))
    options = {"kind": kind, "loss": loss}
    with preserved(net.model), torch.no_grad():
        states = [net.stem(x) for x, _ in batches]
    for index, (unit, names) in enumerate(blocks.items()):
        if net.segments.carried[index]:
            yield unit, curvature_operator(net, batches, parameters=names, **options)  # type: ignore[arg-type]
        else:
            entered = [(state.value, target) for state, (_, target) in zip(states, batches, strict=True)]
            inside = [f"model.{name}" for name in names]
            yield unit, curvature_operator(_Rest(net, index), entered, parameters=inside, **options)  # type: ignore
        states = [_stepped(net, state) for state in states]


def _stepped(net: UnrolledNetwork, state: State) -> State:
    with preserved(net.model), torch.no_grad():
        return net.step(state)
