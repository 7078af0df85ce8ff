"""Check that a model accepts the given images, before any long computation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..graph.inputs import call_model
from ..graph.trees import leaves


def output_on(
    model: nn.Module, images: Any, name: str, advice: str, nouns: str = "images", *, taker: str = "the model"
) -> Any:
    """A model's output for a few images, or an error that says what to do.

    Args:
        model: in eval mode.
        images: its input, on the device of its parameters.
        name: what to call the images in the message.
        advice: what to do, for the message.
        nouns: what the examples are called.
        taker: what the model is called.

    Raises:
        ValueError: the model fails on them.

    Example:
        >>> output_on(nn.Flatten(), torch.zeros(2, 1, 3, 3), "two", "choose others").shape
        torch.Size([2, 9])
    """
    try:
        with torch.no_grad():
            return call_model(model, images)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        tensors = [leaf for leaf in leaves(images) if isinstance(leaf, torch.Tensor)]
        shape = ", ".join("x".join(map(str, tensor.shape[1:])) for tensor in tensors)
        reason = " ".join(str(error).split())
        raise ValueError(f"expected {nouns} that {taker} accepts, got {name} of {shape}: {reason}; {advice}") from None
