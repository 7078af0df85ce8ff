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

# surfaces
from .record import Surface
from .surface import loss_surface

__all__ = [
    "Direction",
    "Surface",
    "cosine",
    "direction_between",
    "direction_from",
    "load_direction",
    "loss_surface",
    "random_direction",
    "save_direction",
    "shared_direction",
]
