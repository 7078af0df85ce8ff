"""The stages, in the order of the page."""

from ..stage import Stage
from . import checks, contributions, deletions, effective, frontier, gradient, lengths, lesion, units, values

STAGES: tuple[Stage, ...] = (
    checks.STAGE,
    units.STAGE,
    lesion.STAGE,
    deletions.STAGE,
    lengths.STAGE,
    gradient.STAGE,
    effective.STAGE,
    contributions.STAGE,
    values.STAGE,
    frontier.STAGE,
)

__all__ = ["STAGES"]
