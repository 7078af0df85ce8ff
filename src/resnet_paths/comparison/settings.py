"""The parts of a comparison, and how much each measures."""

from __future__ import annotations

from dataclasses import dataclass

from ..arguments import Range, checked
from ..arguments.ranges import COUNT


@checked(
    path_draws=Range(2, 10**6), surface_points=Range(3, 1000), reach=Range(0, above=True), orders=COUNT, images=COUNT
)
@dataclass(frozen=True)
class PartSettings:
    """How much each part of a comparison measures.

    Attributes:
        images: number of images (the first) for Shapley values, surfaces and curvature.
        path_draws: paths drawn for each length and image, for effective paths.
        orders: largest number of orders for Shapley values of more than 16 blocks.
        surface_points: grid points per axis of a surface.
        reach: a surface's axes run from minus this to this; 1 moves each filter by its own norm.
        latency_batch: images per timed forward pass.
        latency_seconds: minimum time to measure each model for.
        threads: CPU threads for latency (default: torch's setting).

    Example:
        >>> PartSettings(surface_points=2)
        Traceback (most recent call last):
        ValueError: expected surface_points to be an integer from 3 to 1,000, got 2
    """

    images: int = 100
    path_draws: int = 16
    orders: int = 48
    surface_points: int = 9
    reach: float = 1.0
    latency_batch: int = 32
    latency_seconds: float = 0.5
    threads: int | None = None
