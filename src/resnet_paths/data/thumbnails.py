"""Images as small pictures, to be looked at."""

from __future__ import annotations

import numpy as np
import torch


def thumbnails(images: torch.Tensor, most: int = 40) -> np.ndarray:
    """Images as (count, height, width, 3) bytes, with at most as many pixels per side.

    Args:
        images: (count, channels, height, width), uint8 or float; floats are scaled from their range to 0 to 255. One
            channel becomes grey, and so does the first of any number other than three.
        most: the most pixels per side.

    Example:
        >>> thumbnails(torch.zeros(2, 1, 80, 40, dtype=torch.uint8)).shape
        (2, 40, 20, 3)
    """
    values = images.cpu().float()
    if images.dtype != torch.uint8:
        low, high = values.amin(), values.amax()
        values = (values - low) / (high - low).clamp(min=1e-9) * 255
    if values.shape[1] != 3:
        values = values[:, :1].expand(-1, 3, -1, -1)
    factor = most / max(values.shape[2:])
    if factor < 1:
        size = [max(1, round(side * factor)) for side in values.shape[2:]]
        values = torch.nn.functional.interpolate(values, size, mode="bilinear", antialias=True)
    pixels: np.ndarray = values.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    return pixels
