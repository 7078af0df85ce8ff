"""The stages, in the order of the page."""

from ..stage import Stage
from . import (
    blocks,
    checks,
    contributions,
    curvature,
    deletions,
    effective,
    explorer,
    frontier,
    gradient,
    lengths,
    lesion,
    reordering,
    surface,
    values,
)

STAGES: tuple[Stage, ...] = (
    explorer.STAGE,
    checks.STAGE,
    blocks.STAGE,
    lesion.STAGE,
    deletions.STAGE,
    reordering.STAGE,
    lengths.STAGE,
    gradient.STAGE,
    effective.STAGE,
    contributions.STAGE,
    values.STAGE,
    frontier.STAGE,
    curvature.STAGE,  # beside the frontier: a figure each
    surface.STAGE,
)

__all__ = ["STAGES"]
