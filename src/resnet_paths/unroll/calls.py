"""A model's input and output: one tensor or several, and which of them counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from ._segments import Values
from .errors import UnrollError


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
        ValueError: an input is missing, or there are too many.
    """
    names = list(inputs)
    given = x if isinstance(x, dict) else dict(zip(names, x if isinstance(x, tuple) else (x,), strict=False))
    missing = [name for name in names if name not in given]
    if missing or (isinstance(x, tuple) and len(x) > len(names)):
        raise ValueError(f"expected the inputs {names}, got {sorted(given)} (tensor, tuple or dict)")
    return {node: given[name] for name, node in inputs.items()}
