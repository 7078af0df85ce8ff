"""Loss surfaces: directions, planes, gates, roughness."""

# directions
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

# files
from .files import load_surface, save_surface, save_vtk

# gates
from .gates import deletion_path, gate_path, gate_surface, lesioned_surface

# surfaces
from .record import Surface

# roughness
from .roughness import (
    Roughness,
    RoughnessDifference,
    RoughnessStudy,
    compare_roughness,
    roughness,
    roughness_study,
)
from .surface import loss_surface

__all__ = [
    "Direction",
    "Roughness",
    "RoughnessDifference",
    "RoughnessStudy",
    "Surface",
    "compare_roughness",
    "cosine",
    "deletion_path",
    "direction_between",
    "direction_from",
    "gate_path",
    "gate_surface",
    "lesioned_surface",
    "load_direction",
    "load_surface",
    "loss_surface",
    "random_direction",
    "roughness",
    "roughness_study",
    "save_direction",
    "save_surface",
    "save_vtk",
    "shared_direction",
]
