"""Plots of records: every function takes ``ax=`` and the arguments of :class:`Look`, and returns the axes."""

from collections.abc import Callable
from typing import Any

from ..callbacks import PathStatistics
from ..comparison import Comparison
from ..landscape import (
    BlockEigenvalues,
    ProjectedTrajectory,
    SpectralDensity,
    Surface,
    TrajectoryLosses,
)
from ..lesion import (
    BlockInteractions,
    BlockValues,
    PredictorRanking,
    RandomDeletions,
    Reorderings,
    SingleDeletions,
    StageDeletions,
    TurnedImages,
)
from ..paths import BlockContributions, EffectivePaths, GradientByLength, LengthDistribution, LogitLens
from ..records import Shown, show_with
from ..tradeoff import DropPlan
from ._frame import Look
from ._saving import save
from .comparison import plot_checkpoints, plot_comparison, plot_side_by_side
from .curvature import (
    plot_block_eigenvalues,
    plot_eigenvalue_ratio,
    plot_spectrum,
    plot_trajectory,
    plot_trajectory_losses,
)
from .game import plot_interaction_network, plot_value_waterfall
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
    plot_gradient_share,
    plot_logit_lens,
    plot_path_lengths,
    plot_path_norms,
)
from .predictors import plot_predictor, plot_predictor_ranking
from .studies import plot_reorderings, plot_stage_deletions
from .tradeoff import plot_plan, plot_search
from .training import plot_path_statistics, plot_training
from .turned import plot_turned_images, turned_pages
from .unrolled import plot_unrolled
from .values import plot_block_values, plot_interactions, plot_mean_contributions

__all__ = [
    "Look",
    "interactive_surface",
    "plot_block_contributions",
    "plot_block_eigenvalues",
    "plot_block_values",
    "plot_checkpoints",
    "plot_comparison",
    "plot_effective_lengths",
    "plot_effective_paths",
    "plot_eigenvalue_ratio",
    "plot_gradient_by_length",
    "plot_gradient_share",
    "plot_interaction_network",
    "plot_interactions",
    "plot_logit_lens",
    "plot_mean_contributions",
    "plot_path_lengths",
    "plot_path_norms",
    "plot_path_statistics",
    "plot_plan",
    "plot_predictor",
    "plot_predictor_ranking",
    "plot_random_deletions",
    "plot_reorderings",
    "plot_search",
    "plot_side_by_side",
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
    "plot_turned_images",
    "plot_unrolled",
    "plot_value_waterfall",
    "save",
    "turned_pages",
]


def _surface(record: Surface) -> Any:
    metric = next(iter(record.values))
    return plot_surface_line(record, metric) if record.y is None else plot_surface_contours(record, metric)


def _first_of_four(record: Comparison) -> Any:
    return plot_comparison(record)[0]


_DRAWN: dict[type[Shown], Callable[..., Any]] = {
    BlockContributions: plot_block_contributions,
    BlockEigenvalues: plot_block_eigenvalues,
    BlockInteractions: plot_interactions,
    BlockValues: plot_block_values,
    Comparison: _first_of_four,
    DropPlan: plot_plan,
    EffectivePaths: plot_path_norms,
    GradientByLength: plot_gradient_by_length,
    LengthDistribution: plot_path_lengths,
    LogitLens: plot_logit_lens,
    PathStatistics: plot_path_statistics,
    PredictorRanking: plot_predictor_ranking,
    ProjectedTrajectory: plot_trajectory,
    RandomDeletions: plot_random_deletions,
    Reorderings: plot_reorderings,
    SingleDeletions: plot_single_deletions,
    SpectralDensity: plot_spectrum,
    StageDeletions: plot_stage_deletions,
    Surface: _surface,
    TrajectoryLosses: plot_trajectory_losses,
    TurnedImages: plot_turned_images,
}
for _kind, _draw in _DRAWN.items():
    show_with(_kind, _draw)
