"""Loss landscapes: directions, planes, gates, roughness; curvature."""

from ._grid import SurfaceOptions
from .cells import CellOptions, CellSettings
from .directions import (
    Direction,
    cosine,
    direction_between,
    direction_from,
    load_direction,
    random_direction,
    save_direction,
    shared_direction,
)
from .eigenratio import EigenvalueSettings, eigenvalue_surface

# gates
from .gates import deletion_path, gate_path, gate_surface, lesioned_surface
from .hessian import BlockEigenvalues, ExtremeEigenvalues, block_eigenvalues, eigenvalue_ratio, extreme_eigenvalues
from .operator import CurvatureOperator, curvature_operator
from .parameters import block_parameters
from .spectrum import SpectralDensity, spectral_density
from .surface import loss_surface

# surfaces
from .surface_record import Surface

# roughness
from .surface_roughness import (
    Roughness,
    RoughnessDifference,
    RoughnessStudy,
    compare_roughness,
    roughness,
    roughness_study,
)
from .trace import TraceEstimate, hutch_plus_plus, hutchinson
from .trajectory import ProjectedTrajectory, TrajectoryLosses, project_trajectory, trajectory_losses

# files
from .vtk import save_vtk

__all__ = [
    "BlockEigenvalues",
    "CellOptions",
    "CellSettings",
    "CurvatureOperator",
    "Direction",
    "EigenvalueSettings",
    "ExtremeEigenvalues",
    "ProjectedTrajectory",
    "Roughness",
    "RoughnessDifference",
    "RoughnessStudy",
    "SpectralDensity",
    "Surface",
    "SurfaceOptions",
    "TraceEstimate",
    "TrajectoryLosses",
    "block_eigenvalues",
    "block_parameters",
    "compare_roughness",
    "cosine",
    "curvature_operator",
    "deletion_path",
    "direction_between",
    "direction_from",
    "eigenvalue_ratio",
    "eigenvalue_surface",
    "extreme_eigenvalues",
    "gate_path",
    "gate_surface",
    "hutch_plus_plus",
    "hutchinson",
    "lesioned_surface",
    "load_direction",
    "loss_surface",
    "project_trajectory",
    "random_direction",
    "roughness",
    "roughness_study",
    "save_direction",
    "save_vtk",
    "shared_direction",
    "spectral_density",
    "trajectory_losses",
]
