"""Check that an unrolled network is its model: one output and one gradient, on the user's example.

The output alone is not enough: an operation that only stops, reverses or replaces a gradient changes no output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..graph.errors import TraceError, UnrollError
from ..graph.inputs import call_model
from ..graph.preserve import preserved
from ..graph.trees import map_leaves
from .unrolled import TOLERANCE, UnrolledNetwork

_GRADIENT_TOLERANCE = 1e-6
"""A gradient that was stopped or changed differs by far more. Rounding can be above the tolerance of outputs: deep
networks of random weights amplify it, and sums over large inputs cancel (in float64, 2e-10 in one model of 480)."""


def verify(net: UnrolledNetwork, example: Any) -> None:
    """Compare a network with its model on an example, and record the blocks' shapes.

    Raises:
        TraceError: the outputs differ, or the gradients do.

    Cost: two forward passes, and two forward and backward passes.
    """
    difference = _observed(net, example)
    parameter = next(net.model.parameters(), torch.empty(0, device="cpu"))
    tolerance = TOLERANCE.get(parameter.dtype, 5e-2)
    if not difference <= tolerance:
        raise TraceError(
            f"expected the unrolled network to reproduce the model on the example, got a relative difference of "
            f"{difference:.3g}; is the model's output random, or does it depend on the values of its input?"
        )
    worst = gradient_difference(net, example)
    if worst is not None and not worst[1] <= max(tolerance, _GRADIENT_TOLERANCE):
        what, gradient_gap = worst
        raise TraceError(
            f"expected the unrolled network to have the model's gradient on the example, got a relative difference of "
            f"{gradient_gap:.3g} for {what}; the forward stops or changes a gradient in a way that was not followed"
        )


def _observed(net: UnrolledNetwork, example: Any) -> float:
    """The difference of the outputs; an operation that fails on the example shows that the graph is wrong."""
    try:
        return net._observe(example)
    except UnrollError:
        raise
    except Exception as error:
        raise TraceError(
            f"the graph fails on the example: {type(error).__name__}: {error} (does it pass arguments with defaults, "
            "which symbolic tracing treats as constants?)"
        ) from error


def gradient_difference(net: UnrolledNetwork, example: Any) -> tuple[str, float] | None:
    """Where the gradients of network and model differ most, and by how much; None if the model has no gradient.

    The gradient is that of a fixed scalar function of the output, with respect to the example's first floating tensor
    and all parameters.
    """
    model = net.model
    with torch.inference_mode(False), torch.enable_grad():
        expected = _gradients(lambda x: net.followed(call_model(model, x)), model, example)
        if expected is None:
            return None
        actual = _gradients(lambda x: net(x), model, example)
    if actual is None:
        return "the output", float("inf")
    least = max(1e-3 * max(map(_size, expected.values())), torch.finfo(torch.float32).tiny)  # below: rounding
    differences = {
        name: 0.0 if gradient is None and actual[name] is None else _difference(actual[name], gradient, least)
        for name, gradient in expected.items()
    }
    where = max(differences, key=lambda name: differences[name])
    return where, differences[where]


Gradients = dict[str, torch.Tensor | None]


def _difference(one: torch.Tensor | None, other: torch.Tensor | None, least: float) -> float:
    """The largest difference, relative to the second gradient; None counts as zero, undefined entries are skipped."""
    if one is None or other is None:
        present = one if other is None else other
        one, other = (torch.zeros_like(present) if g is None else g for g in (one, other))  # type: ignore[arg-type]
    return float((one - other).abs().nan_to_num(0).max()) / max(_size(other), least) if other.numel() else 0.0


def _size(gradient: torch.Tensor | None) -> float:
    return float(gradient.abs().nan_to_num(0, 0).max()) if gradient is not None and gradient.numel() else 0.0


def _gradients(function: Callable[[Any], torch.Tensor], model: nn.Module, example: Any) -> Gradients | None:
    """Gradients by name (None for parameters that do not affect the output); None if there is no gradient at all."""
    leaf_inputs: list[torch.Tensor] = []

    def fresh(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        copy = leaf.detach().clone()
        if not leaf_inputs and copy.is_floating_point():
            leaf_inputs.append(copy.requires_grad_())
        return copy

    with preserved(model):
        x = map_leaves(example, fresh)
        targets = dict(zip(["the input"], leaf_inputs, strict=False))
        targets |= {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
        try:
            output = function(x)
            if not output.requires_grad or not targets:
                return None
            weights = torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype, device=output.device)
            total = (output * weights.view(output.shape)).sum().abs()
            gradients = torch.autograd.grad(total, list(targets.values()), allow_unused=True)
        except RuntimeError:
            return None
    return dict(zip(targets, gradients, strict=True))
