"""Pictures of records; every function takes ``ax=`` and returns the axes."""

from ._style import save
from .curvature import (
    plot_block_eigenvalues,
    plot_eigenvalue_ratio,
    plot_spectrum,
    plot_trajectory,
    plot_trajectory_losses,
)
from .landscape import (
    interactive_surface,
    plot_surface_3d,
    plot_surface_contours,
    plot_surface_heat,
    plot_surface_line,
    plot_surface_twins,
)
from .lesion import plot_random_deletions, plot_single_deletions
from .paths import (
    plot_block_contributions,
    plot_effective_lengths,
    plot_effective_paths,
    plot_gradient_by_length,
    plot_logit_lens,
    plot_path_lengths,
    plot_path_norms,
)
from .predictors import plot_predictor, plot_predictor_ranking
from .studies import plot_reorderings, plot_stage_deletions
from .tradeoff import plot_plan, plot_search
from .training import plot_training
from .values import plot_block_values, plot_interactions, plot_mean_contributions

__all__ = [
    "interactive_surface",
    "plot_block_contributions",
    "plot_block_eigenvalues",
    "plot_block_values",
    "plot_effective_lengths",
    "plot_effective_paths",
    "plot_eigenvalue_ratio",
    "plot_gradient_by_length",
    "plot_interactions",
    "plot_logit_lens",
    "plot_mean_contributions",
    "plot_path_lengths",
    "plot_path_norms",
    "plot_plan",
    "plot_predictor",
    "plot_predictor_ranking",
    "plot_random_deletions",
    "plot_reorderings",
    "plot_search",
    "plot_single_deletions",
    "plot_spectrum",
    "plot_stage_deletions",
    "plot_surface_3d",
    "plot_surface_contours",
    "plot_surface_heat",
    "plot_surface_line",
    "plot_surface_twins",
    "plot_training",
    "plot_trajectory",
    "plot_trajectory_losses",
    "save",
]
