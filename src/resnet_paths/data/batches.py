"""How images are cut into batches.

Two rules, because evaluation and training differ. In an evaluation a small last batch costs nearly as much as a full
one, so batches are evened out. In training the batch size is part of the recipe and is kept.
"""

from __future__ import annotations

import math
from itertools import pairwise


def even_slices(length: int, size: int) -> list[slice]:
    """Consecutive slices of at most `size` and nearly equal length, without a small one at the end.

    Example:
        >>> even_slices(5, 4)
        [slice(0, 3, None), slice(3, 5, None)]
    """
    count = max(1, math.ceil(length / size))
    ends = [round(length * k / count + 1e-9) for k in range(count + 1)]
    return [slice(low, high) for low, high in pairwise(ends)]


def training_slices(length: int, size: int) -> list[slice]:
    """Consecutive slices of `size`, the last one smaller; a single leftover item joins the previous slice.

    A batch norm cannot train on one value per channel, which is all that a single image yields in a 1x1 feature map.

    Example:
        >>> [(part.start, part.stop) for part in training_slices(9, 4)]
        [(0, 4), (4, 9)]
    """
    count = max(1, math.ceil(length / size))
    if size > 1 and count > 1 and length % size == 1:
        count -= 1
    ends = [*range(0, count * size, size), length]
    return [slice(low, high) for low, high in pairwise(ends)]
