"""Random numbers that depend on the seed alone: drawn on the CPU, in explicit dtypes, whatever torch's defaults are.

``torch.set_default_device`` and ``torch.set_default_dtype`` change the results of ``torch.rand``, or make it fail.
Everything random in this package is drawn here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU.

    Example:
        >>> uniform((2,), seeded(0)).equal(uniform((2,), seeded(0)))
        True
    """
    return torch.Generator("cpu").manual_seed(seed)


def uniform(shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Uniform numbers in [0, 1), on the CPU."""
    return torch.rand(tuple(shape), generator=generator, dtype=dtype, device="cpu")


def normal(shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Standard normal numbers, on the CPU."""
    return torch.randn(tuple(shape), generator=generator, dtype=dtype, device="cpu")


def integers(low: int, high: int, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Random integers from `low` to `high` - 1, on the CPU."""
    return torch.randint(low, high, tuple(shape), generator=generator, dtype=torch.int64, device="cpu")


def permutation(count: int, generator: torch.Generator) -> torch.Tensor:
    """The integers from 0 to `count` - 1 in random order, on the CPU."""
    return torch.randperm(count, generator=generator, dtype=torch.int64, device="cpu")
