"""Norms that several analyses share: of each example's gradient, and of the difference between two gradients."""

from __future__ import annotations

import math

import torch


def example_norms(rows: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of each example in each row: (rows, batch, ...) to (rows, batch)."""
    inner = tuple(range(2, rows.ndim))
    norms: torch.Tensor = torch.linalg.vector_norm(rows, dim=inner) if inner else rows.abs()
    return norms


def relative_gap(values: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """``|values - expected| / |expected|`` over all tensors together; the absolute gap if `expected` is zero."""
    gap: float = sum(float((a - b).norm()) ** 2 for a, b in zip(values, expected, strict=True))
    size = sum(float(b.norm()) ** 2 for b in expected)
    return math.sqrt(gap / size if size else gap)
