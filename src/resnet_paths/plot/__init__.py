"""Pictures of records; every function takes ``ax=`` and returns the axes."""

from ._style import save
from .lesion import plot_random_deletions, plot_single_deletions

__all__ = ["plot_random_deletions", "plot_single_deletions", "save"]
