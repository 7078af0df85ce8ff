"""Whether a model takes the images at hand, found out before any work."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def output_on(model: nn.Module, images: torch.Tensor, name: str, advice: str) -> Any:
    """What a model makes of a few images.

    Args:
        model: in eval mode.
        images: as it reads them, where its parameters are.
        name: of the images, for the message.
        advice: what to do, likewise.

    Raises:
        ValueError: it does not take them; in one line.

    Example:
        >>> output_on(nn.Flatten(), torch.zeros(2, 1, 3, 3), "two", "choose others").shape
        torch.Size([2, 9])
    """
    try:
        with torch.no_grad():
            return model(images)
    except RuntimeError as error:
        shape = "x".join(map(str, images.shape[1:]))
        reason = " ".join(str(error).split())
        raise ValueError(f"expected images that the model takes, got {name} of {shape}: {reason}; {advice}") from None
