"""How images are cut into batches.

Evaluations take even batches: a small last one would cost nearly as much as a full one. Trainings keep the size that
was asked for, which is part of the recipe.
"""

from __future__ import annotations

import math
from itertools import pairwise


def even_slices(length: int, size: int) -> list[slice]:
    """Consecutive slices of at most `size`, as equal as can be: no small one is left over at the end.

    Example:
        >>> even_slices(5, 4)
        [slice(0, 3, None), slice(3, 5, None)]
    """
    count = max(1, math.ceil(length / size))
    ends = [round(length * k / count + 1e-9) for k in range(count + 1)]
    return [slice(low, high) for low, high in pairwise(ends)]


def training_slices(length: int, size: int) -> list[slice]:
    """Consecutive slices of `size`, the last smaller; one left over joins the slice before.

    A batch norm cannot train on a single value a channel, which is what one image is to a last 1x1 map.

    Example:
        >>> [(part.start, part.stop) for part in training_slices(9, 4)]
        [(0, 4), (4, 9)]
    """
    count = max(1, math.ceil(length / size))
    if size > 1 and count > 1 and length % size == 1:
        count -= 1
    ends = [*range(0, count * size, size), length]
    return [slice(low, high) for low, high in pairwise(ends)]
