"""Training residual networks with SGD, reproducibly and with exact resume."""

from ..checkpoints.trajectory import Trajectory, read_trajectory
from .augmentation import augment, augmented
from .mixing import Mixed, mixup
from .recipe import Recipe
from .trainer import error_rate, train

__all__ = ["Mixed", "Recipe", "Trajectory", "augment", "augmented", "error_rate", "mixup", "read_trajectory", "train"]
