"""A model's input and output: one tensor or several, and which of them counts."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import fx, nn

from .errors import UnrollError
from .pieces import Values


def call_model(model: nn.Module, x: Any) -> Any:
    """The model at an input given as tensor, tuple or dict."""
    if isinstance(x, dict):
        return model(**x)
    return model(*x) if isinstance(x, tuple) else model(x)


def main_output(output: Any) -> torch.Tensor:
    """The tensor of a model's output that the network gives: the logits, or the first."""
    if isinstance(output, torch.Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, torch.Tensor):
        return logits
    items = output.values() if hasattr(output, "values") else output
    if isinstance(items, (tuple, list)) or hasattr(items, "__iter__"):
        for item in items:
            if item is not None:
                return main_output(item)
    raise UnrollError(f"expected a tensor in the model's output, got {type(output).__name__}")


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference of two tensors, relative to the largest finite entry of the second; NaN equals NaN."""
    apart = ~((found == expected) | (found.isnan() & expected.isnan()))
    if not bool(apart.any()):
        return 0.0
    scale = expected[expected.isfinite()].abs().max() if bool(expected.isfinite().any()) else torch.tensor(0.0)
    difference = (found[apart] - expected[apart]).abs().max()
    return float(difference / scale.clamp_min(torch.finfo(torch.float32).tiny))


def bind(inputs: dict[str, fx.Node], x: Any) -> Values:
    """An input given as tensor, tuple or dict as values of the nodes that stand for a program's inputs.

    Raises:
        UnrollError: an input is missing, or there are too many.
    """
    names = list(inputs)
    given = x if isinstance(x, dict) else dict(zip(names, x if isinstance(x, tuple) else (x,), strict=False))
    missing = [name for name in names if name not in given]
    if missing or (isinstance(x, tuple) and len(x) > len(names)):
        got = f"{len(x)} of them" if isinstance(x, tuple) else f"{sorted(given)}"
        raise UnrollError(f"expected the inputs {names}, got {got} (tensor, tuple or dict)")
    return {node: given[name] for name, node in inputs.items()}


def named(model: nn.Module, inputs: Collection[str], x: Any) -> Any:
    """An input given as tuple of more than the inputs that a program reads, by the names of the model's arguments."""
    parameters = list(inspect.signature(model.forward).parameters)
    if not isinstance(x, tuple) or not len(inputs) < len(x) <= len(parameters) or not set(inputs) <= set(parameters):
        return x
    return dict(zip(parameters, x, strict=False))


def check_constants(model: nn.Module, known: Collection[str], x: Any, example: Any) -> None:
    """A program holds for the values that it was made with of the arguments that are not its inputs.

    Args:
        model: the model.
        known: the program's inputs.
        x: the input given.
        example: the input on which the program was recorded, or compared with the model; tensors in it that the
            program does not take have been shown not to matter.

    Raises:
        UnrollError: an argument has another value than in the example or, where that lacks it, than its default.
    """
    if not isinstance(x, dict):
        return
    parameters = inspect.signature(model.forward).parameters
    made = dict(zip(parameters, example, strict=False)) if isinstance(example, tuple) else example
    made = made if isinstance(made, dict) else {}
    for name, value in x.items():
        if name in known or name not in parameters:
            continue
        expected = made.get(name, parameters[name].default)
        if value is expected or isinstance(expected, torch.Tensor):
            continue
        if isinstance(value, torch.Tensor) or value != expected:
            raise UnrollError(
                f"expected {name}={expected!r}, as when the model was unrolled, got another value; unroll the model "
                f"again with an example_input that holds this {name}"
            )
